"""The work of one batch: its following batches, results, dead letters and counts."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline.errors import CodeName, SynclineError
from syncline.kinds.kind import Failure
from syncline.messages import Batch, DeadLetter
from syncline.model import Counts, Item, Outcome, Result, Scope, Step
from syncline.steps.engine import (
    MAX_ATTEMPTS,
    BatchWork,
    retry_delay,
    step_error,
)
from tests.rig.made_up import MADE_UP_RUN, SYNC, items, transfer_of

TRANSFER = transfer_of("1", "2", "3", attempt=2)
RNG = random.Random(0)


def failure(name: str, code: CodeName = "SERVER_ERROR", retry_after: float | None = None) -> Failure:
    return Failure(items(name)[0], SynclineError(code, f"{name} failed", retry_after=retry_after))


def result(name: str, outcome: Outcome = Outcome.MOVED, moved_bytes: int = 0) -> Result:
    return Result("team/app", name, outcome, moved_bytes=moved_bytes)


@given(st.integers(1, 20), st.randoms())
def test_retry_delays_double_up_to_five_minutes_with_jitter(attempt: int, rng: random.Random) -> None:
    longest = min(300, 4 * 2 ** (attempt - 1))
    assert longest / 2 <= retry_delay(attempt, rng) <= longest


class TestFollowing:
    def test_following_batches_have_different_ids_and_whole_seconds(self) -> None:
        work = BatchWork(TRANSFER)
        first, second = work.follow(1.6, step=Step.VERIFY), work.follow()
        assert [each.delay for each in work.outgoing] == [2, 0]
        assert [each.batch for each in work.outgoing] == [first, second]
        assert first.id != second.id
        assert (first.step, second.step, first.items) == (Step.VERIFY, Step.TRANSFER, TRANSFER.items)

    def test_retryable_items_stay_together_and_the_others_fail(self) -> None:
        work = BatchWork(TRANSFER)
        work.fail([failure("1"), failure("2", "FORBIDDEN"), failure("3", "THROTTLED")], RNG, step=Step.TRANSFER)
        (again,) = work.outgoing
        assert [item.name for item in again.batch.items] == ["1", "3"]
        assert (again.batch.attempt, again.batch.step) == (3, Step.TRANSFER)
        assert 4 <= again.delay <= 8
        assert [each.name for each in work.results] == ["2"]
        assert work.waits is not None
        assert work.waits[0].what == "1 failed"

    def test_changes_apply_to_the_retried_batch(self) -> None:
        work = BatchWork(TRANSFER)
        work.fail([failure("1")], RNG, step=Step.VERIFY, attempt=1)
        assert (work.outgoing[0].batch.step, work.outgoing[0].batch.attempt) == (Step.VERIFY, 1)

    def test_the_reason_to_wait_is_that_of_a_retried_item(self) -> None:
        work = BatchWork(TRANSFER)
        work.fail([failure("1", "FORBIDDEN"), failure("2", "THROTTLED", 90.0), failure("3", retry_after=30.0)], RNG)
        assert work.waits is not None
        assert (work.waits[0].code.name, work.waits[1]) == ("THROTTLED", 90.0)
        assert work.outgoing[0].delay == 90

    @pytest.mark.parametrize(("attempt", "again"), [(MAX_ATTEMPTS - 1, True), (MAX_ATTEMPTS, False)])
    def test_the_last_attempt_is_not_retried(self, attempt: int, *, again: bool) -> None:
        work = BatchWork(replace(TRANSFER, attempt=attempt))
        work.fail([failure("1")], RNG)
        assert (len(work.outgoing), len(work.dead), work.waits is not None) == (again, not again, again)

    def test_without_failures_nothing_changes(self) -> None:
        work = BatchWork(TRANSFER)
        work.fail([], RNG)
        assert work == BatchWork(TRANSFER)


class TestFailed:
    error = SynclineError("REFUSED", "it is so")

    def test_a_failed_item_of_a_transfer_has_a_result_and_a_dead_letter(self) -> None:
        work, item = BatchWork(TRANSFER), Item("team/app", "2", "ours", "theirs", detail={"session": 1})
        work.give_up(item, self.error)
        why: tuple[CodeName, str] = ("REFUSED", "it is so")
        assert work.results == [Result("team/app", "2", Outcome.FAILED, "ours", "theirs", 0, *why)]
        scope = Scope.of(["team/app"])
        assert work.dead == [DeadLetter(replace(TRANSFER, items=(item,), scope=scope), *why, ("team/app", "2"))]

    def test_the_dead_letter_has_the_scope_that_finds_the_item(self) -> None:
        work = BatchWork(TRANSFER)
        work.give_up(Item("folder/file", "file"), self.error, "folder/")
        assert work.dead[0].batch.scope == Scope.of(["folder/"])

    def test_the_dead_letter_of_a_scan_has_its_scope(self) -> None:
        scan = Batch(MADE_UP_RUN, SYNC, Step.DISCOVER, "scan", scope=Scope.of(["a", "b"]), cursor="a")
        work = BatchWork(scan)
        work.give_up(Item("*", "*"), self.error)
        assert (work.dead[0].batch, work.dead[0].key) == (scan, ("*", "*"))

    def test_a_plan_leaves_no_dead_letter(self) -> None:
        work = BatchWork(replace(TRANSFER, plan=True))
        work.give_up(items("1")[0], self.error)
        assert (len(work.results), work.dead) == (1, [])


class TestCounts:
    def test_counts_of_a_transfer(self) -> None:
        work = BatchWork(TRANSFER, requests=7)
        work.results = [result("1", Outcome.CONFLICT), result("2", Outcome.EQUAL), result("3", Outcome.EXTRA)]
        counts = work.counts(work.results)
        assert counts == Counts(conflict=1, skipped=1, extra=1, queued=-2, requests=7)

    def test_the_bytes_of_a_dropped_result_are_counted(self) -> None:
        work = BatchWork(replace(TRANSFER, step=Step.VERIFY))
        others = [result(name, Outcome.REMOVED, 1) for name in ("4", "5", "6")]
        work.results = [result("1", moved_bytes=5), result("2", moved_bytes=7), *others]
        counts = work.counts(work.results[:1])
        assert counts == Counts(moved=1, queued=-1, bytes=15)

    def test_results_of_a_scan_are_not_subtracted_from_queued(self) -> None:
        scan = Batch(MADE_UP_RUN, SYNC, Step.DISCOVER, "scan")
        work = BatchWork(scan, equal=4, left_out=3, extra=2, queued=5)
        work.results = [result("1", Outcome.LEFT_OUT), result("2", Outcome.EXTRA), result("3", Outcome.CONFLICT)]
        assert work.counts(work.results[:2]) == Counts(skipped=4, left_out=4, extra=3, queued=5)


def test_only_other_exceptions_become_internal_errors() -> None:
    ours = SynclineError("FORBIDDEN", "no")
    assert step_error(ours) is ours
    other = step_error(ZeroDivisionError("secret"))
    assert (other.code.name, "ZeroDivisionError" in other.what, "secret" in other.what) == ("INTERNAL", True, False)
