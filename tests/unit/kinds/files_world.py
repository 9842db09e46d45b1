"""A sync of files, discovered, transferred and verified, with its source, target and memory in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from syncline.clients.http.listings import Odd, OnOdd
from syncline.clients.s3.head import Head
from syncline.clients.s3.xml import Listed, ListPage
from syncline.config.sync import load_sync
from syncline.errors import SynclineError
from syncline.kinds.files.config import FilesSync
from syncline.kinds.files.discover import Memory, Scan
from syncline.kinds.files.events import Hints, groups_in
from syncline.kinds.files.records import Record, Row
from syncline.kinds.files.targets import Put, TargetFile, Written, file_of
from syncline.kinds.files.transfer import Transfer
from syncline.kinds.files.verify import Verify
from syncline.kinds.kind import Completed, Page, StepContext
from syncline.model import EVERYTHING, Scope, compact_json
from syncline.ownership import Grant, RemovalRequest

CONFIG: dict[str, Any] = {
    "name": "shop-files",
    "kind": "files",
    "source": {"bucket": "photos"},
    "target": {"bucket": "copies"},
    "removals": {},
}


def sync_of(more: dict[str, Any] | None = None, /, **source: Any) -> FilesSync:
    """Return a sync from a bucket to another one that removes; ``more`` are fields of its configuration."""
    sync = load_sync(compact_json({**CONFIG, "source": {"bucket": "photos", **source}, **(more or {})}))
    assert isinstance(sync, FilesSync)
    return sync


@dataclass
class World:
    """A bucket, its target and what is remembered, all in memory; it is the source, the target and the records in one.

    ``odd`` and ``odd_there`` are keys and paths whose entries in the listings cannot be used. ``refused`` and ``folders``
    are paths that the target cannot have and does not need, ``unreadable`` those that cannot be read there. ``allows`` is the answer to requests for removals, which
    ``requests`` lists with the total that each was told. ``written`` counts writes to the records, ``compacted`` how
    often they were compacted, ``listings`` how often the source was listed.
    """

    objects: dict[str, Head] = field(default_factory=dict)
    there: dict[str, TargetFile] = field(default_factory=dict)
    files: dict[str, Row] = field(default_factory=dict)
    gone: dict[str, Row] = field(default_factory=dict)
    heads: list[str] = field(default_factory=list)
    told: list[dict[str, Any]] = field(default_factory=list)
    number: int = 0
    name: str = "made up"
    is_listed: bool = True
    odd: list[str] = field(default_factory=list)
    odd_there: list[str] = field(default_factory=list)
    refused: frozenset[str] = frozenset()
    folders: frozenset[str] = frozenset()
    unreadable: frozenset[str] = frozenset()
    allows: bool = True
    requests: list[tuple[RemovalRequest, int]] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)
    now: float = 1000.0
    written: int = 0
    compacted: int = 0
    listings: int = 0
    group_of: Callable[[str], str] = lambda name: name

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

    def page(self, prefix: str = "", *, odd: OnOdd, after: str = "", limit: int = 1000, **_: Any) -> ListPage:
        self.listings += 1
        _tell(self.odd, prefix, after, odd)
        listed = [Listed(key, head.etag, head.size, head.modified) for key, head in sorted(self.objects.items())]
        shown = [each for each in listed if each.key > after and each.key.startswith(prefix)]
        return ListPage(tuple(shown[:limit]), (), None)

    # -- the target

    def creates_safely(self, size: int | None) -> bool:  # noqa: ARG002 - as the real one
        return False

    def refuses(self, path: str, size: int | None) -> str | None:  # noqa: ARG002 - as the real one
        return "cannot be" if path in self.refused else None

    def leaves_out(self, path: str, size: int | None) -> bool:  # noqa: ARG002 - as the real one
        return path in self.folders

    def listing(self, prefix: str, after: str, odd: OnOdd) -> Iterator[Listed]:
        _tell(self.odd_there, prefix, after, odd)
        for path, there in sorted(self.there.items()):
            if path > after and path.startswith(prefix):
                yield Listed(path, there.version, there.size or 0, 0.0)

    def stat(self, path: str) -> TargetFile | None:
        if path in self.unreadable:
            raise SynclineError("FORBIDDEN", "not for you")
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

    def scan(self, after: str = "", prefix: str = "") -> Iterator[tuple[str, Row]]:
        return iter([each for each in sorted(self.files.items()) if each[0] > after and each[0].startswith(prefix)])

    def write(self, changes: dict[str, Row | None], gone: dict[str, Row] | None = None, *, after: int = 0) -> int:  # noqa: ARG002 - as the real one
        self.written += bool(changes or gone)
        for name in {*changes, *(gone or {})}:
            self.files.pop(name, None)
            self.gone.pop(name, None)
        self.files |= {name: row for name, row in changes.items() if row is not None}
        self.gone |= gone or {}
        return 0

    def compact(self) -> int:
        self.compacted += 1
        return len(self.files)

    def count(self) -> int:
        return len(self.files)

    def reserve(
        self, request: RemovalRequest, total: Callable[[], int], removed: Callable[[str], int] | None = None
    ) -> Grant:
        assert removed is not None
        self.requests.append((request, total()))
        return Grant(self.allows, removed("run-1"), total(), 0.0, request.count)

    def recall(self, key: str) -> str | None:
        return self.facts.get(key)

    def remember(self, key: str, value: str, seconds: float = 0.0) -> None:
        assert seconds
        self.facts[key] = value

    # -- a run

    def scan_pages(
        self,
        sync: FilesSync,
        scope: Scope,
        cursor: str | None = None,
        context: StepContext | None = None,
        told: Hints | None = None,
    ) -> list[Page]:
        world: Any = self

        memory = Memory(world, world, world, lambda: self.now)
        scan = Scan(sync, world, world, memory, self.group_of, told or Hints())
        return list(scan.pages(scope, cursor, context or StepContext(lambda: 60.0, work="w")))

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
            context = StepContext(lambda: 60.0)
            for answer in Transfer(sync, world, world, world, context, 1).items([item]):
                if isinstance(answer, Completed):
                    assert Verify(sync, world, world, context, 1).items([answer.item])
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


def _tell(entries: list[str], prefix: str, after: str, odd: OnOdd) -> None:
    for name in entries:
        if name > after and name.startswith(prefix):
            odd(Odd("an entry", name, SynclineError("MESSAGE_INVALID", "no size"), name))
