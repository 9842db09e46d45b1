"""Transfers of files with a source, a target and records in memory.

    world = bucket(overwrite=True)
    world.source.put("a", b"content", "e1")
    answer = world.answer(world.item())

A world may be changed between its transfers; its target is a bucket or a file manager.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Self

import pytest

from syncline.clients.s3.head import ObjectHead
from syncline.clients.s3.xml import AccessGrants, ListedObject
from syncline.config.sync import load_sync
from syncline.errors import SynclineError
from syncline.kinds.files.config import FilesSync
from syncline.kinds.files.records import Record, Row, Task
from syncline.kinds.files.targets import PutRequest, PutResult, TargetFile, UnfinishedPut, file_of
from syncline.kinds.files.transfer import FileTransfer, TransferResult
from syncline.kinds.kind import Completed, Failure, StepContext, Unfinished
from syncline.model import Item, Outcome, Result, compact_json

RUN: Final = "run-2"
"""The run of all transfers."""


class _Stream:
    def __init__(self, head: ObjectHead, content: bytes, on_read: Callable[[], None]) -> None:
        self.head = head
        self._content = content
        self._on_read = on_read

    def read(self, size: int) -> bytes:
        self._on_read()
        size = min(size, 300_000)  # like a socket, which may return fewer bytes than requested
        part, self._content = self._content[:size], self._content[size:]
        return part

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


@dataclass
class _Source:
    """A bucket. ``opened`` lists the offset of each read; ``on_read`` is called before each piece.

    ``sums`` are the checksums that the service states, by key.
    """

    objects: dict[str, tuple[ObjectHead, bytes]] = field(default_factory=dict)
    opened: list[int] = field(default_factory=list)
    sums: dict[str, dict[str, str]] = field(default_factory=dict)
    on_read: Callable[[], None] = lambda: None

    def put(self, key: str, content: bytes, etag: str, **about: Any) -> ObjectHead:
        head = ObjectHead(etag, len(content), **about)
        self.objects[key] = (head, content)
        return head

    def head(self, key: str) -> ObjectHead | None:
        return self.objects[key][0] if key in self.objects else None

    def checksums(self, key: str, etag: str) -> Mapping[str, str]:
        assert etag == self.objects[key][0].etag
        return self.sums.get(key, {})

    def open(self, key: str, *, etag: str | None = None, start: int = 0) -> _Stream:
        head, content = self.objects[key]
        assert etag == head.etag
        self.opened.append(start)
        return _Stream(head, content[start:], self.on_read)

    def grants(self, key: str) -> AccessGrants:
        raise AssertionError(f"the access list of {key} must not be read")


@dataclass
class _Target:
    """A target, by default a bucket without conditional writes.

    ``conditional``: honour the conditions of writes. ``modes``: permissions by path, None for a target without them.
    ``calls`` lists the requested changes in order, ``puts`` the writes of files. ``meanwhile`` is called before
    each change. ``fails``: the error of every change to a path. ``loses``: errors raised after a change was made, as if
    its response were lost. ``unfinished``: end each put after so many parts, with the error ``error`` if it is set.
    ``keeps``: the fingerprint of the headers of every written file, None if the target has none. ``sums`` are the checksums
    that it states, by path. ``gives_bytes``: False for an API without reads. ``same``: paths with the same value are one file.
    """

    is_listed: bool = True
    conditional: bool = False
    modes: dict[str, str] | None = None
    files: dict[str, TargetFile] = field(default_factory=dict)
    contents: dict[str, bytes] = field(default_factory=dict)
    calls: list[tuple[str, str]] = field(default_factory=list)
    puts: list[PutRequest] = field(default_factory=list)
    meanwhile: Callable[[], None] = lambda: None
    loses: list[SynclineError] = field(default_factory=list)
    fails: dict[str, SynclineError] = field(default_factory=dict)
    unfinished: int = 0
    error: SynclineError | None = None
    keeps: str | None = None
    gives_bytes: bool = True
    same: Callable[[str], str] = lambda path: path
    opened: list[int] = field(default_factory=list)
    sums: dict[str, dict[str, str]] = field(default_factory=dict)
    name: str = "the target"

    def creates_safely(self, size: int | None) -> bool:
        return self.conditional and size is not None

    def holds(self, path: str, content: bytes, existing: TargetFile) -> TargetFile:
        """Add a file, as another writer would."""
        self.files[path] = existing
        self.contents[path] = content
        if self.modes is not None:
            self.modes.setdefault(path, "rw-r--r--")
        return existing

    def _named(self, path: str) -> str:
        return next((each for each in self.files if self.same(each) == self.same(path)), path)

    def _begin(self, what: str, path: str) -> None:
        self.meanwhile()
        self.calls.append((what, path))
        if path in self.fails:
            raise self.fails[path]

    def _end(self) -> None:
        if self.loses:
            raise self.loses.pop()

    def stat(self, path: str) -> TargetFile | None:
        return self.files.get(self._named(path))

    def listing(self, prefix: str, after: str) -> Iterator[ListedObject]:
        assert self.is_listed
        assert not after
        for path, existing in sorted(self.files.items()):
            if path.startswith(prefix):
                yield ListedObject(path, existing.version, existing.size or 0, 0.0)

    def put(self, put: PutRequest) -> PutResult | UnfinishedPut:
        self.puts.append(put)
        self._begin("put", put.path)
        existing = self.stat(put.path)
        if put.guarded and self.conditional:
            expected = None if put.existing is None else put.existing.version
            if (None if existing is None else existing.version) != expected:
                raise SynclineError("TARGET_CHANGED", "another one")
        elif not self.is_listed and put.existing is None and existing is not None:
            raise SynclineError("FILE_DIFFERS", "there is one")
        elif not self.is_listed and put.existing is not None and existing is None:
            raise SynclineError("NOT_FOUND", "no such file")
        source: Any = put.source
        if put.key not in source.objects:
            raise SynclineError("NOT_FOUND", "no such object")
        if self.unfinished:
            return UnfinishedPut(self.unfinished, self.error)
        head, content = source.objects[put.key]
        made = file_of(head.etag, head.size, self.keeps)
        if not self.is_listed:
            made = TargetFile(f"v-{len(self.calls)}", head.etag, head.size, "id", True, put.path, put.run)
        self.holds(self._named(put.path), content, made)
        self._end()
        return PutResult(head, made, head.size)

    def rename(self, path: str, new_path: str, existing: TargetFile) -> str:
        self._begin("rename", path)
        self.holds(new_path, self.contents.pop(path), self.files.pop(path))
        self._end()
        return existing.version

    def remove(self, path: str, existing: TargetFile) -> None:
        self._begin("remove", path)
        if self.files.get(path) != existing:
            raise SynclineError("TARGET_CHANGED", "another one")
        del self.files[path]

    def open(self, path: str, existing: TargetFile, start: int) -> _Stream | None:
        assert self.files[path] == existing
        if not self.gives_bytes:
            return None
        self.opened.append(start)
        return _Stream(ObjectHead(existing.version, existing.size or 0), self.contents[path][start:], lambda: None)

    def checksums(self, path: str, existing: TargetFile) -> Mapping[str, str]:
        assert self.files[path] == existing
        return self.sums.get(path, {})

    def mode(self, path: str) -> str | None:
        return None if self.modes is None else self.modes[path]

    def permit(self, path: str, mode: str) -> str | None:
        if self.modes is None:
            return None
        self._begin("permit", path)
        self.modes[path] = mode
        return mode


RECORDED = 1_790_000_000_000_000
"""The time at which records are written, in Unix microseconds."""


@dataclass
class _Records:
    rows: dict[str, Row] = field(default_factory=dict)

    def known(self, names: Iterable[str]) -> tuple[dict[str, Row], dict[str, Row]]:
        return {name: self.rows[name] for name in names if name in self.rows}, {}

    def write(self, changes: Mapping[str, Row | None]) -> int:
        for name, row in changes.items():
            if row is None:
                self.rows.pop(name, None)
            else:
                self.rows[name] = row
        return RECORDED


def sync_of(*, manager: bool, **more: Any) -> FilesSync:
    endpoint = {"endpoint": "http://127.0.0.1:9000", "auth": "anonymous"}
    target: dict[str, Any] = {"bucket": "copies", **endpoint}
    if manager:
        target = {"file_manager": "http://127.0.0.1:9000/api"}
    config = {"name": "shop", "kind": "files", "source": {"bucket": "photos", **endpoint}, "target": target, **more}
    sync = load_sync(compact_json(config))
    assert isinstance(sync, FilesSync)
    return sync


@dataclass
class World:
    """A sync's source, its target, and the records."""

    sync: FilesSync
    target: _Target
    source: _Source = field(default_factory=_Source)
    records: _Records = field(default_factory=_Records)
    left: Callable[[], float] = lambda: 60.0

    def transfer_items(self, items: Sequence[Item], threads: int = 1) -> dict[str, TransferResult]:
        """Transfer items together; return the answers by key."""
        source: Any = self.source
        target: Any = self.target
        records: Any = self.records
        transfer = FileTransfer(self.sync, source, target, records, StepContext(self.left, run=RUN), threads)
        answers = list(transfer.items(items))
        assert sorted(each.item.name if not isinstance(each, Result) else each.name for each in answers) == sorted(
            each.name for each in items
        )
        return {each.name if isinstance(each, Result) else each.item.name: each for each in answers}

    def answer(self, item: Item) -> TransferResult:
        return self.transfer_items([item])[item.name]

    def record(self, name: str = "a") -> Record | None:
        return Record.of_row(self.records.rows[name]) if name in self.records.rows else None

    def item(self, key: str = "a", *, target: str | None = None, **task: Any) -> Item:
        """Return an item for the object that the source has now; ``task`` are fields of its task."""
        head = self.source.head(key)
        assert head is not None
        return Task(modified=int(head.modified), **task).on(Item("g", key, head.etag, target, head.size))


def bucket(*, conditional: bool = False, **more: Any) -> World:
    """Return a sync to a bucket; ``more`` are fields of its configuration."""
    return World(sync_of(manager=False, **more), _Target(conditional=conditional))


def manager(**more: Any) -> World:
    """Return a sync to a file manager; ``more`` are fields of its configuration."""
    return World(sync_of(manager=True, **more), _Target(is_listed=False, modes={}, gives_bytes=False))


def outcome(answer: TransferResult) -> Outcome:
    assert isinstance(answer, Result), answer
    return answer.outcome


def code(answer: TransferResult) -> str:
    assert isinstance(answer, Failure), answer
    return answer.error.code.name


def task_of(answer: TransferResult) -> Task:
    assert isinstance(answer, Completed | Unfinished | Failure), answer
    return Task.of(answer.item)


EACH_TARGET: Final = pytest.mark.parametrize(
    "make", [bucket, lambda **more: bucket(conditional=True, **more), manager], ids=["bucket", "conditional", "manager"]
)
Make = Callable[..., World]
