"""Measurements of ``images``: the deployed functions copy between real registries, against skopeo and curl."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from bench import images_peers, memory
from bench.content import MIB, Filler
from bench.images_listing import listing
from bench.measure import MeasurementError, Row, in_turns
from bench.peers import Skopeo, curl_layer, present
from bench.workspace import QUAY_TOKEN, CompletedRun, Functions, Workspace
from tests.standins.programs import program
from tests.standins.quay_process import QuayProcess
from tests.standins.registry import Registry

TAGS: Final = ("v1", "v2", "v3")
_COLD: Final = [f"bench/app-{number:03d}" for number in range(30)]
NOTHING: Final = [f"bench/app-{number:03d}" for number in range(270)]
_LARGE: Final = "bench/large"
_LARGE_BYTES: Final = 1024 * MIB
_MAX_MEMORY: Final = 120  # MiB
_ROUNDS: Final = 7


def cold(workspace: Workspace) -> list[Row]:
    """Measure copies to an empty target: 30 repositories with 3 tags each, and one layer shared by all."""
    program("docker-registry")
    skopeo = Skopeo(workspace.folder) if present("skopeo") else None
    with Registry(folder=workspace.folder / "cold") as source:
        Filler(source.host).images(_COLD, TAGS, 1 * MIB, (256 * 1024, 64 * 1024))

        def ours() -> CompletedRun:
            with _empty_registry(workspace) as target:
                sync = sync_of({"registry": source.host, "catalog": True}, {"registry": target.host})
                return _moved(workspace.functions, sync, len(_COLD) * len(TAGS))

        def peer() -> float:
            assert skopeo is not None
            skopeo.forget()
            with _empty_registry(workspace) as target:
                return skopeo.sync(source.host, _COLD, f"{target.host}/bench")

        first = ours()  # starts the functions and caches the source's files
        runs, theirs = in_turns(_ROUNDS, ours, peer if skopeo else None)
    return [
        Row("images.cold", "s", [each.seconds for each in runs], theirs, 0.6, "the functions were warm"),
        Row("images.cold.command", "s", [each.command_seconds for each in runs], theirs),
        Row("images.cold.first", "s", [first.seconds], note="the previous run, which started the functions"),
        Row("images.cold.requests", "requests", [each.requests for each in runs]),
    ]


def nothing(workspace: Workspace) -> list[Row]:
    """Measure runs with an equal target: 270 repositories with 3 tags each, Quay's API in front of both registries."""
    program("docker-registry")
    skopeo = Skopeo(workspace.folder) if present("skopeo") else None
    folders = equal_registries(workspace.folder)
    with equal_quays(workspace, folders) as (name, source, target):

        def ours() -> CompletedRun:
            run = workspace.functions.run(name)
            if (run.moved, run.skipped) != (0, len(NOTHING) * len(TAGS)):
                raise MeasurementError(f"the run moved {run.moved} images and found {run.skipped} equal")
            return run

        def peer() -> float:
            assert skopeo is not None
            return skopeo.sync(source.host, NOTHING, f"{target.host}/bench")

        ours()
        if skopeo:
            peer()  # fills its cache
        runs, theirs = in_turns(_ROUNDS, ours, peer if skopeo else None)
    requests = [_requests(skopeo, folders)] if skopeo else []
    note = "the functions were warm; skopeo had synced the same images before"
    return [
        Row("images.nothing", "s", [each.seconds for each in runs], theirs, 0.05, note),
        Row("images.nothing.command", "s", [each.command_seconds for each in runs], theirs),
        Row("images.nothing.requests", "requests", [each.requests for each in runs], requests),
    ]


def layer(workspace: Workspace) -> list[Row]:
    """Measure one image with one layer of 1 GiB that the target does not have."""
    program("docker-registry")
    with Registry(folder=workspace.folder / "layer") as source:
        digest = Filler(source.host).one_layer(_LARGE, "v1", _LARGE_BYTES)

        def ours() -> tuple[CompletedRun, float | None]:
            with _empty_registry(workspace) as target:
                sync = sync_of({"registry": source.host, "repositories": [_LARGE]}, {"registry": target.host})
                with memory.peak(lambda: workspace.functions.processes("transfer")) as peak:
                    run = _moved(workspace.functions, sync, 1)
                return run, peak.mebibytes

        def peer() -> float:
            with _empty_registry(workspace) as target:
                return curl_layer(source.host, target.host, _LARGE, digest)

        ours()  # starts the functions and caches the layer's file
        measured, theirs = in_turns(_ROUNDS, ours, peer if present("curl") else None)
    runs = [each for each, _ in measured]
    peaks = [peak for _, peak in measured if peak is not None]
    rows = [
        Row("images.layer", "s", [each.seconds for each in runs], theirs, 1.1, "the functions were warm"),
        Row("images.layer.command", "s", [each.command_seconds for each in runs], theirs),
    ]
    if peaks:
        note = "peak resident set of a transfer function's process, including Python"
        rows.append(Row("images.layer.memory", "MiB", peaks, None, _MAX_MEMORY, note))
    return rows


MEASUREMENTS: Final[Mapping[str, Callable[[Workspace], Sequence[Row]]]] = {
    "cold": cold,
    "nothing": nothing,
    "layer": layer,
    "listing": listing,
    **images_peers.MEASUREMENTS,
}
LONG: Final = ("tags",)


def sync_of(source: Mapping[str, Any], target: Mapping[str, Any]) -> dict[str, Any]:
    return {"kind": "images", "source": {"plain_http": True, **source}, "target": {"plain_http": True, **target}}


def api_of(quay: QuayProcess) -> dict[str, str]:
    return {"kind": "quay", "url": quay.url, "token": f"env:{QUAY_TOKEN}"}


def _moved(functions: Functions, sync: Mapping[str, Any], images: int) -> CompletedRun:
    """Run a new sync and check that it moves this number of images."""
    run = functions.run(functions.apply(sync))
    if run.moved != images:
        raise MeasurementError(f"the run moved {run.moved} images instead of {images}")
    return run


@contextmanager
def _empty_registry(workspace: Workspace) -> Iterator[Registry]:
    with tempfile.TemporaryDirectory(dir=workspace.folder) as folder, Registry(folder=Path(folder)) as registry:
        yield registry


def equal_registries(folder: Path) -> list[Path]:
    """Create two registries with equal content; return their folders."""
    folders = [folder / "nothing-source", folder / "nothing-target"]
    with Registry(folder=folders[0]) as source:
        Filler(source.host).images(NOTHING, TAGS, 4096, ())
    shutil.copytree(folders[0] / "data", folders[1] / "data")
    return folders


@contextmanager
def registries(folders: Sequence[Path], *, access_log: bool = False) -> Iterator[list[Registry]]:
    first, second = (Registry(folder=folder, access_log=access_log) for folder in folders)
    with first, second:
        yield [first, second]


@contextmanager
def equal_quays(workspace: Workspace, folders: Sequence[Path]) -> Iterator[tuple[str, Registry, Registry]]:
    """Yield the name of a sync of two equal registries behind Quay's API, and these registries."""
    with (
        registries(folders) as (source, target),
        QuayProcess(source.url) as source_quay,
        QuayProcess(target.url) as target_quay,
    ):
        name = workspace.functions.apply(
            sync_of(
                {"registry": source.host, "organizations": ["bench"], "api": api_of(source_quay)},
                {"registry": target.host, "api": api_of(target_quay)},
            )
        )
        yield name, source, target


def _requests(skopeo: Skopeo, folders: Sequence[Path]) -> int:
    """Return the number of requests of skopeo, counted in a separate round because access logs slow the registries."""
    with registries(folders, access_log=True) as both:
        source, target = both
        skopeo.sync(source.host, NOTHING, f"{target.host}/bench")
        return sum(registry.requests_logged() for registry in both)
