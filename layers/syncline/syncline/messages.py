"""What travels on the queues; the only room that knows message bodies.

Two things travel: a :class:`Start` asks for a look, a :class:`Batch` is one step's share of a run. What could not be
done lies in the step's dead-letter queue as a :class:`Dead`, with its reason. What others send, such as a bucket's
notifications, is a :class:`Notice`.

Commits travel on a FIFO queue, one message group for each target reference, so they come one after another and in
order. Such a queue delays no single message: what is to wait does so on the discover queue, which passes it on.

On the other queues the message group is the sync. SQS delivers fairly among groups, so a sync with a long backlog does not
delay the messages of the others ("fair queues").
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from syncline.errors import CodeName, SynclineError, stored_code
from syncline.model import EVERYTHING, Item, Scope, Step, Trigger, compact_json

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

VERSION: Final = 1
MAX_DELAY: Final = 900
"""The longest delay SQS takes for a message, in seconds."""
LARGEST_MESSAGE: Final = 1_000_000
"""Bytes of a message at most: SQS takes 1 MiB."""
_SEND_BYTES: Final = 240_000
_SEND_ENTRIES: Final = 10
_REFUSALS: Final = ("InvalidMessageContents", "InvalidParameterValue", "BatchRequestTooLong")
"""Codes with which SQS refuses a whole request for what one of its messages is."""


@dataclass(frozen=True, slots=True)
class Start:
    """Asks for a scan of `scope` of a sync.

    `run` is the run's ID if the sender has begun the run. Otherwise the scan begins a run or, if one is in progress and
    the scope is not everything, joins it. `id` names that run or the scan that joins: a message that was sent twice has
    the same. Without it the message's own ID names it. `gathered` asks for a scan of what events have named since the
    last one; `heard` is the body of an event that is to be noted before, for this sync alone. `noted` is when the events
    that led to the message were noted, in Unix seconds of the function that did.
    """

    sync: str
    trigger: Trigger
    scope: Scope = EVERYTHING
    run: str | None = None
    plan: bool = False
    gathered: bool = False
    heard: Any = None
    id: str | None = None
    noted: float | None = None


@dataclass(frozen=True, slots=True)
class Notice:
    """What somebody else put into a queue, as JSON."""

    body: Any


@dataclass(frozen=True, slots=True)
class Batch:
    """One step's share of a run: items, or for discover a scope and where in it to go on.

    ``id`` follows from the parent's id, so that the same work done twice has the same id twice. ``attempt`` counts
    tries of the same items from 1; ``hop`` counts messages from the run's start, and ``idle`` those just before this
    one that got no further: both bound the chain. ``begun`` is the id of the batch whose work is carried on here, None
    for work of its own. ``scan`` is the ID of the scan that the work came from if that has joined the run, None if it is
    the one that the run began with. ``deaths`` counts the functions that died with this batch before it was sent anew.
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

    def child(self, number: int, **changes: Any) -> Batch:
        """The ``number``-th batch that follows from this one, equal to it but for ``changes``."""
        digest = hashlib.blake2b(f"{self.id}/{number}".encode(), digest_size=10).hexdigest()
        begun = self.origin if changes.get("step", self.step) is self.step else None
        values: dict[str, Any] = {"id": digest, "hop": self.hop + 1, "idle": 0, "begun": begun, "deaths": 0}
        values |= changes
        return replace(self, **values)

    @property
    def origin(self) -> str:
        """The id of the batch that the work began with: the same however often it is tried and continued."""
        return self.begun or self.id

    @property
    def group(self) -> str:
        """The target reference all items belong to."""
        return self.items[0].group


@dataclass(frozen=True, slots=True)
class Dead:
    """Work given up, with its reason. ``item`` is the item's group and name; "*" for a name stands for a whole group."""

    batch: Batch
    code: CodeName
    reason: str
    item: tuple[str, str] | None = None

    @property
    def key(self) -> tuple[str, str]:
        """The group and the name of the item; of a letter without one, those that its work stands for."""
        if self.item is not None:
            return self.item
        if self.batch.items:
            return (self.batch.items[0].group, self.batch.items[0].name)
        groups = self.batch.scope.groups
        return (groups[0], "*") if groups is not None and len(groups) == 1 else ("*", "*")


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A batch on its way to its step's queue, not to be seen there before ``delay`` seconds have passed."""

    batch: Batch
    delay: int = 0

    def to_json(self) -> list[Any]:
        return [self.delay, to_json(self.batch)]

    @classmethod
    def from_json(cls, value: list[Any]) -> Outgoing:
        batch = from_json(value[1])
        assert isinstance(batch, Batch)
        return cls(batch, value[0])


def to_json(message: Start | Batch | Dead) -> dict[str, Any]:
    """The message as JSON values; what has its default is left out."""
    match message:
        case Start():
            body: dict[str, Any] = {"v": VERSION, "type": "start", "sync": message.sync}
            body["trigger"] = message.trigger.value
            body |= {"run": message.run} if message.run else {}
            body |= {"gathered": True} if message.gathered else {}
            body |= {"heard": message.heard} if message.heard is not None else {}
            body |= {"id": message.id} if message.id is not None else {}
            body |= {"noted": message.noted} if message.noted is not None else {}
        case Batch():
            body = {"v": VERSION, "type": "batch", "run": message.run, "sync": message.sync}
            body |= {"step": message.step.value, "id": message.id, "attempt": message.attempt, "hop": message.hop}
            body |= {"idle": message.idle} if message.idle else {}
            body |= {"begun": message.begun} if message.begun is not None else {}
            body |= {"scan": message.scan} if message.scan is not None else {}
            body |= {"deaths": message.deaths} if message.deaths else {}
            body |= {"cursor": message.cursor} if message.cursor is not None else {}
            body |= {"items": [item.to_json() for item in message.items]} if message.items else {}
        case Dead():
            dead = {"v": VERSION, "type": "dead", "code": message.code, "reason": message.reason}
            dead |= {"item": list(message.item)} if message.item is not None else {}
            return dead | {"batch": to_json(message.batch)}
    body |= {"groups": list(message.scope.groups)} if message.scope.groups is not None else {}
    body |= {"plan": True} if message.plan else {}
    return body


def encode(message: Start | Batch | Dead) -> str:
    """The message as the body of a queue's message."""
    return compact_json(to_json(message))


def from_json(body: Any) -> Start | Batch | Dead | Notice:
    """Read a message. Raises MESSAGE_VERSION for another version's, and MESSAGE_INVALID naming what is wrong."""
    if isinstance(body, dict) and "v" not in body:
        return Notice(body)
    try:
        version = body["v"]
        if isinstance(version, int) and version != VERSION:
            raise SynclineError("MESSAGE_VERSION", f"a message of version {version}; this Syncline reads {VERSION}")
        if version != VERSION:
            raise SynclineError("MESSAGE_INVALID", f"message version {version!r}, this Syncline reads {VERSION}")
        match body["type"]:
            case "start":
                return Start(
                    str(body["sync"]),
                    Trigger(body["trigger"]),
                    Scope.of(body.get("groups")),
                    body.get("run"),
                    body.get("plan", False),
                    body.get("gathered", False),
                    body.get("heard"),
                    body.get("id"),
                    body.get("noted"),
                )
            case "batch":
                return Batch(
                    run=str(body["run"]),
                    sync=str(body["sync"]),
                    step=Step(body["step"]),
                    id=str(body["id"]),
                    items=tuple(Item.from_json(item) for item in body.get("items", ())),
                    scope=Scope.of(body.get("groups")),
                    cursor=body.get("cursor"),
                    attempt=int(body["attempt"]),
                    hop=int(body["hop"]),
                    plan=body.get("plan", False),
                    idle=int(body.get("idle", 0)),
                    begun=body.get("begun"),
                    scan=body.get("scan"),
                    deaths=int(body.get("deaths", 0)),
                )
            case "dead":
                batch = from_json(body["batch"])
                if not isinstance(batch, Batch) or not isinstance(body["code"], str):
                    raise SynclineError("MESSAGE_INVALID", "a dead letter without a batch or code")
                item = body.get("item")
                return Dead(
                    batch, stored_code(body["code"]), str(body["reason"]), item and (str(item[0]), str(item[1]))
                )
            case other:
                raise SynclineError("MESSAGE_INVALID", f"unknown message type {other!r}")
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise SynclineError("MESSAGE_INVALID", f"{type(error).__name__}: {error}") from None


def decode(body: str) -> Start | Batch | Dead | Notice:
    """Read the body of a queue's message; raises MESSAGE_INVALID or MESSAGE_VERSION."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise SynclineError("MESSAGE_INVALID", f"not JSON: {error}") from None
    return from_json(value)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message found in a dead-letter queue: readable as ``dead``, or (SQS moved it there) as the original."""

    step: Step
    body: str
    receipt: str

    def read(self) -> Dead | Batch | Start | None:
        """Return the message, None if it is nobody's, or another version's."""
        try:
            message = decode(self.body)
        except SynclineError:
            return None
        return None if isinstance(message, Notice) else message


@dataclass(frozen=True, slots=True)
class Queues:
    """The queues of a stack. ``urls`` and ``dead_urls`` hold queue URLs by step; a step may lack those it never uses.

    ``events`` is the URL of the queue that sources notify.
    """

    sqs: SQSClient
    urls: Mapping[Step, str]
    dead_urls: Mapping[Step, str] = field(default_factory=dict)
    events: str | None = None

    def start(self, start: Start, delay: int = 0) -> None:
        """Ask for a scan, in `delay` seconds. Raises MESSAGE_REFUSED."""
        refused = self._send_all(self.urls[Step.DISCOVER], [_Body(encode(start), delay, start.sync)])
        for _, why in refused:
            raise SynclineError("MESSAGE_REFUSED", f"cannot queue a scan of {start.sync}: {why}")

    def send(self, outgoing: Iterable[Outgoing]) -> list[tuple[Batch, str]]:
        """Send batches to their steps' queues. Return those that SQS refuses for good, with its reason.

        Raises AWS_UNAVAILABLE if SQS does not take others after several tries.
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

    def bury(self, step: Step, bodies: Iterable[str]) -> list[tuple[str, str]]:
        """Put bodies into the step's dead-letter queue. Return those that SQS refuses for good, with its reason."""
        ordered = step is Step.COMMIT
        letters = [_Body(body, 0, *((_short(body), _short(body)) if ordered else ())) for body in bodies]
        return [(body.text, why) for body, why in self._send_all(self.dead_urls[step], letters)]

    def _send_all(self, url: str, bodies: Sequence[_Body]) -> list[tuple[_Body, str]]:
        """Send bodies, each by itself where SQS refuses several at once. Return what it refuses, with its reason."""
        refused: list[tuple[_Body, str]] = []
        for chunk in _chunks(bodies):
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
            answer = self.sqs.send_message_batch(QueueUrl=url, Entries=list(entries.values()))  # type: ignore[arg-type]
            failed = answer.get("Failed", [])
            faults = {each["Id"]: each for each in failed if each.get("SenderFault") and "hrottl" not in each["Code"]}
            refused += [(chunk[int(n)], f"{each['Code']}: {each.get('Message')}") for n, each in faults.items()]
            entries = {each["Id"]: entries[each["Id"]] for each in failed if each["Id"] not in faults}
            if not entries:
                return refused
        raise SynclineError("AWS_UNAVAILABLE", f"SQS did not take {len(entries)} messages: {failed[0].get('Message')}")

    def show_again(self, queue: str, receipts: Sequence[str], seconds: float) -> None:
        """Let messages that were received from a queue, by its name, be seen again after `seconds`.

        Raise AWS_UNAVAILABLE if SQS refuses some of them, and MESSAGE_INVALID if they are from another queue, as those
        that somebody invokes a function with.
        """
        seconds = max(0, min(int(seconds), 43_200))
        urls = (*self.urls.values(), self.events or "")
        url = next((url for url in urls if url.rpartition("/")[2] == queue), None)
        if url is None:
            raise SynclineError("MESSAGE_INVALID", f"the function has no queue {queue!r}")
        for at in range(0, len(receipts), _SEND_ENTRIES):
            answer = self.sqs.change_message_visibility_batch(
                QueueUrl=url,
                Entries=[
                    {"Id": str(n), "ReceiptHandle": receipt, "VisibilityTimeout": seconds}
                    for n, receipt in enumerate(receipts[at : at + _SEND_ENTRIES])
                ],
            )
            if failed := answer.get("Failed"):
                why = failed[0].get("Message") or failed[0]["Code"]
                raise SynclineError(
                    "AWS_UNAVAILABLE", f"SQS did not change when {len(failed)} messages are seen: {why}"
                )

    def dead_letters(self, step: Step, *, hidden_for: int = 60) -> Iterator[DeadLetter]:
        """What lies in a step's dead-letter queue now. Each letter stays unseen by others for ``hidden_for`` seconds."""
        while True:
            answer = self.sqs.receive_message(
                QueueUrl=self.dead_urls[step],
                MaxNumberOfMessages=10,
                VisibilityTimeout=hidden_for,
                WaitTimeSeconds=1,
            )
            if not answer.get("Messages"):
                return
            for message in answer["Messages"]:
                yield DeadLetter(step, message["Body"], message["ReceiptHandle"])

    def forget(self, letter: DeadLetter) -> None:
        """Delete a dead letter."""
        self.sqs.delete_message(QueueUrl=self.dead_urls[letter.step], ReceiptHandle=letter.receipt)

    def put_back(self, letter: DeadLetter) -> None:
        """Let a dead letter be seen again at once."""
        self.sqs.change_message_visibility(
            QueueUrl=self.dead_urls[letter.step], ReceiptHandle=letter.receipt, VisibilityTimeout=0
        )

    def dead_count(self, step: Step) -> int:
        """About how many letters lie in a step's dead-letter queue."""
        answer = self.sqs.get_queue_attributes(
            QueueUrl=self.dead_urls[step],
            AttributeNames=["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"],
        )
        return sum(int(value) for value in answer["Attributes"].values())


@dataclass(frozen=True, slots=True)
class _Body:
    """A message as SendMessageBatch takes it.

    Messages of a `group` come in order on a FIFO queue, which takes only the first of those with one `identity`. On
    another queue the group is the tenant among whom SQS delivers fairly.
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
    """What stands for a text where SQS takes 128 characters."""
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).hexdigest()


def _chunks(bodies: Sequence[_Body]) -> Iterator[list[_Body]]:
    """Bodies in portions that one SendMessageBatch takes: ten at most, and within its size."""
    chunk: list[_Body] = []
    size = 0
    for body in bodies:
        length = len(body.text.encode())
        if chunk and (len(chunk) == _SEND_ENTRIES or size + length > _SEND_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(body)
        size += length
    if chunk:
        yield chunk
