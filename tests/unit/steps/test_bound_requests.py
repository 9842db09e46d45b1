"""The deadline of requests: the engine limits the requests of every kind and step to the time of the step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError

from syncline.errors import SynclineError
from syncline.kinds.kind import GRACE_SECONDS, Failure, StepContext
from syncline.model import Item, Outcome, Run, RunStatus, Step
from syncline.steps.engine import REPORT_SECONDS
from syncline.steps.transfer import RESERVED_SECONDS
from syncline.store.state import State
from tests.rig.made_up import MadeUp, Reporting, Steps, pages
from tests.rig.stack import QUEUES


def test_requests_are_bound_in_every_step_and_at_the_end_of_a_run(steps: Steps) -> None:
    bound: list[tuple[str, float]] = []
    kind = Reporting(pages(1))
    steps.kind = kind
    steps.engine = replace(steps.engine, bind=lambda run, seconds, _: bound.append((run.sync, round(seconds))))
    run = steps.run()
    assert kind.ended_runs == [run.id]
    assert kind.reported
    for step in (Step.DISCOVER, Step.TRANSFER, Step.VERIFY):
        assert bound.pop(0) == (run.sync, QUEUES[step].function_timeout - RESERVED_SECONDS + GRACE_SECONDS), step
    assert bound == [(run.sync, REPORT_SECONDS)]


class TestCancelled:
    """A run is cancelled while a step waits for a server: the step ends within seconds."""

    def wait(self, steps: Steps, step: Step) -> Callable[..., Any]:
        """Return a function that waits for a server until something ends the request."""
        bound: list[Callable[[], bool]] = []
        steps.engine = replace(steps.engine, bind=lambda _run, _seconds, halted: bound.append(halted))

        def waiting(*_: object) -> Any:
            run = steps.latest()
            steps.state.cancel_run(run.sync, run.id)
            for self.waited in range(1000):  # seconds
                if bound[-1]():
                    raise SynclineError("RUN_CANCELLED", f"{step} was cancelled")
                steps.clock.sleep(1)
            raise AssertionError("nothing ends the request")

        return waiting

    @pytest.mark.parametrize("step", [Step.DISCOVER, Step.TRANSFER, Step.VERIFY])
    def test_requests_of_every_step_end_with_their_run(self, steps: Steps, step: Step) -> None:
        wait = self.wait(steps, step)

        def fail(item: Item, _context: StepContext) -> Failure:
            try:
                wait()
            except SynclineError as error:
                return Failure(item, error)
            raise AssertionError

        steps.kind = MadeUp(pages(1))
        if step is Step.DISCOVER:
            steps.kind.look = wait
        elif step is Step.TRANSFER:
            steps.kind.move = fail
        else:
            steps.kind.prove = fail
        run = steps.run()
        assert self.waited < 10
        assert run.status is RunStatus.CANCELLED
        assert {each.outcome for each in steps.results().values()} <= {Outcome.CANCELLED}
        assert not steps.dead()

    def test_an_unreadable_status_ends_no_request(self, steps: Steps, monkeypatch: pytest.MonkeyPatch) -> None:
        run, batch = steps.begin()
        context = steps.engine.context(run, lambda: 100.0, batch.id)

        def fails(*_: object) -> Run:
            raise EndpointConnectionError(endpoint_url="https://dynamodb.example")

        with monkeypatch.context() as patch:
            patch.setattr(State, "run", fails)
            steps.clock.sleep(10)
            assert not context.over
        steps.state.cancel_run(run.sync, run.id)
        steps.clock.sleep(10)
        assert context.over
