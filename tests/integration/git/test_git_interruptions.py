"""Pushes of the git program that are interrupted, and failures in the middle of its work."""

from __future__ import annotations

import os
import resource
import subprocess
import threading
from pathlib import Path

import pytest

from syncline.clients.git import program as git
from syncline.clients.git.access import TokenCredentials
from syncline.clients.git.objects import blob_id
from syncline.clients.git.repository import (
    BlobContent,
    NewCommit,
    RemoteBranch,
    open_branch,
)
from tests.integration.git.branches import FILES, ME, TOKEN, error_of, location, new_commit, opened_branch, push_file
from tests.standins.git_http import GitHttp
from tests.standins.git_places import Bare, make_key
from tests.standins.programs import needs


def test_a_push_with_a_lost_response_is_recognized_as_successful(http: GitHttp, bare: Bare) -> None:
    bare.fill(FILES)
    http.lose_pushes = 1
    commit = push_file(location(http.url + "/r.git", TokenCredentials(TOKEN)))
    assert bare.git("rev-parse", "main").strip() == commit
    assert len(bare.commits()) == 2


def test_a_full_disk_has_its_code(tmp_path: Path, bare: Bare, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use a separate file system of 400 KiB or, without the right to mount one, a limit on the size of files."""
    bare.fill(FILES)
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", small], capture_output=True, check=False
    )
    if mounted.returncode:
        check_with_a_file_size_limit(bare)
        return
    monkeypatch.setattr("tempfile.tempdir", str(small))
    try:
        data = os.urandom(2_000_000)
        error = error_of(lambda: push_file(location(f"file://{bare.path}"), data=data))
        assert error.code.name == "DISK_FULL", error
        with open_branch(location(f"file://{bare.path}"), "main", depth=2, left=lambda: 60.0) as branch:
            branch.fetch()
            error = error_of(lambda: branch.store_stream(BlobContent(len(data), iter([data]))))
            assert error.code.name == "DISK_FULL"
        assert list(small.iterdir()) == []
        assert len(bare.commits()) == 1
    finally:
        subprocess.run(["umount", small], check=True)


def check_with_a_file_size_limit(bare: Bare) -> None:
    """Push while no file of a process may grow beyond 100 KB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        error = error_of(lambda: push_file(location(f"file://{bare.path}"), data=os.urandom(2_000_000)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert error.code.name in ("DISK_FULL", "GIT_FAILED")
    assert len(bare.commits()) == 1


def commit_one(branch: RemoteBranch) -> str:
    """Return a new commit of one file that has not been pushed."""
    branch.fetch()
    branch.folders([b"c0"])
    branch.store([b"x"])
    return branch.commit(new_commit(), {b"c0/x": blob_id(b"x")})


def test_a_command_that_takes_too_long_is_ended_with_its_child_processes(http: GitHttp, bare: Bare) -> None:
    bare.fill(FILES)
    waiting = threading.Event()
    http.before_push = [lambda: waiting.wait(30)]
    left = iter([60.0] * 7 + [0.3] * 10)
    branch = opened_branch(location(http.url + "/r.git", TokenCredentials(TOKEN)), left=lambda: next(left, 0.3))
    commit = commit_one(branch)
    error = error_of(lambda: branch.push(commit))
    waiting.set()
    assert error.code.name == "TIME_SHORT"
    assert (
        error_of(lambda: opened_branch(location(http.url + "/r.git"), left=lambda: 0.0).fetch()).code.name
        == "TIME_SHORT"
    )


def test_a_command_ends_when_its_run_is_cancelled(http: GitHttp, bare: Bare, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(git, "_POLL_INTERVAL", 0.01)
    bare.fill(FILES)
    waiting, pushing = threading.Event(), threading.Event()

    def hang() -> None:
        pushing.set()
        waiting.wait(30)

    http.before_push = [hang]
    branch = opened_branch(location(http.url + "/r.git", TokenCredentials(TOKEN)), halted=pushing.is_set)
    commit = commit_one(branch)
    error = error_of(lambda: branch.push(commit))
    waiting.set()
    assert error.code.name == "RUN_CANCELLED"
    assert error_of(branch.fetch).code.name == "RUN_CANCELLED"


def test_a_blob_of_another_size_than_announced_is_refused(bare: Bare) -> None:
    branch = opened_branch(location(f"file://{bare.path}"))
    for size, chunks in ((5, [b"four"]), (5, [b"sixsix"]), (5, [])):
        assert error_of(lambda s=size, c=chunks: branch.store_stream(BlobContent(s, c))).code.name == "SOURCE_CHANGED"  # type: ignore[misc]


def test_a_signed_commit_is_verified_with_its_key_only(bare: Bare, tmp_path: Path) -> None:
    needs("ssh-keygen")
    first = bare.fill(FILES)
    public = make_key(tmp_path / "signing")
    key = (tmp_path / "signing").read_text()
    branch = opened_branch(location(f"file://{bare.path}"))
    branch.fetch()
    branch.folders([b"c0"])
    branch.store([b"x"])
    signed = NewCommit("signed\n", ME, ME, 1_752_358_018, key)
    branch.push(branch.commit(signed, {b"c0/x": blob_id(b"x")}))
    (tmp_path / "allowed").write_text(f"{ME.email} {public}\n")
    verified = ["-c", f"gpg.ssh.allowedSignersFile={tmp_path}/allowed", "verify-commit", "main"]
    bare.git(*verified)
    assert bare.git("rev-parse", "main^").strip() == first
    assert bare.show("c0/x") == b"x"
    bare.check()
    (tmp_path / "allowed").write_text(f"{ME.email} {make_key(tmp_path / 'other')}\n")
    with pytest.raises(subprocess.CalledProcessError):
        bare.git(*verified)


@pytest.mark.parametrize("status", [503, 403, 404])
def test_a_failed_fetch_of_missing_objects_has_a_code(bare: Bare, http: GitHttp, status: int) -> None:
    first = bare.fill(FILES)
    with open_branch(
        location(f"{http.url}/r.git", TokenCredentials(TOKEN)), "main", depth=2, left=lambda: 60.0
    ) as branch:
        tip = branch.fetch()
        assert tip is not None
        http.answer_with = status
        known = {503: "SERVER_ERROR", 403: "FORBIDDEN", 404: "REPOSITORY_ABSENT"}[status]
        assert error_of(lambda: list(branch.files(b"", tip.tree))).code.name == known
        assert error_of(lambda: branch.set_tip("1" * 40)).code.name == known
        branch._blobs.add(blob_id(b"000"))

        def read() -> None:
            with branch.blobs([blob_id(b"000")]) as blobs:
                next(blobs)

        assert error_of(read).code.name == known
        http.answer_with = None
        read()
        assert len(list(branch.files(b"", tip.tree))) == len(FILES)
        assert branch.tip is not None
        assert branch.tip.oid == first
