"""The restore drill of backups: restore files from the target, and compare them with the objects of the source.

The objects pass the same filter as in a run, so a Secret that is left out is not expected at the target. A
file that differs, is missing or extra fails, unless the object or the file is known to have changed since the last run. A drill writes nothing but its scratch folder, not even to the table.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Final, Protocol

from syncline.clients.git.objects import TreeEntry, branch_name_error, decode_name, stream_id
from syncline.clients.git.repository import RemoteBranch
from syncline.clients.s3.xml import ListedObject
from syncline.errors import SynclineError
from syncline.kinds.backups.commit import OpenBranch, SyncSettings, cluster_trees
from syncline.kinds.backups.compare import cluster_failure, invalid_entry_results, portion_pages
from syncline.kinds.backups.ownership import OwnedFile, OwnedFiles
from syncline.kinds.backups.paths import Layout, shown
from syncline.kinds.backups.restore import NotRestored, RestorePlan, Restorer
from syncline.kinds.backups.scratch import ScratchLocation, scratch_store
from syncline.kinds.backups.source import Index, ObjectContent, Reader, failed_result, list_clusters, list_objects
from syncline.kinds.backups.stores import FileStore
from syncline.kinds.kind import Page, StepContext
from syncline.model import Item, Outcome, Result, Scope
from syncline.store.backup_records import IndexEntry

_AT_ONCE: Final = 8  # files of a folder or bucket read at a time

Restored = str | SynclineError
"""The ID of a file's content after its restore, or the reason why it was not restored."""


class DrillTarget(Protocol):
    """One branch, folder or bucket that a drill restores from. `time` is that of its last change; None if unknown."""

    @property
    def time(self) -> float | None: ...

    def problem(self) -> SynclineError | None:
        """Return the error for which nothing may be restored."""
        ...

    def files(self, cluster: str) -> dict[str, str]:
        """Return the fingerprints of a cluster's files by key."""
        ...

    def restore(self, keys: Sequence[str], context: StepContext) -> dict[str, Restored]:
        """Restore files that are among those of :meth:`files`."""
        ...


@dataclass(frozen=True, slots=True)
class Drill:
    """Restore drills of one sync. `open_target` opens the target of a group, which `group_of` names for a cluster."""

    settings: SyncSettings
    reader: Reader
    index: Index
    owned: OwnedFiles
    group_of: Callable[[str], str]
    open_target: Callable[[str, StepContext], AbstractContextManager[DrillTarget]]

    def pages(self, scope: Scope, cursor: str | None, context: StepContext, share: float) -> Iterator[Page]:
        """Yield the result of each file that a restore would not make equal; see :class:`syncline.kinds.kind.Drilling`.

        `cursor` has the last cluster and key that were compared, as JSON.
        """
        layout, bucket = self.settings.layout, self.reader.bucket
        source = list_clusters(bucket, layout)
        wanted = None if scope.groups is None else {group.partition("/")[0] for group in scope.groups}
        names = [name for name in source.names if wanted is None or name in wanted]
        after: tuple[str, str] = ("", "")
        if cursor is not None:
            after = tuple(json.loads(cursor))
        else:
            invalid = tuple(invalid_entry_results(source.invalid, "", lambda _: True).values())
            yield Page(_cursor(*after), results=(*invalid, *self._absent(names, wanted)))
        for group, clusters in groupby((name for name in names if name >= after[0]), self.group_of):
            if context.over:
                return
            with self._opened(group, context) as target:
                error = target if isinstance(target, SynclineError) else target.problem()
                if isinstance(target, SynclineError) or error is not None:
                    assert error is not None
                    yield from self._refused(group, list(clusters), error)
                    continue
                for cluster in clusters:
                    yield from self._cluster(cluster, target, after, context, share)
                    if context.over:
                        return

    @contextmanager
    def _opened(self, group: str, context: StepContext) -> Iterator[DrillTarget | SynclineError]:
        error = branch_name_error(group) if self.settings.layout.branch_per_cluster else None
        if error is not None:
            yield error
            return
        with self.open_target(group, context) as target:
            yield target

    def _absent(self, names: Sequence[str], wanted: set[str] | None) -> Iterator[Result]:
        """Yield a failure for each wanted cluster that the source lacks, or for a source without any."""
        for name in sorted((wanted or set()).difference(names)) or ([] if names else ["*"]):
            error = SynclineError("SOURCE_ABSENT", f"{self.reader.bucket} has no cluster {shown(name)} to compare with")
            yield failed_result(Item(f"{name}/", "*"), error)

    @staticmethod
    def _refused(group: str, clusters: Sequence[str], error: SynclineError) -> Iterator[Page]:
        for cluster in clusters:
            yield Page(_cursor(cluster, _LAST), results=(failed_result(Item(group, f"{cluster}/"), error),))

    def _cluster(
        self, cluster: str, target: DrillTarget, after: tuple[str, str], context: StepContext, share: float
    ) -> Iterator[Page]:
        layout = self.settings.layout
        listing = list_objects(self.reader.bucket, layout, cluster, listed=True)
        try:
            files = {key: mark for key, mark in target.files(cluster).items() if layout.takes(key)}
        except SynclineError as error:
            listing.error = listing.error or error
        if listing.error is not None:
            yield Page(_cursor(cluster, _LAST), failures=(cluster_failure(cluster, listing.error),))
            return
        group = self.group_of(cluster)
        invalid = invalid_entry_results(listing.invalid, group, layout.takes)
        index = self.index.entries(self.settings.source_id, cluster)
        comparison = _Comparison(self, group, target, listing.objects, files, index, context, share)
        keys = sorted({*listing.objects, *files} - invalid.keys(), key=str.encode)
        if after[0] == cluster:
            keys = [key for key in keys if key.encode() > after[1].encode()]
        elif invalid:
            yield Page(_cursor(cluster, ""), results=tuple(invalid.values()))
        try:
            yield from comparison.pages(keys, cluster)
        except SynclineError as error:
            if not context.over:
                yield Page(_cursor(cluster, _LAST), failures=(cluster_failure(cluster, error),))


_LAST: Final = "\U0010ffff"  # behind every key


def _cursor(cluster: str, key: str) -> str:
    return json.dumps([cluster, key])


@dataclass(frozen=True, slots=True)
class _Comparison:
    """The comparison of one cluster: the listed `objects` of the source, and the `files` of the target by key."""

    drill: Drill
    group: str
    target: DrillTarget
    objects: Mapping[str, ListedObject]
    files: Mapping[str, str]
    index: Mapping[str, IndexEntry]
    context: StepContext
    share: float

    def pages(self, keys: Sequence[str], cluster: str) -> Iterator[Page]:
        """Yield the pages of these keys while there is time."""
        yield from portion_pages(keys, lambda some: self._page(some, cluster), self.context)

    def _page(self, keys: Sequence[str], cluster: str) -> Page | None:
        """Return the page of these keys, or of the first of them if the time is short; None if it has none."""
        wanted = [key for key in keys if key in self.objects and self._is_read(key)]
        items = [Item(self.group, key, self.objects[key].etag, self.files.get(key)) for key in wanted]
        contents = {each.item.name: each for each in self._read(items)}
        unread = next((key for key in wanted if key not in contents), None)
        done = list(keys) if unread is None else list(keys)[: list(keys).index(unread)]
        if not done:
            return None
        restored = self.target.restore([key for key in done if key in self.files and self._in_share(key)], self.context)
        gone = [key for key in done if key not in self.objects]
        rows = self.drill.owned.get(gone) if gone else {}
        results = [self._result(key, contents.get(key), restored.get(key), rows.get(key)) for key in done]
        equal = sum(each is not None and each.outcome is Outcome.EQUAL for each in results)
        left_out = sum(each is not None and each.outcome is Outcome.LEFT_OUT and not each.reason for each in results)
        named = tuple(
            each for each in results if each is not None and (each.outcome is Outcome.FAILED or each.reason is not None)
        )
        return Page(_cursor(cluster, done[-1]), equal=equal, results=named, left_out=left_out)

    def _read(self, items: Sequence[Item]) -> Iterator[ObjectContent]:
        def over() -> bool:
            return self.context.over

        for content in self.drill.reader.read(items, lambda blob: stream_id(blob.size, blob.chunks), over):
            yield replace(content, data=None)  # only its ID is compared

    def _in_share(self, key: str) -> bool:
        """Return True if the key belongs to the run's sample, which is another one in each run."""
        digest = hashlib.blake2b(f"{self.context.run}\0{key}".encode(errors="surrogatepass"), digest_size=8).digest()
        return int.from_bytes(digest) < self.share * 2**64

    def _is_read(self, key: str) -> bool:
        """Return True if an object has to be read: it is in the sample, or may be missing at the target."""
        if self._in_share(key):
            return True
        return key not in self.files and not self._was_synced(key, self.objects[key].etag)

    def _was_synced(self, key: str, etag: str) -> bool:
        """Return True if a run has read this version of an object, and written or left out its content."""
        entry = self.index.get(key)
        return entry is not None and entry.etag == etag

    def _result(
        self, key: str, content: ObjectContent | None, restored: Restored | None, row: OwnedFile | None
    ) -> Result | None:
        """Return the result of a key, None if it is outside the sample and not missing. Equal ones have no reason."""
        at_target = self.files.get(key)
        if content is None:
            return self._unread_result(key, at_target, row)
        error = content.error or (restored if isinstance(restored, SynclineError) else None)
        if error is not None:
            return failed_result(content.item, error)
        if content.entry is None:
            return self._left_out(key, "gone from the source since the drill began")
        if content.blob == restored:  # without a blob, the object is left out
            return Result(self.group, key, Outcome.EQUAL if content.blob else Outcome.LEFT_OUT)
        if self._has_changed(key, content.entry.etag):
            return self._left_out(key, "changed at the source since the last run")
        what = "differs from the source after its restore"
        if at_target is None:
            what = "is missing at the target"
        elif content.blob is None:
            what = "is at the target, but is or contains a Secret to leave out"
        return self._differs(key, content.blob, at_target, what)

    def _unread_result(self, key: str, at_target: str | None, row: OwnedFile | None) -> Result | None:
        """Return the result of a key whose object was not read: the source has none, or it is outside the sample."""
        if key not in self.objects:
            if row is not None and at_target is not None and row.is_at(at_target):
                return self._left_out(key, "gone from the source since the last run")
            return self._differs(key, None, at_target, "is only at the target")
        entry = self.index.get(key)
        if at_target is None and entry is not None and entry.blob:
            return self._differs(key, entry.blob, None, "is missing at the target")
        return None

    def _has_changed(self, key: str, etag: str) -> bool:
        """Return True if no run has read this version of an object, and the target has not changed after it."""
        if self._was_synced(key, etag):
            return False
        # Both times are whole seconds: within one, the object may be the newer one.
        return self.target.time is None or int(self.objects[key].modified) >= int(self.target.time)

    def _left_out(self, key: str, reason: str) -> Result:
        return Result(self.group, key, Outcome.LEFT_OUT, None, self.files.get(key), reason=f"{shown(key)} is {reason}")

    def _differs(self, key: str, source: str | None, target: str | None, what: str) -> Result:
        reason = f"{shown(key)} {what}"
        return Result(self.group, key, Outcome.FAILED, source, target, 0, "RESTORE_DIFFERS", reason)


# -- targets -----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class BranchTarget:
    """A branch of a repository, which was fetched. Without a `scratch` location, files are only read and decrypted."""

    settings: SyncSettings
    branch: RemoteBranch
    scratch: ScratchLocation | None
    key: str | None
    signers: tuple[str, ...]
    clock: Callable[[], float]
    entries: dict[str, tuple[bytes, TreeEntry]]

    @property
    def time(self) -> float | None:
        return None if self.branch.tip is None else self.branch.tip.time

    def problem(self) -> SynclineError | None:
        tip = self.branch.tip
        if tip is None:
            return SynclineError("NOT_FOUND", f"the repository has no branch {self.branch.name}")
        if self.signers and not self.branch.is_signed(self.signers):
            what = f"{tip.oid} on {self.branch.name} has no valid signature of a configured key"
            return SynclineError("COMMIT_UNSIGNED", what)
        return None

    def files(self, cluster: str) -> dict[str, str]:
        layout = self.settings.layout
        tree = cluster_trees(self.branch, layout).get(cluster)
        self.entries = {}
        for path, entry in self.branch.files(layout.cluster_path(cluster).encode(), tree) if tree else ():
            key = layout.key_of(decode_name(path) or path.decode("utf-8", "backslashreplace"))
            self.entries[key] = (path, entry)
        return {key: entry.fingerprint or "" for key, (_, entry) in self.entries.items()}

    def restore(self, keys: Sequence[str], context: StepContext) -> dict[str, Restored]:
        with self._scratch(context) as store:
            restorer = Restorer(self.branch, self.settings.layout, store, self.key)
            files, refused = restorer.examine(self.entries[key] for key in keys)
            found: dict[str, Restored] = {self.settings.layout.key_of(file.path): file.oid for file in files}
            if store is not None:
                tip = self.branch.tip
                assert tip is not None
                refused = [*restorer.write(RestorePlan(tip.oid, tuple(files), 0, tuple(refused))).refused]
            return found | dict(_errors(refused, self.settings.layout))

    @contextmanager
    def _scratch(self, context: StepContext) -> Iterator[FileStore | None]:
        if self.scratch is None:
            yield None
            return
        with scratch_store(self.scratch, self.settings.sync, context.work or context.run, self.clock) as store:
            yield store


def _errors(refused: Iterable[NotRestored], layout: Layout) -> Iterator[tuple[str, SynclineError]]:
    for each in refused:
        yield f"{layout.prefix}{each.path}", SynclineError(each.code, each.reason)


@dataclass(frozen=True, slots=True)
class StoreTarget:
    """A folder or a bucket: a restore reads all bytes of its files."""

    layout: Layout
    store: FileStore
    time: float | None = None

    def problem(self) -> SynclineError | None:
        return None

    def files(self, cluster: str) -> dict[str, str]:
        return {self.layout.key_of(path): mark for path, mark in self.store.listing(cluster)}

    def restore(self, keys: Sequence[str], context: StepContext) -> dict[str, Restored]:  # noqa: ARG002
        def read(key: str) -> Restored:
            try:
                return self.store.content_id(self.layout.path_of(key))
            except SynclineError as error:
                return error

        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="drill") as pool:
            return dict(zip(keys, pool.map(read, keys), strict=True))


@dataclass(frozen=True, slots=True)
class DrillAccess:
    """The access that a restore needs beside the branch: the scratch location, the key of encrypted files, and the public keys."""

    scratch: Callable[[], ScratchLocation | None] = lambda: None
    key: Callable[[], str | None] = lambda: None
    signers: Callable[[], tuple[str, ...]] = tuple
    clock: Callable[[], float] = time.time


NO_ACCESS: Final = DrillAccess()


@dataclass(frozen=True, slots=True)
class BranchTargets:
    """Opens branches as targets of a drill."""

    settings: SyncSettings
    open_branch: OpenBranch
    access: DrillAccess

    @contextmanager
    def open(self, group: str, context: StepContext) -> Iterator[DrillTarget]:
        with self.open_branch(group, context) as branch:
            branch.fetch()
            access = self.access
            yield BranchTarget(
                self.settings, branch, access.scratch(), access.key(), access.signers(), access.clock, {}
            )


def open_store(layout: Layout, store: FileStore) -> Callable[[str, StepContext], AbstractContextManager[DrillTarget]]:
    """Return a function that opens a folder or a bucket as the target of a drill."""
    return lambda _group, _context: nullcontext(StoreTarget(layout, store))
