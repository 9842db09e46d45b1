"""The pump of the tests: the queues between the steps, with configurable disorder and faults in delivery.

The table is the model or moto's, and boto3 is real; the pump receives boto3's requests to SQS after botocore has
validated them. It has a separate clock, so that delays, visibility timeouts and leases pass at once, and it can kill
a step before, within and after any call that has an effect. A killed step has no further effect: its later calls fail
too, because the ``finally`` of a dead process does not run. Its messages are redelivered after their visibility
timeout.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import random
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final, cast

from aws_lambda_powertools.utilities.typing import LambdaContext
from botocore.awsrequest import AWSResponse
from botocore.compat import HTTPHeaders

from syncline.model import Step
from syncline.steps.transfer import RESERVED_SECONDS
from syncline.steps.worker import Worker
from tests.rig.grants import outside
from tests.rig.stack import EVENTS, QUEUES, dead_url, url

LARGEST_MESSAGE: Final = 1024 * 1024
_DEDUPLICATED: Final = 300.0  # seconds

# As template.yaml sets them: metrics are not written without.
os.environ.setdefault("POWERTOOLS_METRICS_NAMESPACE", "Syncline")
os.environ.setdefault("POWERTOOLS_SERVICE_NAME", "pump")


class KilledError(BaseException):
    """The step was killed. No code of Syncline may catch this."""


class KillPoint(StrEnum):
    """Position within a call with an effect at which a step is killed."""

    BEFORE = "before"
    WITHIN = "within"  # after the first bytes of a streamed body
    AFTER = "after"


class Clock:
    """Clock in Unix seconds that the pump advances."""

    def __init__(self, now: float = 1_790_000_000.0) -> None:
        self.now = now
        self._lock = threading.RLock()
        self._timers: list[_Timer] = []
        self._firing = False

    def time(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        with self._lock:
            end = self.now + seconds
            while not self._firing and (due := [each for each in self._timers if each.due <= end]):
                timer = min(due, key=lambda each: each.due)
                self.now = max(self.now, timer.due)
                timer.due += timer.seconds
                self._firing = True
                try:
                    timer.action()
                finally:
                    self._firing = False
            self.now = max(self.now, end)

    @contextmanager
    def every(self, seconds: float, action: Callable[[], None]) -> Iterator[None]:
        """Call `action` at a fixed interval in seconds of this clock while the block runs."""
        timer = _Timer(self.now + seconds, seconds, action)
        self._timers.append(timer)
        try:
            yield
        finally:
            self._timers.remove(timer)


@dataclass(slots=True, eq=False)
class _Timer:
    due: float
    seconds: float
    action: Callable[[], None]


class Reaper:
    """Counts the calls with an effect from 1, and kills the step at those in ``plan``.

    ``on_call`` is called before each call, with or without an effect, so that another function may act then.
    """

    def __init__(self) -> None:
        self.plan: set[tuple[int, KillPoint]] = set()
        self.effects: list[str] = []
        self.streamed: list[int] = []
        self.on_call: Callable[[], None] = lambda: None
        self.dead = False
        self._lock = threading.Lock()

    def check_alive(self) -> None:
        if self.dead:
            raise KilledError

    def count(self, name: str, *, streamed: bool = False) -> int:
        with self._lock:
            self.effects.append(name)
            number = len(self.effects)
            if streamed:
                self.streamed.append(number)
        return number

    def kill_if_planned(self, number: int, when: KillPoint) -> None:
        self.check_alive()
        if (number, when) in self.plan:
            self.dead = True
            raise KilledError(f"{when} effect {number}, {self.effects[number - 1]}")

    @contextmanager
    def call(self, name: str, *, effect: bool) -> Iterator[None]:
        """Wrap a call to AWS or to a registry."""
        self.check_alive()
        outside(self.on_call)
        number = self.count(name) if effect else 0
        self.kill_if_planned(number, KillPoint.BEFORE)
        yield
        self.kill_if_planned(number, KillPoint.AFTER)


@dataclass(slots=True)
class Letter:
    """A message in a queue; it is visible from ``due``."""

    id: str
    url: str
    body: str
    sent: float
    due: float
    received: int = 0
    receipt: str = ""
    copied: bool = False
    order: str | None = None  # the message group, in a FIFO queue

    @property
    def step(self) -> Step:
        """Name of the function that receives it."""
        return Step.DISCOVER if self.url == EVENTS else next(step for step in Step if url(step) == self.url)


class Mail:
    """The queues, including dead-letter queues, as SQS presents them; boto3's calls end in :meth:`answer`."""

    def __init__(self, clock: Clock) -> None:
        self.letters: list[Letter] = []
        self._clock = clock
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._seen: dict[tuple[str, str, str], float] = {}
        self.refuses: set[str] = set()
        """Operations that fail with a fault."""

    def connect(self, sqs: Any) -> None:
        """Receive a client's request to SQS, after botocore has checked and serialized it."""
        sqs.meta.events.register("before-call.sqs", self._before_call)

    def letters_in(self, queue: str) -> list[Letter]:
        return [letter for letter in self.letters if letter.url == queue]

    def dead(self) -> list[tuple[Step, Letter]]:
        return [(step, letter) for step in Step for letter in self.letters_in(dead_url(step))]

    def waiting(self) -> list[Letter]:
        """Return the messages in the steps' own queues."""
        return [letter for queue in (*map(url, Step), EVENTS) for letter in self.letters_in(queue)]

    def remove(self, letter: Letter) -> None:
        with self._lock:
            self.letters = [each for each in self.letters if each is not letter]

    def add(self, letter: Letter) -> None:
        with self._lock:
            self.letters.append(letter)

    def _before_call(self, model: Any, params: Any, **_: Any) -> tuple[AWSResponse, dict[str, Any]]:
        if model.name in self.refuses:
            fault = {"Error": {"Code": "AWS.SimpleQueueService.UnsupportedOperation", "Message": "a fault"}}
            return AWSResponse("", 400, HTTPHeaders(), None), fault
        answer = self._answer(model.name, json.loads(params["body"]))
        return AWSResponse("", 200, HTTPHeaders(), None), answer

    def _answer(self, operation: str, asked: dict[str, Any]) -> dict[str, Any]:
        match operation:
            case "SendMessage":
                return {"MessageId": self._take(asked["QueueUrl"], asked)}
            case "SendMessageBatch":
                entries = asked["Entries"]
                assert 1 <= len(entries) <= 10
                if len(entries) > 1:
                    assert sum(len(each["MessageBody"].encode(errors="replace")) for each in entries) <= LARGEST_MESSAGE
                assert len({entry["Id"] for entry in entries}) == len(entries)
                taken = [each for each in entries if _refusal(each["MessageBody"]) is None]
                done = [{"Id": e["Id"], "MessageId": self._take(asked["QueueUrl"], e)} for e in taken]
                failed = [
                    {"Id": each["Id"], "SenderFault": True, "Code": code, "Message": "not taken"}
                    for each in entries
                    if (code := _refusal(each["MessageBody"])) is not None
                ]
                return {"Successful": done, "Failed": failed}
            case "ChangeMessageVisibilityBatch":
                entries = asked["Entries"]
                assert 1 <= len(entries) <= 10
                for entry in entries:
                    assert 0 <= entry["VisibilityTimeout"] <= 43_200
                    for letter in self.letters_in(asked["QueueUrl"]):
                        if letter.receipt == entry["ReceiptHandle"]:
                            letter.due = self._clock.now + entry["VisibilityTimeout"]
                return {"Successful": [{"Id": entry["Id"]} for entry in entries], "Failed": []}
            case _:
                raise AssertionError(f"no step calls {operation}")

    def _take(self, queue: str, entry: dict[str, Any]) -> str:
        delay = entry.get("DelaySeconds", 0)
        assert 0 <= delay <= 900
        assert queue in {each(step) for step in Step for each in (url, dead_url)}
        number = f"message-{next(self._numbers):05}"
        now = self._clock.now
        group, identity = entry.get("MessageGroupId"), entry.get("MessageDeduplicationId")
        if queue.endswith(".fifo"):
            assert group, "a message to a FIFO queue has no group"
            assert identity, "a message to a FIFO queue has no deduplication ID"
            assert "DelaySeconds" not in entry, "a message to a FIFO queue has a delay"
            if now - self._seen.get((queue, group, identity), -_DEDUPLICATED) < _DEDUPLICATED:
                return number
            self._seen[queue, group, identity] = now
        else:
            assert identity is None
            assert queue.endswith("-dead") or group, "a message has no group: SQS uses the sync for fair delivery"
        order = group if queue.endswith(".fifo") else None
        self.add(Letter(number, queue, entry["MessageBody"], now, now + delay, order=order))
        return number


def _refusal(body: str) -> str | None:
    """Return the code with which SQS refuses the body of an entry, None if it accepts it."""
    if re.search("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", body):
        return "InvalidMessageContents"
    return None if len(body.encode()) <= LARGEST_MESSAGE else "InvalidParameterValue"


_SHORTER_TIME: Final = 0.1
_SHORTER_TICK: Final = 0.06


class Context:
    """A function's context. Each read of the remaining time takes ``tick`` seconds."""

    aws_request_id = "request-of-the-pump"
    function_name = "function-of-the-pump"

    def __init__(self, clock: Clock, seconds: float, tick: float = 0.0) -> None:
        self._clock = clock
        self._end = clock.now + seconds
        self._tick = tick

    def get_remaining_time_in_millis(self) -> int:
        self._clock.sleep(self._tick)
        return round((self._end - self._clock.now) * 1000)


class Duplicates(StrEnum):
    """Time at which each message is delivered again."""

    NEVER = "never"
    AT_ONCE = "at once"
    LATER = "later"
    AT_THE_END = "at the end"


@dataclass(slots=True)
class Delivery:
    """Delivery of messages: order, number of deliveries, and delay (at most ``late`` seconds)."""

    rng: random.Random
    shuffle: bool = False
    duplicates: Duplicates = Duplicates.NEVER
    late: float = 0.0
    batches: bool = False  # several messages at once, up to the event source mapping's batch size


@dataclass(slots=True)
class Pump:
    """Delivers until no message is left. ``new_worker`` makes a step's worker as in a fresh process."""

    mail: Mail
    clock: Clock
    reaper: Reaper
    new_worker: Callable[[Step], Worker]
    delivery: Delivery
    tick: float = 0.0
    delivered: list[Letter] = field(default_factory=list)
    on_delivery: Callable[[Letter], None] = lambda _letter: None
    _warm: dict[Step, Worker] = field(default_factory=dict)

    def run(self, most: int = 3000) -> None:
        """Deliver the present messages, and those that follow from them."""
        for _ in range(most):
            letters = self._next()
            if not letters:
                if self.delivery.duplicates is not Duplicates.AT_THE_END or not self._bring_back():
                    return
                continue
            self.deliver(letters)
        raise AssertionError(f"no end after {most} deliveries: {[letter.body for letter in self.mail.waiting()]}")

    def run_until(self, when: float, most: int = 3000) -> None:
        """Deliver the messages that become visible before ``when``; then set the clock to it."""
        for _ in range(most):
            if not any(letter.due < when for letter in _in_order(self.mail.waiting())):
                break
            self.deliver(self._next())
        self.clock.sleep(max(0.0, when - self.clock.now))

    def deliver(self, letters: list[Letter], worker: Worker | None = None) -> None:
        """Pass messages of one queue to its function, and handle them according to its response."""
        step, queue = letters[0].step, QUEUES[letters[0].step]
        for letter in letters:
            letter.received += 1
            letter.receipt = f"{letter.id}-{letter.received}"
            letter.due = self.clock.now + queue.visibility
            self.on_delivery(letter)
        worker = worker or self._worker(step)
        try:
            context = Context(self.clock, *self._time(queue.function_timeout))
            answer = worker.handle(_event(letters), cast("LambdaContext", context))
        except KilledError:
            self.reaper.dead = False
            self._warm.pop(step, None)
            return
        failed = {each["itemIdentifier"] for each in answer["batchItemFailures"]}
        for letter in letters:
            if letter.id not in failed:
                self.mail.remove(letter)
                self._was_delivered(letter)

    def _time(self, seconds: float) -> tuple[float, float]:
        """Return a function's time and the time that one read of the clock takes.

        With a tick, both are shorter: a function reads the clock as often as before, and one read takes less than the
        time that requests have after the end of their step.
        """
        return (
            (seconds, 0.0)
            if not self.tick
            else (RESERVED_SECONDS + (seconds - RESERVED_SECONDS) * _SHORTER_TIME, self.tick * _SHORTER_TICK)
        )

    def _worker(self, step: Step) -> Worker:
        if step not in self._warm:
            self._warm[step] = self.new_worker(step)
        return self._warm[step]

    def _next(self) -> list[Letter]:
        """Return the next delivery, after moving messages with too many receives to the dead-letter queue."""
        for letter in self.mail.waiting():
            if letter.received >= QUEUES[letter.step].receives:
                self.mail.remove(letter)
                self.mail.add(replace(letter, url=dead_url(letter.step)))
        waiting = self.mail.waiting()
        if not waiting:
            return []
        self.clock.sleep(max(0.0, min(letter.due for letter in _in_order(waiting)) - self.clock.now))
        seen = [letter for letter in _in_order(waiting) if letter.due <= self.clock.now]
        if self.delivery.shuffle:
            self.delivery.rng.shuffle(seen)
        first = seen[0]
        if self.delivery.late and not first.received:
            self.clock.sleep(self.delivery.rng.uniform(0, self.delivery.late))
        together = [letter for letter in seen if letter.url == first.url]
        most = QUEUES[first.step].batch_size if self.delivery.batches else 1
        return together[: self.delivery.rng.randint(1, most)]

    def _was_delivered(self, letter: Letter) -> None:
        if letter.copied:
            return
        self.delivered.append(letter)
        if self.delivery.duplicates is Duplicates.AT_ONCE:
            self.mail.letters.insert(0, self._copy(letter, 0.0))
        elif self.delivery.duplicates is Duplicates.LATER:
            self.mail.add(self._copy(letter, self.delivery.rng.uniform(0, 600)))

    def _copy(self, letter: Letter, delay: float) -> Letter:
        return replace(letter, due=self.clock.now + delay, copied=True)

    def _bring_back(self) -> bool:
        """Queue every message once more after the end; return True if there are any."""
        letters, self.delivered = self.delivered, []
        for letter in letters:
            self.mail.add(self._copy(letter, 0.0))
        return bool(letters)


def _in_order(letters: list[Letter]) -> list[Letter]:
    """Return the messages without those that follow an earlier one of their FIFO group."""
    first: dict[str, str] = {}
    return [letter for letter in letters if not letter.order or first.setdefault(letter.order, letter.id) == letter.id]


def _event(letters: list[Letter]) -> dict[str, Any]:
    """Return the event that an event source mapping passes to its function."""
    return {"Records": [_record(letter) for letter in letters]}


def _record(letter: Letter) -> dict[str, Any]:
    attributes: Mapping[str, str] = {
        "ApproximateReceiveCount": str(letter.received),
        "SentTimestamp": str(round(letter.sent * 1000)),
        "SenderId": "AIDAOFTHETESTS",
        "ApproximateFirstReceiveTimestamp": str(round(letter.sent * 1000)),
    }
    return {
        "messageId": letter.id,
        "receiptHandle": letter.receipt,
        "body": letter.body,
        "attributes": attributes,
        "messageAttributes": {},
        "md5OfBody": hashlib.md5(letter.body.encode(), usedforsecurity=False).hexdigest(),
        "eventSource": "aws:sqs",
        "eventSourceARN": f"arn:aws:sqs:eu-central-1:123456789012:{letter.url.rpartition('/')[2]}",
        "awsRegion": "eu-central-1",
    }
