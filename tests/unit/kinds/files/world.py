"""A sync of files whose source, target and records are in memory, for scans, transfers and verifications."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from syncline.clients.http.listings import InvalidEntry, OnInvalid
from syncline.clients.s3.head import ObjectHead
from syncline.clients.s3.xml import ListedObject, ListPage
from syncline.config.sync import load_sync
from syncline.errors import SynclineError
from syncline.kinds.files.config import FilesSync
from syncline.kinds.files.discover import FileScan, FilesState
from syncline.kinds.files.events import EventScope, groups_in
from syncline.kinds.files.records import Record, Row
from syncline.kinds.files.targets import PutRequest, PutResult, TargetFile, file_of
from syncline.kinds.files.transfer import FileTransfer
from syncline.kinds.files.verify import FileVerification
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
    """A bucket, its target, and the state of the sync in one object.

    ``invalid`` and ``invalid_at_target`` are keys and paths with invalid entries in the listings. ``refused`` are paths
    that the target cannot have, ``folders`` paths that it does not need, ``unreadable`` paths that it cannot read.
    ``allows`` is the answer to requests for removals; ``requests`` lists them with their totals. ``written``,
    ``compacted`` and ``listings`` count writes of records, compactions and listings of the source.
    """

    objects: dict[str, ObjectHead] = field(default_factory=dict)
    existing: dict[str, TargetFile] = field(default_factory=dict)
    files: dict[str, Row] = field(default_factory=dict)
    gone: dict[str, Row] = field(default_factory=dict)
    heads: list[str] = field(default_factory=list)
    notifications: list[dict[str, Any]] = field(default_factory=list)
    number: int = 0
    name: str = "made up"
    is_listed: bool = True
    invalid: list[str] = field(default_factory=list)
    invalid_at_target: list[str] = field(default_factory=list)
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
        """Put or remove an object, and add its event to ``notifications``."""
        self.number += 1
        if removes:
            self.objects.pop(key, None)
        else:
            self.objects[key] = ObjectHead(f"etag {self.number}", self.number, modified=float(self.number))
        sequencer = f"{0x55AED6DCD90281E500 + self.number * 16:020X}"
        self.notifications.append(
            event(key, "ObjectRemoved:Delete" if removes else "ObjectCreated:Put", written(sequencer, form))
        )

    def head(self, key: str) -> ObjectHead | None:
        self.heads.append(key)
        return self.objects.get(key)

    def page(
        self, prefix: str = "", *, on_invalid: OnInvalid, after: str = "", limit: int = 1000, **_: Any
    ) -> ListPage:
        self.listings += 1
        _report_invalid(self.invalid, prefix, after, on_invalid)
        listed = [ListedObject(key, head.etag, head.size, head.modified) for key, head in sorted(self.objects.items())]
        shown = [each for each in listed if each.key > after and each.key.startswith(prefix)]
        return ListPage(tuple(shown[:limit]), (), None)

    # -- the target

    def creates_safely(self, size: int | None) -> bool:  # noqa: ARG002 - as the real one
        return False

    def refuses(self, path: str, size: int | None) -> str | None:  # noqa: ARG002 - as the real one
        return "cannot be" if path in self.refused else None

    def leaves_out(self, path: str, size: int | None) -> bool:  # noqa: ARG002 - as the real one
        return path in self.folders

    def listing(self, prefix: str, after: str, invalid: OnInvalid) -> Iterator[ListedObject]:
        _report_invalid(self.invalid_at_target, prefix, after, invalid)
        for path, existing in sorted(self.existing.items()):
            if path > after and path.startswith(prefix):
                yield ListedObject(path, existing.version, existing.size or 0, 0.0)

    def stat(self, path: str) -> TargetFile | None:
        if path in self.unreadable:
            raise SynclineError("FORBIDDEN", "not for you")
        return self.existing.get(path)

    def put(self, put: PutRequest) -> PutResult:
        head = self.objects[put.key]
        self.existing[put.path] = file_of(head.etag, head.size)
        return PutResult(head, self.existing[put.path], head.size)

    def listed(self, paths: list[str]) -> dict[str, TargetFile]:  # noqa: ARG002 - as the real one
        return {}

    def rename(self, path: str, new_path: str, existing: TargetFile) -> str:
        self.existing[new_path] = self.existing.pop(path)
        return existing.version

    def remove(self, path: str, existing: TargetFile) -> None:
        assert self.existing.pop(path) == existing

    def permit(self, path: str, mode: str) -> None:  # noqa: ARG002 - as the real one
        return None

    # -- the state

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
        target_events: EventScope | None = None,
    ) -> list[Page]:
        world: Any = self

        state = FilesState(world, world, world, lambda: self.now)
        scan = FileScan(sync, world, world, state, self.group_of, target_events or EventScope())
        return list(scan.pages(scope, cursor, context or StepContext(lambda: 60.0, work="w")))

    def apply(self, sync: FilesSync, *bodies: dict[str, Any], everything: bool = False) -> int:
        """Scan the keys of events or everything, transfer and verify; return the number of keys read by the scan."""
        world: Any = self
        scope = EVERYTHING if everything else Scope.of(g for body in bodies for g in groups_in(sync, body, 0.0))
        before = len(self.heads)
        pages = self.scan_pages(sync, scope)
        keys_read = len(self.heads) - before
        capped = [failure.error.code.name for page in pages for failure in page.failures]
        assert set(capped) <= {"REMOVALS_CAPPED"}, "a full scan of an empty source removes nothing"
        for item in [item for page in pages for item in page.items]:
            context = StepContext(lambda: 60.0)
            for answer in FileTransfer(sync, world, world, world, context, 1).items([item]):
                if isinstance(answer, Completed):
                    assert FileVerification(sync, world, world, context, 1).items([answer.item])
        return keys_read

    def is_true(self) -> bool:
        """Return True if target and records agree with the bucket."""
        records = {key: Record.of_row(row).etag for key, row in self.files.items()}
        objects = {key: head.etag for key, head in self.objects.items()}
        return records == objects == {key: existing.etag for key, existing in self.existing.items()}


def event(key: str, name: str = "ObjectCreated:Put", sequencer: str | None = None) -> dict[str, Any]:
    about = {"key": key} | ({} if sequencer is None else {"sequencer": sequencer})
    s3 = {"bucket": {"name": "photos"}, "object": about}
    return {"Records": [{"eventVersion": "2.1", "eventSource": "aws:s3", "eventName": name, "s3": s3}]}


def written(sequencer: str, form: int) -> str:
    """Return a sequencer in one of the formats that services use."""
    return (sequencer, sequencer.lower(), sequencer.lstrip("0").lower(), sequencer.rstrip("0"))[form]


def _report_invalid(entries: list[str], prefix: str, after: str, invalid: OnInvalid) -> None:
    for name in entries:
        if name > after and name.startswith(prefix):
            invalid(InvalidEntry("an entry", name, SynclineError("MESSAGE_INVALID", "no size"), name))
