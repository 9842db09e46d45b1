"""A cancelled run ends within ten seconds, whatever its functions do, and nothing that comes later changes it."""

from __future__ import annotations

import pytest

from syncline.errors import SynclineError
from syncline.kinds.kind import Completed, Page, StepContext, Unfinished
from syncline.messages import Outgoing
from syncline.model import EVERYTHING, Counts, Item, Outcome, Run, RunStatus, Scope, Step, Trigger
from syncline.store.batches import BatchRecord
from tests.rig.made_up import MADE_UP_RUN, SYNC, Answer, Reporting, Steps, items, transfer_of
from tests.rig.pump import KilledError, KillPoint, Letter
from tests.rig.run_ids import made_run_id

GRACE = 10
NEXT = made_run_id(1)
OPEN = {("team/app", name): Outcome.CANCELLED for name in ("1", "2", "3")}


def another(steps: Steps, run_id: str = NEXT) -> Run:
    """Begin another run. Raises ALREADY_RUNNING."""
    return steps.state.begin_run(SYNC, run_id, Trigger.MANUAL, EVERYTHING)[0]


def outcomes(steps: Steps, run_id: str = MADE_UP_RUN) -> dict[tuple[str, str], Outcome]:
    return {key: each.outcome for key, each in steps.results(steps.state.run(SYNC, run_id)).items()}


def check_cancelled(steps: Steps, cancelled: int = 3) -> None:
    run = steps.state.run(SYNC, MADE_UP_RUN)
    assert run.status is RunStatus.CANCELLED
    assert (run.counts.cancelled, run.counts.queued) == (cancelled, run.counts.ended)
    assert steps.state.progress(MADE_UP_RUN).counts == run.counts


def test_another_run_can_start_ten_seconds_after_the_cancel(steps: Steps) -> None:
    """The function with the items was killed, and their messages stay hidden for minutes."""

    def die(_item: Item, _context: StepContext) -> Answer:
        steps.reaper.dead = True
        raise KilledError

    steps.kind.move = die
    steps.pump.deliver([steps.begin_with(transfer_of("1", "2", "3"))])
    steps.state.cancel_run(SYNC, MADE_UP_RUN)
    steps.clock.sleep(GRACE - 0.5)
    with pytest.raises(SynclineError, match="is being cancelled"):
        another(steps)
    steps.clock.sleep(0.5)
    another(steps)
    check_cancelled(steps)
    assert outcomes(steps) == OPEN
    steps.pump.run()  # the messages become visible after the end of the run
    assert len(steps.kind.moved) == 1
    check_cancelled(steps)


def test_a_function_that_outlives_its_run_records_nothing(steps: Steps) -> None:
    """A slow source delays the function beyond the end of its run; the next run processes the rest."""

    def move(item: Item, context: StepContext) -> Answer:
        if item.name == "1":
            steps.state.cancel_run(SYNC, MADE_UP_RUN)
            steps.clock.sleep(30)
            another(steps)
            return Completed(item, 10)
        assert context.over, "no item is begun after the end of the run"
        return Unfinished(item)

    steps.kind.move = move
    steps.pump.deliver([steps.begin_with(transfer_of("1", "2", "3"))])
    check_cancelled(steps)
    assert outcomes(steps) == OPEN
    assert steps.mail.waiting() == [], "no message follows"
    steps.state.leases.take("made.up/team/app", "another", 60)


def test_a_function_that_stops_in_time_ends_its_batch(steps: Steps) -> None:
    def move(item: Item, context: StepContext) -> Answer:
        if item.name == "1":
            steps.state.cancel_run(SYNC, MADE_UP_RUN)
            steps.clock.sleep(5)
            return Completed(item, 10)
        return Unfinished(item) if context.over else Completed(item)

    steps.kind.move = move
    steps.begin_with(transfer_of("1", "2", "3"))
    steps.pump.run()
    check_cancelled(steps, cancelled=2)
    assert outcomes(steps)["team/app", "1"] is Outcome.MOVED


def test_a_scan_that_outlives_its_run_sends_nothing(steps: Steps) -> None:
    def scan(_scope: Scope, _cursor: str | None, _context: StepContext) -> list[Page]:
        steps.state.cancel_run(SYNC, steps.latest().id)
        steps.clock.sleep(30)
        another(steps)
        return [Page("a", items("1", "2", "3"))]

    steps.kind.look = scan
    steps.start(run=MADE_UP_RUN)
    steps.begin(MADE_UP_RUN)
    (letter,) = steps.mail.waiting()
    steps.pump.deliver([letter])
    check_cancelled(steps, cancelled=0)
    assert steps.mail.waiting() == []


@pytest.mark.parametrize("when", [KillPoint.BEFORE, KillPoint.AFTER])
def test_a_function_that_ends_a_run_may_die_at_any_call(steps: Steps, when: KillPoint) -> None:
    """The next function ends the run, with the same counts."""
    effects = 1
    for number in range(1, 40):
        run_id, next_id = made_run_id(2 * number), made_run_id(2 * number + 1)
        _, root = steps.begin(run_id)
        batches = tuple(transfer_of(f"{n}", run=run_id, group=f"g{n}") for n in range(3))
        following = tuple(Outgoing(each) for each in batches)
        steps.state.end_batch(root, BatchRecord((), following), Counts(queued=3))
        steps.state.cancel_run(SYNC, run_id)
        steps.clock.sleep(GRACE)
        before = len(steps.reaper.effects)
        steps.reaper.plan = {(before + number, when)}
        try:
            another(steps, next_id)
        except KilledError:
            steps.reaper.dead = False
            another(steps, next_id)
        else:
            effects = number
        steps.reaper.plan = set()
        run = steps.state.run(SYNC, run_id)
        assert (run.status, run.counts.cancelled, run.counts.queued) == (RunStatus.CANCELLED, 3, 3)
        assert len(steps.results(run)) == 3
        steps.state.cancel_run(SYNC, next_id)
        steps.clock.sleep(GRACE)
        if effects == number > 1:
            break
    assert effects > 10, "each of the calls was tried"


def test_items_that_a_joined_scan_finds_again_are_counted_once(steps: Steps) -> None:
    _, root = steps.begin(MADE_UP_RUN)
    first, again = transfer_of("1", "2", "3"), transfer_of("3", "2", "1", scan="joined")
    steps.state.end_batch(root, BatchRecord((), (Outgoing(first),)), Counts(queued=3))
    joined = steps.state.join_run(SYNC, "joined", Scope.of(["team/app"]))
    assert joined is not None
    steps.state.end_batch(joined, BatchRecord((), (Outgoing(again),)), Counts(queued=3))
    steps.state.cancel_run(SYNC, MADE_UP_RUN)
    steps.clock.sleep(GRACE)
    another(steps)
    check_cancelled(steps)
    assert outcomes(steps) == OPEN


def test_a_run_with_more_open_items_than_one_record_takes(steps: Steps) -> None:
    _, root = steps.begin(MADE_UP_RUN)
    following = tuple(Outgoing(transfer_of(*(f"{n}-{m}" for m in range(100)), group=f"g{n}")) for n in range(11))
    steps.state.end_batch(root, BatchRecord((), following), Counts(queued=1100))
    steps.state.cancel_run(SYNC, MADE_UP_RUN)
    steps.clock.sleep(GRACE)
    another(steps)
    check_cancelled(steps, cancelled=1100)
    assert len(outcomes(steps)) == 1100


def test_a_lost_run_accepts_no_batch(steps: Steps, monkeypatch: pytest.MonkeyPatch) -> None:
    letter = steps.begin_with(transfer_of("1"))

    def move(item: Item, _context: StepContext) -> Answer:
        steps.clock.sleep(1)
        with monkeypatch.context() as patched:
            patched.setattr("syncline.store.state.LOST_AFTER", 0)
            another(steps)
        return Completed(item, 10)

    steps.kind.move = move
    steps.pump.deliver([letter])
    run = steps.state.run(SYNC, MADE_UP_RUN)
    assert (run.status, run.counts) == (RunStatus.LOST, steps.state.progress(MADE_UP_RUN).counts)
    assert steps.mail.waiting() == []


def test_messages_of_a_cancelled_run_are_not_needed_for_its_end(steps: Steps) -> None:
    """A late duplicate of each step does nothing."""
    letter = steps.begin_with(transfer_of("1"))
    steps.state.cancel_run(SYNC, MADE_UP_RUN)
    steps.clock.sleep(GRACE)
    another(steps)
    for step in (Step.TRANSFER, Step.VERIFY):
        late = Letter(f"late-{step}", letter.url, letter.body, letter.sent, steps.clock.now)
        steps.mail.add(late)
    steps.pump.run()
    assert steps.kind.moved == []
    check_cancelled(steps, cancelled=1)


class TestReport:
    """The end of a cancelled run is reported once, whichever function ends it."""

    @pytest.fixture(autouse=True)
    def _kind(self, steps: Steps) -> None:
        self.kind = Reporting()
        steps.kind = self.kind

    def cancel(self, steps: Steps) -> None:
        self.letter = steps.begin_with(transfer_of("1"))
        steps.state.cancel_run(SYNC, MADE_UP_RUN)
        steps.clock.sleep(GRACE)

    def test_a_run_ended_by_the_next_start_is_reported_by_a_function(self, steps: Steps) -> None:
        self.cancel(steps)
        another(steps)
        assert self.kind.ended_runs == []
        steps.pump.deliver([self.letter])
        assert self.kind.ended_runs == [MADE_UP_RUN]
        steps.pump.run()
        assert self.kind.ended_runs == [MADE_UP_RUN]

    def test_a_half_ended_run_is_ended_and_reported(self, steps: Steps) -> None:
        """A function died after it had closed the records of the run."""
        self.cancel(steps)
        steps.state._close(MADE_UP_RUN)
        steps.pump.deliver([self.letter])
        check_cancelled(steps, cancelled=1)
        assert self.kind.ended_runs == [MADE_UP_RUN]

    def test_a_lost_run_is_reported(self, steps: Steps, monkeypatch: pytest.MonkeyPatch) -> None:
        self.letter = steps.begin_with(transfer_of("1"))
        with monkeypatch.context() as patched:
            patched.setattr("syncline.store.state.LOST_AFTER", -1)
            another(steps)
        steps.pump.deliver([self.letter])
        assert self.kind.ended_runs == [MADE_UP_RUN]
