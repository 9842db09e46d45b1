"""The engine: the end of a batch, messages that are sent again, and batches that fail or are refused."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest
from botocore.exceptions import EndpointConnectionError

from syncline.errors import CodeName, SynclineError
from syncline.messages import Batch, DeadLetter, Outgoing, Queues, decode
from syncline.model import EVERYTHING, Counts, Item, Outcome, Result, RunStatus, Step, Trigger, json_bytes
from syncline.steps.engine import (
    MAX_ATTEMPTS,
    MAX_HOPS,
    MAX_IDLE,
    MAX_ITEM_BYTES,
    BatchWork,
)
from syncline.store.batches import BatchRecord
from syncline.store.failures import KnownFailure
from syncline.store.leases import Lease
from tests.rig.made_up import MADE_UP_RUN, SYNC, Steps, items, transfer_of
from tests.rig.run_ids import made_run_id


class TestEnd:
    def test_a_batch_that_is_held_back_is_not_sent(self, steps: Steps) -> None:
        _, root = steps.begin()
        work = BatchWork(root)
        work.follow(step=Step.TRANSFER, items=items("1"))
        rest = work.follow(cursor="a")
        assert steps.engine.end(work, held_back=rest)
        assert [decode(letter.body) for letter in steps.mail.waiting()] == [work.outgoing[0].batch]
        assert steps.engine.maybe_over == set()

    def test_a_batch_that_had_ended_sends_its_first_following_batches(self, steps: Steps) -> None:
        _, root = steps.begin()
        first, second = BatchWork(root), BatchWork(root)
        sent = first.follow(cursor="a")
        rest = second.follow(cursor="b")
        assert steps.engine.end(first)
        steps.mail.letters.clear()
        assert not steps.engine.end(second, held_back=rest)
        assert [decode(letter.body) for letter in steps.mail.waiting()] == [sent]

    def test_a_late_end_does_not_reopen_a_failure_solved_by_a_later_run(self, steps: Steps) -> None:
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
    def test_the_run_records_why_it_waits(self, steps: Steps, error: Exception, code: str) -> None:
        steps.begin()
        steps.engine.note_waiting(SYNC, MADE_UP_RUN, error, 30)
        waiting = steps.latest().waiting
        assert waiting is not None
        assert (waiting.code, waiting.until - waiting.at) == (code, 30)

    @pytest.mark.parametrize("trigger", [Trigger.RETRY, Trigger.MANUAL])
    def test_a_retry_reports_items_that_it_has_not_met(self, steps: Steps, trigger: Trigger) -> None:
        asked = [("team/app", "gone")]
        _, root = steps.state.begin_run(SYNC, MADE_UP_RUN, trigger, EVERYTHING, asked=asked)
        steps.engine.end(BatchWork(root))
        steps.engine.finish_runs(lambda: 100.0)
        reports = trigger is Trigger.RETRY
        assert [each.code for each in steps.state.results(MADE_UP_RUN)] == ["ITEM_GONE"] * reports
        assert steps.latest().counts.failed == reports

    def test_a_batch_without_following_batches_may_end_its_run(self, steps: Steps) -> None:
        _, root = steps.begin()
        assert steps.engine.end(BatchWork(root))
        assert steps.engine.maybe_over == {(SYNC, MADE_UP_RUN)}
        steps.engine.finish_runs(lambda: 100.0)
        assert steps.latest().status is RunStatus.DONE
        assert (steps.engine.maybe_over, steps.engine.over) == (set(), set())

    def test_nothing_is_sent_for_a_closed_run(self, steps: Steps) -> None:
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
    def test_a_chain_of_messages_has_a_limit(self, steps: Steps, hop: int, *, gone: bool) -> None:
        _, root = steps.begin()
        work = BatchWork(replace(root, hop=hop))
        rest = work.follow(cursor="a")
        assert steps.engine.end(work, held_back=rest) is not gone
        assert [each.code for each in steps.dead()] == (["NO_PROGRESS"] if gone else [])

    @pytest.mark.parametrize(("idle", "failed_items"), [(MAX_IDLE - 1, []), (MAX_IDLE, ["1", "2"])])
    def test_items_without_progress_fail(self, steps: Steps, idle: int, failed_items: list[str]) -> None:
        steps.begin()
        work = BatchWork(transfer_of("1", "2"))
        work.follow(idle=idle)
        steps.engine.end(work)
        assert [(each.name, each.code) for each in work.results] == [(name, "NO_PROGRESS") for name in failed_items]
        assert len(steps.mail.waiting()) == (not failed_items)

    def test_only_items_too_large_for_a_message_fail(self, steps: Steps) -> None:
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
    """A queue may refuse a batch permanently: its items are sent one by one, and a refused single item fails."""

    def refused(self, steps: Steps, monkeypatch: pytest.MonkeyPatch, most: int, *names: str) -> None:
        """Make the queues accept batches of at most `most` items, and send one batch with these names."""
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
    def test_the_items_of_a_refused_batch_are_sent_one_by_one(
        self, steps: Steps, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...]
    ) -> None:
        self.refused(steps, monkeypatch, 1, *names)
        sent = [decode(letter.body) for letter in steps.mail.waiting()]
        assert [each.items[0].name for each in sent if isinstance(each, Batch)] == list(names)
        assert all(each.items[0].detail == {"state": 1} for each in sent if isinstance(each, Batch))
        assert steps.dead() == []

    def test_an_item_that_is_refused_alone_fails(self, steps: Steps, monkeypatch: pytest.MonkeyPatch) -> None:
        """The detail may be the reason, so the dead letter does not contain it."""
        self.refused(steps, monkeypatch, 0, "1")
        (letter,) = steps.dead()
        assert (letter.code, letter.reason) == ("MESSAGE_REFUSED", "it is too large")
        assert letter.batch.items == items("1")
        assert [each.code for each in steps.state.results(MADE_UP_RUN)] == ["MESSAGE_REFUSED"]


class TestFailAll:
    error = SynclineError("SERVER_ERROR", "it failed", retry_after=90.0)

    def test_items_are_retried(self, steps: Steps) -> None:
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
    def test_a_scan_is_retried_after_a_retryable_error(
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

    def test_all_failed_items_are_named(self, steps: Steps) -> None:
        _, root = steps.begin()
        error = SynclineError("STEP_DIED", "the function died 5 times")
        steps.engine.fail_all(transfer_of("1", "2"), error)
        steps.engine.fail_all(root, error)
        assert {name for _, name in steps.results()} == {"1", "2", "*"}
        assert steps.mail.waiting() == []


class TestRunOf:
    def test_a_batch_of_the_current_run(self, steps: Steps) -> None:
        run, root = steps.begin()
        assert steps.engine.run_of(root) == run
        assert (steps.engine.maybe_over, steps.engine.over) == (set(), set())

    def test_a_batch_of_a_forgotten_run(self, steps: Steps) -> None:
        assert steps.engine.run_of(transfer_of("1")) is None
        assert steps.mail.letters == []

    def test_an_ended_batch_sends_everything_again(self, steps: Steps) -> None:
        """The function died before it had sent the following batches and recorded the failures."""
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

    def test_a_failure_solved_by_a_later_run_stays_solved(self, steps: Steps) -> None:
        _, root = steps.begin()
        failed = Result("team/app", "bad", Outcome.FAILED, code="REFUSED", reason="it is so")
        steps.state.end_batch(root, BatchRecord((failed,)), Counts(failed=1))
        steps.state.failures.solve(SYNC, [KnownFailure.of(failed, MADE_UP_RUN, 0.0)], made_run_id(1))
        assert steps.engine.run_of(root) is None
        assert list(steps.state.failures.all(SYNC)) == []

    def test_only_dead_letters_are_sent_again_after_the_end_of_a_run(self, steps: Steps) -> None:
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

    def test_a_batch_delivered_after_its_run(self, steps: Steps) -> None:
        _, root = steps.begin()
        steps.state.end_batch(root, BatchRecord(()), Counts())
        assert steps.state.finish_run(SYNC, MADE_UP_RUN) is not None
        assert steps.engine.run_of(transfer_of("late")) is None
        assert steps.engine.over == {(SYNC, MADE_UP_RUN)}


def test_the_lease_of_a_batch_ends_with_it(steps: Steps) -> None:
    steps.begin()
    lease: Lease = steps.state.leases.take("made.up/team/app", "batch", 60)
    steps.engine.end(BatchWork(transfer_of("1")), lease)
    steps.state.leases.take("made.up/team/app", "another", 60)
