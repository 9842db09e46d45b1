"""Measurements of ``backups``: from a bucket to git, against the script that Syncline replaces, and rclone with git.

Each method commits the same 40 changes (23 new, 15 modified, 2 deleted) of a bucket with 100,000 files in 60 clusters,
over smart HTTP on the loopback interface. The replaced script (the seed) downloads every object, clones, adds, commits
and pushes each time. `rclone sync` keeps its working copy, which a function cannot do. Syncline gets the changed keys
from events of the bucket; a full scan is also measured.
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

from bench.backups_data import BUCKET, CLUSTERS, BackupData, ResourceMonitor, backup_data, disk_usage
from bench.measure import Row
from bench.workspace import Workspace
from tests.rig.backups_memory import InMemoryIndex
from tests.standins.git_places import ENVIRONMENT
from tests.standins.rclone import ACCESS, SECRET

FILES: Final = 100_000
MANY: Final = 1_000_000
_ROUNDS: Final = 3
_RCLONE: Final = Path(sys.executable).parent / "rclone"


@dataclass(frozen=True)
class Cost:
    """The cost of one round: traffic and disk use in bytes, peak memory in MiB.

    ``server`` is the part of ``seconds`` spent by the git server.
    """

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


def at_100k(workspace: Workspace) -> Sequence[Row]:
    """Measure Syncline with events and with a full scan, against both peers."""
    with ExitStack() as stack:
        data = backup_data(stack, workspace.folder / "backups", FILES)
        folder = workspace.folder / "methods"
        memory = _memory(data, folder)
        _rclone(data, folder / "kept", first=True)
        ours, seed, rclone, full = [], [], [], []
        for _ in range(_ROUNDS):
            changed = data.change()
            ours.append(_cost(data, partial(_ours, data, memory, changed)))
            data.reset()
            seed.append(_cost(data, partial(_seed, data, folder / "seed")))
            data.reset()
            for step in (["fetch", "--quiet"], ["reset", "--quiet", "--hard", "origin/main"]):
                subprocess.run(["git", "-C", str(folder / "kept"), *step], check=True)
            rclone.append(_cost(data, partial(_rclone, data, folder / "kept")))
            data.reset()
            full.append(_cost(data, partial(_ours, data, memory, None)))
            # The next round starts from this branch.
            data.bare.git("update-ref", "refs/heads/before", "refs/heads/main")
        return [
            *_rows("100k", " (seed)", _UNITS, ours, seed, {"seconds": 1 / 20, "from_bucket": 0.01}),
            *_rows("100k", " (rclone)", _UNITS, ours, rclone, {}),
            *_rows("100k", " (everything against rclone)", _UNITS, full, rclone, {}),
            Row("backups.100k.memory", "MiB", [each.mebibytes for each in ours], None, 200),
            Row("backups.100k.disk", "KiB", [each.disk / 1024 for each in ours]),
        ]


def at_1m(workspace: Workspace) -> Sequence[Row]:
    """Measure a bucket with ten times as many clusters, against 100,000 files."""
    return _grown(workspace, "1m", 10 * CLUSTERS)


def at_1m_wide(workspace: Workspace) -> Sequence[Row]:
    """Measure folders ten times as large, against 100,000 files; a commit reads each folder that it changes."""
    return _grown(workspace, "1m.wide", CLUSTERS)


def _grown(workspace: Workspace, name: str, clusters: int) -> list[Row]:
    """Measure the same number of changes at both sizes: the cost should depend on the changes only."""
    costs: dict[int, list[Cost]] = {}
    for files, cluster_count in ((FILES, CLUSTERS), (MANY, clusters)):
        with ExitStack() as stack:
            data = backup_data(stack, workspace.folder / f"backups-{files}", files, cluster_count)
            folder = workspace.folder / f"methods-{files}"
            memory = _memory(data, folder, scan=False)
            for _ in range(_ROUNDS):
                changed = data.change()
                costs.setdefault(files, []).append(_cost(data, partial(_ours, data, memory, changed)))
                data.bare.git("update-ref", "refs/heads/before", "refs/heads/main")
    units = _UNITS | {"own": ("s", 1.0), "server": ("s", 1.0)}
    aims = dict.fromkeys(_UNITS, 1.5)
    return _rows(name, "", units, costs[MANY], costs[FILES], aims)


_UNITS: Final = {
    "seconds": ("s", 1.0),
    "from_bucket": ("KiB", 1024.0),
    "from_git": ("KiB", 1024.0),
    "to_git": ("KiB", 1024.0),
    "mebibytes": ("MiB", 1.0),
    "disk": ("KiB", 1024.0),
}


def _rows(  # noqa: PLR0913, PLR0917 - each is part of the rows
    measurement: str,
    against: str,
    units: Mapping[str, tuple[str, float]],
    ours: Sequence[Cost],
    peer: Sequence[Cost],
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


def _cost(data: BackupData, method: Callable[[], tuple[float, float, float]]) -> Cost:
    """Run a method and return its cost; it returns seconds, peak memory in MiB, and bytes on disk."""
    data.http.received = data.http.sent = 0
    data.http.seconds = 0.0
    before = data.sent_by_bucket()
    seconds, mebibytes, on_disk = method()
    from_bucket = data.sent_by_bucket() - before
    return Cost(seconds, data.http.seconds, from_bucket, data.http.sent, data.http.received, mebibytes, on_disk)


def _memory(data: BackupData, folder: Path, *, scan: bool = True) -> Path:
    """Return the file with Syncline's state, after a first full scan if ``scan`` is true."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "memory"
    index = InMemoryIndex()
    index.counted["repository#main"] = dict(data.counts)
    path.write_bytes(pickle.dumps((index, {}, {})))
    if scan:
        _ours(data, path, None)
    return path


def _ours(data: BackupData, memory: Path, keys: Sequence[str] | None) -> tuple[float, float, float]:
    arguments = {"s3": data.s3.url, "repository": data.repository, "keys": keys, "memory": str(memory), "keep": True}
    command = [sys.executable, "-m", "bench.backups_ours", json.dumps(arguments)]
    environment = {**os.environ, "PYTHONPATH": "layers/syncline"}
    done = subprocess.run(command, capture_output=True, check=True, env=environment)
    result = json.loads(done.stdout.splitlines()[-1])
    return result["seconds"], result["mebibytes"], result["disk"]


def _seed(data: BackupData, folder: Path) -> tuple[float, float, float]:
    """Clone, download all objects, add, commit and push; keep nothing for the next round."""
    clone, download = folder / "clone", folder / "clone" / "down"
    steps = [
        ["git", "clone", "--quiet", data.repository, str(clone)],
        _copy(data, "copy", download),
        ["sh", "-c", f"cd {clone} && ls | grep -v '^down$' | xargs rm -rf && mv down/* . && rmdir down"],
        *_commit(clone),
    ]
    cost = _measured(steps, folder)
    subprocess.run(["rm", "-rf", str(folder)], check=True)
    return cost


def _rclone(data: BackupData, folder: Path, *, first: bool = False) -> tuple[float, float, float]:
    """Run `rclone sync` into a working copy that is kept, then add, commit and push."""
    if first:
        subprocess.run(["git", "clone", "--quiet", data.repository, str(folder)], check=True)
    steps = [] if first else [["git", "-C", str(folder), "pull", "--quiet", "--no-rebase"]]
    return _measured([*steps, [*_copy(data, "sync", folder), "--exclude", "/.git/**"], *_commit(folder)], folder)


def _copy(data: BackupData, command: str, to: Path) -> list[str]:
    bucket = f":s3,provider=Rclone,access_key_id={ACCESS},secret_access_key={SECRET},endpoint='{data.s3.url}':{BUCKET}"
    return [str(_RCLONE), command, bucket, str(to), "--transfers", "10", "--config", os.devnull, "--use-server-modtime"]


def _commit(folder: Path) -> list[list[str]]:
    git = ["git", "-C", str(folder)]
    return [
        [*git, "add", "-A"],
        [*git, "commit", "--quiet", "--allow-empty", "-m", "backup"],
        [*git, "push", "--quiet"],
    ]


def _measured(steps: Sequence[Sequence[str]], folder: Path) -> tuple[float, float, float]:
    """Run programs in order; return seconds, the peak memory of one program in MiB, and bytes on disk at the end."""
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", **ENVIRONMENT}
    largest = 0.0
    began = time.perf_counter()
    for step in steps:
        process = subprocess.Popen(step, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        assert process.stderr is not None
        with ResourceMonitor(process.pid) as monitor:
            errors = process.stderr.read()
            process.wait()
        process.stderr.close()
        assert process.returncode == 0, errors.decode()[-2000:]
        largest = max(largest, monitor.memory / 2**20)
    return time.perf_counter() - began, largest, disk_usage(folder)


MEASUREMENTS: Final = {"100k": at_100k, "1m": at_1m, "1m.wide": at_1m_wide}
LONG: Final = ("1m", "1m.wide")
