"""Faults that are planted in the kind ``files`` one at a time; see :mod:`tests.simulation.plants`."""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from dataclasses import replace
from typing import Any
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
from tests.simulation.plants import _replaced, plant


@plant
def remove_files_beyond_the_limits() -> Iterator[None]:
    """All removals are granted."""
    with patch.object(RemovalLimits, "reserve", lambda _self, gone, *_: (gone, None)):
        yield


@plant
def remove_files_after_a_cut_listing() -> Iterator[None]:
    """The source is not asked once more whether it still has a file that was not listed."""

    class _Nothing:
        def head(self, _key: str) -> None:
            return None

    def remove(old: Any) -> Any:
        def changed(self: Any, item: Any, task: Any) -> Any:
            blind = copy(self)
            blind.source = _Nothing()
            return old(blind, item, task)

        return changed

    with _replaced(FileTransfer, "_remove", remove):
        yield


@plant
def overwrite_foreign_files() -> Iterator[None]:
    """Whatever is at the target counts as ours."""
    with patch.object(FileTransfer, "_is_ours", lambda *_: True):
        yield


@plant
def believe_that_files_arrived() -> Iterator[None]:
    """Verify does not ask the target again."""
    with (
        patch.object(FileVerification, "_from_listing", lambda *_: []),
        patch.object(FileVerification, "_read", lambda *_: None),
    ):
        yield


@plant
def compare_sizes_of_files_only() -> Iterator[None]:
    """A file of the same size is equal."""
    with patch.object(TargetFile, "equals", lambda self, _etag, size: size is not None and self.size == size):
        yield


@plant
def pass_over_later_events() -> Iterator[None]:
    """An event of a key that was read after an earlier event has nothing to tell."""
    with patch.object(EventScope, "is_known", lambda _self, _key, seq: bool(seq)):
        yield


@plant
def forget_deletions_during_a_copy() -> Iterator[None]:
    """A file whose copy is not verified yet is not removed when its object is gone."""

    def read_gone(old: Any) -> Any:
        def changed(self: Any, change: Any, there: Any, context: Any) -> Any:
            under_way = change.record is None or not change.record.verified
            return None if under_way else old(self, change, there, context)

        return changed

    with _replaced(FileItems, "_read_gone", read_gone):
        yield


@plant
def forget_headers_of_files() -> Iterator[None]:
    """An object that passes through arrives without its headers and metadata."""

    def opened(old: Any) -> Any:
        def changed(source: Any, key: str, seen: Any) -> Any:
            stream = old(source, key, seen)
            return ObjectStream(replace(stream.head, headers={}, metadata={}), stream._response)

        return changed

    with _replaced(bucket_target, "open_current", opened):
        yield


@plant
def mark_files_without_their_size() -> Iterator[None]:
    """A file manager's file that somebody else changed still shows our mark."""

    def mark(old: Any) -> Any:
        return lambda self, path, etag, _size: old(self, path, etag, 0)

    with _replaced(FileManagerTarget, "_mark", mark):
        yield
