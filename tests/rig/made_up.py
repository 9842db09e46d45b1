"""Steps without registries: the engine, the table and the pump around a kind that a test defines."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from syncline.config.sync import Sync
from syncline.errors import SynclineError
from syncline.kinds.kind import Completed, Failure, Page, StepContext, Unfinished
from syncline.messages import Batch, Outgoing
from syncline.model import EVERYTHING, Counts, Item, Result, Run, Scope, Step, Trigger
from syncline.steps.engine import StepEngine
from syncline.steps.events import EventGatherer
from syncline.steps.worker import Worker
from syncline.store.batches import BatchRecord
from syncline.store.state import first_batch
from syncline.wiring.functions import STEPS
from tests.rig.chain import Rig
from tests.rig.pump import Letter
from tests.rig.run_ids import made_run_id
from tests.rig.stack import new_table

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.service_resource import Table

SYNC: Final = "made-up"
MADE_UP_RUN: Final = made_run_id()
Answer = Completed | Unfinished | Result | Failure


@dataclass
class MadeUp:
    """A kind whose scans, transfers and verifications the test defines; by default each item completes."""

    pages: Sequence[Page] = ()
    look: Callable[[Scope, str | None, StepContext], Iterable[Page]] | None = None
    move: Callable[[Item, StepContext], Answer] = lambda item, _context: Completed(item, 10)
    prove: Callable[[Item, StepContext], Completed | Unfinished | Failure] = lambda item, _context: Completed(item)
    moved: list[Item] = field(default_factory=list)
    proved: list[Item] = field(default_factory=list)
    more_requests: int = 0

    moves_by: Step = Step.TRANSFER
    share: int = 100

    def discover(self, scope: Scope, cursor: str | None, context: StepContext) -> Iterator[Page]:
        if self.look is not None:
            yield from self.look(scope, cursor, context)
            return
        for page in self.pages:
            if context.over:
                return
            if cursor is None or page.cursor > cursor:
                yield page

    def transfer(self, items: Sequence[Item], context: StepContext) -> Iterator[Answer]:
        for item in items:
            self.moved.append(item)
            yield self.move(item, context)

    def verify(self, items: Sequence[Item], context: StepContext) -> Iterator[Completed | Unfinished | Failure]:
        for item in items:
            self.proved.append(item)
            yield self.prove(item, context)

    def reference(self, group: str) -> str:
        return f"made.up/{group}"

    def changed_groups(self, event: object) -> tuple[str, ...]:
        return (str(event["group"] if isinstance(event, dict) else event),)

    def requests(self) -> int:
        return len(self.moved) + len(self.proved) + self.more_requests


@dataclass
class Reporting(MadeUp):
    """A kind that reports the ends of its runs."""

    ended_runs: list[str] = field(default_factory=list)
    reported: list[Result] = field(default_factory=list)

    def ended(self, run: Run, results: Iterable[Result]) -> None:
        self.reported += results
        self.ended_runs.append(run.id)


class Steps(Rig):
    """The steps around one kind, which share an engine."""

    def __init__(self, table: Table, kind: MadeUp) -> None:
        super().__init__(SYNC, table=table)
        self.kind = kind
        clock, rng = self.clock, random.Random(self.seed)
        self.engine = StepEngine(
            self.state, self.queues, self._kind_of, clock.time, rng, clock.sleep, every=clock.every
        )
        self.configs: dict[str, Sync] = {}
        self.gatherer = EventGatherer(
            self.event_store,
            sources_of,
            self._config,
            lambda _sync: self.kind.changed_groups,
            self.queues,
            clock.time,
        )

    def _kind_of(self, _run: Run | str) -> MadeUp:
        return self.kind  # a test may have replaced it

    def _config(self, name: str) -> Sync:
        return self.configs.get(name) or Sync(name=name, kind="made-up")

    def new_worker(self, step: Step) -> Worker:
        return Worker(step, STEPS[step], self.engine, self.gatherer)

    def notify(self, *groups: str, source: str = "made.up") -> None:
        """Post an event of a source for each group."""
        self.post(*({"source": source, "group": group} for group in groups))

    def begin(self, run_id: str = MADE_UP_RUN) -> tuple[Run, Batch]:
        """Return a run and its first batch, which no message carries."""
        return self.state.begin_run(SYNC, run_id, Trigger.MANUAL, EVERYTHING)

    def begin_with(self, batch: Batch) -> Letter:
        """Return a run whose scan has ended and led to this batch, which is in its queue."""
        run, root = self.begin(batch.run)
        assert root == first_batch(run)
        self.state.end_batch(root, BatchRecord((), (Outgoing(batch),)), Counts(queued=len(batch.items)))
        return self.put(batch)


def sources_of(body: Any) -> tuple[str, ...]:
    """Return the sources of an event of the test kind: ``{"source": NAME, "group": GROUP}``."""
    try:
        return (str(body["source"]),)
    except KeyError:
        raise SynclineError("MESSAGE_INVALID", "no made-up event") from None


@contextmanager
def steps(kind: MadeUp | None = None) -> Iterator[Steps]:
    """Yield steps with a separate table."""
    with new_table() as table:
        yield Steps(table, kind or MadeUp())


def items(*names: str, group: str = "team/app") -> tuple[Item, ...]:
    """Return items that the target does not have."""
    return tuple(Item(group, name, f"digest of {name}") for name in names)


def pages(count: int, each: int = 1) -> list[Page]:
    """Return pages of one group each, with ``each`` items."""
    groups = [f"team/{number:04}" for number in range(count)]
    return [Page(group, items(*(f"t{n}" for n in range(each)), group=group)) for group in groups]


def transfer_of(*names: str, run: str = MADE_UP_RUN, group: str = "team/app", **more: Any) -> Batch:
    """Return a transfer of :func:`items`."""
    return Batch(run, SYNC, Step.TRANSFER, f"batch-{'-'.join(names)}", items(*names, group=group), hop=1, **more)
