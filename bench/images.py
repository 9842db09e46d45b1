"""The kind ``images``: the deployed functions between real registries, against skopeo and curl."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from bench import memory
from bench.content import MIB, Filler
from bench.images_listing import listing
from bench.measure import NotMadeError, Row, in_turns
from bench.peers import Skopeo, curl_layer, present
from bench.place import QUAY_TOKEN, Functions, Place, Ran
from tests.standins.programs import program
from tests.standins.quay_process import QuayProcess
from tests.standins.registry import Registry

_TAGS: Final = ("v1", "v2", "v3")
_COLD: Final = [f"bench/app-{number:03d}" for number in range(30)]
_NOTHING: Final = [f"bench/app-{number:03d}" for number in range(270)]
_LARGE: Final = "bench/large"
_LARGE_BYTES: Final = 1024 * MIB
_MOST_MEMORY: Final = 120  # MiB
_ROUNDS: Final = 7


def cold(place: Place) -> list[Row]:
    """Empty target: 30 repositories with 3 tags each, and one layer shared by all."""
    program("docker-registry")
    skopeo = Skopeo(place.folder) if present("skopeo") else None
    with Registry(folder=place.folder / "cold") as source:
        Filler(source.host).images(_COLD, _TAGS, 1 * MIB, (256 * 1024, 64 * 1024))

        def ours() -> Ran:
            with _empty_registry(place) as target:
                sync = _sync({"registry": source.host, "catalog": True}, {"registry": target.host})
                return _moved(place.functions, sync, len(_COLD) * len(_TAGS))

        def peer() -> float:
            assert skopeo is not None
            skopeo.forget()
            with _empty_registry(place) as target:
                return skopeo.sync(source.host, _COLD, f"{target.host}/bench")

        first = ours()  # starts the functions' processes, and the source's files are in memory from then on
        ran, theirs = in_turns(_ROUNDS, ours, peer if skopeo else None)
    return [
        Row("images.cold", "s", [each.seconds for each in ran], theirs, 0.6, "the functions were warm"),
        Row("images.cold.command", "s", [each.command_seconds for each in ran], theirs),
        Row("images.cold.first", "s", [first.seconds], note="the run before, which started the functions' processes"),
        Row("images.cold.requests", "requests", [each.requests for each in ran]),
    ]


def nothing(place: Place) -> list[Row]:
    """Equal target: 270 repositories with 3 tags each, Quay's API in front of both registries."""
    program("docker-registry")
    skopeo = Skopeo(place.folder) if present("skopeo") else None
    folders = _equal_registries(place.folder)
    with _registries(folders) as (source, target), QuayProcess(source.url) as front, QuayProcess(target.url) as back:
        name = place.functions.apply(
            _sync(
                {"registry": source.host, "organizations": ["bench"], "api": _api(front)},
                {"registry": target.host, "api": _api(back)},
            )
        )

        def ours() -> Ran:
            ran = place.functions.run(name)
            if (ran.moved, ran.skipped) != (0, len(_NOTHING) * len(_TAGS)):
                raise NotMadeError(f"{ran.moved} images were moved and {ran.skipped} found equal")
            return ran

        def peer() -> float:
            assert skopeo is not None
            return skopeo.sync(source.host, _NOTHING, f"{target.host}/bench")

        ours()
        if skopeo:
            peer()  # warm up the peer, too
        ran, theirs = in_turns(_ROUNDS, ours, peer if skopeo else None)
    requests = [_requests(skopeo, folders)] if skopeo else []
    note = "the functions were warm; skopeo had synced the same before"
    return [
        Row("images.nothing", "s", [each.seconds for each in ran], theirs, 0.05, note),
        Row("images.nothing.command", "s", [each.command_seconds for each in ran], theirs),
        Row("images.nothing.requests", "requests", [each.requests for each in ran], requests),
    ]


def layer(place: Place) -> list[Row]:
    """One image with one layer of 1 GiB, missing at the target."""
    program("docker-registry")
    with Registry(folder=place.folder / "layer") as source:
        digest = Filler(source.host).one_layer(_LARGE, "v1", _LARGE_BYTES)

        def ours() -> tuple[Ran, float | None]:
            with _empty_registry(place) as target:
                sync = _sync({"registry": source.host, "repositories": [_LARGE]}, {"registry": target.host})
                with memory.peak(lambda: place.functions.processes("transfer")) as peak:
                    ran = _moved(place.functions, sync, 1)
                return ran, peak.mebibytes

        def peer() -> float:
            with _empty_registry(place) as target:
                return curl_layer(source.host, target.host, _LARGE, digest)

        ours()  # starts the functions' processes, and has the layer in memory
        made, theirs = in_turns(_ROUNDS, ours, peer if present("curl") else None)
    ran = [each for each, _ in made]
    peaks = [peak for _, peak in made if peak is not None]
    rows = [
        Row("images.layer", "s", [each.seconds for each in ran], theirs, 1.1, "the functions were warm"),
        Row("images.layer.command", "s", [each.command_seconds for each in ran], theirs),
    ]
    if peaks:
        note = "the largest resident set of a transfer function's process, all of Python's included"
        rows.append(Row("images.layer.memory", "MiB", peaks, None, _MOST_MEMORY, note))
    return rows


MEASUREMENTS: Final[Mapping[str, Callable[[Place], Sequence[Row]]]] = {
    "cold": cold,
    "nothing": nothing,
    "layer": layer,
    "listing": listing,
}


def _sync(source: Mapping[str, Any], target: Mapping[str, Any]) -> dict[str, Any]:
    return {"kind": "images", "source": {"plain_http": True, **source}, "target": {"plain_http": True, **target}}


def _api(quay: QuayProcess) -> dict[str, str]:
    return {"kind": "quay", "url": quay.url, "token": f"env:{QUAY_TOKEN}"}


def _moved(functions: Functions, sync: Mapping[str, Any], images: int) -> Ran:
    """Run a new sync and check that it moves this many images."""
    ran = functions.run(functions.apply(sync))
    if ran.moved != images:
        raise NotMadeError(f"{ran.moved} images were moved, not {images}")
    return ran


@contextmanager
def _empty_registry(place: Place) -> Iterator[Registry]:
    with tempfile.TemporaryDirectory(dir=place.folder) as folder, Registry(folder=Path(folder)) as registry:
        yield registry


def _equal_registries(place: Path) -> list[Path]:
    """Return the folders of two registries with equal content."""
    folders = [place / "nothing-source", place / "nothing-target"]
    with Registry(folder=folders[0]) as source:
        Filler(source.host).images(_NOTHING, _TAGS, 4096, ())
    shutil.copytree(folders[0] / "data", folders[1] / "data")
    return folders


@contextmanager
def _registries(folders: Sequence[Path], *, access_log: bool = False) -> Iterator[list[Registry]]:
    first, second = (Registry(folder=folder, access_log=access_log) for folder in folders)
    with first, second:
        yield [first, second]


def _requests(skopeo: Skopeo, folders: Sequence[Path]) -> int:
    """Return the number of requests of skopeo, counted in a separate round because logging slows the registries."""
    with _registries(folders, access_log=True) as registries:
        source, target = registries
        skopeo.sync(source.host, _NOTHING, f"{target.host}/bench")
        return sum(registry.requests_logged() for registry in registries)
