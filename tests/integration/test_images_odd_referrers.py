"""Invalid entries in lists of referrers: each one fails alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Final

import pytest

from syncline.clients.http.addresses import Endpoint
from syncline.clients.http.client import Http
from syncline.clients.registry.client import Registry
from syncline.config.sync import load_sync
from syncline.kinds.facts import ProcessFacts
from syncline.kinds.images.config import ImagesSync
from syncline.kinds.images.facts import BlobLocations, TargetNotes
from syncline.kinds.images.kind import Images
from syncline.kinds.images.listing import RegistryClients
from syncline.kinds.images.signatures import Trust
from syncline.kinds.kind import Completed, Failure, StepContext
from syncline.model import Result, Scope
from tests.standins.made_up import Naps
from tests.standins.oci import OciRegistry
from tests.standins.oci_store import OCI_MANIFEST, descriptor

NAME: Final = "team/app"
TIME: Final = StepContext(lambda: 60.0)
DIGEST: Final = "sha256:" + "ab" * 32
ODD: Final[tuple[Any, ...]] = (
    None,
    7,
    {},
    {"digest": "sha256:short", "size": 1},
    {"digest": DIGEST, "size": -1},
    {"digest": None},
)


class World:
    """Two registries with the referrers API, and an image with two signatures at the source."""

    def __init__(self, there: OciRegistry, here: OciRegistry) -> None:
        self.there, self.here = there, here
        store = there.store
        self.image = store.add_image(NAME, "1.0", b"a layer")
        subject = descriptor(OCI_MANIFEST, store.repositories[NAME].manifests[self.image].body)
        self.made = [store.add_image(NAME, None, what, subject=subject) for what in (b"1", b"2")]

    def invalidate(self, registry: OciRegistry, junk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        right = registry.store.referrers

        def wrong(name: str, digest: str) -> list[Any]:
            found = right(name, digest)
            return [found[0], junk, *found[1:]] if digest == self.image and found else found

        monkeypatch.setattr(registry.store, "referrers", wrong)

    def run(self) -> tuple[list[str], list[str]]:
        """Discover, transfer and verify; return the moved tags, and the failures with ENTRY_INVALID."""
        ends = {
            "source": {"registry": self.there.host, "plain_http": True, "repositories": [NAME]},
            "target": {"registry": self.here.host, "plain_http": True},
        }
        sync = load_sync(json.dumps({"name": "s", "kind": "images", "referrers": "always", **ends}))
        assert isinstance(sync, ImagesSync)
        http, memory = Http(Naps().policy()), ProcessFacts()
        there, here = (
            RegistryClients(Registry(Endpoint("http", end.host), lambda: None, http), None) for end in self.ends
        )
        kind = Images(
            sync,
            there,
            here,
            http,
            locations=BlobLocations(memory),
            notes=TargetNotes(memory, self.here.host),
            trust=Trust((), str),
        )
        pages = list(kind.discover(Scope.of([NAME]), None, TIME))
        failed: list[tuple[str, str]] = [
            (each.item.name, each.error.code.name) for page in pages for each in page.failures
        ]
        items = [item for page in pages for item in page.items]
        answers = list(kind.transfer(items, TIME)) if items else []
        failed += [(each.name, str(each.code)) for each in answers if isinstance(each, Result)]
        failed += [(each.item.name, each.error.code.name) for each in answers if isinstance(each, Failure)]
        arrived = [answer.item for answer in answers if isinstance(answer, Completed)]
        assert all(isinstance(proof, Completed) for proof in kind.verify(arrived, TIME))
        assert {code for _, code in failed} <= {"ENTRY_INVALID"}, failed
        return [item.name for item in arrived], [name for name, _ in failed]

    @property
    def ends(self) -> tuple[OciRegistry, OciRegistry]:
        return self.there, self.here


@pytest.fixture
def world() -> Iterator[World]:
    with ExitStack() as stack:
        yield World(stack.enter_context(OciRegistry()), stack.enter_context(OciRegistry()))


@pytest.mark.parametrize("junk", ODD, ids=str)
def test_an_image_and_its_other_signatures_are_copied(world: World, junk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    world.invalidate(world.there, junk, monkeypatch)
    moved, failed = world.run()
    assert moved == ["1.0"]
    assert len(failed) == 1
    assert {each["digest"] for each in world.here.store.referrers(NAME, world.image)} == set(world.made)
    # The image is equal now, and the entry is still invalid.
    again, failed_again = world.run()
    assert again == []
    assert failed_again == failed


def test_an_invalid_entry_of_the_target(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    assert world.run() == (["1.0"], [])
    world.invalidate(world.here, None, monkeypatch)
    moved, failed = world.run()
    assert moved == []
    assert len(failed) == 1
