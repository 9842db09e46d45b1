"""A model of Lambda: event source mappings invoke functions with the messages of queues.

A function runs in a process that stays warm between events: it is frozen. It is killed at its timeout. The messages of
an invocation are invisible until their visibility timeout ends.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, cast

from aws_lambda_powertools.utilities.typing import LambdaContext

from syncline.model import Step
from syncline.steps.transfer import RESERVED_SECONDS
from syncline.steps.worker import Worker
from tests.simulation.machine import KilledError, Machine, Process
from tests.simulation.queues import Message, ModelSqs, Queue

WARM: Final = 0.9
"""Probability that an invocation reuses a warm process."""
MINIMUM_TIME: Final = 2.0
"""Minimum seconds that a function has for its work."""


@dataclass(slots=True)
class EventSourceMapping:
    """Invokes the function of a step with the messages of a queue. ``polls`` is the time of the next poll."""

    queue: Queue
    step: Step
    seconds: float
    batch_size: int
    concurrency: int
    running: int = 0
    polls: float = float("inf")


class Context:
    """The context of one invocation."""

    aws_request_id = "request"
    function_name = "function"

    def __init__(self, machine: Machine, seconds: float) -> None:
        self._machine = machine
        self.end = machine.now + seconds

    def get_remaining_time_in_millis(self) -> int:
        return round((self.end - self._machine.now) * 1000)


@dataclass(slots=True, eq=False)
class Invocation:
    """A running invocation and its messages."""

    mapping: EventSourceMapping
    messages: list[Message]
    receipts: list[str]
    over: bool = False


@dataclass(slots=True)
class Functions:
    """The functions of a stack. ``build`` builds the worker of a step in a new process.

    ``short_time`` shortens the timeouts of functions, from 0 (not) to 1 (to the minimum), so that they need
    continuations. ``failures`` collects uncaught errors.
    """

    machine: Machine
    sqs: ModelSqs
    mappings: list[EventSourceMapping]
    build: Callable[[Process, Step], Worker]
    skew: float = 0.0
    short_time: float = 0.0
    failures: list[BaseException] = field(default_factory=list)
    on_return: Callable[[], None] = lambda: None
    invocations: int = 0
    _warm: dict[Step, list[tuple[Process, Worker]]] = field(default_factory=dict)
    _processes: list[Process] = field(default_factory=list)

    def begin(self) -> None:
        """Start polling the queues."""
        self.sqs.on_change = self.schedule_poll
        for mapping in self.mappings:
            self.schedule_poll(mapping.queue)

    def schedule_poll(self, queue: Queue) -> None:
        """Schedule a poll for the time at which the next message becomes visible."""
        due = queue.next_due()
        if due is None:
            return
        for mapping in self.mappings:
            if mapping.queue is queue and mapping.running < mapping.concurrency:
                when = max(due, self.machine.now) + self.machine.rng.uniform(0.005, 0.2)
                if when < mapping.polls or mapping.polls <= self.machine.now:
                    mapping.polls = when
                    self.machine.at(when, lambda mapping=mapping, when=when: self._poll(mapping, when))  # type: ignore[misc]

    def alive(self) -> list[Process]:
        """Return the running processes."""
        return [process for process in self._processes if not process.dead and not process.frozen]

    def _poll(self, mapping: EventSourceMapping, when: float) -> None:
        if mapping.polls != when:
            return  # replaced by an earlier poll
        mapping.polls = float("inf")
        self.sqs.move_to_dead_letter_queue(mapping.queue)
        while mapping.running < mapping.concurrency:
            visible = mapping.queue.visible(self.machine.now)
            if not visible:
                break
            count = self.machine.rng.randint(1, mapping.batch_size)
            self._invoke(mapping, visible[:count])
        self.schedule_poll(mapping.queue)

    def _invoke(self, mapping: EventSourceMapping, messages: list[Message]) -> None:
        for message in messages:
            self.sqs.receive(message, mapping.queue.visibility)
        mapping.running += 1
        self.invocations += 1
        invocation = Invocation(mapping, messages, [message.receipt for message in messages])
        process, worker = self._process(mapping.step)
        self.machine.note(f"{process.name} takes {', '.join(message.id for message in messages)}")
        context = Context(self.machine, self._seconds(mapping))
        process.on_death = lambda: self._end(invocation)
        process.thaw()

        def handle() -> None:
            built = worker if worker is not None else self.build(process, mapping.step)
            try:
                answer = built.handle(_event(invocation), cast("LambdaContext", context))
            except Exception as error:  # noqa: BLE001 - Lambda reports any error
                self.failures.append(error)
                self.machine.note(f"{process.name} failed: {type(error).__name__}: {error}")
            else:
                self._settle(invocation, {str(each["itemIdentifier"]) for each in answer["batchItemFailures"]})
            if process.dead:
                raise KilledError
            self._end(invocation)
            process.freeze()
            process.on_death = lambda: None
            self._warm.setdefault(mapping.step, []).append((process, built))
            self.on_return()

        self.machine.spawn(process, f"{process.name} handler", handle)
        self.machine.at(context.end, lambda: None if invocation.over else process.kill())

    def _seconds(self, mapping: EventSourceMapping) -> float:
        """Return the timeout of an invocation: the time that a function reserves for its end, and some for work."""
        most = mapping.seconds - RESERVED_SECONDS - MINIMUM_TIME
        return RESERVED_SECONDS + MINIMUM_TIME + most * (1 - self.short_time) ** 4

    def _settle(self, invocation: Invocation, failed: set[str]) -> None:
        for message, receipt in zip(invocation.messages, invocation.receipts, strict=True):
            if message.id not in failed:
                self.sqs.settle(invocation.mapping.queue, message, receipt)

    def _end(self, invocation: Invocation) -> None:
        if not invocation.over:
            invocation.over = True
            invocation.mapping.running -= 1
            self.schedule_poll(invocation.mapping.queue)

    def _process(self, step: Step) -> tuple[Process, Worker | None]:
        warm = self._warm.setdefault(step, [])
        if warm and self.machine.rng.random() < WARM:
            return warm.pop(self.machine.rng.randrange(len(warm)))
        process = Process(self.machine, f"{step}-{len(self._processes) + 1}")
        process.skew = self.machine.rng.uniform(-self.skew, self.skew)
        self._processes.append(process)
        return process, None


def _event(invocation: Invocation) -> dict[str, Any]:
    return {"Records": [_record(invocation.mapping.queue, message) for message in invocation.messages]}


def _record(queue: Queue, message: Message) -> dict[str, Any]:
    return {
        "messageId": message.id,
        "receiptHandle": message.receipt,
        "body": message.body,
        "attributes": {
            "ApproximateReceiveCount": str(message.received),
            "SentTimestamp": str(round(message.sent * 1000)),
            "SenderId": "AIDAOFTHESIMULATION",
            "ApproximateFirstReceiveTimestamp": str(round(message.sent * 1000)),
        },
        "messageAttributes": {},
        "md5OfBody": hashlib.md5(message.body.encode(), usedforsecurity=False).hexdigest(),
        "eventSource": "aws:sqs",
        "eventSourceARN": f"arn:aws:sqs:eu-central-1:123456789012:{queue.name}",
        "awsRegion": "eu-central-1",
    }
