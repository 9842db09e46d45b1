"""Scans that join a run: counts, results that are recorded once, and the cost of that."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from syncline.errors import SynclineError
from syncline.kinds.kind import Completed, Failure, Page, StepContext
from syncline.messages import Batch, decode
from syncline.model import Item, Outcome, Result, RunStatus, Scope, Step
from tests.rig.made_up import SYNC, Answer, Steps, items

FACTS = "FACT#told@"


def taken_results(steps: Steps) -> int:
    """Return the number of results that a scan has taken."""
    return sum(str(item["pk"]).startswith(FACTS) for item in steps.table.scan()["Items"])


def joined(steps: Steps, times: int = 3) -> None:
    """Run a sync; ``times`` scans of the same group join the run before its transfers begin."""
    steps.start()
    for _ in range(times):
        steps.start("team/app")
    steps.pump.run()


def test_a_run_without_joined_scans_takes_no_results(steps: Steps) -> None:
    steps.kind.pages = [Page("a", items("1", "2"), equal=3)]
    steps.run()
    assert taken_results(steps) == 0


def test_each_item_is_moved_once_and_equal_items_are_counted_once(steps: Steps) -> None:
    steps.kind.pages = [Page("a", items("1", "2"), equal=3, left_out=2, extra=1)]
    joined(steps)
    (run,) = steps.state.runs(SYNC)
    counts = run.counts
    assert run.status is RunStatus.DONE
    assert (counts.queued, counts.moved, counts.skipped, counts.left_out, counts.extra) == (2, 2, 3, 2, 1)
    assert set(steps.results()) == {("team/app", "1"), ("team/app", "2")}
    assert taken_results(steps) == 2


def test_bytes_that_were_sent_twice_are_counted_twice(steps: Steps) -> None:
    steps.kind.pages = [Page("a", items("1"))]
    joined(steps, 1)
    assert steps.latest().counts.bytes == 20


@pytest.mark.parametrize("outcome", [Outcome.EQUAL, Outcome.LEFT_OUT])
def test_items_that_joined_scans_find_equal_or_left_out_are_not_counted(steps: Steps, outcome: Outcome) -> None:
    """The first transfer moves the item; those of the other scans find that there is nothing to do."""
    steps.kind.pages = [Page("a", items("1"))]

    def move(item: Item, _context: StepContext) -> Answer:
        if len(steps.kind.moved) > 1:
            return Result(item.group, item.name, outcome)
        return Completed(item, 10)

    steps.kind.move = move
    joined(steps)
    counts = steps.latest().counts
    assert (counts.queued, counts.moved, counts.skipped, counts.left_out) == (1, 1, 0, 0)


@pytest.mark.parametrize("before", [False, True], ids=["found by all scans", "found before a scan joined"])
def test_a_conflict_is_recorded_once(steps: Steps, before: bool) -> None:
    conflict = Result("team/app", "1", Outcome.CONFLICT, "ours", "theirs", code="TAG_DIFFERS", reason="two images")
    steps.kind.pages = [Page("a", items("2"), results=(conflict,))]
    steps.start()
    if before:
        steps.pump.deliver(steps.mail.waiting())
    for _ in range(3):
        steps.start("team/app")
    steps.pump.run()
    (run,) = steps.state.runs(SYNC)
    assert run.counts.conflict == 1
    assert set(steps.results()) == {("team/app", "1"), ("team/app", "2")}


def test_a_failure_is_recorded_once_and_has_one_letter(steps: Steps) -> None:
    steps.kind.pages = [Page("a", items("1"))]
    steps.kind.move = lambda item, _context: Failure(item, SynclineError("REFUSED", "the target does not take it"))
    joined(steps)
    (run,) = steps.state.runs(SYNC)
    assert [each.outcome for each in steps.state.results(run.id)] == [Outcome.FAILED]
    assert (run.counts.queued, run.counts.failed, run.counts.known) == (1, 1, 0)
    assert len(steps.mail.dead()) == 1


def test_a_failure_is_recorded_once_if_its_function_died_before_noting_it(
    steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = Failure(Item("team/app", "1"), SynclineError("REFUSED", "the target does not take it"))
    steps.kind.pages = [Page("a", items("2"), failures=(refused,))]
    steps.start()
    with monkeypatch.context() as dying:
        dying.setattr("syncline.steps.engine.record_failures", lambda *_args, **_options: None)
        steps.pump.deliver(steps.mail.waiting())
    for _ in range(3):
        steps.start("team/app")
    steps.pump.run()
    (run,) = steps.state.runs(SYNC)
    failed = [each.name for each in steps.state.results(run.id) if each.outcome is Outcome.FAILED]
    assert (failed, run.counts.failed, len(steps.mail.dead())) == (["1"], 1, 1)


def test_an_item_that_changed_during_the_run_is_moved_again(steps: Steps) -> None:
    def scan(scope: Scope, _cursor: str | None, _context: StepContext) -> Iterator[Page]:
        yield Page("a", (Item("team/app", "1", "old" if scope.everything else "new"),))

    steps.kind.look = scan
    joined(steps)
    (run,) = steps.state.runs(SYNC)
    assert sorted(str(each.source) for each in steps.state.results(run.id)) == ["new", "old"]
    assert (run.counts.queued, run.counts.moved) == (2, 2)


def test_batches_carry_the_scan_that_found_their_items(steps: Steps) -> None:
    steps.kind.pages = [Page("a", items("1"))]
    steps.start()
    steps.start("team/app")
    scans: dict[Step, set[str | None]] = {}

    def note(body: str) -> None:
        message = decode(body)
        if isinstance(message, Batch):
            scans.setdefault(message.step, set()).add(message.scan)

    steps.pump.on_delivery = lambda letter: note(letter.body)
    steps.pump.run()
    (joined_by,) = scans[Step.TRANSFER] - {None}
    assert scans == {Step.TRANSFER: {None, joined_by}, Step.VERIFY: {None, joined_by}}
