"""Measurements of ``files`` with nothing to do: 100,000 equal objects.

A first run fills an empty target; its time is a row without a peer. Then the sync runs five more times, in turns with
rclone on the same servers. ``BENCH_FILES_IDLE=5000`` measures with fewer objects, under other row names.
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
from bench.measure import MeasurementError, Row, in_turns
from bench.memory_s3 import MemoryServer
from bench.peers import RcloneClient
from bench.workspace import CompletedRun, Functions, Workspace, bucket

_COUNT: Final = int(os.environ.get("BENCH_FILES_IDLE", "100000"))
_LABEL: Final = f"{_COUNT / 1000:g}k"
_BYTES: Final = 4096
_FILES_PER_FOLDER: Final = 1000
_SHARED_MEMORY: Final = Path("/dev/shm")
_ROUNDS: Final = 5
_REQUESTS: Final = {"bucket": 32, "file_manager": 96}
"""Concurrent requests to the target, as in files.mirror and files.small."""
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


def to_bucket(workspace: Workspace) -> list[Row]:
    """Measure idle runs from bucket to bucket of two servers against ``rclone sync``.

    The peer compares checksums. Another row measures it without ``--checksum``, when it reads the time of each object
    with a HEAD request. That needs a target with the times of the source, as written by rclone.
    """
    with _sources(workspace, peer=True) as (source, target):
        target.make_bucket("target")
        client = RcloneClient(workspace.folder, source=source.url, target=target.url)
        sync = {
            "kind": "files",
            "source": bucket(source.url, "source"),
            "target": {**bucket(target.url, "target"), "requests": _REQUESTS["bucket"]},
        }
        name = workspace.functions.apply(sync)
        first = _first(workspace.functions, name)
        client.check("source:source", "target:target")
        runs, peer = in_turns(
            _ROUNDS,
            lambda: _idle(workspace.functions, name),
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
            note="the peer is `rclone sync`, run once, which requests the time of each object",
        ),
        _first_row(f"files.first.{_LABEL}", first),
    ]


def to_manager(workspace: Workspace) -> list[Row]:
    """Measure idle runs from a bucket to a file manager against ``rclone lsf -R`` of the bucket."""
    with _sources(workspace, peer=False) as (source, _), manager(0.0) as target:
        client = RcloneClient(workspace.folder, source=source.url)
        sync = {
            "kind": "files",
            "source": bucket(source.url, "source"),
            "target": {"file_manager": target.url, "requests": _REQUESTS["file_manager"]},
        }
        name = workspace.functions.apply(sync)
        first = _first(workspace.functions, name)
        if (files := target.counters()["files"]) != _COUNT:
            raise MeasurementError(f"the file manager has {files} files after the first run instead of {_COUNT}")
        runs, peer = in_turns(
            _ROUNDS,
            lambda: _idle(workspace.functions, name),
            lambda: min(client.list("source:source"), client.list("source:source", "--fast-list")),
        )
    note = (
        "`rclone serve s3 :memory:`; the peer is the faster of `rclone lsf -R` with and without --fast-list per round"
    )
    return [
        *_idle_rows(f"files.idle.manager.{_LABEL}", runs, peer, 1.5, note),
        _first_row(f"files.first.manager.{_LABEL}", first),
    ]


MEASUREMENTS: Final[Mapping[str, Callable[[Workspace], Sequence[Row]]]] = {
    f"idle.{_LABEL}": to_bucket,
    f"idle.manager.{_LABEL}": to_manager,
}


def _idle_rows(name: str, runs: Sequence[CompletedRun], peer: Sequence[float], aim: float, note: str) -> list[Row]:
    return [
        Row(name, "s", [run.seconds for run in runs], peer, aim, note),
        Row(f"{name}.command", "s", [run.command_seconds for run in runs], peer),
        Row(f"{name}.requests", "requests", [run.requests for run in runs]),
    ]


def _first_row(name: str, first: CompletedRun) -> Row:
    return Row(name, "s", [first.seconds], note="the run that starts the functions and fills the target")


def _first(functions: Functions, name: str) -> CompletedRun:
    """Run the sync for the first time, and check that it fills the target."""
    run = functions.run(name)
    if run.moved != _COUNT:
        raise MeasurementError(f"the first run moved {run.moved} files instead of {_COUNT}")
    return run


def _idle(functions: Functions, name: str) -> CompletedRun:
    """Run the sync with nothing to do, and check that it moves nothing."""
    run = functions.run(name)
    if run.moved or run.skipped != _COUNT:
        counts = f"moved {run.moved} files and found {run.skipped} of {_COUNT} equal"
        raise MeasurementError(f"a run of {name} with nothing to do {counts}")
    return run


@contextmanager
def _sources(workspace: Workspace, *, peer: bool) -> Iterator[tuple[MemoryServer, MemoryServer]]:
    """Start two servers: one with the bucket `source`, one with the same objects in the bucket `peer` if ``peer``."""
    with MemoryServer(workspace.folder, "source") as source, MemoryServer(workspace.folder, "target") as target:
        # Prefer a file system in memory: writing the files to a busy disk takes minutes.
        with tempfile.TemporaryDirectory(dir=_SHARED_MEMORY if _SHARED_MEMORY.is_dir() else workspace.folder) as folder:
            _write_files(Path(folder))
            source.fill("source", Path(folder))
            if peer:
                target.fill("peer", Path(folder))
        yield source, target


def _write_files(root: Path) -> None:
    chance = random.Random(1)
    for start in range(0, _COUNT, _FILES_PER_FOLDER):
        month, area = divmod(start // _FILES_PER_FOLDER, len(_AREAS))
        folder = root / _AREAS[area] / f"{2025 + month // 12}-{month % 12 + 1:02}"
        folder.mkdir(parents=True)
        for number in range(start, min(start + _FILES_PER_FOLDER, _COUNT)):
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
