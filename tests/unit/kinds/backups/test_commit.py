"""Commits of changed objects on a branch in memory: commits, results, index and records."""

from __future__ import annotations

import pytest

from syncline.clients.git.objects import Commit, blob_id
from syncline.errors import SynclineError
from syncline.kinds.backups.commit import REPLAYS
from syncline.kinds.backups.ownership import OwnedFile
from syncline.kinds.backups.paths import Layout
from syncline.kinds.backups.report import BATCH, SYNC
from syncline.kinds.kind import Completed, StepContext
from syncline.ownership import Limits
from syncline.store.backup_records import IndexEntry
from tests.rig.backups_memory import InMemoryOwnership
from tests.unit.kinds.backups.commit_world import AUTHOR, COMMITTER, MODIFIED, SECONDS, World, commit_files, outcome

A, B, C = (f"east/shop/{name}" for name in "abc")


def test_changes_become_one_commit() -> None:
    world = World()
    commit_files(world, a=b"1", b=b"2")
    world.objects |= {A: b"changed", C: b"new", "west/shop/d": b"new"}
    del world.objects[B]
    results = world.commit(A, B, C, "west/shop/d")
    assert {key: outcome(each) for key, each in results.items()} == {
        A: ("completed", blob_id(b"changed"), "before"),
        B: ("completed", None, "before"),
        C: ("completed", blob_id(b"new"), "before"),
        "west/shop/d": ("completed", blob_id(b"new"), "before"),
    }
    assert [each.moved_bytes for each in results.values() if isinstance(each, Completed)] == [7, 0, 3, 3]
    times = {key: each.item.changed for key, each in results.items() if isinstance(each, Completed)}
    assert times == {A: MODIFIED, B: None, C: MODIFIED, "west/shop/d": MODIFIED}
    assert world.remote.files == {A: blob_id(b"changed"), C: blob_id(b"new"), "west/shop/d": blob_id(b"new")}
    assert world.ours().keys() == {A, C}
    assert len(world.remote.commits) == 2
    new = world.remote.commits[-1][1]
    assert new is not None
    assert (new.author, new.committer, new.time, new.signing_key) == (AUTHOR, COMMITTER, int(SECONDS), "key")
    for line in ("- east: 2 files", "- west: 1 files", "Total files: 3", "Changes: 2 new, 1 modified, 1 deleted"):
        assert line in new.message.splitlines()
    ((name, data, gauges),) = world.logged
    assert (name, gauges) == ("git_push", {"ClustersBackedUp": 2.0})
    assert data == {
        "git_branch": "main",
        "git_commit": "made 0",
        "batch": Commit("", "", new.message).trailer(BATCH),
        "files_new": 2,
        "files_modified": 1,
        "files_deleted": 1,
        "files_changed": 4,
        "files_downloaded": 4,
        "replays": 0,
        "clusters_processed": 2,
    }
    assert Commit("", "", new.message).trailer(SYNC) == "backups"


def test_committed_files_are_recorded_and_indexed() -> None:
    world = World()
    commit_files(world, a=b"1")
    now = int(world.ownership.clock.now)
    assert world.ours() == {A: OwnedFile(blob_id(b"1"), "etag of 1", 1, now)}
    assert world.index.entries("place", "east") == {A: IndexEntry("etag of 1", blob_id(b"1"))}
    world.ownership.clock.now += 60
    world.commit(A)
    assert world.ours() == {A: OwnedFile(blob_id(b"1"), "etag of 1", 1, now)}
    world.objects[A] = b"22"
    world.commit(A)
    assert world.ours() == {A: OwnedFile(blob_id(b"22"), "etag of 22", 2, 0)}, "it changed and is not new"
    del world.objects[A]
    world.objects[B] = b"2"
    world.commit(A)
    assert world.ours() == {}


def test_files_that_the_branch_has_are_not_committed() -> None:
    world = World()
    commit_files(world, a=b"1")
    world.ownership = InMemoryOwnership()
    results = world.commit(A, B)
    assert outcome(results[A]) == ("skipped", blob_id(b"1"), blob_id(b"1"))
    assert outcome(results[B]) == ("skipped", None, None)
    assert len(world.remote.commits) == 1
    assert world.logged == []
    assert world.ours() == {A: OwnedFile(blob_id(b"1"), "etag of 1", 1, 0)}, "an equal file is ours"
    assert world.branches[-1].blobs == set()


def test_the_items_of_a_push_without_a_response_are_completed() -> None:
    world = World()
    commit_files(world, a=b"1")
    assert outcome(world.commit(A)[A])[0] == "completed", "the last commit belongs to this batch"
    assert outcome(world.commit(A, context=StepContext(lambda: 60.0, work="other"))[A])[0] == "skipped"
    world.remote.change({B: blob_id(b"theirs")})
    assert outcome(world.commit(A)[A])[0] == "skipped"


class TestForeign:
    """Foreign files are not changed."""

    @pytest.mark.parametrize("gone", [False, True])
    def test_a_foreign_file_is_unchanged(self, *, gone: bool) -> None:
        world = World({} if gone else {A: b"1"})
        world.remote.change({A: blob_id(b"theirs"), B: blob_id(b"2")})
        world.objects[B] = b"2"
        results = world.commit(A, B)
        theirs = blob_id(b"theirs")
        expected = ("extra", None, theirs) if gone else ("FILE_DIFFERS", blob_id(b"1"), theirs)
        assert outcome(results[A]) == expected
        assert world.remote.files[A] == theirs
        assert world.ours().keys() == {B}
        assert world.index.entries("place", "east").keys() == {B}

    def test_a_file_that_is_ours_by_the_history_is_replaced(self) -> None:
        world = World({A: b"1"})
        world.remote.change({A: blob_id(b"before")})
        world.remote.put = {A: blob_id(b"before")}
        assert outcome(world.commit(A)[A])[0] == "completed"
        assert world.remote.files[A] == blob_id(b"1")

    def test_a_push_that_the_server_forgot_is_made_and_recorded_again(self) -> None:
        """The history shows the earlier file; its record replaces the record of the lost commit."""
        world, key = World(), "east/shop/a"
        commit_files(world, a=b"old")
        world.objects[key] = b"new"
        world.commit(key)
        world.remote.commits.pop()
        world.remote.files[key] = world.remote.put[key] = blob_id(b"old")
        assert outcome(world.commit(key)[key]) == ("completed", blob_id(b"new"), "before")
        assert world.remote.files == {key: blob_id(b"new")}
        assert world.ours()[key].fingerprint == blob_id(b"new")


class TestBranchMoved:
    """Another writer pushes first: the same changes are committed on the new tip."""

    def push_meanwhile(self, world: World, times: int, *files: dict[str, str | None]) -> None:
        waiting = list(files)
        left = [times]

        def meanwhile() -> None:
            if left[0]:
                left[0] -= 1
                world.remote.change(waiting.pop(0) if waiting else {"readme": str(left[0])})

        world.meanwhile = meanwhile

    @pytest.mark.parametrize("times", [1, REPLAYS - 1])
    def test_the_changes_are_committed_again(self, times: int) -> None:
        world = World({A: b"1"})
        self.push_meanwhile(world, times)
        assert outcome(world.commit(A)[A])[0] == "completed"
        assert world.remote.files == {A: blob_id(b"1"), "readme": "0"}
        assert [data["replays"] for _, data, _ in world.logged] == [times]

    def test_files_that_others_changed_are_completed_or_conflicts(self) -> None:
        world = World({A: b"1", B: b"2", C: b"3"})
        self.push_meanwhile(world, 1, {A: blob_id(b"1"), B: blob_id(b"theirs")})
        results = world.commit(A, B, C)
        assert outcome(results[A])[0] == "completed"
        assert outcome(results[B])[0] == "FILE_DIFFERS"
        assert world.remote.files == {A: blob_id(b"1"), B: blob_id(b"theirs"), C: blob_id(b"3")}

    @pytest.mark.parametrize(("times", "left"), [(REPLAYS, 60.0), (1, 0.0)])
    def test_the_batch_fails_after_several_attempts(self, times: int, left: float) -> None:
        world = World({A: b"1"})
        self.push_meanwhile(world, times)
        seconds = [left, left, 60.0, 60.0]
        context = StepContext(lambda: seconds.pop() if len(seconds) > 1 else seconds[0], work="work")
        with pytest.raises(SynclineError, match="BRANCH_MOVED"):
            world.commit(A, context=context)
        assert A not in world.remote.files
        assert world.ours() == {}


class TestRemovals:
    """Removals that no scan has checked: all are made if they are within the limits, otherwise none."""

    def world(self) -> World:
        world = World(limits=Limits(0.5, 1000, 86_400.0))
        commit_files(world, a=b"1", b=b"2", c=b"3", d=b"4")
        return world

    def test_removals_within_the_limits_are_made(self) -> None:
        world = self.world()
        del world.objects[A], world.objects[B]
        results = world.commit(A, B)
        assert {outcome(each)[0] for each in results.values()} == {"completed"}
        assert world.remote.files.keys() == {C, "east/shop/d"}

    @pytest.mark.parametrize("decided", [False, True])
    def test_removals_beyond_the_limits_fail_and_the_rest_is_committed(self, *, decided: bool) -> None:
        world = self.world()
        for key in (A, B, C):
            del world.objects[key]
        world.objects["east/shop/e"] = b"5"
        results = world.commit(A, B, C, "east/shop/e", removed=decided)
        assert outcome(results["east/shop/e"])[0] == "completed"
        assert {outcome(results[key])[0] for key in (A, B, C)} == {"completed" if decided else "REMOVALS_CAPPED"}
        assert (A in world.remote.files) == (not decided)
        assert (A in world.ours()) == (not decided)

    def test_a_rename_is_not_a_removal(self) -> None:
        world = self.world()
        for key, name in ((A, "x"), (B, "y"), (C, "z")):
            world.objects[f"east/shop/{name}"] = world.objects.pop(key)
        results = world.commit(A, B, C, *(f"east/shop/{name}" for name in "xyz"))
        assert {outcome(each)[0] for each in results.values()} == {"completed"}

    def test_an_older_file_is_no_rename(self) -> None:
        world = self.world()
        world.objects = {"east/shop/d": world.objects[A]}
        results = world.commit(A, B, C, "east/shop/d")
        assert {outcome(results[key])[0] for key in (A, B, C)} == {"REMOVALS_CAPPED"}

    def test_a_cluster_that_vanished_stays(self) -> None:
        world = self.world()
        world.objects = {"west/shop/a": b"1"}
        assert outcome(world.commit(A)[A])[0] == "REMOVALS_CAPPED"
        assert A in world.remote.files


class TestPaths:
    def test_an_invalid_path_fails(self) -> None:
        world = World({"east/shop/.git/a": b"1", A: b"1"})
        results = world.commit("east/shop/.git/a", A)
        assert outcome(results["east/shop/.git/a"])[0] == "PATH_REFUSED"
        assert world.remote.files == {A: blob_id(b"1")}

    def test_a_path_that_collides_with_another_fails(self) -> None:
        world = World({"east/shop/A": b"1", B: b"2", "east/shop/B": b"3"})
        world.remote.change({A: blob_id(b"theirs")})
        results = world.commit("east/shop/A", "east/shop/B", B)
        assert {key: outcome(each)[0] for key, each in results.items()} == {
            "east/shop/A": "PATH_COLLIDES",
            "east/shop/B": "completed",
            B: "PATH_COLLIDES",
        }

    def test_a_folder_replaces_a_file_that_the_source_does_not_have(self) -> None:
        for gone in (True, False):
            world = World()
            commit_files(world, a=b"1")
            key = f"{A}/x/y"
            world.objects[key] = b"2"
            if gone:
                del world.objects[A]
            assert outcome(world.commit(key)[key])[0] == ("completed" if gone else "PATH_COLLIDES")
            assert world.remote.files == ({key: blob_id(b"2")} if gone else {A: blob_id(b"1")})

    def test_a_foreign_folder_of_a_similar_name_blocks_no_cluster(self) -> None:
        world = World({A: b"1"})
        world.remote.change({"East/readme": blob_id(b"theirs")})
        assert outcome(world.commit(A)[A])[0] == "completed"
        world.objects["EAST/shop/a"] = b"1"
        assert outcome(world.commit("EAST/shop/a")["EAST/shop/a"])[0] == "PATH_COLLIDES", "this cluster is ours"


def test_objects_left_out_are_not_committed() -> None:
    world = World({A: b"1"})
    commit_files(world, b=b"2")
    world.left_out = {A: "SECRET_SUSPECTED", B: "SECRET_SUSPECTED"}
    results = world.commit(A, B, removed=True)
    assert outcome(results[A])[0] == "SECRET_SUSPECTED"
    assert outcome(results[B]) == ("completed", None, "before"), "its earlier file is removed"
    assert world.remote.files == {}
    assert world.index.entries("place", "east") == {A: IndexEntry("etag", ""), B: IndexEntry("etag", "")}


def test_an_unreadable_object_fails_alone() -> None:
    world = World({A: b"1", B: b"2"}, broken={A: SynclineError("FORBIDDEN", "not for you")})
    results = world.commit(A, B)
    assert (outcome(results[A])[0], outcome(results[B])[0]) == ("FORBIDDEN", "completed")


def test_objects_of_equal_content_are_stored_once() -> None:
    world = World({A: b"same", B: b"same"})
    world.commit(A, B)
    assert world.remote.files == {A: blob_id(b"same"), B: blob_id(b"same")}


@pytest.mark.parametrize(("left", "kept"), [(90.0, 20.0), (30.0, 10.0)])
def test_time_is_kept_for_the_push(left: float, kept: float) -> None:
    world = World({A: b"1", B: b"2", C: b"3"})
    seconds = [left, kept + 1, kept]
    context = StepContext(lambda: seconds.pop(0) if len(seconds) > 1 else seconds[0], work="work")
    results = world.commit(A, B, C, context=context)
    assert [outcome(each)[0] for _, each in sorted(results.items())] == ["completed", "unfinished", "unfinished"]
    assert world.remote.files == {A: blob_id(b"1")}


def test_nothing_is_read_after_a_cancellation() -> None:
    world = World({A: b"1"})
    results = world.commit(A, context=StepContext(lambda: 60.0, halted=lambda: True, work="work"))
    assert outcome(results[A])[0] == "unfinished"
    assert world.remote.commits == []


def test_the_files_of_a_cluster_are_counted_once() -> None:
    world = World()
    world.remote.change({"east/readme": "theirs", "other/readme": "theirs"})
    commit_files(world, a=b"1")
    assert {key: count.files for key, count in world.index.file_counts("repository#main").items()} == {"east": 2}
    world.objects[B] = b"2"
    world.commit(B)
    assert world.branches[-1].counted == []
    assert {key: count.files for key, count in world.index.file_counts("repository#main").items()} == {"east": 3}
    world.remote.change({"east/more": "theirs"})
    world.objects[C] = b"3"
    world.commit(C)
    assert len(world.branches[-1].counted) == 1, "another writer changed it since"
    assert {key: count.files for key, count in world.index.file_counts("repository#main").items()} == {"east": 5}


def test_keys_and_paths_may_differ() -> None:
    world = World({"backups/east/shop/a": b"1"}, layout=Layout(prefix="backups/", folder="clusters"))
    assert outcome(world.commit("backups/east/shop/a")["backups/east/shop/a"])[0] == "completed"
    assert world.remote.files == {"clusters/east/shop/a": blob_id(b"1")}
    assert world.ours().keys() == {"backups/east/shop/a"}
    assert {key: count.files for key, count in world.index.file_counts("repository#main").items()} == {"east": 1}
