"""Messages on the queues; the only module that knows their bodies.

A :class:`Start` asks for a scan, and a :class:`Batch` is one step's part of a run. Work that was given up stays in the
step's dead-letter queue as a :class:`DeadLetter`, with its reason. A :class:`Hint` names a sync of which a
notification may be due. A message of another sender, such as the notification
of a bucket, is a :class:`Notification`.

Commits use a FIFO queue with one message group for each target reference, so they are carried out one after another and
in order. Such a queue cannot delay a single message: a delayed commit waits in the discover queue, whose function passes
it on.

On the other queues the message group is the sync. SQS delivers fairly among groups, so a sync with a long backlog does
not delay the messages of the others ("fair queues").
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Final, TypeVar

from syncline.errors import CodeName, SynclineError, stored_code
from syncline.model import EVERYTHING, Audit, Item, Scope, Step, Trigger, compact_json, portions

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

VERSION: Final = 1
MAX_DELAY: Final = 900
"""Limit of SQS for the delay of a message, in seconds."""
_SEND_BYTES: Final = 240_000
_SEND_ENTRIES: Final = 10
_REFUSALS: Final = ("InvalidMessageContents", "InvalidParameterValue", "BatchRequestTooLong")
"""Codes with which SQS refuses a complete request because of one of its messages."""


@dataclass(frozen=True, slots=True)
class Start:
    """A request to scan `scope` of a sync.

    `run` is the run's ID if the sender has begun the run. Otherwise the scan begins a run or, if one is in progress and
    the scope is not everything, joins it. `id` identifies that run or the scan that joins, and is the same in a message
    that is sent twice; without it the ID of the SQS message is used. `gathered` asks for a scan of the groups that events
    have named since the last one. `event` is the body of an event that is to be noted first, for this sync alone. `noted`
    is the time at which the events behind the message were noted, in Unix seconds of that function's clock. `audit` asks
    for an audit with these options, `drill` for a restore drill of this share of the items; both are also a `plan`.
    """

    sync: str
    trigger: Trigger
    scope: Scope = EVERYTHING
    run: str | None = None
    plan: bool = False
    gathered: bool = False
    event: Any = None
    id: str | None = None
    noted: float | None = None
    audit: Audit | None = None
    drill: float | None = None


@dataclass(frozen=True, slots=True)
class Hint:
    """A hint that a notification of a sync may be due."""

    sync: str


@dataclass(frozen=True, slots=True)
class Notification:
    """A message of another sender, as JSON values."""

    body: Any


@dataclass(frozen=True, slots=True)
class Batch:
    """One step's part of a run: items or, for discover, a scope and the cursor in it.

    `id` follows from the parent's ID, so the same work has the same ID if it is done twice. `attempt` counts the attempts
    of the same items from 1. `hop` counts messages from the run's start, and `idle` the latest ones without progress:
    both limit the chain. `begun` is the ID of the batch whose work is continued here, None for separate work. `scan` is
    the ID of the scan that the work came from if that has joined the run, None if it is the one that the run began with.
    `deaths` counts the functions that died with this batch before it was sent again. `audit` marks the batches of an audit.
    """

    run: str
    sync: str
    step: Step
    id: str
    items: tuple[Item, ...] = ()
    scope: Scope = EVERYTHING
    cursor: str | None = None
    attempt: int = 1
    hop: int = 0
    plan: bool = False
    idle: int = 0
    begun: str | None = None
    scan: str | None = None
    deaths: int = 0
    audit: bool = False

    def child(self, number: int, **changes: Any) -> Batch:
        """Return the `number`-th batch that follows from this one, which equals it except for `changes`."""
        digest = hashlib.blake2b(f"{self.id}/{number}".encode(), digest_size=10).hexdigest()
        begun = self.origin if changes.get("step", self.step) is self.step else None
        values: dict[str, Any] = {"id": digest, "hop": self.hop + 1, "idle": 0, "begun": begun, "deaths": 0}
        values |= changes
        return replace(self, **values)

    @property
    def origin(self) -> str:
        """The ID of the batch that the work began with: the same however often it is tried and continued."""
        return self.begun or self.id

    @property
    def group(self) -> str:
        """The group of all items."""
        return self.items[0].group


_Message = TypeVar("_Message", Start, Batch, Hint)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Work that was given up, with its reason. `item` is a group and a name; the name "*" means the complete group."""

    batch: Batch
    code: CodeName
    reason: str
    item: tuple[str, str] | None = None

    @property
    def key(self) -> tuple[str, str]:
        """The group and the name of the item; of a letter without `item`, those of its work."""
        if self.item is not None:
            return self.item
        if self.batch.items:
            return (self.batch.items[0].group, self.batch.items[0].name)
        groups = self.batch.scope.groups
        return (groups[0], "*") if groups is not None and len(groups) == 1 else ("*", "*")


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A batch to be sent to its step's queue, where it becomes visible after `delay` seconds."""

    batch: Batch
    delay: int = 0

    def to_json(self) -> list[Any]:
        return [self.delay, to_json(self.batch)]

    @classmethod
    def from_json(cls, value: list[Any]) -> Outgoing:
        batch = from_json(value[1])
        assert isinstance(batch, Batch)
        return cls(batch, value[0])


_NAMES: Final = {"event": "heard", "scope": "groups"}
"""Names in JSON of the fields that have another name there."""
_ALWAYS: Final = ("attempt", "hop")
"""Fields that are written even with their defaults, as earlier versions require them."""
_CHANGED: Final = "changed"
"""The name of the items' times in the JSON of a batch. They are beside the items, where earlier versions ignore them."""
_READERS: Final[Mapping[str, Callable[[Any], Any]]] = {
    **dict.fromkeys(("sync", "run", "id"), str),
    **dict.fromkeys(("attempt", "hop", "idle", "deaths"), int),
    "trigger": Trigger,
    "step": Step,
    "scope": Scope.of,
    "items": lambda items: tuple(map(Item.from_json, items)),
    "audit": lambda value: value if isinstance(value, bool) else Audit.from_json(value),
}
"""Functions that read the JSON values of fields, where these are not the values of the fields."""


def to_json(message: Start | Batch | DeadLetter | Hint) -> dict[str, Any]:
    """Return a message as JSON values, without those that have their defaults."""
    if isinstance(message, DeadLetter):
        body = {"v": VERSION, "type": "dead", "code": message.code, "reason": message.reason}
        body |= {"item": list(message.item)} if message.item is not None else {}
        return body | {"batch": to_json(message.batch)}
    body = {"v": VERSION, "type": type(message).__name__.lower()}
    for each in fields(message):
        value = getattr(message, each.name)
        if value != each.default or each.name in _ALWAYS:
            body[_NAMES.get(each.name, each.name)] = _json_value(value)
    if isinstance(message, Batch) and any(item.changed is not None for item in message.items):
        body[_CHANGED] = [item.changed for item in message.items]
    return body


def _json_value(value: Any) -> Any:
    match value:
        case Scope(groups):
            return groups
        case Audit():
            return value.to_json()
        case tuple():
            return [item.to_json() for item in value]
        case _:
            return value


def encode(message: Start | Batch | DeadLetter | Hint) -> str:
    """Return a message as the body of an SQS message."""
    return compact_json(to_json(message))


def from_json(body: Any) -> Start | Batch | DeadLetter | Hint | Notification:
    """Return a message. Raises MESSAGE_VERSION for another version, and MESSAGE_INVALID naming the fault."""
    if isinstance(body, dict) and "v" not in body:
        return Notification(body)
    try:
        if (version := body["v"]) != VERSION:
            code: CodeName = "MESSAGE_VERSION" if isinstance(version, int) else "MESSAGE_INVALID"
            raise SynclineError(code, f"message version {version!r}; this version of Syncline reads {VERSION}")
        match body["type"]:
            case "start":
                return _read(Start, body)
            case "hint":
                return _read(Hint, body)
            case "batch":
                read = _read(Batch, body)
                return replace(read, items=_with_times(read.items, body[_CHANGED])) if _CHANGED in body else read
            case "dead":
                batch = from_json(body["batch"])
                if not isinstance(batch, Batch) or not isinstance(body["code"], str):
                    raise SynclineError("MESSAGE_INVALID", "the dead letter has no batch or code")
                item = body.get("item")
                return DeadLetter(
                    batch, stored_code(body["code"]), str(body["reason"]), item and (str(item[0]), str(item[1]))
                )
            case other:
                raise SynclineError("MESSAGE_INVALID", f"unknown message type {other!r}")
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise SynclineError("MESSAGE_INVALID", f"{type(error).__name__}: {error}") from None


def _read(kind: type[_Message], body: dict[str, Any]) -> _Message:
    values: dict[str, Any] = {}
    for each in fields(kind):
        name = _NAMES.get(each.name, each.name)
        if each.default is MISSING or body.get(name) is not None:
            values[each.name] = _READERS[each.name](body[name]) if each.name in _READERS else body[name]
    return kind(**values)


def _with_times(items: Sequence[Item], times: Sequence[int | None]) -> tuple[Item, ...]:
    return tuple(replace(item, changed=changed) for item, changed in zip(items, times, strict=True))


def decode(body: str) -> Start | Batch | DeadLetter | Hint | Notification:
    """Return the message in the body of an SQS message; raises MESSAGE_INVALID or MESSAGE_VERSION."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise SynclineError("MESSAGE_INVALID", f"not JSON: {error}") from None
    return from_json(value)


@dataclass(frozen=True, slots=True)
class QueuedLetter:
    """A message received from a dead-letter queue: a :class:`DeadLetter`, or a message that SQS moved there."""

    step: Step
    body: str
    receipt: str

    def read(self) -> DeadLetter | Batch | Start | None:
        """Return the message, None if it is invalid or has another version."""
        try:
            message = decode(self.body)
        except SynclineError:
            return None
        return None if isinstance(message, Notification | Hint) else message


@dataclass(frozen=True, slots=True)
class Queues:
    """The queues of a stack.

    `urls` and `dead_urls` are the URLs by step of those that the function uses. `events` is the URL of the queue that
    sources notify, and `notify` that of the queue of hints.
    """

    sqs: SQSClient
    urls: Mapping[Step, str]
    dead_urls: Mapping[Step, str] = field(default_factory=dict)
    events: str | None = None
    notify: str | None = None

    def hint(self, sync: str, delay: int = 0) -> None:
        """Queue a hint that a notification of a sync may be due in `delay` seconds. Raises MESSAGE_REFUSED."""
        if self.notify is None:
            raise SynclineError("MESSAGE_INVALID", "the function has no queue of hints")
        for _, why in self._send_all(self.notify, [_Body(encode(Hint(sync)), min(delay, MAX_DELAY), sync)]):
            raise SynclineError("MESSAGE_REFUSED", f"cannot queue a hint for {sync}: {why}")

    def start(self, start: Start, delay: int = 0) -> None:
        """Queue a scan that begins in `delay` seconds. Raises MESSAGE_REFUSED."""
        refused = self._send_all(self.urls[Step.DISCOVER], [_Body(encode(start), delay, start.sync)])
        for _, why in refused:
            raise SynclineError("MESSAGE_REFUSED", f"cannot queue a scan of {start.sync}: {why}")

    def send(self, outgoing: Iterable[Outgoing]) -> list[tuple[Batch, str]]:
        """Send batches to the queues of their steps. Return those that SQS refuses permanently, with its reason.

        Raises AWS_UNAVAILABLE if SQS does not accept others after several attempts.
        """
        batches: dict[str, Batch] = {}
        by_step: dict[Step, list[_Body]] = {}
        for each in outgoing:
            batch, delay = each.batch, min(each.delay, MAX_DELAY)
            if batch.step is Step.COMMIT and not delay:
                reference = _short(f"{batch.sync}/{batch.group}")
                step, body = Step.COMMIT, _Body(encode(batch), 0, reference, batch.id)
            else:
                step = Step.DISCOVER if batch.step is Step.COMMIT else batch.step
                body = _Body(encode(batch), delay, batch.sync)
            by_step.setdefault(step, []).append(body)
            batches[body.text] = batch
        refused = [each for step, bodies in by_step.items() for each in self._send_all(self.urls[step], bodies)]
        return [(batches[body.text], why) for body, why in refused]

    def send_dead_letters(self, step: Step, bodies: Iterable[str]) -> list[tuple[str, str]]:
        """Put bodies into the step's dead-letter queue. Return those that SQS refuses permanently, with its reason."""
        ordered = step is Step.COMMIT
        letters = [_Body(body, 0, *((_short(body), _short(body)) if ordered else ())) for body in bodies]
        return [(body.text, why) for body, why in self._send_all(self.dead_urls[step], letters)]

    def _send_all(self, url: str, bodies: Sequence[_Body]) -> list[tuple[_Body, str]]:
        """Send bodies, one by one if SQS refuses several at once. Return those that it refuses, with its reason."""
        refused: list[tuple[_Body, str]] = []
        for chunk in portions(bodies, lambda body: len(body.text.encode()), _SEND_BYTES, _SEND_ENTRIES):
            try:
                refused += self._send_chunk(url, chunk)
            except self.sqs.exceptions.ClientError as error:
                if error.response.get("Error", {}).get("Code") not in _REFUSALS:
                    raise
                if len(chunk) == 1:
                    refused.append((chunk[0], str(error)))
                else:
                    refused += [each for body in chunk for each in self._send_all(url, [body])]
        return refused

    def _send_chunk(self, url: str, chunk: Sequence[_Body]) -> list[tuple[_Body, str]]:
        entries = {str(n): {"Id": str(n), **body.entry()} for n, body in enumerate(chunk)}
        refused: list[tuple[_Body, str]] = []
        for _ in range(3):
            response = self.sqs.send_message_batch(QueueUrl=url, Entries=list(entries.values()))  # type: ignore[arg-type]
            failed = response.get("Failed", [])
            faults = {each["Id"]: each for each in failed if each.get("SenderFault") and "hrottl" not in each["Code"]}
            refused += [(chunk[int(n)], f"{each['Code']}: {each.get('Message')}") for n, each in faults.items()]
            entries = {each["Id"]: entries[each["Id"]] for each in failed if each["Id"] not in faults}
            if not entries:
                return refused
        raise SynclineError(
            "AWS_UNAVAILABLE", f"SQS did not accept {len(entries)} messages: {failed[0].get('Message')}"
        )

    def set_visibility(self, queue: str, receipts: Sequence[str], seconds: float) -> None:
        """Make messages that were received from the queue of that name visible again after `seconds`.

        Raises AWS_UNAVAILABLE if SQS refuses some of them, and MESSAGE_INVALID if they are from an unknown queue, as in a
        manual invocation of a function.
        """
        seconds = max(0, min(int(seconds), 43_200))
        urls = (*self.urls.values(), self.events or "", self.notify or "")
        url = next((url for url in urls if url.rpartition("/")[2] == queue), None)
        if url is None:
            raise SynclineError("MESSAGE_INVALID", f"the function has no queue {queue!r}")
        for at in range(0, len(receipts), _SEND_ENTRIES):
            response = self.sqs.change_message_visibility_batch(
                QueueUrl=url,
                Entries=[
                    {"Id": str(n), "ReceiptHandle": receipt, "VisibilityTimeout": seconds}
                    for n, receipt in enumerate(receipts[at : at + _SEND_ENTRIES])
                ],
            )
            if failed := response.get("Failed"):
                why = failed[0].get("Message") or failed[0]["Code"]
                raise SynclineError(
                    "AWS_UNAVAILABLE", f"SQS did not change the visibility of {len(failed)} messages: {why}"
                )

    def dead_letters(self, step: Step, *, hidden_for: int = 60) -> Iterator[QueuedLetter]:
        """Receive the dead letters of a step. Each stays invisible to other readers for `hidden_for` seconds."""
        while True:
            response = self.sqs.receive_message(
                QueueUrl=self.dead_urls[step],
                MaxNumberOfMessages=10,
                VisibilityTimeout=hidden_for,
                WaitTimeSeconds=1,
            )
            if not response.get("Messages"):
                return
            for message in response["Messages"]:
                yield QueuedLetter(step, message["Body"], message["ReceiptHandle"])

    def delete_letter(self, letter: QueuedLetter) -> None:
        """Delete a dead letter."""
        self.sqs.delete_message(QueueUrl=self.dead_urls[letter.step], ReceiptHandle=letter.receipt)

    def release_letter(self, letter: QueuedLetter) -> None:
        """Make a dead letter visible again at once."""
        self.sqs.change_message_visibility(
            QueueUrl=self.dead_urls[letter.step], ReceiptHandle=letter.receipt, VisibilityTimeout=0
        )

    def count_dead_letters(self, step: Step) -> int:
        """Return the approximate number of dead letters of a step."""
        response = self.sqs.get_queue_attributes(
            QueueUrl=self.dead_urls[step],
            AttributeNames=["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"],
        )
        return sum(int(value) for value in response["Attributes"].values())


@dataclass(frozen=True, slots=True)
class QueueDepth:
    """The approximate numbers of messages in a queue, or in the dead-letter queue of ``queue``.

    SQS does not tell the age of the oldest message except through CloudWatch.
    """

    queue: str
    dead: bool
    visible: int
    in_flight: int
    delayed: int


def read_depth(sqs: SQSClient, url: str, queue: str, *, dead: bool) -> QueueDepth:
    """Return the numbers of messages in a queue."""
    response = sqs.get_queue_attributes(
        QueueUrl=url,
        AttributeNames=[
            "ApproximateNumberOfMessages",
            "ApproximateNumberOfMessagesNotVisible",
            "ApproximateNumberOfMessagesDelayed",
        ],
    )
    numbers = response["Attributes"]
    return QueueDepth(
        queue,
        dead,
        int(numbers["ApproximateNumberOfMessages"]),
        int(numbers["ApproximateNumberOfMessagesNotVisible"]),
        int(numbers["ApproximateNumberOfMessagesDelayed"]),
    )


@dataclass(frozen=True, slots=True)
class _Body:
    """A message for SendMessageBatch.

    A FIFO queue delivers the messages of a `group` in order, and accepts only the first of those with the same
    `identity`. On another queue the group is the tenant among which SQS delivers fairly.
    """

    text: str
    delay: int
    group: str | None = None
    identity: str | None = None

    def entry(self) -> dict[str, Any]:
        entry: dict[str, Any] = {"MessageBody": self.text}
        entry |= {"MessageGroupId": self.group} if self.group is not None else {}
        if self.identity is not None:
            return entry | {"MessageDeduplicationId": self.identity}
        return entry | {"DelaySeconds": self.delay}


def _short(text: str) -> str:
    """Return a digest of a text, for the limit of 128 characters in SQS."""
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).hexdigest()
