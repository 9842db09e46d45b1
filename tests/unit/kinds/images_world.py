"""A scan between two registries that are made up: they list what they are given, and count what they are asked."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, cast

from syncline.clients.http.listings import BEGINNING, Odd, OnOdd, Position
from syncline.clients.registry.client import NamesPage, Registry
from syncline.clients.registry.manifest import OCI_MANIFEST, Descriptor, Manifest
from syncline.clients.registry.quay import Quay, QuayRepository, QuayTag, RepositoriesPage, TagsPage
from syncline.config.sync import load_sync
from syncline.errors import SynclineError
from syncline.kinds.artifacts.layers import OwnMemory
from syncline.kinds.images.config import ImagesSync
from syncline.kinds.images.discover import Look
from syncline.kinds.images.listing import Side
from syncline.kinds.images.memory import Notes
from syncline.kinds.kind import Page, StepContext
from syncline.model import EVERYTHING, Scope

LIST_PAGE = 100
Content = Mapping[str, Mapping[str, str]]  # repository → tag → digest


def parts_of(names: Sequence[str], start: Position, path: str = "/") -> Iterator[NamesPage]:
    """Yield the names in pages, at least one; tokens are paths at a registry, and numbers at an API."""
    at = int(start.token.removeprefix("/") or 0)
    for number in range(at, max(len(names), 1), LIST_PAGE):
        part = list(names[number : number + LIST_PAGE])
        end = number + LIST_PAGE
        more = Position(f"{path}{end}", start.entries + end - at, start.pages + end // LIST_PAGE)
        yield NamesPage(part, more if end < len(names) else None)


_CONFIG = "sha256:" + "0" * 64
IMAGE: Final = json.dumps(
    {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": "c", "digest": _CONFIG, "size": 2},
        "layers": [],
    }
).encode()


class MadeUpRegistry:
    """Lists what it is given, and counts what it is asked.

    ``broken`` are errors of repositories' lists, ``odd`` errors of manifests by tag or digest, and
    ``odd_tags`` entries of repositories' lists that cannot be used. ``cut`` are repositories
    without blobs, and ``signed`` has what refers to a digest.
    """

    def __init__(self, host: str, content: Content) -> None:
        self.host = host
        self.content = content
        self.asked: list[str] = []
        self.broken: dict[str, SynclineError] = {}
        self.odd: dict[str, SynclineError] = {}
        self.odd_tags: dict[str, list[Odd]] = {}
        self.cut: set[str] = set()
        self.signed: dict[str, tuple[Descriptor, ...]] = {}
        self.unordered: Callable[[list[str]], list[str]] = lambda names: names

    def catalog_pages(self, _odd: OnOdd, start: Position) -> Iterator[NamesPage]:
        yield from parts_of(list(self.content), start)

    def tag_pages(self, repository: str, odd: OnOdd, start: Position) -> Iterator[NamesPage]:
        for each in self.odd_tags.get(repository, ()) if start == BEGINNING else ():
            odd(each)
        for page in parts_of(self.unordered(sorted(self.content.get(repository, {}))), start):
            self.asked.append(f"tags {repository}")
            if repository in self.broken:
                raise self.broken[repository]
            yield page

    def tags(self, repository: str, _odd: OnOdd) -> Iterator[str]:
        return iter(sorted(self.content.get(repository, {})))

    def knows(self, repository: str) -> bool:
        return repository in self.content

    def manifest_digest(self, repository: str, reference: str) -> str | None:
        self.asked.append(f"digest {repository}:{reference}")
        return self.content.get(repository, {}).get(reference)

    def manifest(self, repository: str, reference: str, _media_type: str = "") -> Manifest:
        self.asked.append(f"manifest {repository}@{reference}")
        if reference in self.odd:
            raise self.odd[reference]
        digest = self.content.get(repository, {}).get(reference, reference)
        subject = next((each for each, listed in self.signed.items() if digest in [d.digest for d in listed]), None)
        if subject is None:
            return Manifest(digest, OCI_MANIFEST, IMAGE)
        about = {"mediaType": OCI_MANIFEST, "digest": subject, "size": len(IMAGE)}
        return Manifest(digest, OCI_MANIFEST, json.dumps({**json.loads(IMAGE), "subject": about}).encode())

    def blob_size(self, repository: str, _blob: Descriptor) -> int | None:
        return None if repository in self.cut else 2

    def referrers(self, repository: str, digest: str, _odd: OnOdd) -> tuple[Descriptor, ...]:
        self.asked.append(f"referrers {repository}@{digest}")
        return self.signed.get(digest, ())


class MadeUpApi:
    """Quay's API in front of a registry; ``states`` are those that are not NORMAL.

    ``listed`` has each namespace that was listed, ``asked`` each repository, and ``odd`` entries that cannot be used.
    ``pages`` counts those of namespaces.
    """

    def __init__(self, content: Content, states: Mapping[str, str] | None = None) -> None:
        self.content = content
        self.states = states or {}
        self.listed: list[str] = []
        self.asked: list[str] = []
        self.pages = 0
        self.odd: list[Odd] = []
        self.broken: dict[str, SynclineError] = {}

    def repository_pages(self, namespace: str, odd: OnOdd, start: Position | None = None) -> Iterator[RepositoriesPage]:
        self.listed.append(namespace)
        if namespace in self.broken:
            raise self.broken[namespace]
        for each in self.odd:
            odd(each)
        names = [name for name in self.content if name.partition("/")[0] == namespace]
        for page in parts_of(names, start or BEGINNING):
            self.pages += 1
            listed = [QuayRepository(name, self.states.get(name, "NORMAL")) for name in page.names]
            yield RepositoriesPage(listed, page.following)

    def tag_pages(self, repository: str, _odd: OnOdd, start: Position | None) -> Iterator[TagsPage]:
        self.asked.append(repository)
        if repository not in self.content:
            raise SynclineError("NOT_FOUND", "no such repository")
        tags = self.content[repository]
        for page in parts_of(list(tags), start or BEGINNING, ""):
            yield TagsPage({tag: QuayTag(tags[tag], 10, False) for tag in page.names}, page.following)


class Bench:
    """A look between two registries made up; ``notes`` are kept from one look to the next."""

    def __init__(self, there: Content, here: Content, *, api: bool = False, **config: Any) -> None:
        self.source, self.target = MadeUpRegistry("prod.example", there), MadeUpRegistry("dr.example", here)
        self.source_api = MadeUpApi(there) if api else None
        self.target_api = MadeUpApi(here) if api else None
        what: dict[str, Any] = {"organizations": ["team"], "api": {"kind": "quay"}} if api else {"catalog": True}
        endpoints = {
            "source": {"registry": "prod.example", **what, **config.pop("source", {})},
            "target": {"registry": "dr.example", **config.pop("target", {})},
        }
        sync = load_sync(json.dumps({"name": "s", "kind": "images", **endpoints, **config}))
        assert isinstance(sync, ImagesSync)
        self.sync = sync
        self.notes = Notes(OwnMemory(), "dr.example")

    def look(self, scope: Scope = EVERYTHING, cursor: str | None = None) -> list[Page]:
        return list(self.pages(scope, cursor, StepContext(lambda: 60.0)))

    def pages(self, scope: Scope, cursor: str | None, context: StepContext) -> Iterator[Page]:
        source = Side(cast("Registry", self.source), cast("Quay | None", self.source_api))
        target = Side(cast("Registry", self.target), cast("Quay | None", self.target_api))
        return Look(self.sync, source, target, self.notes).pages(scope, cursor, context)


def found(pages: Iterable[Page]) -> list[tuple[str, str]]:
    return [(item.group, item.name) for page in pages for item in page.items]
