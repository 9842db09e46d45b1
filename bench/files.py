"""The kind ``files``: the deployed functions, against the seed's method, curl, and rclone."""

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
from bench.measure import NotMadeError, Row
from bench.peers import RcloneClient
from bench.place import ROOT, Place, Ran, bucket
from syncline.clients.http.addresses import Endpoint
from syncline.clients.http.client import Http
from syncline.clients.s3.client import Bucket
from syncline.clients.s3.sigv4 import AccessKeys
from tests.standins.rclone import ACCESS, SECRET, Rclone

_SMALL: Final = 10_000
_SMALL_BYTES: Final = 4096
_DELAY: Final = 0.02  # seconds that the file manager takes for a request
_AT_ONCE: Final = 96
_SAMPLE: Final = 300
"""Objects that the seed's method is measured with; the result is multiplied, as each takes the same time."""
_LARGE_BYTES: Final = 5 * 1024**3
_EDGE: Final = "the-edge-of-a-part"
_MOST_MEMORY: Final = 150  # MiB


def small(place: Place) -> list[Row]:
    """10,000 objects of 4 KiB to a file manager that takes 20 ms for a request; the seed sends one after the other."""
    with _source(place, _SMALL) as rclone, manager(_DELAY) as target:
        name = place.functions.apply(
            _sync(rclone, {"file_manager": target.url, "requests": _AT_ONCE, "overwrite": True})
        )
        ran = place.functions.run(name)
        if ran.moved != _SMALL:
            raise NotMadeError(f"{ran.moved} files were moved")
        seen = target.seen()
        peer = _one_after_another(rclone, target.url)
        again = place.functions.run(name)
    note = f"the seed's way measured with {_SAMPLE} objects, multiplied; at most {seen['peak']} of {_AT_ONCE} requests at a time"
    return [
        Row("files.small", "s", [ran.seconds], [peer], 0.05, note),
        Row("files.small.peak", "requests", [seen["peak"]], aim=_AT_ONCE),
        Row("files.small.requests", "requests", [ran.requests]),
        Row("files.small.again", "s", [again.seconds], note=f"nothing to do: {again.requests} requests"),
    ]


def large(place: Place) -> list[Row]:
    """One object of 5 GiB, against ``curl | curl``."""
    with _sparse(place, _LARGE_BYTES) as rclone, manager(0.0) as target:
        peer = _curl(rclone, target.url)
        name = place.functions.apply(_sync(rclone, {"file_manager": target.url, "overwrite": True}))
        with memory.peak(lambda: place.functions.processes("transfer")) as peak:
            ran = place.functions.run(name)
        if ran.moved != 1:
            raise NotMadeError("the large object was not moved")
    rows = [Row("files.large", "s", [ran.seconds], [peer], 1.15)]
    if peak.mebibytes is not None:
        rows.append(Row("files.large.memory", "MiB", [peak.mebibytes], aim=_MOST_MEMORY))
    return rows


def mirror(place: Place) -> list[Row]:
    """10,000 objects from bucket to bucket, against ``rclone sync`` on the same servers."""
    with _source(place, _SMALL) as rclone:
        first = _mirrored(place, rclone, "first")
        peer = RcloneClient(place.folder, here=rclone.url).sync("here:source", "here:peer")
        ran = _mirrored(place, rclone, "target")
    return [
        Row("files.mirror", "s", [ran.seconds], [peer], 1.0),
        Row("files.mirror.first", "s", [first.seconds], note="the functions' processes start in it"),
        Row(
            "files.mirror.requests",
            "requests",
            [ran.requests],
            note="each proved by the target's listing afterwards",
        ),
    ]


def _mirrored(place: Place, rclone: Rclone, name: str) -> Ran:
    """Run a sync into an empty bucket of the same server."""
    target = {**bucket(rclone.url, name), "requests": 32}
    sync = {"kind": "files", "source": bucket(rclone.url, "source"), "target": target, "overwrite": True}
    ran = place.functions.run(place.functions.apply(sync))
    if ran.moved != _SMALL:
        raise NotMadeError(f"{ran.moved} objects were moved")
    return ran


def changes(place: Place) -> list[Row]:
    """100 events with 1,000 and with 1,000,000 records in state: the calls they cause."""
    del place  # in a separate process, so that every call is counted
    rows = []
    counted: dict[int, Mapping[str, int]] = {}
    for records in (1_000, 1_000_000):
        command = [sys.executable, "-m", "bench.files_calls", str(records)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=1800)
        if done.returncode != 0:
            raise NotMadeError(done.stderr.strip()[-500:])
        counted[records] = {k: int(v) for k, v in (line.split() for line in done.stdout.splitlines())}
    for what, calls in counted[1_000_000].items():
        rows.append(Row(f"files.changes.{what}", "calls", [calls], [counted[1_000][what]], 1.0))
    return rows


MEASUREMENTS: Final[Mapping[str, Callable[[Place], Sequence[Row]]]] = {
    "small": small,
    "large": large,
    "mirror": mirror,
    "changes": changes,
    **files_idle.MEASUREMENTS,
}


@contextmanager
def _source(place: Place, count: int) -> Iterator[Rclone]:
    """Start a real S3 server that already has small objects."""
    with tempfile.TemporaryDirectory(dir=place.folder) as folder:
        rng = random.Random(1)
        for number in range(count):
            path = Path(folder, "root", "source", f"d{number % 20:02}", f"file-{number:05}.bin")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(rng.randbytes(_SMALL_BYTES))
        with Rclone(Path(folder, "root"), "source", "first", "target", "peer") as rclone:
            yield rclone


@contextmanager
def _sparse(place: Place, size: int) -> Iterator[Rclone]:
    with tempfile.TemporaryDirectory(dir=place.folder) as folder:
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


def _one_after_another(rclone: Rclone, url: str) -> float:
    """Return the seconds of the seed's method: for each object in turn, read it completely, set its permissions, save it."""
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
        kind = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        saved = http.request("POST", f"{url}/saveToDisk", kind, body)
        permitted = http.request(
            "POST", f"{url}/updatePermissions", form, f"file_path=seed/{key}&permissions=rw-r--r--".encode()
        )
        if (saved.status, permitted.status) != (200, 200):
            raise NotMadeError(f"the seed's way was answered {saved.status} and {permitted.status}")
    return (time.perf_counter() - began) / len(keys) * _SMALL


def _curl(rclone: Rclone, url: str) -> float:
    # The form is built here, because curl -F buffers piped input and fails at this size.
    head = "".join(
        f'--{_EDGE}\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n{value}'
        for name, more, value in (
            ("operation", "", "create\r\n"),
            ("file_path", "", "curl.bin\r\n"),
            ("file", '; filename="f"\r\nContent-Type: application/octet-stream', ""),
        )
    )
    tail = f"\r\n--{_EDGE}--\r\n"
    script = """
set -eo pipefail
{
    printf %s "$HEAD"
    curl -sf --aws-sigv4 aws:amz:us-east-1:s3 --user "$KEYS" "$SOURCE"
    printf %s "$TAIL"
} | curl -sf -o /dev/null -X POST -T - -H "Content-Length: $LENGTH" -H "Transfer-Encoding:" -H "Expect:" \\
    -H "Content-Type: multipart/form-data; boundary=$EDGE" "$TARGET/saveToDisk"
"""
    variables = {"KEYS": f"{ACCESS}:{SECRET}", "SOURCE": f"{rclone.url}/source/large.bin", "TARGET": url}
    variables |= {"HEAD": head, "TAIL": tail, "EDGE": _EDGE, "LENGTH": str(len(head) + _LARGE_BYTES + len(tail))}
    began = time.perf_counter()
    done = subprocess.run(
        ["bash", "-c", script], env=os.environ | variables, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise NotMadeError(f"curl failed: {done.stderr.strip()[-300:]}")
    return time.perf_counter() - began
