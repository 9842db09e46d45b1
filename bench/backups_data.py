"""A backup bucket of any size on a real S3 server, its repository, and the changes between rounds.

The content of each object is derived from its key, so that nothing is kept in memory: 300 to 4,000 bytes of YAML.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from syncline.clients.git.objects import blob_id, quoted, tree_id
from syncline.store.backup_records import FileCount
from tests.standins.git_http import GitHttp, git_http
from tests.standins.git_places import Bare, make_bare
from tests.standins.rclone import Rclone

CLUSTERS: Final = 60
NAMESPACES: Final = 25
NEW: Final = 23
MODIFIED: Final = 15
DELETED: Final = 2
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
BUCKET: Final = "cluster-backups"


def content(key: str, version: int = 0) -> bytes:
    """Return the content of an object."""
    digest = hashlib.sha256(f"{key}#{version}".encode()).hexdigest()
    lines = [f"apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {key}\n  uid: {digest}\ndata:\n"]
    lines += [f"  key-{n}: value of {digest[n % 32 :]}\n" for n in range(2 + int(digest[:2], 16) // 6)]
    return "".join(lines).encode()


def keys(files: int, clusters: int) -> Iterator[str]:
    """Yield the keys of a bucket."""
    for number in range(files):
        cluster, rest = number % clusters, number // clusters
        yield f"cluster-{cluster:03}/namespace-{rest % NAMESPACES:02}/resource-{rest // NAMESPACES:05}.yaml"


@dataclass
class BackupData:
    """A bucket and a repository with the same files. ``version`` counts the rounds of changes."""

    folder: Path
    files: int
    clusters: int
    bare: Bare
    http: GitHttp
    s3: Rclone
    counts: dict[str, FileCount] = field(default_factory=dict)
    version: int = 0

    @property
    def repository(self) -> str:
        return f"{self.http.url}/r.git"

    def path(self, key: str) -> Path:
        return self.s3.root / BUCKET / key

    def change(self) -> list[str]:
        """Change the bucket; return the new, modified and deleted keys."""
        self.version += 1
        spread = [
            key for n, key in enumerate(keys(self.files, self.clusters)) if n % (self.files // 100) == self.version % 7
        ]
        # Files deleted in an earlier round are not changed again.
        existing = [key for key in spread if self.path(key).exists()]
        modified, deleted = existing[:MODIFIED], existing[-DELETED:]
        new = [f"{key.rpartition('/')[0]}/new-{self.version}-{n}.yaml" for n, key in enumerate(existing[20 : 20 + NEW])]
        for key in (*modified, *new):
            self.path(key).write_bytes(content(key, self.version))
        for key in deleted:
            self.path(key).unlink()
        return [*new, *modified, *deleted]

    def sent_by_bucket(self) -> int:
        """Return the bytes written by the S3 server's process so far, nearly all to its clients."""
        counters = Path(f"/proc/{self.s3._process.pid}/io").read_text().splitlines()  # noqa: SLF001
        return int(dict(line.split(": ") for line in counters)["wchar"])

    def reset(self) -> None:
        """Reset the branch, so that the next method does the same work."""
        self.bare.git("update-ref", "refs/heads/main", "refs/heads/before")


def backup_data(stack: ExitStack, folder: Path, files: int, clusters: int = CLUSTERS) -> BackupData:
    """Create a bucket and a repository that live as long as ``stack``."""
    folder.mkdir(parents=True)
    root = folder / "s3"
    bare = make_bare(folder / "git" / "r.git")
    for cluster in range(clusters):
        for namespace in range(NAMESPACES):
            (root / BUCKET / f"cluster-{cluster:03}/namespace-{namespace:02}").mkdir(parents=True)
    blobs: dict[str, list[tuple[bytes, str]]] = {}
    command = ["git", "-C", str(bare.path), "fast-import", "--quiet", "--depth=0"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as git:
        assert git.stdin is not None
        git.stdin.write(b"commit refs/heads/main\ncommitter x <x@example.com> 1752358018 +0000\ndata 6\nfilled\n")
        for key in keys(files, clusters):
            data = content(key)
            (root / BUCKET / key).write_bytes(data)
            git.stdin.write(b"M 100644 inline " + quoted(key.encode()) + b"\ndata %d\n" % len(data) + data + b"\n")
            name, _, rest = key.partition("/")
            blobs.setdefault(name, []).append((rest.encode(), blob_id(data)))
        git.stdin.close()
    assert git.returncode == 0
    bare.git("update-ref", "refs/heads/before", "refs/heads/main")
    counts = {cluster: FileCount(tree_id(entries), len(entries)) for cluster, entries in blobs.items()}
    http = stack.enter_context(git_http(bare.path.parent))
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    return BackupData(folder, files, clusters, bare, http, stack.enter_context(Rclone(root)), counts)


def disk_usage(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(parent) / name).lstat().st_size
            except FileNotFoundError:  # deleted meanwhile
                continue
    return total


def resident_bytes(pid: int) -> int:
    """Return the resident bytes of a process and its children; shared pages count once for each process."""
    total = 0
    waiting = [pid]
    while waiting:
        each = waiting.pop()
        try:
            total += int(Path(f"/proc/{each}/statm").read_text().split()[1]) * _PAGE
            waiting += map(int, Path(f"/proc/{each}/task/{each}/children").read_text().split())
        except (FileNotFoundError, ProcessLookupError):  # it has ended
            continue
    return total


class ResourceMonitor:
    """Peak memory of a process and its children, and peak size of a folder, in bytes, sampled every 10 ms."""

    def __init__(self, pid: int, folder: Path | None = None) -> None:
        self.memory = self.disk = 0
        self._pid = pid
        self._folder = folder
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._ended.wait(0.01):
            self.memory = max(self.memory, resident_bytes(self._pid))
            if self._folder is not None:
                self.disk = max(self.disk, disk_usage(self._folder))
