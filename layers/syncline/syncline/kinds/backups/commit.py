"""Committing: many changed objects become one commit on a branch, or none if nothing has changed after all.

The branch's last commit is fetched with the folders that matter; each object is read and hashed, and what the tree has
already is dropped. What is left is committed and pushed under a lease. If somebody else pushed meanwhile, the same
changes are put on what the branch is then, if they are still any. So doing all this twice changes nothing the second
time, whatever was lost in between.
"""

from __future__ import annotations

import hashlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Final

from syncline.clients.git.objects import Entry, text_of
from syncline.clients.git.repository import Branch, NewCommit, Person
from syncline.errors import SynclineError
from syncline.kinds.backups.memory import Memory
from syncline.kinds.backups.message import BATCH, Change, Tally, message_of
from syncline.kinds.backups.ours import Evidence, Ledger, Ours, foreign, marks_of
from syncline.kinds.backups.paths import Layout, Names, collision, folded, unfit
from syncline.kinds.backups.reading import Content, Reader, clusters_in
from syncline.kinds.backups.removals import Gone, Limiter, Source
from syncline.kinds.backups.sealing import left_out
from syncline.kinds.kind import Completed, Failure, StepContext, Unfinished
from syncline.model import Item, Outcome, Result
from syncline.ownership import Limits
from syncline.store.backup_records import Count, Known

REPLAYS: Final = 8
"""How often the changes are put on a new tip before the branch is left to the others for a while."""
PUSHING: Final = 20.0
"""Seconds, or a third of a shorter time, that are kept for the commit and the push: objects are read before."""

Answer = Completed | Unfinished | Result | Failure
Say = Callable[[str, dict[str, object], dict[str, float]], None]
"""Tells of an operation: its name, its data, and what of it is measured."""
Open = Callable[[str, StepContext], AbstractContextManager[Branch]]
"""Opens a branch by its name."""


@dataclass(frozen=True, slots=True)
class Signature:
    """Who commits. ``signing_key`` gives an SSH private key, None for commits without a signature."""

    author: Person
    committer: Person
    signing_key: Callable[[], str | None] = lambda: None


@dataclass(frozen=True, slots=True)
class Rules:
    """What of a sync's configuration decides on a commit.

    ``place`` names what is read and how, for the memory. ``first_place`` is what an earlier version, which kept no
    records, called it.
    """

    sync: str
    place: str
    reference: Callable[[str], str]
    layout: Layout
    limits: Limits
    signature: Signature
    say: Say = lambda _name, _data, _gauges: None
    first_place: str = ""


class Committer:
    """Makes the commits of one sync."""

    def __init__(  # noqa: PLR0913, PLR0917 - each is a part of the kind
        self,
        rules: Rules,
        reader: Reader,
        memory: Memory,
        ledger: Ledger,
        open_: Open,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._rules = rules
        self._layout = rules.layout
        self._reader = reader
        self._memory = memory
        self._ledger = ledger
        self._open = open_
        self._clock = clock

    def commit(self, items: Sequence[Item], context: StepContext) -> Iterator[Answer]:
        """One answer for each item, all of one branch."""
        with self._open(items[0].group, context) as branch:
            rules = self._rules
            evidence = Evidence(rules.sync, rules.reference(branch.name), self._layout, self._ledger, branch, context)
            branch.fetch()
            work = _Work(self, branch, evidence, items, context)
            yield from work.answers()


class _Work:
    """One batch on one branch."""

    def __init__(
        self, owner: Committer, branch: Branch, evidence: Evidence, items: Sequence[Item], context: StepContext
    ) -> None:
        self._rules = owner._rules  # noqa: SLF001 - two halves of one thing
        self._layout = self._rules.layout
        self._reader = owner._reader  # noqa: SLF001
        self._memory = owner._memory  # noqa: SLF001
        self._ledger = owner._ledger  # noqa: SLF001
        self._evidence = evidence
        self._rows: dict[str, Ours] = {}
        self._new: set[str] = set()  # keys of files that the branch did not have
        self._clock = owner._clock  # noqa: SLF001
        self._branch = branch
        self._batch = _name_of(context.work, items)
        self._items = items
        self._context = context
        self._contents: dict[str, Content] = {}  # by path
        self._done: list[Answer] = []
        self._remembered: dict[str, Count] | None = None
        self._files: dict[str, int] = {}

    def answers(self) -> Iterator[Answer]:
        there = self._entries(self._layout.path_of(item.name) for item in self._items)
        self._read_all(there)
        self._rows = self._ledger.some(content.item.name for content in self._contents.values())
        changes = self._changes(there)
        changes = self._capped(changes)
        landed = self._land(changes) or self._landed_before()
        self._record()
        self._note()
        yield from self._done
        for path, content in self._contents.items():
            yield self._answer(content, changed=path in landed)

    def _landed_before(self) -> set[str]:
        """Return what an earlier try of this batch changed: a push whose function died, or that nobody answered."""
        tip = self._branch.tip
        if tip is None or tip.trailer(BATCH) != self._batch:
            return set()
        put = self._branch.blobs_put(tip.parent, f"{BATCH}: {self._batch}", self._layout.folder.encode())
        return {path.decode("utf-8", "surrogateescape") for path in put}

    # -- looking -------------------------------------------------------------------------------------------------

    def _entries(self, paths: Iterator[str]) -> dict[bytes, dict[bytes, Entry]]:
        """The folders on the way to these paths, as the tip has them."""
        wanted = {b""}
        for path in paths:
            raw = path.encode()
            at = raw.find(b"/")
            while at >= 0:
                wanted.add(raw[:at])
                at = raw.find(b"/", at + 1)
        return self._branch.folders(wanted)

    def _read_all(self, there: Mapping[bytes, Mapping[bytes, Entry]]) -> None:
        """Read every item that can be a path, and keep here what the tree does not have."""
        wanted: list[Item] = []
        for item in sorted(self._items, key=lambda each: each.name.encode()):
            error = unfit(self._layout.path_of(item.name))
            if error is None:
                wanted.append(item)
            else:
                self._done.append(Failure(item, error))
        read: set[str] = set()
        self._branch.store(self._new_blobs(wanted, there, read))
        self._done += [Unfinished(item) for item in wanted if item.name not in read]

    def _is_foreign_cluster(self, path: str, entry: Entry) -> bool:
        """Return True for a foreign folder beside the clusters that would block one of a similar name."""
        cluster = self._cluster(f"{path}/x") if entry.is_folder else ""
        if path != self._layout.cluster_path(cluster):
            return False
        mine = {self._layout.cluster_of(item.name) or "" for item in self._items}
        alike = any(folded(each) == folded(cluster) for each in mine)
        return alike and cluster not in mine and not self._ledger.has(cluster)

    def _new_blobs(
        self, items: Sequence[Item], there: Mapping[bytes, Mapping[bytes, Entry]], read: set[str]
    ) -> Iterator[bytes]:
        stored: set[str] = set()
        names = self._names(there)
        kept = min(PUSHING, self._context.left() / 3)
        for content in self._reader.read(items, self._branch.store_stream, lambda: self._short(kept)):
            read.add(content.item.name)
            if content.error is not None:
                self._done.append(Failure(content.item, content.error))
                continue
            path = self._layout.path_of(content.item.name)
            error = None if content.blob is None else self._collision(path, names, there)
            if error is not None:
                self._done.append(Failure(content.item, error))
                continue
            if content.data is not None and content.blob != _blob_at(there, path) and content.blob not in stored:
                stored.add(str(content.blob))
                yield content.data
            self._contents[path] = replace(content, data=None)

    def _short(self, kept: float) -> bool:
        """Return True if no object may be read any more, so that there is time to push the others."""
        return self._context.left() <= kept or self._context.halted()

    def _names(self, there: Mapping[bytes, Mapping[bytes, Entry]]) -> Names:
        names = Names()
        for folder, entries in there.items():
            for name, entry in entries.items():
                path = text_of(folder + b"/" + name if folder else name)
                if path is not None and not self._is_foreign_cluster(path, entry):
                    names.add_entry(path, is_folder=entry.is_folder)
        return names

    def _collision(self, path: str, names: Names, there: Mapping[bytes, Mapping[bytes, Entry]]) -> SynclineError | None:
        """Take a path, or return why it cannot be taken.

        What is not a folder but stands in the place of one, below the cluster's own folder, gives way to it if the
        bucket does not have it.
        """
        for folder in self._folders(path):
            if _blob_at(there, folder) is not None and not self._at_source(folder):
                names.drop(folder)
        return collision(path, names)

    def _folders(self, path: str) -> Iterator[str]:
        """Yield the folders that a path lies in, below the cluster's own."""
        start = len(self._layout.cluster_path(self._cluster(path))) + 1
        while (at := path.find("/", start)) >= 0:
            yield path[:at]
            start = at + 1

    def _at_source(self, path: str) -> bool:
        content = self._contents.get(path)
        if content is not None:
            return content.blob is not None
        return self._reader.bucket.head(self._layout.key_of(path)) is not None

    # -- changing ------------------------------------------------------------------------------------------------

    def _changes(self, there: Mapping[bytes, Mapping[bytes, Entry]]) -> list[Change]:
        """Return what is to be changed at the tip. Foreign files stay, and their items are answered."""
        changes = []
        for path, content in list(self._contents.items()):
            key, before = content.item.name, _blob_at(there, path)
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

    def _replaced(self, changes: list[Change]) -> list[Change]:
        """Return what these changes put folders in the place of, as removals."""
        there = self._entries(change.path for change in changes)
        folders = {folder for change in changes if change.after is not None for folder in self._folders(change.path)}
        folders -= {change.path for change in changes}
        marks = {folder: _blob_at(there, folder) for folder in sorted(folders)}
        return [Change(folder, mark, None) for folder, mark in marks.items() if mark is not None]

    def _is_ours(self, key: str, blob: str) -> bool:
        row = self._rows.get(key)
        return (row is not None and row.is_at(blob)) or self._evidence.has(key, blob)

    def _capped(self, changes: list[Change]) -> list[Change]:
        """Return the changes without the removals that go beyond the limits; their items fail.

        What a scan has found to be gone was decided there.
        """
        limiter = Limiter(self._rules.sync, self._rules.limits, self._ledger, self._context)
        removals: dict[str, dict[str, Ours]] = defaultdict(dict)
        for change in changes:
            content = self._contents[change.path]
            if change.after is not None and change.before is None:
                etag = content.known.etag if content.known is not None else None
                limiter.renames.add(content.item.name, marks_of(change.after, etag, content.size))
            elif change.after is None and not content.item.detail.get("remove"):
                key = content.item.name
                removals[self._cluster(change.path)][key] = self._rows.get(key) or Ours(change.before or "")
        if not removals:
            return changes
        bucket, prefix = self._reader.bucket, self._layout.prefix

        def gone(cluster: str, files: dict[str, Ours]) -> Gone:
            vanished = not bucket.page(f"{prefix}{cluster}/", limit=1).objects
            return Gone(files, self._ledger.count([cluster]), vanished)

        def clusters() -> list[str]:
            return clusters_in(bucket, self._layout).names

        source = Source(
            clusters, lambda key: bucket.head(key) is not None, lambda: self._ledger.count({*clusters(), *removals})
        )
        refused = limiter.refused({cluster: gone(cluster, files) for cluster, files in removals.items()}, source)
        for key, error in refused.items():
            content = self._contents.pop(self._layout.path_of(key))
            self._done.append(Failure(content.item, error))
        return [change for change in changes if change.path in self._contents]

    def _land(self, changes: list[Change]) -> set[str]:
        """Commit and push, on whatever the branch is by then; the paths that were changed."""
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
                changes = self._changes(self._entries(iter(self._contents)))
            else:
                before = self._branch.tip.oid if self._branch.tip else None
                self._branch.landed(commit)
                self._evidence.note(before)
                self._record()
                self._evidence.settle(before)
                self._keep_counts()
                self._tell(commit, changes, replay)
                return changed
        raise AssertionError  # the loop has no other end

    def _tell(self, commit: str, changes: list[Change], replays: int) -> None:
        tally = Tally.of(changes)
        data: dict[str, object] = {"git_branch": self._branch.name, "git_commit": commit, "batch": self._batch}
        data |= {"files_new": tally.new, "files_modified": tally.modified, "files_deleted": tally.deleted}
        data |= {"files_changed": len(changes), "files_downloaded": len(self._contents), "replays": replays}
        data |= {"clusters_processed": len({self._cluster(change.path) for change in changes})}
        self._rules.say("git_push", data, {"ClustersBackedUp": float(len(self._files))})

    def _commit(self, changes: list[Change]) -> str:
        changes = [*changes, *self._replaced(changes)]
        by_cluster: dict[str, list[Change]] = defaultdict(list)
        for change in changes:
            by_cluster[self._cluster(change.path)].append(change)
        tallies = {cluster: Tally.of(changed) for cluster, changed in by_cluster.items()}
        self._files = {cluster: count.files for cluster, count in self._count().items()}
        for cluster, tally in tallies.items():
            self._files[cluster] = self._files.get(cluster, 0) + tally.grown
        seconds = self._clock()
        message = message_of(self._rules.sync, self._batch, seconds, self._files, tallies)
        who = self._rules.signature
        new = NewCommit(message, who.author, who.committer, int(seconds), who.signing_key())
        return self._branch.commit(new, {change.path.encode(): change.after for change in changes})

    # -- counting ------------------------------------------------------------------------------------------------

    def _count(self) -> dict[str, Count]:
        """Return the number of files that each cluster of ours has at the tip: remembered for its tree, else counted."""
        trees = self._trees()
        if self._remembered is None:
            self._remembered = self._memory.counts(self._reference)
        counts = {c: n for c, n in self._remembered.items() if trees.get(c) == n.tree}
        mine = {self._layout.cluster_of(item.name) for item in self._items}
        new = {c: oid for c, oid in trees.items() if c not in counts and (c in mine or self._ledger.has(c))}
        self._branch.fetch_below(list(new.values()))
        for cluster, oid in new.items():
            counts[cluster] = Count(oid, sum(1 for _ in self._branch.files(b"", oid)))
        self._remembered |= counts
        return counts

    def _trees(self) -> dict[str, str]:
        """The clusters that the tip has, and the ids of their trees."""
        root = self._layout.folder.encode()
        entries = self._branch.folders([root])[root]
        named = ((text_of(name), entry) for name, entry in entries.items() if entry.is_folder)
        return {name: entry.oid for name, entry in named if name is not None}

    def _keep_counts(self) -> None:
        trees = self._trees()
        counts = {cluster: Count(trees[cluster], files) for cluster, files in self._files.items() if cluster in trees}
        self._memory.keep_counts(self._reference, counts)

    @property
    def _reference(self) -> str:
        return self._rules.reference(self._branch.name)

    def _cluster(self, path: str) -> str:
        return self._layout.cluster_of(self._layout.key_of(path)) or ""

    # -- telling -------------------------------------------------------------------------------------------------

    def _note(self) -> None:
        """Let the next full look know what was read, so that it reads nothing."""
        learned: dict[str, dict[str, Known]] = defaultdict(dict)
        for path, content in self._contents.items():
            if content.known is not None:
                learned[self._cluster(path)][content.item.name] = content.known
        for cluster, known in learned.items():
            self._memory.note(self._rules.place, cluster, self._batch, known)

    def _record(self) -> None:
        """Record the files of the branch that are ours now: they were put by a commit of ours, or are equal."""
        learned: dict[str, Ours | None] = {}
        for content in self._contents.values():
            key, row = content.item.name, self._rows.get(content.item.name)
            if content.blob is None:
                learned |= {key: None} if row is not None else {}
                continue
            etag = content.known.etag if content.known is not None else ""
            same = row is not None and row.fingerprint == content.blob
            created = int(self._ledger.clock()) if key in self._new else row.created if row is not None and same else 0
            ours = Ours(content.blob, etag, content.size, created)
            if ours != row and not (same and key in self._new):
                learned[key] = self._rows[key] = ours
        for key, ours_now in learned.items():
            if ours_now is None:
                self._rows.pop(key, None)
        self._ledger.write(learned)

    def _answer(self, content: Content, *, changed: bool) -> Answer:
        item = content.item
        source = content.known.etag if content.known is not None else None
        if not changed and content.left_out is not None:
            return left_out(item, content.left_out)
        if not changed:
            return Result(item.group, item.name, Outcome.EQUAL, content.blob or source, content.blob)
        if content.blob is None:
            return Completed(Item(item.group, item.name, None, item.target, 0))
        return Completed(Item(item.group, item.name, content.blob, item.target, content.size), content.size)


def _name_of(work: str, items: Sequence[Item]) -> str:
    """A name for these items of a work: the same when they are tried once more, whatever became of it the first time."""
    names = "\0".join(sorted(item.name for item in items))
    return f"{work}-{hashlib.blake2b(names.encode(), digest_size=5).hexdigest()}"


def _blob_at(there: Mapping[bytes, Mapping[bytes, Entry]], path: str) -> str | None:
    """Return the fingerprint of what a tree has at a path, or None if there is nothing or a folder."""
    folder, _, name = path.encode().rpartition(b"/")
    entry = there.get(folder, {}).get(name)
    return None if entry is None else entry.fingerprint
