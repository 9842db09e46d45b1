"""Object IDs and branch names, compared with those of git."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncline.clients.git.objects import (
    EMPTY_TREE,
    Commit,
    blob_id,
    branch_ref,
    quoted,
    read_commit,
    tree_entries,
    tree_id,
)
from syncline.errors import SynclineError
from tests.standins.git_places import make_bare

names = st.text(st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1, max_size=8).filter(
    lambda name: name not in (".", "..", ".git")
)
trees = st.dictionaries(st.lists(names, min_size=1, max_size=4).map("/".join), st.binary(max_size=20), max_size=12)


@settings(max_examples=25)
@given(trees)
def test_a_tree_has_the_same_id_as_in_git(tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]) -> None:
    paths = {path for path in files if not any(other.startswith(path + "/") for other in files)}
    bare = make_bare(tmp_path_factory.mktemp("tree") / "r.git")
    feed = [b"commit refs/heads/main", b"committer x <x@y> 1 +0000", b"data 0"]
    for path in paths:
        feed += [b"M 100644 inline " + quoted(path.encode()), b"data %d" % len(files[path]), files[path]]
    bare.git("fast-import", "--quiet", feed=b"\n".join(feed) + b"\n")
    ours = tree_id((path.encode(), blob_id(files[path])) for path in paths)
    assert ours == bare.git("rev-parse", "main^{tree}").strip()
    raw = subprocess.run(["git", "-C", bare.path, "cat-file", "tree", "main"], check=True, capture_output=True).stdout
    assert {name.decode() for name, _ in tree_entries(raw)} == {path.split("/")[0] for path in paths}


def test_the_empty_tree_and_blob_have_their_known_ids() -> None:
    assert tree_id([]) == EMPTY_TREE
    assert blob_id(b"") == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"


@pytest.mark.parametrize("name", ["main", "backups/production-east", "a.b", "ä", "x" * 200])
def test_a_valid_branch_name_is_accepted(name: str) -> None:
    assert branch_ref(name) == f"refs/heads/{name}"


BAD_NAMES = ["", "-x", "/x", "x/", "a//b", "a..b", "a b", "a~1", "a^", "a:b", "a?", "a*", "a[", "a\\b", ".a", "b/.a"]
BAD_NAMES += ["a.lock", "a.lock/b", "a@{b", "a.", "a\nb", "HEAD", "x" * 201, "a\x7f"]


@pytest.mark.parametrize("name", BAD_NAMES, ids=ascii)
def test_an_invalid_branch_name_is_refused(name: str) -> None:
    with pytest.raises(SynclineError) as caught:
        branch_ref(name)
    assert caught.value.code.name == "BRANCH_INVALID"


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), min_size=1, max_size=10))
def test_a_name_is_accepted_only_if_git_accepts_it(name: str) -> None:
    try:
        ref = branch_ref(name)
    except SynclineError:
        return
    subprocess.run(["git", "check-ref-format", ref], check=True, cwd=Path("/"))


def test_a_trailer_is_found() -> None:
    commit = Commit("1", "2", "subject\n\nSyncline-Batch: a\nSyncline-Batch: b\n")
    assert commit.trailer("Syncline-Batch") == "b"
    assert commit.trailer("Other") is None


@pytest.mark.parametrize(
    "raw",
    [b"100644", b"100644 name", b"100644 name\0" + b"\1" * 19, b"100644 a\0" + b"\1" * 20 + b"x", b"no space\0"],
    ids=["no name", "no end", "a short ID", "trailing bytes", "no ID"],
)
def test_a_damaged_tree_is_a_bad_response(raw: bytes) -> None:
    with pytest.raises(SynclineError) as error:
        list(tree_entries(raw))
    assert error.value.code.name == "BAD_ANSWER"


@pytest.mark.parametrize("raw", [b"", b"tree \xff\n\nx", b"parent x\n\nx", b"tree " + b"ab" * 19 + b"\n\nx"])
def test_a_damaged_commit_is_a_bad_response(raw: bytes) -> None:
    with pytest.raises(SynclineError) as error:
        read_commit("ab" * 20, raw)
    assert error.value.code.name == "BAD_ANSWER"
