from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st
from moto import mock_aws

from syncline.errors import CODES, SynclineError, stored_code
from syncline.messages import (
    Batch,
    DeadLetter,
    Notification,
    Outgoing,
    QueuedLetter,
    Queues,
    Start,
    decode,
    encode,
    from_json,
    to_json,
)
from syncline.model import EVERYTHING, Item, Scope, Step, Trigger
from tests.rig.pump import LARGEST_MESSAGE

# With lone surrogates, which JSON can carry. JSON joins a high and a low one to one character.
ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=20).map(
    lambda text: str(json.loads(json.dumps(text)))
)
TEXT = ANY_TEXT | st.sampled_from(["a\uffff", "\ufffe", "\x00\x07", "\ud800", "\U0010ffff", "\x7f\x85"])
REFUSED_BY_SQS = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
PLAIN_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
ITEMS = st.builds(
    Item,
    TEXT,
    TEXT,
    st.none() | TEXT,
    st.none() | TEXT,
    st.none() | st.integers(0),
    st.dictionaries(TEXT, PLAIN_JSON, max_size=3),
    st.none() | st.integers(0, 2**40),
)
SCOPES = st.none() | st.lists(TEXT, max_size=3)
BATCHES = st.builds(
    Batch,
    TEXT,
    TEXT,
    st.sampled_from(Step),
    TEXT,
    st.lists(ITEMS, max_size=3).map(tuple),
    SCOPES.map(Scope.of),
    st.none() | TEXT,
    st.integers(1, 9),
    st.integers(0, 9),
    st.booleans(),
    st.integers(0, 9),
    st.none() | TEXT,
    st.none() | TEXT,
    st.integers(0, 9),
)
RUN_IDS = st.none() | st.text(min_size=1, max_size=20)
EVENTS = st.none() | st.dictionaries(TEXT, PLAIN_JSON, max_size=3)
STARTS = st.builds(
    Start,
    TEXT,
    st.sampled_from(Trigger),
    SCOPES.map(Scope.of),
    RUN_IDS,
    st.booleans(),
    st.booleans(),
    EVENTS,
    st.none() | TEXT,
    st.none() | st.floats(0, 2e9),
)
DEAD = st.builds(DeadLetter, BATCHES, st.sampled_from(sorted(CODES)), TEXT, st.none() | st.tuples(TEXT, TEXT))


@given(BATCHES | STARTS | DEAD)
def test_a_decoded_message_equals_the_encoded_one(message: Batch | Start | DeadLetter) -> None:
    body = encode(message)
    assert decode(body) == message
    assert not REFUSED_BY_SQS.search(body)
    assert body.encode()


@given(BATCHES, st.integers(0, 900))
def test_a_following_batch_is_stored_unchanged(batch: Batch, delay: int) -> None:
    outgoing = Outgoing(batch, delay)
    assert Outgoing.from_json(json.loads(json.dumps(outgoing.to_json()))) == outgoing


@given(JSON)
def test_any_value_is_a_message_or_refused(value: Any) -> None:
    try:
        decode(json.dumps(value))
    except SynclineError as error:
        assert error.code.name in ("MESSAGE_INVALID", "MESSAGE_VERSION")  # noqa: PT017 - it may also be valid


@given(BATCHES | STARTS | DEAD, st.data())
def test_a_message_with_one_changed_field_is_valid_or_refused(
    message: Batch | Start | DeadLetter, data: st.DataObject
) -> None:
    body = to_json(message)
    body[data.draw(st.sampled_from(sorted(body)))] = data.draw(JSON)
    try:
        from_json(body)
    except SynclineError as error:
        assert error.code.name in ("MESSAGE_INVALID", "MESSAGE_VERSION")  # noqa: PT017 - it may also be valid


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("no json", "not JSON"),
        ('{"v": "1", "type": "start"}', "message version '1'; this version of Syncline reads 1"),
        ("[" * 100_000, "not JSON"),
        ("[]", "TypeError"),
        ('{"v": 1, "type": "what"}', "'what'"),
        ('{"v": 1, "type": "start", "sync": "a"}', "trigger"),
        ('{"v": 1, "type": "start", "sync": "a", "trigger": "magic"}', "magic"),
        (
            '{"v": 1, "type": "batch", "run": "r", "sync": "s", "step": "transfer", "id": "i", "attempt": 1e999}',
            "infin",
        ),
        ('{"v": 1, "type": "dead", "batch": {"v": 1, "type": "start", "sync": "a", "trigger": "hand"}}', "dead letter"),
    ],
)
def test_an_error_names_the_fault(body: str, reason: str) -> None:
    with pytest.raises(SynclineError, match=reason) as error:
        decode(body)
    assert error.value.code.name == "MESSAGE_INVALID"


def test_a_dead_letter_with_an_incomplete_item_is_invalid() -> None:
    batch = {"v": 1, "type": "batch", "run": "r", "sync": "s", "step": "transfer", "id": "i", "attempt": 1, "hop": 0}
    letter = {"v": 1, "type": "dead", "batch": batch, "code": "FORBIDDEN", "reason": "no", "item": ["team/app"]}
    with pytest.raises(SynclineError, match="MESSAGE_INVALID"):
        from_json(letter)


def test_a_dead_letter_with_a_code_of_another_version_is_read() -> None:
    letter = DeadLetter(Batch("r", "s", Step.VERIFY, "b"), stored_code("OF_LATER"), "no")
    assert decode(encode(letter)) == letter


def test_deeply_nested_dead_letters_are_invalid() -> None:
    body: Any = None
    for _ in range(3000):
        body = {"v": 1, "type": "dead", "batch": body}
    with pytest.raises(SynclineError, match="MESSAGE_INVALID"):
        from_json(body)


def test_default_values_are_not_encoded() -> None:
    assert encode(Start("a", Trigger.MANUAL)) == '{"v":1,"type":"start","sync":"a","trigger":"hand"}'
    assert "groups" not in encode(Batch("r", "s", Step.VERIFY, "b"))


def test_the_id_of_a_child_is_derived_from_its_parent() -> None:
    batch = Batch("r", "s", Step.DISCOVER, "root", scope=Scope.of(["a"]), hop=3)
    first, second = batch.child(0, step=Step.TRANSFER), batch.child(1)
    assert first == batch.child(0, step=Step.TRANSFER)
    assert len({batch.id, first.id, second.id, first.child(0).id}) == 4
    assert (first.hop, first.scope, first.step) == (4, batch.scope, Step.TRANSFER)
    assert batch.child(0, hop=3).hop == 3


def test_ids_of_children_are_the_same_in_every_version() -> None:
    """Otherwise, a batch that is delivered again after an update would queue its children twice."""
    digest = hashlib.blake2b(b"root/2", digest_size=10).hexdigest()
    assert Batch("r", "s", Step.DISCOVER, "root").child(2).id == digest


def test_a_child_of_the_same_step_continues_the_work_of_its_parent() -> None:
    batch = Batch("r", "s", Step.TRANSFER, "root", idle=4, deaths=2, scan="j")
    child = batch.child(0)
    assert (child.begun, child.idle, child.deaths, child.scan) == ("root", 0, 0, "j")
    assert child.child(0).origin == child.origin == batch.origin == "root"
    assert batch.child(1, idle=5).idle == 5
    verify = child.child(0, step=Step.VERIFY)
    assert (verify.begun, verify.origin) == (None, verify.id)


@pytest.mark.parametrize(
    ("items", "groups", "item", "key"),
    [
        ((Item("g", "a"), Item("g", "b")), ["s"], ("h", "c"), ("h", "c")),
        ((Item("g", "a"), Item("g", "b")), ["s"], None, ("g", "a")),
        ((), ["s"], None, ("s", "*")),
        ((), ["s", "t"], None, ("*", "*")),
        ((), [], None, ("*", "*")),
        ((), None, None, ("*", "*")),
    ],
)
def test_a_dead_letter_has_the_key_of_its_item_or_of_its_batch(
    items: tuple[Item, ...], groups: list[str] | None, item: tuple[str, str] | None, key: tuple[str, str]
) -> None:
    batch = Batch("r", "s", Step.VERIFY, "b", items, Scope.of(groups))
    assert DeadLetter(batch, "INTERNAL", "why", item).key == key


def test_a_message_without_newer_fields_is_read() -> None:
    body = {"v": 1, "type": "batch", "run": "r", "sync": "s", "step": "verify", "id": "i", "attempt": 2, "hop": 3}
    assert from_json(body) == Batch("r", "s", Step.VERIFY, "i", attempt=2, hop=3)


def test_json_without_a_version_is_a_notification() -> None:
    assert decode('{"Records": []}') == Notification({"Records": []})
    assert QueuedLetter(Step.DISCOVER, '{"Records": []}', "r").read() is None


class Exceptions:
    """Exceptions of a boto3 client."""

    ClientError = ClientError


class Sqs:
    """A fake SQS that refuses messages 1 and 3 of a request, `failures` times."""

    exceptions = Exceptions

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.sent: list[tuple[str, dict[str, Any]]] = []
        self.calls: list[int] = []

    def send_message_batch(self, *, QueueUrl: str, Entries: list[dict[str, Any]]) -> dict[str, Any]:  # noqa: N803
        self.calls.append(len(Entries))
        assert len(Entries) <= 10
        assert sum(len(entry["MessageBody"].encode()) for entry in Entries) <= LARGEST_MESSAGE
        failed = []
        for entry in Entries:
            if self.failures and entry["Id"] in "13":
                self.failures -= 1
                failed.append({"Id": entry["Id"], "Message": "not now"})
            else:
                self.sent.append((QueueUrl, entry))
        return {"Failed": failed}


def queues(sqs: Sqs) -> Queues:
    return Queues(sqs, {step: step.value for step in Step}, {step: f"{step}-dead" for step in Step})  # type: ignore[arg-type]


def batches(count: int, size: int = 10) -> list[Outgoing]:
    item = Item("g" * size, "t")
    return [Outgoing(Batch("r", "s", Step.TRANSFER, f"b{number}", (item,)), number) for number in range(count)]


def test_messages_are_sent_in_tens_to_the_queues_of_their_steps() -> None:
    sqs = Sqs()
    verify = Outgoing(Batch("r", "s", Step.VERIFY, "v"))
    queues(sqs).send([verify, *batches(23)])
    assert sqs.calls == [1, 10, 10, 3]
    assert [url for url, _ in sqs.sent] == ["verify"] + ["transfer"] * 23
    assert [entry["DelaySeconds"] for _, entry in sqs.sent] == [0, *range(23)]


def test_each_message_of_a_standard_queue_names_its_sync_as_the_tenant() -> None:
    """SQS delivers fairly among message groups, so a sync with a backlog does not delay the others."""
    sqs = Sqs()
    queues(sqs).start(Start("images", Trigger.WEBHOOK))
    commit = Batch("r", "backups", Step.COMMIT, "c", (Item("main", "a"),))
    queues(sqs).send([*batches(2), Outgoing(commit, 5), Outgoing(commit)])
    groups = [(url, entry.get("MessageGroupId"), "MessageDeduplicationId" in entry) for url, entry in sqs.sent]
    assert groups[:4] == [
        ("discover", "images", False),
        ("transfer", "s", False),
        ("transfer", "s", False),
        ("discover", "backups", False),
    ]
    url, branch, has_identity = groups[4]
    assert (url, has_identity) == ("commit", True)
    assert branch not in (None, "backups"), "one writer for each branch"


def test_without_messages_sqs_is_not_called() -> None:
    sqs = Sqs()
    queues(sqs).send([])
    queues(sqs).send_dead_letters(Step.VERIFY, [])
    assert sqs.calls == []


def test_large_messages_are_sent_in_smaller_requests() -> None:
    sqs = Sqs()
    queues(sqs).send(batches(9, 100_000))
    assert sqs.calls == [2, 2, 2, 2, 1]


def test_delays_are_limited_to_the_maximum_of_sqs() -> None:
    sqs = Sqs()
    queues(sqs).send([Outgoing(Batch("r", "s", Step.TRANSFER, "b"), 5000)])
    assert sqs.sent[0][1]["DelaySeconds"] == 900


def test_messages_that_sqs_did_not_accept_are_sent_again() -> None:
    sqs = Sqs(failures=4)
    queues(sqs).send(batches(5))
    assert sqs.calls == [5, 2, 2]
    assert sorted(json.loads(entry["MessageBody"])["id"] for _, entry in sqs.sent) == [f"b{n}" for n in range(5)]


def test_messages_that_sqs_never_accepts_raise_an_error() -> None:
    with pytest.raises(SynclineError, match=r"AWS_UNAVAILABLE.*not now"):
        queues(Sqs(failures=100)).send(batches(5))


def test_dead_letters_are_read_released_and_deleted() -> None:
    with mock_aws():
        sqs = boto3.client("sqs")
        urls = {step: sqs.create_queue(QueueName=f"{step}")["QueueUrl"] for step in Step}
        dead_urls = {step: sqs.create_queue(QueueName=f"{step}-dead")["QueueUrl"] for step in Step}
        made = Queues(sqs, urls, dead_urls)
        dead = DeadLetter(Batch("r", "s", Step.TRANSFER, "b"), "INTERNAL", "why")
        made.send_dead_letters(Step.TRANSFER, [encode(dead), "nobody's"])
        assert made.count_dead_letters(Step.TRANSFER) == 2
        letters = {letter.body: letter for letter in made.dead_letters(Step.TRANSFER)}
        assert letters[encode(dead)].read() == dead
        assert letters["nobody's"].read() is None
        assert made.count_dead_letters(Step.TRANSFER) == 2
        made.delete_letter(letters["nobody's"])
        made.release_letter(letters[encode(dead)])
        (left,) = made.dead_letters(Step.TRANSFER)
        assert left.body == encode(dead)
        assert made.count_dead_letters(Step.VERIFY) == 0


def test_a_message_that_sqs_moved_to_the_dead_letter_queue_is_read() -> None:
    start = Start("a", Trigger.SCHEDULE, EVERYTHING)
    assert QueuedLetter(Step.DISCOVER, encode(start), "r").read() == start


@pytest.mark.parametrize("body", ['{"v": 7, "type": "start"}', '{"v": 0}', '{"v": 2, "type": "new"}'])
def test_a_message_of_another_version_is_not_invalid(body: str) -> None:
    with pytest.raises(SynclineError, match="version") as error:
        decode(body)
    assert (error.value.code.name, error.value.retried) == ("MESSAGE_VERSION", True)
    assert str(json.loads(body)["v"]) in str(error.value)


def test_the_visibility_of_messages_of_an_unknown_queue_cannot_be_set() -> None:
    """``sam local invoke`` sends such messages: the queue of the event does not exist."""
    with pytest.raises(SynclineError, match="the function has no queue 'another'") as caught:
        queues(Sqs()).set_visibility("another", ["receipt"], 5)
    assert caught.value.code.name == "MESSAGE_INVALID"


def test_the_items_of_a_batch_are_read_with_their_times_and_without() -> None:
    """An earlier version reads six values of an item, and drops a message whose items have more as invalid."""
    items = (Item("team/app", "v1", changed=1_767_582_000), Item("team/app", "v2"), Item("team/app", "v3", changed=0))
    batch = Batch("run", "sync", Step.TRANSFER, "id", items)
    body = json.loads(encode(batch))
    assert {len(item) for item in body["items"]} == {6}
    assert from_json(body) == batch
    del body["changed"]
    assert from_json(body) == replace(batch, items=tuple(replace(item, changed=None) for item in items))
    assert "changed" not in json.loads(encode(replace(batch, items=(Item("team/app", "v2"),))))
