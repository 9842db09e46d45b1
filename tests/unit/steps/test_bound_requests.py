"""The requests of each step end with it: one place sets their end, whatever the kind and the step."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from syncline.kinds.kind import LAST_WORDS
from syncline.model import Result, Run, Step
from syncline.steps.engine import TELLING
from syncline.steps.transfer import ENDING
from tests.made_up import MadeUp, Steps, pages
from tests.stack import QUEUES


@dataclass
class Told(MadeUp):
    """A kind that tells of its runs."""

    ended_runs: list[str] = field(default_factory=list)

    def ended(self, run: Run, results: Iterable[Result]) -> None:
        assert list(results)
        self.ended_runs.append(run.id)


def test_every_step_and_the_end_of_a_run_bind_the_requests(steps: Steps) -> None:
    bound: list[tuple[str, float]] = []
    kind = Told(pages(1))
    steps.kind = kind
    steps.engine = replace(steps.engine, bind=lambda run, seconds: bound.append((run.sync, round(seconds))))
    run = steps.run()
    assert kind.ended_runs == [run.id]
    for step in (Step.DISCOVER, Step.TRANSFER, Step.VERIFY):
        assert bound.pop(0) == (run.sync, QUEUES[step].function_timeout - ENDING + LAST_WORDS), step
    assert bound == [(run.sync, TELLING)]
