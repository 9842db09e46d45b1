"""How a sync of files is put together."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from syncline.clients.file_manager import FileManager
from syncline.config import Sync
from syncline.config.files import BucketTarget, FileManagerTarget, FilesSync
from syncline.kinds.files import Files, Means, threads_for
from syncline.kinds.files.places import BucketPlace, FileManagerPlace, Place, folder_of
from syncline.kinds.kind import Kind
from syncline.stores.files import FileRecords, shard_of
from syncline.stores.slots import Slot, Slots
from syncline.wiring.buckets import bucket_at
from syncline.wiring.parts import Parts


class Builder:
    """Makes the kind of a sync. All of a process's kinds share connections and the turns at their targets."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._slots = Slots(parts.database, parts.clock, random.Random())  # noqa: S311 - which slot is tried first

    def __call__(self, sync: Sync) -> Kind:
        assert isinstance(sync, FilesSync)
        parts, target = self._parts, sync.target
        source = bucket_at(sync.source, parts)
        manager: FileManager | None = None
        near = isinstance(target, BucketTarget) and is_near(sync, target)
        place: Place
        if isinstance(target, FileManagerTarget):
            manager = manager_at(target, parts)
            rule = sync.permissions
            place = FileManagerPlace(manager, target.file_manager, rule.owner, rule.group)
        else:
            place = BucketPlace(bucket_at(target, parts), near=near)
        listens = isinstance(target, FileManagerTarget) and target.events
        means = Means(
            FileRecords(parts.database, sync.name, parts.clock),
            parts.http,
            self._turn,
            folder_group_of if near else group_of,
            manager if listens else None,
            parts.http.policy.sleep,
            told=manager if isinstance(target, FileManagerTarget) and target.report else None,
            reports=None if sync.reports is None else bucket_at(sync.reports, parts),
            clock=parts.clock,
        )
        return Files(sync, source, place, means)

    def _turn(self, place: str, turns: int, seconds: float) -> AbstractContextManager[object] | None:
        slot = self._slots.take(place, turns, seconds)
        return None if slot is None else self._held(slot)

    @contextmanager
    def _held(self, slot: Slot) -> Iterator[None]:
        try:
            yield
        finally:
            self._slots.give_back(slot)


def manager_at(target: FileManagerTarget, parts: Parts) -> FileManager:
    """The client of a file manager; its token is asked for when it is needed, and again when it is refused."""
    token, secrets = target.token, parts.secrets
    return FileManager(
        target.file_manager,
        lambda: None if token is None else secrets.resolve(token),
        parts.http,
        threading.BoundedSemaphore(threads_for(target.requests)),
        ca=parts.authority(target.ca),
        renewed=lambda: None if token is None else secrets.refresh(token),
    )


def is_near(sync: FilesSync, target: BucketTarget) -> bool:
    """Whether the service can copy by itself."""
    return target.same_service and sync.source.place[:-1] == target.place[:-1]


def group_of(key: str) -> str:
    """The group of a key: the partition that its record is in."""
    return f"{shard_of(key):02}"


def folder_group_of(key: str) -> str:
    """The group of a key where the service copies by itself: that of its folder.

    Files of one folder stand together in the target's listing, a page of which then proves hundreds of them.
    """
    return f"{shard_of(folder_of(key)):02}"
