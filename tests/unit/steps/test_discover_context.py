"""Discover: what a scan is told of its run, and when it is tried again."""

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
    """A kind that plans: of the items named "same" it finds that there is nothing to do."""

    def planned(self, items: Sequence[Item], _context: StepContext) -> Iterator[Result]:
        for item in items:
            made = would_move(item)
            yield replace(made, outcome=Outcome.EQUAL) if item.name == "same" else made


def scans(steps: Steps, *more: Page) -> list[StepContext]:
    """Let each scan find these pages; return the context of each part, as it is at its end."""
    found: list[StepContext] = []

    def look(_scope: Scope, cursor: str | None, context: StepContext) -> Iterator[Page]:
        for page in more:
            if cursor is None or page.cursor > cursor:
                yield page
        found.append(context)

    steps.kind.look = look
    return found


def test_all_parts_of_a_scan_have_its_id(steps: Steps) -> None:
    found = scans(steps)
    _, root = steps.begin()
    look = steps.state.join_run(SYNC, LATER, Scope.of(["a"]))
    assert look is not None
    for batch in (root, look):
        steps.put(batch)
    steps.pump.run()
    assert {(context.scan, context.joined) for context in found} == {(MADE_UP_RUN, False), (look.id, True)}
    assert {context.run for context in found} == {MADE_UP_RUN}


@pytest.mark.usefixtures("small_chunks")
def test_a_scan_that_continues_in_another_function_keeps_its_id(steps: Steps) -> None:
    names: list[str] = []

    def look(_scope: Scope, cursor: str | None, context: StepContext) -> Iterator[Page]:
        names.append(context.scan)
        if cursor is None:
            yield pages(1)[0]
            steps.clock.sleep(400)

    steps.kind.look = look
    run = steps.run()
    assert names == [run.id] * 2


@pytest.mark.parametrize("trigger", list(Trigger))
def test_only_a_retry_asks_for_items(steps: Steps, trigger: Trigger) -> None:
    found = scans(steps)
    steps.state.begin_run(SYNC, MADE_UP_RUN, trigger, EVERYTHING, asked=[("team/app", "1")])
    steps.start(run=MADE_UP_RUN)
    steps.pump.run()
    asked = {("team/app", "1")} if trigger is Trigger.RETRY else set()
    assert [context.asked for context in found] == [asked]


@pytest.mark.parametrize("trigger", list(Trigger))
def test_a_scope_is_named_where_a_person_asked_for_it(steps: Steps, trigger: Trigger) -> None:
    found = scans(steps)
    run, _ = steps.state.begin_run(SYNC, MADE_UP_RUN, trigger, Scope.of(["a", "b"]))
    steps.start(run=MADE_UP_RUN)
    steps.pump.run()
    by_person = trigger in (Trigger.MANUAL, Trigger.RETRY)
    assert [context.named for context in found] == [by_person]
    assert is_named(Scope.of(["b"]), run) is by_person, "a part of it that is scanned again"
    assert not is_named(Scope.of(["b", "c"]), run), "a scan that has joined"
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

    def test_a_full_scan_is_needless_during_another_one(self, steps: Steps) -> None:
        steps.begin()
        assert begin(steps.state, self.start(), LATER) is None

    def test_a_full_scan_waits_for_one_with_another_configuration(self, steps: Steps) -> None:
        steps.state.put_sync(SYNC, "before")
        steps.begin()
        steps.state.put_sync(SYNC, "since")
        with pytest.raises(SynclineError, match="ALREADY_RUNNING"):
            begin(steps.state, self.start(), LATER)

    def test_a_full_scan_waits_for_one_that_is_being_cancelled(self, steps: Steps) -> None:
        steps.begin()
        assert steps.state.cancel_run(SYNC, MADE_UP_RUN).status is RunStatus.CANCELLING
        with pytest.raises(SynclineError, match="ALREADY_RUNNING"):
            begin(steps.state, self.start(), LATER)

    def test_a_plan_and_a_full_scan_join_nothing(self, steps: Steps) -> None:
        steps.begin()
        plan = begin(steps.state, self.start(Scope.of(["a"]), plan=True), LATER)
        assert plan is not None
        assert (plan.run, plan.plan, plan.scope) == (LATER, True, Scope.of(["a"]))

    def test_a_scan_of_a_part_joins(self, steps: Steps) -> None:
        steps.begin()
        look = begin(steps.state, self.start(Scope.of(["a"])), LATER)
        assert look is not None
        assert (look.run, look.scope) == (MADE_UP_RUN, Scope.of(["a"]))


class TestAgain:
    """A scan that fails is tried again after a pause, from 2 to 4 seconds, or as long as the server asks."""

    def times(self, steps: Steps, answer: Iterable[Page | SynclineError]) -> list[float]:
        """Let the first scan see this; return when each scan of the run began, in seconds after the first."""
        began: list[float] = []

        def look(_scope: Scope, _cursor: str | None, _context: StepContext) -> Iterator[Page]:
            began.append(steps.clock.now)
            for each in answer if len(began) == 1 else ():
                if isinstance(each, SynclineError):
                    raise each
                yield each

        steps.kind.look = look
        assert steps.run().counts.failed == 0
        return [at - began[0] for at in began]

    @pytest.mark.parametrize(("asked", "least", "most"), [(None, 2, 4), (1.0, 2, 4), (90.0, 90, 90)])
    def test_behind_the_last_page(self, steps: Steps, asked: float | None, least: float, most: float) -> None:
        error = SynclineError("SERVER_ERROR", "it failed", retry_after=asked)
        first, second = self.times(steps, [Page("a", equal=1), error])
        assert (first, least <= second <= most) == (0, True)
        assert (waiting := steps.latest().waiting) is not None
        assert waiting.code == "SERVER_ERROR"

    def test_at_once_where_only_the_time_was_short(self, steps: Steps) -> None:
        error = SynclineError("TIME_SHORT", "the time is over")
        assert self.times(steps, [Page("a", equal=1), error]) == [0, 0]
        assert steps.latest().waiting is None

    @pytest.mark.parametrize(("asked", "least", "most"), [(None, 2, 4), (1.0, 2, 4), (90.0, 90, 90)])
    def test_groups_that_could_not_be_scanned(
        self, steps: Steps, asked: float | None, least: float, most: float
    ) -> None:
        errors = [SynclineError("SERVER_ERROR", "it failed", retry_after=each) for each in (None, asked)]
        failures = tuple(Failure(Item(f"g{at}", "*"), error) for at, error in enumerate(errors))
        first, second = self.times(steps, [Page("a", failures=failures)])
        assert (first, least <= second <= most) == (0, True)
        assert (waiting := steps.latest().waiting) is not None
        assert waiting.code == "SERVER_ERROR"

    def test_a_group_is_scanned_again_in_the_scope_that_its_failure_names(self, steps: Steps) -> None:
        scopes: list[Scope] = []
        failure = Failure(Item("folder/file", "file"), SynclineError("SERVER_ERROR", "it failed"), "folder/")

        def look(scope: Scope, _cursor: str | None, _context: StepContext) -> Iterator[Page]:
            scopes.append(scope)
            if scope.everything:
                yield Page("a", failures=(failure,))

        steps.kind.look = look
        steps.run()
        assert scopes == [EVERYTHING, Scope.of(["folder/"])]

    def test_a_scan_that_may_be_repeated_releases_its_lease(self, steps: Steps) -> None:
        """Else the next try would wait for the function's time to pass."""
        began = self.times(steps, [SynclineError("UNREACHABLE", "gone")])
        assert len(began) == 2
        assert began[1] <= 4

    @pytest.mark.usefixtures("small_chunks")
    def test_groups_of_a_chunk_are_scanned_again_beside_the_rest(self, steps: Steps) -> None:
        failure = Failure(Item("bad", "*"), SynclineError("SERVER_ERROR", "it failed"))
        scopes: list[tuple[Scope, str | None]] = []
        everything = [Page("0", failures=(failure,)), *pages(CHUNK_ITEMS + 1)]

        def look(scope: Scope, cursor: str | None, _context: StepContext) -> Iterator[Page]:
            scopes.append((scope, cursor))
            if scope.everything:
                yield from everything

        steps.kind.look = look
        run = steps.run()
        assert scopes == [(EVERYTHING, None), (Scope.of(["bad"]), None)]
        assert (run.counts.moved, run.counts.failed) == (CHUNK_ITEMS + 1, 0)
