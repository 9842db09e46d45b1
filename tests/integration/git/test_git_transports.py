"""Commits and fetches with the git program over HTTP, over SSH and from a folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from syncline.clients.git.access import SshCredentials, TokenCredentials
from syncline.clients.git.objects import blob_id
from syncline.clients.git.repository import (
    BlobContent,
    RepositoryLocation,
    open_branch,
)
from tests.integration.git.branches import FILES, TOKEN, error_of, location, new_commit, opened_branch, push_file
from tests.standins.git_places import Bare, Sshd


@pytest.fixture(params=["http", "ssh", "file"])
def transport(request: pytest.FixtureRequest, bare: Bare) -> RepositoryLocation:
    if request.param == "http":
        return location(request.getfixturevalue("http").url + "/r.git", TokenCredentials(TOKEN))
    if request.param == "ssh":
        server: Sshd = request.getfixturevalue("ssh")
        return location(server.url(bare), SshCredentials(server.key, server.known_hosts))
    return location(f"file://{bare.path}")


def test_a_commit_on_an_existing_branch(transport: RepositoryLocation, bare: Bare) -> None:
    first = bare.fill(FILES)
    large = os.urandom(9_000_000)
    with open_branch(transport, "main", depth=2, left=lambda: 60.0) as branch:
        tip = branch.fetch()
        assert tip is not None
        assert tip.oid == first
        folders = branch.folders([b"", b"c0/n0", b"c0/absent", b"c0/n0/f0"])
        assert set(folders[b""]) == {b"c0", b"c1", b"c2"}
        assert folders[b"c0/n0"][b"f1"].oid == blob_id(FILES["c0/n0/f1"])
        assert folders[b"c0/absent"] == folders[b"c0/n0/f0"] == {}
        listed = {path.decode(): entry.oid for path, entry in branch.files(b"c2", folders[b""][b"c2"].oid)}
        assert listed == {path: blob_id(data) for path, data in FILES.items() if path.startswith("c2/")}
        branch.store([b"small"])
        oid = branch.store_stream(
            BlobContent(len(large), (large[at : at + 65536] for at in range(0, len(large), 65536)))
        )
        assert oid == blob_id(large)
        changes = {b"c0/n0/f0": None, b'c0/n0/a "b"\\c': blob_id(b"small"), b"c9/x/large": oid}
        branch.push(branch.commit(new_commit(), changes))
    expected = {path: data for path, data in FILES.items() if path != "c0/n0/f0"}
    assert bare.files() == expected | {'c0/n0/a "b"\\c': b"small", "c9/x/large": large}
    bare.check()
    assert "3 files changed" in bare.git("log", "-1", "--stat", "--format=%an <%ae> %ad", "main")
    assert (
        bare.git("log", "-1", "--format=%an <%ae> %at", "main").strip() == "Backup Bot <backup@example.com> 1752358018"
    )


def test_the_first_commit_of_an_empty_repository(transport: RepositoryLocation, bare: Bare) -> None:
    push_file(transport)
    assert bare.files() == {"c1/n1/new": b"new"}
    assert len(bare.commits()) == 1
    push_file(transport, branch="backups/other")
    assert bare.commits("backups/other") == ["changed"]
    bare.check()


def test_a_moved_branch_is_an_error_and_is_not_changed(transport: RepositoryLocation, bare: Bare) -> None:
    bare.fill(FILES)
    branch = opened_branch(transport)
    branch.fetch()
    branch.store([b"mine"])
    commit = branch.commit(new_commit(), {b"c0/mine": blob_id(b"mine")})
    theirs = bare.fill({"c0/theirs": b"theirs"}, message="theirs")
    assert error_of(lambda: branch.push(commit)).code.name == "BRANCH_MOVED"
    assert bare.git("rev-parse", "main").strip() == theirs
    tip = branch.fetch()
    assert tip is not None
    assert tip.oid == theirs
    branch.folders([b"c0"])
    branch.push(branch.commit(new_commit(), {b"c0/mine": blob_id(b"mine")}))
    assert bare.commits() == ["changed", "theirs", "filled"]
    assert bare.files()["c0/theirs"] == b"theirs"


def test_a_branch_created_after_the_fetch_is_not_overwritten(transport: RepositoryLocation, bare: Bare) -> None:
    branch = opened_branch(transport)
    assert branch.fetch() is None
    branch.store([b"mine"])
    commit = branch.commit(new_commit(), {b"c0/mine": blob_id(b"mine")})
    theirs = bare.fill(FILES)
    assert error_of(lambda: branch.push(commit)).code.name == "BRANCH_MOVED"
    assert bare.git("rev-parse", "main").strip() == theirs


def test_a_refusal_by_a_hook_is_a_protected_branch(transport: RepositoryLocation, bare: Bare) -> None:
    bare.fill(FILES)
    bare.refuse_pushes("GH006: Protected branch update failed")
    error = error_of(lambda: push_file(transport))
    assert error.code.name == "BRANCH_PROTECTED"
    assert len(bare.commits()) == 1


def test_the_size_limit_of_the_server_has_its_code(transport: RepositoryLocation, bare: Bare) -> None:
    bare.fill(FILES)
    bare.refuse_pushes("remote: error: File x is 120.00 MB; this exceeds the file size limit of 100.00 MB")
    assert error_of(lambda: push_file(transport)).code.name == "OVER_LIMIT"


def test_an_absent_repository_has_its_code(transport: RepositoryLocation) -> None:
    url = transport.remote.url.replace("r.git", "absent.git")
    assert error_of(lambda: push_file(location(url, transport.access))).code.name == "REPOSITORY_ABSENT"


def test_a_commit_is_fetched_by_its_id_with_its_content(transport: RepositoryLocation, bare: Bare) -> None:
    first = bare.fill(FILES)
    bare.fill({"c0/n0/f0": b"changed"})
    branch = opened_branch(transport)
    assert branch.fetch_commit(first).oid == first
    entries = branch.folders([b"c0/n0"])[b"c0/n0"]
    wanted = [entry.oid for entry in entries.values()]
    with branch.blobs(wanted) as blobs:
        content = [b"".join(blob.chunks) for blob in blobs]
    assert content == [FILES[f"c0/n0/{name.decode()}"] for name in entries]
    assert error_of(lambda: branch.fetch_commit("1" * 40)).code.name == "NOT_FOUND"


def test_no_temporary_file_remains(
    transport: RepositoryLocation, bare: Bare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare.fill(FILES)
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    push_file(transport)
    bare.refuse_pushes("no")
    error_of(lambda: push_file(transport, data=b"other"))
    assert list(folder.iterdir()) == []
