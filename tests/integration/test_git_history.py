"""The files that commits with a trailer wrote, read from the history of a branch."""

from __future__ import annotations

from pathlib import Path

import pytest

from syncline.clients.git import history as git_history
from syncline.clients.git.access import GitRemote
from syncline.clients.git.objects import blob_id
from syncline.clients.git.program import GitRunner
from syncline.clients.git.repository import RepositoryLocation, open_branch
from tests.standins.git_places import Bare, make_bare

TRAILER = "Syncline-Sync: sync"
OURS = f"backup\n\n{TRAILER}\nSyncline-Batch: 1\n"


@pytest.fixture
def bare(tmp_path: Path) -> Bare:
    return make_bare(tmp_path / "r.git")


def put(bare: Bare, since: str | None = None, folder: bytes = b"") -> dict[bytes, str | None]:
    place = RepositoryLocation(GitRemote.parse(f"file://{bare.path}"))
    with open_branch(place, "main", depth=1, left=lambda: 60.0) as branch:
        branch.fetch()
        return branch.blobs_with_trailer(since, TRAILER, folder)


def test_the_latest_commit_with_the_trailer_decides(bare: Bare) -> None:
    bare.fill({"a/x": b"1", "a/foreign": b"f"})
    bare.fill({"a/x": b"2", "b/y": b"2"}, message=OURS)
    bare.fill({"a/x": b"3", "b/z": b"3"}, message=f"quotes {TRAILER} in a line")
    bare.fill({"a/x": b"4", "ü/z": b"4"}, message=OURS)
    bare.fill({"b/y": b"5"}, message=OURS.replace("sync\n", "sync-2\n"))
    assert put(bare) == {b"a/x": blob_id(b"4"), "ü/z".encode(): blob_id(b"4"), b"b/y": blob_id(b"2")}
    assert put(bare, folder=b"b") == {b"b/y": blob_id(b"2")}


@pytest.mark.parametrize("sign", list("+?|{}()[]*.^$\\"))
def test_the_trailer_is_not_a_regular_expression(bare: Bare, sign: str) -> None:
    trailer = f"Syncline-Sync: a{sign}b"
    bare.fill({"a": b"1"}, message=f"m\n\n{trailer}\n")
    bare.fill({"b": b"2"}, message=f"m\n\n{trailer}b\n> {trailer}\nSyncline-Sync: aab\n")
    with open_branch(
        RepositoryLocation(GitRemote.parse(f"file://{bare.path}")), "main", depth=1, left=lambda: 60.0
    ) as branch:
        branch.fetch()
        assert branch.blobs_with_trailer(None, trailer, b"") == {b"a": blob_id(b"1")}


def test_a_removal_by_a_commit_is_reported(bare: Bare) -> None:
    bare.fill({"a/x": b"1"}, message=OURS)
    tip = bare.git("rev-parse", "main").strip()
    stream = f"commit refs/heads/main\ncommitter o <o@o> 1 +0000\ndata {len(OURS)}\n{OURS}\nfrom {tip}\nD a/x\n"
    bare.git("fast-import", "--quiet", feed=stream.encode())
    assert put(bare) == {b"a/x": None}


def test_only_the_necessary_part_of_the_history_is_read(bare: Bare, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(git_history, "_DEPTHS", (2, git_history.FULL_DEPTH))
    depths: list[int] = []
    fetch = git_history._fetch

    def noted(git: GitRunner, tip: str, depth: int, what: str) -> None:
        depths.append(depth)
        fetch(git, tip, depth, what)

    monkeypatch.setattr(git_history, "_fetch", noted)
    commits = [bare.fill({"a/foreign": b"f"})]
    commits += [bare.fill({f"a/{n}": b"%d" % n}, message=OURS if n % 2 else "theirs") for n in range(1, 5)]
    assert put(bare, since=commits[3]) == {}
    assert depths == [2], "more than commits was fetched"
    depths.clear()
    commits.append(bare.fill({"a/5": b"5"}, message=OURS))
    assert put(bare, since=commits[4]) == {b"a/5": blob_id(b"5")}
    assert depths == [2, 2]
    # At the end of a shallow history, a commit of ours would appear to have written all files.
    every = {b"a/%d" % n: blob_id(b"%d" % n) for n in (1, 3, 5)}
    for since in (None, "0" * 40):
        assert put(bare, since) == every
    assert put(bare, since=commits[1]) == {path: every[path] for path in (b"a/3", b"a/5")}


def test_the_complete_history_of_a_reset_branch_is_read(bare: Bare) -> None:
    first = bare.fill({"a/x": b"1", "a/y": b"1"}, message=OURS)
    last = bare.fill({"a/x": b"2"}, message=OURS)
    assert put(bare, since=first) == {b"a/x": blob_id(b"2")}
    bare.git("update-ref", "refs/heads/main", first)
    assert put(bare, since=last) == {b"a/x": blob_id(b"1"), b"a/y": blob_id(b"1")}
    # The server still has the commit, but the branch's history no longer contains it.
    bare.git("update-ref", "refs/heads/kept", last)
    bare.fill({"a/z": b"3"}, message=OURS)
    assert put(bare, since=last) == {b"a/x": blob_id(b"1"), b"a/y": blob_id(b"1"), b"a/z": blob_id(b"3")}


def test_a_commit_without_its_parents_is_ignored(bare: Bare, tmp_path: Path) -> None:
    bare.fill({"a/foreign": b"f"})
    bare.fill({"a/x": b"1"}, message=OURS)
    bare.fill({"a/y": b"2"}, message=OURS)
    bare.git("clone", "--quiet", "--bare", "--depth=2", f"file://{bare.path}", str(tmp_path / "cut.git"))
    cut = Bare(tmp_path / "cut.git")
    cut.git("config", "uploadpack.allowFilter", "true")
    cut.git("config", "uploadpack.allowAnySHA1InWant", "true")
    assert put(cut) == {b"a/y": blob_id(b"2")}


def test_an_absent_branch_has_no_history(bare: Bare) -> None:
    assert put(bare) == {}
