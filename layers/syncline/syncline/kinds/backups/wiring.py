"""How a sync of backups is put together."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from syncline.clients.folder.target import Folder
from syncline.clients.git.access import Access, KeyAccess, Remote, TokenAccess
from syncline.clients.git.program import Patience
from syncline.clients.git.repository import Person, Place
from syncline.clients.http.rejections import REJECTIONS
from syncline.config.sync import Sync
from syncline.kinds.backups.commit import Rules, Signature
from syncline.kinds.backups.config import (
    BackupsSync,
    BucketTarget,
    DirectoryTarget,
    Encrypt,
    GitKey,
    GitTarget,
    GitToken,
)
from syncline.kinds.backups.config import Person as ConfiguredPerson
from syncline.kinds.backups.download import Downloads
from syncline.kinds.backups.kind import Backups
from syncline.kinds.backups.ours import Ledger
from syncline.kinds.backups.paths import Layout
from syncline.kinds.backups.reading import Reader
from syncline.kinds.backups.sealing import Rule, Sealer
from syncline.kinds.backups.stores import BucketStore, Store
from syncline.kinds.kind import Kind
from syncline.secrets import Reference, Secrets
from syncline.store.backup_index import BackupIndex
from syncline.store.files import FileRecords
from syncline.store.removals import RemovalWindows
from syncline.telemetry import log_operation
from syncline.wiring.buckets import bucket_at
from syncline.wiring.dependencies import Dependencies

_MEGABYTE = 1_000_000


class Builder:
    """Makes the kind of a sync. All of a process's kinds share connections."""

    def __init__(self, parts: Dependencies) -> None:
        self._parts = parts
        self._memory = BackupIndex(parts.database, time.time)

    def __call__(self, sync: Sync) -> Kind:
        assert isinstance(sync, BackupsSync)
        target, layout = sync.target, layout_of(sync)
        bucket, sealer = bucket_at(sync.source, self._parts), sealer_of(sync, self._parts)
        largest = sync.commit.largest * _MEGABYTE
        ledger = self._ledger(sync, layout)
        say, signature = partial(log_operation, sync.name), self._signature(sync)
        if not isinstance(target, GitTarget):
            store = store_of(target, self._parts)
            place, first = (f"{bucket}#{name}>{store}" for name in (sealer.name, sealer.first_name))
            rules = Rules(sync.name, place, str, layout, sync.removals.limits, signature, say, first)
            return Downloads(rules, bucket, sealer, store, self._memory, ledger, self._parts.http, largest)
        repository = target.repository
        rules = Rules(
            sync.name,
            f"{bucket}#{sealer.name}",
            lambda branch: f"{repository}#{branch}",
            layout,
            sync.removals.limits,
            signature,
            say,
        )
        reader = Reader(bucket, sealer, largest, sync.concurrency, layout.path_of)
        place_now = partial(place_of, sync, self._parts)
        return Backups(rules, bucket, reader, self._memory, ledger, place_now, self._parts.http)

    def _ledger(self, sync: BackupsSync, layout: Layout) -> Ledger:
        """Return the sync's records: each cluster has a partition of its own."""
        parts, target = self._parts, sync.target_id()

        def rows(cluster: str) -> FileRecords:
            about = f"{target}{_short(cluster)}"
            return FileRecords(parts.database, sync.name, about, parts.clock, shard=lambda _: 0, shards=1)

        def windows(cluster: str) -> RemovalWindows:
            return RemovalWindows(parts.database, sync.name, parts.clock, _short(cluster) if cluster else "")

        return Ledger(layout, rows, windows, parts.state.facts, parts.clock)

    def _signature(self, sync: BackupsSync) -> Signature:
        author, secrets, key = sync.commit.author, self._parts.secrets, sync.commit.signing_key
        committer = sync.commit.committer or author
        return Signature(_person(author), _person(committer), lambda: None if key is None else secrets.resolve(key))


def store_of(target: DirectoryTarget | BucketTarget, parts: Dependencies) -> Store:
    """Where downloads go."""
    if isinstance(target, DirectoryTarget):
        return Folder(Path(target.directory))
    return BucketStore(bucket_at(target, parts), target.prefix)


def layout_of(sync: BackupsSync) -> Layout:
    """Where the sync's things lie."""
    target, select = sync.target, sync.select
    return Layout(
        sync.source.prefix,
        target.folder if isinstance(target, GitTarget) else "",
        target.branch if isinstance(target, GitTarget) else "",
        (select.clusters.include, select.clusters.exclude),
        (select.namespaces.include, select.namespaces.exclude),
        (select.objects.include, select.objects.exclude),
    )


def sealer_of(sync: BackupsSync, parts: Dependencies) -> Sealer:
    """What the sync does with Secrets; raises why its key cannot be had."""
    match sync.secrets:
        case Encrypt(encrypt=key):
            return Sealer(Rule.ENCRYPT, parts.secrets.resolve(key))
        case rule:
            return Sealer(Rule(rule))


def place_of(sync: BackupsSync, parts: Dependencies) -> Place:
    """Return the repository with its credentials as they are now; raise why they cannot be had."""
    target = sync.target
    assert isinstance(target, GitTarget)
    remote, access = Remote.parse(target.repository), _access(target, parts.secrets, parts.secrets.resolve)
    if REJECTIONS.is_kept(remote.host, access):
        access = _access(target, parts.secrets, parts.secrets.refresh)
    patience = Patience(sync.retry.attempts, sync.retry.delay)
    return Place(remote, access, parts.authority(target.ca), patience)


def _access(target: GitTarget, secrets: Secrets, value_of: Callable[[Reference], str]) -> Access:
    """Return the credentials of a repository; ``value_of`` gives the value of a reference."""
    match target.auth:
        case GitToken(token=token, username=username):
            return TokenAccess(value_of(token), secrets.text(username))
        case GitKey(ssh_key=key, known_hosts=known):
            return KeyAccess(value_of(key), secrets.text(known))
        case None:
            return None


def _short(cluster: str) -> str:
    return hashlib.blake2b(cluster.encode(errors="surrogatepass"), digest_size=8).hexdigest()


def _person(person: ConfiguredPerson) -> Person:
    return Person(person.name, person.email)


def changed_groups(sync: Sync, event: object, _now: float) -> tuple[str, ...]:
    """Return the keys that the bucket's notification names; see :func:`syncline.wiring.syncs.changed_groups_of`."""
    assert isinstance(sync, BackupsSync)
    return layout_of(sync).keys_in(event, sync.source.bucket)
