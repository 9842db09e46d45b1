"""Backups from a bucket into git, against the replaced scripts, and against rclone with git.

The same 40 changes (23 new, 15 modified, 2 deleted) in a bucket of 100,000 files in 60 clusters, over smart HTTP on the
loopback interface. The seed downloads every object, clones, adds, commits and pushes each time; `rclone sync`
keeps its working copy, which a function cannot. Ours gets the changed keys from the bucket's events; a full scan is
measured, too.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from bench.backups_place import BUCKET, CLUSTERS, Filled, Watch, disk, filled
from bench.measure import Row
from bench.place import Place
from tests.rig.backups_memory import InMemoryIndex
from tests.standins.git_places import ENVIRONMENT
from tests.standins.rclone import ACCESS, SECRET

FILES: Final = 100_000
MANY: Final = 1_000_000
_ROUNDS: Final = 3
_RCLONE: Final = Path(sys.executable).parent / "rclone"


@dataclass(frozen=True)
class Taken:
    """Cost of one round; ``server`` is the part of ``seconds`` spent by the git server."""

    seconds: float
    server: float
    from_bucket: float
    from_git: float
    to_git: float
    mebibytes: float
    disk: float

    @property
    def own(self) -> float:
        return self.seconds - self.server


def at_100k(place: Place) -> Sequence[Row]:
    """Compare the three methods, and ours with a full scan."""
    with ExitStack() as stack:
        world = filled(stack, place.folder / "backups", FILES)
        folder = place.folder / "ways"
        memory = _memory(world, folder)
        _rclone(world, folder / "kept", first=True)
        ours, seed, synced, full = [], [], [], []
        for _ in range(_ROUNDS):
            changed = world.change()
            ours.append(_taken(world, folder, lambda c=changed: _ours(world, memory, c)))  # type: ignore[misc]
            _next(world)
            seed.append(_taken(world, folder, partial(_seed, world, folder / "seed")))
            _next(world)
            for step in (["fetch", "--quiet"], ["reset", "--quiet", "--hard", "origin/main"]):
                subprocess.run(["git", "-C", str(folder / "kept"), *step], check=True)
            synced.append(_taken(world, folder, partial(_rclone, world, folder / "kept")))
            _next(world)
            full.append(_taken(world, folder, partial(_ours, world, memory, None)))
            # The next round starts from this branch.
            world.bare.git("update-ref", "refs/heads/before", "refs/heads/main")
        return [
            *_rows("100k", " (seed)", _UNITS, ours, seed, {"seconds": 1 / 20, "from_bucket": 0.01}),
            *_rows("100k", " (rclone)", _UNITS, ours, synced, {}),
            *_rows("100k", " (everything against rclone)", _UNITS, full, synced, {}),
            Row("backups.100k.memory", "MiB", [each.mebibytes for each in ours], None, 200),
            Row("backups.100k.disk", "KiB", [each.disk / 1024 for each in ours]),
        ]


def at_1m(place: Place) -> Sequence[Row]:
    """Ours with ten times as many clusters."""
    return _grown(place, "1m", 10 * CLUSTERS)


def at_1m_wide(place: Place) -> Sequence[Row]:
    """Ours with folders ten times as large; a commit reads each folder that it changes."""
    return _grown(place, "1m.wide", CLUSTERS)


def _grown(place: Place, name: str, clusters: int) -> list[Row]:
    """Measure the same change at both sizes: the cost should depend on the change only."""
    figures: dict[int, list[Taken]] = {}
    for files, many in ((FILES, CLUSTERS), (MANY, clusters)):
        with ExitStack() as stack:
            world = filled(stack, place.folder / f"backups-{files}", files, many)
            folder = place.folder / f"ways-{files}"
            memory = _memory(world, folder, look=False)
            for _ in range(_ROUNDS):
                changed = world.change()
                take = _taken(world, folder, partial(_ours, world, memory, changed))
                figures.setdefault(files, []).append(take)
                world.bare.git("update-ref", "refs/heads/before", "refs/heads/main")
    units = _UNITS | {"own": ("s", 1.0), "server": ("s", 1.0)}
    aims = dict.fromkeys(_UNITS, 1.5)
    return _rows(name, "", units, figures[MANY], figures[FILES], aims)


_UNITS: Final = {
    "seconds": ("s", 1.0),
    "from_bucket": ("KiB", 1024.0),
    "from_git": ("KiB", 1024.0),
    "to_git": ("KiB", 1024.0),
    "mebibytes": ("MiB", 1.0),
    "disk": ("KiB", 1024.0),
}


def _rows(  # noqa: PLR0913, PLR0917 - each is a part of the rows
    measurement: str,
    against: str,
    units: Mapping[str, tuple[str, float]],
    ours: Sequence[Taken],
    peer: Sequence[Taken],
    aims: Mapping[str, float],
) -> list[Row]:
    return [
        Row(
            f"backups.{measurement}.{name}{against}",
            unit,
            [getattr(each, name) / per for each in ours],
            [getattr(each, name) / per for each in peer],
            aims.get(name),
        )
        for name, (unit, per) in units.items()
    ]


def _next(world: Filled) -> None:
    """Reset the branch for the next method."""
    world.reset()


def _taken(world: Filled, folder: Path, way: Callable[[], tuple[float, float, float]]) -> Taken:
    """Run one method and measure its traffic; it returns seconds, MiB and bytes on disk."""
    del folder
    world.http.received = world.http.sent = 0
    world.http.seconds = 0.0
    before = world.sent_by_bucket()
    seconds, mebibytes, on_disk = way()
    passed = world.sent_by_bucket() - before
    return Taken(seconds, world.http.seconds, passed, world.http.sent, world.http.received, mebibytes, on_disk)


def _memory(world: Filled, folder: Path, *, look: bool = True) -> Path:
    """Return the state of ours after a first full scan."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "memory"
    kept = InMemoryIndex()
    kept.counted["repository#main"] = dict(world.counts)
    path.write_bytes(pickle.dumps((kept, {}, {})))
    if look:
        _ours(world, path, None)
    return path


def _ours(world: Filled, memory: Path, keys: Sequence[str] | None) -> tuple[float, float, float]:
    asked = {"s3": world.s3.url, "repository": world.repository, "keys": keys, "memory": str(memory), "keep": True}
    command = [sys.executable, "-m", "bench.backups_ours", json.dumps(asked)]
    environment = {**os.environ, "PYTHONPATH": "layers/syncline"}
    done = subprocess.run(command, capture_output=True, check=True, env=environment)
    answer = json.loads(done.stdout.splitlines()[-1])
    return answer["seconds"], answer["mebibytes"], answer["disk"]


def _seed(world: Filled, folder: Path) -> tuple[float, float, float]:
    """Download all, clone, copy, add, commit, push; keep nothing."""
    clone, down = folder / "clone", folder / "clone" / "down"
    steps = [
        ["git", "clone", "--quiet", world.repository, str(clone)],
        _copy(world, "copy", down),
        ["sh", "-c", f"cd {clone} && ls | grep -v '^down$' | xargs rm -rf && mv down/* . && rmdir down"],
        *_commit(clone),
    ]
    taken = _measured(steps, folder)
    subprocess.run(["rm", "-rf", str(folder)], check=True)
    return taken


def _rclone(world: Filled, folder: Path, *, first: bool = False) -> tuple[float, float, float]:
    """`rclone sync` into a kept working copy, add, commit, push."""
    if first:
        subprocess.run(["git", "clone", "--quiet", world.repository, str(folder)], check=True)
    steps = [] if first else [["git", "-C", str(folder), "pull", "--quiet", "--no-rebase"]]
    return _measured([*steps, [*_copy(world, "sync", folder), "--exclude", "/.git/**"], *_commit(folder)], folder)


def _copy(world: Filled, how: str, to: Path) -> list[str]:
    where = f":s3,provider=Rclone,access_key_id={ACCESS},secret_access_key={SECRET},endpoint='{world.s3.url}':{BUCKET}"
    return [str(_RCLONE), how, where, str(to), "--transfers", "10", "--config", os.devnull, "--use-server-modtime"]


def _commit(folder: Path) -> list[list[str]]:
    git = ["git", "-C", str(folder)]
    return [
        [*git, "add", "-A"],
        [*git, "commit", "--quiet", "--allow-empty", "-m", "backup"],
        [*git, "push", "--quiet"],
    ]


def _measured(steps: Sequence[Sequence[str]], folder: Path) -> tuple[float, float, float]:
    """Return seconds, peak memory of a step (MiB), and bytes on disk at the end."""
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", **ENVIRONMENT}
    largest = 0.0
    began = time.perf_counter()
    for step in steps:
        process = subprocess.Popen(step, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        assert process.stderr is not None
        with Watch(process.pid) as watch:
            words = process.stderr.read()
            process.wait()
        process.stderr.close()
        assert process.returncode == 0, words.decode()[-2000:]
        largest = max(largest, watch.memory / 2**20)
    return time.perf_counter() - began, largest, disk(folder)


MEASUREMENTS: Final = {"100k": at_100k, "1m": at_1m, "1m.wide": at_1m_wide}
LONG: Final = ("1m", "1m.wide")
