"""What is said of a run when it is over, in the words that git-sync's users search their logs for."""

from __future__ import annotations

from collections.abc import Iterable

from syncline.kinds.backups.committing import Rules
from syncline.model import Outcome, Result, Run, RunStatus


def tell(rules: Rules, run: Run, results: Iterable[Result]) -> None:
    """Say ``sync_complete``, or ``sync_failed`` where something failed, with what it came to."""
    changed = [each for each in results if each.outcome in (Outcome.MOVED, Outcome.REMOVED)]
    counts = run.counts
    data: dict[str, object] = {
        "clusters_processed": len({rules.layout.cluster_of(each.name) for each in changed}),
        "files_downloaded": counts.moved,
        "files_changed": len(changed),
        "files_unchanged": counts.skipped,
        "files_failed": counts.failed,
        "duration_ms": round(1000 * ((run.ended or run.started) - run.started), 1),
    }
    good = run.status is RunStatus.DONE and not counts.failed
    rules.say("sync_complete" if good else "sync_failed", data, {})
