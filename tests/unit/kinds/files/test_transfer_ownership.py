"""Transfer of files whose path is taken: equal files are adopted, others are conflicts."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import pytest

from syncline.clients.s3.head import fingerprint
from syncline.errors import SynclineError
from syncline.kinds.files.records import COLLIDES, Record, Task
from syncline.kinds.files.targets import CHUNK, TargetFile, file_of
from syncline.kinds.kind import Completed, Failure, Unfinished
from syncline.model import Item, Outcome
from tests.unit.kinds.files.transfer_world import RUN, Make, World, bucket, code, manager, outcome, task_of

TWO_CHUNKS: Final = bytes(CHUNK) + b"the end"
PIECES: Final = 4
"""Number of reads of one chunk."""


class TestEqual:
    """An equal file is not written again: it is adopted, or it is ours."""

    def test_a_file_that_the_scan_saw_is_adopted(self) -> None:
        world = bucket()
        world.source.put("a", b"content", "e1")
        world.target.holds("a", b"content", file_of("e1", 7))
        answer = world.answer(world.item(target="e1"))
        assert outcome(answer) is Outcome.EQUAL
        record = world.record()
        assert record is not None
        assert (record.etag, record.target, record.verified) == ("e1", "e1", True)
        assert world.target.calls == []

    def test_a_file_of_an_earlier_run_at_a_file_manager_is_adopted(self) -> None:
        world = manager()
        world.source.put("a", b"content", "e1")
        world.target.holds("a", b"content", TargetFile("v", "e1", 7, "id", True, "a", "run-1"))
        assert outcome(world.answer(world.item())) is Outcome.EQUAL
        record = world.record()
        assert record is not None
        assert (record.target, record.internal_id, record.mode, record.verified) == ("v", "id", "rw-r--r--", True)
        assert world.target.calls == []

    def test_a_file_that_came_after_the_scan_is_ours(self) -> None:
        """A function died after it had written the file. Another one counts it as moved, and verify reads it."""
        world = bucket()
        world.source.put("a", b"content", "e1")
        world.target.holds("a", b"content", file_of("e1", 7))
        answer = world.answer(world.item())
        assert isinstance(answer, Completed)
        assert answer.moved_bytes == 0
        assert world.target.calls == []
        record = world.record()
        assert record is not None
        assert not record.verified

    @pytest.mark.parametrize("mode", ["rw-r--r--", "rw-------"])
    def test_a_file_of_this_run_is_ours(self, mode: str) -> None:
        world = manager()
        world.source.put("a", b"content", "e1", metadata={"permissions": mode})
        world.target.holds("a", b"content", TargetFile("v", "e1", 7, "id", True, "a", RUN))
        answer = world.answer(world.item())
        assert isinstance(answer, Completed)
        assert world.target.calls == [("permit", "a")], "the function may have died before it set the permissions"
        assert world.target.modes == {"a": mode}
        record = world.record()
        assert record is not None
        assert not record.verified

    @pytest.mark.parametrize("make", [lambda: bucket(conditional=True), manager], ids=["conditional", "manager"])
    def test_a_write_whose_response_was_lost_completes(self, make: Make) -> None:
        """The request is repeated and finds the file that it wrote."""
        world = make()
        world.source.put("a", b"content", "e1")
        world.target.loses = [SynclineError("TARGET_CHANGED" if world.target.conditional else "FILE_DIFFERS", "taken")]
        answer = world.answer(world.item())
        assert isinstance(answer, Completed)
        assert [call for call in world.target.calls if call[0] == "put"] == [("put", "a")]
        record = world.record()
        assert record is not None
        assert record.target == world.target.files["a"].version

    def test_a_lost_response_for_an_object_that_came_back(self) -> None:
        """An earlier attempt removed the file that the scan saw, so the present file is ours."""
        world = bucket(conditional=True, removals={})
        world.source.put("a", b"content", "e1")
        world.target.loses = [SynclineError("TARGET_CHANGED", "taken")]
        answer = world.answer(Task(operation="remove", ours="e1").on(Item("g", "a", None, "e1", 7)))
        assert isinstance(answer, Completed), "verify reads it"
        record = world.record()
        assert record is not None
        assert not record.verified

    @pytest.mark.parametrize("overwrite", [False, True])
    def test_equal_bytes_with_other_headers(self, *, overwrite: bool) -> None:
        world = bucket(overwrite=overwrite)
        world.source.put("a", b"content", "e1", content_type="text/plain")
        world.target.holds("a", b"content", file_of("e1", 7, "other headers"))
        answer = world.answer(replace(world.item(target="e1"), source="e0"))
        assert isinstance(answer, Completed) if overwrite else outcome(answer) is Outcome.CONFLICT
        assert world.target.calls == ([("put", "a")] if overwrite else [])

    @pytest.mark.parametrize("keeps", ["none", "all", "others"])
    def test_our_own_file_with_other_headers_is_written_again(self, keeps: str) -> None:
        """Other headers kept by the target are recorded; otherwise every scan would write the file again."""
        world = bucket()
        wanted = fingerprint(world.source.put("a", b"content", "e1", content_type="text/plain"))
        world.target.keeps = {"none": None, "all": wanted, "others": "other headers"}[keeps]
        world.target.holds("a", b"content", file_of("e1", 7, "other headers"))
        answer = world.answer(replace(world.item(target="e1", ours="e1"), source="e0"))
        assert isinstance(answer, Completed)
        assert world.target.calls == [("put", "a")]
        record = world.record()
        assert record is not None
        assert (record.headers, record.kept) == (wanted, "other headers" if keeps == "others" else "")


class TestByteComparison:
    """Files of equal size with different ETags are compared by content, because multipart uploads have other ETags."""

    def world(self, theirs: bytes, ours: bytes = TWO_CHUNKS) -> World:
        world = bucket()
        world.source.put("a", ours, "e1")
        world.target.holds("a", theirs, file_of("parts-2", len(theirs)))
        return world

    def interrupted(
        self, theirs: bytes, *, conditional: bool = False, target: str | None = "parts-2"
    ) -> tuple[World, Item]:
        """Return a world whose comparison ended with its time after the first chunk, and the item that resumes it.

        ``target`` is the version of the target's file that the scan saw.
        """
        world = self.world(theirs)
        world.target.conditional = conditional
        left = [60.0]
        world.source.on_read = lambda: left.__setitem__(0, 0.0)
        world.left = lambda: left[0]
        answer = world.answer(world.item(target=target))
        assert isinstance(answer, Unfinished)
        assert not answer.stuck
        assert task_of(answer).compared == CHUNK
        assert not world.records.rows
        world.left, world.source.on_read = (lambda: 60.0), (lambda: None)
        item = Item.from_json(answer.item.to_json())
        world.source.opened.clear()
        world.target.opened.clear()
        return world, item

    def test_equal_bytes_are_adopted(self) -> None:
        world = self.world(TWO_CHUNKS)
        assert outcome(world.answer(world.item(target="parts-2"))) is Outcome.EQUAL
        record = world.record()
        assert record is not None
        assert (record.etag, record.target, record.verified) == ("e1", "parts-2", True)
        assert world.target.calls == []

    @pytest.mark.parametrize("at", [0, CHUNK - 1, CHUNK, len(TWO_CHUNKS) - 1])
    def test_one_different_byte_is_a_conflict(self, at: int) -> None:
        world = self.world(TWO_CHUNKS[:at] + b"\xff" + TWO_CHUNKS[at + 1 :])
        assert outcome(world.answer(world.item(target="parts-2"))) is Outcome.CONFLICT
        assert not world.records.rows
        assert world.target.calls == []

    def test_another_size_needs_no_comparison(self) -> None:
        world = self.world(TWO_CHUNKS[1:])
        assert outcome(world.answer(world.item(target="parts-2"))) is Outcome.CONFLICT
        assert world.source.opened == []

    def test_a_target_that_cannot_be_read_is_a_conflict(self) -> None:
        world = self.world(TWO_CHUNKS)
        world.target.gives_bytes = False
        assert outcome(world.answer(world.item(target="parts-2"))) is Outcome.CONFLICT

    def test_equal_bytes_with_other_headers_are_a_conflict(self) -> None:
        world = self.world(TWO_CHUNKS)
        world.target.files["a"] = file_of("parts-2", len(TWO_CHUNKS), "other headers")
        assert outcome(world.answer(world.item(target="parts-2"))) is Outcome.CONFLICT

    @pytest.mark.parametrize(("theirs", "expected"), [("sum", Outcome.EQUAL), ("other", Outcome.CONFLICT)])
    def test_checksums_of_complete_objects_decide_without_reading_bytes(self, theirs: str, expected: Outcome) -> None:
        world = self.world(TWO_CHUNKS)
        world.source.sums["a"], world.target.sums["a"] = {"crc64nvme": "sum"}, {"crc64nvme": theirs, "sha256": "more"}
        assert outcome(world.answer(world.item(target="parts-2"))) is expected
        assert (world.source.opened, world.target.opened) == ([], [])
        assert (world.record() is None) == (expected is Outcome.CONFLICT)

    def test_equal_checksums_with_other_headers_are_a_conflict(self) -> None:
        world = self.world(TWO_CHUNKS)
        world.target.files["a"] = file_of("parts-2", len(TWO_CHUNKS), "other headers")
        world.source.sums["a"] = world.target.sums["a"] = {"crc64nvme": "sum"}
        assert outcome(world.answer(world.item(target="parts-2"))) is Outcome.CONFLICT
        assert not world.records.rows

    def test_checksums_of_different_algorithms_say_nothing(self) -> None:
        world = self.world(b"\xff" + TWO_CHUNKS[1:])
        world.source.sums["a"], world.target.sums["a"] = {"crc64nvme": "sum"}, {"sha256": "sum"}
        assert outcome(world.answer(world.item(target="parts-2"))) is Outcome.CONFLICT
        assert world.source.opened == world.target.opened == [0]

    def test_compared_bytes_are_not_read_again(self) -> None:
        world, item = self.interrupted(TWO_CHUNKS)
        assert outcome(world.answer(item)) is Outcome.EQUAL
        assert world.source.opened == world.target.opened == [CHUNK]
        record = world.record()
        assert record is not None
        assert record.verified

    @pytest.mark.parametrize("chunks", [0, 1])
    def test_a_comparison_that_is_interrupted_resumes_at_its_offset(self, chunks: int) -> None:
        world = self.world(TWO_CHUNKS)

        def read() -> None:
            if len(reads) == chunks * PIECES:
                raise SynclineError("UNREACHABLE", "it was interrupted")
            reads.append(None)

        reads: list[None] = []
        world.source.on_read = read
        answer = world.answer(world.item(target="parts-2"))
        assert isinstance(answer, Failure)
        assert (task_of(answer).compared, answer.further) == (chunks * CHUNK, chunks > 0)
        world.source.on_read = lambda: None
        world.source.opened.clear()
        assert outcome(world.answer(Item.from_json(answer.item.to_json()))) is Outcome.EQUAL
        assert world.source.opened == [chunks * CHUNK]

    def test_the_rest_may_differ(self) -> None:
        world, item = self.interrupted(TWO_CHUNKS[:-1] + b"!")
        assert outcome(world.answer(item)) is Outcome.CONFLICT

    def test_an_object_replaced_meanwhile_is_compared_from_its_beginning(self) -> None:
        world, item = self.interrupted(TWO_CHUNKS)
        world.source.put("a", b"\xff" + TWO_CHUNKS[1:], "e2")
        assert outcome(world.answer(item)) is Outcome.CONFLICT
        assert not world.records.rows

    def test_a_file_replaced_meanwhile_is_compared_from_its_beginning(self) -> None:
        world, item = self.interrupted(TWO_CHUNKS)
        world.target.holds("a", b"\xff" + TWO_CHUNKS[1:], file_of("parts-3", len(TWO_CHUNKS)))
        assert outcome(world.answer(item)) is Outcome.CONFLICT
        assert not world.records.rows

    def test_a_conditional_target_is_compared_without_a_write(self) -> None:
        world, item = self.interrupted(TWO_CHUNKS, conditional=True)
        assert outcome(world.answer(item)) is Outcome.EQUAL
        assert world.target.calls == []

    def test_a_conditional_target_whose_file_the_scan_did_not_see_is_compared_after_the_refusal(self) -> None:
        world, item = self.interrupted(TWO_CHUNKS, conditional=True, target=None)
        assert world.target.calls == [("put", "a")]
        assert outcome(world.answer(item)) is Outcome.EQUAL
        assert world.target.calls == [("put", "a")], "the item knows that the target has a file"
        assert world.source.opened == world.target.opened == [CHUNK]
        assert world.target.contents == {"a": TWO_CHUNKS}
        assert world.target.files["a"].version == "parts-2"


class TestCollisions:
    """Targets that store two keys under one path."""

    def test_a_key_whose_path_is_that_of_another_is_recorded(self) -> None:
        world = bucket()
        world.target.same = str.lower
        world.source.put("a", b"content", "e1")
        world.target.holds("A", b"CONTENT", file_of("e2", 7))
        assert code(world.answer(world.item())) == "PATH_COLLIDES"
        record = world.record()
        assert record is not None
        assert (record.target, record.verified) == (COLLIDES, False)
        assert world.target.contents == {"A": b"CONTENT"}

    def test_a_recorded_collision_is_not_overwritten(self) -> None:
        world = bucket(overwrite=True)
        world.target.same = str.lower
        world.source.put("a", b"content", "e1")
        world.target.holds("A", b"CONTENT", file_of("e2", 7))
        assert code(world.answer(world.item(target="e2", ours=COLLIDES))) == "PATH_COLLIDES"
        assert world.target.contents == {"A": b"CONTENT"}

    def test_the_removal_of_a_collision_keeps_the_file_of_the_other_key(self) -> None:
        world = bucket(removals={})
        world.target.same = str.lower
        world.target.holds("A", b"CONTENT", file_of("e2", 7))
        world.records.rows["a"] = Record("", 0, 0, COLLIDES, verified=False).to_row()
        item = Task(operation="remove", ours=COLLIDES).on(Item("g", "a", None, "", 0))
        assert outcome(world.answer(item)) is Outcome.EQUAL
        assert world.record() is None
        assert world.target.contents == {"A": b"CONTENT"}

    @pytest.mark.parametrize("conditional", [False, True])
    @pytest.mark.parametrize("overwrite", [False, True])
    def test_only_one_of_two_colliding_new_keys_is_written(self, *, conditional: bool, overwrite: bool) -> None:
        world = bucket(conditional=conditional, overwrite=overwrite)
        world.target.same = str.lower
        keys = ["a", "b", "A", "c"]
        for key in keys:
            world.source.put(key, b"content", "e1")
        answers = world.transfer_items([world.item(key) for key in keys], threads=4)
        assert {key for key, answer in answers.items() if isinstance(answer, Completed)} == {"a", "b", "c"}
        assert code(answers["A"]) == "PATH_COLLIDES"
        assert sorted(world.target.files) == ["a", "b", "c"]

    def test_an_equal_file_of_another_key_is_not_adopted(self) -> None:
        """The new key has no file, because the target resolves its path to the file of the other key."""
        world = bucket()
        world.target.same = str.lower
        world.target.holds("A", b"content", file_of("e1", 7))
        world.source.put("a", b"content", "e1")
        assert code(world.answer(world.item())) == "PATH_COLLIDES"
        assert world.target.calls == []

    @pytest.mark.parametrize("together", [False, True])
    def test_a_file_that_was_renamed_to_another_case_is_its_own(self, *, together: bool) -> None:
        """The file still states its former path, which no longer belongs to another key."""
        world = manager(removals={})
        world.source.put("a", b"content", "e1")
        world.target.holds("a", b"content", TargetFile("v", "e1", 7, "id", False, "A", "run-1"))
        world.records.rows["a"] = Record("e1", 7, 0, "v", verified=False, mode="rw-r--r--").to_row()
        gone = Task(operation="remove", ours="v").on(Item("g", "A", None, "e1", 7))
        answers = world.transfer_items([world.item(), *([gone] if together else [])])
        assert outcome(answers["a"]) is Outcome.EQUAL
        record = world.record()
        assert record is not None
        assert (record.target, record.verified) == ("v", True)

    def test_a_path_stated_by_the_file_manager_reveals_a_collision(self) -> None:
        world = manager()
        world.target.same = str.lower
        world.source.put("a", b"content", "e1")
        world.target.holds("A", b"CONTENT", TargetFile("v", "e2", 7, "id", False, "A", "run-1"))
        assert code(world.answer(world.item())) == "PATH_COLLIDES"
