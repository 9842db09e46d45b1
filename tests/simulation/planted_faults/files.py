"""Planted faults in the kind ``files``."""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from dataclasses import replace
from typing import Any, Final
from unittest.mock import patch

from syncline.clients.s3.client import ObjectStream
from syncline.kinds.files import bucket_target
from syncline.kinds.files.events import EventScope
from syncline.kinds.files.items import FileItems
from syncline.kinds.files.manager_target import FileManagerTarget
from syncline.kinds.files.removals import RemovalLimits
from syncline.kinds.files.targets import TargetFile
from syncline.kinds.files.transfer import FileTransfer
from syncline.kinds.files.verify import FileVerification
from tests.simulation.planted_faults.registry import planted_fault, replaced

WORLDS: Final = ("files",)


@planted_fault
def exceed_file_removal_limits() -> Iterator[None]:
    """Grant every removal."""
    with patch.object(RemovalLimits, "reserve", lambda _self, gone, *_: (gone, None)):
        yield


@planted_fault
def remove_files_after_a_truncated_listing() -> Iterator[None]:
    """Remove a file that was not listed without checking that its object is gone."""

    class _NoObjects:
        def head(self, _key: str) -> None:
            return None

    def remove(old: Any) -> Any:
        def changed(self: Any, item: Any, task: Any) -> Any:
            without_source = copy(self)
            without_source.source = _NoObjects()
            return old(without_source, item, task)

        return changed

    with replaced(FileTransfer, "_remove", remove):
        yield


@planted_fault
def overwrite_foreign_files() -> Iterator[None]:
    """Treat every file at the target as ours."""
    with patch.object(FileTransfer, "_is_ours", lambda *_: True):
        yield


@planted_fault
def skip_file_verification() -> Iterator[None]:
    """Report files as verified without asking the target."""
    with (
        patch.object(FileVerification, "_from_listing", lambda *_: []),
        patch.object(FileVerification, "_read", lambda *_: None),
    ):
        yield


@planted_fault
def compare_only_file_sizes() -> Iterator[None]:
    """Treat files of the same size as equal."""
    with patch.object(TargetFile, "equals", lambda self, _etag, size: size is not None and self.size == size):
        yield


@planted_fault
def ignore_later_events() -> Iterator[None]:
    """Ignore an event of a key if any earlier event of that key was handled."""
    with patch.object(EventScope, "is_known", lambda _self, _key, seq: bool(seq)):
        yield


@planted_fault
def ignore_deletions_during_a_copy() -> Iterator[None]:
    """Do not remove a file whose object was deleted before the copy was verified."""

    def read_gone(old: Any) -> Any:
        def changed(self: Any, change: Any, existing: Any, context: Any) -> Any:
            in_flight = change.record is None or not change.record.verified
            return None if in_flight else old(self, change, existing, context)

        return changed

    with replaced(FileItems, "_read_gone", read_gone):
        yield


@planted_fault
def drop_file_headers() -> Iterator[None]:
    """Copy an object without its headers and metadata."""

    def opened(old: Any) -> Any:
        def changed(source: Any, key: str, seen: Any) -> Any:
            stream = old(source, key, seen)
            return ObjectStream(replace(stream.head, headers={}, metadata={}), stream._response)

        return changed

    with replaced(bucket_target, "open_current", opened):
        yield


@planted_fault
def omit_the_size_from_file_marks() -> Iterator[None]:
    """Mark files at a file manager without their size, so that a file changed by others keeps our mark."""

    def mark(old: Any) -> Any:
        return lambda self, path, etag, _size: old(self, path, etag, 0)

    with replaced(FileManagerTarget, "_mark", mark):
        yield
