"""A committer with a bucket, a branch, an index and records in memory.

world = World({"east/shop/a": b"content"})
results = world.commit("east/shop/a")
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final, cast

from syncline.clients.git.objects import FILE, FOLDER, Commit, TreeEntry, blob_id
from syncline.clients.git.repository import NewCommit, Person, RemoteBranch
from syncline.clients.s3.head import ObjectHead
from syncline.clients.s3.xml import ListedObject, ListPage
from syncline.errors import SynclineError
from syncline.kinds.backups.commit import Committer, Signature, SyncSettings, TransferResult
from syncline.kinds.backups.ownership import OwnedFile
from syncline.kinds.backups.paths import Layout
from syncline.kinds.backups.report import BATCH
from syncline.kinds.backups.source import ObjectContent, Reader
from syncline.kinds.kind import Completed, Failure, StepContext, Unfinished
from syncline.model import Item, Result
from syncline.ownership import Limits
from syncline.store.backup_records import IndexEntry, LeftOutCode
from tests.rig.backups_memory import InMemoryIndex, InMemoryOwnership

AUTHOR, COMMITTER = Person("Author", "author@example.com"), Person("Bot", "bot@example.com")
SECONDS: Final = 1_750_000_000.0
MODIFIED: Final = 1_749_999_000
ALL: Final = Limits(1.0, 1000, 86_400.0)


@dataclass
class _Remote:
    """A branch on its server. `changed` has the changes of the last commit, `put` the blobs of our earlier commits."""

    files: dict[str, str] = field(default_factory=dict)
    commits: list[tuple[str, NewCommit | None]] = field(default_factory=list)
    changed: Mapping[str, str | None] = field(default_factory=dict)
    put: dict[str, str | None] = field(default_factory=dict)

    def change(self, files: Mapping[str, str | None], new: NewCommit | None = None) -> None:
        """Put blobs and remove paths in a commit, which is foreign without `new`."""
        for path, blob in files.items():
            if blob is None:
                self.files.pop(path, None)
            else:
                self.files[path] = blob
        self.changed = files
        self.commits.append((f"commit {len(self.commits)}", new))


class _Branch:
    """A clone of the branch. `meanwhile` is called before each push; `counted` lists the counted trees."""

    name = "main"

    def __init__(self, remote: _Remote, meanwhile: Callable[[], None]) -> None:
        self.remote = remote
        self.tip: Commit | None = None
        self.blobs: set[str] = set()
        self.counted: list[str] = []
        self._meanwhile = meanwhile
        self._made: dict[str, tuple[dict[str, str | None], NewCommit]] = {}
        self._files: dict[str, str] = {}

    def fetch(self) -> None:
        self._files = dict(self.remote.files)
        if self.remote.commits:
            oid, new = self.remote.commits[-1]
            self.tip = Commit(oid, "tree", "" if new is None else new.message)

    def folders(self, wanted: Iterable[bytes]) -> dict[bytes, dict[bytes, TreeEntry]]:
        return {folder: dict(self._entries(folder.decode())) for folder in wanted}

    def _entries(self, folder: str) -> Iterator[tuple[bytes, TreeEntry]]:
        start = f"{folder}/" if folder else ""
        for path, blob in self._files.items():
            if path.startswith(start):
                name, slash, _ = path[len(start) :].partition("/")
                below = sorted(each for each in self._files.items() if each[0].startswith(f"{start}{name}/"))
                tree = f"{start}{name} {hashlib.sha256(repr(below).encode()).hexdigest()}"
                yield name.encode(), TreeEntry(FOLDER, tree) if slash else TreeEntry(FILE, blob)

    def store(self, blobs: Iterable[bytes]) -> None:
        for each in blobs:
            assert blob_id(each) not in self.blobs, "each is stored once"
            self.blobs.add(blob_id(each))

    def store_stream(self, _blob: object) -> str:
        raise AssertionError("all objects are small")

    def commit(self, new: NewCommit, changes: Mapping[bytes, str | None]) -> str:
        oid = f"made {len(self._made)}"
        self._made[oid] = ({path.decode(): blob for path, blob in changes.items()}, new)
        return oid

    def push(self, commit: str) -> None:
        self._meanwhile()
        if self.remote.commits and (self.tip is None or self.remote.commits[-1][0] != self.tip.oid):
            raise SynclineError("BRANCH_MOVED", "another writer pushed")
        changes, new = self._made[commit]
        assert all(blob is None or blob in self.blobs or blob in self._files.values() for blob in changes.values())
        self.remote.change(changes, new)

    def set_tip(self, _commit: str) -> None:
        self.fetch()

    def fetch_below(self, trees: Sequence[str]) -> None:
        self.counted += trees

    def files(self, _folder: bytes, tree: str) -> Iterator[str]:
        assert tree in self.counted
        return (path for path in self._files if path.startswith(f"{tree.split(' ', maxsplit=1)[0]}/"))

    def blobs_with_trailer(self, _since: object, trailer: str, _folder: bytes, **_: object) -> dict[bytes, str | None]:
        put = self.remote.changed if trailer.startswith(BATCH) else self.remote.put
        return {path.encode(): blob for path, blob in put.items()}


@dataclass
class World:
    """A bucket, a branch, an index and records. `left_out` has codes of objects left out, `broken` has read errors."""

    objects: dict[str, bytes] = field(default_factory=dict)
    remote: _Remote = field(default_factory=_Remote)
    index: InMemoryIndex = field(default_factory=InMemoryIndex)
    ownership: InMemoryOwnership = field(default_factory=InMemoryOwnership)
    left_out: dict[str, LeftOutCode] = field(default_factory=dict)
    broken: dict[str, SynclineError] = field(default_factory=dict)
    meanwhile: Callable[[], None] = lambda: None
    limits: Limits = ALL
    logged: list[tuple[str, dict[str, object], dict[str, float]]] = field(default_factory=list)
    branches: list[_Branch] = field(default_factory=list)
    layout: Layout = field(default_factory=Layout)

    # -- the bucket, and its reader

    @property
    def bucket(self) -> World:
        return self

    def head(self, key: str) -> ObjectHead | None:
        return ObjectHead("etag", 1) if key in self.objects else None

    def page(self, prefix: str, *, limit: int) -> ListPage:
        listed = [ListedObject(key, "etag", 1, 0.0) for key in sorted(self.objects) if key.startswith(prefix)]
        return ListPage(tuple(listed[:limit]), (), None)

    def pages(self, prefix: str, *, delimiter: str, on_invalid: object) -> Iterator[ListPage]:
        del on_invalid
        names = {key[len(prefix) :].partition(delimiter)[0] for key in self.objects if key.startswith(prefix)}
        yield ListPage((), tuple(f"{prefix}{name}/" for name in sorted(names)), None)

    def read(self, items: Sequence[Item], _store: object, short: Callable[[], bool]) -> Iterator[ObjectContent]:
        for item in items:
            if short():
                return
            data = self.objects.get(item.name)
            if item.name in self.broken:
                yield ObjectContent(item, error=self.broken[item.name])
            elif item.name in self.left_out:
                yield ObjectContent(item, entry=IndexEntry("etag", ""), left_out=self.left_out[item.name])
            elif data is None:
                yield ObjectContent(item)
            else:
                etag = f"etag of {data.decode()}"
                read = replace(item, changed=MODIFIED)
                yield ObjectContent(read, blob_id(data), data, IndexEntry(etag, blob_id(data)), len(data))

    # -- a commit

    def commit(
        self, *keys: str, context: StepContext | None = None, removed: bool = False
    ) -> dict[str, TransferResult]:
        """Commit the objects with these keys; return the results by key."""
        owned = self.ownership.owned(self.layout)
        settings = SyncSettings(
            "backups",
            "place",
            lambda name: f"repository#{name}",
            self.layout,
            self.limits,
            Signature(AUTHOR, COMMITTER, lambda: "key"),
            lambda *about: self.logged.append(about),
        )

        @contextmanager
        def opened(name: str, _context: StepContext) -> Iterator[RemoteBranch]:
            assert name == "main"
            self.branches.append(_Branch(self.remote, self.meanwhile))
            yield cast("RemoteBranch", self.branches[-1])

        committer = Committer(settings, cast("Reader", self), self.index, owned, opened, lambda: SECONDS)
        detail: dict[str, Any] = {"remove": True} if removed else {}
        items = [Item("main", key, target="before", detail=detail) for key in keys]
        results = list(committer.commit(items, context or StepContext(lambda: 60.0, work="work")))
        by_key = {each.name if isinstance(each, Result) else each.item.name: each for each in results}
        assert sorted(by_key) == sorted(keys)
        assert len(results) == len(keys)
        return by_key

    def ours(self, cluster: str = "east") -> dict[str, OwnedFile]:
        return self.ownership.owned(self.layout).of(cluster)


def outcome(result: TransferResult) -> tuple[str, str | None, str | None]:
    """Return the outcome of an item with its fingerprints at source and target."""
    match result:
        case Completed(item):
            return "completed", item.source, item.target
        case Unfinished(item):
            return "unfinished", item.source, item.target
        case Failure(item, error):
            return error.code.name, item.source, item.target
    return result.code or result.outcome.value, result.source, result.target


def commit_files(world: World, **contents: bytes) -> None:
    """Commit files ``east/shop/<name>``, so that they are ours."""
    files = {f"east/shop/{name}": data for name, data in contents.items()}
    world.objects |= files
    world.commit(*files)
    world.logged.clear()
    world.branches.clear()
