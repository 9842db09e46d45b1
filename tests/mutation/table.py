"""Modules that make decisions, each with fast tests that use no outside systems."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

CODE: Final = Path("layers/syncline/syncline")
TESTS: Final = Path("tests/unit")


@dataclass(frozen=True, slots=True)
class Row:
    """Modules in `CODE`, and the files or folders in `TESTS` that test all of them."""

    modules: tuple[str, ...]
    tests: tuple[str, ...]

    @property
    def paths(self) -> list[Path]:
        return [CODE / f"{module}.py" for module in self.modules]


ROWS: Final = (
    Row(("steps/verify",), ("steps/test_verify.py", "steps/test_waiting.py")),
    Row(("steps/transfer",), ("steps/test_transfer_turns.py",)),
    Row(("steps/events",), ("steps/test_events.py",)),
    Row(("steps/results",), ("steps/test_results_known.py", "steps/test_results_once.py")),
    Row(("store/failures",), ("store/test_failures.py",)),
    Row(
        ("steps/discover",),
        tuple(
            f"steps/test_{name}.py" for name in ("discover", "discover_begin", "discover_failures", "discover_context")
        ),
    ),
    Row(("steps/worker",), ("steps/test_worker_messages.py", "steps/test_visibility.py")),
    Row(
        ("steps/engine",),
        tuple(f"steps/test_{name}.py" for name in ("engine", "bound_requests", "unsendable")),
    ),
    Row(("web/receive",), ("web/test_receive_bodies.py",)),
    Row(("web/console", "web/metrics"), ("web/test_console_pages.py",)),
    Row(
        ("store/state", "store/batches"),
        (
            "store/test_state.py",
            "store/test_state_balance.py",
            "store/test_state_joining.py",
            "store/test_state_ends.py",
            *(f"steps/test_{name}.py" for name in ("joined", "cancel", "waiting")),
        ),
    ),
    Row(("messages",), ("test_messages.py", "test_queues.py")),
    Row(("model",), ("test_model.py", "test_messages.py")),
    Row(("ownership", "store/removals"), ("test_ownership.py", "store/test_removals.py")),
    Row(("store/leases",), ("store/test_leases.py", "store/test_slots.py")),
    Row(("store/events",), ("store/test_events.py", "store/test_lost_answers.py")),
    Row(("store/facts",), ("store/test_facts.py", "store/test_lost_answers.py")),
    Row(("store/files",), ("store/test_files.py", "store/test_files_crashes.py")),
    Row(("store/files_encoding",), ("store/test_files_encoding.py",)),
    Row(("store/backup_index",), ("store/test_backup_index.py",)),
    Row(("patterns",), ("test_patterns.py",)),
    Row(("schedule",), ("test_schedule.py",)),
    Row(
        ("kinds/tokens/verdict", "kinds/tokens/probe"),
        tuple(f"kinds/tokens/test_{name}.py" for name in ("verdict", "instances", "probe")),
    ),
    Row(
        ("kinds/tokens/canary", "kinds/tokens/ask"),
        ("kinds/tokens/test_canary.py", "kinds/tokens/test_canary_rounds.py", "kinds/tokens/test_metrics.py"),
    ),
    Row(
        ("kinds/files/compare", "kinds/files/discover"),
        tuple(f"kinds/files/test_{name}.py" for name in ("compare", "discover", "order")),
    ),
    Row(("kinds/files/events",), ("kinds/files/test_events.py", "kinds/files/test_order.py")),
    Row(
        ("kinds/files/transfer",),
        tuple(f"kinds/files/test_transfer_{name}.py" for name in ("changes", "ownership", "writes")),
    ),
    Row(("kinds/files/verify",), ("kinds/files/test_verify.py", "kinds/files/test_verify_read.py")),
    Row(
        ("kinds/images/compare", "kinds/images/discover"),
        ("kinds/images/test_discover.py", "kinds/images/test_long_lists.py", "kinds/images/test_odd_entries.py"),
    ),
    Row(("kinds/images/verify",), ("kinds/images/test_verify.py",)),
    Row(("kinds/images/facts",), ("kinds/images/test_memory.py",)),
    Row(
        ("kinds/backups/removals", "kinds/backups/ownership"),
        ("kinds/backups/test_ownership.py", "kinds/backups/test_removals.py"),
    ),
    Row(
        ("kinds/backups/secrets_detection", "kinds/backups/secrets_documents", "kinds/backups/secrets_filter"),
        ("kinds/backups/test_secrets_detection.py", "kinds/backups/test_secrets_filter.py"),
    ),
    Row(("kinds/backups/commit",), ("kinds/backups/test_commit.py",)),
    Row(("kinds/backups/compare",), ("kinds/backups/test_compare.py",)),
    Row(("kinds/backups/paths",), ("kinds/backups/test_paths.py",)),
    Row(("kinds/artifacts/builds", "kinds/artifacts/events"), ("kinds/artifacts/test_builds.py",)),
    Row(
        ("kinds/artifacts/checkpoints",),
        ("kinds/artifacts/test_checkpoints_stored.py", "kinds/artifacts/test_checkpoints.py"),
    ),
    Row(("kinds/artifacts/layers",), ("kinds/artifacts/test_layers.py",)),
    Row(
        ("kinds/artifacts/discover",),
        ("kinds/artifacts/test_discover.py", "kinds/artifacts/test_discover_invalid_entries.py"),
    ),
    Row(("kinds/artifacts/find_archive",), ("kinds/artifacts/test_find_archive.py",)),
    Row(("kinds/artifacts/examine",), ("kinds/artifacts/test_invalid_archives.py", "kinds/artifacts/test_images.py")),
)
