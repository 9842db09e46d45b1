"""The kind ``files`` with nothing to do: 100,000 equal objects.

Each measurement fills an empty target by a run of ours, whose time is a row without a peer, and then runs the sync five
more times, in turns with rclone on the same servers. ``BENCH_FILES_IDLE=5000`` measures with fewer objects, under
different names.
"""

from __future__ import annotations

import os
import random
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bench.file_manager import manager
from bench.measure import NotMadeError, Row, in_turns
from bench.memory_s3 import MemoryServer
from bench.peers import RcloneClient
from bench.place import Functions, Place, Ran, bucket

_COUNT: Final = int(os.environ.get("BENCH_FILES_IDLE", "100000"))
_LABEL: Final = f"{_COUNT / 1000:g}k"
_BYTES: Final = 4096
_IN_FOLDER: Final = 1000
_SHARED_MEMORY: Final = Path("/dev/shm")
_ROUNDS: Final = 5
_REQUESTS: Final = {"bucket": 32, "file_manager": 96}
"""Requests at a time that the sync allows at its target, as in files.mirror and files.small."""
_AREAS: Final = (
    "contracts",
    "exports",
    "hr",
    "invoices",
    "logs",
    "marketing",
    "orders",
    "photos",
    "reports",
    "support",
)


def to_bucket(place: Place) -> list[Row]:
    """Measure idle runs from bucket to bucket of two servers against ``rclone sync``.

    The peer compares checksums. Without ``--checksum`` it asks for the time of each object by a HEAD, which is a row
    of its own. That needs a target with the source's times, as rclone would have written it.
    """
    with _sources(place, peer=True) as (source, target):
        target.make_bucket("target")
        client = RcloneClient(place.folder, source=source.url, target=target.url)
        sync = {
            "kind": "files",
            "source": bucket(source.url, "source"),
            "target": {**bucket(target.url, "target"), "requests": _REQUESTS["bucket"]},
        }
        name = place.functions.apply(sync)
        first = _first(place.functions, name)
        client.check("source:source", "target:target")
        runs, peer = in_turns(
            _ROUNDS,
            lambda: _idle(place.functions, name),
            lambda: client.sync("source:source", "target:target", "--checksum"),
        )
        plain = client.sync("source:source", "target:peer")
    return [
        *_idle_rows(
            f"files.idle.{_LABEL}",
            runs,
            peer,
            1.0,
            "two `rclone serve s3 :memory:`; the peer is `rclone sync --checksum`",
        ),
        Row(
            f"files.idle.{_LABEL}.plain",
            "s",
            [run.seconds for run in runs],
            [plain],
            note="the peer is `rclone sync`, once, which asks for the time of each object",
        ),
        _first_row(f"files.first.{_LABEL}", first),
    ]


def to_manager(place: Place) -> list[Row]:
    """Measure idle runs from a bucket to a file manager against ``rclone lsf -R`` of the bucket."""
    with _sources(place, peer=False) as (source, _), manager(0.0) as target:
        client = RcloneClient(place.folder, source=source.url)
        sync = {
            "kind": "files",
            "source": bucket(source.url, "source"),
            "target": {"file_manager": target.url, "requests": _REQUESTS["file_manager"]},
        }
        name = place.functions.apply(sync)
        first = _first(place.functions, name)
        if (held := target.seen()["files"]) != _COUNT:
            raise NotMadeError(f"the file manager holds {held} files after the first run, not {_COUNT}")
        runs, peer = in_turns(
            _ROUNDS,
            lambda: _idle(place.functions, name),
            lambda: min(client.list("source:source"), client.list("source:source", "--fast-list")),
        )
    note = "`rclone serve s3 :memory:`; the peer is `rclone lsf -R`, in each round the faster of with and without --fast-list"
    return [
        *_idle_rows(f"files.idle.manager.{_LABEL}", runs, peer, 1.5, note),
        _first_row(f"files.first.manager.{_LABEL}", first),
    ]


MEASUREMENTS: Final[Mapping[str, Callable[[Place], Sequence[Row]]]] = {
    f"idle.{_LABEL}": to_bucket,
    f"idle.manager.{_LABEL}": to_manager,
}


def _idle_rows(name: str, runs: Sequence[Ran], peer: Sequence[float], aim: float, note: str) -> list[Row]:
    return [
        Row(name, "s", [run.seconds for run in runs], peer, aim, note),
        Row(f"{name}.command", "s", [run.command_seconds for run in runs], peer),
        Row(f"{name}.requests", "requests", [run.requests for run in runs]),
    ]


def _first_row(name: str, first: Ran) -> Row:
    return Row(name, "s", [first.seconds], note="the functions' processes start in it")


def _first(functions: Functions, name: str) -> Ran:
    """Fill the target."""
    ran = functions.run(name)
    if ran.moved != _COUNT:
        raise NotMadeError(f"the first run moved {ran.moved} of {_COUNT} files")
    return ran


def _idle(functions: Functions, name: str) -> Ran:
    """Run with nothing to do, and check that nothing was moved."""
    ran = functions.run(name)
    if ran.moved or ran.skipped != _COUNT:
        counts = f"moved {ran.moved} and found {ran.skipped} of {_COUNT} equal"
        raise NotMadeError(f"a run of {name} {counts}, although nothing had changed since the run before")
    return ran


@contextmanager
def _sources(place: Place, *, peer: bool) -> Iterator[tuple[MemoryServer, MemoryServer]]:
    """Start two servers: one with the bucket `source`, one with the same objects in the bucket `peer` if wanted."""
    with MemoryServer(place.folder, "source") as source, MemoryServer(place.folder, "target") as target:
        # In memory where there is such a file system: on a busy disk, writing the files takes minutes.
        with tempfile.TemporaryDirectory(dir=_SHARED_MEMORY if _SHARED_MEMORY.is_dir() else place.folder) as folder:
            _write_files(Path(folder))
            source.fill("source", Path(folder))
            if peer:
                target.fill("peer", Path(folder))
        yield source, target


def _write_files(root: Path) -> None:
    chance = random.Random(1)
    for start in range(0, _COUNT, _IN_FOLDER):
        month, area = divmod(start // _IN_FOLDER, len(_AREAS))
        folder = root / _AREAS[area] / f"{2025 + month // 12}-{month % 12 + 1:02}"
        folder.mkdir(parents=True)
        for number in range(start, min(start + _IN_FOLDER, _COUNT)):
            (folder / _name(number, chance)).write_bytes(chance.randbytes(_BYTES))


def _name(number: int, chance: random.Random) -> str:
    """Return a realistic file name."""
    match number % 4:
        case 0:
            return f"invoice-{number:06}.pdf"
        case 1:
            return f"IMG_{20250000 + chance.randrange(101, 1228)}_{number:06}.jpg"
        case 2:
            return f"Übersicht Kunde {number}.xlsx"
        case _:
            return f"{uuid.UUID(int=chance.getrandbits(128), version=4)}.json"
