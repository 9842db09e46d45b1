"""Transfer of files: writes, their records, and files that need a function of their own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from syncline.errors import SynclineError
from syncline.kinds.files.records import Record
from syncline.kinds.files.targets import TargetFile, file_of
from syncline.kinds.kind import Completed, Failure, Unfinished
from syncline.model import Outcome, Result
from tests.unit.kinds.files.transfer_world import EACH_TARGET, RECORDED, Make, bucket, code, manager, outcome, task_of


class TestPut:
    @EACH_TARGET
    def test_a_new_file_is_recorded_before_it_is_verified(self, make: Make) -> None:
        world = make()
        world.source.put("a", b"content", "e1", content_type="text/plain", modified=5.5)
        answer = world.answer(world.item())
        assert isinstance(answer, Completed)
        assert answer.moved_bytes == 7
        record = world.record()
        assert record is not None
        assert (record.etag, record.size, record.modified, record.file_type) == ("e1", 7, 5, "text/plain")
        assert (record.target, record.verified) == (world.target.files["a"].version, False)
        assert task_of(answer).record == replace(record, verified=True)
        assert task_of(answer).written == RECORDED

    @EACH_TARGET
    def test_a_foreign_file_is_a_conflict(self, make: Make) -> None:
        world = make()
        world.source.put("a", b"content", "e1")
        theirs = world.target.holds("a", b"theirs", TargetFile("v", None, 6))
        answer = world.answer(world.item())
        assert isinstance(answer, Result)
        assert (answer.outcome, answer.code) == (Outcome.CONFLICT, "FILE_DIFFERS")
        assert (answer.source, answer.target) == ("e1", "v")
        assert world.target.files == {"a": theirs}
        assert not world.records.rows

    @pytest.mark.parametrize("make", [lambda: bucket(conditional=True), manager], ids=["conditional", "manager"])
    def test_a_file_created_between_the_read_and_the_write_is_a_conflict(self, make: Make) -> None:
        world = make()
        world.source.put("a", b"content", "e1")

        def meanwhile() -> None:
            world.target.files.setdefault("a", TargetFile("v", None, 6))

        world.target.meanwhile = meanwhile
        assert outcome(world.answer(world.item())) is Outcome.CONFLICT
        assert world.target.files["a"].version == "v"
        assert not world.records.rows

    @EACH_TARGET
    @pytest.mark.parametrize("known", [False, True])
    def test_a_sync_that_may_overwrite_replaces_a_foreign_file(self, make: Make, *, known: bool) -> None:
        """The scan may not have known the file; a file manager then gets an update."""
        world = make(overwrite=True)
        world.source.put("a", b"content", "e1")
        world.target.holds("a", b"theirs", TargetFile("v", None, 6))
        assert isinstance(world.answer(world.item(target="v" if known else None)), Completed)
        assert world.target.contents == {"a": b"content"}

    @EACH_TARGET
    def test_our_own_file_is_replaced(self, make: Make) -> None:
        world = make()
        world.source.put("a", b"content", "e2")
        world.target.holds("a", b"before", TargetFile("v", "v", 6))
        assert isinstance(world.answer(world.item(target="v", ours="v")), Completed)
        assert world.target.contents == {"a": b"content"}

    @EACH_TARGET
    def test_a_file_that_another_item_wrote_is_replaced(self, make: Make) -> None:
        world = make()
        world.source.put("a", b"content", "e3")
        world.target.holds("a", b"between", TargetFile("v2", "v2", 7))
        world.records.rows["a"] = Record("e2", 7, 0, "v2").to_row()
        assert isinstance(world.answer(world.item(target="v1", ours="v1")), Completed)
        assert world.target.contents == {"a": b"content"}

    def test_a_file_with_our_mark_is_replaced(self) -> None:
        """There is no record: the function died before it wrote one, or the table was lost."""
        world = manager()
        world.source.put("a", b"content", "e2")
        world.target.holds("a", b"before", TargetFile("v", "e1", 6, "id", True, "a", "run-1"))
        assert isinstance(world.answer(world.item()), Completed)
        assert world.target.contents == {"a": b"content"}

    @EACH_TARGET
    def test_a_file_with_the_version_of_this_item_is_replaced(self, make: Make) -> None:
        """A function wrote it and died before it wrote the record; the object was replaced since."""
        world = make()
        world.source.put("a", b"content", "e1")
        item = world.item()
        world.target.holds("a", b"content", file_of("e1", 7))
        world.source.put("a", b"content 2", "e2")
        assert isinstance(world.answer(item), Completed)
        assert world.target.contents == {"a": b"content 2"}

    @pytest.mark.parametrize(("etag", "modified"), [("e1", 7), ("e2", 5)])
    def test_the_time_of_an_unchanged_object_is_that_of_the_listing(self, etag: str, modified: int) -> None:
        """Some services return another time for a read; the next scan compares the listed time."""
        world = bucket()
        world.source.put("a", b"content", "e1", modified=7.5)
        item = world.item()
        world.source.put("a", b"content", etag, modified=5.5)
        made = task_of(world.answer(item)).record
        assert made is not None
        assert made.modified == modified

    @EACH_TARGET
    @pytest.mark.parametrize("overwrite", [False, True])
    def test_a_file_that_is_removed_between_the_read_and_the_write_is_written_again(
        self, make: Make, *, overwrite: bool
    ) -> None:
        world = make(overwrite=overwrite)
        world.source.put("a", b"content", "e2")
        world.target.holds("a", b"before", TargetFile("v", "e1", 6))
        world.target.meanwhile = lambda: world.target.files.pop("a", None)  # type: ignore[assignment]
        assert isinstance(world.answer(world.item(ours="v", target="e1")), Completed)
        assert world.target.contents["a"] == b"content"

    @EACH_TARGET
    def test_the_sequencer_of_an_object_is_recorded(self, make: Make) -> None:
        world = make()
        world.source.put("a", b"content", "e1")
        world.answer(world.item(seq="05"))
        record = world.record()
        assert record is not None
        assert record.seq == "05"

    @pytest.mark.parametrize("missing", ["source", "size", "modified", None])
    def test_the_target_gets_the_object_as_the_scan_saw_it(self, missing: str | None) -> None:
        """It then need not request the object again."""
        world = bucket(overwrite=True)
        head = world.source.put("a", b"content", "e1", modified=5.0)
        item = world.item()
        if missing is not None:
            without: dict[str, Any] = {"detail": {}} if missing == "modified" else {missing: None}
            item = replace(item, **without)
        assert isinstance(world.answer(item), Completed)
        (put,) = world.target.puts
        assert put.seen == (head if missing is None else None)

    @EACH_TARGET
    def test_an_object_that_is_gone_is_skipped(self, make: Make) -> None:
        world = make()
        world.source.put("a", b"content", "e1")
        item = world.item()
        world.source.objects.clear()
        answer = world.answer(item)
        assert isinstance(answer, Result)
        assert (answer.outcome, answer.reason) == (Outcome.EQUAL, "it is no longer at the source")
        assert not world.records.rows

    @EACH_TARGET
    def test_a_file_written_for_an_object_that_is_gone_is_recorded(self, make: Make) -> None:
        """A function wrote it and died before it wrote the record; without a record, no scan would remove it."""
        world = make()
        world.source.put("a", b"content", "e1")
        item = world.item()
        world.target.holds("a", b"content", existing := file_of("e1", 7))
        world.source.objects.clear()
        assert isinstance(world.answer(item), Result)
        record = Record.of_row(world.records.rows["a"])
        assert (record.target, record.verified) == (existing.version, False)

    def test_the_record_of_an_object_that_is_gone_is_kept(self) -> None:
        world = manager()
        world.source.put("a", b"content", "e1")
        item = world.item()
        world.target.holds("a", b"content", TargetFile("v", "e1", 7, is_marked=True))
        for version in ("v", "v-0"):
            world.records.rows["a"] = Record("e1", 7, 5, version).to_row()
            world.source.objects.clear()
            world.answer(item)
            record = world.record()
            assert record is not None
            assert (record.target, record.verified) == ("v", version == "v")

    @EACH_TARGET
    def test_a_foreign_file_for_an_object_that_is_gone_is_not_recorded(self, make: Make) -> None:
        world = make(overwrite=True)
        world.source.put("a", b"content", "e1")
        item = world.item()
        world.target.holds("a", b"theirs", file_of("e2", 6))
        world.source.objects.clear()
        assert isinstance(world.answer(item), Result)
        assert not world.records.rows

    @EACH_TARGET
    def test_a_completed_item_carries_no_progress(self, make: Make) -> None:
        """If verify does not find the file, it is transferred again from its beginning."""
        world = make()
        world.source.put("a", b"content", "e1")
        (answer,) = world.transfer_items([world.item(parts=3, compared=5, versions=("e1", "v"), alone=True)]).values()
        task = task_of(answer)
        assert (task.parts, task.compared, task.versions, task.alone) == (0, 0, None, False)

    @pytest.mark.parametrize("size", [7, None])
    def test_a_file_without_an_etag_is_recorded_with_that_of_the_object_that_is_gone(self, size: int | None) -> None:
        world = manager()
        world.source.put("a", b"content", "e1")
        item = world.item()
        world.target.holds("a", b"content", TargetFile("v", None, size, is_marked=True))
        del world.source.objects["a"]
        assert outcome(world.answer(item)) is Outcome.EQUAL
        record = world.record()
        assert record is not None
        assert (record.etag, record.size, record.target, record.verified) == ("e1", 7, "v", False)

    def test_an_unfinished_upload_is_resumed_later(self) -> None:
        world = bucket()
        world.source.put("a", b"content", "e1")
        world.target.unfinished = 3
        answer = world.answer(world.item())
        assert isinstance(answer, Unfinished)
        assert task_of(answer).parts == 3
        assert not world.records.rows

    @pytest.mark.parametrize(("before", "further"), [(0, True), (2, True), (3, False)])
    def test_an_upload_that_failed_and_advanced_is_no_failed_attempt(self, before: int, *, further: bool) -> None:
        world = bucket()
        world.source.put("a", b"content", "e1")
        world.target.unfinished, world.target.error = 3, SynclineError("SERVER_ERROR", "it broke")
        answer = world.answer(world.item(parts=before))
        assert isinstance(answer, Failure)
        assert (task_of(answer).parts, answer.error, answer.further) == (3, world.target.error, further)

    def test_nothing_is_begun_when_time_is_over(self) -> None:
        world = bucket()
        world.left = lambda: 0.0
        for key in "ab":
            world.source.put(key, b"content", "e1")
        answers = world.transfer_items([world.item("a"), world.item("b")])
        assert answers == {key: Unfinished(world.item(key)) for key in "ab"}
        assert world.target.calls == []


class TestAlone:
    """A file that is too slow for a shared function gets its own."""

    def test_a_slow_file_among_others_waits_for_its_own_function(self) -> None:
        world = manager()
        for key in "ab":
            world.source.put(key, b"content", "e1")
        world.target.fails["a"] = SynclineError("FILE_TOO_SLOW", "slow")
        answers = world.transfer_items([world.item("a"), world.item("b")])
        assert isinstance(answers["b"], Completed)
        later = answers["a"]
        assert isinstance(later, Unfinished)
        assert (later.waiting, task_of(later).alone) == (True, True)

    def test_slow_files_are_transferred_one_at_a_time_and_first(self) -> None:
        world = manager()
        for key in "abc":
            world.source.put(key, b"content", "e1")
        items = [world.item("c"), world.item("a", alone=True), world.item("b", alone=True)]
        answers = world.transfer_items(items)
        assert isinstance(answers["a"], Completed)
        assert not task_of(answers["a"]).alone
        assert answers["b"] == Unfinished(items[2], waiting=True)
        assert answers["c"] == Unfinished(items[0], waiting=True)
        assert list(world.target.files) == ["a"]

    @pytest.mark.parametrize("alone", [False, True])
    def test_a_slow_file_with_its_own_function_fails(self, *, alone: bool) -> None:
        """It had its own function if it was the only item or the others waited."""
        world = manager()
        for key in "ab":
            world.source.put(key, b"content", "e1")
        world.target.fails["a"] = SynclineError("FILE_TOO_SLOW", "slow")
        items = [world.item("a", alone=alone), *([world.item("b")] if alone else [])]
        assert code(world.transfer_items(items)["a"]) == "FILE_TOO_SLOW"
        assert not world.records.rows
