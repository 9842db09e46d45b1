from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from syncline.clients.addresses import Endpoint
from syncline.clients.http import Http
from syncline.clients.oci import Registry
from syncline.clients.pacing import Policy
from syncline.kinds.images.proving import Origin, Proof
from syncline.kinds.kind import Arrived, Failure, Later, Pace
from syncline.model import Item
from tests.standins.oci import Fault, OciRegistry
from tests.standins.oci_store import OCI_MANIFEST, Store, descriptor, digest_of

GROUP = "team/app"
TIME = Pace(lambda: 60.0)


@pytest.fixture(scope="module")
def _registry() -> Iterator[OciRegistry]:
    with OciRegistry() as made:
        yield made


@pytest.fixture
def registry(_registry: OciRegistry) -> OciRegistry:
    _registry.clear()
    return _registry


@pytest.fixture
def proof(registry: OciRegistry) -> Proof:
    http = Http(Policy(sleep=lambda _: None))
    return Proof(Registry(Endpoint("http", registry.host), lambda: None, http))


def prove(proof: Proof, *items: Item, pace: Pace = TIME) -> list[str]:
    """What each item came to: ``arrived``, ``later`` or the failure's code."""
    found: dict[str, str] = {}
    for answer in proof.of(items, pace):
        match answer:
            case Arrived(item):
                found[item.name] = "arrived"
            case Later(item):
                found[item.name] = "later"
            case Failure(item, error):
                found[item.name] = error.code.name
    return [found[item.name] for item in items]


def test_an_image_with_all_its_parts_has_arrived(registry: OciRegistry, proof: Proof) -> None:
    digest = registry.store.add_image(GROUP, "1", b"one", b"two")
    assert prove(proof, Item(GROUP, "1", digest)) == ["arrived"]
    assert len(registry.asked("HEAD", "/blobs/")) == 3


def test_an_index_is_proved_down_to_its_layers(registry: OciRegistry, proof: Proof) -> None:
    store = registry.store
    children = [store.add_image(GROUP, None, b"base", name) for name in (b"one", b"two")]
    nested = store.add_index(GROUP, None, *children)
    digest = store.add_index(GROUP, "multi", nested, children[0])
    assert prove(proof, Item(GROUP, "multi", digest)) == ["arrived"]
    asked = [each.target for each in registry.asked("HEAD", "/blobs/")]
    assert len(asked) == len(set(asked)) == 5, "each part is asked for once"


def _forget_tag(store: Store) -> None:
    store.repositories[GROUP].tags.clear()


def _move_tag(store: Store) -> None:
    store.add_image(GROUP, "1", b"another")


def _forget_layer(store: Store) -> None:
    del store.repositories[GROUP].blobs[digest_of(b"one")]


def _forget_child(store: Store) -> None:
    repository = store.repositories[GROUP]
    for digest in [d for d in repository.manifests if d not in repository.tags.values()]:
        del repository.manifests[digest]


def _forget_everything(store: Store) -> None:
    store.repositories.clear()


def _truncate_layer(store: Store) -> None:
    store.repositories[GROUP].blobs[digest_of(b"one")] = b"on"


@pytest.mark.parametrize(
    "lose", [_forget_tag, _move_tag, _forget_layer, _truncate_layer, _forget_child, _forget_everything]
)
def test_whatever_part_is_missing_the_image_has_not_arrived(
    registry: OciRegistry, proof: Proof, lose: Callable[[Store], None]
) -> None:
    child = registry.store.add_image(GROUP, None, b"one")
    digest = registry.store.add_index(GROUP, "1", child)
    lose(registry.store)
    assert prove(proof, Item(GROUP, "1", digest)) == ["NOT_ARRIVED"]


def test_bytes_are_hashed_whatever_the_header_says(registry: OciRegistry, proof: Proof) -> None:
    digest = registry.store.add_image(GROUP, "1", b"one")
    stored = registry.store.repositories[GROUP].manifests[digest]
    registry.store.repositories[GROUP].manifests[digest] = replace(stored, body=stored.body + b" ")
    assert prove(proof, Item(GROUP, "1", digest)) == ["DIGEST_MISMATCH"]


def test_a_server_that_fails_proves_nothing_and_refutes_nothing(registry: OciRegistry, proof: Proof) -> None:
    items = [Item(GROUP, name, registry.store.add_image(GROUP, name, name.encode())) for name in "123"]
    registry.fault("GET", "/manifests/2", Fault(500), times=None)
    assert prove(proof, *items) == ["arrived", "SERVER_ERROR", "arrived"]


def test_what_is_absent_in_one_image_is_asked_for_again_for_the_next(registry: OciRegistry, proof: Proof) -> None:
    items = [Item(GROUP, name, registry.store.add_image(GROUP, name, b"shared", name.encode())) for name in "12"]
    del registry.store.repositories[GROUP].blobs[digest_of(b"shared")]
    assert prove(proof, *items) == ["NOT_ARRIVED", "NOT_ARRIVED"]


def test_what_there_is_no_time_for_is_left_for_later(registry: OciRegistry, proof: Proof) -> None:
    digest = registry.store.add_image(GROUP, "1", b"one")
    assert prove(proof, Item(GROUP, "1", digest), pace=Pace(lambda: 0.0)) == ["later"]
    assert registry.requests == []


@pytest.mark.parametrize("lost", ["listing", "layer", "nothing"])
def test_what_refers_to_an_image_is_proved_with_it(registry: OciRegistry, lost: str) -> None:
    """The source has a signature; the target is asked whether it lists it, and for its parts."""
    client = Registry(Endpoint("http", registry.host), lambda: None, Http(Policy(sleep=lambda _: None)))
    proof = Proof(client, Origin(client, lambda _: "source/app"))
    for name in ("source/app", GROUP):
        digest = registry.store.add_image(name, "1", b"one")
        subject = descriptor(OCI_MANIFEST, registry.store.repositories[name].manifests[digest].body)
        signature = registry.store.add_image(name, None, b"signed", subject=subject)
    here = registry.store.repositories[GROUP]
    if lost == "listing":
        del here.manifests[signature]
    elif lost == "layer":
        del here.blobs[digest_of(b"signed")]
    wanted = "arrived" if lost == "nothing" else "NOT_ARRIVED"
    assert prove(proof, Item(GROUP, "1", digest)) == [wanted]
