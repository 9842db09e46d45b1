"""Parser for bucket notifications of S3, EventBridge, MinIO and SNS.

S3 sends ``{"Records": [...]}`` to a queue or function, with form-encoded keys (``+`` is a space), and one
``s3:TestEvent`` when notifications are enabled. EventBridge wraps one event in ``detail``, with the key unencoded.
MinIO sends the form of S3, with ``s3:`` before the event's name, to a webhook. SNS wraps any of these in a string.

An event may be duplicated, late, out of order or forged. It is only a hint to scan the key: no content is trusted,
except for the order of events at services known to provide it.
"""

from __future__ import annotations

import json
import string
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote_plus

from syncline.errors import SynclineError

_LONGEST_KEY: Final = 1024  # bytes
_HEX: Final = frozenset(string.hexdigits)
_LONGEST_SEQUENCER: Final = 32
"""Characters; those of S3 have 16 to 18."""
_BUS_NAMES: Final = {"Object Created": "ObjectCreated", "Object Deleted": "ObjectRemoved"}


@dataclass(frozen=True, slots=True)
class ObjectEvent:
    """A reported change of an object.

    ``name`` is ``ObjectCreated`` or ``ObjectRemoved``, a colon, and the operation: ``Put`` in an event of S3,
    ``PutObject`` in one of EventBridge. Other names are possible. ``sequencer`` orders the events of one key
    (:func:`is_no_newer`).
    """

    bucket: str
    key: str
    name: str
    sequencer: str | None = None

    @property
    def order(self) -> str | None:
        """The sequencer if it orders the event reliably: of a creation or removal, in the form of S3; else None."""
        ordered = self.name.startswith(("ObjectCreated:", "ObjectRemoved:"))
        return self.sequencer if ordered and _is_number(self.sequencer) else None


def is_notification(body: Any) -> bool:
    """Return True if decoded JSON has the outer form of a bucket notification; :func:`events_in` validates it."""
    return isinstance(body, dict) and (
        "Records" in body
        or body.get("Event") == "s3:TestEvent"
        or body.get("source") == "aws.s3"
        or (body.get("Type") == "Notification" and "Message" in body)
    )


def events_in(body: Any) -> tuple[ObjectEvent, ...]:
    """Return the events of a notification's decoded JSON, none for a test event.

    A key with a segment `.` or `..` is left out: services refuse or resolve it, so it is most likely forged. A full
    scan finds an object with such a key. Raises MESSAGE_INVALID with the reason for an invalid notification.
    """
    try:
        return tuple(event for event in _events(body, wrapped=False) if not has_dot_segment(event.key))
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        what = str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
        raise SynclineError("MESSAGE_INVALID", f"invalid bucket notification: {what[:200]}") from None


def has_dot_segment(key: str) -> bool:
    """Return True if a key has a segment `.` or `..`."""
    return not {".", ".."}.isdisjoint(key.split("/"))


def is_no_newer(one: str | None, other: str | None) -> bool:
    """Return True if the event with sequencer ``one`` is certainly no newer than that with ``other``.

    The AWS documentation pads the shorter sequencer on the right in one place, on the left in another. EventBridge
    drops leading zeros and writes lower case. The result is True only if all of these interpretations agree.
    """
    if one is None or other is None or not (_is_number(one) and _is_number(other)):
        return False
    left, right = one.lower().lstrip("0"), other.lower().lstrip("0")
    width = max(len(left), len(right))
    return left.rjust(width, "0") <= right.rjust(width, "0") and left.ljust(width, "0") <= right.ljust(width, "0")


def _is_number(sequencer: str | None) -> bool:
    return sequencer is not None and 0 < len(sequencer) <= _LONGEST_SEQUENCER and _HEX.issuperset(sequencer)


def _events(body: Any, *, wrapped: bool) -> Iterator[ObjectEvent]:
    if "Records" in body:
        if not isinstance(body["Records"], list):
            raise ValueError("`Records` is not a list")
        for record in body["Records"]:
            yield _of_record(record)
    elif body.get("source") == "aws.s3":
        yield _of_bus(body)
    elif body.get("Event") == "s3:TestEvent":
        return
    elif body.get("Type") == "Notification" and not wrapped:
        yield from _events(json.loads(body["Message"]), wrapped=True)
    else:
        raise ValueError("unknown format")


def _of_record(record: Any) -> ObjectEvent:
    if not str(record["eventSource"]).endswith(":s3"):
        raise ValueError(f"the record's `eventSource` is {str(record['eventSource'])[:40]!r}, not S3")
    if not str(record["eventVersion"]).startswith("2."):
        raise ValueError(f"version {record['eventVersion']!r} is not supported, only 2.x")
    about = record["s3"]["object"]
    key = unquote_plus(_text(about["key"], "key"), errors="strict")
    name = _text(record["eventName"], "event name").removeprefix("s3:")
    return _event(record["s3"]["bucket"]["name"], key, name, about.get("sequencer"))


def _of_bus(body: Any) -> ObjectEvent:
    detail, kind = body["detail"], _text(body["detail-type"], "detail-type")
    about, name = detail["object"], f"{_BUS_NAMES.get(kind, kind)}:{detail.get('reason', '')}"
    return _event(detail["bucket"]["name"], about["key"], name, about.get("sequencer"))


def _event(bucket: Any, key: Any, name: str, sequencer: Any) -> ObjectEvent:
    if len(_text(key, "key").encode()) > _LONGEST_KEY:
        raise ValueError(f"the key has more than {_LONGEST_KEY} bytes")
    if sequencer is not None and not isinstance(sequencer, str):
        raise ValueError("the sequencer is not text")
    return ObjectEvent(_text(bucket, "bucket"), key, name, sequencer)


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"the {what} is not text")
    return value
