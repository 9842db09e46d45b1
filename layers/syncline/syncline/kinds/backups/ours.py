"""The record of the files at the target that are ours.

A file is ours while the target has the fingerprint that is recorded for it: we wrote it, or found it equal to the
source. Everything else at the target is foreign. The records are kept by cluster, as the target is.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from syncline.clients.git.repository import Branch
from syncline.clients.s3.client import Bucket
from syncline.errors import SynclineError
from syncline.kinds.backups.message import SYNC
from syncline.kinds.backups.paths import Layout, shown
from syncline.kinds.backups.reading import Clusters
from syncline.kinds.kind import StepContext
from syncline.model import Outcome, Result
from syncline.ownership import Windows

# Foreign files at the target: they stay as they are, and the report shows them.

EXTRAS: Final = 100
"""Extras of a cluster that are listed in a run; the others are counted."""


def foreign(group: str, key: str, source: str | None, target: str) -> Result:
    """Return the result of a foreign file: a conflict where the source has another under its name, else an extra."""
    if source is None:
        return Result(group, key, Outcome.EXTRA, None, target)
    what = f"{shown(key)} was not written by this sync, and is another at the source"
    return Result(group, key, Outcome.CONFLICT, source, target, 0, "FILE_DIFFERS", what)


def check_listing(bucket: Bucket, layout: Layout, found: Clusters, there: Collection[str], ledger: Ledger) -> None:
    """Check a bucket's list of clusters, of which the target has those ``there``.

    Raises LISTING_INCOMPLETE if the bucket lists none, although files of ours lie in those of the target, and
    SOURCE_ABSENT if it has no object below the source's prefix.
    """
    if found.names:
        return
    ours = [cluster for cluster in there if ledger.has(cluster)]
    if ours:
        what = f"{bucket} is listed without a single cluster, while the target has {len(ours)}"
        raise SynclineError("LISTING_INCOMPLETE", what)
    if found.is_empty and layout.prefix:
        raise SynclineError("SOURCE_ABSENT", f"{bucket} has no object below {layout.prefix!r}")


# The evidence of a branch: which of its files are ours because our own commits put them.
#
# It counts where the table has no record of a file, after a lost table or a function that died behind its push. The
# table remembers up to which commit the history was read, so that a scan reads what is new. It also remembers the commits
# of ours behind that one: where the branch no longer has one of them, the branch was set back, and the records are of files
# that are no longer there. The history is then read as a whole.

_ALWAYS: Final = 10 * 365 * 86_400.0
_MOST: Final = 8
"""Commits of ours that are remembered behind what was read; beyond that the history is read as a whole next time."""


class Evidence:
    """The evidence of one branch. Make it before the branch is fetched: what was read lies before what is there."""

    def __init__(  # noqa: PLR0913, PLR0917 - the parts of one look at a branch
        self, sync: str, reference: str, layout: Layout, ledger: Ledger, branch: Branch, context: StepContext
    ) -> None:
        self._sync = sync
        self._layout = layout
        self._ledger = ledger
        self._branch = branch
        self._context = context
        self._fact = f"backups-history:{sync}:{reference}:{layout.folder}"
        since, *pushed = (ledger.facts.recall(self._fact) or "").split(" ")
        self._since, self._pushed = since or None, tuple(pushed)
        self._tip: str | None = None
        self._put: dict[str, str | None] = {}
        self._learned: dict[str, Ours] = {}

    def has(self, key: str, blob: str) -> bool:
        """Return True if our latest commit that changed the key put this blob. Reads the history, once for each tip."""
        tip = self._branch.tip.oid if self._branch.tip else None
        if tip is not None and tip != self._tip and (tip != self._since or self._pushed):
            self._read()
            self._tip = tip
        return self._put.get(key) == content_of(blob)

    def learned(self) -> dict[str, Ours]:
        """Return the records that were written for what the history shows, since this was asked last."""
        learned, self._learned = self._learned, {}
        return learned

    def note(self, before: str | None) -> None:
        """Note that the branch's last commit is ours, and that it follows the commit ``before``.

        Call this before its files are recorded, and :meth:`settle` after. If the branch loses the commit, the records
        are ahead of it, and only this note leads to the history.
        """
        if self._branch.tip is None:
            return
        tip, pushed = self._branch.tip.oid, self._pushed
        pushed = (*(pushed[:-1] if pushed and before == pushed[-1] else pushed), tip)
        self._remember(*((self._since, pushed) if len(pushed) <= _MOST else (None, (tip,))))

    def settle(self, before: str | None) -> None:
        """Note that all up to the branch's last commit is recorded, if it directly follows what was read."""
        if self._branch.tip is not None and self._pushed == (self._branch.tip.oid,) and before == self._since:
            self._remember(self._branch.tip.oid)

    def _read(self) -> None:
        layout = self._layout
        trailer, folder = f"{SYNC}: {self._sync}", layout.folder.encode()
        put = self._branch.blobs_put(self._since, trailer, folder, having=self._pushed)
        # What was read before stays: this may be only what is new since.
        self._put |= {layout.key_of(path.decode("utf-8", "surrogateescape")): blob for path, blob in put.items()}
        if self._context.plan or self._branch.tip is None:
            return
        recorded = self._ledger.some(self._put)
        new = {key: blob for key, blob in self._put.items() if blob and key not in recorded}
        learned = {key: Ours(blob) for key, blob in (new | self._unrecorded(recorded)).items()}
        self._ledger.write(learned)
        self._learned |= learned
        self._remember(self._branch.tip.oid)

    def _unrecorded(self, recorded: Mapping[str, Ours]) -> dict[str, str]:
        """Return what the branch still has of files that we put after they were recorded."""
        latest = ((key, self._put[key], ours.fingerprint) for key, ours in recorded.items())
        put = {key: blob for key, blob, known in latest if blob is not None and blob != known}
        places = {key: self._layout.path_of(key).encode(errors="surrogateescape").rpartition(b"/") for key in put}
        folders = self._branch.folders({folder for folder, _, _ in places.values()})
        there = {key: folders[folder].get(name) for key, (folder, _, name) in places.items()}
        return {key: blob for key, blob in put.items() if (entry := there[key]) is not None and entry.oid == blob}

    def _remember(self, since: str | None, pushed: tuple[str, ...] = ()) -> None:
        self._since, self._pushed = since, pushed
        self._ledger.facts.remember(self._fact, " ".join((since or "", *pushed)), _ALWAYS)


class Rows(Protocol):
    """The records of one cluster: see :class:`syncline.store.files.FileRecords`."""

    def known(self, names: Iterable[str]) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]: ...

    def scan(self) -> Iterator[tuple[str, list[Any]]]: ...

    def count(self) -> int: ...

    def write(self, changes: Mapping[str, list[Any] | None]) -> object: ...


class Facts(Protocol):
    """See :class:`syncline.store.facts.Facts`."""

    def recall(self, key: str) -> str | None: ...

    def remember(self, key: str, value: str, seconds: float = ...) -> None: ...


@dataclass(frozen=True, slots=True)
class Ours:
    """A file of ours: its fingerprint at the target, and the ETag and the size (bytes) of the object that it is of.

    ``etag`` is "" and ``size`` -1 where they are not known. ``created`` is the time (Unix seconds) at which the file
    appeared at the target; 0 if it was there before, or has explained a rename.
    """

    fingerprint: str
    etag: str = ""
    size: int = -1
    created: int = 0

    def is_at(self, fingerprint: str) -> bool:
        """Return True if a file at the target is the one that is recorded."""
        return self.fingerprint in (fingerprint, content_of(fingerprint))

    @property
    def marks(self) -> tuple[object, ...]:
        """What files of equal content have in common."""
        return marks_of(self.fingerprint, self.etag, self.size)


def content_of(fingerprint: str) -> str:
    """Return a fingerprint without the mode before it.

    Git has one before that of an executable file or a link: whoever changed the mode of our file did not make another.
    """
    return re.sub(r"^1[0-7]{5}:", "", fingerprint)


def marks_of(fingerprint: str | None, etag: str | None, size: int | None) -> tuple[object, ...]:
    """Return what files of equal content have in common, as far as it is known."""
    marks: list[object] = [fingerprint] if fingerprint else []
    return (*marks, (etag, size)) if etag and size is not None and size >= 0 else tuple(marks)


class Ledger:
    """The records of a sync. ``rows`` returns those of a cluster, ``windows`` the removals of a cluster ("" for all).

    ``clock`` returns Unix seconds.
    """

    def __init__(
        self,
        layout: Layout,
        rows: Callable[[str], Rows],
        windows: Callable[[str], Windows],
        facts: Facts,
        clock: Callable[[], float],
    ) -> None:
        self._layout = layout
        self._rows = rows
        self.windows = windows
        self.facts = facts
        self.clock = clock

    def of(self, cluster: str) -> dict[str, Ours]:
        """Return the records of a cluster by key."""
        prefix = self._layout.prefix
        return {prefix + name: Ours(*row) for name, row in self._rows(cluster).scan()}

    def has(self, cluster: str) -> bool:
        """Return True if a cluster has any file of ours."""
        return self._rows(cluster).count() > 0

    def some(self, keys: Iterable[str]) -> dict[str, Ours]:
        """Return the records of keys, as far as they have any."""
        found: dict[str, Ours] = {}
        for cluster, names in self._by_cluster(dict.fromkeys(keys)).items():
            rows, _ = self._rows(cluster).known(names)
            found |= {self._layout.prefix + name: Ours(*row) for name, row in rows.items()}
        return found

    def write(self, changes: Mapping[str, Ours | None]) -> None:
        """Record files by key; None for one that is not ours any more."""
        for cluster, named in self._by_cluster(changes).items():
            self._rows(cluster).write({name: None if ours is None else _row(ours) for name, ours in named.items()})

    def count(self, clusters: Iterable[str]) -> int:
        """Return how many selected files of some clusters are ours."""
        return sum(self._layout.takes(key) for cluster in clusters for key in self.of(cluster))

    def _by_cluster(self, keys: Mapping[str, Ours | None]) -> dict[str, dict[str, Ours | None]]:
        found: dict[str, dict[str, Ours | None]] = defaultdict(dict)
        for key, ours in keys.items():
            cluster = self._layout.cluster_of(key)
            if cluster is not None:
                found[cluster][key.removeprefix(self._layout.prefix)] = ours
        return found


def _row(ours: Ours) -> list[Any]:
    return [ours.fingerprint, ours.etag, ours.size, ours.created]
