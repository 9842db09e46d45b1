"""Scans between two registries in memory, which list their content and record the requests."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, cast

from syncline.clients.http.listings import LISTING_START, InvalidEntry, ListingPage, ListingPosition, OnInvalid
from syncline.clients.registry.client import Registry
from syncline.clients.registry.manifest import OCI_MANIFEST, Descriptor, Manifest
from syncline.clients.registry.quay import Quay, QuayRepository, QuayTag
from syncline.config.sync import load_sync
from syncline.errors import SynclineError
from syncline.kinds.facts import ProcessFacts
from syncline.kinds.images.config import ImagesSync
from syncline.kinds.images.discover import ImageScan
from syncline.kinds.images.facts import TargetNotes
from syncline.kinds.images.listing import RegistryClients
from syncline.kinds.images.records import ProcessRecords, Row
from syncline.kinds.kind import Page, StepContext
from syncline.model import EVERYTHING, Scope

LIST_PAGE = 100
Content = Mapping[str, Mapping[str, str]]  # repository → tag → digest


def parts_of(names: Sequence[str], start: ListingPosition, path: str = "/") -> Iterator[ListingPage[list[str]]]:
    """Yield at least one page of names. Page tokens are paths at a registry and numbers at an API."""
    at = int(start.token.removeprefix("/") or 0)
    for number in range(at, max(len(names), 1), LIST_PAGE):
        part = list(names[number : number + LIST_PAGE])
        end = number + LIST_PAGE
        more = ListingPosition(f"{path}{end}", start.entries + end - at, start.pages + end // LIST_PAGE)
        yield ListingPage(part, more if end < len(names) else None)


_CONFIG = "sha256:" + "0" * 64
IMAGE: Final = json.dumps(
    {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": "c", "digest": _CONFIG, "size": 2},
        "layers": [],
    }
).encode()


class MemoryRegistry:
    """A registry in memory, which records the requests in ``asked``.

    ``broken`` has errors of repositories' lists, ``invalid`` errors of manifests by tag or digest, and ``invalid_tags``
    invalid entries of repositories' lists. With ``lists_referrers_by_tag`` it has no API for them. ``cut`` are repositories without blobs, ``signed`` has referrers by digest.
    """

    def __init__(self, host: str, content: Content) -> None:
        self.host = host
        self.content = content
        self.asked: list[str] = []
        self.broken: dict[str, SynclineError] = {}
        self.invalid: dict[str, SynclineError] = {}
        self.invalid_tags: dict[str, list[InvalidEntry]] = {}
        self.cut: set[str] = set()
        self.lists_referrers_by_tag = False
        self.signed: dict[str, tuple[Descriptor, ...]] = {}
        self.unordered: Callable[[list[str]], list[str]] = lambda names: names

    def catalog_pages(self, _invalid: OnInvalid, start: ListingPosition) -> Iterator[ListingPage[list[str]]]:
        yield from parts_of(list(self.content), start)

    def tag_pages(
        self, repository: str, invalid: OnInvalid, start: ListingPosition
    ) -> Iterator[ListingPage[list[str]]]:
        for each in self.invalid_tags.get(repository, ()) if start == LISTING_START else ():
            invalid(each)
        for page in parts_of(self.unordered(sorted(self.content.get(repository, {}))), start):
            self.asked.append(f"tags {repository}")
            if repository in self.broken:
                raise self.broken[repository]
            yield page

    def tags(self, repository: str, _invalid: OnInvalid) -> Iterator[str]:
        return iter(sorted(self.content.get(repository, {})))

    def has_repository(self, repository: str) -> bool:
        return repository in self.content

    def manifest_digest(self, repository: str, reference: str) -> str | None:
        self.asked.append(f"digest {repository}:{reference}")
        return self.content.get(repository, {}).get(reference)

    def manifest(self, repository: str, reference: str, _media_type: str = "") -> Manifest:
        self.asked.append(f"manifest {repository}@{reference}")
        if reference in self.invalid:
            raise self.invalid[reference]
        digest = self.content.get(repository, {}).get(reference, reference)
        subject = next((each for each, listed in self.signed.items() if digest in [d.digest for d in listed]), None)
        if subject is None:
            return Manifest(digest, OCI_MANIFEST, IMAGE)
        about = {"mediaType": OCI_MANIFEST, "digest": subject, "size": len(IMAGE)}
        return Manifest(digest, OCI_MANIFEST, json.dumps({**json.loads(IMAGE), "subject": about}).encode())

    def blob_size(self, repository: str, _blob: Descriptor) -> int | None:
        return None if repository in self.cut else 2

    def referrers(self, repository: str, digest: str, _invalid: OnInvalid) -> tuple[Descriptor, ...]:
        self.asked.append(f"referrers {repository}@{digest}")
        return self.signed.get(digest, ())


class MemoryRecords(ProcessRecords):
    """Records in memory, with the changes of each write in ``written``."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[dict[tuple[str, str], Row | None]] = []

    def write(self, changes: Mapping[tuple[str, str], Row | None]) -> None:
        self.written.append(dict(changes))
        super().write(changes)


class MemoryApi:
    """Quay's API in front of a registry; ``states`` has the repositories' states other than NORMAL.

    ``listed`` has the namespaces and ``asked`` the repositories that were listed. ``invalid`` has invalid entries, and
    ``pages`` counts the pages of namespaces.
    """

    def __init__(self, content: Content, states: Mapping[str, str] | None = None) -> None:
        self.content = content
        self.states = states or {}
        self.listed: list[str] = []
        self.asked: list[str] = []
        self.pages = 0
        self.invalid: list[InvalidEntry] = []
        self.broken: dict[str, SynclineError] = {}

    def repository_pages(
        self, namespace: str, invalid: OnInvalid, start: ListingPosition | None = None
    ) -> Iterator[ListingPage[list[QuayRepository]]]:
        self.listed.append(namespace)
        if namespace in self.broken:
            raise self.broken[namespace]
        for each in self.invalid:
            invalid(each)
        names = [name for name in self.content if name.partition("/")[0] == namespace]
        for page in parts_of(names, start or LISTING_START):
            self.pages += 1
            listed = [QuayRepository(name, self.states.get(name, "NORMAL")) for name in page.entries]
            yield ListingPage(listed, page.next_position)

    def tag_pages(
        self, repository: str, _invalid: OnInvalid, start: ListingPosition | None
    ) -> Iterator[ListingPage[dict[str, QuayTag]]]:
        self.asked.append(repository)
        if repository not in self.content:
            raise SynclineError("NOT_FOUND", "no such repository")
        tags = self.content[repository]
        for page in parts_of(list(tags), start or LISTING_START, ""):
            yield ListingPage({tag: QuayTag(tags[tag], 10, False) for tag in page.entries}, page.next_position)


class RegistryPair:
    """A source and a target in memory, and scans of them. ``notes`` are kept between scans."""

    def __init__(self, at_source: Content, at_target: Content, *, api: bool = False, **config: Any) -> None:
        self.source, self.target = MemoryRegistry("prod.example", at_source), MemoryRegistry("dr.example", at_target)
        self.source_api = MemoryApi(at_source) if api else None
        self.target_api = MemoryApi(at_target) if api else None
        what: dict[str, Any] = {"organizations": ["team"], "api": {"kind": "quay"}} if api else {"catalog": True}
        endpoints = {
            "source": {"registry": "prod.example", **what, **config.pop("source", {})},
            "target": {"registry": "dr.example", **config.pop("target", {})},
        }
        sync = load_sync(json.dumps({"name": "s", "kind": "images", **endpoints, **config}))
        assert isinstance(sync, ImagesSync)
        self.sync = sync
        self.notes = TargetNotes(ProcessFacts(), "dr.example")
        self.records = MemoryRecords()

    def scan(self, scope: Scope = EVERYTHING, cursor: str | None = None) -> list[Page]:
        return list(self.pages(scope, cursor, StepContext(lambda: 60.0)))

    def pages(self, scope: Scope, cursor: str | None, context: StepContext) -> Iterator[Page]:
        source = RegistryClients(cast("Registry", self.source), cast("Quay | None", self.source_api))
        target = RegistryClients(cast("Registry", self.target), cast("Quay | None", self.target_api))
        return ImageScan(self.sync, source, target, self.notes, self.records).pages(scope, cursor, context)


def found(pages: Iterable[Page]) -> list[tuple[str, str]]:
    return [(item.group, item.name) for page in pages for item in page.items]
