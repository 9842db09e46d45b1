"""The git model against the real client and the git program: commits and pushes."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from syncline.clients.git.objects import EMPTY_TREE, blob_id
from syncline.clients.git.repository import (
    BlobContent,
    RemoteBranch,
)
from tests.simulation.models.git_systems import (
    FILES,
    IDS,
    GitSystem,
    ModelSystem,
    System,
    branch_of,
    code,
    commit,
    new_commit,
    opened_system,
)


@pytest.fixture(params=["model", "git"])
def system(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[System]:
    with opened_system(request.param, tmp_path) as system:
        yield system


def test_only_a_push_changes_the_branch(system: System) -> None:
    first = system.fill(FILES)
    large = bytes(range(256)) * 9_000
    with branch_of(system) as branch:
        oid = branch.store_stream(
            BlobContent(len(large), (large[at : at + 65536] for at in range(0, len(large), 65536)))
        )
        assert oid == blob_id(large)
        branch.store([b"small"])
        changes = {b"c0/n0/f0": None, b'c0/n0/a "b"\\c': blob_id(b"small"), b"c9/large": oid}
        made = branch.commit(new_commit(), changes)
        assert branch.remote_tip() == first
        branch.push(made)
        branch.set_tip(made)
        assert [b"".join(each.chunks) for each in _only(branch, oid)] == [large]
        branch.push(made)
        second = commit(branch, {"c9/large": None})
        branch.push(second)
    kept = {path: data for path, data in FILES.items() if path != "c0/n0/f0"}
    assert system.files("main") == kept | {'c0/n0/a "b"\\c': b"small"}
    assert system.subjects() == ["changed", "changed", "filled"]


def _only(branch: RemoteBranch, oid: str) -> Iterator[BlobContent]:
    with branch.blobs([oid]) as blobs:
        yield from blobs


def test_a_stream_of_another_size_is_not_stored(system: System) -> None:
    with branch_of(system) as branch:
        for size, chunks in ((5, [b"four"]), (5, [b"six", b"six"]), (5, [])):
            assert code(lambda s=size, c=chunks: branch.store_stream(BlobContent(s, c))) == "SOURCE_CHANGED"  # type: ignore[misc]
        assert code(lambda: branch.commit(new_commit(), {b"a": blob_id(b"four")})) != ""


def test_stored_blobs_are_local_to_their_branch_object(system: System) -> None:
    system.fill(FILES)
    with branch_of(system) as one:
        one.store([b"mine"])
    with branch_of(system) as other:
        assert code(lambda: other.commit(new_commit(), {b"a": blob_id(b"mine")})) == "NOT_FOUND"
        # Content that the server has is fetched for the commit.
        other.push(other.commit(new_commit(), {b"a": IDS[b"c0/n0/f0"]}))
    assert system.files("main")["a"] == b"000"


def test_an_invalid_path_cannot_be_put_and_its_removal_is_ignored(system: System) -> None:
    system.fill({"a/x": b"1"})
    with branch_of(system) as branch:
        for path in ("a//b", "/a", "a/"):
            assert code(lambda p=path: commit(branch, {p: b"1"})) == "GIT_FAILED"  # type: ignore[misc]
        made = commit(branch, {"a//x": None, "/a": None, "a/": None, "none/of/it": None, "a/x/y": None})
        branch.push(made)
    assert system.files("main") == {"a/x": b"1"}


def test_a_file_replaces_a_folder_and_the_reverse(system: System) -> None:
    system.fill({"a/x": b"1", "a/y/z": b"2", "b": b"3", "c/d/e": b"4"})
    with branch_of(system, depth=1) as branch:
        branch.push(commit(branch, {"b/in/it": b"5", "a": b"6", "c/d/e": None, "b": None}))
    assert system.files("main") == {"b/in/it": b"5", "a": b"6"}


def test_a_commit_may_remove_all_files(system: System) -> None:
    system.fill({"a/x": b"1"})
    with branch_of(system) as branch:
        made = commit(branch, {"a/x": None})
        branch.push(made)
        tip = branch.fetch()
        assert tip is not None
        assert (tip.oid, tip.tree) == (made, EMPTY_TREE)
        assert list(branch.files(b"", tip.tree)) == []
    assert system.files("main") == {}


def test_a_push_to_a_moved_branch_is_rejected(system: System) -> None:
    system.fill(FILES)
    with branch_of(system) as branch:
        made = commit(branch, {"c0/mine": b"mine"})
        theirs = system.fill({"c0/theirs": b"theirs"}, message="theirs")
        assert code(lambda: branch.push(made)) == "BRANCH_MOVED"
        assert branch.remote_tip() == theirs
        tip = branch.fetch()
        assert tip is not None
        assert tip.oid == theirs
        branch.push(commit(branch, {"c0/mine": b"mine"}))
    assert system.subjects() == ["changed", "theirs", "filled"]


def test_a_push_to_a_branch_that_was_created_or_rewound_is_rejected(system: System) -> None:
    with branch_of(system) as branch:
        made = commit(branch, {"c0/mine": b"mine"})
        first = system.fill(FILES)
        assert code(lambda: branch.push(made)) == "BRANCH_MOVED"
        system.fill({"more": b"1"})
        branch.fetch()
        made = commit(branch, {"c0/mine": b"mine"})
        system.reset(first)
        assert code(lambda: branch.push(made)) == "BRANCH_MOVED"
    assert system.subjects() == ["filled"]


def test_a_branch_above_or_below_another_cannot_be_created(system: System) -> None:
    system.fill(FILES)
    system.fill(FILES, branch="bk/east")
    for name in ("main/x", "bk", "bk/east/1"):
        with branch_of(system, name) as branch:
            made = commit(branch, {"a": b"1"})
            assert code(lambda b=branch, m=made: b.push(m)) == "BRANCH_BLOCKED"  # type: ignore[misc]


def test_a_push_to_a_protected_branch_is_rejected(system: System) -> None:
    first = system.fill(FILES)
    system.protect()
    with branch_of(system) as branch:
        assert code(lambda: branch.push(commit(branch, {"a": b"1"}))) == "BRANCH_PROTECTED"
        assert branch.remote_tip() == first
    with branch_of(system, "other") as branch:
        assert code(lambda: branch.push(commit(branch, {"a": b"1"}))) == "BRANCH_PROTECTED"


def test_a_push_succeeds_although_its_answer_is_lost(system: System) -> None:
    system.fill(FILES)
    system.lose_push_answer()
    with branch_of(system) as branch:
        made = commit(branch, {"a": b"1"})
        branch.push(made)
        branch.set_tip(made)
        assert branch.remote_tip() == made
    assert system.subjects() == ["changed", "filled"]


def test_random_commits_have_the_same_ids(tmp_path: Path) -> None:
    """The model gives commits the IDs that git gives them, whatever they change."""
    rng = random.Random(7)
    parts = ["a", "b", "a.b", "a-"]
    with contextlib.ExitStack() as stack:
        worlds: list[System] = [ModelSystem(), GitSystem(tmp_path, stack)]
        branches = [stack.enter_context(branch_of(each, depth=1)) for each in worlds]
        for number in range(15):
            paths = ["/".join(rng.choices(parts, k=rng.randint(1, 3))) for _ in range(rng.randint(0, 4))]
            changes = {path: rng.choice([None, b"%d" % number, b"same"]) for path in paths}
            made = [commit(branch, changes, f"no. {number}\n") for branch in branches]
            assert made[0] == made[1], changes
            for each, branch in zip(worlds, branches, strict=True):
                branch.push(made[0])
                branch.set_tip(made[0])
                if number % 5 == 4:
                    each.fill({f"z{number}": b"theirs"})
                    branch.fetch()
            assert branches[0].tip == branches[1].tip
        assert worlds[0].files("main") == worlds[1].files("main")
