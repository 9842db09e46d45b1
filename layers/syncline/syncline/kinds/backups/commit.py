"""The step commit: turn a batch of changed objects into one commit on a branch, or none if nothing has changed.

The branch's last commit is fetched with the folders that matter. Each object is read and hashed, and objects that the
tree already has are dropped. The rest is committed and pushed under a lease. If somebody else pushed meanwhile, the
remaining changes are committed on top of the new tip. Repeating a batch therefore changes nothing, whichever of its
messages or responses was lost.
"""

from __future__ import annotations

import hashlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Final

from syncline.clients.git.objects import TreeEntry, decode_name
from syncline.clients.git.repository import NewCommit, Person, RemoteBranch
from syncline.errors import SynclineError
from syncline.kinds.backups.ownership import BranchEvidence, OwnedFile, OwnedFiles, content_marks, foreign
from syncline.kinds.backups.paths import Layout, TakenPaths, collision, folded, folders_above, invalid_path
from syncline.kinds.backups.removals import GoneFiles, Limiter, SourceView
from syncline.kinds.backups.report import BATCH, Change, LogOperation, Tally, commit_message
from syncline.kinds.backups.secrets_filter import left_out
from syncline.kinds.backups.source import Index, ObjectContent, Reader, list_clusters
from syncline.kinds.kind import Completed, Failure, StepContext, Unfinished
from syncline.model import Item, Outcome, Result
from syncline.ownership import Limits
from syncline.store.backup_records import FileCount, IndexEntry

REPLAYS: Final = 8  # times that the changes are committed on a new tip before the batch fails with BRANCH_MOVED
PUSH_SECONDS: Final = 20.0
"""Seconds that are kept for the commit and the push, or a third of the time left if that is less."""

TransferResult = Completed | Unfinished | Result | Failure
OpenBranch = Callable[[str, StepContext], AbstractContextManager[RemoteBranch]]
"""Opens a branch by its name."""
Folders = Mapping[bytes, Mapping[bytes, TreeEntry]]
"""Entries of a tree's folders by name, by the path of the folder."""


@dataclass(frozen=True, slots=True)
class Signature:
    """Author and committer of commits. `signing_key` returns an SSH private key, or None for unsigned commits."""

    author: Person
    committer: Person
    signing_key: Callable[[], str | None] = lambda: None


@dataclass(frozen=True, slots=True)
class SyncSettings:
    """The settings of a sync of backups.

    `source_id` names the bucket and the policy for Secrets in the index, `first_source_id` is the name that an earlier
    version, which kept no records, used. `reference` returns the full name of a group's target.
    """

    sync: str
    source_id: str
    reference: Callable[[str], str]
    layout: Layout
    limits: Limits
    signature: Signature
    log: LogOperation = lambda _name, _data, _gauges: None
    first_source_id: str = ""


@dataclass(frozen=True, slots=True)
class Committer:
    """Makes the commits of one sync. `clock` returns Unix seconds."""

    settings: SyncSettings
    reader: Reader
    index: Index
    owned: OwnedFiles
    open_branch: OpenBranch
    clock: Callable[[], float] = time.time

    def commit(self, items: Sequence[Item], context: StepContext) -> Iterator[TransferResult]:
        """Yield one result for each item; all items are of one branch."""
        with self.open_branch(items[0].group, context) as branch:
            yield from _Batch(self, branch, items, context).results()


class _Batch:
    """One batch on one branch."""

    def __init__(self, committer: Committer, branch: RemoteBranch, items: Sequence[Item], context: StepContext) -> None:
        settings = committer.settings
        self._settings = settings
        self._layout = settings.layout
        self._reader = committer.reader
        self._index = committer.index
        self._owned = committer.owned
        self._clock = committer.clock
        self._branch = branch
        self._reference = settings.reference(branch.name)
        self._evidence = BranchEvidence(
            settings.sync, self._reference, settings.layout, committer.owned, branch, context
        )
        self._name = _batch_name(context.work, items)
        self._items = items
        self._context = context
        self._contents: dict[str, ObjectContent] = {}  # by path
        self._rows: dict[str, OwnedFile] = {}  # by key
        self._new: set[str] = set()  # keys of files that the branch did not have
        self._done: list[TransferResult] = []
        self._counted: dict[str, FileCount] | None = None
        self._files: dict[str, int] = {}  # number of files by cluster

    def results(self) -> Iterator[TransferResult]:
        self._branch.fetch()
        tree = self._entries(self._layout.path_of(item.name) for item in self._items)
        self._read_all(tree)
        self._rows = self._owned.get(content.item.name for content in self._contents.values())
        changes = self._within_limits(self._changes(tree))
        changed = self._push(changes) or self._changed_before()
        self._record()
        self._add_to_index()
        yield from self._done
        for path, content in self._contents.items():
            yield self._result(content, changed=path in changed)

    def _changed_before(self) -> set[str]:
        """Return the paths changed by an earlier try of this batch whose function died or whose push got no response."""
        tip = self._branch.tip
        if tip is None or tip.trailer(BATCH) != self._name:
            return set()
        put = self._branch.blobs_with_trailer(tip.parent, f"{BATCH}: {self._name}", self._layout.folder.encode())
        return {path.decode("utf-8", "surrogateescape") for path in put}

    # -- reading -------------------------------------------------------------------------------------------------

    def _entries(self, paths: Iterable[str]) -> Folders:
        """Return the folders above these paths at the tip."""
        return self._branch.folders({b"", *(folder.encode() for path in paths for folder in folders_above(path))})

    def _read_all(self, tree: Folders) -> None:
        """Read the objects of all items with valid paths, and store blobs that the tree does not have."""
        wanted: list[Item] = []
        for item in sorted(self._items, key=lambda each: each.name.encode()):
            error = invalid_path(self._layout.path_of(item.name))
            if error is None:
                wanted.append(item)
            else:
                self._done.append(Failure(item, error))
        read: set[str] = set()
        self._branch.store(self._new_blobs(wanted, tree, read))
        self._done += [Unfinished(item) for item in wanted if item.name not in read]

    def _new_blobs(self, items: Sequence[Item], tree: Folders, read: set[str]) -> Iterator[bytes]:
        """Read objects, add their names to `read`, and yield the blobs that the tree does not have."""
        stored: set[str] = set()
        taken = self._taken_paths(tree)
        reserved = min(PUSH_SECONDS, self._context.left() / 3)

        def over() -> bool:
            return self._context.left() <= reserved or self._context.halted()

        for content in self._reader.read(items, self._branch.store_stream, over):
            read.add(content.item.name)
            path = self._layout.path_of(content.item.name)
            error = content.error
            if error is None and content.blob is not None:
                error = self._collision(path, taken, tree)
            if error is not None:
                self._done.append(Failure(content.item, error))
                continue
            if content.data is not None and content.blob != _blob_at(tree, path) and content.blob not in stored:
                stored.add(str(content.blob))
                yield content.data
            self._contents[path] = replace(content, data=None)

    def _taken_paths(self, tree: Folders) -> TakenPaths:
        taken = TakenPaths()
        for folder, entries in tree.items():
            for name, entry in entries.items():
                path = decode_name(folder + b"/" + name if folder else name)
                if path is not None and not self._is_foreign_cluster(path, entry):
                    taken.add_entry(path, is_folder=entry.is_folder)
        return taken

    def _is_foreign_cluster(self, path: str, entry: TreeEntry) -> bool:
        """Return True for a foreign folder beside the clusters that would block a cluster of a similar name."""
        cluster = self._cluster(f"{path}/x") if entry.is_folder else ""
        if path != self._layout.cluster_path(cluster):
            return False
        mine = {self._layout.cluster_of(item.name) or "" for item in self._items}
        alike = any(folded(each) == folded(cluster) for each in mine)
        return alike and cluster not in mine and not self._owned.has(cluster)

    def _collision(self, path: str, taken: TakenPaths, tree: Folders) -> SynclineError | None:
        """Take a path, or return the error of its collision.

        A file in place of a folder that the path needs, below the cluster's own folder, is released if the bucket does
        not have it.
        """
        for folder in self._folders(path):
            if _blob_at(tree, folder) is not None and not self._at_source(folder):
                taken.release(folder)
        return collision(path, taken)

    def _folders(self, path: str) -> Iterator[str]:
        """Yield the folders of a path, below the cluster's own."""
        return folders_above(path, len(self._layout.cluster_path(self._cluster(path))) + 1)

    def _at_source(self, path: str) -> bool:
        content = self._contents.get(path)
        if content is not None:
            return content.blob is not None
        return self._reader.bucket.head(self._layout.key_of(path)) is not None

    # -- changes -------------------------------------------------------------------------------------------------

    def _changes(self, tree: Folders) -> list[Change]:
        """Return the changes to make at the tip. Foreign files stay, and their items get a result."""
        changes = []
        for path, content in list(self._contents.items()):
            key, before = content.item.name, _blob_at(tree, path)
            if before is None and content.blob is not None:
                self._new.add(key)
            if before == content.blob:
                continue
            if before is None or self._is_ours(key, before):
                changes.append(Change(path, before, content.blob))
            else:
                self._done.append(foreign(content.item.group, key, content.blob, before))
                del self._contents[path]
        self._rows |= self._evidence.learned()
        return changes

    def _is_ours(self, key: str, blob: str) -> bool:
        row = self._rows.get(key)
        return (row is not None and row.is_at(blob)) or self._evidence.has(key, blob)

    def _within_limits(self, changes: list[Change]) -> list[Change]:
        """Return the changes without the removals that exceed the limits; their items fail.

        Removals that a scan has sent on were checked there.
        """
        limiter = Limiter(self._settings.sync, self._settings.limits, self._owned, self._context)
        removals: dict[str, dict[str, OwnedFile]] = defaultdict(dict)
        for change in changes:
            content = self._contents[change.path]
            key = content.item.name
            if change.after is not None and change.before is None:
                etag = content.entry.etag if content.entry is not None else None
                limiter.renames.add(key, content_marks(change.after, etag, content.size))
            elif change.after is None and not content.item.detail.get("remove"):
                removals[self._cluster(change.path)][key] = self._rows.get(key) or OwnedFile(change.before or "")
        if not removals:
            return changes
        bucket, prefix = self._reader.bucket, self._layout.prefix

        def gone(cluster: str, files: dict[str, OwnedFile]) -> GoneFiles:
            vanished = not bucket.page(f"{prefix}{cluster}/", limit=1).objects
            return GoneFiles(files, self._owned.count([cluster]), vanished)

        def clusters() -> list[str]:
            return list_clusters(bucket, self._layout).names

        source = SourceView(
            clusters, lambda key: bucket.head(key) is not None, lambda: self._owned.count({*clusters(), *removals})
        )
        refused = limiter.refused({cluster: gone(cluster, files) for cluster, files in removals.items()}, source)
        for key, error in refused.items():
            content = self._contents.pop(self._layout.path_of(key))
            self._done.append(Failure(content.item, error))
        return [change for change in changes if change.path in self._contents]

    def _replaced(self, changes: list[Change]) -> list[Change]:
        """Return removals of the files in whose place these changes put folders."""
        tree = self._entries(change.path for change in changes)
        folders = {folder for change in changes if change.after is not None for folder in self._folders(change.path)}
        folders -= {change.path for change in changes}
        blobs = {folder: _blob_at(tree, folder) for folder in sorted(folders)}
        return [Change(folder, blob, None) for folder, blob in blobs.items() if blob is not None]

    # -- committing ----------------------------------------------------------------------------------------------

    def _push(self, changes: list[Change]) -> set[str]:
        """Commit and push, on a newer tip if somebody else pushed; return the changed paths."""
        changed: set[str] = set()
        for replay in range(REPLAYS):
            changed |= {change.path for change in changes}
            if not changes:
                return changed
            commit = self._commit(changes)
            try:
                self._branch.push(commit)
            except SynclineError as error:
                if error.code.name != "BRANCH_MOVED" or replay == REPLAYS - 1 or self._context.over:
                    raise
                self._branch.fetch()
                changes = self._changes(self._entries(self._contents))
            else:
                before = self._branch.tip.oid if self._branch.tip else None
                self._branch.set_tip(commit)
                self._evidence.note(before)
                self._record()
                self._evidence.settle(before)
                self._save_file_counts()
                self._log(commit, changes, replay)
                return changed
        raise AssertionError  # the loop always returns or raises

    def _commit(self, changes: list[Change]) -> str:
        changes = [*changes, *self._replaced(changes)]
        self._files = {cluster: count.files for cluster, count in self._file_counts().items()}
        changed = set()
        for change in changes:
            cluster = self._cluster(change.path)
            changed.add(cluster)
            grown = (change.after is not None) - (change.before is not None)
            self._files[cluster] = self._files.get(cluster, 0) + grown
        seconds = self._clock()
        message = commit_message(self._settings.sync, self._name, seconds, self._files, changed, Tally.of(changes))
        signature = self._settings.signature
        new = NewCommit(message, signature.author, signature.committer, int(seconds), signature.signing_key())
        return self._branch.commit(new, {change.path.encode(): change.after for change in changes})

    def _log(self, commit: str, changes: list[Change], replays: int) -> None:
        tally = Tally.of(changes)
        data: dict[str, object] = {
            "git_branch": self._branch.name,
            "git_commit": commit,
            "batch": self._name,
            "files_new": tally.new,
            "files_modified": tally.modified,
            "files_deleted": tally.deleted,
            "files_changed": len(changes),
            "files_downloaded": len(self._contents),
            "replays": replays,
            "clusters_processed": len({self._cluster(change.path) for change in changes}),
        }
        self._settings.log("git_push", data, {"ClustersBackedUp": float(len(self._files))})

    # -- file counts ---------------------------------------------------------------------------------------------

    def _file_counts(self) -> dict[str, FileCount]:
        """Return the number of files of each cluster of ours at the tip, from the index if its tree is unchanged."""
        trees = cluster_trees(self._branch, self._layout)
        if self._counted is None:
            self._counted = self._index.file_counts(self._reference)
        counts = {cluster: count for cluster, count in self._counted.items() if trees.get(cluster) == count.tree}
        mine = {self._layout.cluster_of(item.name) for item in self._items}
        new = {c: oid for c, oid in trees.items() if c not in counts and (c in mine or self._owned.has(c))}
        self._branch.fetch_below(list(new.values()))
        for cluster, oid in new.items():
            counts[cluster] = FileCount(oid, sum(1 for _ in self._branch.files(b"", oid)))
        self._counted |= counts
        return counts

    def _save_file_counts(self) -> None:
        trees = cluster_trees(self._branch, self._layout)
        counts = {cluster: FileCount(trees[cluster], n) for cluster, n in self._files.items() if cluster in trees}
        self._index.save_file_counts(self._reference, counts)

    def _cluster(self, path: str) -> str:
        return self._layout.cluster_of(self._layout.key_of(path)) or ""

    # -- records and results -------------------------------------------------------------------------------------

    def _add_to_index(self) -> None:
        """Add the objects that were read to the index, so the next full scan reads none of them."""
        learned: dict[str, dict[str, IndexEntry]] = defaultdict(dict)
        for path, content in self._contents.items():
            if content.entry is not None:
                learned[self._cluster(path)][content.item.name] = content.entry
        for cluster, entries in learned.items():
            self._index.add(self._settings.source_id, cluster, self._name, entries)

    def _record(self) -> None:
        """Record the files of the branch that are ours now: a commit of ours put them, or they are equal."""
        learned: dict[str, OwnedFile | None] = {}
        for content in self._contents.values():
            key, row = content.item.name, self._rows.get(content.item.name)
            if content.blob is None:
                if self._rows.pop(key, None) is not None:
                    learned[key] = None
                continue
            etag = content.entry.etag if content.entry is not None else ""
            same = row is not None and row.fingerprint == content.blob
            created = int(self._owned.clock()) if key in self._new else row.created if row is not None and same else 0
            file = OwnedFile(content.blob, etag, content.size, created)
            if file != row and not (same and key in self._new):
                learned[key] = self._rows[key] = file
        self._owned.write(learned)

    def _result(self, content: ObjectContent, *, changed: bool) -> TransferResult:
        item = content.item
        if not changed and content.left_out is not None:
            return left_out(item, content.left_out)
        if not changed:
            source = content.entry.etag if content.entry is not None else None
            return Result(item.group, item.name, Outcome.EQUAL, content.blob or source, content.blob)
        size = 0 if content.blob is None else content.size
        return Completed(Item(item.group, item.name, content.blob, item.target, size, changed=item.changed), size)


def cluster_trees(branch: RemoteBranch, layout: Layout) -> dict[str, str]:
    """Return the IDs of the clusters' trees at a branch's tip by name, without names that are not UTF-8."""
    root = layout.folder.encode()
    named = ((decode_name(name), entry) for name, entry in branch.folders([root])[root].items() if entry.is_folder)
    return {name: entry.oid for name, entry in named if name is not None}


def _batch_name(work: str, items: Sequence[Item]) -> str:
    """Return a name for these items of a work; a later try of the same items has the same name."""
    names = "\0".join(sorted(item.name for item in items))
    return f"{work}-{hashlib.blake2b(names.encode(), digest_size=5).hexdigest()}"


def _blob_at(tree: Folders, path: str) -> str | None:
    """Return the fingerprint of the file at a path of a tree, or None if there is no file."""
    folder, _, name = path.encode().rpartition(b"/")
    entry = tree.get(folder, {}).get(name)
    return None if entry is None else entry.fingerprint
