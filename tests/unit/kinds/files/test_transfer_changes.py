"""Transfer of files that exist: permissions, renames and removals."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import pytest

from syncline.errors import CodeName, SynclineError
from syncline.kinds.files.records import PreviousRecord, Record, Task
from syncline.kinds.files.targets import NotArrivedError, PutResult, TargetFile, file_of
from syncline.kinds.kind import Completed, Unfinished
from syncline.model import Item, Outcome, Result
from tests.unit.kinds.files.transfer_world import EACH_TARGET, Make, World, bucket, code, manager, outcome, task_of

EVENT_MODE: Final = "rwx------"
"""Permissions that an event set."""


class TestPermissions:
    def test_a_new_file_gets_the_permissions_of_the_source(self) -> None:
        world = manager()
        world.source.put("a", b"content", "e1", metadata={"mode": "0640"})
        assert isinstance(world.answer(world.item()), Completed)
        assert world.target.modes == {"a": "rw-r-----"}

    def test_permissions_set_by_an_event_are_kept(self) -> None:
        world = manager()
        world.source.put("a", b"content", "e2", metadata={"mode": "0640"})
        world.target.holds("a", b"before", TargetFile("v", "e1", 6, "id", True, "a", "run-1"))
        assert isinstance(world.answer(world.item(target="e1", ours="v", mode=EVENT_MODE, mode_time=7.0)), Completed)
        assert world.target.modes == {"a": EVENT_MODE}
        record = world.record()
        assert record is not None
        assert (record.mode, record.mode_time) == (EVENT_MODE, 7.0)

    @pytest.mark.parametrize("existing", ["rw-r--r--", EVENT_MODE])
    def test_an_equal_file_gets_the_permissions_of_an_event(self, existing: str) -> None:
        world = manager()
        world.source.put("a", b"content", "e1")
        world.target.holds("a", b"content", TargetFile("v", "e1", 7, "id", True, "a", "run-1"))
        assert world.target.modes is not None
        world.target.modes["a"] = existing
        answer = world.answer(world.item(mode=EVENT_MODE, mode_time=7.0))
        if existing == EVENT_MODE:
            assert outcome(answer) is Outcome.EQUAL
            assert world.target.calls == []
        else:
            assert isinstance(answer, Completed), "verify reads them again"
            assert world.target.calls == [("permit", "a")]
        assert world.target.modes == {"a": EVENT_MODE}
        record = world.record()
        assert record is not None
        assert (record.mode, record.mode_time, record.verified) == (EVENT_MODE, 7.0, existing == EVENT_MODE)

    def permit(self, world: World) -> Item:
        world.source.put("a", b"content", "e1")
        made = Record("e1", 7, 0, "v", mode="rw-r--r--")
        return world.item(target="e1", operation="permit", mode=EVENT_MODE, mode_time=7.0, seq="0A", record=made)

    def test_an_event_sets_the_permissions_of_a_file(self) -> None:
        world = manager()
        item = self.permit(world)
        world.target.holds("a", b"content", TargetFile("v", "e1", 7, "id", True, "a", "run-1"))
        answer = world.answer(item)
        made = task_of(answer).record
        assert made == Record("e1", 7, 0, "v", mode=EVENT_MODE, mode_time=7.0, seq="0A")
        assert world.target.calls == [("permit", "a")]

    def test_a_file_that_is_gone_is_sent_again_with_the_permissions_of_an_event(self) -> None:
        world = manager()
        item = self.permit(world)
        world.target.fails["a"] = SynclineError("NOT_FOUND", "no such file")

        def meanwhile() -> None:
            if world.target.calls:
                world.target.fails.clear()

        world.target.meanwhile = meanwhile
        answer = world.answer(item)
        assert isinstance(answer, Completed)
        assert world.target.calls == [("permit", "a"), ("put", "a"), ("permit", "a")]
        assert world.target.modes == {"a": EVENT_MODE}


class TestRename:
    def world(self, make: Make) -> tuple[World, Item]:
        """Return a world in which ``old`` became ``a`` at the source, and the item that renames it."""
        world = make()
        world.source.put("a", b"content", "e1")
        existing = file_of("e1", 7) if world.target.is_listed else TargetFile("v", "e1", 7, "id", True, "old", "run-1")
        world.target.holds("old", b"content", existing)
        return world, world.item(operation="rename", origin="old", origin_ours=existing.version, origin_seq="0B")

    @EACH_TARGET
    def test_the_file_is_renamed(self, make: Make) -> None:
        world, item = self.world(make)
        answer = world.answer(item)
        assert isinstance(answer, Completed)
        assert answer.moved_bytes == 0
        assert world.target.contents == {"a": b"content"}
        assert ("put", "a") not in world.target.calls
        task = task_of(answer)
        assert (task.operation, task.origin, task.origin_seq) == ("rename", "old", "0B")
        assert task.record is not None
        assert task.record.target == item.detail["origin_ours"]

    @EACH_TARGET
    def test_a_rename_whose_response_was_lost_is_recognized(self, make: Make) -> None:
        world, item = self.world(make)
        world.target.holds("a", b"content", world.target.files.pop("old"))
        answer = world.answer(item)
        assert task_of(answer).operation == "rename"
        assert not {call for call, _ in world.target.calls} & {"put", "rename"}

    @pytest.mark.parametrize("conditional", [False, True])
    def test_a_copy_of_the_file_under_the_new_path_is_no_rename(self, *, conditional: bool) -> None:
        """The record of the old path stays while its file exists."""
        world, item = self.world(lambda: bucket(conditional=conditional))
        world.target.holds("a", b"content", world.target.files["old"])
        answer = world.answer(item)
        assert isinstance(answer, Completed)
        assert (task_of(answer).operation, task_of(answer).origin) == ("put", None)
        assert "old" in world.target.files

    @EACH_TARGET
    def test_a_foreign_file_under_the_new_path_is_a_conflict(self, make: Make) -> None:
        world, item = self.world(make)
        theirs = world.target.holds("a", b"theirs", TargetFile("t", None, 6))
        assert outcome(world.answer(item)) is Outcome.CONFLICT
        assert world.target.files["a"] == theirs
        assert "old" in world.target.files, "it is still ours, and a later scan removes it"

    @EACH_TARGET
    @pytest.mark.parametrize("refusal", ["TARGET_CHANGED", "FILE_DIFFERS", "NOT_FOUND"])
    def test_a_refused_rename_sends_the_object(self, make: Make, refusal: CodeName) -> None:
        world, item = self.world(make)
        world.target.fails["old"] = SynclineError(refusal, "no")
        answer = world.answer(item)
        assert isinstance(answer, Completed)
        assert ("put", "a") in world.target.calls
        assert (task_of(answer).operation, task_of(answer).origin) == ("put", None), "the old record stays"

    def test_a_copy_that_the_service_kept_short_is_ours_and_replaced(self) -> None:
        """The old file stays until a scan removes it."""
        world, item = self.world(bucket)
        world.target.fails["old"] = NotArrivedError(file_of("short", 7), "it has 6 bytes")
        assert code(world.answer(item)) == "NOT_ARRIVED"
        record = world.record()
        assert record is not None
        assert (record.target, record.verified) == ("short", False)
        world.target.fails.clear()
        world.target.holds("a", b"conten", file_of("short", 6))
        answer = world.answer(item)
        assert isinstance(answer, Completed)
        assert task_of(answer).operation == "put"
        assert world.target.contents == {"a": b"content", "old": b"content"}

    def test_after_a_refused_rename_the_file_is_a_new_one(self) -> None:
        """The run reports no earlier name or version of it."""
        world, item = self.world(bucket)
        previous = PreviousRecord("old", Record("e1", 7, 0, "e1"))
        item = replace(Task.of(item), previous=previous).on(item)
        world.target.fails["old"] = SynclineError("TARGET_CHANGED", "no")
        made = task_of(world.answer(item)).record
        assert made is not None
        assert made.previous is None

    @EACH_TARGET
    @pytest.mark.parametrize("case", ["foreign", "cut", "gone", "back", "changed"])
    def test_the_object_is_sent_if_the_rename_is_outdated(self, make: Make, case: str) -> None:
        world, item = self.world(make)
        if case == "foreign":
            world.target.holds("old", b"CONTENT", TargetFile("t", None, 7))
        elif case == "cut":
            world.target.holds("old", b"conten", replace(world.target.files["old"], size=6))
        elif case == "gone":
            del world.target.files["old"]
        elif case == "back":
            world.source.put("old", b"content", "e1")
        else:
            world.source.put("a", b"content 2", "e2")
        answer = world.answer(item)
        assert isinstance(answer, Completed)
        assert "rename" not in {call for call, _ in world.target.calls}
        assert world.target.contents["a"] == world.source.objects["a"][1]
        assert task_of(answer).operation == "put"

    def test_a_file_that_is_written_for_its_headers_is_written_before_the_old_one_is_removed(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world, item = self.world(bucket)
        head = world.source.put("a", b"content", "e1", content_type="text/plain")
        world.target.holds("old", b"content", file_of("e1", 7, "other headers"))
        monkeypatch.setattr(world.target, "put", lambda _put: PutResult(head, file_of("e1", 7)))
        assert code(world.answer(item)) == "NOT_ARRIVED"
        assert "old" in world.target.files
        record = world.record()
        assert record is not None
        assert (record.target, record.verified) == ("e1", False)

    def test_an_unfinished_upload_in_its_place_is_a_put(self) -> None:
        world, item = self.world(bucket)
        del world.target.files["old"]
        world.target.unfinished = 3
        answer = world.answer(item)
        assert isinstance(answer, Unfinished)
        assert (task_of(answer).operation, task_of(answer).origin, task_of(answer).parts) == ("put", None, 3)

    def test_an_object_that_is_gone_is_skipped(self) -> None:
        world, item = self.world(bucket)
        world.source.objects.clear()
        assert outcome(world.answer(item)) is Outcome.EQUAL
        assert world.target.calls == []


class TestRemove:
    ITEM: Final = Item("g", "a", None, "e1", 7)

    def item(self, operation: str = "remove") -> Item:
        return Task(operation=operation, ours="v").on(self.ITEM)

    def world(self, make: Make, version: str = "v", **about: Any) -> World:
        """Return a world whose target has a file that the source does not have; the record is about version ``v``."""
        world = make(removals={})
        world.target.holds("a", b"content", TargetFile(version, None, 7, **about))
        world.records.rows["a"] = Record("e1", 7, 0, "v").to_row()
        return world

    @EACH_TARGET
    def test_our_file_is_removed(self, make: Make) -> None:
        world = self.world(make)
        answer = world.answer(self.item())
        assert isinstance(answer, Completed)
        assert (task_of(answer).operation, answer.item.source) == ("remove", None)
        assert world.target.files == {}
        assert world.record() is not None, "the record is deleted when the removal is verified"

    @EACH_TARGET
    def test_a_foreign_file_is_not_removed(self, make: Make) -> None:
        world = self.world(make)
        world.records.rows.clear()
        answer = world.answer(self.item())
        assert isinstance(answer, Result)
        assert (answer.outcome, answer.reason) == (Outcome.EQUAL, "this sync did not write the file, so it is kept")
        assert world.target.calls == []

    @EACH_TARGET
    @pytest.mark.parametrize("operation", ["remove", "confirm"])
    def test_a_file_replaced_by_others_is_a_conflict(self, make: Make, operation: str) -> None:
        world = self.world(make, "t")
        assert outcome(world.answer(self.item(operation))) is Outcome.CONFLICT
        assert world.target.calls == []

    def test_a_file_replaced_during_the_removal_is_a_conflict(self) -> None:
        world = self.world(bucket)
        world.target.meanwhile = lambda: world.target.files.update(a=TargetFile("t", None, 7))
        assert outcome(world.answer(self.item())) is Outcome.CONFLICT
        assert world.target.files["a"].version == "t"

    @EACH_TARGET
    def test_a_replaced_file_is_foreign_from_then_on(self, make: Make) -> None:
        """The conflict is reported once: without a record, no later scan considers the file."""
        world = self.world(make, "t")
        answer = world.answer(self.item())
        assert isinstance(answer, Result)
        assert (answer.code, answer.target) == ("FILE_DIFFERS", "t")
        assert "replaced the file at the target, and its object is gone from the source" in (answer.reason or "")
        assert world.record() is None

    def test_a_marked_file_is_ours_without_a_record(self) -> None:
        world = self.world(manager, "t", is_marked=True)
        world.records.rows.clear()
        assert isinstance(world.answer(self.item()), Completed)
        assert world.target.files == {}

    def test_a_file_with_the_version_of_the_scan_is_ours_without_a_record(self) -> None:
        world = self.world(bucket)
        world.records.rows.clear()
        world.target.holds("a", b"content", file_of("e1", 7))
        assert isinstance(world.answer(self.item()), Completed)
        assert world.target.files == {}

    @EACH_TARGET
    @pytest.mark.parametrize("operation", ["remove", "confirm"])
    def test_the_removal_of_an_absent_file_completes(self, make: Make, operation: str) -> None:
        world = self.world(make)
        world.target.files.clear()
        assert task_of(world.answer(self.item(operation))).operation == "remove"
        assert world.target.calls == []

    @EACH_TARGET
    @pytest.mark.parametrize("operation", ["remove", "confirm"])
    def test_an_object_that_came_back_is_sent(self, make: Make, operation: str) -> None:
        world = self.world(make)
        world.source.put("a", b"content 2", "e2")
        assert isinstance(world.answer(self.item(operation)), Completed)
        assert world.target.contents == {"a": b"content 2"}

    @EACH_TARGET
    def test_confirm_removes_nothing(self, make: Make) -> None:
        """The file is ours, but no removal was granted; the next scan requests one."""
        world = self.world(make)
        assert outcome(world.answer(self.item("confirm"))) is Outcome.EQUAL
        assert world.target.calls == []
        assert "a" in world.target.files
