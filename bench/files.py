"""Measurements of ``files``: the deployed functions, against the method of the replaced script, curl and rclone."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from bench import files_idle, memory
from bench.file_manager import manager
from bench.measure import MeasurementError, Row
from bench.peers import RcloneClient
from bench.workspace import ROOT, CompletedRun, Workspace, bucket
from syncline.clients.http.addresses import Endpoint
from syncline.clients.http.client import Http
from syncline.clients.s3.client import Bucket
from syncline.clients.s3.sigv4 import AccessKeys
from tests.standins.rclone import ACCESS, SECRET, Rclone

_SMALL: Final = 10_000
_SMALL_BYTES: Final = 4096
_DELAY: Final = 0.02  # seconds before each response of the file manager
_CONCURRENT: Final = 96
_SAMPLE: Final = 300
"""Objects copied by the seed's method; its time is extrapolated, because each object takes the same time."""
_LARGE_BYTES: Final = 5 * 1024**3
_BOUNDARY: Final = "the-boundary-of-the-form"
_MAX_MEMORY: Final = 150  # MiB


def small(workspace: Workspace) -> list[Row]:
    """Measure 10,000 objects of 4 KiB to a file manager that takes 20 ms per request; the seed copies one at a time."""
    with _source(workspace, _SMALL) as rclone, manager(_DELAY) as target:
        name = workspace.functions.apply(
            _sync(rclone, {"file_manager": target.url, "requests": _CONCURRENT, "overwrite": True})
        )
        run = workspace.functions.run(name)
        if run.moved != _SMALL:
            raise MeasurementError(f"the run moved {run.moved} files instead of {_SMALL}")
        counters = target.counters()
        peer = _one_at_a_time(rclone, target.url)
        again = workspace.functions.run(name)
    note = (
        f"the peer is extrapolated from {_SAMPLE} objects; at most {counters['peak']} of {_CONCURRENT} requests at once"
    )
    return [
        Row("files.small", "s", [run.seconds], [peer], 0.05, note),
        Row("files.small.peak", "requests", [counters["peak"]], aim=_CONCURRENT),
        Row("files.small.requests", "requests", [run.requests]),
        Row(
            "files.small.again",
            "s",
            [again.seconds],
            note=f"a second run with nothing to do: {again.requests} requests",
        ),
    ]


def large(workspace: Workspace) -> list[Row]:
    """Measure one object of 5 GiB, against ``curl | curl``."""
    with _sparse(workspace, _LARGE_BYTES) as rclone, manager(0.0) as target:
        peer = _curl(rclone, target.url)
        name = workspace.functions.apply(_sync(rclone, {"file_manager": target.url, "overwrite": True}))
        with memory.peak(lambda: workspace.functions.processes("transfer")) as peak:
            run = workspace.functions.run(name)
        if run.moved != 1:
            raise MeasurementError("the run did not move the object")
    rows = [Row("files.large", "s", [run.seconds], [peer], 1.15)]
    if peak.mebibytes is not None:
        rows.append(Row("files.large.memory", "MiB", [peak.mebibytes], aim=_MAX_MEMORY))
    return rows


def mirror(workspace: Workspace) -> list[Row]:
    """Measure 10,000 objects from bucket to bucket, against ``rclone sync`` on the same server."""
    with _source(workspace, _SMALL) as rclone:
        first = _mirrored(workspace, rclone, "first")
        peer = RcloneClient(workspace.folder, here=rclone.url).sync("here:source", "here:peer")
        run = _mirrored(workspace, rclone, "target")
    return [
        Row("files.mirror", "s", [run.seconds], [peer], 1.0),
        Row("files.mirror.first", "s", [first.seconds], note="the run that starts the functions"),
        Row(
            "files.mirror.requests",
            "requests",
            [run.requests],
            note="including the listing of the target that verifies every object",
        ),
    ]


def _mirrored(workspace: Workspace, rclone: Rclone, name: str) -> CompletedRun:
    """Run a sync into an empty bucket of the same server."""
    target = {**bucket(rclone.url, name), "requests": 32}
    sync = {"kind": "files", "source": bucket(rclone.url, "source"), "target": target, "overwrite": True}
    run = workspace.functions.run(workspace.functions.apply(sync))
    if run.moved != _SMALL:
        raise MeasurementError(f"the run moved {run.moved} objects instead of {_SMALL}")
    return run


def changes(workspace: Workspace) -> list[Row]:
    """Count the calls that 100 events cause with 1,000,000 records in state, against 1,000 records."""
    del workspace  # a separate process counts every call
    rows = []
    counted: dict[int, Mapping[str, int]] = {}
    for records in (1_000, 1_000_000):
        command = [sys.executable, "-m", "bench.files_calls", str(records)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=1800)
        if done.returncode != 0:
            raise MeasurementError(done.stderr.strip()[-500:])
        counted[records] = {k: int(v) for k, v in (line.split() for line in done.stdout.splitlines())}
    for service, calls in counted[1_000_000].items():
        rows.append(Row(f"files.changes.{service}", "calls", [calls], [counted[1_000][service]], 1.0))
    return rows


MEASUREMENTS: Final[Mapping[str, Callable[[Workspace], Sequence[Row]]]] = {
    "small": small,
    "large": large,
    "mirror": mirror,
    "changes": changes,
    **files_idle.MEASUREMENTS,
}


@contextmanager
def _source(workspace: Workspace, count: int) -> Iterator[Rclone]:
    """Start a real S3 server with ``count`` small objects."""
    with tempfile.TemporaryDirectory(dir=workspace.folder) as folder:
        rng = random.Random(1)
        for number in range(count):
            path = Path(folder, "root", "source", f"d{number % 20:02}", f"file-{number:05}.bin")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(rng.randbytes(_SMALL_BYTES))
        with Rclone(Path(folder, "root"), "source", "first", "target", "peer") as rclone:
            yield rclone


@contextmanager
def _sparse(workspace: Workspace, size: int) -> Iterator[Rclone]:
    with tempfile.TemporaryDirectory(dir=workspace.folder) as folder:
        path = Path(folder, "root", "source", "large.bin")
        path.parent.mkdir(parents=True)
        with path.open("wb") as file:
            file.truncate(size)
        with Rclone(Path(folder, "root"), "source") as rclone:
            yield rclone


def _sync(rclone: Rclone, target: Mapping[str, Any]) -> dict[str, Any]:
    overwrite = {"overwrite": True} if "overwrite" in target else {}
    bare = {name: value for name, value in target.items() if name != "overwrite"}
    return {"kind": "files", "source": bucket(rclone.url, "source"), "target": bare, **overwrite}


def _one_at_a_time(rclone: Rclone, url: str) -> float:
    """Return the seconds of the seed's method: one object at a time is read, saved, and given its permissions."""
    bucket = Bucket(Endpoint.parse(rclone.url), "source", lambda: AccessKeys(ACCESS, SECRET), Http())
    http = Http()
    keys = [each.key for each in bucket.page(limit=_SAMPLE).objects]
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    began = time.perf_counter()
    for key in keys:
        _, content = bucket.read(key, 1 << 20)
        boundary = "seed"
        head = "".join(
            f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
            for name, value in (("operation", "create"), ("file_path", f"seed/{key}"))
        )
        head += f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
        body = head.encode() + content + f"\r\n--{boundary}--\r\n".encode()
        multipart = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        saved = http.request("POST", f"{url}/saveToDisk", multipart, body)
        permitted = http.request(
            "POST", f"{url}/updatePermissions", form, f"file_path=seed/{key}&permissions=rw-r--r--".encode()
        )
        if (saved.status, permitted.status) != (200, 200):
            raise MeasurementError(
                f"the file manager answered the seed's requests with {saved.status} and {permitted.status}"
            )
    return (time.perf_counter() - began) / len(keys) * _SMALL


def _curl(rclone: Rclone, url: str) -> float:
    # curl -F buffers piped input and fails at this size, so the form is built here.
    head = "".join(
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n{value}'
        for name, more, value in (
            ("operation", "", "create\r\n"),
            ("file_path", "", "curl.bin\r\n"),
            ("file", '; filename="f"\r\nContent-Type: application/octet-stream', ""),
        )
    )
    tail = f"\r\n--{_BOUNDARY}--\r\n"
    script = """
set -eo pipefail
{
    printf %s "$HEAD"
    curl -sf --aws-sigv4 aws:amz:us-east-1:s3 --user "$KEYS" "$SOURCE"
    printf %s "$TAIL"
} | curl -sf -o /dev/null -X POST -T - -H "Content-Length: $LENGTH" -H "Transfer-Encoding:" -H "Expect:" \\
    -H "Content-Type: multipart/form-data; boundary=$BOUNDARY" "$TARGET/saveToDisk"
"""
    variables = {"KEYS": f"{ACCESS}:{SECRET}", "SOURCE": f"{rclone.url}/source/large.bin", "TARGET": url}
    variables |= {
        "HEAD": head,
        "TAIL": tail,
        "BOUNDARY": _BOUNDARY,
        "LENGTH": str(len(head) + _LARGE_BYTES + len(tail)),
    }
    began = time.perf_counter()
    done = subprocess.run(
        ["bash", "-c", script], env=os.environ | variables, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise MeasurementError(f"curl failed: {done.stderr.strip()[-300:]}")
    return time.perf_counter() - began
