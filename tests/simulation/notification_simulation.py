"""One simulation of the notifications of a sync.

The notifier, the watch and the state are the product's own code. The table, the queue, Lambda and the channels are
models. Runs end, the sync is paused and failures are acknowledged at random times, in bursts too, while hints are lost,
duplicated and late, channels fail, and the function is killed between any two calls. Then the faults end. Once things are
quiet, each channel must have been told the last state, once.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Final, cast
from unittest.mock import patch

from syncline import secrets
from syncline.config.sync import Sync, model_of
from syncline.errors import CodeName, SynclineError
from syncline.messages import Hint, Queues, encode
from syncline.model import EVERYTHING, Counts, Outcome, Result, Trigger
from syncline.steps import notices, notify
from syncline.steps.notices import BAD, CONFLICT, FAILING, FLAPPING, HOUR, IN_SYNC, REMINDER, Beat, Notice
from syncline.steps.notify import HEARTBEAT, Notifier
from syncline.store.alerts import Alert, Alerts
from syncline.store.batches import BatchRecord
from syncline.store.failures import KnownFailure
from syncline.store.runs import new_run_id
from syncline.store.state import State
from syncline.store.table import Database
from syncline.wiring.watch import watch_of
from tests.simulation.captured_output import captured_output
from tests.simulation.functions import EventSourceMapping, Functions
from tests.simulation.installation import installed
from tests.simulation.machine import EndlessError, Machine, Process
from tests.simulation.network import Calls, Client, Faults
from tests.simulation.planted_faults.registry import replaced
from tests.simulation.queues import ModelSqs, Queue
from tests.simulation.table import ModelTable

SYNC: Final = "prod-to-dr"
TIMEOUT: Final = 60.0
"""Timeout of the function in template.yaml."""
QUIET: Final = 3 * HOUR
CODES: Final[tuple[CodeName, ...]] = ("FORBIDDEN", "NOT_FOUND", "UNREACHABLE")
CONFIG: Final = {
    "name": SYNC,
    "kind": "images",
    "source": {"registry": "quay.prod.example", "repositories": ["team/app"]},
    "target": {"registry": "quay.dr.example"},
    "notify": {"sns": "arn:aws:sns:eu-central-1:123456789012:syncline-a", "slack": {"url": "secret:slack#url"}},
    "heartbeat": {"url": "https://hc.example/1"},
}


@dataclass
class SimulationResult:
    """The result of a simulation: its violations, its trace and its counts."""

    seed: int
    violations: list[str]
    trace: list[str]
    totals: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Delivery:
    """A call that a channel accepted. ``failed`` has an entry if the channel's answer was lost."""

    channel: str
    key: str
    at: float
    process: Process
    failed: list[bool] = field(default_factory=list)


class ModelChannels:
    """The channels of one process: they fail at random, before or after they accept."""

    def __init__(self, simulation: Simulation, calls: Calls) -> None:
        self._simulation = simulation
        self._calls = calls

    def send(self, _sync: Sync, channel: str, notice: Notice) -> None:
        self._accept(channel, notice.id, f"{notice.event}: {notice.state} {', '.join(notice.codes)}")

    def beat(self, _sync: Sync, beat: Beat) -> None:
        self._accept(HEARTBEAT, beat.key, beat.phase)

    def _accept(self, channel: str, key: str, text: str) -> None:
        calls, simulation = self._calls, self._simulation
        machine, faults = calls.machine, calls.faults
        calls.transmit()
        calls.maybe_kill("before", channel)
        if machine.rng.random() < simulation.slow_channels:
            machine.sleep(machine.rng.uniform(0, 20))
        if simulation.refusals[channel]:
            simulation.refusals[channel] -= 1
            raise SynclineError("SERVER_ERROR", f"{channel} answered 503")
        fails = not faults.off and machine.rng.random() < faults.server_errors
        if fails and machine.rng.random() < 0.5:
            raise SynclineError("SERVER_ERROR", f"{channel} answered 503")
        delivery = Delivery(channel, key, machine.now, calls.process)
        simulation.deliveries.append(delivery)
        machine.note(f"{calls.process.name} tells {channel}: {text}")
        calls.maybe_kill("after", channel)
        if fails:
            delivery.failed.append(True)
            raise SynclineError("UNREACHABLE", f"the answer of {channel} was lost")


class Simulation:
    """One simulation of a seed."""

    def __init__(self, machine: Machine, seed: int) -> None:
        self.machine, self.rng, self.seed = machine, machine.rng, seed
        rate = self._rate
        self.faults = Faults(
            throttled=rate(0.3, 0.1),
            lost_replies=rate(0.5, 0.1),
            unreachable=rate(0.3, 0.05),
            conflicts=rate(0.2, 0.05),
            killed=rate(0.6, 0.02),
            slow=rate(0.2, 0.02),
            server_errors=rate(0.5, 0.3),
        )
        self.skew = rate(0.3, 2.0)
        self.lost_hints = rate(0.4, 0.5)
        self.slow_channels = rate(0.5, 0.5)
        self.refusals = Counter[str]()
        self.quiet_since = 0.0
        self.table = ModelTable()
        dead = Queue("https://sqs/notify-dead")
        self.queue = Queue("https://sqs/notify", 360.0, 8, dead)
        self.sqs = ModelSqs(machine, [self.queue, dead], late=rate(0.4, 300.0), duplicates=rate(0.5, 0.3))
        mapping = EventSourceMapping(self.queue, cast("Any", "notify"), TIMEOUT, 1, 10)
        self.functions = Functions(machine, self.sqs, [mapping], cast("Any", self._build), skew=self.skew)
        self.state = State(cast("Any", self.table), lambda: machine.now)
        self.deliveries: list[Delivery] = []
        self.notices: dict[str, tuple[float, Notice]] = {}
        self.pauses: list[list[float]] = []
        self.acknowledgements: list[float] = []
        self.violations: list[str] = []
        self.table.on_store = self._stored

    def _rate(self, chance: float, high: float) -> float:
        """Return a random rate up to ``high``, or 0: a simulation has only some of the faults."""
        return self.rng.uniform(0, high) if self.rng.random() < chance else 0.0

    def run(self) -> SimulationResult:
        self.state.put_sync(SYNC, model_of("images").model_validate(CONFIG).model_dump_json())
        self.functions.begin()
        try:
            self._minutely()
            for _ in range(self.rng.randint(3, 30)):
                self._act()
                self._wait(self.rng.choice([5.0, 60.0, 600.0, 3000.0]) * self.rng.random())
            self._quiesce()
        except EndlessError as error:
            self.violations.append(f"endless: {error}")
        self.violations += [f"uncaught {type(each).__name__}: {each}" for each in self.functions.failures]
        self._check_deliveries()
        self._check_notices()
        kills = sum(count for name, count in self.faults.points.items() if name.startswith("killed"))
        totals = Counter({"seeds": 1, "kills": kills, "notices": len(self.notices), "deliveries": len(self.deliveries)})
        return SimulationResult(self.seed, self.violations, self.machine.trace, totals)

    # -- the product's code

    def _build(self, process: Process, _step: object) -> Notifier:
        calls = Calls(self.machine, process, self.faults)
        table, sqs = cast("Any", Client(calls, self.table)), cast("Any", Client(calls, self.sqs))
        clock = self.machine.time
        queues = Queues(sqs, {}, notify=self.queue.url)
        return Notifier(State(table, clock), Alerts(Database(table)), queues, ModelChannels(self, calls), clock, "s")

    def _minutely(self) -> None:
        """Let the watch look at the sync, now and every minute."""
        queues = Queues(cast("Any", self.sqs), {}, notify=self.queue.url)
        watch_of(self.state, Database(cast("Any", self.table)), queues, lambda: self.machine.now).measure()
        self.machine.after(60.0, self._minutely)

    def _stored(self, key: tuple[str, str], item: Mapping[str, Any]) -> None:
        if key[1] != "ALERT":
            return
        stored = json.loads(item["alert"])["notice"]
        if stored is not None and stored["id"] not in self.notices:
            notice = Notice.from_json(stored)
            self.notices[notice.id] = self.machine.now, notice
            self.machine.note(f"decided: {notice.title}")

    # -- what happens

    def _wait(self, seconds: float) -> None:
        self.machine.run(self.machine.now + seconds)

    def _act(self) -> None:
        match self.rng.choice(["end", "end", "end", "end", "flap", "pause", "acknowledge"]):
            case "end":
                self._end_run(self.rng.choice([IN_SYNC, IN_SYNC, FAILING, FAILING, CONFLICT]))
            case "flap":
                for number in range(self.rng.randint(4, 12)):
                    self._end_run(FAILING if number % 2 else IN_SYNC)
                    self._wait(self.rng.uniform(1, 300))
            case "pause":
                self.state.pause(SYNC)
                begin = self.machine.now
                self.machine.note("paused")
                self._wait(self.rng.uniform(100, 4000))
                self._end_run(self.rng.choice([IN_SYNC, FAILING]))  # one that was in progress
                self._wait(self.rng.uniform(0, 1000))
                self.pauses.append([begin, self.machine.now])
                self.state.resume(SYNC)
                self._hint()
            case "acknowledge":
                for failure in list(self.state.failures.all(SYNC)):
                    self.state.failures.acknowledge(SYNC, failure, acknowledged=True)
                self.acknowledgements.append(self.machine.now)
                self.machine.note("acknowledged")

    def _end_run(self, state: str, *codes: CodeName) -> None:
        """Begin a run that ends at once. A run that finds no failures solves those that are known."""
        run, root = self.state.begin_run(SYNC, new_run_id(lambda: self.machine.now), Trigger.MANUAL, EVERYTHING)
        if self.rng.random() < 0.5:
            self._hint()
            self._wait(self.rng.uniform(0, 5))
        known = list(self.state.failures.all(SYNC))
        counts = Counts()
        if state == FAILING:
            codes = codes or (self.rng.choice(CODES),)
            results = [Result("team/app", code, Outcome.FAILED, "a", None, 0, code, f"says {code}") for code in codes]
            self.state.failures.write(SYNC, [KnownFailure.of(each, run.id, self.machine.now) for each in results])
            counts = Counts(queued=len(codes), failed=len(codes), known=sum(not each.acknowledged for each in known))
        elif state == CONFLICT:
            counts = Counts(queued=1, conflict=1)
        if state != FAILING:
            self.state.failures.forget(SYNC, [each.key for each in known], run.id)
        self.state.end_batch(root, BatchRecord((), ()), counts)
        ended = self.state.finish_run(SYNC, run.id)
        self.machine.note(f"a run ended: {state} {', '.join(codes)}")
        assert ended is not None
        self._hint()

    def _hint(self) -> None:
        """Queue the hint of a step, which may die before that."""
        if self.rng.random() >= self.lost_hints:
            self.sqs.put(self.queue, encode(Hint(SYNC)))

    def _quiesce(self) -> None:
        """End all faults. Check that the last state is told, also that of another change."""
        self.faults.off, self.quiet_since = True, self.machine.now
        self.sqs.late = self.sqs.duplicates = 0.0
        self._wait(QUIET)
        for last in (FAILING, IN_SYNC):
            before = len(self.notices)
            self.refusals = Counter({name: self.rng.randint(0, 3) for name in ("sns", "slack", HEARTBEAT)})
            self._end_run(last, *CODES[:1])
            self._wait(QUIET)
            self._check_told(last, begun=len(self.notices) > before)
        if any(message.body == encode(Hint(SYNC)) for message in self.queue.messages):
            self.violations.append("hints follow each other without an end")

    # -- invariants

    def _check_told(self, state: str, *, begun: bool) -> None:
        decided = list(self.notices.values())
        last = decided[-1][1] if decided else None
        if last is None or last.state != state:
            self.violations.append(f"the state is {state}, but {last and last.state} was told last")
            return
        told = {each.channel for each in self.deliveries if each.key == last.id}
        if begun and told != {"sns", "slack"}:
            self.violations.append(f"{state} was told to {sorted(told)} alone")
        (run,) = self.state.runs(SYNC, 1)
        if not any(each.key == f"{run.id}/end" for each in self.deliveries):
            self.violations.append(f"the heartbeat of run {run.id} was not sent")

    def _check_deliveries(self) -> None:
        """Check that a channel got nothing twice unless a function died after it, and nothing during a pause."""
        before: dict[tuple[str, str], Delivery] = {}
        for each in self.deliveries:
            first = before.get((each.channel, each.key))
            if first is not None and not first.failed and not first.process.dead and not self._gave_up(first):
                self.violations.append(f"{each.channel} was told {each.key} twice")
            before[each.channel, each.key] = each
            for begin, end in self.pauses:
                if each.channel != HEARTBEAT and begin + TIMEOUT + 1 < each.at < end:
                    self.violations.append(f"{each.channel} was told {each.key} during a pause")

    def _gave_up(self, delivery: Delivery) -> bool:
        """Return True if a call of AWS may have failed after a delivery, so that it was not recorded."""
        return bool(self.faults.unreachable or self.faults.conflicts) and delivery.at < self.quiet_since

    def _check_notices(self) -> None:
        """Check that no cause is told twice, and no hour has more than three notices."""
        decided = list(self.notices.values())
        times = [at for at, _ in decided]
        for at, later in zip(times, times[3:], strict=False):
            if later - at < HOUR - 2 * self.skew - TIMEOUT:
                self.violations.append("four notices within an hour")
        for (at, first), (later, second) in pairwise(decided):
            acknowledged = any(at - TIMEOUT <= each <= later for each in self.acknowledgements)
            same = first.state == second.state and set(second.codes) <= set(first.codes)
            if same and not acknowledged and second.event not in (FLAPPING, REMINDER):
                self.violations.append(f"{second.state} was told twice")
            if second.event == IN_SYNC and first.state not in BAD:
                self.violations.append("a recovery follows no bad state")


# -- planted faults ----------------------------------------------------------------------------------------------------


@contextmanager
def put_alerts_without_a_condition() -> Iterator[None]:
    """Replace the record of notifications whatever its version is."""

    def wrap(old: Any) -> Any:
        def changed(self: Database, item: dict[str, Any], version: str | None) -> bool:
            del version
            current = self.get(item["pk"], item["sk"])
            return bool(old(self, item, None if current is None else str(current["version"])))

        return changed

    with replaced(Database, "replace", wrap):
        yield


@contextmanager
def ignore_the_claim() -> Iterator[None]:
    """Deliver although another function is delivering."""

    def wrap(old: Any) -> Any:
        return lambda self, sync: replace(old(self, sync), claimed=0.0)

    with replaced(Alerts, "get", wrap):
        yield


@contextmanager
def forget_the_hour() -> Iterator[None]:
    """Send more than three notifications in an hour."""
    with patch.object(notices, "MOST_AN_HOUR", 10):
        yield


@contextmanager
def drop_a_failed_channel() -> Iterator[None]:
    """Note a channel that failed as one that has the notification."""

    def wrap(old: Any) -> Any:
        def changed(self: Notifier, sync: Sync, alert: Alert, channel: str, beat: Any, _error: Any) -> Alert:
            return cast("Alert", old(self, sync, alert, channel, beat, None))

        return changed

    with replaced(Notifier, "_noted", wrap):
        yield


@contextmanager
def tell_during_a_pause() -> Iterator[None]:
    """Take a paused sync for an active one."""

    def wrap(old: Any) -> Any:
        return lambda sync, health, *more: old(sync, replace(health, paused=0.0), *more)

    with replaced(notify, "condition_of", wrap):
        yield


PLANTED_FAULTS: Final[Mapping[str, Callable[[], AbstractContextManager[None]]]] = {
    each.__name__: each
    for each in (
        put_alerts_without_a_condition,
        ignore_the_claim,
        forget_the_hour,
        drop_a_failed_channel,
        tell_during_a_pause,
    )
}


def simulate(seed: int, fault: str | None = None) -> SimulationResult:
    """Simulate a seed, with a planted fault if one is named."""
    with ExitStack() as stack:
        stack.enter_context(patch.object(secrets, "_redaction", secrets._Redaction()))
        stack.enter_context(captured_output(logged=False))
        machine = stack.enter_context(installed(Machine(seed)))
        stack.enter_context(nullcontext() if fault is None else PLANTED_FAULTS[fault]())
        return Simulation(machine, seed).run()
