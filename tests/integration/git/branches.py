"""Commits and pushes to a branch with the git program, for the tests of its transports."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import pytest

from syncline.clients.git.access import GitCredentials, GitRemote
from syncline.clients.git.objects import blob_id
from syncline.clients.git.repository import (
    NewCommit,
    Person,
    RemoteBranch,
    RepositoryLocation,
    open_branch,
)
from syncline.clients.http.addresses import Route
from syncline.clients.http.retry import never_halted
from syncline.errors import SynclineError

TOKEN: Final = "ghp_a-token-that-must-not-be-seen"
ME: Final = Person("Backup Bot", "backup@example.com")
FILES: Final = {f"c{c}/n{n}/f{f}": f"{c}{n}{f}".encode() for c in range(3) for n in range(2) for f in range(3)}


def location(
    url: str, access: GitCredentials = None, ca: str | None = None, proxy: str | None = None
) -> RepositoryLocation:
    return RepositoryLocation(GitRemote.parse(url), access, Route(ca, proxy))


def opened_branch(
    at: RepositoryLocation,
    branch: str = "main",
    left: Callable[[], float] = lambda: 60.0,
    halted: Callable[[], bool] = never_halted,
) -> RemoteBranch:
    """Return an open branch. It stays open until the object is garbage-collected."""
    opened = open_branch(at, branch, depth=2, left=left, halted=halted)
    result = opened.__enter__()
    result.keep = opened  # type: ignore[attr-defined]
    return result


def new_commit(message: str = "changed\n") -> NewCommit:
    return NewCommit(message, ME, ME, 1_752_358_018)


def push_file(at: RepositoryLocation, path: str = "c1/n1/new", data: bytes = b"new", branch: str = "main") -> str:
    """Push a commit that adds a file; return its ID."""
    with open_branch(at, branch, depth=2, left=lambda: 60.0) as opened:
        opened.fetch()
        opened.folders([path.rpartition("/")[0].encode()])
        opened.store([data])
        commit = opened.commit(new_commit(), {path.encode(): blob_id(data)})
        opened.push(commit)
    return commit


def error_of(call: Callable[[], object]) -> SynclineError:
    with pytest.raises(SynclineError) as caught:
        call()
    assert TOKEN not in str(caught.value)
    return caught.value
