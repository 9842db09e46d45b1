"""The order of events: late, doubled and in any order, they make target and records right, and no key goes deaf."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline.clients.bucket import Head, ListPage
from syncline.clients.s3_xml import Listed
from syncline.config import load_sync
from syncline.config.files import FilesSync
from syncline.kinds.files.discover import Memory, Scan
from syncline.kinds.files.events import Hints, groups_in, hints_of
from syncline.kinds.files.records import Gone, Record, Row
from syncline.kinds.files.targets import Put, TargetFile, Written, file_of
from syncline.kinds.files.transfer import Transfer
from syncline.kinds.files.verify import Verify
from syncline.kinds.kind import Arrived, Pace
from syncline.model import EVERYTHING, Scope, compact_json
from syncline.ownership import Grant, RemovalRequest

CONFIG: dict[str, Any] = {
    "name": "shop-files",
    "kind": "files",
    "source": {"bucket": "photos"},
    "target": {"bucket": "copies"},
    "removals": {},
}
KEYS = "abc"


def sync_of(**source: Any) -> FilesSync:
    sync = load_sync(compact_json({**CONFIG, "source": {"bucket": "photos", **source}}))
    assert isinstance(sync, FilesSync)
    return sync


@dataclass
class World:
    """A bucket, its target and what is remembered, all in memory; it is the source, the place and the records in one."""

    objects: dict[str, Head] = field(default_factory=dict)
    there: dict[str, TargetFile] = field(default_factory=dict)
    files: dict[str, Row] = field(default_factory=dict)
    gone: dict[str, Row] = field(default_factory=dict)
    heads: list[str] = field(default_factory=list)
    told: list[dict[str, Any]] = field(default_factory=list)
    number: int = 0
    name: str = "made up"

    # -- the bucket

    def change(self, key: str, *, removes: bool, form: int = 0) -> None:
        """Put or remove an object, and note the event."""
        self.number += 1
        if removes:
            self.objects.pop(key, None)
        else:
            self.objects[key] = Head(f"etag {self.number}", self.number, modified=float(self.number))
        sequencer = f"{0x55AED6DCD90281E500 + self.number * 16:020X}"
        self.told.append(
            event(key, "ObjectRemoved:Delete" if removes else "ObjectCreated:Put", written(sequencer, form))
        )

    def head(self, key: str) -> Head | None:
        self.heads.append(key)
        return self.objects.get(key)

    def page(self, prefix: str, *, after: str = "", **_: Any) -> ListPage:  # noqa: ARG002 - as the real one
        listed = [Listed(key, head.etag, head.size, head.modified) for key, head in sorted(self.objects.items())]
        return ListPage(tuple(each for each in listed if each.key > after), (), None)

    # -- the target

    is_listed = True

    def creates_safely(self, size: int | None) -> bool:  # noqa: ARG002 - as the real one
        return False

    def refuses(self, path: str, size: int | None) -> str | None:  # noqa: ARG002 - as the real one
        return None

    def leaves_out(self, path: str, size: int | None) -> bool:  # noqa: ARG002 - as the real one
        return False

    def listing(self, prefix: str, after: str, odd: Any = None) -> Any:  # noqa: ARG002 - as the real one
        yield from (Listed(path, f.version, f.size or 0, 0.0) for path, f in sorted(self.there.items()) if path > after)

    def stat(self, path: str) -> TargetFile | None:
        return self.there.get(path)

    def put(self, put: Put) -> Written:
        head = self.objects[put.key]
        self.there[put.path] = file_of(head.etag, head.size)
        return Written(head, self.there[put.path], head.size)

    def listed(self, paths: list[str]) -> dict[str, TargetFile]:  # noqa: ARG002 - as the real one
        return {}

    def rename(self, path: str, new_path: str, there: TargetFile) -> str:
        self.there[new_path] = self.there.pop(path)
        return there.version

    def remove(self, path: str, there: TargetFile) -> None:
        assert self.there.pop(path) == there

    def permit(self, path: str, mode: str) -> None:  # noqa: ARG002 - as the real one
        return None

    # -- the memory

    def known(self, names: Any) -> tuple[dict[str, Row], dict[str, Row]]:
        names = list(names)
        return {k: self.files[k] for k in names if k in self.files}, {k: self.gone[k] for k in names if k in self.gone}

    def scan(self, after: str = "", prefix: str = "") -> Any:  # noqa: ARG002 - as the real one
        return iter([each for each in sorted(self.files.items()) if each[0] > after])

    def write(self, changes: dict[str, Row | None], gone: dict[str, Row] | None = None, *, after: int = 0) -> int:  # noqa: ARG002 - as the real one
        for name in {*changes, *(gone or {})}:
            self.files.pop(name, None)
            self.gone.pop(name, None)
        self.files |= {name: row for name, row in changes.items() if row is not None}
        self.gone |= gone or {}
        return 0

    def compact(self) -> int:
        return len(self.files)

    def count(self) -> int:
        return len(self.files)

    def reserve(
        self,
        request: RemovalRequest,
        total: Callable[[], int],
        removed: Callable[[str], int] | None = None,  # noqa: ARG002 - every removal is granted
    ) -> Grant:
        return Grant(True, 0, total(), 0.0, request.count)

    def recall(self, key: str) -> str | None:  # noqa: ARG002 - no fact is known
        return None

    def remember(self, key: str, value: str, seconds: float = 0.0) -> None:
        pass

    # -- a run

    def scan_pages(self, sync: FilesSync, scope: Scope, cursor: str | None = None) -> list[Any]:
        world: Any = self

        memory = Memory(world, world, world, lambda: 0.0)
        scan = Scan(sync, world, world, memory, lambda key: key, Hints())
        return list(scan.pages(scope, cursor, Pace(lambda: 60.0, work="w")))

    def look(self, sync: FilesSync, *bodies: dict[str, Any], everything: bool = False) -> int:
        """Scan the keys of events, or everything, and do what follows; return the number of keys read by the scan."""
        world: Any = self
        scope = EVERYTHING if everything else Scope.of(g for body in bodies for g in groups_in(sync, body, 0.0))
        before = len(self.heads)
        pages = self.scan_pages(sync, scope)
        asked = len(self.heads) - before
        capped = [failure.error.code.name for page in pages for failure in page.failures]
        assert set(capped) <= {"REMOVALS_CAPPED"}, "a full scan that finds nothing at all removes nothing"
        for item in [item for page in pages for item in page.items]:
            pace = Pace(lambda: 60.0)
            for answer in Transfer(sync, world, world, world, pace, 1).items([item]):
                if isinstance(answer, Arrived):
                    assert Verify(sync, world, world, pace, 1).items([answer.item])
        return asked

    def is_true(self) -> bool:
        """Whether target and memory are what the bucket is."""
        records = {key: Record.of_row(row).etag for key, row in self.files.items()}
        objects = {key: head.etag for key, head in self.objects.items()}
        return records == objects == {key: there.etag for key, there in self.there.items()}


def event(key: str, name: str = "ObjectCreated:Put", sequencer: str | None = None) -> dict[str, Any]:
    about = {"key": key} | ({} if sequencer is None else {"sequencer": sequencer})
    s3 = {"bucket": {"name": "photos"}, "object": about}
    return {"Records": [{"eventVersion": "2.1", "eventSource": "aws:s3", "eventName": name, "s3": s3}]}


def written(sequencer: str, form: int) -> str:
    """A sequencer in one of the ways services have written it."""
    return (sequencer, sequencer.lower(), sequencer.lstrip("0").lower(), sequencer.rstrip("0"))[form]


CHANGES = st.lists(st.tuples(st.sampled_from(KEYS), st.booleans(), st.integers(0, 3)), min_size=1, max_size=12)


@given(CHANGES, st.data())
def test_late_doubled_and_in_any_order_they_lead_to_the_truth(
    changes: list[tuple[str, bool, int]], data: st.DataObject
) -> None:
    world, sync = World(), sync_of()
    for key, removes, form in changes:
        world.change(key, removes=removes, form=form)
        heard = data.draw(st.lists(st.sampled_from(world.told), max_size=4))
        world.look(sync, *heard, everything=data.draw(st.integers(0, 5)) == 0)
    rest = data.draw(st.permutations(world.told))
    at = data.draw(st.integers(0, len(rest)))
    world.look(sync, *rest[:at])
    world.look(sync, *rest[at:])
    assert world.is_true()


@given(CHANGES, st.data())
def test_what_is_told_once_more_costs_nothing_and_does_nothing(
    changes: list[tuple[str, bool, int]], data: st.DataObject
) -> None:
    world, sync = World(), sync_of()
    for key, removes, _ in changes:
        world.change(key, removes=removes)
    world.look(sync, *world.told)
    remembered = dict(world.files)
    for body in data.draw(st.permutations(world.told)):
        key = body["Records"][0]["s3"]["object"]["key"]
        # A deletion of what had never been taken over leaves nothing to remember.
        assert world.look(sync, body) == (0 if key in remembered else 1)
    assert world.files == remembered
    assert world.is_true()


def test_a_creation_after_a_recorded_deletion_costs_no_request_as_long_as_that_is_kept() -> None:
    world, sync = World(), sync_of()
    world.change("a", removes=False)
    world.look(sync, *world.told)
    world.change("a", removes=True)
    world.look(sync, world.told[1])
    assert Gone.of_row(world.gone["a"]).seq
    assert world.look(sync, world.told[0]) == 0
    world.gone.clear()  # its time was over
    assert world.look(sync, world.told[0]) == 1
    assert world.is_true()
    assert not world.files


def test_an_object_newer_than_the_event_is_looked_at_once_more_when_its_own_comes() -> None:
    world, sync = World(), sync_of()
    world.change("a", removes=False)
    world.change("a", removes=False)
    assert world.look(sync, world.told[0]) == 1
    assert world.is_true(), "the object was as the second event tells"
    assert world.look(sync, world.told[1]) == 1, "but nobody could know"
    assert world.look(sync, world.told[0]) == 0


def test_a_deletion_by_a_marker_and_a_version_that_comes_back() -> None:
    world, sync = World(), sync_of()
    world.change("a", removes=False)
    world.look(sync, world.told[0])
    kept = world.objects["a"]
    world.change("a", removes=True)
    world.told[1]["Records"][0]["eventName"] = "ObjectRemoved:DeleteMarkerCreated"
    world.look(sync, world.told[1])
    assert world.is_true()
    world.change("a", removes=True)  # of the marker: the version below is there again, unchanged
    world.objects["a"] = kept
    assert world.look(sync, world.told[0]) == 0
    assert world.look(sync, world.told[2]) == 1
    assert world.is_true()


class TestDeafness:
    """No sequencer keeps a key from being looked at for ever."""

    HIGH = "F" * 18

    def deaf(self) -> tuple[World, FilesSync]:
        """A world in which somebody sent a number that no event will ever reach."""
        world, sync = World(), sync_of()
        world.change("a", removes=False)
        world.look(sync, event("a", sequencer=self.HIGH))
        world.change("a", removes=False)
        assert world.look(sync, world.told[-1]) == 0
        assert not world.is_true()
        return world, sync

    def test_a_full_look_finds_the_difference_and_forgets_the_number(self) -> None:
        world, sync = self.deaf()
        world.look(sync, everything=True)
        assert world.is_true()
        assert Record.of_row(world.files["a"]).seq == ""
        world.change("a", removes=False)
        assert world.look(sync, world.told[-1]) == 1
        assert world.is_true()

    def test_a_full_look_forgets_what_was_kept_of_a_deletion(self) -> None:
        world, sync = World(), sync_of()
        world.change("a", removes=False)
        world.change("b", removes=False)
        world.look(sync, *world.told)
        world.change("a", removes=True)
        world.look(sync, event("a", "ObjectRemoved:Delete", self.HIGH))
        world.change("a", removes=False)
        assert world.look(sync, world.told[-1]) == 0
        world.look(sync, everything=True)
        assert world.is_true()
        assert not world.gone

    def test_a_look_by_hand_is_always_made(self) -> None:
        world, sync = self.deaf()
        pages = world.scan_pages(sync, Scope.of(sync.groups_of(["a"])))
        assert [item.name for page in pages for item in page.items] == ["a"]


@pytest.mark.parametrize("odd", [None, "", "xyz", "12 34", "F" * 33])
def test_what_is_no_sequencer_is_looked_at_and_not_recorded(odd: str | None) -> None:
    assert groups_in(sync_of(), event("a", sequencer=odd), 0.0) == ("key:a",)


@pytest.mark.parametrize("name", ["ObjectAcl:Put", "ObjectTagging:Put", "LifecycleExpiration:Delete", "ObjectMelted"])
def test_only_what_makes_or_removes_is_in_an_order(name: str) -> None:
    assert groups_in(sync_of(), event("a", name, "01"), 0.0) == ("key:a",)


def test_only_who_numbers_in_order_is_believed() -> None:
    elsewhere = {"endpoint": "https://minio.example:9000", "auth": "anonymous"}
    assert groups_in(sync_of(), event("a:b", sequencer="0A"), 0.0) == ("event:0A:a:b",)
    assert groups_in(sync_of(sequencers=False), event("a", sequencer="0A"), 0.0) == ("key:a",)
    assert groups_in(sync_of(**elsewhere), event("a", sequencer="0A"), 0.0) == ("key:a",)
    assert groups_in(sync_of(**elsewhere, sequencers=True), event("a", sequencer="0A"), 0.0) == ("event:0A:a",)


@given(
    st.lists(st.text("0123456789abcdefABCDEF", min_size=1, max_size=20), min_size=1, max_size=5), st.text(min_size=1)
)
def test_events_travel_in_a_scope(sequencers: list[str], key: str) -> None:
    hints = hints_of(f"event:{each}:{key}" for each in sequencers)
    assert hints.events == {key: sequencers}
    assert hints.all_keys() == {key}
    assert hints.latest(key) in sequencers


def test_a_scan_of_keys_that_goes_on_sends_each_item_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A function's time may end behind any page, also behind the last one."""
    monkeypatch.setattr("syncline.kinds.files.items.PAGE_BYTES", 1)
    world, sync = World(), sync_of()
    for key in "abc":
        world.change(key, removes=False)
    world.look(sync, everything=True)
    world.change("a", removes=True)
    world.change("b", removes=False)
    world.change("c", removes=True)
    scope = Scope.of(sync.groups_of(["a", "b", "c"]))
    pages = world.scan_pages(sync, scope)
    for number, page in enumerate(pages):
        rest = world.scan_pages(sync, scope, page.cursor)
        sent = [item.name for each in pages[: number + 1] for item in each.items]
        assert sent + [item.name for each in rest for item in each.items] == ["a", "b", "c"], page.cursor
