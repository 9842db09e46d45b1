"""Calls of Queues to SQS, and the handling of each response of SQS."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

from syncline.errors import SynclineError
from syncline.messages import Batch, Outgoing, QueuedLetter, Queues, Start, encode
from syncline.model import Item, Step, Trigger

URLS = {step: f"https://sqs.test/1/{step}" for step in Step}
DEAD_URLS = {step: f"https://sqs.test/1/{step}-dead" for step in Step}
EVENTS = "https://sqs.test/1/events"


class Sqs:
    """A fake SQS that records calls. It gives the scripted answers in order, then empty ones."""

    class exceptions:  # noqa: N801 - as in a client of boto3
        ClientError = ClientError

    def __init__(self, *answers: dict[str, Any] | ClientError) -> None:
        self.answers = list(answers)
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Callable[..., dict[str, Any]]:
        def call(**arguments: Any) -> dict[str, Any]:
            self.calls.append((name, arguments))
            answer = self.answers.pop(0) if self.answers else {}
            if isinstance(answer, ClientError):
                raise answer
            return answer

        return call

    @property
    def sizes(self) -> list[int]:
        """Return the number of entries of each call."""
        return [len(arguments["Entries"]) for _, arguments in self.calls]


def queues(sqs: Sqs) -> Queues:
    return Queues(sqs, URLS, DEAD_URLS, EVENTS)  # type: ignore[arg-type]


def batches(count: int) -> list[Batch]:
    return [Batch("r", "images", Step.TRANSFER, f"b{number}", (Item("g", "t"),)) for number in range(count)]


def outgoing(count: int) -> list[Outgoing]:
    return [Outgoing(batch) for batch in batches(count)]


def failed(identity: int, code: str, message: str, *, fault: bool = True) -> dict[str, Any]:
    return {"Id": str(identity), "Code": code, "Message": message, "SenderFault": fault}


def error(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "no"}}, "SendMessageBatch")


def test_a_message_that_sqs_refuses_is_returned_and_the_others_are_sent_again() -> None:
    answers = (
        {"Failed": [failed(0, "InternalError", "later", fault=False), failed(1, "InvalidMessageContents", "bad")]},
        {"Failed": [failed(0, "InvalidMessageContents", "worse")]},
    )
    first, second, _ = batches(3)
    sqs = Sqs(*answers)
    assert queues(sqs).send(outgoing(3)) == [
        (second, "InvalidMessageContents: bad"),
        (first, "InvalidMessageContents: worse"),
    ]
    assert sqs.sizes == [3, 1]


@pytest.mark.parametrize("code", ["RequestThrottled", "ThrottlingException"])
def test_a_throttled_message_is_sent_again(code: str) -> None:
    """SQS reports throttling as a fault of the sender."""
    sqs = Sqs({"Failed": [failed(1, code, "slow down")]})
    assert queues(sqs).send(outgoing(2)) == []
    (_, again) = sqs.calls[1]
    assert [entry["MessageBody"] for entry in again["Entries"]] == [encode(batches(2)[1])]


def test_a_message_is_sent_three_times_at_most() -> None:
    refused = [failed(number, "InternalError", "not now", fault=False) for number in range(2)]
    sqs = Sqs(*[{"Failed": refused}] * 4)
    with pytest.raises(SynclineError, match="SQS did not accept 2 messages: not now") as caught:
        queues(sqs).send(outgoing(3))
    assert caught.value.code.name == "AWS_UNAVAILABLE"
    assert sqs.sizes == [3, 2, 2]


@pytest.mark.parametrize("code", ["InvalidMessageContents", "InvalidParameterValue", "BatchRequestTooLong"])
def test_a_refused_request_is_sent_again_message_by_message(code: str) -> None:
    first_ten = {"Failed": [failed(4, "InvalidMessageContents", "bad")]}
    sqs = Sqs(first_ten, error(code), {}, error(code), {})
    all_of_them = batches(13)
    (one, reason_of_one), (other, reason_of_other) = queues(sqs).send(outgoing(13))
    assert (one, reason_of_one) == (all_of_them[4], "InvalidMessageContents: bad")
    assert other == all_of_them[11]
    assert code in reason_of_other
    assert sqs.sizes == [10, 3, 1, 1, 1]


def test_refusals_of_several_requests_are_returned_together() -> None:
    sqs = Sqs(*[{"Failed": [failed(0, "InvalidMessageContents", "bad")]}] * 2)
    refused = queues(sqs).send(outgoing(11))
    assert [batch.id for batch, _ in refused] == ["b0", "b10"]


def test_another_error_of_a_request_is_raised() -> None:
    sqs = Sqs(error("AccessDenied"))
    with pytest.raises(ClientError, match="AccessDenied"):
        queues(sqs).send(outgoing(2))
    assert sqs.sizes == [2]


@pytest.mark.parametrize("letter", ["a", "é"])
def test_a_request_has_a_maximum_size(letter: str) -> None:
    """SQS refuses a larger request as a whole."""
    half = letter * (120_000 // len(letter.encode()))
    sqs = Sqs()
    queues(sqs).send_dead_letters(Step.VERIFY, [half] * 4)
    queues(sqs).send_dead_letters(Step.VERIFY, [half, half + "a"])
    assert sqs.sizes == [2, 2, 1, 1]


def test_a_start_can_be_queued_with_a_delay() -> None:
    sqs, start = Sqs(), Start("images", Trigger.MANUAL)
    queues(sqs).start(start)
    queues(sqs).start(start, 7)
    entry = {"Id": "0", "MessageBody": encode(start), "MessageGroupId": "images"}
    assert sqs.calls == [
        ("send_message_batch", {"QueueUrl": URLS[Step.DISCOVER], "Entries": [entry | {"DelaySeconds": seconds}]})
        for seconds in (0, 7)
    ]


def test_a_start_that_sqs_refuses_raises_an_error() -> None:
    sqs = Sqs({"Failed": [failed(0, "InvalidMessageContents", "bad")]})
    with pytest.raises(SynclineError, match="cannot queue a scan of images: InvalidMessageContents: bad") as caught:
        queues(sqs).start(Start("images", Trigger.MANUAL))
    assert caught.value.code.name == "MESSAGE_REFUSED"


def test_a_commit_has_the_message_group_of_its_branch() -> None:
    """The group is the same in every version: otherwise, a branch would have two writers during an update."""
    commit = Batch("r", "backups", Step.COMMIT, "c", (Item("main", "a"),))
    sqs = Sqs()
    queues(sqs).send([Outgoing(commit)])
    entry = {
        "Id": "0",
        "MessageBody": encode(commit),
        "MessageGroupId": hashlib.blake2b(b"backups/main", digest_size=16).hexdigest(),
        "MessageDeduplicationId": "c",
    }
    assert sqs.calls == [("send_message_batch", {"QueueUrl": URLS[Step.COMMIT], "Entries": [entry]})]


def test_a_commit_to_a_branch_with_an_invalid_name_is_sent() -> None:
    sqs = Sqs()
    queues(sqs).send([Outgoing(Batch("r", "backups", Step.COMMIT, "c", (Item("half \ud83d", "a"),)))])
    assert len(sqs.calls[0][1]["Entries"][0]["MessageGroupId"]) == 32


def test_a_delayed_commit_is_sent_to_the_discover_queue() -> None:
    commit = Batch("r", "backups", Step.COMMIT, "c", (Item("main", "a"),))
    sqs = Sqs()
    queues(sqs).send([Outgoing(commit, 1)])
    entry = {"Id": "0", "MessageBody": encode(commit), "MessageGroupId": "backups", "DelaySeconds": 1}
    assert sqs.calls == [("send_message_batch", {"QueueUrl": URLS[Step.DISCOVER], "Entries": [entry]})]


def test_dead_letters_of_commits_have_a_group_and_a_deduplication_id() -> None:
    """SQS requires both on a FIFO queue."""
    sqs = Sqs()
    queues(sqs).send_dead_letters(Step.VERIFY, ["v"])
    queues(sqs).send_dead_letters(Step.COMMIT, ["c", "d"])
    (_, verify), (_, commit) = sqs.calls
    assert verify == {
        "QueueUrl": DEAD_URLS[Step.VERIFY],
        "Entries": [{"Id": "0", "MessageBody": "v", "DelaySeconds": 0}],
    }
    assert commit["QueueUrl"] == DEAD_URLS[Step.COMMIT]
    first, second = commit["Entries"]
    assert first.keys() == {"Id", "MessageBody", "MessageGroupId", "MessageDeduplicationId"}
    assert first["MessageGroupId"] != second["MessageGroupId"]
    assert first["MessageDeduplicationId"] != second["MessageDeduplicationId"]


def test_a_dead_letter_that_sqs_refuses_is_returned() -> None:
    sqs = Sqs({"Failed": [failed(1, "InvalidMessageContents", "bad")]})
    assert queues(sqs).send_dead_letters(Step.VERIFY, ["a", "b"]) == [("b", "InvalidMessageContents: bad")]


@pytest.mark.parametrize(("seconds", "sent"), [(-1, 0), (0, 0), (0.9, 0), (1.9, 1), (43_200, 43_200), (50_000, 43_200)])
def test_visibility_timeouts_are_whole_seconds_within_the_limits_of_sqs(seconds: float, sent: int) -> None:
    sqs = Sqs()
    queues(sqs).set_visibility("verify", ["one", "two"], seconds)
    entries = [
        {"Id": "0", "ReceiptHandle": "one", "VisibilityTimeout": sent},
        {"Id": "1", "ReceiptHandle": "two", "VisibilityTimeout": sent},
    ]
    assert sqs.calls == [("change_message_visibility_batch", {"QueueUrl": URLS[Step.VERIFY], "Entries": entries})]


def test_the_visibility_of_events_is_set_ten_at_a_time() -> None:
    sqs, receipts = Sqs(), [f"r{number}" for number in range(23)]
    queues(sqs).set_visibility("events", receipts, 5)
    assert sqs.sizes == [10, 10, 3]
    assert {arguments["QueueUrl"] for _, arguments in sqs.calls} == {EVENTS}
    entries = [entry for _, arguments in sqs.calls for entry in arguments["Entries"]]
    assert [entry["ReceiptHandle"] for entry in entries] == receipts
    assert [entry["Id"] for entry in entries[10:20]] == [str(number) for number in range(10)]


@pytest.mark.parametrize(
    ("failure", "reason"),
    [({"Code": "Expired", "Message": "too late"}, "too late"), ({"Code": "Expired"}, "Expired")],
)
def test_a_visibility_that_sqs_does_not_change_raises_an_error(failure: dict[str, str], reason: str) -> None:
    sqs = Sqs({"Failed": [failure, {"Code": "Other"}]})
    with pytest.raises(SynclineError, match=f"SQS did not change the visibility of 2 messages: {reason}$") as caught:
        queues(sqs).set_visibility("transfer", ["receipt"], 5)
    assert caught.value.code.name == "AWS_UNAVAILABLE"


def test_dead_letters_are_read_until_none_is_left() -> None:
    """A receive call that does not wait asks only some servers of SQS and misses messages."""
    messages = [{"Body": f"b{number}", "ReceiptHandle": f"r{number}"} for number in range(3)]
    sqs = Sqs({"Messages": messages[:2]}, {"Messages": messages[2:]})
    letters = list(queues(sqs).dead_letters(Step.COMMIT, hidden_for=90))
    assert letters == [QueuedLetter(Step.COMMIT, f"b{number}", f"r{number}") for number in range(3)]
    options = {"MaxNumberOfMessages": 10, "VisibilityTimeout": 90, "WaitTimeSeconds": 1}
    assert sqs.calls == [("receive_message", {"QueueUrl": DEAD_URLS[Step.COMMIT]} | options)] * 3


def test_dead_letters_are_hidden_for_a_minute_by_default() -> None:
    sqs = Sqs()
    assert list(queues(sqs).dead_letters(Step.VERIFY)) == []
    assert sqs.calls[0][1]["VisibilityTimeout"] == 60


def test_a_dead_letter_is_deleted_or_released_at_once() -> None:
    sqs, letter = Sqs(), QueuedLetter(Step.VERIFY, "body", "receipt")
    queues(sqs).delete_letter(letter)
    queues(sqs).release_letter(letter)
    named = {"QueueUrl": DEAD_URLS[Step.VERIFY], "ReceiptHandle": "receipt"}
    assert sqs.calls == [
        ("delete_message", named),
        ("change_message_visibility", named | {"VisibilityTimeout": 0}),
    ]


def test_hidden_dead_letters_are_counted() -> None:
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    sqs = Sqs({"Attributes": dict(zip(names, ("3", "4"), strict=True))})
    assert queues(sqs).count_dead_letters(Step.COMMIT) == 7
    assert sqs.calls == [("get_queue_attributes", {"QueueUrl": DEAD_URLS[Step.COMMIT], "AttributeNames": names})]
