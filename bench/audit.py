"""Measurements of audits: images against a run with nothing to do, and every byte against ``sha256sum``."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from bench.content import MIB, Filler
from bench.images import NOTHING, TAGS, equal_quays, equal_registries, sync_of
from bench.measure import MeasurementError, Row, in_turns
from bench.workspace import CompletedRun, Workspace
from tests.standins.programs import program
from tests.standins.registry import Registry

_DEEP: Final = "bench/deep"
_LAYERS: Final = 8
_LAYER_BYTES: Final = 128 * MIB
_ROUNDS: Final = 7


def images(workspace: Workspace) -> list[Row]:
    """Measure audits of 270 repositories with 3 tags each, Quay's API in front of both registries, against idle runs."""
    program("docker-registry")
    with equal_quays(workspace, equal_registries(workspace.folder)) as (name, *_):

        def audited(*options: str) -> CompletedRun:
            run = workspace.functions.audit(name, *options)
            if run.skipped != len(NOTHING) * len(TAGS):
                raise MeasurementError(f"the audit found {run.skipped} images equal")
            return run

        workspace.functions.run(name)
        audited()
        runs, idle = in_turns(_ROUNDS, audited, lambda: workspace.functions.run(name).seconds)
        parts = [audited("--parts") for _ in range(3)]
    note = "the functions were warm; the peer is our run with nothing to do"
    return [
        Row("audit.images", "s", [each.seconds for each in runs], idle, 1.2, note),
        Row("audit.images.command", "s", [each.command_seconds for each in runs]),
        Row("audit.images.requests", "requests", [each.requests for each in runs]),
        Row("audit.images.parts", "s", [each.seconds for each in parts], idle),
        Row("audit.images.parts.requests", "requests", [each.requests for each in parts]),
    ]


def deep(workspace: Workspace) -> list[Row]:
    """Measure an audit that reads 8 layers of 128 MiB, against ``sha256sum`` of the same files."""
    program("docker-registry")
    program("sha256sum")
    with Registry(folder=workspace.folder / "audit-deep") as registry:
        fill = Filler(registry.host)
        for number in range(_LAYERS):
            fill.one_layer(_DEEP, f"v{number}", _LAYER_BYTES + number)
        endpoint = {"registry": registry.host}
        files = sorted(str(path) for path in (workspace.folder / "audit-deep").rglob("data") if path.is_file())
        # Both sides are the same registry: only the target's bytes are read.
        name = workspace.functions.apply(sync_of({**endpoint, "repositories": [_DEEP]}, {**endpoint, "prefix": "copy"}))
        workspace.functions.run(name)

        def ours() -> CompletedRun:
            run = workspace.functions.audit(name, "--deep")
            if run.skipped != _LAYERS:
                raise MeasurementError(f"the audit found {run.skipped} images equal")
            return run

        def peer() -> float:
            began = time.perf_counter()
            subprocess.run(["sha256sum", *files], check=True, stdout=subprocess.DEVNULL)
            return time.perf_counter() - began

        ours()
        peer()
        runs, theirs = in_turns(_ROUNDS, ours, peer)
    return [
        Row("audit.deep", "s", [each.seconds for each in runs], theirs, 1.25, "the functions and the files were warm"),
        Row("audit.deep.command", "s", [each.command_seconds for each in runs], theirs),
    ]


MEASUREMENTS: Final[Mapping[str, Callable[[Workspace], Sequence[Row]]]] = {"images": images, "deep": deep}
