"""The git model against the real client and the git program: reading."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from syncline.clients.git.objects import EMPTY_TREE, blob_id, tree_id
from tests.simulation.models.git_systems import (
    FILES,
    IDS,
    System,
    branch_of,
    code,
    commit,
    content,
    opened_system,
)


@pytest.fixture(params=["model", "git"])
def system(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[System]:
    with opened_system(request.param, tmp_path) as system:
        yield system


def test_a_branch_is_read_level_by_level(system: System) -> None:
    first = system.fill(FILES)
    with system.open("main", 2) as branch:
        tip = branch.fetch()
        assert tip is not None
        assert (tip.oid, tip.tree, tip.message) == (first, tree_id(IDS.items()), "filled")
        assert branch.tip == tip
        found = branch.folders([b"", b"c0/n0", b"c0/absent", b"c0/n0/f0", b"c0/", b"c1//n1"])
        assert list(found[b""]) == [b"c0", b"c1", b"c2"]
        assert {name: entry.fingerprint for name, entry in found[b"c0/n0"].items()} == {
            name: IDS[b"c0/n0/" + name] for name in (b"f0", b"f1", b"f2")
        }
        assert [found[path] for path in (b"c0/absent", b"c0/n0/f0", b"c0/", b"c1//n1")] == [{}, {}, {}, {}]
        assert branch.folders([]) == {}


def test_files_are_listed_in_byte_order(system: System) -> None:
    system.fill({"a/x": b"1", "a.b": b"2", "a-b/y": b"3", "ab": b"4", "ü/z": b"5"})
    with branch_of(system) as branch:
        assert branch.tip is not None
        listed = list(branch.files(b"", branch.tip.tree))
        assert [path.decode() for path, _ in listed] == ["a-b/y", "a.b", "a/x", "ab", "ü/z"]
        below = branch.folders([b""])[b""][b"a"].oid
        assert [path for path, _ in branch.files(b"p/a", below)] == [b"p/a/x"]
        branch.fetch_below([below, EMPTY_TREE])
        assert code(lambda: branch.fetch_below(["2" * 40])) == "NOT_FOUND"


def test_blobs_are_local_or_fetched(system: System) -> None:
    system.fill(FILES)
    with branch_of(system) as branch:
        one, other = IDS[b"c0/n0/f0"], IDS[b"c2/n1/f2"]
        assert content(branch, other, one, other) == [b"212", b"000", b"212"]
        branch.store([b"mine", b""])
        assert content(branch, blob_id(b"mine"), blob_id(b"")) == [b"mine", b""]
        branch.store([b"more"])
        # All blobs are requested if one of them is missing.
        assert code(lambda: content(branch, blob_id(b"more"), IDS[b"c1/n0/f0"])) == "NOT_FOUND"
        assert code(lambda: content(branch, "1" * 40)) == "NOT_FOUND"
        assert content(branch) == []


def test_a_commit_is_fetched_by_its_id(system: System) -> None:
    first = system.fill({"a/x": b"1"})
    second = system.fill({"a/x": b"2"})
    for digits in (first, first[:9]):
        with system.open("main", 2) as branch:
            assert code(lambda b=branch: b.fetch_commit("")) == "USAGE"  # type: ignore[misc]
            assert branch.fetch_commit(digits).oid == first
            assert branch.folders([b"a"])[b"a"][b"x"].oid == blob_id(b"1")
            assert code(lambda b=branch: b.fetch_commit("1" * 40)) == "NOT_FOUND"  # type: ignore[misc]
            assert branch.tip is not None
            assert branch.tip.oid == first
            assert code(lambda b=branch: b.fetch_commit("g")) == "NOT_FOUND"  # type: ignore[misc]
            assert branch.fetch_commit(second).oid == second
    with system.open("absent", 1) as branch:
        assert branch.fetch_commit(first).oid == first
        assert code(lambda: branch.fetch_commit(first[:9])) == "NOT_FOUND"


def test_a_commit_is_found_by_an_abbreviated_id_after_a_fetch(system: System) -> None:
    first = system.fill({"a/x": b"1"})
    system.fill({"a/x": b"2"})
    with branch_of(system) as branch:
        assert branch.fetch_commit(first[:9]).oid == first


def test_a_trailer_is_matched_literally(system: System) -> None:
    system.fill({"a": b"1"}, message="m\n\nSyncline-Sync: a+b\n")
    with branch_of(system) as branch:
        assert branch.blobs_with_trailer(None, "Syncline-Sync: a+b", b"") == {b"a": blob_id(b"1")}


def test_a_commit_without_a_branch_can_be_fetched(system: System) -> None:
    first = system.fill({"a": b"1"})
    second = system.fill({"a": b"2"})
    system.reset(first)
    with branch_of(system) as branch:
        assert branch.remote_tip() == first
        assert branch.fetch_commit(second).oid == second


def test_branches_are_listed_by_pattern(system: System) -> None:
    for name in ("main", "bk/east", "bk/west", "bk-2", "other"):
        system.fill({"a": name.encode()}, branch=name)
    with system.open("main", 1) as branch:
        assert branch.heads("*") == ["bk-2", "bk/east", "bk/west", "main", "other"]
        assert branch.heads("bk*") == ["bk-2", "bk/east", "bk/west"]
        assert branch.heads("bk/*") == ["bk/east", "bk/west"]
        assert branch.heads("*st") == ["bk/east", "bk/west"]
        assert branch.heads("east") == branch.heads("b.*") == []
        assert branch.heads("main") == ["main"]


def test_an_absent_branch_is_empty_and_can_be_created(system: System) -> None:
    with system.open("backups/x", 2) as branch:
        assert branch.fetch() is None
        assert branch.tip is None
        assert branch.remote_tip() is None
        assert branch.folders([b"", b"a"]) == {b"": {}, b"a": {}}
        assert branch.heads("*") == []
        assert branch.blobs_with_trailer(None, "A: b", b"") == {}
        made = commit(branch, {"c1/new": b"new"})
        branch.push(made)
        assert branch.tip is None
        branch.set_tip(made)
        assert branch.tip is not None
        assert branch.remote_tip() == branch.tip.oid == made == "8a6e284b23a7abe6ab044d1fa61b624746c4271e"
    assert system.files("backups/x") == {"c1/new": b"new"}


def test_each_call_fails_for_an_absent_repository(system: System) -> None:
    with system.open_absent() as branch:
        calls: list[Callable[[], object]] = [branch.fetch, branch.remote_tip, lambda: branch.heads("*")]
        calls += [lambda: branch.fetch_commit("abc"), lambda: branch.fetch_commit("1" * 40)]
        made = commit(branch, {"a": b"1"})
        calls += [lambda: branch.push(made)]
        assert [code(call) for call in calls] == ["REPOSITORY_ABSENT"] * 6


def test_an_invalid_branch_name_is_refused(system: System) -> None:
    def opened() -> None:
        with system.open("a..b", 1):
            pass

    assert code(opened) == "BRANCH_INVALID"


def test_the_blobs_of_commits_with_a_trailer_are_found(system: System) -> None:
    ours = "backup\n\nSyncline-Sync: s\nSyncline-Batch: 1\n"
    system.fill({"a/x": b"1", "a/foreign": b"f"})
    second = system.fill({"a/x": b"2", "b/y": b"2", "b2": b"2"}, message=ours)
    system.fill({"a/x": b"3", "b/z": b"3"}, message="quotes Syncline-Sync: s in a line")
    with branch_of(system) as branch:
        branch.push(commit(branch, {"a/x": b"4", "b/z": None, "a/foreign": b"f"}, ours))
        branch.fetch()
        every = {b"a/x": blob_id(b"4"), b"b/z": None, b"b/y": blob_id(b"2"), b"b2": blob_id(b"2")}
        assert branch.blobs_with_trailer(None, "Syncline-Sync: s", b"") == every
        assert branch.blobs_with_trailer("1" * 40, "Syncline-Sync: s", b"") == every
        assert branch.blobs_with_trailer(None, "Syncline-Sync: s", b"b") == {b"b/z": None, b"b/y": blob_id(b"2")}
        assert branch.blobs_with_trailer(None, "Syncline-Sync: s", b"b2") == {b"b2": blob_id(b"2")}
        assert branch.blobs_with_trailer(second, "Syncline-Sync: s", b"") == {b"a/x": blob_id(b"4"), b"b/z": None}
        assert branch.blobs_with_trailer(None, "Syncline-Sync: other", b"") == {}
        assert branch.tip is not None
        newer = {b"a/x": blob_id(b"4"), b"b/z": None}
        assert branch.blobs_with_trailer(second, "Syncline-Sync: s", b"", having=[branch.tip.oid]) == newer
        assert branch.blobs_with_trailer(second, "Syncline-Sync: s", b"", having=[branch.tip.oid, "1" * 40]) == every
