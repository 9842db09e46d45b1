"""Builds the kind of a sync of files."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager

from syncline.clients.file_manager.client import FileManager
from syncline.config.sync import Sync
from syncline.kinds.files.bucket_target import BucketTarget
from syncline.kinds.files.config import BucketTarget as BucketConfig
from syncline.kinds.files.config import FileManagerTarget as FileManagerConfig
from syncline.kinds.files.config import FilesSync
from syncline.kinds.files.discover import FilesState
from syncline.kinds.files.events import groups_in
from syncline.kinds.files.kind import Files, threads_for
from syncline.kinds.files.manager_target import FileManagerTarget
from syncline.kinds.files.targets import Target, folder_of
from syncline.kinds.kind import Kind
from syncline.store.files import FileRecords, shard_of
from syncline.store.removals import RemovalWindows
from syncline.wiring.buckets import bucket_at
from syncline.wiring.dependencies import Dependencies, budget_of, route_of


class Builder:
    """Builds the kind of a sync. All kinds of a process share connections and the turns at their targets."""

    def __init__(self, parts: Dependencies) -> None:
        self._parts = parts
        self._rng = random.Random()  # noqa: S311 - for the order in which slots are tried

    def __call__(self, sync: Sync) -> Kind:
        assert isinstance(sync, FilesSync)
        parts, config = self._parts, sync.target
        state = FilesState(
            records_of(sync, parts),
            parts.state.facts,
            RemovalWindows(parts.database, sync.name, parts.clock),
            parts.clock,
        )
        manager = manager_at(config, parts) if isinstance(config, FileManagerConfig) else None
        return Files(
            sync,
            bucket_at(sync.source, parts),
            target_at(sync, parts, manager),
            state,
            parts.http,
            self._turn,
            folder_group_of if is_near(sync) else group_of,
            manager=manager if isinstance(config, FileManagerConfig) and config.events else None,
            report_to=manager if isinstance(config, FileManagerConfig) and config.report else None,
            reports=None if sync.reports is None else bucket_at(sync.reports, parts),
        )

    def _turn(self, target: str, turns: int, left: Callable[[], float]) -> AbstractContextManager[object] | None:
        leases = self._parts.state.leases
        slot = leases.take_slot(target, turns, left(), self._rng)
        return None if slot is None else leases.held(slot, left)


def records_of(sync: FilesSync, parts: Dependencies) -> FileRecords:
    """Return the records of a sync's files at its target."""
    return FileRecords(parts.database, sync.name, sync.target_id(), parts.clock)


def target_at(sync: FilesSync, parts: Dependencies, manager: FileManager | None = None) -> Target:
    """Return the target of a sync; ``manager`` is the client of its file manager, if there is one already."""
    config = sync.target
    if isinstance(config, FileManagerConfig):
        rule = sync.permissions
        client = manager or manager_at(config, parts)
        return FileManagerTarget(client, config.file_manager, rule.owner, rule.group, parts.http.policy.clock)
    return BucketTarget(bucket_at(config, parts), near=is_near(sync), facts=parts.state.facts)


def manager_at(config: FileManagerConfig, parts: Dependencies) -> FileManager:
    """Return the client of a file manager; its token is resolved on first use, and again if it is refused."""
    token, secrets = config.token, parts.secrets
    return FileManager(
        config.file_manager,
        lambda: None if token is None else secrets.resolve(token),
        parts.http,
        threading.BoundedSemaphore(threads_for(config.requests)),
        route=route_of(secrets, config.ca, config.proxy, budget_of(parts.http, config.file_manager, config.limits)),
        renewed=lambda: None if token is None else secrets.refresh(token),
    )


def is_near(sync: FilesSync) -> bool:
    """Return True if the service can copy from source to target itself."""
    target = sync.target
    return (
        isinstance(target, BucketConfig)
        and target.same_service
        and sync.source.record_location[:-1] == target.record_location[:-1]
    )


def group_of(name: str) -> str:
    """Return the group of a name: the partition that its record is in."""
    return f"{shard_of(name):02}"


def folder_group_of(name: str) -> str:
    """Return the group of a name if the service copies objects itself: that of its folder.

    Files of one folder are adjacent in the target's listing, so that one page verifies hundreds of them.
    """
    return f"{shard_of(folder_of(name)):02}"


def changed_groups(sync: Sync, event: object, now: float) -> tuple[str, ...]:
    """Return the groups that an event of source or target names; see :func:`syncline.wiring.syncs.changed_groups_of`."""
    assert isinstance(sync, FilesSync)
    return groups_in(sync, event, now)
