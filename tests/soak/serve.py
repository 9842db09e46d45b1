"""One stand-in in a process of its own, to be killed: ``python -m tests.soak.serve git|manager|s3|github FOLDER PORT``.

All that it holds is in FOLDER, so that the next process on the same port goes on from there. ``SOAK_SECRET`` is the
credential that it asks for. The S3 stand-in does not verify signatures. A process that ends by SIGTERM exits with 1 if a
request was not as the original's description says.
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
from tests.soak.durable import Durable, Tally
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
        self._tally = Tally(folder / REQUESTS)

    def answer(self, method: str, target: str, form: Form | None, body: bytes) -> Answer:
        self._tally.append(target)
        self.asked.clear()
        answered = super().answer(method, target, form, body)
        self.kept.commit()
        return answered


class _S3(S3Server):
    def __init__(self, folder: Path, port: int) -> None:
        super().__init__(port=port)
        self.kept = {name: Durable(folder / name) for name in BUCKETS}
        self.objects = dict(self.kept)
        self.requests = Tally(folder / REQUESTS)

    def answer(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> s3_wire.Answer | None:
        answered = super().answer(method, target, headers, body)
        for each in self.kept.values():
            each.commit()
        return answered


class _GitHub(GitHubServer):
    """Its runs are files of the folder, named by their numbers."""

    def __init__(self, folder: Path, token: str, port: int) -> None:
        super().__init__(REPOSITORY, tokens=(token,), port=port)
        self._folder = folder
        self._seen: set[str] = set()
        self.requests = Tally(folder / REQUESTS)

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
                lock.unlink()  # of a git that was killed with its server; whoever runs the server does this
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
            server.requests = Tally(folder / REQUESTS)
        signal.sigwait(signals)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
