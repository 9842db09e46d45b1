"""The engine: the context of a step, and the report of a run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import pytest

from syncline.errors import SynclineError
from syncline.kinds.kind import GRACE_SECONDS
from syncline.model import EVERYTHING, Counts, Result, Run, RunStatus, Trigger
from syncline.steps.engine import (
    REPORT_SECONDS,
    BatchWork,
)
from syncline.store.batches import BatchRecord
from syncline.store.state import State
from tests.rig.made_up import MADE_UP_RUN, SYNC, MadeUp, Steps
from tests.rig.run_ids import made_run_id


class TestContext:
    def test_the_context_has_the_facts_of_the_run(self, steps: Steps) -> None:
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

    def test_the_context_halts_with_the_lease(self, steps: Steps) -> None:
        run, _ = steps.begin()
        lease = steps.state.leases.take("dr/team/app", "owner", 60)
        context = steps.engine.context(run, lambda: 100.0, "work", lease)
        assert not context.halted()
        steps.clock.sleep(lease.expires - steps.clock.now)
        assert context.halted()

    @pytest.mark.parametrize(("verifies", "seconds"), [(False, 0.0), (True, GRACE_SECONDS)])
    def test_the_context_halts_when_the_run_is_cancelled(self, steps: Steps, seconds: float, *, verifies: bool) -> None:
        run, _ = steps.begin()
        bound: list[tuple[Run, float]] = []
        engine = replace(steps.engine, bind=lambda run, seconds, _: bound.append((run, seconds)))
        context = engine.context(run, lambda: 100.0, "work", verifies=verifies)
        assert bound == [(run, 100 + GRACE_SECONDS)]
        steps.state.cancel_run(SYNC, run.id)
        steps.clock.sleep(3)
        assert not context.halted(), "the table is read only every few seconds"
        steps.clock.sleep(0.1)
        assert context.halted() is not verifies
        steps.clock.sleep(seconds - 0.1)
        assert context.halted() is not verifies
        steps.clock.sleep(0.1)
        assert context.halted()

    @pytest.mark.parametrize("verifies", [False, True])
    def test_the_context_of_a_run_that_is_being_cancelled(self, steps: Steps, *, verifies: bool) -> None:
        steps.begin()
        run = steps.state.cancel_run(SYNC, MADE_UP_RUN)
        context = steps.engine.context(run, lambda: 100.0, "work", verifies=verifies)
        assert context.halted() is not verifies
        steps.clock.sleep(GRACE_SECONDS)
        assert context.halted()

    def test_the_table_is_read_every_few_seconds(self, steps: Steps, monkeypatch: pytest.MonkeyPatch) -> None:
        run, _ = steps.begin()
        context = steps.engine.context(run, lambda: 100.0, "work")
        reads, read_run, began = list[float](), State.run, steps.clock.now

        def reading(self: State, sync: str, run_id: str) -> Run:
            reads.append(steps.clock.now - began)
            return read_run(self, sync, run_id)

        monkeypatch.setattr(State, "run", reading)
        for _ in range(100):
            steps.clock.sleep(0.1)
            assert not context.halted()
        assert len(reads) == 3


@dataclass
class RunObserver(MadeUp):
    """A kind that reports the ends of runs; the first reports raise `errors`."""

    errors: list[Exception] = field(default_factory=list)
    reported: list[str] = field(default_factory=list)

    def ended(self, run: Run, results: Iterable[Result]) -> None:
        del results
        if self.errors:
            raise self.errors.pop(0)
        self.reported.append(run.id)


class TestReports:
    @pytest.mark.parametrize(
        ("left", "seconds"), [(-30.0, GRACE_SECONDS), (0.0, 2 * GRACE_SECONDS), (100.0, REPORT_SECONDS)]
    )
    def test_a_report_has_the_remaining_time(self, steps: Steps, left: float, seconds: float) -> None:
        steps.kind = kind = RunObserver()
        bound: list[tuple[float, bool]] = []
        engine = replace(steps.engine, bind=lambda _run, seconds, halted: bound.append((seconds, halted())))
        _, root = steps.begin()
        engine.end(BatchWork(root))
        engine.finish_runs(lambda: left)
        assert (bound, kind.reported) == ([(seconds, False)], [MADE_UP_RUN])

    @pytest.mark.parametrize(
        ("error", "code"),
        [
            (KeyError("status"), "INTERNAL"),
            (SynclineError("SERVER_ERROR", "500"), "SERVER_ERROR"),
            (SynclineError("FORBIDDEN", "403"), None),
        ],
    )
    def test_a_report_is_retried_after_a_retryable_error(
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
        assert kind.reported == [MADE_UP_RUN]

    def test_a_failed_report_does_not_delay_other_runs(self, steps: Steps) -> None:
        steps.kind = kind = RunObserver(errors=[SynclineError("SERVER_ERROR", "500")])
        for run_id in (MADE_UP_RUN, made_run_id(1)):
            _, root = steps.begin(run_id)
            steps.state.end_batch(root, BatchRecord(()), Counts())
            steps.engine.maybe_over.add((SYNC, run_id))
            assert steps.state.finish_run(SYNC, run_id) is not None
            steps.engine.over.add((SYNC, run_id))
        with pytest.raises(SynclineError, match="SERVER_ERROR"):
            steps.engine.finish_runs(lambda: 100.0)
        assert len(kind.reported) == 1
        assert (steps.engine.maybe_over, steps.engine.over) == (set(), set())

    def test_a_plan_is_not_reported(self, steps: Steps) -> None:
        steps.kind = kind = RunObserver()
        steps.start(plan=True)
        steps.pump.run()
        assert steps.latest().status is RunStatus.DONE
        assert kind.reported == []
