"""Reading ends with the time of the step, even within one object."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Self, cast

import pytest

from syncline.clients.s3.client import Bucket
from syncline.clients.s3.head import ObjectHead
from syncline.kinds.backups import secrets_detection
from syncline.kinds.backups.secrets_filter import SecretsFilter, SecretsPolicy
from syncline.kinds.backups.source import ObjectContent, Reader
from syncline.model import Item

MODIFIED = 1_790_000_000
SLOW = b"Secret data: [" + b"[a,]," * 20_000


class _Stream:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self.head = ObjectHead("etag", len(data), modified=MODIFIED + 0.5)

    def chunks(self, size: int) -> Iterator[bytes]:
        return (self._data[at : at + size] for at in range(0, len(self._data), size))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        return None


class _Bucket:
    def __init__(self, objects: dict[str, bytes]) -> None:
        self._objects = objects

    def open(self, key: str, *, etag: str | None = None) -> _Stream:
        del etag
        return _Stream(self._objects[key])


def read(objects: dict[str, bytes], checks: int, largest: int = 1_000_000) -> list[ObjectContent]:
    """Read the objects one at a time; the time is over after ``checks`` checks of the clock."""
    left = iter(range(checks))
    bucket = cast("Bucket", _Bucket(objects))
    reader = Reader(bucket, SecretsFilter(SecretsPolicy.LEAVE_OUT), largest, 1, lambda key: key)
    items = [Item("main", key) for key in objects]
    return list(reader.read(items, lambda _: "", lambda: next(left, None) is None))


@pytest.mark.parametrize("checks", [4, 10])
def test_an_object_that_takes_too_long_is_left_for_the_next_step(checks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets_detection, "_CLOCK_INTERVAL", 10_000)
    objects = {"a": b"harmless\n", "b": SLOW, "c": b"harmless\n"}
    assert [each.item.name for each in read(objects, checks)] == ["a"]
    assert [each.item.name for each in read(objects, 10_000)] == ["a", "b", "c"]


def test_an_object_that_an_event_named_is_read_with_its_time() -> None:
    secret = b"apiVersion: v1\nkind: Secret\nmetadata: {name: a}\ndata: {a: Yg==}\n"
    objects = {"small": b"harmless\n", "large": b"harmless\n" * 300_000, "left out": secret}
    contents = read(objects, 10_000, largest=10_000_000)
    assert [each.left_out is not None for each in contents] == [False, False, True]
    assert [each.item.changed for each in contents] == [MODIFIED] * 3
