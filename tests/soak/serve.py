"""One stand-in as a process that can be killed: ``python -m tests.soak.serve git|manager|s3|github FOLDER PORT``.

Its complete state is in FOLDER, so that the next process on the same port continues with it. ``SOAK_SECRET`` is the
credential that it requires. The S3 stand-in does not verify signatures. A process that SIGTERM ends exits with 1 if a
request violated the API description.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final

from tests.rig.server import Reply
from tests.soak.durable import Durable, RequestCounter
from tests.standins import s3_wire
from tests.standins.file_manager import FileManagerServer
from tests.standins.file_manager_wire import Answer, Form
from tests.standins.git_http import git_http
from tests.standins.github import GitHubServer
from tests.standins.s3 import S3Server

FILES: Final = "files"
REQUESTS: Final = "requests"
BUCKETS: Final = ("shop", "clusters")
REPOSITORY: Final = "rapidsai/velox-testing"
GIT_USER: Final = "x-access-token"


class _Manager(FileManagerServer):
    def __init__(self, folder: Path, token: str, port: int) -> None:
        super().__init__(token=token, port=port, strict_modes=True)
        self.kept = Durable(folder / FILES)
        self.files = self.kept
        highest = max((int(each.internal_id.removeprefix("id-")) for each in self.files.values()), default=0)
        for _ in range(highest):
            next(self._numbers)
        self._counter = RequestCounter(folder / REQUESTS)

    def answer(self, method: str, target: str, form: Form | None, body: bytes) -> Answer:
        self._counter.append(target)
        self.asked.clear()
        answered = super().answer(method, target, form, body)
        self.kept.commit()
        return answered


class _S3(S3Server):
    def __init__(self, folder: Path, port: int) -> None:
        super().__init__(port=port)
        self.kept = {name: Durable(folder / name) for name in BUCKETS}
        self.objects = dict(self.kept)
        self.requests = RequestCounter(folder / REQUESTS)

    def answer(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> s3_wire.Answer | None:
        answered = super().answer(method, target, headers, body)
        for each in self.kept.values():
            each.commit()
        return answered


class _GitHub(GitHubServer):
    """Reads its runs from files in the folder, named by their numbers."""

    def __init__(self, folder: Path, token: str, port: int) -> None:
        super().__init__(REPOSITORY, tokens=(token,), port=port)
        self._folder = folder
        self._seen: set[str] = set()
        self.requests = RequestCounter(folder / REQUESTS)

    def answer(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Reply:
        for file in sorted(self._folder.glob("*.run")):
            if file.name not in self._seen:
                self._seen.add(file.name)
                self.runs.append(pickle.loads(file.read_bytes()))
        del self.ranges[:]
        return super().answer(method, target, headers, body)


def _made(kind: str, folder: Path, port: int, secret: str) -> AbstractContextManager[Any]:
    match kind:
        case "git":
            for lock in folder.glob("*.git/**/*.lock"):
                lock.unlink()  # left by a git process that was killed with its server; an administrator removes it
            return git_http(folder, {GIT_USER: secret}, port=port)
        case "manager":
            return _Manager(folder, secret, port)
        case "s3":
            return _S3(folder, port)
        case _:
            return _GitHub(folder, secret, port)


def main(kind: str, folder: Path, port: int) -> None:
    """Serve until SIGTERM."""
    signals = {signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    with _made(kind, folder, port, os.environ.pop("SOAK_SECRET")) as server:
        if kind == "git":
            server.requests = RequestCounter(folder / REQUESTS)
        signal.sigwait(signals)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
