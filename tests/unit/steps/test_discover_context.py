"""Discover: the context of a scan, and the times of its retries."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import pytest

from syncline.errors import SynclineError
from syncline.kinds.kind import Failure, Page, StepContext, would_move
from syncline.messages import Start
from syncline.model import EVERYTHING, Item, Outcome, Result, RunStatus, Scope, Trigger
from syncline.steps.discover import begin, is_named
from tests.rig.made_up import MADE_UP_RUN, SYNC, MadeUp, Steps, items, pages
from tests.rig.run_ids import made_run_id
from tests.unit.steps.conftest import CHUNK_ITEMS

LATER = made_run_id(2)


@dataclass
class Planned(MadeUp):
    """A kind with its own plans: items named "same" are equal."""

    def planned(self, items: Sequence[Item], _context: StepContext) -> Iterator[Result]:
        for item in items:
            result = would_move(item)
            yield replace(result, outcome=Outcome.EQUAL) if item.name == "same" else result


def scans(steps: Steps, *more: Page) -> list[StepContext]:
    """Make each scan find these pages; return the list to which each part of a scan adds its context at its end."""
    found: list[StepContext] = []

    def scan(_scope: Scope, cursor: str | None, context: StepContext) -> Iterator[Page]:
        for page in more:
            if cursor is None or page.cursor > cursor:
                yield page
        found.append(context)

    steps.kind.look = scan
    return found


def test_all_parts_of_a_scan_have_its_id(steps: Steps) -> None:
    found = scans(steps)
    _, root = steps.begin()
    joined = steps.state.join_run(SYNC, LATER, Scope.of(["a"]))
    assert joined is not None
    for batch in (root, joined):
        steps.put(batch)
    steps.pump.run()
    assert {(context.scan, context.joined) for context in found} == {(MADE_UP_RUN, False), (joined.id, True)}
    assert {context.run for context in found} == {MADE_UP_RUN}


@pytest.mark.usefixtures("small_chunks")
def test_a_scan_that_continues_in_another_function_keeps_its_id(steps: Steps) -> None:
    names: list[str] = []

    def scan(_scope: Scope, cursor: str | None, context: StepContext) -> Iterator[Page]:
        names.append(context.scan)
        if cursor is None:
            yield pages(1)[0]
            steps.clock.sleep(400)

    steps.kind.look = scan
    run = steps.run()
    assert names == [run.id] * 2


@pytest.mark.parametrize("trigger", list(Trigger))
def test_only_the_context_of_a_retry_has_asked_items(steps: Steps, trigger: Trigger) -> None:
    found = scans(steps)
    steps.state.begin_run(SYNC, MADE_UP_RUN, trigger, EVERYTHING, asked=[("team/app", "1")])
    steps.start(run=MADE_UP_RUN)
    steps.pump.run()
    asked = {("team/app", "1")} if trigger is Trigger.RETRY else set()
    assert [context.asked for context in found] == [asked]


@pytest.mark.parametrize("trigger", list(Trigger))
def test_the_scope_of_a_manual_run_is_named(steps: Steps, trigger: Trigger) -> None:
    found = scans(steps)
    run, _ = steps.state.begin_run(SYNC, MADE_UP_RUN, trigger, Scope.of(["a", "b"]))
    steps.start(run=MADE_UP_RUN)
    steps.pump.run()
    manual = trigger in (Trigger.MANUAL, Trigger.RETRY)
    assert [context.named for context in found] == [manual]
    assert is_named(Scope.of(["b"]), run) is manual, "a part of it that is retried"
    assert not is_named(Scope.of(["b", "c"]), run), "a scan that joined the run"
    assert not is_named(EVERYTHING, run)
    assert not is_named(Scope.of(["a"]), replace(run, scope=EVERYTHING))


def test_a_plan_has_the_outcomes_of_a_planning_kind(steps: Steps) -> None:
    steps.kind = Planned([Page("a", items("1", "same", "2"), equal=3)])
    steps.start(plan=True)
    steps.pump.run()
    run = steps.latest()
    assert (run.counts.would_move, run.counts.skipped, run.counts.queued) == (2, 4, 0)
    assert {name for _, name in steps.results()} == {"1", "2"}


class TestBegin:
    def start(self, scope: Scope = EVERYTHING, *, plan: bool = False) -> Start:
        return Start(SYNC, Trigger.SCHEDULE, scope, plan=plan)

    def test_a_full_scan_is_dropped_during_another(self, steps: Steps) -> None:
        steps.begin()
        assert begin(steps.state, self.start(), LATER) is None

    def test_a_full_scan_waits_for_a_run_with_another_configuration(self, steps: Steps) -> None:
        steps.state.put_sync(SYNC, "before")
        steps.begin()
        steps.state.put_sync(SYNC, "since")
        with pytest.raises(SynclineError, match="ALREADY_RUNNING"):
            begin(steps.state, self.start(), LATER)

    def test_a_full_scan_waits_for_a_run_that_is_being_cancelled(self, steps: Steps) -> None:
        steps.begin()
        assert steps.state.cancel_run(SYNC, MADE_UP_RUN).status is RunStatus.CANCELLING
        with pytest.raises(SynclineError, match="ALREADY_RUNNING"):
            begin(steps.state, self.start(), LATER)

    def test_a_partial_plan_joins_no_run(self, steps: Steps) -> None:
        steps.begin()
        plan = begin(steps.state, self.start(Scope.of(["a"]), plan=True), LATER)
        assert plan is not None
        assert (plan.run, plan.plan, plan.scope) == (LATER, True, Scope.of(["a"]))

    def test_a_partial_scan_joins_the_current_run(self, steps: Steps) -> None:
        steps.begin()
        joined = begin(steps.state, self.start(Scope.of(["a"])), LATER)
        assert joined is not None
        assert (joined.run, joined.scope) == (MADE_UP_RUN, Scope.of(["a"]))


class TestRetries:
    """A failed scan is retried after 2 to 4 seconds, or after the time that the server asks for."""

    def times(self, steps: Steps, pages: Iterable[Page | SynclineError]) -> list[float]:
        """Make the first scan yield or raise ``pages``; return the starts of all scans in seconds after the first."""
        began: list[float] = []

        def scan(_scope: Scope, _cursor: str | None, _context: StepContext) -> Iterator[Page]:
            began.append(steps.clock.now)
            for each in pages if len(began) == 1 else ():
                if isinstance(each, SynclineError):
                    raise each
                yield each

        steps.kind.look = scan
        assert steps.run().counts.failed == 0
        return [at - began[0] for at in began]

    @pytest.mark.parametrize(("asked", "least", "most"), [(None, 2, 4), (1.0, 2, 4), (90.0, 90, 90)])
    def test_a_scan_continues_after_its_last_page(
        self, steps: Steps, asked: float | None, least: float, most: float
    ) -> None:
        error = SynclineError("SERVER_ERROR", "it failed", retry_after=asked)
        first, second = self.times(steps, [Page("a", equal=1), error])
        assert (first, least <= second <= most) == (0, True)
        assert (waiting := steps.latest().waiting) is not None
        assert waiting.code == "SERVER_ERROR"

    def test_a_scan_without_time_left_continues_at_once(self, steps: Steps) -> None:
        error = SynclineError("TIME_SHORT", "the time is over")
        assert self.times(steps, [Page("a", equal=1), error]) == [0, 0]
        assert steps.latest().waiting is None

    @pytest.mark.parametrize(("asked", "least", "most"), [(None, 2, 4), (1.0, 2, 4), (90.0, 90, 90)])
    def test_failed_groups_are_retried_after_a_pause(
        self, steps: Steps, asked: float | None, least: float, most: float
    ) -> None:
        errors = [SynclineError("SERVER_ERROR", "it failed", retry_after=each) for each in (None, asked)]
        failures = tuple(Failure(Item(f"g{at}", "*"), error) for at, error in enumerate(errors))
        first, second = self.times(steps, [Page("a", failures=failures)])
        assert (first, least <= second <= most) == (0, True)
        assert (waiting := steps.latest().waiting) is not None
        assert waiting.code == "SERVER_ERROR"

    def test_a_failed_group_is_retried_in_the_scope_of_its_failure(self, steps: Steps) -> None:
        scopes: list[Scope] = []
        failure = Failure(Item("folder/file", "file"), SynclineError("SERVER_ERROR", "it failed"), "folder/")

        def scan(scope: Scope, _cursor: str | None, _context: StepContext) -> Iterator[Page]:
            scopes.append(scope)
            if scope.everything:
                yield Page("a", failures=(failure,))

        steps.kind.look = scan
        steps.run()
        assert scopes == [EVERYTHING, Scope.of(["folder/"])]

    def test_a_failed_scan_releases_its_lease(self, steps: Steps) -> None:
        """Otherwise the retry would wait until the time of the function is over."""
        began = self.times(steps, [SynclineError("UNREACHABLE", "gone")])
        assert len(began) == 2
        assert began[1] <= 4

    @pytest.mark.usefixtures("small_chunks")
    def test_failed_groups_of_a_chunk_are_retried_beside_the_rest(self, steps: Steps) -> None:
        failure = Failure(Item("bad", "*"), SynclineError("SERVER_ERROR", "it failed"))
        scopes: list[tuple[Scope, str | None]] = []
        everything = [Page("0", failures=(failure,)), *pages(CHUNK_ITEMS + 1)]

        def scan(scope: Scope, cursor: str | None, _context: StepContext) -> Iterator[Page]:
            scopes.append((scope, cursor))
            if scope.everything:
                yield from everything

        steps.kind.look = scan
        run = steps.run()
        assert scopes == [(EVERYTHING, None), (Scope.of(["bad"]), None)]
        assert (run.counts.moved, run.counts.failed) == (CHUNK_ITEMS + 1, 0)
