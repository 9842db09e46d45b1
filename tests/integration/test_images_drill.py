"""Restore drills of images against docker-registry: every planted damage is found, and nothing is written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from syncline.clients.http.addresses import Endpoint
from syncline.clients.http.client import Http
from syncline.clients.registry.auth import RegistryCredentials
from syncline.clients.registry.client import Registry
from syncline.kinds.facts import ProcessFacts
from syncline.kinds.images.config import ImagesSync
from syncline.kinds.images.drill import ImageDrill
from syncline.kinds.images.facts import TargetNotes
from syncline.kinds.images.listing import RegistryClients
from syncline.kinds.images.signatures import NO_RULES
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
            manifests = [
                {"mediaType": MANIFEST, "digest": self.digests[tag], "size": self._size(server, tag)}
                for tag in ("1.0", "2.0")
            ]
            body = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}).encode()
            self.digests["multi"] = server.push_manifest(self.repository, "multi", body, INDEX)

    def _size(self, server: Server, tag: str) -> int:
        accept = {"Accept": MANIFEST}
        return len(server.authorized("GET", f"/v2/{self.repository}/manifests/{tag}", None, accept).body)

    def drill(self) -> ImageDrill:
        config = {
            "name": "prod-to-dr",
            "kind": "images",
            "source": {"registry": self.prod.host, "plain_http": True, "repositories": [self.repository]},
            "target": {"registry": self.dr.host, "plain_http": True},
        }
        sync = ImagesSync.model_validate_json(json.dumps(config))
        notes = TargetNotes(ProcessFacts(), self.dr.host)
        return ImageDrill(sync, client(self.prod), client(self.dr), notes, NO_RULES, lambda: 0.0)

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
