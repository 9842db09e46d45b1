"""Bucket notifications in every form."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote_plus

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from syncline.clients.s3.events import ObjectEvent, events_in, is_no_newer, is_notification
from syncline.errors import SynclineError

KEYS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=200).filter(
    lambda key: not {".", ".."} & set(key.split("/"))
)
SEQUENCERS = st.none() | st.text("0123456789ABCDEF", min_size=1, max_size=20)
EVENTS = st.builds(
    ObjectEvent,
    bucket=st.text("abc-.", min_size=3),
    key=KEYS,
    name=st.sampled_from(["ObjectCreated:Put", "ObjectCreated:Copy", "ObjectRemoved:Delete", "ObjectMelted:Slowly"]),
    sequencer=SEQUENCERS,
)
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "Records",
                    "s3",
                    "object",
                    "bucket",
                    "key",
                    "name",
                    "eventName",
                    "eventSource",
                    "eventVersion",
                    "source",
                    "detail",
                    "detail-type",
                    "Event",
                    "Type",
                    "Message",
                    "size",
                    "sequencer",
                ]
            )
            | st.text(max_size=3),
            inner | st.sampled_from(["aws:s3", "2.1", "aws.s3", "Notification", "Object Created"]),
            max_size=6,
        )
    ),
    max_leaves=25,
)


def record(event: ObjectEvent, *, minio: bool = False) -> dict[str, Any]:
    about = {"key": quote_plus(event.key), "size": 5, "eTag": "e", "sequencer": event.sequencer}
    return {
        "eventVersion": "2.0" if minio else "2.3",
        "eventSource": "minio:s3" if minio else "aws:s3",
        "eventName": f"s3:{event.name}" if minio else event.name,
        "s3": {
            "s3SchemaVersion": "1.0",
            "bucket": {"name": event.bucket},
            "object": {name: value for name, value in about.items() if value is not None},
        },
    }


@given(st.lists(EVENTS, min_size=1, max_size=3))
def test_notifications_of_s3_are_read(events: list[ObjectEvent]) -> None:
    body = {"Records": [record(each) for each in events]}
    assert is_notification(body)
    assert events_in(body) == tuple(events)


@given(EVENTS)
def test_notifications_of_minio_are_read(event: ObjectEvent) -> None:
    name = f"s3:{event.name}"
    body = {"EventName": name, "Key": f"{event.bucket}/{event.key}", "Records": [record(event, minio=True)]}
    assert is_notification(body)
    assert events_in(body) == (event,)


@given(EVENTS)
def test_notifications_in_sns_are_read(event: ObjectEvent) -> None:
    body = {"Type": "Notification", "Message": json.dumps({"Records": [record(event)]})}
    assert is_notification(body)
    assert events_in(body) == (event,)


@given(KEYS)
@example("a+b c%20d")
def test_notifications_of_eventbridge_are_read(key: str) -> None:
    body = {
        "version": "0",
        "source": "aws.s3",
        "detail-type": "Object Created",
        "detail": {
            "version": "0",
            "bucket": {"name": "photos"},
            "object": {"key": key, "size": 5, "etag": "e", "version-id": "v", "sequencer": "62e99a88dc407460"},
            "reason": "CopyObject",
        },
    }
    assert is_notification(body)
    assert events_in(body) == (ObjectEvent("photos", key, "ObjectCreated:CopyObject", "62e99a88dc407460"),)
    body |= {"detail-type": "Object Deleted", "detail": {**body["detail"], "reason": "DeleteObject"}}  # type: ignore[dict-item]
    assert events_in(body)[0].name.startswith("ObjectRemoved:")


def test_a_test_event_contains_no_events() -> None:
    body = {"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "photos", "RequestId": "x"}
    assert is_notification(body)
    assert events_in(body) == ()


EVENT = ObjectEvent("photos", "a b", "ObjectCreated:Put", "0A")


@pytest.mark.parametrize(
    "change",
    [
        {"eventVersion": "3.0"},
        {"eventVersion": None},
        {"eventSource": "aws:sqs"},
        {"eventName": 7},
        {"s3": {"bucket": {"name": "photos"}, "object": {"key": ""}}},
        {"s3": {"bucket": {"name": "photos"}, "object": {"key": "%ff"}}},
        {"s3": {"bucket": {"name": "photos"}, "object": {"key": "k" * 1025}}},
        {"s3": {"bucket": {"name": "photos"}, "object": {"key": "k", "sequencer": 7}}},
        {"s3": {"bucket": {"name": None}, "object": {"key": "k"}}},
        {"s3": {"bucket": "photos", "object": {"key": "k"}}},
        {"s3": []},
    ],
)
def test_a_malformed_record_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(SynclineError) as error:
        events_in({"Records": [record(EVENT) | change]})
    assert error.value.code.name == "MESSAGE_INVALID"


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        {},
        {"Records": {}},
        {"Records": [None]},
        {"source": "aws.s3"},
        {"Type": "Notification", "Message": "not JSON"},
        {"Type": "Notification", "Message": json.dumps({"Type": "Notification", "Message": "{}"})},
    ],
)
def test_an_invalid_notification_is_refused(body: Any) -> None:
    with pytest.raises(SynclineError) as error:
        events_in(body)
    assert error.value.code.name == "MESSAGE_INVALID"


@given(JSON)
def test_any_body_is_read_or_refused(body: Any) -> None:
    try:
        events = events_in(body)
    except SynclineError as error:
        assert error.code.name == "MESSAGE_INVALID"  # noqa: PT017 - both are allowed
    else:
        assert is_notification(body)
        assert all(event.key and event.bucket for event in events)


class TestSequencers:
    @given(st.integers(1 << 60, (1 << 64) - 1), st.integers(1 << 60, (1 << 64) - 1))
    def test_sequencers_of_one_length_compare_as_text(self, one: int, other: int) -> None:
        assert is_no_newer(f"{one:016X}", f"{other:016x}") == (one <= other)

    @given(st.text("0123456789ABCDEF", min_size=1, max_size=20).filter(lambda text: text.strip("0") != ""))
    def test_leading_zeros_and_lower_case_do_not_matter(self, one: str) -> None:
        assert is_no_newer(one, one.lower().lstrip("0"))
        assert is_no_newer(one.lower().lstrip("0"), one)

    @given(SEQUENCERS, SEQUENCERS)
    def test_only_equal_sequencers_are_both_not_newer(self, one: str | None, other: str | None) -> None:
        if is_no_newer(one, other) and is_no_newer(other, one):
            assert one is not None
            assert other is not None
            assert one.strip("0") == other.strip("0") or one.lstrip("0") == other.lstrip("0")

    def test_ambiguous_sequencers_are_not_ordered(self) -> None:
        assert not is_no_newer("9", "10")  # 9 is newer if zeros were dropped at the end, older if at the start
        assert not is_no_newer("10", "9")
        assert is_no_newer("10", "19")

    @pytest.mark.parametrize("invalid", [None, "", "xyz", "12 34"])
    def test_an_invalid_sequencer_is_never_older(self, invalid: str | None) -> None:
        assert not is_no_newer(invalid, "FF")
        assert not is_no_newer("00", invalid)


@pytest.mark.parametrize("key", ["../../etc/passwd", "a/../b", "./a", "a/."])
@pytest.mark.parametrize("bus", [True, False])
def test_a_key_with_parent_folders_is_left_out(key: str, *, bus: bool) -> None:
    about: dict[str, Any] = {"bucket": {"name": "b"}, "object": {"key": key}}
    record = {"eventVersion": "2.1", "eventSource": "aws:s3", "eventName": "ObjectCreated:Put", "s3": about}
    plain = {"Records": [record, {**record, "s3": {**about, "object": {"key": "plain..txt"}}}]}
    body = {"source": "aws.s3", "detail-type": "Object Created", "detail": about} if bus else plain
    assert [event.key for event in events_in(body)] == ([] if bus else ["plain..txt"])
