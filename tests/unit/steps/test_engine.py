"""The engine: what follows from a batch, what is given up, what is counted, and what is sent once more."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import pytest
from botocore.exceptions import EndpointConnectionError
from hypothesis import given
from hypothesis import strategies as st

from syncline.errors import CodeName, SynclineError
from syncline.kinds.kind import GRACE_SECONDS, Failure
from syncline.messages import Batch, DeadLetter, Outgoing, Queues, decode
from syncline.model import EVERYTHING, Counts, Item, Outcome, Result, Run, RunStatus, Scope, Step, Trigger, json_bytes
from syncline.steps.engine import (
    MAX_ATTEMPTS,
    MAX_HOPS,
    MAX_IDLE,
    MAX_ITEM_BYTES,
    REPORT_SECONDS,
    BatchWork,
    retry_delay,
    step_error,
)
from syncline.store.batches import BatchRecord
from syncline.store.failures import KnownFailure
from syncline.store.leases import Lease
from syncline.store.state import State
from tests.rig.made_up import MADE_UP_RUN, SYNC, MadeUp, Steps, items, transfer_of
from tests.rig.run_ids import made_run_id

TRANSFER = transfer_of("1", "2", "3", attempt=2)
NO_CHANCE = random.Random(0)


def failure(name: str, code: CodeName = "SERVER_ERROR", retry_after: float | None = None) -> Failure:
    return Failure(items(name)[0], SynclineError(code, f"{name} failed", retry_after=retry_after))


def result(name: str, outcome: Outcome = Outcome.MOVED, moved_bytes: int = 0) -> Result:
    return Result("team/app", name, outcome, moved_bytes=moved_bytes)


@given(st.integers(1, 20), st.randoms())
def test_a_pause_doubles_up_to_five_minutes_and_differs_among_those_who_failed(
    attempt: int, rng: random.Random
) -> None:
    longest = min(300, 4 * 2 ** (attempt - 1))
    assert longest / 2 <= retry_delay(attempt, rng) <= longest


class TestFollowing:
    def test_batches_that_follow_have_different_ids_and_whole_seconds(self) -> None:
        work = BatchWork(TRANSFER)
        first, second = work.follow(1.6, step=Step.VERIFY), work.follow()
        assert [each.delay for each in work.outgoing] == [2, 0]
        assert [each.batch for each in work.outgoing] == [first, second]
        assert first.id != second.id
        assert (first.step, second.step, first.items) == (Step.VERIFY, Step.TRANSFER, TRANSFER.items)

    def test_items_that_may_be_tried_again_are_together_and_the_others_given_up(self) -> None:
        work = BatchWork(TRANSFER)
        work.fail([failure("1"), failure("2", "FORBIDDEN"), failure("3", "THROTTLED")], NO_CHANCE, step=Step.TRANSFER)
        (again,) = work.outgoing
        assert [item.name for item in again.batch.items] == ["1", "3"]
        assert (again.batch.attempt, again.batch.step) == (3, Step.TRANSFER)
        assert 4 <= again.delay <= 8
        assert [each.name for each in work.results] == ["2"]
        assert work.waits is not None
        assert work.waits[0].what == "1 failed"

    def test_changes_apply_to_the_batch_that_tries_again(self) -> None:
        work = BatchWork(TRANSFER)
        work.fail([failure("1")], NO_CHANCE, step=Step.VERIFY, attempt=1)
        assert (work.outgoing[0].batch.step, work.outgoing[0].batch.attempt) == (Step.VERIFY, 1)

    def test_the_reason_to_wait_is_of_an_item_that_is_tried_again(self) -> None:
        work = BatchWork(TRANSFER)
        work.fail(
            [failure("1", "FORBIDDEN"), failure("2", "THROTTLED", 90.0), failure("3", retry_after=30.0)], NO_CHANCE
        )
        assert work.waits is not None
        assert (work.waits[0].code.name, work.waits[1]) == ("THROTTLED", 90.0)
        assert work.outgoing[0].delay == 90

    @pytest.mark.parametrize(("attempt", "again"), [(MAX_ATTEMPTS - 1, True), (MAX_ATTEMPTS, False)])
    def test_the_last_try_is_followed_by_none(self, attempt: int, *, again: bool) -> None:
        work = BatchWork(replace(TRANSFER, attempt=attempt))
        work.fail([failure("1")], NO_CHANCE)
        assert (len(work.outgoing), len(work.dead), work.waits is not None) == (again, not again, again)

    def test_nothing_to_fail(self) -> None:
        work = BatchWork(TRANSFER)
        work.fail([], NO_CHANCE)
        assert work == BatchWork(TRANSFER)


class TestGivenUp:
    error = SynclineError("REFUSED", "it is so")

    def test_an_item_of_a_transfer(self) -> None:
        work, item = BatchWork(TRANSFER), Item("team/app", "2", "ours", "theirs", detail={"session": 1})
        work.give_up(item, self.error)
        why: tuple[CodeName, str] = ("REFUSED", "it is so")
        assert work.results == [Result("team/app", "2", Outcome.FAILED, "ours", "theirs", 0, *why)]
        scope = Scope.of(["team/app"])
        assert work.dead == [DeadLetter(replace(TRANSFER, items=(item,), scope=scope), *why, ("team/app", "2"))]

    def test_an_item_that_another_group_finds(self) -> None:
        work = BatchWork(TRANSFER)
        work.give_up(Item("folder/file", "file"), self.error, "folder/")
        assert work.dead[0].batch.scope == Scope.of(["folder/"])

    def test_a_whole_scan_is_made_again_by_its_scope(self) -> None:
        scan = Batch(MADE_UP_RUN, SYNC, Step.DISCOVER, "scan", scope=Scope.of(["a", "b"]), cursor="a")
        work = BatchWork(scan)
        work.give_up(Item("*", "*"), self.error)
        assert (work.dead[0].batch, work.dead[0].key) == (scan, ("*", "*"))

    def test_a_plan_leaves_no_letter(self) -> None:
        work = BatchWork(replace(TRANSFER, plan=True))
        work.give_up(items("1")[0], self.error)
        assert (len(work.results), work.dead) == (1, [])


class TestCounts:
    def test_of_a_transfer(self) -> None:
        work = BatchWork(TRANSFER, requests=7)
        work.results = [result("1", Outcome.CONFLICT), result("2", Outcome.EQUAL), result("3", Outcome.EXTRA)]
        counts = work.counts(work.results)
        assert counts == Counts(conflict=1, skipped=1, extra=1, queued=-2, requests=7)

    def test_a_dropped_result_is_no_longer_queued_but_its_bytes_count(self) -> None:
        work = BatchWork(replace(TRANSFER, step=Step.VERIFY))
        others = [result(name, Outcome.REMOVED, 1) for name in ("4", "5", "6")]
        work.results = [result("1", moved_bytes=5), result("2", moved_bytes=7), *others]
        counts = work.counts(work.results[:1])
        assert counts == Counts(moved=1, queued=-1, bytes=15)

    def test_of_a_scan_nothing_that_it_settles_was_queued(self) -> None:
        scan = Batch(MADE_UP_RUN, SYNC, Step.DISCOVER, "scan")
        work = BatchWork(scan, equal=4, left_out=3, extra=2, queued=5)
        work.results = [result("1", Outcome.LEFT_OUT), result("2", Outcome.EXTRA), result("3", Outcome.CONFLICT)]
        assert work.counts(work.results[:2]) == Counts(skipped=4, left_out=4, extra=3, queued=5)


class TestEnd:
    def test_a_batch_that_is_held_back_is_not_sent(self, steps: Steps) -> None:
        _, root = steps.begin()
        work = BatchWork(root)
        work.follow(step=Step.TRANSFER, items=items("1"))
        rest = work.follow(cursor="a")
        assert steps.engine.end(work, held_back=rest)
        assert [decode(letter.body) for letter in steps.mail.waiting()] == [work.outgoing[0].batch]
        assert steps.engine.maybe_over == set()

    def test_a_batch_that_had_ended_sends_what_followed_then(self, steps: Steps) -> None:
        _, root = steps.begin()
        first, second = BatchWork(root), BatchWork(root)
        sent = first.follow(cursor="a")
        rest = second.follow(cursor="b")
        assert steps.engine.end(first)
        steps.mail.letters.clear()
        assert not steps.engine.end(second, held_back=rest)
        assert [decode(letter.body) for letter in steps.mail.waiting()] == [sent]

    def test_an_end_that_comes_late_leaves_solved_what_a_later_run_has_solved(self, steps: Steps) -> None:
        _, root = steps.begin()
        failed = Result("team/app", "bad", Outcome.FAILED, code="REFUSED", reason="it is so")
        steps.state.end_batch(root, BatchRecord((failed,)), Counts(failed=1))
        steps.state.failures.solve(SYNC, [KnownFailure.of(failed, MADE_UP_RUN, 0.0)], made_run_id(1))
        assert not steps.engine.end(BatchWork(root))
        assert list(steps.state.failures.all(SYNC)) == []

    @pytest.mark.parametrize(
        ("error", "code"),
        [
            (SynclineError("THROTTLED", "slow down"), "THROTTLED"),
            (EndpointConnectionError(endpoint_url="https://sqs.example"), "AWS_UNAVAILABLE"),
        ],
    )
    def test_the_run_states_why_it_waits(self, steps: Steps, error: Exception, code: str) -> None:
        steps.begin()
        steps.engine.note_waiting(SYNC, MADE_UP_RUN, error, 30)
        waiting = steps.latest().waiting
        assert waiting is not None
        assert (waiting.code, waiting.until - waiting.at) == (code, 30)

    @pytest.mark.parametrize("trigger", [Trigger.RETRY, Trigger.MANUAL])
    def test_a_retry_answers_for_items_that_it_has_not_met(self, steps: Steps, trigger: Trigger) -> None:
        asked = [("team/app", "gone")]
        _, root = steps.state.begin_run(SYNC, MADE_UP_RUN, trigger, EVERYTHING, asked=asked)
        steps.engine.end(BatchWork(root))
        steps.engine.finish_runs(lambda: 100.0)
        answers = trigger is Trigger.RETRY
        assert [each.code for each in steps.state.results(MADE_UP_RUN)] == ["ITEM_GONE"] * answers
        assert steps.latest().counts.failed == answers

    def test_a_batch_with_nothing_following_may_be_the_last_of_its_run(self, steps: Steps) -> None:
        _, root = steps.begin()
        assert steps.engine.end(BatchWork(root))
        assert steps.engine.maybe_over == {(SYNC, MADE_UP_RUN)}
        steps.engine.finish_runs(lambda: 100.0)
        assert steps.latest().status is RunStatus.DONE
        assert (steps.engine.maybe_over, steps.engine.over) == (set(), set())

    def test_of_a_run_that_was_closed_nothing_is_sent(self, steps: Steps) -> None:
        _, root = steps.begin()
        steps.state.cancel_run(SYNC, MADE_UP_RUN)
        steps.clock.sleep(20)
        steps.state.end_cancelled(SYNC, MADE_UP_RUN)
        work = BatchWork(root)
        rest = work.follow(cursor="a")
        assert not steps.engine.end(work, held_back=rest)
        assert steps.mail.waiting() == []
        assert steps.engine.maybe_over == {(SYNC, MADE_UP_RUN)}

    @pytest.mark.parametrize(("hop", "gone"), [(MAX_HOPS - 1, False), (MAX_HOPS, True)])
    def test_a_chain_of_messages_has_an_end(self, steps: Steps, hop: int, *, gone: bool) -> None:
        _, root = steps.begin()
        work = BatchWork(replace(root, hop=hop))
        rest = work.follow(cursor="a")
        assert steps.engine.end(work, held_back=rest) is not gone
        assert [each.code for each in steps.dead()] == (["NO_PROGRESS"] if gone else [])

    @pytest.mark.parametrize(("idle", "given_up"), [(MAX_IDLE - 1, []), (MAX_IDLE, ["1", "2"])])
    def test_items_that_get_no_further_are_given_up(self, steps: Steps, idle: int, given_up: list[str]) -> None:
        steps.begin()
        work = BatchWork(transfer_of("1", "2"))
        work.follow(idle=idle)
        steps.engine.end(work)
        assert [(each.name, each.code) for each in work.results] == [(name, "NO_PROGRESS") for name in given_up]
        assert len(steps.mail.waiting()) == (not given_up)

    def test_items_too_large_for_a_message_are_given_up_alone(self, steps: Steps) -> None:
        steps.begin()
        fits, large = (Item("team/app", name, detail={"state": name * MAX_ITEM_BYTES}) for name in ("a", "b"))
        fits = replace(fits, detail={"state": ""})
        fits = replace(fits, detail={"state": "a" * (MAX_ITEM_BYTES - json_bytes(fits.to_json()))})
        work = BatchWork(transfer_of("1"))
        work.follow(items=(fits, large, *items("3")))
        work.follow(items=(large,))
        steps.engine.end(work)
        (sent,) = [decode(letter.body) for letter in steps.mail.waiting()]
        assert isinstance(sent, Batch)
        assert [item.name for item in sent.items] == ["a", "3"]
        assert {(each.name, each.code) for each in work.results} == {("b", "MESSAGE_REFUSED")}
        assert all(not item.detail for each in steps.dead() for item in each.batch.items)


class TestRefused:
    """A queue may refuse a batch for good: its items are sent one by one, and a single one has failed."""

    def refused(self, steps: Steps, monkeypatch: pytest.MonkeyPatch, most: int, *names: str) -> None:
        """Let the queues take batches of `most` items, and send one with these."""
        send = Queues.send

        def strict(self: Queues, outgoing: Iterable[Outgoing]) -> list[tuple[Batch, str]]:
            given = list(outgoing)
            send(self, [each for each in given if len(each.batch.items) <= most])
            return [(each.batch, "it is too large") for each in given if len(each.batch.items) > most]

        monkeypatch.setattr(Queues, "send", strict)
        steps.begin()
        work = BatchWork(transfer_of("first"))
        work.follow(items=tuple(replace(item, detail={"state": 1}) for item in items(*names)))
        steps.engine.end(work)

    @pytest.mark.parametrize("names", [("1", "2"), ("1", "2", "3")])
    def test_its_items_are_sent_one_by_one(
        self, steps: Steps, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...]
    ) -> None:
        self.refused(steps, monkeypatch, 1, *names)
        sent = [decode(letter.body) for letter in steps.mail.waiting()]
        assert [each.items[0].name for each in sent if isinstance(each, Batch)] == list(names)
        assert all(each.items[0].detail == {"state": 1} for each in sent if isinstance(each, Batch))
        assert steps.dead() == []

    def test_an_item_that_is_refused_alone_has_failed(self, steps: Steps, monkeypatch: pytest.MonkeyPatch) -> None:
        """The detail may be the reason, so the letter is without it."""
        self.refused(steps, monkeypatch, 0, "1")
        (letter,) = steps.dead()
        assert (letter.code, letter.reason) == ("MESSAGE_REFUSED", "it is too large")
        assert letter.batch.items == items("1")
        assert [each.code for each in steps.state.results(MADE_UP_RUN)] == ["MESSAGE_REFUSED"]


class TestFailAll:
    error = SynclineError("SERVER_ERROR", "it failed", retry_after=90.0)

    def test_items_are_tried_again(self, steps: Steps) -> None:
        steps.begin()
        steps.engine.fail_all(transfer_of("1", "2"), self.error, 3)
        (letter,) = steps.mail.waiting()
        again = decode(letter.body)
        assert isinstance(again, Batch)
        assert (again.attempt, len(again.items), letter.due) == (2, 2, steps.clock.now + 90)
        assert steps.state.progress(MADE_UP_RUN).counts == Counts(requests=3)

    @pytest.mark.parametrize(("code", "attempt", "again"), [
        ("SERVER_ERROR", 1, True),
        ("SERVER_ERROR", MAX_ATTEMPTS - 1, True),
        ("SERVER_ERROR", MAX_ATTEMPTS, False),
        ("FORBIDDEN", 1, False),
    ])  # fmt: skip
    def test_a_scan_is_tried_again_where_that_helps(
        self, steps: Steps, code: CodeName, attempt: int, *, again: bool
    ) -> None:
        _, root = steps.begin()
        error = SynclineError(code, "it failed", retry_after=900.0)
        steps.engine.fail_all(replace(root, attempt=attempt), error, 3)
        assert [letter.due for letter in steps.mail.waiting()] == ([steps.clock.now + 900] if again else [])
        assert [each.code for each in steps.dead()] == ([] if again else [code])
        waiting = steps.latest().waiting
        assert (waiting is not None) is again
        assert steps.state.progress(MADE_UP_RUN).counts.requests == 3

    def test_items_that_are_given_up_are_all_named(self, steps: Steps) -> None:
        _, root = steps.begin()
        error = SynclineError("STEP_DIED", "the function died 5 times")
        steps.engine.fail_all(transfer_of("1", "2"), error)
        steps.engine.fail_all(root, error)
        assert {name for _, name in steps.results()} == {"1", "2", "*"}
        assert steps.mail.waiting() == []


class TestRunOf:
    def test_a_batch_of_a_run_under_way(self, steps: Steps) -> None:
        run, root = steps.begin()
        assert steps.engine.run_of(root) == run
        assert (steps.engine.maybe_over, steps.engine.over) == (set(), set())

    def test_a_batch_of_a_forgotten_run(self, steps: Steps) -> None:
        assert steps.engine.run_of(transfer_of("1")) is None
        assert steps.mail.letters == []

    def test_a_batch_that_had_ended_sends_all_again(self, steps: Steps) -> None:
        """The function died before it had sent what follows, and written down what fails."""
        _, root = steps.begin()
        letter = DeadLetter(root, "REFUSED", "it is so", ("team/app", "bad"))
        following = Outgoing(transfer_of("1"), 30)
        failed = Result("team/app", "bad", Outcome.FAILED, code="REFUSED", reason="it is so")
        steps.state.end_batch(root, BatchRecord((failed,), (following,), (letter,)), Counts(failed=1))
        assert steps.engine.run_of(root) is None
        assert [(decode(each.body), each.due) for each in steps.mail.waiting()] == [
            (following.batch, steps.clock.now + 30)
        ]
        assert steps.dead() == [letter]
        assert [each.name for each in steps.state.failures.all(SYNC)] == ["bad"]

    def test_an_item_that_a_later_run_has_solved_stays_solved(self, steps: Steps) -> None:
        _, root = steps.begin()
        failed = Result("team/app", "bad", Outcome.FAILED, code="REFUSED", reason="it is so")
        steps.state.end_batch(root, BatchRecord((failed,)), Counts(failed=1))
        steps.state.failures.solve(SYNC, [KnownFailure.of(failed, MADE_UP_RUN, 0.0)], made_run_id(1))
        assert steps.engine.run_of(root) is None
        assert list(steps.state.failures.all(SYNC)) == []

    def test_of_a_run_that_is_over_the_letters_alone_are_sent_again(self, steps: Steps) -> None:
        _, root = steps.begin()
        child = root.child(0)
        letter = DeadLetter(root, "REFUSED", "it is so", ("team/app", "bad"))
        steps.state.end_batch(root, BatchRecord((), (Outgoing(child),), (letter,)), Counts())
        steps.state.end_batch(child, BatchRecord(()), Counts())
        assert steps.state.finish_run(SYNC, MADE_UP_RUN) is not None
        assert steps.engine.run_of(root) is None
        assert steps.mail.waiting() == []
        assert steps.dead() == [letter]
        assert steps.engine.over == {(SYNC, MADE_UP_RUN)}

    def test_a_batch_that_comes_after_its_run(self, steps: Steps) -> None:
        _, root = steps.begin()
        steps.state.end_batch(root, BatchRecord(()), Counts())
        assert steps.state.finish_run(SYNC, MADE_UP_RUN) is not None
        assert steps.engine.run_of(transfer_of("late")) is None
        assert steps.engine.over == {(SYNC, MADE_UP_RUN)}


class TestPace:
    def test_it_says_what_is_known_of_the_run(self, steps: Steps) -> None:
        run, root = steps.state.begin_run(SYNC, MADE_UP_RUN, Trigger.MANUAL, EVERYTHING, plan=True, allow_removals=7)
        steps.state.end_batch(root, BatchRecord(()), Counts(removed=3))
        context = steps.engine.context(run, lambda: 42.0, "work")
        assert (context.left(), context.work, context.run, context.plan, context.allow_removals) == (
            42,
            "work",
            run.id,
            True,
            7,
        )
        assert context.removed(run.id) == 3
        assert not context.halted()

    def test_it_ends_with_the_lease(self, steps: Steps) -> None:
        run, _ = steps.begin()
        lease = steps.state.leases.take("dr/team/app", "owner", 60)
        context = steps.engine.context(run, lambda: 100.0, "work", lease)
        assert not context.halted()
        steps.clock.sleep(lease.expires - steps.clock.now)
        assert context.halted()

    @pytest.mark.parametrize(("verifies", "seconds"), [(False, 0.0), (True, GRACE_SECONDS)])
    def test_it_ends_when_the_run_is_cancelled(self, steps: Steps, seconds: float, *, verifies: bool) -> None:
        run, _ = steps.begin()
        bound: list[tuple[Run, float]] = []
        engine = replace(steps.engine, bind=lambda run, seconds, _: bound.append((run, seconds)))
        context = engine.context(run, lambda: 100.0, "work", verifies=verifies)
        assert bound == [(run, 100 + GRACE_SECONDS)]
        steps.state.cancel_run(SYNC, run.id)
        steps.clock.sleep(3)
        assert not context.halted(), "the table is read every few seconds only"
        steps.clock.sleep(0.1)
        assert context.halted() is not verifies
        steps.clock.sleep(seconds - 0.1)
        assert context.halted() is not verifies
        steps.clock.sleep(0.1)
        assert context.halted()

    @pytest.mark.parametrize("verifies", [False, True])
    def test_of_a_run_that_is_being_cancelled(self, steps: Steps, *, verifies: bool) -> None:
        steps.begin()
        run = steps.state.cancel_run(SYNC, MADE_UP_RUN)
        context = steps.engine.context(run, lambda: 100.0, "work", verifies=verifies)
        assert context.halted() is not verifies
        steps.clock.sleep(GRACE_SECONDS)
        assert context.halted()

    def test_the_table_is_read_every_few_seconds(self, steps: Steps, monkeypatch: pytest.MonkeyPatch) -> None:
        run, _ = steps.begin()
        context = steps.engine.context(run, lambda: 100.0, "work")
        read, look, began = list[float](), State.run, steps.clock.now

        def reading(self: State, sync: str, run_id: str) -> Run:
            read.append(steps.clock.now - began)
            return look(self, sync, run_id)

        monkeypatch.setattr(State, "run", reading)
        for _ in range(100):
            steps.clock.sleep(0.1)
            assert not context.halted()
        assert len(read) == 3


@dataclass
class RunObserver(MadeUp):
    """A kind that reports the ends of runs; each of the first ones raises one of `errors`."""

    errors: list[Exception] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    def ended(self, run: Run, results: Iterable[Result]) -> None:
        del results
        if self.errors:
            raise self.errors.pop(0)
        self.told.append(run.id)


class TestReports:
    @pytest.mark.parametrize(
        ("left", "seconds"), [(-30.0, GRACE_SECONDS), (0.0, 2 * GRACE_SECONDS), (100.0, REPORT_SECONDS)]
    )
    def test_a_report_has_the_time_that_is_left(self, steps: Steps, left: float, seconds: float) -> None:
        steps.kind = kind = RunObserver()
        bound: list[tuple[float, bool]] = []
        engine = replace(steps.engine, bind=lambda _run, seconds, halted: bound.append((seconds, halted())))
        _, root = steps.begin()
        engine.end(BatchWork(root))
        engine.finish_runs(lambda: left)
        assert (bound, kind.told) == ([(seconds, False)], [MADE_UP_RUN])

    @pytest.mark.parametrize(
        ("error", "code"),
        [
            (KeyError("status"), "INTERNAL"),
            (SynclineError("SERVER_ERROR", "500"), "SERVER_ERROR"),
            (SynclineError("FORBIDDEN", "403"), None),
        ],
    )
    def test_a_report_that_may_succeed_later_is_made_again(
        self, steps: Steps, error: Exception, code: str | None
    ) -> None:
        steps.kind = kind = RunObserver(errors=[error])
        _, root = steps.begin()
        steps.engine.end(BatchWork(root))
        if code is None:
            steps.engine.finish_runs(lambda: 100.0)
            return
        with pytest.raises(SynclineError, match=code):
            steps.engine.finish_runs(lambda: 100.0)
        assert steps.engine.run_of(root) is None
        steps.engine.finish_runs(lambda: 100.0)
        assert kind.told == [MADE_UP_RUN]

    def test_a_report_that_fails_keeps_no_other_run_waiting(self, steps: Steps) -> None:
        steps.kind = kind = RunObserver(errors=[SynclineError("SERVER_ERROR", "500")])
        for run_id in (MADE_UP_RUN, made_run_id(1)):
            _, root = steps.begin(run_id)
            steps.state.end_batch(root, BatchRecord(()), Counts())
            steps.engine.maybe_over.add((SYNC, run_id))
            assert steps.state.finish_run(SYNC, run_id) is not None
            steps.engine.over.add((SYNC, run_id))
        with pytest.raises(SynclineError, match="SERVER_ERROR"):
            steps.engine.finish_runs(lambda: 100.0)
        assert len(kind.told) == 1
        assert (steps.engine.maybe_over, steps.engine.over) == (set(), set())

    def test_a_plan_is_not_reported(self, steps: Steps) -> None:
        steps.kind = kind = RunObserver()
        steps.start(plan=True)
        steps.pump.run()
        assert steps.latest().status is RunStatus.DONE
        assert kind.told == []


def test_an_error_of_ours_stays_and_any_other_is_internal() -> None:
    ours = SynclineError("FORBIDDEN", "no")
    assert step_error(ours) is ours
    other = step_error(ZeroDivisionError("secret"))
    assert (other.code.name, "ZeroDivisionError" in other.what, "secret" in other.what) == ("INTERNAL", True, False)


def test_the_leases_of_batches_end_with_them(steps: Steps) -> None:
    steps.begin()
    lease: Lease = steps.state.leases.take("made.up/team/app", "batch", 60)
    steps.engine.end(BatchWork(transfer_of("1")), lease)
    steps.state.leases.take("made.up/team/app", "another", 60)
