"""Discover: plans, and starts that begin a run, join one, wait for one or are dropped."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator

import pytest

from syncline.kinds.kind import Page, StepContext
from syncline.messages import Batch
from syncline.model import EVERYTHING, RunStatus, Scope, Step, Trigger
from syncline.telemetry import logger
from tests.rig.made_up import SYNC, Steps, items, pages
from tests.rig.pump import Letter
from tests.rig.run_ids import made_run_id

CURRENT = made_run_id(-1)


def test_a_plan_moves_nothing_beside_a_run(steps: Steps) -> None:
    steps.begin(CURRENT)
    steps.kind.pages = [Page("a", items("1", "2", group="a"), equal=1)]
    steps.start(plan=True)
    steps.pump.run()
    plan = next(run for run in steps.state.runs(SYNC) if run.plan)
    assert plan.status is RunStatus.DONE
    assert (plan.counts.would_move, plan.counts.skipped, plan.counts.moved) == (2, 1, 0)
    assert steps.kind.moved == []
    current = steps.state.current_run(SYNC)
    assert current is not None
    assert current.id == CURRENT


def test_a_partial_plan_does_not_join_the_current_run(steps: Steps) -> None:
    steps.begin(CURRENT)
    steps.kind.pages = [Page("a", items("1", group="a"))]
    steps.start("a", plan=True)
    steps.pump.run()
    assert steps.kind.moved == []
    plan = next(run for run in steps.state.runs(SYNC) if run.plan)
    assert (plan.counts.would_move, plan.scope) == (1, Scope.of(["a"]))


def test_a_second_full_start_is_logged_and_dropped(steps: Steps, monkeypatch: pytest.MonkeyPatch) -> None:
    log = io.StringIO()
    monkeypatch.setattr(logger.registered_handler, "stream", log)
    steps.begin(CURRENT)
    steps.kind.pages = pages(1)
    steps.start()
    steps.pump.run()
    [logged] = [line for line in map(json.loads, log.getvalue().splitlines()) if line["message"] == "not started"]
    assert (logged["level"], logged["sync"]) == ("warning", SYNC)
    assert CURRENT in logged["why"]
    assert steps.mail.waiting() == []
    assert [run.id for run in steps.state.runs(SYNC)] == [CURRENT]
    assert steps.kind.moved == []


def test_a_full_scan_waits_for_a_partial_run(steps: Steps) -> None:
    """A registry with constant pushes must get its scheduled scan."""
    steps.state.begin_run(SYNC, CURRENT, Trigger.WEBHOOK, Scope.of(["a"]))
    steps.kind.look = lambda scope, _cursor, _context: [
        Page(group, items("1", group=group)) for group in scope.groups or ("a", "b")
    ]
    steps.start()
    steps.pump.deliver(steps.mail.waiting())
    assert steps.kind.moved == []
    steps.put(Batch(CURRENT, SYNC, Step.DISCOVER, CURRENT, scope=Scope.of(["a"])))
    steps.pump.run()
    latest = steps.latest()
    assert (latest.scope, latest.status, latest.counts.queued) == (EVERYTHING, RunStatus.DONE, 2)


def test_an_event_joins_the_current_run_which_waits_for_it(steps: Steps) -> None:
    scopes: list[tuple[str, ...] | None] = []

    def scan(scope: Scope, _cursor: str | None, _context: StepContext) -> Iterator[Page]:
        scopes.append(scope.groups)
        group = scope.groups[0] if scope.groups else "all"
        yield Page(group, items("1", group=group))

    steps.kind.look = scan
    steps.start()
    steps.start("hinted")
    steps.pump.run()
    (run,) = steps.state.runs(SYNC)
    assert scopes == [None, ("hinted",)]
    assert run.counts.moved == 2
    assert set(steps.results()) == {("all", "1"), ("hinted", "1")}


def test_an_event_without_a_current_run_begins_one(steps: Steps) -> None:
    steps.kind.look = lambda scope, _cursor, _context: [Page("hinted", items("1", group=(scope.groups or ("all",))[0]))]
    steps.start("hinted")
    steps.pump.run()
    (run,) = steps.state.runs(SYNC)
    assert run.scope == Scope.of(["hinted"])
    assert run.counts.moved == 1


def test_an_event_waits_for_a_run_that_is_being_cancelled(steps: Steps) -> None:
    """It sends itself again while it waits, so it never becomes a dead letter, and no function has to end that run."""
    steps.begin(CURRENT)
    steps.state.cancel_run(SYNC, CURRENT)
    steps.kind.look = lambda scope, _cursor, _context: [Page("x", items("1", group=(scope.groups or ("all",))[0]))]
    steps.pump.deliver([steps.start("hinted")])
    assert steps.kind.moved == []
    (letter,) = steps.mail.waiting()
    assert (letter.received, letter.due) == (0, steps.clock.now + 15)
    steps.pump.run()
    assert steps.mail.dead() == []
    latest = steps.latest()
    assert (latest.scope, latest.counts.moved) == (Scope.of(["hinted"]), 1)
    assert steps.state.run(SYNC, CURRENT).status is RunStatus.CANCELLED


def test_a_run_begun_by_the_sender_keeps_its_id(steps: Steps) -> None:
    steps.state.begin_run(SYNC, CURRENT, Trigger.MANUAL, EVERYTHING)
    steps.kind.pages = pages(2)
    steps.start(run=CURRENT)
    steps.pump.run()
    (run,) = steps.state.runs(SYNC)
    assert (run.id, run.status, run.counts.moved) == (CURRENT, RunStatus.DONE, 2)


def test_a_start_delivered_after_its_run_does_nothing(steps: Steps) -> None:
    steps.kind.pages = pages(2)
    letter = steps.start()
    steps.pump.run()
    again = Letter(letter.id, letter.url, letter.body, letter.sent, steps.clock.now)
    steps.mail.add(again)
    steps.pump.deliver([again])
    assert steps.mail.waiting() == [], "all following batches have ended and are not sent again"
    (run,) = steps.state.runs(SYNC)
    assert run.counts.moved == 2
    assert len(steps.kind.moved) == 2


@pytest.mark.parametrize("trigger", [Trigger.SCHEDULE, Trigger.WEBHOOK, Trigger.EVENT, Trigger.START])
def test_a_paused_sync_is_not_started_by_itself(steps: Steps, trigger: Trigger) -> None:
    steps.kind.pages = pages(1)
    steps.state.pause(SYNC)
    steps.start("a", trigger=trigger)
    steps.start(trigger=trigger)
    steps.pump.run()
    assert (steps.state.runs(SYNC), steps.kind.moved, steps.mail.waiting()) == ([], [], [])
    assert steps.state.resume(SYNC)
    steps.start(trigger=trigger)
    steps.pump.run()
    assert steps.latest().counts.moved == 1


@pytest.mark.parametrize("trigger", [Trigger.MANUAL, Trigger.RETRY])
def test_a_paused_sync_is_started_by_its_operator(steps: Steps, trigger: Trigger) -> None:
    steps.kind.pages = pages(1)
    steps.state.pause(SYNC)
    steps.start(trigger=trigger)
    steps.pump.run()
    assert steps.latest().counts.moved == 1
