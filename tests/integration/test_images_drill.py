"""Restore drills of images against docker-registry: every planted damage is found, and nothing is written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from syncline.clients.http.addresses import Endpoint
from syncline.clients.http.client import Http
from syncline.clients.registry.auth import RegistryCredentials
from syncline.clients.registry.client import Registry
from syncline.kinds.facts import ProcessFacts
from syncline.kinds.images.config import ImagesSync
from syncline.kinds.images.drill import ImageDrill
from syncline.kinds.images.facts import TargetNotes
from syncline.kinds.images.listing import RegistryClients
from syncline.kinds.images.signatures import Trust
from syncline.kinds.kind import Page, StepContext
from syncline.model import EVERYTHING, Scope
from tests.standins.pairs import USERS, RegistryPair
from tests.standins.registry import Registry as Server

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def client(server: Server) -> RegistryClients:
    credentials = RegistryCredentials("ann", USERS["ann"])
    return RegistryClients(Registry(Endpoint.parse(server.url), lambda: credentials, Http()), None)


@dataclass
class Pair:
    """The same images at both registries: two tags with a shared layer, and an index."""

    prod: Server
    dr: Server
    namespace: str
    digests: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    """Further keys of the sync."""

    @property
    def repository(self) -> str:
        return f"{self.namespace}/app"

    def layer(self, name: str) -> bytes:
        return f"{self.namespace} {name} ".encode() * 30_000

    def fill(self) -> None:
        for server in (self.prod, self.dr):
            for tag in ("1.0", "2.0"):
                layers = (self.layer("base"), self.layer(tag))
                self.digests[tag] = server.push_image(self.repository, tag, layers)
            self.digests["multi"] = server.push_manifest(
                self.repository, "multi", self.index(("1.0", ""), ("2.0", "")), INDEX
            )

    def source(self) -> dict[str, Any]:
        return {"registry": self.prod.host, "plain_http": True, "repositories": [self.repository]}

    def index(self, *images: tuple[str, str]) -> bytes:
        """Return an index of images, each with its tag and the architecture that the index states."""
        manifests = [
            {"mediaType": MANIFEST, "digest": self.digests[tag], "size": self._size(self.prod, tag)}
            | ({"platform": {"os": "linux", "architecture": architecture}} if architecture else {})
            for tag, architecture in images
        ]
        value = {"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}
        return json.dumps(value, separators=(",", ":")).encode()

    def push_platforms(self) -> None:
        """Give the source an index of two platforms, and the target one of the first of them."""
        both = self.index(("1.0", "amd64"), ("2.0", "arm64"))
        self.prod.push_manifest(self.repository, "multi", both, INDEX)
        self.dr.push_manifest(self.repository, "multi", self.index(("1.0", "amd64")), INDEX)

    def _size(self, server: Server, tag: str) -> int:
        accept = {"Accept": MANIFEST}
        return len(server.authorized("GET", f"/v2/{self.repository}/manifests/{tag}", None, accept).body)

    def drill(self) -> ImageDrill:
        config = {
            "name": "prod-to-dr",
            "kind": "images",
            "source": self.source(),
            "target": {"registry": self.dr.host, "plain_http": True},
            **self.settings,
        }
        sync = ImagesSync.model_validate_json(json.dumps(config))
        notes = TargetNotes(ProcessFacts(), self.dr.host)
        trust = Trust(sync.verify, str)
        return ImageDrill(sync, client(self.prod), client(self.dr), notes, trust)

    def drilled(self, scope: Scope = EVERYTHING, share: float = 1.0, run: str = "run") -> tuple[int, dict[str, str]]:
        return summary(self.drill().pages(scope, None, StepContext(lambda: 60.0, run=run, plan=True), share))

    def stored(self, digest: str) -> Path:
        """Return the file of a blob or manifest in the target's storage."""
        algorithm, _, value = digest.partition(":")
        (found,) = self.dr.folder.rglob(f"blobs/{algorithm}/{value[:2]}/{value}/data")
        return found


def summary(pages: Iterator[Page]) -> tuple[int, dict[str, str]]:
    """Return the number of equal images, and the code of each failure by tag."""
    equal, found = 0, dict[str, str]()
    for page in pages:
        equal += page.equal
        found |= {each.name: str(each.code) for each in page.results}
        found |= {each.item.name: each.error.code.name for each in page.failures}
    return equal, found


@pytest.fixture
def pair(registry_pair: RegistryPair, namespace: str) -> Pair:
    made = Pair(registry_pair.prod, registry_pair.dr, namespace)
    made.fill()
    return made


def flip(path: Path, at: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def digest_of_layer(pair: Pair, name: str) -> str:
    import hashlib  # noqa: PLC0415

    return f"sha256:{hashlib.sha256(pair.layer(name)).hexdigest()}"


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def swap(pair: Pair) -> None:
    one, other = (pair.stored(digest_of_layer(pair, tag)) for tag in ("1.0", "2.0"))
    held = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(held)


def unlink_layer(pair: Pair) -> None:
    value = digest_of_layer(pair, "1.0").partition(":")[2]
    for folder in pair.dr.folder.rglob(f"{pair.repository}/_layers/sha256/{value}"):
        shutil.rmtree(folder)


def unlink_child(pair: Pair) -> None:
    value = pair.digests["2.0"].partition(":")[2]
    for folder in pair.dr.folder.rglob(f"{pair.repository}/_manifests/revisions/sha256/{value}"):
        shutil.rmtree(folder)


def remove_tag(pair: Pair) -> None:
    for folder in pair.dr.folder.rglob(f"{pair.repository}/_manifests/tags/2.0"):
        shutil.rmtree(folder)


DAMAGE: dict[str, tuple[set[str], Callable[[Pair], object]]] = {
    "a flipped byte in a layer": ({"1.0", "multi"}, lambda pair: flip(pair.stored(digest_of_layer(pair, "1.0")))),
    "a flipped first byte": ({"2.0", "multi"}, lambda pair: flip(pair.stored(digest_of_layer(pair, "2.0")), 0)),
    "a flipped byte in a shared layer": (
        {"1.0", "2.0", "multi"},
        lambda pair: flip(pair.stored(digest_of_layer(pair, "base"))),
    ),
    "a truncated layer": ({"1.0", "multi"}, lambda pair: truncate(pair.stored(digest_of_layer(pair, "1.0")))),
    "an emptied layer": ({"1.0", "multi"}, lambda pair: pair.stored(digest_of_layer(pair, "1.0")).write_bytes(b"")),
    "a longer layer": (
        {"1.0", "multi"},
        lambda pair: pair.stored(digest_of_layer(pair, "1.0")).write_bytes(pair.layer("1.0") + b"x"),
    ),
    "swapped layers": ({"1.0", "2.0", "multi"}, swap),
    "a missing layer": ({"1.0", "multi"}, unlink_layer),
    "a missing child of an index": ({"2.0", "multi"}, unlink_child),
    "a missing tag": ({"2.0"}, remove_tag),
    "another image under the tag": ({"1.0"}, lambda pair: pair.dr.push_image(pair.repository, "1.0", (b"planted",))),
    "a flipped byte in a manifest": ({"1.0", "multi"}, lambda pair: flip(pair.stored(pair.digests["1.0"]), 40)),
}


@pytest.mark.parametrize(("damaged", "damage"), DAMAGE.values(), ids=DAMAGE.keys())
def test_damage_is_found(pair: Pair, damaged: set[str], damage: Callable[[Pair], object]) -> None:
    assert pair.drilled() == (3, {})
    damage(pair)
    pair.dr.halt()  # it keeps what it knows of blobs in memory
    pair.dr.start()
    equal, found = pair.drilled()
    assert found.keys() == damaged
    assert equal == 3 - len(damaged)


def test_an_older_image_of_the_source_is_no_damage(pair: Pair) -> None:
    pair.prod.push_image(pair.repository, "1.0", (b"a newer image",))
    assert pair.drilled() == (3, {})


def test_images_outside_the_selection_are_not_expected(pair: Pair) -> None:
    remove_tag(pair)
    pair.settings = {"select": {"semver": "<2", "always": ["multi"]}}
    assert pair.drilled() == (2, {})


def test_images_that_are_too_young_are_not_expected(pair: Pair) -> None:
    remove_tag(pair)
    pair.settings = {"select": {"older_than": "1d"}}
    assert pair.drilled() == (2, {"2.0": "None"})  # named as left out


def test_images_without_a_trusted_signature_are_not_expected(pair: Pair) -> None:
    remove_tag(pair)
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    pair.settings = {"verify": [{"public_key": pem}]}
    equal, found = pair.drilled()
    assert (equal, found) == (2, {"2.0": "None"})


def test_damage_in_an_index_of_selected_platforms_is_found(pair: Pair) -> None:
    pair.push_platforms()
    pair.settings = {"select": {"tags": {"include": ["multi"]}, "platforms": ["linux/amd64"]}}
    assert pair.drilled() == (1, {})
    flip(pair.stored(digest_of_layer(pair, "1.0")))
    assert pair.drilled() == (0, {"multi": "RESTORE_DIFFERS"})


def test_a_sparse_index_lacks_the_other_platforms(pair: Pair) -> None:
    pair.push_platforms()
    pair.dr.push_manifest(pair.repository, "multi", pair.index(("1.0", "amd64"), ("2.0", "arm64")), INDEX)
    unlink_child(pair)
    pair.settings = {"select": {"tags": {"include": ["multi"]}, "platforms": ["linux/amd64"], "sparse": True}}
    assert pair.drilled() == (1, {})


def test_digests_without_a_tag_are_compared(pair: Pair) -> None:
    digest = pair.prod.push_image(pair.repository, "gone", (b"untagged",))
    named = f"{pair.repository}@{digest}"
    pair.settings = {"select": {"tags": {"include": ["1.*"]}}, "source": {**pair.source(), "digests": [named]}}
    assert pair.drilled() == (1, {digest: "RESTORE_DIFFERS"})
    pair.dr.push_image(pair.repository, "gone", (b"untagged",))
    assert pair.drilled() == (2, {})


def test_renamed_repositories_are_drilled_by_their_new_names(pair: Pair) -> None:
    pair.dr.push_image(f"{pair.namespace}/new", "1.0", (pair.layer("base"), pair.layer("1.0")))
    source = {"registry": pair.prod.host, "plain_http": True, "catalog": True}
    pair.settings = {
        "source": source,
        "select": {"repositories": {"include": [f"{pair.namespace}/*"]}, "tags": {"include": ["1.0"]}},
        "rename": [{"from": f"{pair.namespace}/app", "to": f"{pair.namespace}/new"}],
    }
    assert pair.drilled(Scope.of([f"{pair.namespace}/new"])) == (1, {})
    assert pair.drilled() == (1, {})


def test_samples_are_other_ones_in_each_drill(pair: Pair) -> None:
    found = {pair.drilled(share=0.5, run=f"run{number}")[0] for number in range(12)}
    assert len(found) > 1


def test_a_missing_tag_is_found_outside_the_sample(pair: Pair) -> None:
    remove_tag(pair)
    assert pair.drilled(share=1e-9) == (0, {"2.0": "RESTORE_DIFFERS"})


def test_a_drill_continues_within_a_layer(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncline.kinds.images.drill._CHUNK", 100_000)

    def all_pages() -> Iterator[Page]:
        cursor: str | None = None
        for _ in range(1000):
            asked = iter(range(4))  # over after a few questions
            context = StepContext(lambda: float(next(asked, 3) < 3), run="run", plan=True)  # noqa: B023
            pages = list(pair.drill().pages(EVERYTHING, cursor, context, 1.0))
            yield from pages
            if pages and pages[-1].cursor == cursor:
                raise AssertionError("no progress")
            if not pages:
                return
            cursor = pages[-1].cursor

    equal, found = summary(all_pages())
    assert (equal, found) == (3, {})
    flip(pair.stored(digest_of_layer(pair, "1.0")), 300_000)
    assert summary(all_pages()) == (1, dict.fromkeys(("1.0", "multi"), "RESTORE_DIFFERS"))
