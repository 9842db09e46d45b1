"""Commits of changed objects on a branch in memory: what is committed, what is left, and what is remembered."""

from __future__ import annotations

import pytest

from syncline.clients.git.objects import Commit, blob_id
from syncline.errors import SynclineError
from syncline.kinds.backups.commit import REPLAYS
from syncline.kinds.backups.message import BATCH, SYNC
from syncline.kinds.backups.ours import Ours
from syncline.kinds.backups.paths import Layout
from syncline.kinds.kind import Completed, StepContext
from syncline.ownership import Limits
from syncline.store.backup_records import Known
from tests.backups_memory import KeptLedger
from tests.unit.kinds.backups.committing_world import AUTHOR, COMMITTER, SECONDS, World, filled, outcome

A, B, C = (f"east/shop/{name}" for name in "abc")


def test_changes_become_one_commit() -> None:
    world = World()
    filled(world, a=b"1", b=b"2")
    world.objects |= {A: b"changed", C: b"new", "west/shop/d": b"new"}
    del world.objects[B]
    answers = world.commit(A, B, C, "west/shop/d")
    assert {key: outcome(each) for key, each in answers.items()} == {
        A: ("arrived", blob_id(b"changed"), "before"),
        B: ("arrived", None, "before"),
        C: ("arrived", blob_id(b"new"), "before"),
        "west/shop/d": ("arrived", blob_id(b"new"), "before"),
    }
    assert [each.moved_bytes for each in answers.values() if isinstance(each, Completed)] == [7, 0, 3, 3]
    assert world.remote.files == {A: blob_id(b"changed"), C: blob_id(b"new"), "west/shop/d": blob_id(b"new")}
    assert world.ours().keys() == {A, C}
    assert len(world.remote.commits) == 2
    new = world.remote.commits[-1][1]
    assert new is not None
    assert (new.author, new.committer, new.time, new.signing_key) == (AUTHOR, COMMITTER, int(SECONDS), "key")
    for line in ("- east: 2 files", "- west: 1 files", "Total files: 3", "Changes: 2 new, 1 modified, 1 deleted"):
        assert line in new.message.splitlines()
    ((name, data, gauges),) = world.told
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


def test_what_was_committed_is_ours_and_remembered() -> None:
    world = World()
    filled(world, a=b"1")
    now = int(world.kept.clock.now)
    assert world.ours() == {A: Ours(blob_id(b"1"), "etag of 1", 1, now)}
    assert world.memory.known("place", "east") == {A: Known("etag of 1", blob_id(b"1"))}
    world.kept.clock.now += 60
    world.commit(A)
    assert world.ours() == {A: Ours(blob_id(b"1"), "etag of 1", 1, now)}
    world.objects[A] = b"22"
    world.commit(A)
    assert world.ours() == {A: Ours(blob_id(b"22"), "etag of 22", 2, 0)}, "it did not come, but changed"
    del world.objects[A]
    world.objects[B] = b"2"
    world.commit(A)
    assert world.ours() == {}


def test_what_the_branch_has_already_is_no_commit() -> None:
    world = World()
    filled(world, a=b"1")
    world.kept = KeptLedger()
    answers = world.commit(A, B)
    assert outcome(answers[A]) == ("skipped", blob_id(b"1"), blob_id(b"1"))
    assert outcome(answers[B]) == ("skipped", None, None)
    assert len(world.remote.commits) == 1
    assert world.told == []
    assert world.ours() == {A: Ours(blob_id(b"1"), "etag of 1", 1, 0)}, "an equal file is ours"
    assert world.branches[-1].blobs == set()


def test_a_push_whose_answer_was_lost_had_changed_what_it_should() -> None:
    world = World()
    filled(world, a=b"1")
    assert outcome(world.commit(A)[A])[0] == "arrived", "the last commit is this batch's own"
    assert outcome(world.commit(A, context=StepContext(lambda: 60.0, work="other"))[A])[0] == "skipped"
    world.remote.change({B: blob_id(b"theirs")})
    assert outcome(world.commit(A)[A])[0] == "skipped"


class TestForeign:
    """A file that this sync did not put stays as it is."""

    @pytest.mark.parametrize("gone", [False, True])
    def test_it_stays(self, *, gone: bool) -> None:
        world = World({} if gone else {A: b"1"})
        world.remote.change({A: blob_id(b"theirs"), B: blob_id(b"2")})
        world.objects[B] = b"2"
        answers = world.commit(A, B)
        theirs = blob_id(b"theirs")
        expected = ("extra", None, theirs) if gone else ("FILE_DIFFERS", blob_id(b"1"), theirs)
        assert outcome(answers[A]) == expected
        assert world.remote.files[A] == theirs
        assert world.ours().keys() == {B}
        assert world.memory.known("place", "east").keys() == {B}

    def test_what_the_history_shows_to_be_ours_is_replaced(self) -> None:
        world = World({A: b"1"})
        world.remote.change({A: blob_id(b"before")})
        world.remote.put = {A: blob_id(b"before")}
        assert outcome(world.commit(A)[A])[0] == "arrived"
        assert world.remote.files[A] == blob_id(b"1")

    def test_a_push_that_the_server_forgot_is_made_and_recorded_again(self) -> None:
        """The history shows the file of before, and its record takes the place of the one of the lost commit."""
        world, key = World(), "east/shop/a"
        filled(world, a=b"old")
        world.objects[key] = b"new"
        world.commit(key)
        world.remote.commits.pop()
        world.remote.files[key] = world.remote.put[key] = blob_id(b"old")
        assert outcome(world.commit(key)[key]) == ("arrived", blob_id(b"new"), "before")
        assert world.remote.files == {key: blob_id(b"new")}
        assert world.ours()[key].fingerprint == blob_id(b"new")


class TestMoved:
    """Somebody else pushes meanwhile: the same changes are put on what the branch is then."""

    def pushing(self, world: World, times: int, *files: dict[str, str | None]) -> None:
        waiting = list(files)
        left = [times]

        def meanwhile() -> None:
            if left[0]:
                left[0] -= 1
                world.remote.change(waiting.pop(0) if waiting else {"readme": str(left[0])})

        world.meanwhile = meanwhile

    @pytest.mark.parametrize("times", [1, REPLAYS - 1])
    def test_the_changes_follow(self, times: int) -> None:
        world = World({A: b"1"})
        self.pushing(world, times)
        assert outcome(world.commit(A)[A])[0] == "arrived"
        assert world.remote.files == {A: blob_id(b"1"), "readme": "0"}
        assert [data["replays"] for _, data, _ in world.told] == [times]

    def test_what_others_did_is_done_and_what_they_put_stays(self) -> None:
        world = World({A: b"1", B: b"2", C: b"3"})
        self.pushing(world, 1, {A: blob_id(b"1"), B: blob_id(b"theirs")})
        answers = world.commit(A, B, C)
        assert outcome(answers[A])[0] == "arrived"
        assert outcome(answers[B])[0] == "FILE_DIFFERS"
        assert world.remote.files == {A: blob_id(b"1"), B: blob_id(b"theirs"), C: blob_id(b"3")}

    @pytest.mark.parametrize(("times", "left"), [(REPLAYS, 60.0), (1, 0.0)])
    def test_it_is_given_up_for_a_while(self, times: int, left: float) -> None:
        world = World({A: b"1"})
        self.pushing(world, times)
        seconds = [left, left, 60.0, 60.0]
        context = StepContext(lambda: seconds.pop() if len(seconds) > 1 else seconds[0], work="work")
        with pytest.raises(SynclineError, match="BRANCH_MOVED"):
            world.commit(A, context=context)
        assert A not in world.remote.files
        assert world.ours() == {}


class TestRemovals:
    """Removals that no scan has decided about are within the limits, all of them or none."""

    def world(self) -> World:
        world = World(limits=Limits(0.5, 1000, 86_400.0))
        filled(world, a=b"1", b=b"2", c=b"3", d=b"4")
        return world

    def test_those_within_the_limits_are_made(self) -> None:
        world = self.world()
        del world.objects[A], world.objects[B]
        answers = world.commit(A, B)
        assert {outcome(each)[0] for each in answers.values()} == {"arrived"}
        assert world.remote.files.keys() == {C, "east/shop/d"}

    @pytest.mark.parametrize("decided", [False, True])
    def test_those_beyond_them_are_failures_and_the_rest_is_committed(self, *, decided: bool) -> None:
        world = self.world()
        for key in (A, B, C):
            del world.objects[key]
        world.objects["east/shop/e"] = b"5"
        answers = world.commit(A, B, C, "east/shop/e", removed=decided)
        assert outcome(answers["east/shop/e"])[0] == "arrived"
        assert {outcome(answers[key])[0] for key in (A, B, C)} == {"arrived" if decided else "REMOVALS_CAPPED"}
        assert (A in world.remote.files) == (not decided)
        assert (A in world.ours()) == (not decided)

    def test_a_rename_is_none(self) -> None:
        world = self.world()
        for key, name in ((A, "x"), (B, "y"), (C, "z")):
            world.objects[f"east/shop/{name}"] = world.objects.pop(key)
        answers = world.commit(A, B, C, *(f"east/shop/{name}" for name in "xyz"))
        assert {outcome(each)[0] for each in answers.values()} == {"arrived"}

    def test_a_file_that_was_there_before_explains_none(self) -> None:
        world = self.world()
        world.objects = {"east/shop/d": world.objects[A]}
        answers = world.commit(A, B, C, "east/shop/d")
        assert {outcome(answers[key])[0] for key in (A, B, C)} == {"REMOVALS_CAPPED"}

    def test_a_cluster_that_vanished_stays(self) -> None:
        world = self.world()
        world.objects = {"west/shop/a": b"1"}
        assert outcome(world.commit(A)[A])[0] == "REMOVALS_CAPPED"
        assert A in world.remote.files


class TestPaths:
    def test_a_path_that_git_cannot_have_is_a_failure(self) -> None:
        world = World({"east/shop/.git/a": b"1", A: b"1"})
        answers = world.commit("east/shop/.git/a", A)
        assert outcome(answers["east/shop/.git/a"])[0] == "PATH_REFUSED"
        assert world.remote.files == {A: blob_id(b"1")}

    def test_one_that_collides_with_another_is_a_failure(self) -> None:
        world = World({"east/shop/A": b"1", B: b"2", "east/shop/B": b"3"})
        world.remote.change({A: blob_id(b"theirs")})
        answers = world.commit("east/shop/A", "east/shop/B", B)
        assert {key: outcome(each)[0] for key, each in answers.items()} == {
            "east/shop/A": "PATH_COLLIDES",
            "east/shop/B": "arrived",
            B: "PATH_COLLIDES",
        }

    def test_a_file_gives_way_to_a_folder_if_the_source_lacks_it(self) -> None:
        for gone in (True, False):
            world = World()
            filled(world, a=b"1")
            key = f"{A}/x/y"
            world.objects[key] = b"2"
            if gone:
                del world.objects[A]
            assert outcome(world.commit(key)[key])[0] == ("arrived" if gone else "PATH_COLLIDES")
            assert world.remote.files == ({key: blob_id(b"2")} if gone else {A: blob_id(b"1")})

    def test_a_foreign_folder_of_a_similar_name_blocks_no_cluster(self) -> None:
        world = World({A: b"1"})
        world.remote.change({"East/readme": blob_id(b"theirs")})
        assert outcome(world.commit(A)[A])[0] == "arrived"
        world.objects["EAST/shop/a"] = b"1"
        assert outcome(world.commit("EAST/shop/a")["EAST/shop/a"])[0] == "PATH_COLLIDES", (
            "this one is a cluster of ours"
        )


def test_what_is_left_out_is_not_committed() -> None:
    world = World({A: b"1"})
    filled(world, b=b"2")
    world.left_out = {A: "SECRET_SUSPECTED", B: "SECRET_SUSPECTED"}
    answers = world.commit(A, B, removed=True)
    assert outcome(answers[A])[0] == "SECRET_SUSPECTED"
    assert outcome(answers[B]) == ("arrived", None, "before"), "what was there of it is removed"
    assert world.remote.files == {}
    assert world.memory.known("place", "east") == {A: Known("etag", ""), B: Known("etag", "")}


def test_what_cannot_be_read_costs_itself_alone() -> None:
    world = World({A: b"1", B: b"2"}, broken={A: SynclineError("FORBIDDEN", "not for you")})
    answers = world.commit(A, B)
    assert (outcome(answers[A])[0], outcome(answers[B])[0]) == ("FORBIDDEN", "arrived")


def test_objects_of_equal_content_are_stored_once() -> None:
    world = World({A: b"same", B: b"same"})
    world.commit(A, B)
    assert world.remote.files == {A: blob_id(b"same"), B: blob_id(b"same")}


@pytest.mark.parametrize(("left", "kept"), [(90.0, 20.0), (30.0, 10.0)])
def test_time_is_kept_for_the_push(left: float, kept: float) -> None:
    world = World({A: b"1", B: b"2", C: b"3"})
    seconds = [left, kept + 1, kept]
    context = StepContext(lambda: seconds.pop(0) if len(seconds) > 1 else seconds[0], work="work")
    answers = world.commit(A, B, C, context=context)
    assert [outcome(each)[0] for _, each in sorted(answers.items())] == ["arrived", "later", "later"]
    assert world.remote.files == {A: blob_id(b"1")}


def test_nothing_is_read_after_a_cancellation() -> None:
    world = World({A: b"1"})
    answers = world.commit(A, context=StepContext(lambda: 60.0, halted=lambda: True, work="work"))
    assert outcome(answers[A])[0] == "later"
    assert world.remote.commits == []


def test_the_files_of_a_cluster_are_counted_once() -> None:
    world = World()
    world.remote.change({"east/readme": "theirs", "other/readme": "theirs"})
    filled(world, a=b"1")
    assert {key: count.files for key, count in world.memory.counts("repository#main").items()} == {"east": 2}
    world.objects[B] = b"2"
    world.commit(B)
    assert world.branches[-1].counted == []
    assert {key: count.files for key, count in world.memory.counts("repository#main").items()} == {"east": 3}
    world.remote.change({"east/more": "theirs"})
    world.objects[C] = b"3"
    world.commit(C)
    assert len(world.branches[-1].counted) == 1, "somebody else changed it since"
    assert {key: count.files for key, count in world.memory.counts("repository#main").items()} == {"east": 5}


def test_keys_and_paths_are_told_apart() -> None:
    world = World({"backups/east/shop/a": b"1"}, layout=Layout(prefix="backups/", folder="clusters"))
    assert outcome(world.commit("backups/east/shop/a")["backups/east/shop/a"])[0] == "arrived"
    assert world.remote.files == {"clusters/east/shop/a": blob_id(b"1")}
    assert world.ours().keys() == {"backups/east/shop/a"}
    assert {key: count.files for key, count in world.memory.counts("repository#main").items()} == {"east": 1}
