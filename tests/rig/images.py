"""The whole step chain between two in-memory registries, and what must be true of it after anything that happens."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import boto3

from syncline.clients.http.retry import HOST_THROTTLE
from syncline.config.sync import load_sync
from syncline.errors import CODES
from syncline.messages import Batch, DeadLetter, Queues, Start, decode
from syncline.model import EVERYTHING, Outcome, Result, Run, RunStatus, Scope, Step, Trigger
from syncline.secrets import Secrets
from syncline.steps.engine import StepEngine
from syncline.steps.worker import Worker
from syncline.store.events import EventStore
from syncline.store.state import State
from syncline.store.table import Database
from syncline.wiring.dependencies import Dependencies
from syncline.wiring.functions import STEPS, gatherer
from syncline.wiring.syncs import Kinds, Syncs
from tests.rig.pump import Clock, Letter, Mail, Manners, MortalHttp, Pump, Reaper, guard
from tests.rig.stack import EVENTS, dead_url, table_of_test, url
from tests.standins.oci import OciRegistry

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.service_resource import Table

SYNC: Final = "prod-to-dr"
Key = tuple[str, str]  # repository and tag


@dataclass
class Chain:
    """Source, target, table, queues and functions; ``before`` is what the target had at first."""

    source: OciRegistry
    target: OciRegistry
    table: Table
    mail: Mail
    clock: Clock
    reaper: Reaper
    queues: Queues
    pump: Pump = field(init=False)
    before: dict[Key, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)
    seed: int = 1

    def __post_init__(self) -> None:
        self.state = State(self.table, self.clock.time, self.clock.every)
        self.pump = Pump(self.mail, self.clock, self.reaper, self.new_worker, Manners(random.Random(self.seed)))

    def configure(self, **more: Any) -> None:
        """Apply a sync of everything the source's catalog lists; ``more`` are further fields of its configuration."""
        endpoints = {
            "source": {"registry": self.source.host, "plain_http": True, "catalog": True},
            "target": {"registry": self.target.host, "plain_http": True},
        }
        config = {"name": SYNC, "kind": "images", "concurrency": 1, **endpoints, **more}
        self.state.put_sync(SYNC, load_sync(json.dumps(config)).model_dump_json())

    def new_worker(self, step: Step) -> Worker:
        """A step's worker as :mod:`syncline.wiring.functions` makes it in a fresh process, with its HTTP and clock replaced."""
        state = State(self.table, self.clock.time, self.clock.every)
        database, http = Database(self.table), MortalHttp(self.reaper, self.clock)
        syncs = Syncs(state, Kinds(Dependencies(Secrets(_never, _never, self.secrets), http, state, database)))
        clock, rng, bind = self.clock, random.Random(self.seed), syncs.bind(http)
        engine = StepEngine(
            state, self.queues, syncs.kind_of, clock.time, rng, clock.sleep, every=clock.every, bind=bind
        )
        return Worker(step, STEPS[step], engine, gatherer(syncs, EventStore(database, self.clock.time), engine))

    def start(self, *groups: str, trigger: Trigger = Trigger.MANUAL, plan: bool = False) -> None:
        """Put a start message into the queue: for everything, or for some repositories."""
        scope = Scope.of(groups) if groups else EVERYTHING
        self.queues.start(Start(SYNC, trigger, scope, plan=plan))

    def run(self, *groups: str) -> Run:
        """A whole run, pumped to its end."""
        self.remember()
        self.clock.sleep(1)  # the ids of runs sort by seconds
        self.start(*groups)
        self.pump.run()
        return self.latest()

    def remember(self) -> None:
        """What the target has now is what it had before the run."""
        self.before = self.target.store.tags()

    def latest(self) -> Run:
        # Ids sort by the second, and the virtual clock may give two runs the same one.
        return max(self.state.runs(SYNC, 20), key=lambda run: run.number)

    def results(self, run: Run) -> dict[Key, Result]:
        """The results of a run by item; fails where an item has two."""
        found: dict[Key, Result] = {}
        for result in self.state.results(run.id):
            key = (result.group, result.name)
            assert key not in found, f"{key} ended twice: {found[key]} and {result}"
            found[key] = result
        return found

    def dead(self) -> dict[Key, DeadLetter]:
        """What lies in the dead-letter queues, by item; fails where a letter gives no reason."""
        found: dict[Key, DeadLetter] = {}
        for step, letter in self.mail.dead():
            dead = decode(letter.body)
            assert isinstance(dead, DeadLetter), f"laid aside without a reason: {letter.body}"
            assert dead.batch.step is step
            assert dead.code in CODES
            assert dead.reason
            for key in [(item.group, item.name) for item in dead.batch.items] or [("*", "*")]:
                found[key] = dead
        return found

    def letter(self, batch: Batch, **more: Any) -> Letter:
        """A message that carries a batch, put into its queue."""
        from syncline.messages import encode  # noqa: PLC0415

        letter = Letter(f"letter-{batch.id}", url(batch.step), encode(batch), self.clock.now, self.clock.now, **more)
        self.mail.add(letter)
        return letter

    def check(self, failing: Mapping[Key, str] | None = None) -> Run:
        """What must hold after any run of everything: see the assertions. ``failing`` names failed items' codes."""
        failing = failing or {}
        run = self.latest()
        assert run.status is RunStatus.DONE, run
        assert self.state.current_run(SYNC) is None
        progress = self.state.progress(run.id)
        assert progress.settled
        assert progress.counts == run.counts
        assert not self.mail.waiting()
        results, dead = self.results(run), self.dead()
        wanted = self.source.store.tags()
        skipped = 0
        for key, digest in wanted.items():
            result, now, before = results.pop(key, None), self.target.store.digest(*key), self.before.get(key)
            if key in failing:
                assert result is not None
                assert (result.outcome, result.code) == (Outcome.FAILED, failing[key]), result
                assert (dead[key].code, dead[key].reason) == (result.code, result.reason)
                assert now in (before, digest)
            elif before == digest:
                assert result is None, result
                assert now == digest
                skipped += 1
            elif before is not None:
                assert result is not None
                assert (result.outcome, result.code) == (Outcome.CONFLICT, "TAG_DIFFERS"), result
                assert now == before
            else:
                assert result is not None, f"{key} has no result"
                assert result.outcome is Outcome.MOVED, result
                assert result.source == result.target == digest == now
        assert not results, f"results for what is not at the source: {results}"
        assert dead.keys() == failing.keys()
        assert self.target.store.tags().keys() <= wanted.keys() | self.before.keys()
        assert not self.target.store.broken()
        counts = run.counts
        assert counts.skipped == skipped
        assert counts.failed == len(failing)
        assert counts.moved + counts.skipped + counts.conflict + counts.failed == len(wanted), counts
        return run

    def check_again(self) -> None:
        """A second run finds everything equal, but for what is in conflict, and moves nothing."""
        first = self.latest().counts
        self.reaper.plan = set()
        writes = len(self.reaper.effects)
        second = self.run().counts
        assert second.skipped == first.moved + first.skipped, second
        assert (second.moved, second.queued, second.failed, second.conflict) == (0, 0, 0, first.conflict), second
        assert not [each for each in self.reaper.effects[writes:] if "/v2/" in each], "a second run wrote to the target"
        self.check()


def _never() -> Any:
    raise AssertionError("no secret is asked for")


class World:
    """Registries and moto, made once and used by one chain after another; each chain gets a table of its own."""

    def __init__(self, source: OciRegistry, target: OciRegistry) -> None:
        self.source = source
        self.target = target
        self._table: Table | None = None

    def chain(self, seed: int = 1) -> Chain:
        """An empty chain."""
        self.source.clear()
        self.target.clear()
        HOST_THROTTLE._hosts.clear()  # it remembers times of the last chain's clock
        if self._table is not None:
            self._table.delete()  # moto copies every table for each transaction
        clock, reaper, lock = Clock(), Reaper(), threading.Lock()
        table, sqs, mail = table_of_test(), boto3.client("sqs"), Mail(clock)
        self._table = table
        mail.connect(sqs)
        for client in (table.meta.client, sqs):
            guard(client, reaper, lock)
        queues = Queues(sqs, {step: url(step) for step in Step}, {step: dead_url(step) for step in Step}, EVENTS)
        return Chain(self.source, self.target, table, mail, clock, reaper, queues, seed=seed)


@contextmanager
def world() -> Iterator[World]:
    """For a module's tests, inside of ``mock_aws``."""
    with OciRegistry() as source, OciRegistry() as target:
        yield World(source, target)


def small(chain: Chain, **config: Any) -> Chain:
    """Three repositories, seven tags.

    An index, layers shared within and across repositories, a signature, an equal tag and one that conflicts.
    """
    source, target = chain.source.store, chain.target.store
    base = b"the base layer that all share " * 40
    one = source.add_image("team/app", "1.0", base, b"app 1.0")
    two = source.add_image("team/app", None, base, b"app for another processor")
    source.add_index("team/app", "multi", one, two)
    source.add_image("team/app", f"sha256-{one.partition(':')[2]}.sig", b'{"a": "signature"}')
    source.add_image("team/base", "latest", base)
    source.add_image("team/web", "1.0", base, b"web 1.0")
    source.add_image("team/web", "2.0", base, b"web 2.0")
    source.add_image("team/web", "equal", b"the same on both sides")
    target.add_image("team/web", "equal", b"the same on both sides")
    target.add_image("team/web", "1.0", b"somebody else's web 1.0")
    chain.configure(**config)
    return chain
