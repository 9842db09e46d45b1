"""Measurements of ``artifacts``: the deployed functions copy from GitHub to a registry, against Docker and skopeo."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import yaml

from bench import bundle, bundle_large, memory
from bench.measure import MeasurementError, Row, in_turns
from bench.peers import Docker, Skopeo, present
from bench.workspace import GITHUB_TOKEN, ROOT, CompletedRun, Functions, Workspace
from tests.standins.github import GitHubServer, Run, Stored
from tests.standins.programs import program
from tests.standins.registry import Registry

_ROUNDS: Final = 3
_MAX_MEMORY: Final = 250  # MiB
_GIB: Final = 1 << 30
_PROJECTION_DISK: Final = 20 * _GIB  # the bundle and its copy in the registry
_PARTS_LAYERS: Final = 32  # of 640 MiB each, compressed to about 350
_SLOW: Final = 20e6  # bytes per second
_LIMIT: Final = 900  # seconds, the longest run time of a Lambda function
_PROJECT: Final = "bench/images"


def docker(workspace: Workspace) -> list[Row]:
    """Measure copies of the bundle to an empty registry, against `docker load`, `tag` and `push` of its archives."""
    program("docker-registry")
    content = _bundle(workspace)
    from tests.sam.docker_engine import running_engine  # noqa: PLC0415 - imports the Docker SDK

    has_docker = present("dockerd", "docker") and os.geteuid() == 0
    with _github(content) as github:
        if not has_docker:
            runs, theirs = in_turns(1, lambda: _first(workspace, github), None)
        else:
            with running_engine() as engine:
                peer = Docker(engine.environment)
                runs, theirs = in_turns(
                    _ROUNDS, lambda: _first(workspace, github), lambda: _with_docker(workspace, peer, content)
                )
    return [Row("artifacts.docker", "s", [each.seconds for each, _ in runs], theirs, 0.25, "the functions were warm")]


def skopeo(workspace: Workspace) -> list[Row]:
    """Measure first and repeated copies of the bundle to a registry, against `skopeo copy docker-archive:`."""
    program("docker-registry")
    content = _bundle(workspace)
    peer = Skopeo(workspace.folder) if present("skopeo") else None

    copy_seconds: list[float] = []

    def peer_copy() -> float:
        assert peer is not None
        peer.forget()
        with _empty_registry(workspace) as target:
            names = {str(path): f"{target.host}/{_PROJECT}/{name}:v1" for name, path in content.archives.items()}
            unpacked, copied = peer.copy_archives(names)
            copy_seconds.append(copied)
            return unpacked + copied

    with _github(content) as github:
        _first(workspace, github)  # starts the functions and caches the files
        runs, theirs = in_turns(_ROUNDS, lambda: _first(workspace, github), peer_copy if peer else None)
        again, known = _again(workspace, github)
    firsts = [each.seconds for each, _ in runs]
    first = sorted(firsts)[len(firsts) // 2]
    peaks = [peak for _, peak in runs if peak is not None]
    note = "peak resident set of a transfer function's process, including Python"
    return [
        Row("artifacts.skopeo", "s", firsts, theirs, 0.5, "the peer is `gzip -d` and `skopeo copy`"),
        Row(
            "artifacts.skopeo.copy", "s", firsts, copy_seconds if peer else [], None, "the peer is `skopeo copy` alone"
        ),
        Row("artifacts.again", "s", again, [first], 0.1, "second run for the same build; the peer is our first run"),
        Row(
            "artifacts.known",
            "s",
            known,
            [first],
            None,
            "another build with the same images, read completely; the peer is our first run",
        ),
        *([Row("artifacts.memory", "MiB", peaks, None, _MAX_MEMORY, note)] if peaks else []),
    ]


def projection(workspace: Workspace) -> list[Row]:
    """Measure a bundle of 11 GiB: one image by one function, then all images by concurrent functions."""
    program("docker-registry")
    free = shutil.disk_usage(workspace.folder).free
    if free < _PROJECTION_DISK:
        raise MeasurementError(
            f"not enough disk space: {free / _GIB:.0f} GiB free, {_PROJECTION_DISK // _GIB} GiB needed"
        )
    with tempfile.TemporaryDirectory(dir=workspace.folder) as folder:
        workspace.say("writing a bundle of 11 GiB")
        content = bundle_large.make(Path(folder) / "bundle")
        with _github(content, only=bundle.NAMES[0]) as github:
            single, peak = _first(workspace, github, images=1)
        with _github(content) as github:
            all_images, peak_of_bundle = _first(workspace, github)
    packed = content.packed / _GIB
    note = "one function with 2 processors, as on AWS with 3,538 MB of memory; AWS runs four functions at a time"
    peaks = [each for each in (peak, peak_of_bundle) if each is not None]
    return [
        Row(
            "artifacts.projection",
            "s",
            [single.seconds],
            None,
            _LIMIT,
            f"{packed / len(bundle.NAMES):.2f} GiB compressed; {note}",
        ),
        Row(
            "artifacts.projection.bundle",
            "s",
            [all_images.seconds],
            None,
            _LIMIT,
            f"{packed:.2f} GiB compressed; all functions on this machine",
        ),
        *([Row("artifacts.projection.memory", "MiB", [max(peaks)], None, _MAX_MEMORY)] if peaks else []),
    ]


def parts(workspace: Workspace) -> list[Row]:
    """Measure one archive of 11 GiB over a connection of 20 MB/s, which takes longer than one function may run."""
    program("docker-registry")
    free = shutil.disk_usage(workspace.folder).free
    if free < 2 * _PROJECTION_DISK:
        raise MeasurementError(
            f"not enough disk space: {free / _GIB:.0f} GiB free, {2 * _PROJECTION_DISK // _GIB} GiB needed"
        )
    with tempfile.TemporaryDirectory(dir=workspace.folder) as folder:
        workspace.say("writing an archive of 11 GiB")
        content = bundle_large.make(Path(folder) / "bundle", bundle.NAMES[:1], _PARTS_LAYERS)
        with _github(content, only=bundle.NAMES[0]) as github:
            github.rate = _SLOW
            run, peak = _first(workspace, github, images=1)
        functions = sum(end - start > _GIB // 1024 for _, start, end in github.ranges)
    note = f"{functions} function runs of at most 300 s; the peer is the size of the archive"
    return [
        Row(
            "artifacts.parts",
            "s",
            [run.seconds],
            [content.packed / _SLOW],
            1.2,
            "the peer is the time of the download alone",
        ),
        Row("artifacts.parts.read", "GiB", [github.sent / _GIB], [content.packed / _GIB], 1.05, note),
        *([Row("artifacts.parts.memory", "MiB", [peak], None, _MAX_MEMORY)] if peak else []),
    ]


MEASUREMENTS: Final[Mapping[str, Callable[[Workspace], Sequence[Row]]]] = {
    "docker": docker,
    "skopeo": skopeo,
    "projection": projection,
    "parts": parts,
}
LONG: Final = ("projection", "parts")


def _first(
    workspace: Workspace, github: GitHubServer, images: int = len(bundle.NAMES)
) -> tuple[CompletedRun, float | None]:
    """Sync the bundle to an empty registry; return the run, and the peak memory of a function in MiB."""
    with _empty_registry(workspace) as target:
        name = workspace.functions.apply(_sync(github, target))
        with memory.peak(lambda: workspace.functions.processes("transfer")) as peak:
            run = _moved(workspace.functions, name, images)
        return run, peak.mebibytes


def _again(workspace: Workspace, github: GitHubServer) -> tuple[list[float], list[float]]:
    """Return the seconds of second runs for the same build, and of runs for another build with the same images."""
    again: list[float] = []
    known: list[float] = []
    for _ in range(_ROUNDS):
        with _empty_registry(workspace) as target:
            name = workspace.functions.apply(_sync(github, target))
            _moved(workspace.functions, name, len(bundle.NAMES))
            run = workspace.functions.run(name)
            if run.moved:
                raise MeasurementError(f"the second run moved {run.moved} images instead of none")
            again.append(run.seconds)
        with _empty_registry(workspace) as target:
            name = workspace.functions.apply(_sync(github, target))
            _moved(workspace.functions, name, len(bundle.NAMES))
            other = _sync(github, target)
            other["build"]["mapping"] = [{"tag": "{tag}-linux-amd64", "to": "other/{image}:{tag}"}]
            known.append(_moved(workspace.functions, workspace.functions.apply(other), len(bundle.NAMES)).seconds)
    return again, known


def _with_docker(workspace: Workspace, peer: Docker, content: bundle.Bundle) -> float:
    peer.forget()
    with _empty_registry(workspace) as target:
        loaded = {str(path): f"{name}:{bundle.TAG}" for name, path in content.archives.items()}
        began = time.perf_counter()
        for path, name in loaded.items():
            destination = f"{target.host}/{_PROJECT}/{name}"
            peer.run("load", "--input", path)
            peer.run("tag", name, destination)
            peer.run("push", destination)
        return time.perf_counter() - began


def _moved(functions: Functions, name: str, images: int) -> CompletedRun:
    """Run a sync and check that it moves this number of images."""
    run = functions.run(name)
    if run.moved != images:
        raise MeasurementError(f"the run moved {run.moved} images instead of {images}")
    return run


def _sync(github: GitHubServer, target: Registry) -> dict[str, Any]:
    sync = yaml.safe_load((ROOT / "examples/artifacts-presto.yaml").read_text())["syncs"]["presto-images"]
    for key in ("schedule", "webhook", "aliases"):
        del sync[key]
    for key in ("time", "check"):  # the generated build has neither
        del sync["build"]["metadata"][key]
    sync["source"] |= {"url": github.url, "repository": github.repository, "auth": {"token": f"env:{GITHUB_TOKEN}"}}
    sync["target"] = {"registry": target.host, "plain_http": True, "project": _PROJECT}
    return dict(sync)


@contextmanager
def _github(content: bundle.Bundle, only: str | None = None) -> Iterator[GitHubServer]:
    metadata = bundle.block()
    if only is not None:
        metadata |= dict.fromkeys((key for key in metadata if key.startswith("Build ")), "false")
    log = "".join(f"2026-11-21T10:00:00.0000000Z {key}: {value}\n" for key, value in metadata.items())
    with GitHubServer("bench/builds") as github:
        github.runs = [Run(1, {"0_build.txt": log}, [Stored(1, "images", content.zip)], "presto-build-images.yml")]
        yield github


@contextmanager
def _empty_registry(workspace: Workspace) -> Iterator[Registry]:
    with tempfile.TemporaryDirectory(dir=workspace.folder) as folder, Registry(folder=Path(folder)) as registry:
        yield registry


def _bundle(workspace: Workspace) -> bundle.Bundle:
    content = _bundles.get(workspace.folder)
    if content is None:
        free = shutil.disk_usage(workspace.folder).free
        if free < 8 * _GIB:
            raise MeasurementError(f"not enough disk space: {free / _GIB:.0f} GiB free, 8 GiB needed")
        content = _bundles[workspace.folder] = bundle.make(workspace.folder / "bundle")
    return content


_bundles: dict[Path, bundle.Bundle] = {}
