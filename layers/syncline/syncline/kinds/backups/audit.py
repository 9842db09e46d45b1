"""Audit of backups: every object of the bucket with every file of the branch, folder or bucket that it is synced to.

The objects pass the filter of the sync, so a Secret that is left out is not expected at the target. Each object is read and
hashed as git does, and compared with the blob in the branch's tree. A folder or a bucket has no such IDs: its files are
read as well, unless both ETags are equal and the filter changes nothing. With ``deep`` the content of all files of one
share is read at the target and hashed, by a hash of their keys.

No records are read. In memory are the listings of one cluster, as in a run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Final, Protocol

from syncline.clients.git.objects import TreeEntry, branch_name_error, decode_name, stream_id
from syncline.clients.git.repository import RemoteBranch
from syncline.clients.http.listings import InvalidEntry, OnInvalid
from syncline.errors import SynclineError
from syncline.kinds.backups.commit import OpenBranch, cluster_trees
from syncline.kinds.backups.compare import cluster_failure, invalid_entry_results, portion_pages
from syncline.kinds.backups.paths import Layout, invalid_path, shown
from syncline.kinds.backups.source import ObjectContent, Reader, list_clusters, list_objects
from syncline.kinds.backups.stores import FileStore
from syncline.kinds.kind import Failure, Page, StepContext
from syncline.model import Audit, Item, Outcome, Result, Scope

"""Keys compared before a page ends."""
_AT_ONCE: Final = 8
"""Files of a folder or bucket read at a time."""
_LAST: Final = "\U0010ffff"
"""Behind every key."""

Content = str | SynclineError
"""The ID of a file's content as it was read, or the reason why it was not."""


class AuditTarget(Protocol):
    """One branch, folder or bucket that an audit reads."""

    @property
    def has_ids(self) -> bool:
        """True if the fingerprints of files are IDs of blobs."""
        ...

    def clusters(self) -> set[str]:
        """Return the clusters that have files."""
        ...

    def files(self, cluster: str, odd: OnInvalid) -> dict[str, str]:
        """Return the fingerprints of a cluster's files by key."""
        ...

    def contents(self, keys: Sequence[str]) -> Mapping[str, Content]:
        """Read files that are among those of :meth:`files`, and return the IDs of their content."""
        ...


@dataclass(frozen=True, slots=True)
class BackupAudit:
    """One audit of a sync.

    `group_of` names the group of a cluster, and `open_target` opens its target. `at_target` returns the target's clusters.
    """

    reader: Reader
    layout: Layout
    group_of: Callable[[str], str]
    open_target: Callable[[str, StepContext], AbstractContextManager[AuditTarget]]
    at_target: Callable[[StepContext], set[str]]
    audit: Audit

    def pages(self, scope: Scope, cursor: str | None, context: StepContext) -> Iterator[Page]:
        """Yield the pages behind a cursor: the last cluster and key that were compared, as JSON."""
        after: tuple[str, str] = ("", "") if cursor is None else tuple(json.loads(cursor))
        bucket = self.reader.bucket
        source = list_clusters(bucket, self.layout)
        if source.is_empty:
            # It may be a fault of the service, and would make everything at the target extra.
            where = (
                f"{bucket} has no object below {self.layout.prefix!r}" if self.layout.prefix else f"{bucket} is empty"
            )
            raise SynclineError("SOURCE_ABSENT", where)
        if cursor is None and source.invalid:
            invalid = invalid_entry_results(source.invalid, "", lambda _: True).values()
            yield Page(_cursor(*after), results=tuple(map(_unreadable, invalid)))
        wanted = None if scope.groups is None else self._keys(scope.groups)
        if cursor is None and context.named:
            missing = sorted(set(wanted or ()) - set(source.names))
            yield Page(_cursor(*after), failures=tuple(self._absent(cluster) for cluster in missing))
        names = set(source.names) | (
            {*filter(self.layout.takes_cluster, self.at_target(context))} if wanted is None else set()
        )
        names = names if wanted is None else {*wanted}
        for group, clusters in groupby(sorted(name for name in names if name >= after[0]), self.group_of):
            if context.over:
                return
            error = branch_name_error(group) if self.layout.branch_per_cluster else None
            if error is not None:
                for cluster in clusters:
                    result = Result(
                        group, f"{cluster}/", Outcome.UNREADABLE, None, None, 0, error.code.name, error.what
                    )
                    yield Page(_cursor(cluster, _LAST), results=(result,))
                continue
            with self.open_target(group, context) as target:
                for cluster in clusters:
                    keys = None if wanted is None else wanted[cluster]
                    yield from self._cluster(cluster, keys, target, after, context, listed=cluster in source.names)
                    if context.over:
                        return

    def _absent(self, cluster: str) -> Failure:
        """Return the failure of a cluster that a person has named and that the source does not have."""
        what = f"{self.reader.bucket} has no cluster {shown(cluster)}"
        return cluster_failure(cluster, SynclineError("SOURCE_ABSENT", what))

    def _keys(self, groups: Iterable[str]) -> dict[str, set[str] | None]:
        """Return the keys of a scope by cluster, None for a complete cluster."""
        found: dict[str, set[str] | None] = {}
        for group in groups:
            if group.endswith("/"):
                found[group.partition("/")[0]] = None
            elif (cluster := self.layout.cluster_of(group)) is not None:
                keys = found.setdefault(cluster, set())
                if keys is not None:
                    keys.add(group)
        return found

    def _cluster(  # noqa: PLR0913 - the parts of one comparison
        self,
        cluster: str,
        wanted: set[str] | None,
        target: AuditTarget,
        after: tuple[str, str],
        context: StepContext,
        *,
        listed: bool,
    ) -> Iterator[Page]:
        listing = list_objects(self.reader.bucket, self.layout, cluster, listed=listed)
        odd: list[InvalidEntry] = []
        files: dict[str, str] = {}
        try:
            files = {key: mark for key, mark in target.files(cluster, odd.append).items() if self.layout.takes(key)}
        except SynclineError as error:
            listing.error = listing.error or error
        if listing.error is not None:
            if not context.over:
                yield Page(_cursor(cluster, _LAST), failures=(cluster_failure(cluster, listing.error),))
            return
        group = self.group_of(cluster)
        named = [each if each.name is None else replace(each, name=self.layout.key_of(each.name)) for each in odd]
        invalid = invalid_entry_results([*listing.invalid, *named], group, self.layout.takes)
        keys = sorted({*listing.objects, *files} - invalid.keys(), key=str.encode)
        keys = [key for key in keys if wanted is None or key in wanted]
        if after[0] == cluster:
            keys = [key for key in keys if key.encode() > after[1].encode()]
        elif invalid and wanted is None:
            yield Page(_cursor(cluster, ""), results=tuple(map(_unreadable, invalid.values())))
        comparison = _Comparison(self, group, target, listing.objects, files, context)
        try:
            yield from comparison.pages(keys, cluster)
        except SynclineError as error:
            if not context.over:
                yield Page(_cursor(cluster, _LAST), failures=(cluster_failure(cluster, error),))


@dataclass(frozen=True, slots=True)
class _Comparison:
    """The comparison of one cluster: the listed `objects` of the source, and the `files` of the target by key."""

    audit: BackupAudit
    group: str
    target: AuditTarget
    objects: Mapping[str, object]
    files: Mapping[str, str]
    context: StepContext

    def pages(self, keys: Sequence[str], cluster: str) -> Iterator[Page]:
        """Yield the pages of a cluster while there is time."""
        if (yield from portion_pages(keys, lambda some: self._page(some, cluster), self.context)):
            yield Page(_cursor(cluster, _LAST))

    def _page(self, keys: Sequence[str], cluster: str) -> Page | None:
        """Return the page of these keys, or of the first of them if the time is short; None if it has none."""
        equal = {key for key in keys if self._is_listed_equal(key)}
        wanted = [key for key in keys if key in self.objects and key not in equal]
        contents = {each.item.name: each for each in self._read(wanted)}
        unread = next((at for at, key in enumerate(keys) if key in wanted and key not in contents), len(keys))
        done = keys[:unread]
        if not done:
            return None
        read = self.target.contents([key for key in done if self._is_read(key, contents.get(key))])
        results: list[Result] = []
        failures: list[Failure] = []
        for key in done:
            content = contents.get(key)
            error = None if content is None else content.error
            if error is not None:
                failures.append(Failure(Item(self.group, key, None, self.files.get(key)), error, key))
                continue
            result = self._result(key, content, read.get(key), is_equal=key in equal)
            if result is not None:
                results.append(result)
        return Page(_cursor(cluster, done[-1]), results=tuple(results), failures=tuple(failures))

    def _is_listed_equal(self, key: str) -> bool:
        """Return True if the listings show that a file of a bucket has the bytes of the object."""
        reader, listed = self.audit.reader, self.objects.get(key)
        if self.target.has_ids or listed is None or reader.secrets_filter.inspects or self._is_deep(key):
            return False
        etag: str = getattr(listed, "etag", "")
        return etag != "" and self.files.get(key) == etag

    def _is_deep(self, key: str) -> bool:
        return self.audit.audit.deep and self.audit.audit.covers(key)

    def _is_read(self, key: str, content: ObjectContent | None) -> bool:
        """Return True if the target's file has to be read."""
        at_target = self.files.get(key)
        if content is None or content.blob is None or at_target is None:
            return False
        return (at_target == content.blob and self._is_deep(key)) if self.target.has_ids else True

    def _read(self, keys: Sequence[str]) -> Iterator[ObjectContent]:
        items = [Item(self.group, key) for key in keys]
        blob = self.audit.reader.read(items, lambda blob: stream_id(blob.size, blob.chunks), lambda: self.context.over)
        for content in blob:
            yield replace(content, data=None)  # only its ID is compared

    def _result(
        self, key: str, content: ObjectContent | None, read: Content | None, *, is_equal: bool
    ) -> Result | None:
        """Return the result of a key, None if it is gone from both sides since it was listed."""
        at_target = self.files.get(key)
        if is_equal:
            return Result(self.group, key, Outcome.EQUAL, at_target, at_target)
        if content is None:
            return Result(self.group, key, Outcome.EXTRA, None, at_target)
        if content.blob is None or at_target is None:
            return self._one_sided(key, content, at_target)
        result = Result(self.group, key, Outcome.EQUAL, content.blob, at_target)
        if isinstance(read, SynclineError):
            return replace(result, outcome=Outcome.UNREADABLE, code=read.code.name, reason=read.what)
        if read is not None:
            result = replace(result, moved_bytes=content.size, target=at_target if self.target.has_ids else read)
        if result.target != content.blob:
            result = replace(result, outcome=Outcome.DIFFERENT, reason="the contents differ")
        elif read is not None and read != content.blob:
            reason = f"the bytes of the blob are damaged: they have the ID {read}"
            result = replace(result, outcome=Outcome.DIFFERENT, reason=reason)
        return result

    def _one_sided(self, key: str, content: ObjectContent, at_target: str | None) -> Result | None:
        """Return the result of a key that only one side has, or that the filter leaves out."""
        if content.blob is not None:
            refused = invalid_path(self.audit.layout.path_of(key))
            reason = "the target does not have it" if refused is None else refused.what
            code = None if refused is None else refused.code.name
            return Result(self.group, key, Outcome.MISSING, content.blob, None, 0, code, reason)
        gone = content.entry is None
        if at_target is None:
            return None if gone else Result(self.group, key, Outcome.LEFT_OUT, code=content.left_out or None)
        reason = "gone from the source since the audit began" if gone else "it is or contains a Secret to leave out"
        return Result(self.group, key, Outcome.EXTRA, None, at_target, reason=reason)


def _cursor(cluster: str, key: str) -> str:
    return json.dumps([cluster, key])


def _unreadable(result: Result) -> Result:
    return replace(result, outcome=Outcome.UNREADABLE)


# -- targets -----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class BranchFiles:
    """A branch of a repository, which was fetched."""

    layout: Layout
    branch: RemoteBranch
    has_ids: bool = True
    _oids: dict[str, str] = field(default_factory=dict)

    def clusters(self) -> set[str]:
        return set() if self.branch.tip is None else {*cluster_trees(self.branch, self.layout)}

    def files(self, cluster: str, odd: OnInvalid) -> dict[str, str]:  # noqa: ARG002 - a tree has no invalid entries
        self._oids = {}
        tree = None if self.branch.tip is None else cluster_trees(self.branch, self.layout).get(cluster)
        found: dict[str, TreeEntry] = {}
        for path, entry in self.branch.files(self.layout.cluster_path(cluster).encode(), tree) if tree else ():
            key = self.layout.key_of(decode_name(path) or path.decode("utf-8", "backslashreplace"))
            found[key] = entry
        self._oids = {key: entry.oid for key, entry in found.items()}
        return {key: entry.fingerprint or "" for key, entry in found.items()}

    def contents(self, keys: Sequence[str]) -> Mapping[str, Content]:
        found = dict[str, Content]()
        self._read(sorted({self._oids[key] for key in keys}), found)
        return {key: found[self._oids[key]] for key in keys}

    def _read(self, oids: Sequence[str], found: dict[str, Content]) -> None:
        """Read blobs and hash them. If one of several cannot be read, each half is read separately."""
        if not oids:
            return
        try:
            with self.branch.blobs(oids) as blobs:
                for oid, blob in zip(oids, blobs, strict=True):
                    found[oid] = stream_id(blob.size, blob.chunks)
        except SynclineError as error:
            if error.is_any("TIME_SHORT", "RUN_CANCELLED", "UNREACHABLE", "DISK_FULL"):
                raise
            if len(oids) == 1:
                found[oids[0]] = error
                return
            middle = len(oids) // 2
            self._read(oids[:middle], found)
            self._read(oids[middle:], found)


@contextmanager
def fetched_branch(layout: Layout, open_branch: OpenBranch, group: str, context: StepContext) -> Iterator[BranchFiles]:
    """Open a branch and fetch it."""
    with open_branch(group, context) as branch:
        branch.fetch()
        yield BranchFiles(layout, branch)


def clusters_of_branches(layout: Layout, open_branch: OpenBranch, context: StepContext) -> set[str]:
    """Return the clusters that the repository has, on one branch or with a branch for each."""
    if not layout.branch_per_cluster:
        with fetched_branch(layout, open_branch, layout.branch, context) as target:
            return target.clusters()
    with open_branch(layout.branch_of("any"), context) as branch:
        names = map(layout.cluster_of_branch, branch.heads(layout.branch_of("*")))
        return {name for name in names if name is not None}


@dataclass(frozen=True, slots=True)
class StoreFiles:
    """A folder or a bucket."""

    layout: Layout
    store: FileStore
    has_ids: bool = False

    def clusters(self) -> set[str]:
        return {*self.store.top_folders()}

    def files(self, cluster: str, odd: OnInvalid) -> dict[str, str]:
        return {self.layout.key_of(path): mark for path, mark in self.store.listing(cluster, odd)}

    def contents(self, keys: Sequence[str]) -> Mapping[str, Content]:
        def read(key: str) -> Content:
            try:
                return self.store.content_id(self.layout.path_of(key))
            except SynclineError as error:
                return error

        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="audit") as pool:
            return dict(zip(keys, pool.map(read, keys), strict=True))
