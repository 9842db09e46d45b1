"""The kind ``artifacts``: the deployed functions from GitHub to a registry, against `docker load, tag, push` and skopeo."""

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
from bench.measure import NotMadeError, Row, in_turns
from bench.peers import Docker, Skopeo, present
from bench.place import GITHUB_TOKEN, ROOT, Functions, Place, Ran
from tests.standins.github import GitHubServer, Run, Stored
from tests.standins.programs import program
from tests.standins.registry import Registry

_ROUNDS: Final = 3
_MOST_MEMORY: Final = 250  # MiB
_GIB: Final = 1 << 30
_PROJECTION_DISK: Final = 20 * _GIB  # the bundle and its copy in the registry
_PARTS_LAYERS: Final = 32  # of 640 MiB, some 350 of which are left when packed
_SLOW: Final = 20e6  # bytes a second
_LIMIT: Final = 900  # seconds that a function may take
_PROJECT: Final = "bench/images"


def docker(place: Place) -> list[Row]:
    """The bundle into an empty registry, against `docker load`, `docker tag` and `docker push` of its archives."""
    program("docker-registry")
    made = _bundle(place)
    from tests.sam.docker_engine import running_engine  # noqa: PLC0415 - the SDK, for this measurement alone

    peer_there = present("dockerd", "docker") and os.geteuid() == 0
    with _github(made) as github:
        if not peer_there:
            ran, theirs = in_turns(1, lambda: _first(place, github), None)
        else:
            with running_engine() as engine:
                peer = Docker(engine.environment)
                ran, theirs = in_turns(_ROUNDS, lambda: _first(place, github), lambda: _with_docker(place, peer, made))
    return [Row("artifacts.docker", "s", [each.seconds for each, _ in ran], theirs, 0.25, "the functions were warm")]


def skopeo(place: Place) -> list[Row]:
    """The bundle into an empty registry, against `skopeo copy docker-archive:` of its archives, and then once more."""
    program("docker-registry")
    made = _bundle(place)
    peer = Skopeo(place.folder) if present("skopeo") else None

    copying: list[float] = []

    def theirs_once() -> float:
        assert peer is not None
        peer.forget()
        with _empty_registry(place) as target:
            names = {str(path): f"{target.host}/{_PROJECT}/{name}:v1" for name, path in made.archives.items()}
            unpacked, copied = peer.copy_archives(names)
            copying.append(copied)
            return unpacked + copied

    with _github(made) as github:
        _first(place, github)  # warm up: start the functions, cache the files
        ran, theirs = in_turns(_ROUNDS, lambda: _first(place, github), theirs_once if peer else None)
        again, known = _again(place, github, made)
    firsts = [each.seconds for each, _ in ran]
    first = sorted(firsts)[len(firsts) // 2]
    peaks = [peak for _, peak in ran if peak is not None]
    note = "the largest resident set of a transfer function's process, all of Python's included"
    return [
        Row("artifacts.skopeo", "s", firsts, theirs, 0.5, "the peer is `gzip -d` and `skopeo copy`"),
        Row("artifacts.skopeo.copy", "s", firsts, copying if peer else [], None, "the peer is `skopeo copy` alone"),
        Row("artifacts.again", "s", again, [first], 0.1, "the same build once more; the peer is its first time"),
        Row("artifacts.known", "s", known, [first], None, "another build of the same images, read to its end"),
        *([Row("artifacts.memory", "MiB", peaks, None, _MOST_MEMORY, note)] if peaks else []),
    ]


def projection(place: Place) -> list[Row]:
    """The seed's 11 GiB: one image by one function, and all images by concurrent functions."""
    program("docker-registry")
    free = shutil.disk_usage(place.folder).free
    if free < _PROJECTION_DISK:
        raise NotMadeError(f"{free / _GIB:.0f} GiB are free, {_PROJECTION_DISK // _GIB} are needed")
    with tempfile.TemporaryDirectory(dir=place.folder) as folder:
        place.say("writing a bundle of 11 GiB")
        made = bundle_large.make(Path(folder) / "bundle")
        with _github(made, only=bundle.NAMES[0]) as github:
            one, peak = _first(place, github, images=1)
        with _github(made) as github:
            whole, peak_of_all = _first(place, github)
    packed = made.packed / _GIB
    note = "by one function with 2 processors, which AWS gives at 3,538 MB; there, four functions at a time"
    peaks = [each for each in (peak, peak_of_all) if each is not None]
    return [
        Row(
            "artifacts.projection",
            "s",
            [one.seconds],
            None,
            _LIMIT,
            f"{packed / len(bundle.NAMES):.2f} GiB packed, {note}",
        ),
        Row(
            "artifacts.projection.bundle",
            "s",
            [whole.seconds],
            None,
            _LIMIT,
            f"{packed:.2f} GiB packed, on this machine",
        ),
        *([Row("artifacts.projection.memory", "MiB", [max(peaks)], None, _MOST_MEMORY)] if peaks else []),
    ]


def parts(place: Place) -> list[Row]:
    """One archive of 11 GiB over a connection of 20 MB/s, which takes longer than one function may run."""
    program("docker-registry")
    free = shutil.disk_usage(place.folder).free
    if free < 2 * _PROJECTION_DISK:
        raise NotMadeError(f"{free / _GIB:.0f} GiB are free, {2 * _PROJECTION_DISK // _GIB} are needed")
    with tempfile.TemporaryDirectory(dir=place.folder) as folder:
        place.say("writing an archive of 11 GiB")
        made = bundle_large.make(Path(folder) / "bundle", bundle.NAMES[:1], _PARTS_LAYERS)
        with _github(made, only=bundle.NAMES[0]) as github:
            github.rate = _SLOW
            ran, peak = _first(place, github, images=1)
        functions = sum(end - start > _GIB // 1024 for _, start, end in github.ranges)
    note = f"{functions} functions of 300 s; the peer is the archive's size"
    return [
        Row("artifacts.parts", "s", [ran.seconds], [made.packed / _SLOW], 1.2, "the peer is the download alone"),
        Row("artifacts.parts.read", "GiB", [github.sent / _GIB], [made.packed / _GIB], 1.05, note),
        *([Row("artifacts.parts.memory", "MiB", [peak], None, _MOST_MEMORY)] if peak else []),
    ]


MEASUREMENTS: Final[Mapping[str, Callable[[Place], Sequence[Row]]]] = {
    "docker": docker,
    "skopeo": skopeo,
    "projection": projection,
    "parts": parts,
}
LONG: Final = ("projection", "parts")


def _first(place: Place, github: GitHubServer, images: int = len(bundle.NAMES)) -> tuple[Ran, float | None]:
    """Sync the bundle into an empty registry; return seconds and peak memory of a function in MiB."""
    with _empty_registry(place) as target:
        name = place.functions.apply(_sync(github, target))
        with memory.peak(lambda: place.functions.processes("transfer")) as peak:
            ran = _moved(place.functions, name, images)
        return ran, peak.mebibytes


def _again(place: Place, github: GitHubServer, made: bundle.Bundle) -> tuple[list[float], list[float]]:
    """Return the seconds for the same build again, and for another build with the same images."""
    again: list[float] = []
    known: list[float] = []
    for _ in range(_ROUNDS):
        with _empty_registry(place) as target:
            name = place.functions.apply(_sync(github, target))
            _moved(place.functions, name, len(bundle.NAMES))
            ran = place.functions.run(name)
            if ran.moved:
                raise NotMadeError(f"{ran.moved} images were moved again")
            again.append(ran.seconds)
        with _empty_registry(place) as target:
            name = place.functions.apply(_sync(github, target))
            _moved(place.functions, name, len(bundle.NAMES))
            other = _sync(github, target)
            other["build"]["mapping"] = [{"tag": "{tag}-linux-amd64", "to": "other/{image}:{tag}"}]
            known.append(_moved(place.functions, place.functions.apply(other), len(bundle.NAMES)).seconds)
    del made
    return again, known


def _with_docker(place: Place, peer: Docker, made: bundle.Bundle) -> float:
    peer.forget()
    with _empty_registry(place) as target:
        loaded = {str(path): f"{name}:{bundle.TAG}" for name, path in made.archives.items()}
        began = time.perf_counter()
        for path, name in loaded.items():
            there = f"{target.host}/{_PROJECT}/{name}"
            peer.run("load", "--input", path)
            peer.run("tag", name, there)
            peer.run("push", there)
        return time.perf_counter() - began


def _moved(functions: Functions, name: str, images: int) -> Ran:
    ran = functions.run(name)
    if ran.moved != images:
        raise NotMadeError(f"{ran.moved} images were moved, not {images}")
    return ran


def _sync(github: GitHubServer, target: Registry) -> dict[str, Any]:
    sync = yaml.safe_load((ROOT / "examples/artifacts-presto.yaml").read_text())["syncs"]["presto-images"]
    for key in ("schedule", "webhook", "aliases"):
        del sync[key]
    for key in ("time", "check"):  # the synthetic build has neither
        del sync["build"]["metadata"][key]
    sync["source"] |= {"url": github.url, "repository": github.repository, "auth": {"token": f"env:{GITHUB_TOKEN}"}}
    sync["target"] = {"registry": target.host, "plain_http": True, "project": _PROJECT}
    return dict(sync)


@contextmanager
def _github(made: bundle.Bundle, only: str | None = None) -> Iterator[GitHubServer]:
    said = bundle.block()
    if only is not None:
        said |= dict.fromkeys((key for key in said if key.startswith("Build ")), "false")
    log = "".join(f"2026-11-21T10:00:00.0000000Z {key}: {value}\n" for key, value in said.items())
    with GitHubServer("bench/builds") as github:
        github.runs = [Run(1, {"0_build.txt": log}, [Stored(1, "images", made.zip)], "presto-build-images.yml")]
        yield github


@contextmanager
def _empty_registry(place: Place) -> Iterator[Registry]:
    with tempfile.TemporaryDirectory(dir=place.folder) as folder, Registry(folder=Path(folder)) as registry:
        yield registry


def _bundle(place: Place) -> bundle.Bundle:
    made = _made.get(place.folder)
    if made is None:
        free = shutil.disk_usage(place.folder).free
        if free < 8 * _GIB:
            raise NotMadeError(f"{free / _GIB:.0f} GiB are free, 8 are needed")
        made = _made[place.folder] = bundle.make(place.folder / "bundle")
    return made


_made: dict[Path, bundle.Bundle] = {}
