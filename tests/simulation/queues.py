"""A model of SQS in memory: standard and FIFO queues, dead-letter queues and visibility timeouts.

:class:`ModelSqs` has the methods of boto3's client that Syncline calls. It follows the documentation of SQS. Messages
of standard queues are delayed, reordered and duplicated at random.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from botocore.exceptions import ClientError

from tests.simulation.expressions import ValidationError, client_error
from tests.simulation.machine import Machine

LARGEST: Final = 1024 * 1024
_DEDUPLICATED: Final = 300.0
_REFUSED: Final = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(slots=True, eq=False)
class Message:
    """A message in a queue. It is visible from ``due``. With ``duplicated``, it is delivered once more."""

    id: str
    body: str
    sent: float
    due: float
    group: str | None = None
    received: int = 0
    receipt: str = ""
    duplicated: bool = False


@dataclass(slots=True)
class Queue:
    """A queue. After ``receives`` receives, a message moves to the dead-letter queue ``dead``."""

    url: str
    visibility: float = 30.0
    receives: int = 0
    dead: Queue | None = None
    messages: list[Message] = field(default_factory=list)
    seen: dict[tuple[str, str], float] = field(default_factory=dict)

    @property
    def fifo(self) -> bool:
        return self.url.endswith(".fifo")

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]

    def visible(self, now: float) -> list[Message]:
        """Return the messages that can be received now. In a FIFO queue, that is the first of each group."""
        if not self.fifo:
            return [message for message in self.messages if message.due <= now]
        first: dict[str | None, Message] = {}
        for message in self.messages:
            first.setdefault(message.group, message)
        return [message for message in first.values() if message.due <= now]

    def next_due(self) -> float | None:
        """Return the time at which the next message becomes visible, or None without messages."""
        return min((message.due for message in self.messages), default=None)


class _Exceptions:
    ClientError = ClientError


class ModelSqs:
    """The queues of a stack. ``late`` is the maximum extra delay in seconds, ``duplicates`` the rate of duplicates."""

    exceptions = _Exceptions

    def __init__(self, machine: Machine, queues: Sequence[Queue], late: float = 0.0, duplicates: float = 0.0) -> None:
        self._machine = machine
        self.queues: Mapping[str, Queue] = {queue.url: queue for queue in queues}
        self.late = late
        self.duplicates = duplicates
        self.on_change: Callable[[Queue], None] = lambda _queue: None
        self.sent: dict[str, str] = {}
        """The body of each message ever sent, with the name of its queue."""
        self.puts = 0

    def messages(self) -> Iterator[tuple[Queue, Message]]:
        """Yield all messages with their queues."""
        for queue in self.queues.values():
            for message in queue.messages:
                yield queue, message

    # -- API calls of Syncline

    def send_message_batch(self, *, QueueUrl: str, Entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:  # noqa: N803
        queue = self.queues[QueueUrl]
        if not 1 <= len(Entries) <= 10 or len({each["Id"] for each in Entries}) != len(Entries):
            raise ValidationError(f"{len(Entries)} entries in a batch")
        if sum(len(entry["MessageBody"].encode(errors="surrogatepass")) for entry in Entries) > LARGEST:
            raise client_error("AWS.SimpleQueueService.BatchRequestTooLong", "SendMessageBatch")
        done: list[dict[str, Any]] = []
        failed: list[dict[str, Any]] = []
        for entry in Entries:
            if _REFUSED.search(entry["MessageBody"]):
                fault = {"Code": "InvalidMessageContents", "Message": "invalid characters", "SenderFault": True}
                failed.append({"Id": entry["Id"], **fault})
            else:
                done.append({"Id": entry["Id"], "MessageId": self._take(queue, entry)})
        return {"Successful": done, "Failed": failed}

    def change_message_visibility_batch(
        self,
        *,
        QueueUrl: str,  # noqa: N803
        Entries: Sequence[Mapping[str, Any]],  # noqa: N803
    ) -> dict[str, Any]:
        if not 1 <= len(Entries) <= 10:
            raise ValidationError(f"{len(Entries)} entries in a batch")
        for entry in Entries:
            self.change_message_visibility(
                QueueUrl=QueueUrl,
                ReceiptHandle=entry["ReceiptHandle"],
                VisibilityTimeout=entry["VisibilityTimeout"],
            )
        return {"Successful": [{"Id": entry["Id"]} for entry in Entries], "Failed": []}

    def change_message_visibility(self, *, QueueUrl: str, ReceiptHandle: str, VisibilityTimeout: int) -> None:  # noqa: N803
        if not 0 <= VisibilityTimeout <= 43_200:
            raise ValidationError(f"a visibility timeout of {VisibilityTimeout} s")
        for message in self.queues[QueueUrl].messages:
            if message.receipt == ReceiptHandle:
                message.due = self._machine.now + VisibilityTimeout
        self.on_change(self.queues[QueueUrl])

    def receive_message(
        self,
        *,
        QueueUrl: str,  # noqa: N803
        MaxNumberOfMessages: int,  # noqa: N803
        VisibilityTimeout: int,  # noqa: N803
        WaitTimeSeconds: int,  # noqa: N803, ARG002 - the model never waits
    ) -> dict[str, Any]:
        queue = self.queues[QueueUrl]
        found = queue.visible(self._machine.now)[:MaxNumberOfMessages]
        for message in found:
            self.receive(message, VisibilityTimeout)
        return {"Messages": [{"Body": each.body, "ReceiptHandle": each.receipt} for each in found]}

    def delete_message(self, *, QueueUrl: str, ReceiptHandle: str) -> None:  # noqa: N803
        queue = self.queues[QueueUrl]
        queue.messages = [message for message in queue.messages if message.receipt != ReceiptHandle]

    def get_queue_attributes(self, *, QueueUrl: str, AttributeNames: Sequence[str]) -> dict[str, Any]:  # noqa: N803, ARG002
        queue, now = self.queues[QueueUrl], self._machine.now
        visible = sum(message.due <= now for message in queue.messages)
        return {
            "Attributes": {
                "ApproximateNumberOfMessages": str(visible),
                "ApproximateNumberOfMessagesNotVisible": str(len(queue.messages) - visible),
            }
        }

    # -- operations inside AWS

    def receive(self, message: Message, visibility: float) -> None:
        """Mark a message as received: it becomes invisible."""
        message.received += 1
        message.receipt = f"{message.id}-{message.received}"
        message.due = self._machine.now + visibility

    def settle(self, queue: Queue, message: Message, receipt: str) -> None:
        """Delete a message that its function has handled. A duplicated one is delivered again instead."""
        if message not in queue.messages:
            return
        if message.duplicated and not queue.fifo:
            message.duplicated = False
            message.due = self._machine.now + self._machine.rng.uniform(0, 600)
        elif message.receipt == receipt or not queue.fifo:
            queue.messages.remove(message)

    def move_to_dead_letter_queue(self, queue: Queue) -> None:
        """Move messages that reached the maximum number of receives."""
        if queue.dead is None:
            return
        for message in [each for each in queue.messages if each.received >= queue.receives]:
            if message.due <= self._machine.now:
                queue.messages.remove(message)
                queue.dead.messages.append(message)
                self._machine.note(f"{message.id} moved to {queue.dead.name}")

    def put(self, queue: Queue, body: str, delay: float = 0.0, group: str | None = None) -> Message:
        """Add a message to a queue, as any sender may."""
        self.puts += 1
        self.sent.setdefault(body, queue.name)
        rng, now = self._machine.rng, self._machine.now
        late = rng.uniform(0, self.late) if self.late and rng.random() < 0.3 else 0.0
        message = Message(f"m{self.puts}", body, now, now + delay + late, group)
        message.duplicated = rng.random() < self.duplicates
        if queue.fifo:
            queue.messages.append(message)
        else:
            queue.messages.insert(rng.randrange(len(queue.messages) + 1), message)
        self.on_change(queue)
        return message

    def _take(self, queue: Queue, entry: Mapping[str, Any]) -> str:
        delay = entry.get("DelaySeconds", 0)
        if not 0 <= delay <= 900:
            raise ValidationError(f"a delay of {delay} s")
        group, identity = entry.get("MessageGroupId"), entry.get("MessageDeduplicationId")
        if group is not None and not 1 <= len(group) <= 128:
            raise ValidationError(f"a group of {len(group)} characters")
        if queue.fifo:
            if not group or not identity or "DelaySeconds" in entry:
                raise ValidationError("a FIFO queue needs a group and a deduplication ID, and takes no delay")
            now = self._machine.now
            if now - queue.seen.get((group, identity), -_DEDUPLICATED) < _DEDUPLICATED:
                return "deduplicated"
            queue.seen[group, identity] = now
        elif identity is not None:
            raise ValidationError("a standard queue takes no deduplication ID")
        return self.put(queue, entry["MessageBody"], delay, group if queue.fifo else None).id
