"""Transfer of files: the decision about each item, by what source and target have by then."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Self

import pytest

from syncline.clients.bucket import Head
from syncline.clients.s3_xml import Grants, Listed
from syncline.config import load_sync
from syncline.config.files import FilesSync
from syncline.errors import SynclineError
from syncline.kinds.files.records import COLLIDES, Record, Row, Task
from syncline.kinds.files.targets import CHUNK, Put, TargetFile, Unfinished, Written, file_of
from syncline.kinds.files.transfer import Answer, Transfer
from syncline.kinds.kind import Arrived, Failure, Later, Pace
from syncline.model import Item, Outcome, Result, compact_json

RUN: Final = "run-2"
TOLD: Final = "rwx------"
"""Permissions that an event set."""
TWO_CHUNKS: Final = bytes(CHUNK) + b"the end"


class _Stream:
    def __init__(self, head: Head, content: bytes, on_read: Callable[[], None]) -> None:
        self.head = head
        self._content = content
        self._on_read = on_read

    def read(self, size: int) -> bytes:
        self._on_read()
        size = min(size, 300_000)  # as sockets do, fewer than were asked for
        part, self._content = self._content[:size], self._content[size:]
        return part

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


@dataclass
class _Source:
    """A bucket. ``opened`` lists the first byte of each read; ``on_read`` is called before each piece."""

    objects: dict[str, tuple[Head, bytes]] = field(default_factory=dict)
    opened: list[int] = field(default_factory=list)
    on_read: Callable[[], None] = lambda: None

    def put(self, key: str, content: bytes, etag: str, **about: Any) -> Head:
        head = Head(etag, len(content), **about)
        self.objects[key] = (head, content)
        return head

    def head(self, key: str) -> Head | None:
        return self.objects[key][0] if key in self.objects else None

    def open(self, key: str, *, etag: str | None = None, start: int = 0) -> _Stream:
        head, content = self.objects[key]
        assert etag == head.etag
        self.opened.append(start)
        return _Stream(head, content[start:], self.on_read)

    def grants(self, key: str) -> Grants:
        raise AssertionError(f"nobody asked for the access list of {key}")


@dataclass
class _Target:
    """A target. It honours conditions of a write if ``conditional`` is set, and knows permissions unless ``modes`` is None.

    ``calls`` lists everything that changed it. ``meanwhile`` is called before each change; ``loses`` is raised after one.
    ``gives_bytes`` is False where the API has no reads. ``same`` tells which paths are one.
    """

    is_listed: bool = True
    conditional: bool = False
    modes: dict[str, str] | None = None
    files: dict[str, TargetFile] = field(default_factory=dict)
    contents: dict[str, bytes] = field(default_factory=dict)
    calls: list[tuple[str, str]] = field(default_factory=list)
    meanwhile: Callable[[], None] = lambda: None
    loses: list[SynclineError] = field(default_factory=list)
    fails: dict[str, SynclineError] = field(default_factory=dict)
    unfinished: bool = False
    gives_bytes: bool = True
    same: Callable[[str], str] = lambda path: path
    opened: list[int] = field(default_factory=list)
    name: str = "the target"

    def creates_safely(self, size: int | None) -> bool:
        return self.conditional and size is not None

    def holds(self, path: str, content: bytes, there: TargetFile) -> TargetFile:
        """Let the target have a file."""
        self.files[path] = there
        self.contents[path] = content
        if self.modes is not None:
            self.modes.setdefault(path, "rw-r--r--")
        return there

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

    def listing(self, prefix: str, after: str) -> Iterator[Listed]:
        assert self.is_listed
        assert not after
        for path, there in sorted(self.files.items()):
            if path.startswith(prefix):
                yield Listed(path, there.version, there.size or 0, 0.0)

    def put(self, put: Put) -> Written | Unfinished:
        self._begin("put", put.path)
        there = self.stat(put.path)
        if put.guarded and self.conditional:
            expected = None if put.there is None else put.there.version
            if (None if there is None else there.version) != expected:
                raise SynclineError("TARGET_CHANGED", "another one")
        elif not self.is_listed and put.there is None and there is not None:
            raise SynclineError("FILE_DIFFERS", "there is one")
        source: Any = put.source
        if put.key not in source.objects:
            raise SynclineError("NOT_FOUND", "no such object")
        if self.unfinished:
            return Unfinished(3)
        head, content = source.objects[put.key]
        made = file_of(head.etag, head.size)
        if not self.is_listed:
            made = TargetFile(f"v-{len(self.calls)}", head.etag, head.size, "id", True, put.path, put.run)
        self.holds(self._named(put.path), content, made)
        self._end()
        return Written(head, made, head.size)

    def rename(self, path: str, new_path: str, there: TargetFile) -> str:
        self._begin("rename", path)
        self.holds(new_path, self.contents.pop(path), self.files.pop(path))
        self._end()
        return there.version

    def remove(self, path: str, there: TargetFile) -> None:
        self._begin("remove", path)
        if self.files.get(path) != there:
            raise SynclineError("TARGET_CHANGED", "another one")
        del self.files[path]

    def open(self, path: str, there: TargetFile, start: int) -> _Stream | None:
        assert self.files[path] == there
        if not self.gives_bytes:
            return None
        self.opened.append(start)
        return _Stream(Head(there.version, there.size or 0), self.contents[path][start:], lambda: None)

    def mode(self, path: str) -> str | None:
        return None if self.modes is None else self.modes[path]

    def permit(self, path: str, mode: str) -> str | None:
        if self.modes is None:
            return None
        self._begin("permit", path)
        self.modes[path] = mode
        return mode


@dataclass
class _Records:
    rows: dict[str, Row] = field(default_factory=dict)

    def known(self, names: Iterable[str]) -> tuple[dict[str, Row], dict[str, Row]]:
        return {name: self.rows[name] for name in names if name in self.rows}, {}

    def write(self, changes: Mapping[str, Row | None]) -> None:
        for name, row in changes.items():
            if row is None:
                self.rows.pop(name, None)
            else:
                self.rows[name] = row


def sync_of(*, manager: bool, **more: Any) -> FilesSync:
    where = {"endpoint": "http://127.0.0.1:9000", "auth": "anonymous"}
    target: dict[str, Any] = {"bucket": "copies", **where}
    if manager:
        target = {"file_manager": "http://127.0.0.1:9000/api"}
    config = {"name": "shop", "kind": "files", "source": {"bucket": "photos", **where}, "target": target, **more}
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

    def carry_out(self, items: Sequence[Item], threads: int = 1) -> dict[str, Answer]:
        """Carry out items in one function; return the answers by key."""
        source: Any = self.source
        target: Any = self.target
        records: Any = self.records
        transfer = Transfer(self.sync, source, target, records, Pace(self.left, run=RUN), threads)
        answers = list(transfer.items(items))
        assert sorted(each.item.name if not isinstance(each, Result) else each.name for each in answers) == sorted(
            each.name for each in items
        )
        return {each.name if isinstance(each, Result) else each.item.name: each for each in answers}

    def answer(self, item: Item) -> Answer:
        return self.carry_out([item])[item.name]

    def record(self, name: str = "a") -> Record | None:
        return Record.of_row(self.records.rows[name]) if name in self.records.rows else None

    def item(self, key: str = "a", *, target: str | None = None, **task: Any) -> Item:
        """Return the item for the object as the source has it."""
        head = self.source.head(key)
        assert head is not None
        return Task(modified=int(head.modified), **task).on(Item("g", key, head.etag, target, head.size))


def bucket(*, conditional: bool = False, **more: Any) -> World:
    return World(sync_of(manager=False, **more), _Target(conditional=conditional))


def manager(**more: Any) -> World:
    return World(sync_of(manager=True, **more), _Target(is_listed=False, modes={}, gives_bytes=False))


def outcome(answer: Answer) -> Outcome:
    assert isinstance(answer, Result), answer
    return answer.outcome


def code(answer: Answer) -> str:
    assert isinstance(answer, Failure), answer
    return answer.error.code.name


def task_of(answer: Answer) -> Task:
    assert isinstance(answer, Arrived | Later), answer
    return Task.of(answer.item)


SORTS: Final = pytest.mark.parametrize(
    "make", [bucket, lambda **more: bucket(conditional=True, **more), manager], ids=["bucket", "conditional", "manager"]
)
Make = Callable[..., World]


class TestPut:
    @SORTS
    def test_a_new_file_is_recorded_before_it_is_verified(self, make: Make) -> None:
        world = make()
        world.source.put("a", b"content", "e1", content_type="text/plain", modified=5.5)
        answer = world.answer(world.item())
        assert isinstance(answer, Arrived)
        assert answer.moved_bytes == 7
        record = world.record()
        assert record is not None
        assert (record.etag, record.size, record.modified, record.file_type) == ("e1", 7, 5, "text/plain")
        assert (record.target, record.verified) == (world.target.files["a"].version, False)
        made = task_of(answer).made
        assert made == replace(record, verified=True)

    @SORTS
    def test_a_foreign_file_is_a_conflict(self, make: Make) -> None:
        world = make()
        world.source.put("a", b"content", "e1")
        theirs = world.target.holds("a", b"theirs", TargetFile("v", None, 6))
        answer = world.answer(world.item())
        assert isinstance(answer, Result)
        assert (answer.outcome, answer.code) == (Outcome.CONFLICT, "FILE_DIFFERS")
        assert (answer.source, answer.target) == ("e1", "v")
        assert world.target.files == {"a": theirs}
        assert not world.records.rows

    @pytest.mark.parametrize("make", [lambda: bucket(conditional=True), manager], ids=["conditional", "manager"])
    def test_so_is_one_that_comes_between_the_read_and_the_write(self, make: Make) -> None:
        world = make()
        world.source.put("a", b"content", "e1")

        def meanwhile() -> None:
            world.target.files.setdefault("a", TargetFile("v", None, 6))

        world.target.meanwhile = meanwhile
        assert outcome(world.answer(world.item())) is Outcome.CONFLICT
        assert world.target.files["a"].version == "v"
        assert not world.records.rows

    @SORTS
    @pytest.mark.parametrize("known", [False, True])
    def test_a_sync_that_may_overwrite_does(self, make: Make, *, known: bool) -> None:
        """Also if the scan did not know of the file: a file manager is told to update it then."""
        world = make(overwrite=True)
        world.source.put("a", b"content", "e1")
        world.target.holds("a", b"theirs", TargetFile("v", None, 6))
        assert isinstance(world.answer(world.item(target="v" if known else None)), Arrived)
        assert world.target.contents == {"a": b"content"}

    @SORTS
    def test_our_own_file_is_replaced(self, make: Make) -> None:
        world = make()
        world.source.put("a", b"content", "e2")
        world.target.holds("a", b"before", TargetFile("v", "v", 6))
        assert isinstance(world.answer(world.item(target="v", ours="v")), Arrived)
        assert world.target.contents == {"a": b"content"}

    @SORTS
    def test_so_is_one_that_another_item_wrote_since_the_scan(self, make: Make) -> None:
        world = make()
        world.source.put("a", b"content", "e3")
        world.target.holds("a", b"between", TargetFile("v2", "v2", 7))
        world.records.rows["a"] = Record("e2", 7, 0, "v2").to_row()
        assert isinstance(world.answer(world.item(target="v1", ours="v1")), Arrived)
        assert world.target.contents == {"a": b"content"}

    @SORTS
    def test_an_object_that_is_gone_is_left(self, make: Make) -> None:
        world = make()
        world.source.put("a", b"content", "e1")
        item = world.item()
        world.source.objects.clear()
        answer = world.answer(item)
        assert isinstance(answer, Result)
        assert (answer.outcome, answer.reason) == (Outcome.SKIPPED, "it is no longer at the source")
        assert not world.records.rows

    def test_an_upload_that_is_not_finished_goes_on_later(self) -> None:
        world = bucket()
        world.source.put("a", b"content", "e1")
        world.target.unfinished = True
        answer = world.answer(world.item())
        assert isinstance(answer, Later)
        assert task_of(answer).parts == 3
        assert not world.records.rows

    def test_nothing_is_begun_when_time_is_over(self) -> None:
        world = bucket()
        world.left = lambda: 0.0
        for key in "ab":
            world.source.put(key, b"content", "e1")
        answers = world.carry_out([world.item("a"), world.item("b")])
        assert answers == {key: Later(world.item(key)) for key in "ab"}
        assert world.target.calls == []


class TestEqual:
    """A file that is equal is not written again: it is adopted, or it is our own."""

    def test_a_file_that_the_scan_saw_is_adopted(self) -> None:
        world = bucket()
        world.source.put("a", b"content", "e1")
        world.target.holds("a", b"content", file_of("e1", 7))
        answer = world.answer(world.item(target="e1"))
        assert outcome(answer) is Outcome.SKIPPED
        record = world.record()
        assert record is not None
        assert (record.etag, record.target, record.verified) == ("e1", "e1", True)
        assert world.target.calls == []

    def test_so_is_the_work_of_an_earlier_run_at_a_file_manager(self) -> None:
        world = manager()
        world.source.put("a", b"content", "e1")
        world.target.holds("a", b"content", TargetFile("v", "e1", 7, "id", True, "a", "run-1"))
        assert outcome(world.answer(world.item())) is Outcome.SKIPPED
        record = world.record()
        assert record is not None
        assert (record.target, record.internal_id, record.mode, record.verified) == ("v", "id", "rw-r--r--", True)
        assert world.target.calls == []

    def test_a_file_that_came_after_the_scan_is_our_own_work(self) -> None:
        """A function died after it had written the file: another one counts it as moved, and verify reads it."""
        world = bucket()
        world.source.put("a", b"content", "e1")
        world.target.holds("a", b"content", file_of("e1", 7))
        answer = world.answer(world.item())
        assert isinstance(answer, Arrived)
        assert answer.moved_bytes == 0
        assert world.target.calls == []
        record = world.record()
        assert record is not None
        assert not record.verified

    @pytest.mark.parametrize("mode", ["rw-r--r--", "rw-------"])
    def test_a_file_of_this_run_is_our_own_work(self, mode: str) -> None:
        world = manager()
        world.source.put("a", b"content", "e1", metadata={"permissions": mode})
        world.target.holds("a", b"content", TargetFile("v", "e1", 7, "id", True, "a", RUN))
        answer = world.answer(world.item())
        assert isinstance(answer, Arrived)
        assert world.target.calls == [("permit", "a")], "the function may have died before it set them"
        assert world.target.modes == {"a": mode}
        record = world.record()
        assert record is not None
        assert not record.verified

    @pytest.mark.parametrize("make", [lambda: bucket(conditional=True), manager], ids=["conditional", "manager"])
    def test_an_answer_that_was_lost(self, make: Make) -> None:
        """The request is repeated and meets its own work."""
        world = make()
        world.source.put("a", b"content", "e1")
        world.target.loses = [SynclineError("TARGET_CHANGED" if world.target.conditional else "FILE_DIFFERS", "taken")]
        answer = world.answer(world.item())
        assert isinstance(answer, Arrived)
        assert [call for call in world.target.calls if call[0] == "put"] == [("put", "a")]
        record = world.record()
        assert record is not None
        assert record.target == world.target.files["a"].version

    @pytest.mark.parametrize("overwrite", [False, True])
    def test_equal_bytes_with_other_headers(self, *, overwrite: bool) -> None:
        world = bucket(overwrite=overwrite)
        world.source.put("a", b"content", "e1", content_type="text/plain")
        world.target.holds("a", b"content", file_of("e1", 7, "other headers"))
        answer = world.answer(replace(world.item(target="e1"), source="e0"))
        assert isinstance(answer, Arrived) if overwrite else outcome(answer) is Outcome.CONFLICT
        assert world.target.calls == ([("put", "a")] if overwrite else [])


class TestCompared:
    """Files of one size whose ETags differ are compared byte by byte: multipart uploads have ETags of their own."""

    def world(self, theirs: bytes, ours: bytes = TWO_CHUNKS) -> World:
        world = bucket()
        world.source.put("a", ours, "e1")
        world.target.holds("a", theirs, file_of("parts-2", len(theirs)))
        return world

    def interrupted(self, theirs: bytes) -> tuple[World, Item]:
        """Return a comparison for which time ended after the first chunk, and the item that goes on with it."""
        world = self.world(theirs)
        left = [60.0]
        world.source.on_read = lambda: left.__setitem__(0, 0.0)
        world.left = lambda: left[0]
        answer = world.answer(world.item(target="parts-2"))
        assert isinstance(answer, Later)
        assert not answer.stuck
        assert task_of(answer).compared == CHUNK
        assert not world.records.rows
        world.left, world.source.on_read = (lambda: 60.0), (lambda: None)
        item = Item.from_json(answer.item.to_json())
        world.source.opened.clear()
        world.target.opened.clear()
        return world, item

    def test_equal_bytes_are_adopted(self) -> None:
        world = self.world(TWO_CHUNKS)
        assert outcome(world.answer(world.item(target="parts-2"))) is Outcome.SKIPPED
        record = world.record()
        assert record is not None
        assert (record.etag, record.target, record.verified) == ("e1", "parts-2", True)
        assert world.target.calls == []

    @pytest.mark.parametrize("at", [0, CHUNK - 1, CHUNK, len(TWO_CHUNKS) - 1])
    def test_one_other_byte_is_a_conflict(self, at: int) -> None:
        world = self.world(TWO_CHUNKS[:at] + b"\xff" + TWO_CHUNKS[at + 1 :])
        assert outcome(world.answer(world.item(target="parts-2"))) is Outcome.CONFLICT
        assert not world.records.rows
        assert world.target.calls == []

    def test_another_size_needs_no_comparison(self) -> None:
        world = self.world(TWO_CHUNKS[1:])
        assert outcome(world.answer(world.item(target="parts-2"))) is Outcome.CONFLICT
        assert world.source.opened == []

    def test_a_target_that_gives_no_bytes(self) -> None:
        world = self.world(TWO_CHUNKS)
        world.target.gives_bytes = False
        assert outcome(world.answer(world.item(target="parts-2"))) is Outcome.CONFLICT

    def test_equal_bytes_with_other_headers_are_a_conflict(self) -> None:
        world = self.world(TWO_CHUNKS)
        world.target.files["a"] = file_of("parts-2", len(TWO_CHUNKS), "other headers")
        assert outcome(world.answer(world.item(target="parts-2"))) is Outcome.CONFLICT

    def test_what_was_compared_is_not_read_again(self) -> None:
        world, item = self.interrupted(TWO_CHUNKS)
        assert outcome(world.answer(item)) is Outcome.SKIPPED
        assert world.source.opened == world.target.opened == [CHUNK]
        record = world.record()
        assert record is not None
        assert record.verified

    def test_the_rest_may_differ(self) -> None:
        world, item = self.interrupted(TWO_CHUNKS[:-1] + b"!")
        assert outcome(world.answer(item)) is Outcome.CONFLICT

    def test_an_object_replaced_meanwhile_is_compared_from_its_beginning(self) -> None:
        world, item = self.interrupted(TWO_CHUNKS)
        world.source.put("a", b"\xff" + TWO_CHUNKS[1:], "e2")
        assert outcome(world.answer(item)) is Outcome.CONFLICT
        assert not world.records.rows

    def test_so_is_a_file_replaced_meanwhile(self) -> None:
        world, item = self.interrupted(TWO_CHUNKS)
        world.target.holds("a", b"\xff" + TWO_CHUNKS[1:], file_of("parts-3", len(TWO_CHUNKS)))
        assert outcome(world.answer(item)) is Outcome.CONFLICT
        assert not world.records.rows

    def test_a_conditional_target_is_compared_after_the_refusal_and_goes_on_without_another(self) -> None:
        world, item = self.interrupted(TWO_CHUNKS)
        world.target.conditional = True
        assert outcome(world.answer(item)) is Outcome.SKIPPED
        assert world.target.calls == []


class TestPermissions:
    def test_the_source_states_them(self) -> None:
        world = manager()
        world.source.put("a", b"content", "e1", metadata={"mode": "0640"})
        assert isinstance(world.answer(world.item()), Arrived)
        assert world.target.modes == {"a": "rw-r-----"}

    def test_those_that_an_event_set_are_kept(self) -> None:
        world = manager()
        world.source.put("a", b"content", "e2", metadata={"mode": "0640"})
        world.target.holds("a", b"before", TargetFile("v", "e1", 6, "id", True, "a", "run-1"))
        assert isinstance(world.answer(world.item(target="e1", ours="v", mode=TOLD, told=7.0)), Arrived)
        assert world.target.modes == {"a": TOLD}
        record = world.record()
        assert record is not None
        assert (record.mode, record.told) == (TOLD, 7.0)

    @pytest.mark.parametrize("there", ["rw-r--r--", TOLD])
    def test_an_equal_file_gets_them_if_it_has_others(self, there: str) -> None:
        world = manager()
        world.source.put("a", b"content", "e1")
        world.target.holds("a", b"content", TargetFile("v", "e1", 7, "id", True, "a", "run-1"))
        assert world.target.modes is not None
        world.target.modes["a"] = there
        answer = world.answer(world.item(mode=TOLD, told=7.0))
        if there == TOLD:
            assert outcome(answer) is Outcome.SKIPPED
            assert world.target.calls == []
        else:
            assert isinstance(answer, Arrived), "verify reads them again"
            assert world.target.calls == [("permit", "a")]
        assert world.target.modes == {"a": TOLD}
        record = world.record()
        assert record is not None
        assert (record.mode, record.told, record.verified) == (TOLD, 7.0, there == TOLD)

    def permit(self, world: World) -> Item:
        world.source.put("a", b"content", "e1")
        made = Record("e1", 7, 0, "v", mode="rw-r--r--")
        return world.item(target="e1", what="permit", mode=TOLD, told=7.0, seq="0A", made=made)

    def test_an_event_alone(self) -> None:
        world = manager()
        item = self.permit(world)
        world.target.holds("a", b"content", TargetFile("v", "e1", 7, "id", True, "a", "run-1"))
        answer = world.answer(item)
        made = task_of(answer).made
        assert made == Record("e1", 7, 0, "v", mode=TOLD, told=7.0, seq="0A")
        assert world.target.calls == [("permit", "a")]

    def test_an_event_about_a_file_that_is_gone(self) -> None:
        world = manager()
        item = self.permit(world)
        world.target.fails["a"] = SynclineError("NOT_FOUND", "no such file")

        def meanwhile() -> None:
            if world.target.calls:
                world.target.fails.clear()

        world.target.meanwhile = meanwhile
        answer = world.answer(item)
        assert isinstance(answer, Arrived)
        assert world.target.calls == [("permit", "a"), ("put", "a"), ("permit", "a")]
        assert world.target.modes == {"a": TOLD}


class TestRename:
    def world(self, make: Make) -> tuple[World, Item]:
        """Return a world in which ``old`` became ``a`` at the source, and the item that renames it."""
        world = make()
        world.source.put("a", b"content", "e1")
        there = file_of("e1", 7) if world.target.is_listed else TargetFile("v", "e1", 7, "id", True, "old", "run-1")
        world.target.holds("old", b"content", there)
        return world, world.item(what="rename", origin="old", origin_ours=there.version, gone="0B")

    @SORTS
    def test_the_file_is_renamed(self, make: Make) -> None:
        world, item = self.world(make)
        answer = world.answer(item)
        assert isinstance(answer, Arrived)
        assert answer.moved_bytes == 0
        assert world.target.contents == {"a": b"content"}
        assert ("put", "a") not in world.target.calls
        task = task_of(answer)
        assert (task.what, task.origin, task.gone) == ("rename", "old", "0B")
        assert task.made is not None
        assert task.made.target == item.detail["origin_ours"]

    @SORTS
    def test_so_it_is_if_the_answer_was_lost(self, make: Make) -> None:
        world, item = self.world(make)
        world.target.holds("a", b"content", world.target.files.pop("old"))
        answer = world.answer(item)
        assert task_of(answer).what == "rename"
        assert not {call for call, _ in world.target.calls} & {"put", "rename"}

    @SORTS
    def test_a_foreign_file_under_the_new_path_is_a_conflict(self, make: Make) -> None:
        world, item = self.world(make)
        theirs = world.target.holds("a", b"theirs", TargetFile("t", None, 6))
        assert outcome(world.answer(item)) is Outcome.CONFLICT
        assert world.target.files["a"] == theirs
        assert "old" in world.target.files, "it is still ours, and a later scan removes it"

    @SORTS
    @pytest.mark.parametrize("refusal", ["TARGET_CHANGED", "FILE_DIFFERS", "NOT_FOUND"])
    def test_a_refused_rename_sends_the_object(self, make: Make, refusal: str) -> None:
        world, item = self.world(make)
        world.target.fails["old"] = SynclineError(refusal, "no")
        answer = world.answer(item)
        assert isinstance(answer, Arrived)
        assert ("put", "a") in world.target.calls
        assert (task_of(answer).what, task_of(answer).origin) == ("put", None), "the old record stays"

    @SORTS
    @pytest.mark.parametrize("case", ["foreign", "gone", "back", "changed"])
    def test_the_object_is_sent_where_a_rename_is_not_right_any_more(self, make: Make, case: str) -> None:
        world, item = self.world(make)
        if case == "foreign":
            world.target.holds("old", b"CONTENT", TargetFile("t", None, 7))
        elif case == "gone":
            del world.target.files["old"]
        elif case == "back":
            world.source.put("old", b"content", "e1")
        else:
            world.source.put("a", b"content 2", "e2")
        answer = world.answer(item)
        assert isinstance(answer, Arrived)
        assert "rename" not in {call for call, _ in world.target.calls}
        assert world.target.contents["a"] == world.source.objects["a"][1]
        assert task_of(answer).what == "put"

    def test_an_object_that_is_gone_is_left(self) -> None:
        world, item = self.world(bucket)
        world.source.objects.clear()
        assert outcome(world.answer(item)) is Outcome.SKIPPED
        assert world.target.calls == []


class TestRemove:
    ITEM: Final = Item("g", "a", None, "e1", 7)

    def item(self, what: str = "remove") -> Item:
        return Task(what=what, ours="v").on(self.ITEM)

    def world(self, make: Make, version: str = "v", **about: Any) -> World:
        """Return a world whose target has a file that the source does not have; the record is about version ``v``."""
        world = make(removals={})
        world.target.holds("a", b"content", TargetFile(version, None, 7, **about))
        world.records.rows["a"] = Record("e1", 7, 0, "v").to_row()
        return world

    @SORTS
    def test_our_file_is_removed(self, make: Make) -> None:
        world = self.world(make)
        answer = world.answer(self.item())
        assert isinstance(answer, Arrived)
        assert (task_of(answer).what, answer.item.source) == ("remove", None)
        assert world.target.files == {}
        assert world.record() is not None, "the record goes when the removal is verified"

    @SORTS
    def test_a_foreign_file_is_not(self, make: Make) -> None:
        world = self.world(make)
        world.records.rows.clear()
        answer = world.answer(self.item())
        assert isinstance(answer, Result)
        assert (answer.outcome, answer.reason) == (Outcome.SKIPPED, "it is not ours")
        assert world.target.calls == []

    @SORTS
    @pytest.mark.parametrize("what", ["remove", "confirm"])
    def test_a_file_that_somebody_replaced_is_a_conflict(self, make: Make, what: str) -> None:
        world = self.world(make, "t")
        assert outcome(world.answer(self.item(what))) is Outcome.CONFLICT
        assert world.target.calls == []

    def test_so_is_one_that_is_replaced_just_then(self) -> None:
        world = self.world(bucket)
        world.target.meanwhile = lambda: world.target.files.update(a=TargetFile("t", None, 7))
        assert outcome(world.answer(self.item())) is Outcome.CONFLICT
        assert world.target.files["a"].version == "t"

    def test_the_mark_of_a_file_shows_that_it_is_ours(self) -> None:
        world = self.world(manager, "t", written=True)
        world.records.rows.clear()
        assert isinstance(world.answer(self.item()), Arrived)
        assert world.target.files == {}

    @SORTS
    @pytest.mark.parametrize("what", ["remove", "confirm"])
    def test_a_file_that_is_gone_already(self, make: Make, what: str) -> None:
        world = self.world(make)
        world.target.files.clear()
        assert task_of(world.answer(self.item(what))).what == "remove"
        assert world.target.calls == []

    @SORTS
    @pytest.mark.parametrize("what", ["remove", "confirm"])
    def test_an_object_that_came_back_is_sent(self, make: Make, what: str) -> None:
        world = self.world(make)
        world.source.put("a", b"content 2", "e2")
        assert isinstance(world.answer(self.item(what)), Arrived)
        assert world.target.contents == {"a": b"content 2"}

    @SORTS
    def test_confirm_removes_nothing(self, make: Make) -> None:
        """The file is ours after all; no removal was granted, so the next scan asks for one."""
        world = self.world(make)
        assert outcome(world.answer(self.item("confirm"))) is Outcome.SKIPPED
        assert world.target.calls == []
        assert "a" in world.target.files


class TestCollisions:
    """Targets that take two keys for one path."""

    def test_a_key_whose_path_is_that_of_another_is_recorded(self) -> None:
        world = bucket()
        world.target.same = str.lower
        world.source.put("a", b"content", "e1")
        world.target.holds("A", b"CONTENT", file_of("e2", 7))
        assert code(world.answer(world.item())) == "PATH_COLLIDES"
        record = world.record()
        assert record is not None
        assert (record.target, record.verified) == (COLLIDES, False)
        assert world.target.contents == {"A": b"CONTENT"}

    def test_a_recorded_one_is_not_overwritten(self) -> None:
        world = bucket(overwrite=True)
        world.target.same = str.lower
        world.source.put("a", b"content", "e1")
        world.target.holds("A", b"CONTENT", file_of("e2", 7))
        assert code(world.answer(world.item(target="e2", ours=COLLIDES))) == "PATH_COLLIDES"
        assert world.target.contents == {"A": b"CONTENT"}

    def test_a_removal_of_it_leaves_the_file_of_the_other_key(self) -> None:
        world = bucket(removals={})
        world.target.same = str.lower
        world.target.holds("A", b"CONTENT", file_of("e2", 7))
        world.records.rows["a"] = Record("", 0, 0, COLLIDES, verified=False).to_row()
        item = Task(what="remove", ours=COLLIDES).on(Item("g", "a", None, "", 0))
        assert outcome(world.answer(item)) is Outcome.SKIPPED
        assert world.record() is None
        assert world.target.contents == {"A": b"CONTENT"}

    @pytest.mark.parametrize("conditional", [False, True])
    @pytest.mark.parametrize("overwrite", [False, True])
    def test_of_two_new_keys_one_arrives(self, *, conditional: bool, overwrite: bool) -> None:
        world = bucket(conditional=conditional, overwrite=overwrite)
        world.target.same = str.lower
        keys = ["a", "b", "A", "c"]
        for key in keys:
            world.source.put(key, b"content", "e1")
        answers = world.carry_out([world.item(key) for key in keys], threads=4)
        assert {key for key, answer in answers.items() if isinstance(answer, Arrived)} == {"a", "b", "c"}
        assert code(answers["A"]) == "PATH_COLLIDES"
        assert sorted(world.target.files) == ["a", "b", "c"]

    def test_a_file_manager_states_the_path_itself(self) -> None:
        world = manager()
        world.target.same = str.lower
        world.source.put("a", b"content", "e1")
        world.target.holds("A", b"CONTENT", TargetFile("v", "e2", 7, "id", False, "A", "run-1"))
        assert code(world.answer(world.item())) == "PATH_COLLIDES"


class TestAlone:
    """A file for which a shared function is too slow gets one to itself."""

    def test_a_slow_file_among_others_waits_for_its_own_function(self) -> None:
        world = manager()
        for key in "ab":
            world.source.put(key, b"content", "e1")
        world.target.fails["a"] = SynclineError("FILE_TOO_SLOW", "slow")
        answers = world.carry_out([world.item("a"), world.item("b")])
        assert isinstance(answers["b"], Arrived)
        later = answers["a"]
        assert isinstance(later, Later)
        assert (later.waiting, task_of(later).alone) == (True, True)

    def test_they_come_one_at_a_time_and_before_others(self) -> None:
        world = manager()
        for key in "abc":
            world.source.put(key, b"content", "e1")
        items = [world.item("c"), world.item("a", alone=True), world.item("b", alone=True)]
        answers = world.carry_out(items)
        assert isinstance(answers["a"], Arrived)
        assert not task_of(answers["a"]).alone
        assert answers["b"] == Later(items[2], waiting=True)
        assert answers["c"] == Later(items[0], waiting=True)
        assert list(world.target.files) == ["a"]

    @pytest.mark.parametrize("alone", [False, True])
    def test_one_that_had_a_function_to_itself_is_too_slow(self, *, alone: bool) -> None:
        world = manager()
        world.source.put("a", b"content", "e1")
        world.target.fails["a"] = SynclineError("FILE_TOO_SLOW", "slow")
        assert code(world.answer(world.item(alone=alone))) == "FILE_TOO_SLOW"
        assert not world.records.rows
