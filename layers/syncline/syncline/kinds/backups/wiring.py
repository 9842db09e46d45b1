"""The wiring of a sync of backups."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from syncline.clients.folder.target import FolderTarget
from syncline.clients.git.access import GitCredentials, GitRemote, SshCredentials, TokenCredentials
from syncline.clients.git.program import GitRetryPolicy
from syncline.clients.git.repository import Person, RepositoryLocation
from syncline.clients.git.signatures import public_key_of
from syncline.clients.http.rejections import REJECTIONS
from syncline.config.sync import Sync
from syncline.kinds.backups.commit import Signature, SyncSettings
from syncline.kinds.backups.config import (
    BackupsSync,
    BucketTarget,
    DirectoryTarget,
    DrillBucket,
    DrillDirectory,
    Encrypt,
    GitKey,
    GitTarget,
    GitToken,
)
from syncline.kinds.backups.download import AT_ONCE, Downloads
from syncline.kinds.backups.drill import DrillAccess
from syncline.kinds.backups.kind import Backups
from syncline.kinds.backups.normalize import Normalizer
from syncline.kinds.backups.object_fields import DEFAULT_FIELDS
from syncline.kinds.backups.ownership import OwnedFiles
from syncline.kinds.backups.paths import Layout
from syncline.kinds.backups.scratch import ScratchBucket, ScratchFolder, ScratchLocation
from syncline.kinds.backups.secrets_filter import SecretsFilter, SecretsPolicy
from syncline.kinds.backups.source import Reader
from syncline.kinds.backups.stores import BucketStore, FileStore
from syncline.kinds.kind import Kind
from syncline.secrets import Reference, Secrets
from syncline.store.backup_index import BackupIndex
from syncline.store.files import FileRecords
from syncline.store.removals import RemovalWindows
from syncline.telemetry import log_operation
from syncline.wiring.buckets import bucket_at
from syncline.wiring.dependencies import Dependencies, route_of

_MEGABYTE = 1_000_000


class Builder:
    """Builds the kind of a sync. All kinds of a process share connections."""

    def __init__(self, parts: Dependencies) -> None:
        self._parts = parts
        self._index = BackupIndex(parts.database, time.time)

    def __call__(self, sync: Sync) -> Kind:
        assert isinstance(sync, BackupsSync)
        target, layout = sync.target, layout_of(sync)
        bucket, secrets_filter = bucket_at(sync.source, self._parts), secrets_filter_of(sync, self._parts)
        limits, signature, log = sync.removals.limits, self._signature(sync), partial(log_operation, sync.name)
        settings = SyncSettings(sync.name, f"{bucket}#{secrets_filter.name}", str, layout, limits, signature, log)
        owned, http = self._owned_files(sync, layout), self._parts.http
        reader = Reader(bucket, secrets_filter, sync.commit.largest * _MEGABYTE, sync.concurrency, layout.path_of)
        if not isinstance(target, GitTarget):
            store = store_of(target, self._parts)
            source_id, first = (f"{bucket}#{name}>{store}" for name in (secrets_filter.name, secrets_filter.first_name))
            settings = replace(settings, source_id=source_id, first_source_id=first)
            return Downloads(settings, replace(reader, at_once=AT_ONCE), store, self._index, owned, http)
        settings = replace(settings, reference=lambda branch: f"{target.repository}#{branch}")
        access = self._drill_access(sync, secrets_filter)
        return Backups(settings, reader, self._index, owned, partial(repository_of, sync, self._parts), http, access)

    def _owned_files(self, sync: BackupsSync, layout: Layout) -> OwnedFiles:
        """Return the sync's records; each cluster has a separate partition."""
        parts, target = self._parts, sync.target_id()

        def records(cluster: str) -> FileRecords:
            about = f"{target}{_short(cluster)}"
            return FileRecords(parts.database, sync.name, about, parts.clock, shard=lambda _: 0, shards=1)

        def windows(cluster: str) -> RemovalWindows:
            return RemovalWindows(parts.database, sync.name, parts.clock, _short(cluster) if cluster else "")

        return OwnedFiles(layout, records, windows, parts.state.facts, parts.clock)

    def _drill_access(self, sync: BackupsSync, secrets_filter: SecretsFilter) -> DrillAccess:
        def scratch() -> ScratchLocation | None:
            match sync.drill and sync.drill.to:
                case DrillDirectory(directory=folder):
                    return ScratchFolder(Path(folder))
                case DrillBucket() as to:
                    return ScratchBucket(bucket_at(to, self._parts), to.prefix)
                case _:
                    return None

        signers = partial(signers_of, sync, self._parts.secrets)
        return DrillAccess(scratch, lambda: secrets_filter.key, signers, self._parts.clock)

    def _signature(self, sync: BackupsSync) -> Signature:
        person, secrets, key = sync.commit.author, self._parts.secrets, sync.commit.signing_key
        author, committer = (Person(each.name, each.email) for each in (person, sync.commit.committer or person))
        return Signature(author, committer, lambda: None if key is None else secrets.resolve(key))


def store_of(target: DirectoryTarget | BucketTarget, parts: Dependencies) -> FileStore:
    """Return the store for downloads."""
    if isinstance(target, DirectoryTarget):
        return FolderTarget(Path(target.directory))
    return BucketStore(bucket_at(target, parts), target.prefix)


def layout_of(sync: BackupsSync) -> Layout:
    target, select = sync.target, sync.select
    folder, branch = (target.folder, target.branch) if isinstance(target, GitTarget) else ("", "")
    selections = ((each.include, each.exclude) for each in (select.clusters, select.namespaces, select.objects))
    return Layout(sync.source.prefix, folder, branch, *selections)


def secrets_filter_of(sync: BackupsSync, parts: Dependencies) -> SecretsFilter:
    """Return the filter of the sync's objects. Raises SynclineError if its key is unavailable."""
    normalizer = None if sync.normalize is None else Normalizer(sync.normalize.drop or DEFAULT_FIELDS)
    match sync.secrets:
        case Encrypt(encrypt=key):
            return SecretsFilter(SecretsPolicy.ENCRYPT, parts.secrets.resolve(key), normalizer)
        case word:
            return SecretsFilter(SecretsPolicy(word), None, normalizer)


def signers_of(sync: BackupsSync, secrets: Secrets) -> tuple[str, ...]:
    """Return the public keys of which a commit to restore must have a signature; none if the sync names no key."""
    key = sync.commit.signing_key
    if sync.commit.signers or key is None:
        return sync.commit.signers
    return (public_key_of(secrets.resolve(key)),)


def repository_of(sync: BackupsSync, parts: Dependencies) -> RepositoryLocation:
    """Return the repository with its current credentials. Raises SynclineError if they are unavailable."""
    target = sync.target
    assert isinstance(target, GitTarget)
    remote, access = GitRemote.parse(target.repository), _access(target, parts.secrets, parts.secrets.resolve)
    if REJECTIONS.is_kept(remote.host, access):
        access = _access(target, parts.secrets, parts.secrets.refresh)
    patience = GitRetryPolicy(sync.retry.attempts, sync.retry.delay)
    return RepositoryLocation(remote, access, route_of(parts.secrets, target.ca, target.proxy), patience)


def _access(target: GitTarget, secrets: Secrets, value_of: Callable[[Reference], str]) -> GitCredentials:
    """Return the credentials of a repository; `value_of` returns the value of a reference."""
    match target.auth:
        case GitToken(token=token, username=username):
            return TokenCredentials(value_of(token), secrets.text(username))
        case GitKey(ssh_key=key, known_hosts=known):
            return SshCredentials(value_of(key), secrets.text(known))
        case None:
            return None


def _short(cluster: str) -> str:
    return hashlib.blake2b(cluster.encode(errors="surrogatepass"), digest_size=8).hexdigest()


def changed_groups(sync: Sync, event: object, _now: float) -> tuple[str, ...]:
    """Return the keys that a bucket notification names; see :func:`syncline.wiring.syncs.changed_groups_of`."""
    assert isinstance(sync, BackupsSync)
    return layout_of(sync).keys_in(event, sync.source.bucket)
