"""Notifications of buckets, in every form they come in, as :class:`ObjectEvent`.

S3 sends ``{"Records": [...]}`` to a queue or a function, with keys encoded as in a form (``+`` is a space), and one
``s3:TestEvent`` when notifications are switched on. EventBridge wraps one event in ``detail``, its key as it is. MinIO
sends the form of S3, with ``s3:`` before the event's name, to a webhook. SNS puts any of these into a text.

Each may come twice, late, in any order, or from somebody else: an event is a hint to look at the key, and nothing it
says is taken for true, but for its order where the service is known to tell that.
"""

from __future__ import annotations

import json
import string
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote_plus

from syncline.clients.http.listings import described
from syncline.errors import SynclineError

_LONGEST_KEY: Final = 1024  # bytes
_HEX: Final = frozenset(string.hexdigits)
_LONGEST_SEQUENCER: Final = 32
"""Characters; those of S3 have 16 to 18."""
_BUS_NAMES: Final = {
    "Object Created": "ObjectCreated",
    "Object Deleted": "ObjectRemoved",
    "Object ACL Updated": "ObjectAcl",
    "Object Tags Added": "ObjectTagging",
    "Object Tags Deleted": "ObjectTagging",
}
_REASONS: Final = {
    "PutObject": "Put",
    "POST Object": "Post",
    "CopyObject": "Copy",
    "CompleteMultipartUpload": "CompleteMultipartUpload",
    "DeleteObject": "Delete",
}


@dataclass(frozen=True, slots=True)
class ObjectEvent:
    """Something happened to an object, it is said.

    ``name`` is as S3 has it, without ``s3:`` (``ObjectCreated:Copy``); it may be one that nobody has heard of.
    ``sequencer`` orders events of one key (:func:`surely_older`). ``size`` is in bytes.
    """

    bucket: str
    key: str
    name: str
    sequencer: str | None = None
    etag: str | None = None
    size: int | None = None
    version: str | None = None

    @property
    def order(self) -> str | None:
        """The sequencer, where it tells the order for certain: of what was made or removed, and in the form of S3."""
        ordered = self.name.startswith(("ObjectCreated:", "ObjectRemoved:"))
        return self.sequencer if ordered and _is_number(self.sequencer) else None

    @property
    def is_removal(self) -> bool:
        return self.name.startswith(("ObjectRemoved:", "LifecycleExpiration:"))

    @property
    def is_copy(self) -> bool:
        return self.name == "ObjectCreated:Copy"


def is_notification(body: Any) -> bool:
    """Whether decoded JSON claims to be a notification of a bucket; :func:`events_in` tells whether it is one."""
    return isinstance(body, dict) and (
        "Records" in body
        or body.get("Event") == "s3:TestEvent"
        or body.get("source") == "aws.s3"
        or (body.get("Type") == "Notification" and "Message" in body)
    )


def events_in(body: Any) -> tuple[ObjectEvent, ...]:
    """Return the events of a notification's decoded JSON, none for a test event.

    A key with a part `.` or `..` is left out: services refuse or resolve it, so it is most likely forged. A full scan
    finds an object that has such a key all the same. Raises MESSAGE_INVALID, naming what is wrong, if any part of it is not what the form promises.
    """
    try:
        return tuple(event for event in _events(body, wrapped=False) if not climbs(event.key))
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        what = str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
        raise SynclineError("MESSAGE_INVALID", f"not a notification of a bucket: {what[:200]}") from None


def climbs(key: str) -> bool:
    """Return True if a key has a part `.` or `..`."""
    return not {".", ".."}.isdisjoint(key.split("/"))


def surely_older(one: str | None, other: str | None) -> bool:
    """Whether the event with sequencer ``one`` is no newer than that with ``other``, and there is no doubt.

    AWS has said that the shorter is to be padded on the right, and also on the left; EventBridge drops leading zeros
    and writes small letters. It is certain only if all of these readings agree.
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
        raise ValueError("of none of the known forms")


def _of_record(record: Any) -> ObjectEvent:
    if not str(record["eventSource"]).endswith(":s3"):
        raise ValueError("a record that is not of S3")
    if not str(record["eventVersion"]).startswith("2."):
        raise ValueError(f"version {record['eventVersion']!r}, this Syncline reads 2.x")
    about = record["s3"]["object"]
    key = unquote_plus(_text(about["key"], "key"), errors="strict")
    name = _text(record["eventName"], "event name").removeprefix("s3:")
    about = {**about, "etag": about.get("eTag"), "version-id": about.get("versionId")}
    return _event(record["s3"]["bucket"]["name"], key, name, about)


def _of_bus(body: Any) -> ObjectEvent:
    detail, kind = body["detail"], _text(body["detail-type"], "detail-type")
    about, reason = detail["object"], detail.get("reason", "")
    name = f"{_BUS_NAMES.get(kind, kind)}:{_REASONS.get(reason, reason)}"
    return _event(detail["bucket"]["name"], about["key"], name, about)


def _event(bucket: Any, key: Any, name: str, about: Any) -> ObjectEvent:
    size = about.get("size")
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 0):
        raise ValueError(f"its `size` is {described(size)}, not a number of bytes")
    if len(_text(key, "key").encode()) > _LONGEST_KEY:
        raise ValueError(f"a key of more than {_LONGEST_KEY} bytes")
    return ObjectEvent(
        _text(bucket, "bucket"),
        key,
        name,
        _optional(about.get("sequencer"), "sequencer"),
        (_optional(about.get("etag"), "ETag") or "").strip('"') or None,
        size,
        _optional(about.get("version-id"), "version") or None,
    )


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"the {what} is no text")
    return value


def _optional(value: Any, what: str) -> str | None:
    if value is not None and not isinstance(value, str):
        raise ValueError(f"the {what} is no text")
    return value
