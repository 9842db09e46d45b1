"""Steps without registries: the engine, the table and the pump around a kind made up by a test."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import boto3

from syncline.config.sync import Sync
from syncline.errors import SynclineError
from syncline.kinds.kind import Completed, Failure, Page, StepContext, Unfinished
from syncline.messages import Batch, DeadLetter, Queues, Start, decode, encode
from syncline.model import EVERYTHING, Item, Result, Run, Scope, Step, Trigger
from syncline.steps.engine import StepEngine
from syncline.steps.events import EventGatherer
from syncline.steps.worker import Worker
from syncline.store.events import EventStore
from syncline.store.state import State, first_batch
from syncline.store.table import Database
from syncline.wiring.functions import STEPS
from tests.rig.pump import Clock, Letter, Mail, Manners, Pump, Reaper, guard
from tests.rig.run_ids import made_run_id
from tests.rig.stack import EVENTS, dead_url, new_table, url

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.service_resource import Table

SYNC: Final = "made-up"
MADE_UP_RUN: Final = made_run_id()
Answer = Completed | Unfinished | Result | Failure


@dataclass
class MadeUp:
    """A kind whose looks, transfers and proofs are what the test says; each item arrives unless it says otherwise."""

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
class Told(MadeUp):
    """A kind that reports the ends of its runs."""

    ended_runs: list[str] = field(default_factory=list)
    told: list[Result] = field(default_factory=list)

    def ended(self, run: Run, results: Iterable[Result]) -> None:
        self.told += results
        self.ended_runs.append(run.id)


@dataclass
class Steps:
    """The three steps around one kind."""

    table: Table
    kind: MadeUp = field(default_factory=MadeUp)
    seed: int = 1

    def __post_init__(self) -> None:
        self.clock, self.reaper, self.lock = Clock(), Reaper(), threading.Lock()
        self.state = State(self.table, self.clock.time, self.clock.every)
        self.mail = Mail(self.clock)
        sqs = boto3.client("sqs")
        self.mail.connect(sqs)
        for client in (self.table.meta.client, sqs):
            guard(client, self.reaper, self.lock)
        urls = {step: url(step) for step in Step}
        self.queues = Queues(sqs, urls, {step: dead_url(step) for step in Step}, EVENTS)
        self.engine = StepEngine(
            self.state,
            self.queues,
            lambda _run: self.kind,
            self.clock.time,
            random.Random(self.seed),
            self.clock.sleep,
            every=self.clock.every,
        )
        self.event_store = EventStore(Database(self.table), self.clock.time)
        self.configs: dict[str, Sync] = {}
        self.gatherer = EventGatherer(
            self.event_store, sources_of, self._config, lambda _name: self.kind, self.queues, self.clock.time
        )
        self.pump = Pump(self.mail, self.clock, self.reaper, self.worker, Manners(random.Random(self.seed)))

    def _config(self, name: str) -> Sync:
        return self.configs.get(name) or Sync(name=name, kind="made-up")

    def worker(self, step: Step) -> Worker:
        return Worker(step, STEPS[step], self.engine, self.gatherer)

    def start(self, *groups: str, run: str | None = None, plan: bool = False) -> Letter:
        """A start message in the queue."""
        self.queues.start(Start(SYNC, Trigger.MANUAL, Scope.of(groups) if groups else EVERYTHING, run, plan))
        return self.mail.letters[-1]

    def notify(self, *groups: str, source: str = "made.up") -> None:
        """Events of a source, in the queue for those."""
        for group in groups:
            body, now = json.dumps({"source": source, "group": group}), self.clock.now
            self.mail.add(Letter(f"event-{len(self.mail.letters)}-{group}", EVENTS, body, now, now))

    def run(self) -> Run:
        """A whole run, pumped to its end."""
        self.start()
        self.pump.run()
        return self.latest()

    def begin(self, run_id: str = MADE_UP_RUN) -> tuple[Run, Batch]:
        """A run and its first batch, which no message carries."""
        return self.state.begin_run(SYNC, run_id, Trigger.MANUAL, EVERYTHING)

    def begin_with(self, batch: Batch) -> Letter:
        """A run whose look is over, and has led to this batch, which lies in its queue."""
        from syncline.messages import Outgoing  # noqa: PLC0415
        from syncline.model import Counts  # noqa: PLC0415
        from syncline.store.batches import BatchRecord  # noqa: PLC0415

        run, root = self.begin(batch.run)
        assert root == first_batch(run)
        self.state.end_batch(root, BatchRecord((), (Outgoing(batch),)), Counts(queued=len(batch.items)))
        return self.put(batch)

    def put(self, message: Batch | Start | DeadLetter | str, step: Step | None = None, **more: Any) -> Letter:
        """A message in its queue."""
        where = step or (message.step if isinstance(message, Batch) else Step.DISCOVER)
        body = message if isinstance(message, str) else encode(message)
        now = self.clock.now
        letter = Letter(f"letter-{len(self.mail.letters)}-{now}", url(where), body, now, now, **more)
        self.mail.add(letter)
        return letter

    def latest(self) -> Run:
        return self.state.runs(SYNC, 1)[0]

    def results(self, run: Run | None = None) -> dict[tuple[str, str], Result]:
        """A run's results by item; fails where an item has two."""
        found: dict[tuple[str, str], Result] = {}
        for result in self.state.results((run or self.latest()).id):
            assert (result.group, result.name) not in found, result
            found[result.group, result.name] = result
        return found

    def dead(self) -> list[DeadLetter]:
        """Return the dead letters of all steps; each must have a reason."""
        letters = [decode(letter.body) for _, letter in self.mail.dead()]
        assert all(isinstance(each, DeadLetter) and each.reason for each in letters), letters
        return [each for each in letters if isinstance(each, DeadLetter)]


def sources_of(body: Any) -> tuple[str, ...]:
    """The sources of a made-up event: ``{"source": NAME, "group": GROUP}``."""
    try:
        return (str(body["source"]),)
    except KeyError:
        raise SynclineError("MESSAGE_INVALID", "no made-up event") from None


@contextmanager
def steps(kind: MadeUp | None = None) -> Iterator[Steps]:
    """Steps with a table of their own."""
    with new_table() as table:
        yield Steps(table, kind or MadeUp())


def items(*names: str, group: str = "team/app") -> tuple[Item, ...]:
    """Items that the target does not have."""
    return tuple(Item(group, name, f"digest of {name}") for name in names)


def pages(count: int, each: int = 1) -> list[Page]:
    """Return pages of one group each, with ``each`` items."""
    groups = [f"team/{number:04}" for number in range(count)]
    return [Page(group, items(*(f"t{n}" for n in range(each)), group=group)) for group in groups]


def transfer_of(*names: str, run: str = MADE_UP_RUN, group: str = "team/app", **more: Any) -> Batch:
    """A transfer of :func:`items`."""
    return Batch(run, SYNC, Step.TRANSFER, f"batch-{'-'.join(names)}", items(*names, group=group), hop=1, **more)
