"""Scans of complete buckets and of named keys: their items, their counts, and their cursors."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline.clients.s3.head import ObjectHead, fingerprint
from syncline.kinds.files.events import EventScope
from syncline.kinds.files.records import Record, Task
from syncline.kinds.files.targets import TargetFile, file_of
from syncline.kinds.kind import Page, StepContext
from syncline.model import EVERYTHING, Item, Outcome, Scope
from syncline.ownership import RemovalRequest
from tests.unit.kinds.files.world import World, sync_of

CONTEXT = StepContext(lambda: 60.0, run="run-1")
PLAN = StepContext(lambda: 60.0, run="run-1", plan=True)
NAMES = st.sampled_from([f"{folder}{letter}" for folder in ("", "d/", "e/") for letter in "abc"])
KINDS = ("new", "equal", "changed", "gone", "foreign", "adopted", "unverified", "left")
FILES = st.dictionaries(NAMES, st.sampled_from(KINDS), min_size=1, max_size=9)


def add(world: World, key: str, kind: str = "equal", **about: Any) -> None:
    """Add a file with a unique ETag, so that it is no rename of another."""
    head = ObjectHead(f"etag of {key}", 3, modified=7.0)
    existing = file_of(head.etag, head.size)
    record = Record(head.etag, head.size, 7, existing.version, **about)
    if kind != "gone":
        world.objects[key] = head
    if kind == "changed":
        world.objects[key] = replace(head, etag=f"newer {key}")
    if kind != "new":
        world.existing[key] = existing
    if kind == "foreign":
        world.existing[key] = file_of("other", 9)
    if kind not in ("new", "foreign", "adopted"):
        world.files[key] = replace(record, verified=kind != "unverified").to_row()
    if kind == "left":
        world.folders |= {key}
        world.objects[key] = replace(head, etag=f"newer {key}")


def world_of(files: dict[str, str]) -> World:
    world = World()
    for key, kind in files.items():
        add(world, key, kind)
    return world


def items_of(pages: list[Page]) -> list[Item]:
    return [item for page in pages for item in page.items]


def names_of(pages: list[Page]) -> list[str]:
    return [item.name for item in items_of(pages)]


def removed_by(pages: list[Page]) -> list[str]:
    return [item.name for item in items_of(pages) if Task.of(item).operation == "remove"]


def codes_of(pages: list[Page]) -> list[tuple[str, str]]:
    return [(failure.item.name, failure.error.code.name) for page in pages for failure in page.failures]


def counts_of(pages: list[Page]) -> tuple[Counter[str], int, int]:
    return Counter(names_of(pages)), sum(page.equal for page in pages), sum(page.left_out for page in pages)


@given(FILES)
def test_a_scan_sends_differences_and_counts_the_rest(files: dict[str, str]) -> None:
    world = world_of(files)
    present = [key for key in files if files[key] != "gone"]
    gone = [key for key in files if files[key] == "gone"]
    pages = world.scan_pages(sync_of(), EVERYTHING, context=CONTEXT)
    differ = {key for key in files if files[key] in ("new", "changed", "foreign")}
    assert set(names_of(pages)) == differ | set(gone if present else ())
    assert removed_by(pages) == (sorted(gone) if present else [])
    assert counts_of(pages)[1:] == (
        sum(kind in ("equal", "adopted", "unverified") for kind in files.values()),
        sum(kind == "left" for kind in files.values()),
    )
    assert codes_of(pages) == ([] if present else [("*", "REMOVALS_CAPPED")])
    assert world.files.keys() == {key for key, kind in files.items() if kind not in ("new", "foreign")}


@pytest.mark.parametrize("limit", ["WINDOW", "ADOPTED", "CHECKS", "nothing"])
@given(files=FILES, whole=st.booleans(), rechecked=st.booleans())
def test_a_resumed_scan_sends_the_rest(files: dict[str, str], limit: str, *, whole: bool, rechecked: bool) -> None:
    """A function's time may end after any page; the rest may have other windows."""
    sync = sync_of({"recheck": "7d" if rechecked else "3650d"})
    scope = EVERYTHING if whole else Scope.of(["prefix:d/", "prefix:e/"])
    uninterrupted = world_of(files).scan_pages(sync, scope, context=CONTEXT)
    world = world_of(files)
    world.now = 1e9
    world.group_of = lambda name: name[-1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("syncline.kinds.files.items.PAGE_BYTES", 1)
        if limit != "nothing":
            patch.setattr(f"syncline.kinds.files.discover.{limit}", 2)
        pages = world.scan_pages(sync, scope, context=CONTEXT)
        assert counts_of(pages) == counts_of(uninterrupted)
        for number, page in enumerate(pages):
            world.now += 1.0
            rest = world.scan_pages(sync, scope, page.cursor, context=CONTEXT)
            assert counts_of([*pages[: number + 1], *rest]) == counts_of(uninterrupted), page.cursor


def test_a_scan_ends_with_its_time_and_is_resumed() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("syncline.kinds.files.compare._EVERY", 1)
        world, found, cursor = World(), list[str](), None
        for letter in "abcdef":
            add(world, letter, "new" if letter in "bdf" else "equal")
        for _ in range(20):
            left = [0.0, 1.0]
            context = StepContext(lambda left=left: left.pop() if left else 0.0)  # type: ignore[misc]
            pages = world.scan_pages(sync_of(), EVERYTHING, cursor, context)
            found += names_of(pages)
            cursor = pages[-1].cursor if pages else None
            if world.facts:
                break
        assert found == ["b", "d", "f"]


def test_a_scan_without_time_sends_nothing() -> None:
    world = world_of({"a": "new"})
    assert world.scan_pages(sync_of(), EVERYTHING, context=StepContext(lambda: 0.0)) == []


class TestRenames:
    @staticmethod
    def world() -> World:
        """Return a world with a file whose key has changed."""
        world = world_of({"a": "equal", "old": "gone"})
        world.objects["new"] = ObjectHead("etag of old", 3, modified=7.0)
        return world

    def test_a_rename_is_one_item_and_no_removal(self) -> None:
        world = self.world()
        (item,) = items_of(world.scan_pages(sync_of(), EVERYTHING, context=CONTEXT))
        assert (item.name, Task.of(item).operation, Task.of(item).origin) == ("new", "rename", "old")
        assert not world.requests

    def test_a_sync_that_never_removes_renames_nothing(self) -> None:
        (item,) = items_of(self.world().scan_pages(sync_of({"removals": None}), EVERYTHING, context=CONTEXT))
        assert (item.name, Task.of(item).operation) == ("new", "put")

    @pytest.mark.parametrize("taken", [False, True])
    def test_a_file_is_not_renamed_to_a_path_that_is_taken(self, *, taken: bool) -> None:
        """If the target is not listed, a request finds the file at the new path."""
        world = self.world()
        world.is_listed = False
        if taken:
            world.existing["new"] = file_of("other", 9)
        pages = world.scan_pages(sync_of({"recheck": "3650d"}), EVERYTHING, context=CONTEXT)
        tasks = {item.name: Task.of(item).operation for item in items_of(pages)}
        assert tasks == ({"new": "put", "old": "remove"} if taken else {"new": "rename"})

    @pytest.mark.parametrize("scope", [EVERYTHING, Scope.of(["key:new", "key:old"])])
    def test_a_file_whose_new_path_is_refused_is_removed(self, scope: Scope) -> None:
        """Its removal counts within the limits."""
        world = self.world()
        world.refused = frozenset(["new"])
        pages = world.scan_pages(sync_of(), scope, context=CONTEXT)
        assert removed_by(pages) == names_of(pages) == ["old"]
        assert codes_of(pages) == [("new", "PATH_REFUSED")]
        assert [request.count for request, _ in world.requests] == [1]

    def test_removals_wait_for_the_renames_of_earlier_windows(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The old names look removed until the transfers are done."""
        monkeypatch.setattr("syncline.kinds.files.discover.WINDOW", 2)
        world = self.world()
        add(world, "z", "gone")
        assert removed_by(world.scan_pages(sync_of(), EVERYTHING, context=CONTEXT)) == []


class TestRemovals:
    def test_the_limits_are_those_of_the_sync_and_all_of_its_files(self) -> None:
        world = world_of({"a": "equal", "b": "changed", "c": "gone", "d": "foreign"})
        pages = world.scan_pages(sync_of({"removals": {"share": 0.5, "count": 9}}), EVERYTHING, context=CONTEXT)
        ((request, total),) = world.requests
        assert (request.limits.share, request.limits.count, request.count, total) == (0.5, 9, 1, 3)
        assert (request.run, request.own, request.keep) == ("run-1", False, True)
        assert removed_by(pages) == ["c"]

    def test_a_run_may_have_its_own_limit(self) -> None:
        world = world_of({"a": "equal", "c": "gone"})
        context = replace(CONTEXT, allow_removals=7)
        assert removed_by(world.scan_pages(sync_of(), EVERYTHING, context=context)) == ["c"]
        ((request, total),) = world.requests
        assert request.own
        assert (request.limits.share, request.limits.count) == (1.0, 7)
        assert total > 10**9, "the run's own number is its only limit"

    @pytest.mark.parametrize("window", [1, 20_000])
    def test_removals_beyond_the_limits_are_not_sent(self, monkeypatch: pytest.MonkeyPatch, window: int) -> None:
        monkeypatch.setattr("syncline.kinds.files.discover.WINDOW", window)
        world = world_of({"a": "equal", "b": "new", "c": "gone", "d": "gone"})
        world.allows = False
        pages = world.scan_pages(sync_of(), EVERYTHING, context=CONTEXT)
        assert names_of(pages) == ["b"]
        assert codes_of(pages) == [("*", "REMOVALS_CAPPED")]

    def test_files_removed_during_a_scan_are_left_to_the_next(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("syncline.kinds.files.items.PAGE_BYTES", 1)
        world = world_of({"a": "equal", "b": "gone", "c": "gone", "d": "equal"})
        first = next(page for page in world.scan_pages(sync_of(), EVERYTHING, context=CONTEXT) if page.items)
        del world.objects["d"]
        assert removed_by([first, *world.scan_pages(sync_of(), EVERYTHING, first.cursor, context=CONTEXT)]) == [
            "b",
            "c",
        ]

    @pytest.mark.parametrize(("window", "listings"), [(20_000, 1), (2, 4)])
    def test_files_that_fit_one_window_are_listed_once(
        self, monkeypatch: pytest.MonkeyPatch, window: int, listings: int
    ) -> None:
        monkeypatch.setattr("syncline.kinds.files.discover.WINDOW", window)
        world = world_of({"a": "equal", "b": "new", "c": "gone", "d": "gone"})
        assert removed_by(world.scan_pages(sync_of(), EVERYTHING, context=CONTEXT)) == ["c", "d"]
        assert world.listings == listings

    def test_a_sync_that_never_removes_requests_no_removals(self) -> None:
        world = world_of({"a": "equal", "c": "gone"})
        pages = world.scan_pages(sync_of({"removals": None}), EVERYTHING, context=CONTEXT)
        assert (names_of(pages), codes_of(pages), world.requests) == ([], [], [])

    def test_the_same_removals_are_requested_under_the_same_name(self) -> None:
        """They are reserved once even if the scan is repeated."""
        requests: list[RemovalRequest] = []
        for gone in (["c"], ["c"], ["c", "d"]):
            world = world_of({"a": "equal", **dict.fromkeys(gone, "gone")})
            world.scan_pages(sync_of(), EVERYTHING, context=CONTEXT)
            requests += [request for request, _ in world.requests]
        one, same, other = [request.name for request in requests]
        assert one == same != other

    @pytest.mark.parametrize("own", [None, 5])
    def test_removals_of_earlier_runs_count(self, own: int | None) -> None:
        """The removals of this run may be among the files that its full scan has counted."""
        world = world_of({"a": "equal", "c": "gone"})
        asked: list[str] = []

        def removed(run: str) -> int:
            asked.append(run)
            return 3

        context = replace(CONTEXT, allow_removals=own, removed=removed)
        world.scan_pages(sync_of(), EVERYTHING, context=context)
        assert asked == []
        world.scan_pages(sync_of(), EVERYTHING, context=replace(context, run="run-2"))
        assert asked == ["run-1"]

    def test_an_empty_folder_of_a_bucket_with_files_is_removed(self) -> None:
        world = world_of({"a": "equal", "d/a": "gone"})
        assert removed_by(world.scan_pages(sync_of(), Scope.of(["prefix:d/"]), context=CONTEXT)) == ["d/a"]
        ((_, total),) = world.requests
        assert total == 2, "the limits apply to all files, not to those of the folder"

    def test_nothing_is_removed_if_the_bucket_is_empty(self) -> None:
        world = world_of({"d/a": "gone"})
        pages = world.scan_pages(sync_of(), Scope.of(["prefix:d/"]), context=CONTEXT)
        assert (names_of(pages), codes_of(pages)) == ([], [("*", "REMOVALS_CAPPED")])

    @pytest.mark.parametrize("side", ["invalid", "invalid_at_target"])
    @pytest.mark.parametrize("window", [1, 20_000])
    @pytest.mark.parametrize("invalid", ["0", "b", "d", "n", "zz"])
    def test_nothing_is_removed_or_renamed_after_an_invalid_entry(
        self, monkeypatch: pytest.MonkeyPatch, side: str, window: int, invalid: str
    ) -> None:
        monkeypatch.setattr("syncline.kinds.files.discover.WINDOW", window)
        world = world_of({"a": "gone", "c": "gone", "m": "new", "p": "new"})
        world.objects["z"] = ObjectHead("etag of c", 3, modified=7.0)
        setattr(world, side, [invalid])
        pages = world.scan_pages(sync_of(), EVERYTHING, context=CONTEXT)
        assert {item.name: Task.of(item).operation for item in items_of(pages)} == dict.fromkeys("mpz", "put")
        assert codes_of(pages) == [(invalid, "MESSAGE_INVALID")]

    def test_a_file_with_an_invalid_entry_is_a_failure_and_no_item(self) -> None:
        world = world_of({"a": "new", "b": "new"})
        world.invalid_at_target = ["b"]
        pages = world.scan_pages(sync_of(), EVERYTHING, context=CONTEXT)
        assert (names_of(pages), codes_of(pages)) == (["a"], [("b", "MESSAGE_INVALID")])

    def test_the_limits_of_a_selection_apply_to_all_selected_files(self) -> None:
        world = world_of({"a.txt": "equal", "b.txt": "gone", "c.jpg": "equal", "d.jpg": "gone"})
        sync = sync_of({"select": {"include": ["*.txt"]}})
        assert removed_by(world.scan_pages(sync, Scope.of(["key:b.txt"]), context=CONTEXT)) == ["b.txt"]
        ((_, total),) = world.requests
        assert total == 2


class TestPlan:
    def test_a_plan_writes_nothing(self) -> None:
        world = world_of({"a": "adopted", "b": "gone", "c": "new", "d": "unverified"})
        before = copy.deepcopy(world.files)
        for scope in (EVERYTHING, Scope.of(["key:a", "key:b", "key:c"])):
            pages = world.scan_pages(sync_of(), scope, context=PLAN)
            assert set(names_of(pages)) == {"b", "c"}
        assert (world.files, world.facts, world.written, world.compacted) == (before, {}, 0, 0)
        assert [request.keep for request, _ in world.requests] == [False, False]

    def test_a_scan_compacts_the_records_at_its_beginning(self) -> None:
        world = world_of({"a": "adopted", "c": "new"})
        pages = world.scan_pages(sync_of(), EVERYTHING, context=CONTEXT)
        assert (world.written, world.compacted) == (1, 1)
        world.scan_pages(sync_of(), EVERYTHING, pages[0].cursor, context=CONTEXT)
        assert world.compacted == 1


class TestRechecks:
    """Each file is read again at the target once per period, and after events of the target."""

    @staticmethod
    def replace_at_target(world: World, key: str) -> None:
        """Replace a file at a target that cannot be listed."""
        world.existing[key] = TargetFile("by hand", None, 3)

    def read(self, since: float | None, target_events: EventScope | None = None) -> tuple[World, list[Page]]:
        world = world_of(dict.fromkeys("abcdefgh", "equal"))
        world.is_listed = False
        world.now = 1e9
        sync = sync_of({"recheck": "1d"})
        if since is not None:
            world.scan_pages(sync, EVERYTHING, context=CONTEXT)
            world.now += since
        for key in "abcdefgh":
            self.replace_at_target(world, key)
        return world, world.scan_pages(sync, EVERYTHING, context=CONTEXT, target_events=target_events)

    def test_the_first_scan_reads_all_files(self) -> None:
        world, pages = self.read(None)
        assert names_of(pages) == list("abcdefgh")
        assert list(world.facts.values()) == ["1000000000.0"]

    def test_a_later_scan_reads_a_share_that_grows_with_time(self) -> None:
        world, pages = self.read(86_400.0 / 2)
        assert 0 < len(names_of(pages)) < 8
        (again,) = {len(names_of(self.read(86_400.0 / 2)[1])) for _ in range(3)}
        assert again == len(names_of(pages))
        assert sum(page.equal for page in pages) == 8 - again
        assert list(world.facts.values()) == ["1000043200.0"]
        assert len(names_of(self.read(86_400.0)[1])) == 8

    def test_files_named_by_events_are_read(self) -> None:
        assert names_of(self.read(0.0)[1]) == []
        assert names_of(self.read(0.0, EventScope(frozenset("cd")))[1]) == ["c", "d"]

    def test_a_scan_of_a_folder_reads_no_files_again(self) -> None:
        world = world_of({"d/a": "equal"})
        world.is_listed = False
        self.replace_at_target(world, "d/a")
        assert names_of(world.scan_pages(sync_of(), Scope.of(["prefix:d/"]), context=CONTEXT)) == []
        assert not world.facts

    def test_an_unreadable_file_is_a_failure(self) -> None:
        world = world_of({"a": "equal", "b": "equal"})
        world.unreadable = frozenset("b")
        pages = world.scan_pages(sync_of(), EVERYTHING, context=CONTEXT)
        assert codes_of(pages) == [("b", "FORBIDDEN")]
        assert sum(page.equal for page in pages) == 1

    def test_the_time_of_an_object_is_recorded_when_it_was_read(self) -> None:
        world = World()
        add(world, "a", headers=fingerprint(ObjectHead("etag of a", 3)))
        world.objects["a"] = replace(world.objects["a"], modified=9.0)
        world.scan_pages(sync_of({"recheck": "3650d"}), EVERYTHING, context=CONTEXT)
        assert Record.of_row(world.files["a"]).modified == 9


class TestAsked:
    """Each name that a user gives has a result."""

    @pytest.mark.parametrize(
        ("scope", "checked"), [(EVERYTHING, "a"), (Scope.of(["key:a", "key:b", "key:c", "key:d"]), "ab")]
    )
    def test_equal_items_are_checked_or_have_results(self, scope: Scope, checked: str) -> None:
        """The transfer compares the bytes of those that the target shows as equal."""
        world = world_of({"a": "equal", "b": "adopted", "c": "new", "d": "equal"})
        context = replace(CONTEXT, asked=frozenset((key, key) for key in "abc"))
        pages = world.scan_pages(sync_of(), scope, context=context)
        results = [(result.name, result.outcome) for page in pages for result in page.results]
        assert sorted(results) == [(key, Outcome.EQUAL) for key in "ab" if key not in checked]
        assert names_of(pages) == sorted([*checked, "c"])
        assert {item.name for page in pages for item in page.items if Task.of(item).checked} == {*checked, "c"}
        assert sum(page.equal for page in pages) == 1

    def test_a_prefix_without_objects_is_absent(self) -> None:
        world = world_of({"a": "equal"})
        scope = Scope.of(["prefix:d/"])
        (page,) = world.scan_pages(sync_of(), scope, context=replace(CONTEXT, named=True))[:1]
        ((name, code),) = codes_of([page])
        assert (page.failures[0].item.group, name, code) == ("prefix:d/", "*", "SOURCE_ABSENT")
        assert codes_of(world.scan_pages(sync_of(), scope, context=CONTEXT)) == []

    @pytest.mark.parametrize(("key", "codes"), [("b", [("*", "SOURCE_ABSENT")]), ("in/b", [])])
    def test_a_source_without_objects_is_absent_if_it_has_a_prefix(
        self, key: str, codes: list[tuple[str, str]]
    ) -> None:
        world = world_of({key: "new"})
        sync = sync_of(prefix="in/")
        assert codes_of(world.scan_pages(sync, EVERYTHING, context=CONTEXT)) == codes
        assert codes_of(World().scan_pages(sync_of(), EVERYTHING, context=CONTEXT)) == []

    def test_objects_that_are_left_out_are_objects(self) -> None:
        world = world_of({"d/a": "left"})
        assert (
            codes_of(world.scan_pages(sync_of(), Scope.of(["prefix:d/"]), context=replace(CONTEXT, named=True))) == []
        )

    @pytest.mark.parametrize("named", [False, True])
    def test_a_key_on_neither_side_is_absent_if_it_was_named(self, *, named: bool) -> None:
        pages = world_of({"a": "equal"}).scan_pages(
            sync_of(), Scope.of(["key:a", "key:x"]), context=replace(CONTEXT, named=named)
        )
        assert codes_of(pages) == ([("x", "SOURCE_ABSENT")] if named else [])
        assert sum(page.equal for page in pages) == (1 if named else 2)


class TestNamedKeys:
    def test_a_path_that_the_target_cannot_have_is_refused(self) -> None:
        world = world_of({"a": "new", "b": "gone", "c": "new", "d": "equal"})
        world.refused = frozenset("ab")
        for scope in (EVERYTHING, Scope.of(["key:a", "key:b", "key:c"])):
            pages = world.scan_pages(sync_of(), scope, context=CONTEXT)
            assert set(names_of(pages)) == {"b", "c"}
            assert codes_of(pages) == [("a", "PATH_REFUSED")]
            assert [failure.scope for page in pages for failure in page.failures] == ["key:a"]

    def test_removals_beyond_the_limits_are_failures_of_their_keys(self) -> None:
        world = world_of({"a": "new", "b": "gone", "c": "gone", "d": "equal", "e": "changed"})
        world.allows = False
        pages = world.scan_pages(sync_of(), Scope.of(["key:a", "key:b", "key:c", "key:e"]), context=CONTEXT)
        assert names_of(pages) == ["a", "e"]
        assert codes_of(pages) == [("b", "REMOVALS_CAPPED"), ("c", "REMOVALS_CAPPED")]
        assert [failure.item.target for page in pages for failure in page.failures] == ["etag of b", "etag of c"]
        ((request, _),) = world.requests
        assert request.count == 2

    def test_keys_outside_the_selection_are_ignored(self) -> None:
        world = world_of({"a.txt": "new", "b.jpg": "new"})
        pages = world.scan_pages(sync_of({"select": {"include": ["*.txt"]}}), Scope.of(["key:a.txt", "key:b.jpg"]))
        assert names_of(pages) == ["a.txt"]

    def test_a_resumed_scan_reads_no_key_again(self) -> None:
        world, scope = world_of({"a": "new", "b": "equal"}), Scope.of(["key:a", "key:b"])
        pages = world.scan_pages(sync_of(), scope, context=CONTEXT)
        world.heads.clear()
        assert (world.scan_pages(sync_of(), scope, pages[-1].cursor, CONTEXT), world.heads) == ([], [])

    def test_equal_items_and_items_left_out_are_counted(self) -> None:
        world = world_of({"a": "equal", "b": "left", "c": "adopted"})
        pages = world.scan_pages(sync_of(), Scope.of(["key:a", "key:b", "key:c"]), context=CONTEXT)
        assert counts_of(pages) == (Counter(), 2, 1)
        assert world.files.keys() == {"a", "b", "c"}

    def test_a_file_that_may_be_in_flight_is_removed_without_being_counted(self) -> None:
        """The transfer runs after those in flight; it reads the target and decides."""
        world = world_of({"a": "equal"})
        pages = world.scan_pages(sync_of(), Scope.of(["key:x"]), context=replace(CONTEXT, joined=True))
        assert (removed_by(pages), world.requests) == (["x"], [])


def test_the_object_whose_key_is_the_prefix_itself_has_a_record() -> None:
    sync = sync_of({"target": {"bucket": "copies", "prefix": "out/"}}, prefix="in/")
    world = World()
    head = ObjectHead("e", 3, modified=7.0)
    for name in ("", "a"):
        world.objects[f"in/{name}"] = head
        world.existing[f"out/{name}"] = file_of("e", 3)
        world.files[name] = Record("e", 3, 7, "e").to_row()
    pages = world.scan_pages(sync, EVERYTHING, context=CONTEXT)
    assert counts_of(pages) == (Counter(), 2, 0)
    del world.objects["in/"]
    assert names_of(world.scan_pages(sync, Scope.of(["prefix:in/a"]), context=CONTEXT)) == []
    assert removed_by(world.scan_pages(sync, EVERYTHING, context=CONTEXT)) == ["in/"]
