"""Copying one item of a sync without a repository: written, adopted, removed, or left as it is."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Final

from syncline.clients.git.objects import blob_hash, blob_id
from syncline.clients.s3.client import Bucket, Head, ObjectStream
from syncline.errors import SynclineError
from syncline.kinds.backups.committing import Answer
from syncline.kinds.backups.detecting import LARGEST
from syncline.kinds.backups.foreign import foreign
from syncline.kinds.backups.layout import Layout
from syncline.kinds.backups.memory import Known
from syncline.kinds.backups.ours import Ledger, Ours
from syncline.kinds.backups.paths import Names, refusal, shown
from syncline.kinds.backups.reading import SMALL
from syncline.kinds.backups.sealing import CERTAIN, Sealer, left_out
from syncline.kinds.backups.stores import Store
from syncline.kinds.kind import Arrived, Failure
from syncline.model import Item, Outcome, Result

_CHUNK: Final = 1 << 18


@dataclass(frozen=True, slots=True)
class Between:
    """What copies go between, and by which rules. ``largest`` is in bytes.

    ``refused`` returns why a file of ours, whose object is left out now, may not be removed; None if it may. ``over``
    says that the step's time is over.
    """

    bucket: Bucket
    store: Store
    layout: Layout
    sealer: Sealer
    ledger: Ledger
    largest: int
    refused: Callable[[str, Ours], SynclineError | None]
    over: Callable[[], bool]
    large: threading.Lock = field(default_factory=threading.Lock)
    """Large objects are copied one at a time: each is held in memory while it is inspected."""


class Copy:
    """The transfer of one item: to copy it, to adopt what is equal already, or to remove what the source has not."""

    def __init__(self, between: Between, item: Item, rows: Mapping[str, Ours], known: Mapping[str, Known]) -> None:
        self._between = between
        self._item = item
        self._rows = rows
        self._known = known
        self._path = between.layout.path_of(item.name)

    def made(self) -> tuple[Answer, Known | None]:
        """Carry it out; the second value is what was learned of the source's object.

        Raises :exc:`.detecting.OutOfTime`.
        """
        item, bucket = self._item, self._between.bucket
        problem = refusal(self._path, Names())
        if problem is not None:
            raise problem
        try:
            stream = bucket.open(item.name)
        except SynclineError as error:
            if error.code.name != "NOT_FOUND" or bucket.head(item.name) is not None:
                raise
            if not item.detail.get("remove"):
                # Only what was counted with all that is gone may be removed.
                why = "went since it was looked at; another look removes it"
                return Result(item.group, item.name, Outcome.SKIPPED, reason=why), None
            return self._removed(), None
        with stream:
            return self._copied(stream)

    def _copied(self, stream: ObjectStream) -> tuple[Answer, Known | None]:
        head, between = stream.head, self._between
        if head.size > between.largest:
            what = f"{shown(self._item.name)} has {head.size} bytes, over {between.largest}"
            raise SynclineError("OVER_LIMIT", what)
        if not between.sealer.inspects:
            return self._put(head, head.size, stream.chunks(_CHUNK))
        with between.large if head.size > SMALL else nullcontext():
            return self._inspected(stream)

    def _inspected(self, stream: ObjectStream) -> tuple[Answer, Known | None]:
        """Copy the part of an object that may go to the target.

        An object that is too large to be held is read twice: it is inspected before any of it is written.
        """
        head, sealer, chunks, over = stream.head, self._between.sealer, stream.chunks(_CHUNK), self._between.over
        if head.size <= LARGEST:
            sealed = sealer.sealed(self._path, b"".join(chunks), over)
            if sealed.data is None:
                return self._left_out(head, sealed.code or CERTAIN)
            return self._put(head, len(sealed.data), iter([sealed.data]), sealed.data)
        code = sealer.refusal(chunks, over)
        if code is not None:
            return self._left_out(head, code)
        with self._between.bucket.open(self._item.name, etag=head.etag) as again:
            return self._put(head, head.size, again.chunks(_CHUNK))

    def _put(
        self, head: Head, size: int, chunks: Iterator[bytes], data: bytes | None = None
    ) -> tuple[Answer, Known | None]:
        """Write these bytes, adopt the target's file if it has them, or leave a foreign one as it is.

        ``data`` are the bytes if they are held: then a file of ours that has them is not written again.
        """
        item, store = self._item, self._between.store
        here = store.fingerprint(self._path)
        if here is not None and not self._is_ours(here):
            digest = blob_hash(size)
            for chunk in chunks:
                digest.update(chunk)
            source, target = digest.hexdigest(), store.content_id(self._path)
            if source != target:
                return foreign(item.group, item.name, source, target), None
            return self._adopted(head, here, source)
        if here is not None and data is not None and self._may_have(head):
            source = blob_id(data)
            if store.content_id(self._path) == source:
                return self._adopted(head, here, source)
        mark = store.write(self._path, chunks)
        made = Item(item.group, item.name, mark, here, head.size, {"etag": head.etag, "created": self._created(here)})
        return Arrived(made, head.size), Known(head.etag, mark)

    def _may_have(self, head: Head) -> bool:
        """Return True unless the record says that our file was made from another version of the object."""
        row = self._rows.get(self._item.name)
        return row is None or row.etag in ("", head.etag)

    def _adopted(self, head: Head, here: str, content: str) -> tuple[Answer, Known | None]:
        item = self._item
        self._between.ledger.write({item.name: Ours(here, head.etag, head.size, self._created(here))})
        return Result(item.group, item.name, Outcome.SKIPPED, content, content), Known(head.etag, here)

    def _created(self, here: str | None) -> int:
        row = self._rows.get(self._item.name)
        if here is None:
            return int(self._between.ledger.clock())
        return row.created if row is not None else 0

    def _is_ours(self, here: str) -> bool:
        return is_ours(self._item.name, here, self._rows, self._known)

    def _left_out(self, head: Head, code: str) -> tuple[Answer, Known | None]:
        """Leave an object out: its file is removed if it is ours, within the limits."""
        here, item = self._between.store.fingerprint(self._path), self._item
        known = Known(head.etag, "", code)
        if here is None:
            return left_out(item, code), known
        if self._is_ours(here):
            error = self._between.refused(item.name, self._rows.get(item.name) or Ours(here))
            if error is not None:
                return Failure(item, error), known
        return self._removed(), known

    def _removed(self) -> Answer:
        """Remove the item's file if it is ours; verify asks whether it is gone."""
        here, item = self._between.store.fingerprint(self._path), self._item
        if here is None:
            return Result(item.group, item.name, Outcome.SKIPPED)
        if not self._is_ours(here):
            return foreign(item.group, item.name, None, here)
        self._between.store.remove(self._path)
        return Arrived(Item(item.group, item.name, None, here, 0))


def is_ours(key: str, mark: str, rows: Mapping[str, Ours], known: Mapping[str, Known]) -> bool:
    """Return True if a file is as we wrote it: by its record, or by what was noted when it was written."""
    row, was = rows.get(key), known.get(key)
    return (row is not None and row.fingerprint == mark) or (was is not None and was.blob == mark)


def record_of(item: Item) -> Ours | None:
    """Return the record of an item that arrived; None if it was removed."""
    if item.source is None:
        return None
    detail = item.detail
    size = -1 if item.size is None else item.size
    return Ours(item.source, str(detail.get("etag", "")), size, int(detail.get("created", 0)))
