"""The git model and the git program with the same interface, for the tests that compare them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final, TypeVar

import pytest

from syncline.clients.git.access import GitRemote
from syncline.clients.git.objects import blob_id
from syncline.clients.git.repository import (
    NewCommit,
    Person,
    RemoteBranch,
    RepositoryLocation,
    open_branch,
)
from syncline.clients.http.client import Http
from syncline.errors import SynclineError
from tests.simulation.machine import Machine, Process
from tests.simulation.models.git import sim_open_branch
from tests.simulation.models.git_server import GitServer
from tests.simulation.network import Calls, Faults, Network
from tests.standins.git_http import git_http
from tests.standins.git_places import make_bare

URL: Final = "https://git.example/team/backups.git"
ME: Final = Person("Backup Bot", "backup@example.com")
FILES: Final = {f"c{c}/n{n}/f{f}": f"{c}{n}{f}".encode() for c in range(3) for n in range(2) for f in range(3)}
IDS: Final = {path.encode(): blob_id(data) for path, data in FILES.items()}
T = TypeVar("T")


class ModelSystem:
    """The model, without faults."""

    def __init__(self) -> None:
        machine = Machine(1)
        self.calls = Calls(machine, Process(machine, "p"), Faults(off=True))
        self.network = Network(self.calls, Http())
        self.server = GitServer(URL, lambda: 1_750_000_000.0)
        self.opened = sim_open_branch({URL: self.server}, lambda: self.network)
        self.files, self.answers_to_lose = self.server.files, 0
        call = self.network.call

        def lossy(host: str, name: str, function: Callable[[], T], *, writes: bool = False, **more: bool) -> T:
            answer = call(host, name, function, writes=writes, **more)
            if writes and self.answers_to_lose:
                self.answers_to_lose -= 1
                raise SynclineError("UNREACHABLE", "the answer was lost")
            return answer

        self.network.call = lossy  # type: ignore[method-assign]

    def open(self, branch: str, depth: int, url: str = URL) -> contextlib.AbstractContextManager[RemoteBranch]:
        return self.opened(RepositoryLocation(GitRemote.parse(url)), branch, depth=depth, left=lambda: 60.0)

    def open_absent(self) -> contextlib.AbstractContextManager[RemoteBranch]:
        return self.open("main", 1, "https://git.example/absent.git")

    def fill(self, files: Mapping[str, bytes], branch: str = "main", message: str = "filled") -> str:
        """Commit files as a foreign writer."""
        return self.server.commit_outside(branch, files, message)

    def subjects(self, branch: str = "main") -> list[str]:
        return [commit.message.partition("\n")[0] for commit in self.server.log(branch)]

    def lose_push_answer(self) -> None:
        """Lose the answer to the next push."""
        self.answers_to_lose = 1

    def protect(self) -> None:
        self.server.refuses_pushes = True

    def reset(self, commit: str, branch: str = "main") -> None:
        self.server.rewind(branch, [each.oid for each in self.server.log(branch)].index(commit))


class GitSystem:
    """The git program on a folder, or on a stand-in of a git host, which can lose an answer."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self.bare, self.stack, self.folder = make_bare(folder / "r.git"), stack, folder
        self.base = f"file://{folder}"
        self.files, self.fill, self.subjects = self.bare.files, self.bare.fill, self.bare.commits

    def open(self, branch: str, depth: int, name: str = "r") -> contextlib.AbstractContextManager[RemoteBranch]:
        place = RepositoryLocation(GitRemote.parse(f"{self.base}/{name}.git"))
        return open_branch(place, branch, depth=depth, left=lambda: 60.0)

    def open_absent(self) -> contextlib.AbstractContextManager[RemoteBranch]:
        return self.open("main", 1, "absent")

    def lose_push_answer(self) -> None:
        http = self.stack.enter_context(git_http(self.folder))
        http.lose_pushes = 1
        self.base = http.url

    def protect(self) -> None:
        self.bare.refuse_pushes("GH006: Protected branch update failed")

    def reset(self, commit: str, branch: str = "main") -> None:
        self.bare.git("update-ref", f"refs/heads/{branch}", commit)


System = ModelSystem | GitSystem


@contextlib.contextmanager
def opened_system(name: str, folder: Path) -> Iterator[System]:
    """Yield the system ``model`` or ``git``. The repository of ``git`` is in a folder."""
    with contextlib.ExitStack() as stack:
        yield ModelSystem() if name == "model" else GitSystem(folder, stack)


@contextlib.contextmanager
def branch_of(system: System, name: str = "main", depth: int = 2) -> Iterator[RemoteBranch]:
    """Open a branch and fetch it."""
    with system.open(name, depth) as branch:
        branch.fetch()
        yield branch


def new_commit(message: str = "changed\n") -> NewCommit:
    return NewCommit(message, ME, ME, 1_752_358_018)


def code(call: Callable[[], object]) -> str:
    """Return the code of the error that a call raises."""
    with pytest.raises(SynclineError) as caught:
        call()
    return caught.value.code.name


def content(branch: RemoteBranch, *oids: str) -> list[bytes]:
    """Return the content of blobs."""
    with branch.blobs(oids) as blobs:
        return [b"".join(blob.chunks) for blob in blobs]


def commit(branch: RemoteBranch, changes: Mapping[str, bytes | None], message: str = "changed\n") -> str:
    """Store the contents of a commit, make it and return its ID. None removes a file."""
    branch.store([data for data in changes.values() if data is not None])
    return branch.commit(
        new_commit(message), {p.encode(): None if d is None else blob_id(d) for p, d in changes.items()}
    )
