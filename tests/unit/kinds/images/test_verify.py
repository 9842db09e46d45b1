"""The verification of copied images at the target, and its notes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from syncline.clients.http.addresses import Endpoint
from syncline.clients.http.client import Http
from syncline.clients.http.retry import RetryPolicy
from syncline.clients.registry.client import Registry
from syncline.errors import CodeName, SynclineError
from syncline.kinds.facts import ProcessFacts
from syncline.kinds.images.facts import TargetNotes
from syncline.kinds.images.verify import ImageVerification, Origin
from syncline.kinds.kind import Completed, Failure, StepContext, Unfinished
from syncline.model import Item
from tests.standins.oci import Fault, OciRegistry
from tests.standins.oci_store import OCI_MANIFEST, Store, descriptor, digest_of

GROUP = "team/app"
TIME = StepContext(lambda: 60.0)


@pytest.fixture(scope="module")
def _registry() -> Iterator[OciRegistry]:
    with OciRegistry() as made:
        yield made


@pytest.fixture
def registry(_registry: OciRegistry) -> OciRegistry:
    _registry.clear()
    return _registry


@pytest.fixture
def verification(registry: OciRegistry) -> ImageVerification:
    http = Http(RetryPolicy(sleep=lambda _: None))
    return ImageVerification(Registry(Endpoint("http", registry.host), lambda: None, http))


def outcomes(verification: ImageVerification, *items: Item, context: StepContext = TIME) -> list[str]:
    """Return an outcome for each item: ``completed``, ``unfinished`` or the failure's code."""
    found: dict[str, str] = {}
    for answer in verification.verify(items, context):
        match answer:
            case Completed(item):
                found[item.name] = "completed"
            case Unfinished(item):
                found[item.name] = "unfinished"
            case Failure(item, error):
                found[item.name] = error.code.name
    return [found[item.name] for item in items]


def test_an_image_with_all_its_parts_is_complete(registry: OciRegistry, verification: ImageVerification) -> None:
    digest = registry.store.add_image(GROUP, "1", b"one", b"two")
    assert outcomes(verification, Item(GROUP, "1", digest)) == ["completed"]
    assert len(registry.asked("HEAD", "/blobs/")) == 3


def test_an_index_is_verified_down_to_its_layers(registry: OciRegistry, verification: ImageVerification) -> None:
    store = registry.store
    children = [store.add_image(GROUP, None, b"base", name) for name in (b"one", b"two")]
    nested = store.add_index(GROUP, None, *children)
    digest = store.add_index(GROUP, "multi", nested, children[0])
    assert outcomes(verification, Item(GROUP, "multi", digest)) == ["completed"]
    asked = [each.target for each in registry.asked("HEAD", "/blobs/")]
    assert len(asked) == len(set(asked)) == 5, "each part is requested once"


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
def test_an_image_is_incomplete_if_any_part_is_missing(
    registry: OciRegistry, verification: ImageVerification, lose: Callable[[Store], None]
) -> None:
    child = registry.store.add_image(GROUP, None, b"one")
    digest = registry.store.add_index(GROUP, "1", child)
    lose(registry.store)
    assert outcomes(verification, Item(GROUP, "1", digest)) == ["NOT_ARRIVED"]


def test_bytes_are_hashed_and_the_header_is_not_trusted(registry: OciRegistry, verification: ImageVerification) -> None:
    digest = registry.store.add_image(GROUP, "1", b"one")
    stored = registry.store.repositories[GROUP].manifests[digest]
    registry.store.repositories[GROUP].manifests[digest] = replace(stored, body=stored.body + b" ")
    assert outcomes(verification, Item(GROUP, "1", digest)) == ["DIGEST_MISMATCH"]


def test_a_failing_server_fails_only_the_requested_item(registry: OciRegistry, verification: ImageVerification) -> None:
    items = [Item(GROUP, name, registry.store.add_image(GROUP, name, name.encode())) for name in "123"]
    registry.fault("GET", "/manifests/2", Fault(500), times=None)
    assert outcomes(verification, *items) == ["completed", "SERVER_ERROR", "completed"]


def test_a_missing_blob_is_requested_again_for_the_next_image(
    registry: OciRegistry, verification: ImageVerification
) -> None:
    items = [Item(GROUP, name, registry.store.add_image(GROUP, name, b"shared", name.encode())) for name in "12"]
    del registry.store.repositories[GROUP].blobs[digest_of(b"shared")]
    assert outcomes(verification, *items) == ["NOT_ARRIVED", "NOT_ARRIVED"]


def test_an_item_is_unfinished_when_time_is_over(registry: OciRegistry, verification: ImageVerification) -> None:
    digest = registry.store.add_image(GROUP, "1", b"one")
    assert outcomes(verification, Item(GROUP, "1", digest), context=StepContext(lambda: 0.0)) == ["unfinished"]
    assert registry.requests == []


@pytest.mark.parametrize("lost", ["listing", "layer", "nothing"])
def test_referrers_are_verified_with_their_image(registry: OciRegistry, lost: str) -> None:
    """The source has a signature; the target must list it and have its parts."""
    client = Registry(Endpoint("http", registry.host), lambda: None, Http(RetryPolicy(sleep=lambda _: None)))
    verification = ImageVerification(client, Origin(client, lambda _: "source/app"))
    for name in ("source/app", GROUP):
        digest = registry.store.add_image(name, "1", b"one")
        subject = descriptor(OCI_MANIFEST, registry.store.repositories[name].manifests[digest].body)
        signature = registry.store.add_image(name, None, b"signed", subject=subject)
    at_target = registry.store.repositories[GROUP]
    if lost == "listing":
        del at_target.manifests[signature]
    elif lost == "layer":
        del at_target.blobs[digest_of(b"signed")]
    wanted = "completed" if lost == "nothing" else "NOT_ARRIVED"
    assert outcomes(verification, Item(GROUP, "1", digest)) == [wanted]


class TestNotes:
    """Notes on images for later runs and for reports."""

    @pytest.fixture
    def notes(self) -> TargetNotes:
        return TargetNotes(ProcessFacts(), "dr.example")

    @pytest.fixture
    def client(self, registry: OciRegistry) -> Registry:
        return Registry(Endpoint("http", registry.host), lambda: None, Http(RetryPolicy(sleep=lambda _: None)))

    @staticmethod
    def noted(client: Registry, item: Item, notes: TargetNotes | None) -> str:
        """Return the note of an image that was verified."""
        (answer,) = ImageVerification(client, Origin(client, lambda _: "source/app", notes=notes)).verify([item], TIME)
        assert isinstance(answer, Completed), answer
        return answer.note

    def test_a_tag_that_changed_at_the_source_is_copied_by_the_next_run(
        self, registry: OciRegistry, client: Registry, notes: TargetNotes
    ) -> None:
        digest = registry.store.add_image(GROUP, "1", b"one")
        now = registry.store.add_image("source/app", "1", b"two")
        note = self.noted(client, Item(GROUP, "1", digest), notes)
        assert digest in note
        assert now in note
        assert notes.outdated(GROUP, "1") == digest
        assert self.noted(client, Item(GROUP, "1", digest), None) == "", "nothing is reported"

    @pytest.mark.parametrize("source", ["the same", "gone", "another algorithm"])
    def test_any_other_tag_is_not_outdated(
        self, registry: OciRegistry, client: Registry, notes: TargetNotes, source: str
    ) -> None:
        digest = registry.store.add_image(GROUP, "1", b"one")
        registry.store.add_image("source/app", None if source == "gone" else "1", b"one")
        if source == "another algorithm":
            registry.store.algorithm = "sha512"
        assert self.noted(client, Item(GROUP, "1", digest), notes) == ""
        assert notes.outdated(GROUP, "1") is None

    def test_a_report_has_the_replaced_digest(self, registry: OciRegistry, client: Registry) -> None:
        item = Item(GROUP, "1", registry.store.add_image(GROUP, "1", b"one"))
        assert "sha256:before" in self.noted(client, replace(item, detail={"replaced": "sha256:before"}), None)

    @pytest.mark.parametrize(("code", "unverified"), [("SERVER_ERROR", True), ("TIME_SHORT", False)])
    def test_a_repository_with_an_unverified_image_is_checked_later(
        self,
        client: Registry,
        notes: TargetNotes,
        monkeypatch: pytest.MonkeyPatch,
        code: CodeName,
        *,
        unverified: bool,
    ) -> None:
        def manifest(*_: object) -> None:
            raise SynclineError(code, "no")

        monkeypatch.setattr(client, "manifest", manifest)
        assert outcomes(
            ImageVerification(client, Origin(client, lambda _: "source/app", notes=notes)), Item(GROUP, "1", "d")
        ) == [code]
        assert notes.unverified()(GROUP) == unverified

    @pytest.mark.parametrize("whole", [True, False])
    def test_an_index_may_lack_what_its_source_lacks(
        self, registry: OciRegistry, client: Registry, *, whole: bool
    ) -> None:
        for name in ("source/app", GROUP):
            child = registry.store.add_image(name, None, b"one")
            digest = registry.store.add_index(name, "1", child)
            if name == GROUP or not whole:
                del registry.store.repositories[name].manifests[child]
        if whole:
            origin = Origin(client, lambda _: "source/app")
            assert outcomes(ImageVerification(client, origin), Item(GROUP, "1", digest)) == ["NOT_ARRIVED"]
        else:
            assert child in self.noted(client, Item(GROUP, "1", digest), None)

    def test_a_type_that_registries_refuse_may_be_missing(self, registry: OciRegistry, client: Registry) -> None:
        registry.store.takes_all = True
        for name in ("source/app", GROUP):
            digest = registry.store.add_image(name, "1", b"one")
        subject = descriptor(OCI_MANIFEST, registry.store.repositories[GROUP].manifests[digest].body)
        strange = {"schemaVersion": 2, "mediaType": "application/vnd.strange.manifest.v1+json", "subject": subject}
        body = json.dumps(strange).encode()
        registry.store.put_manifest("source/app", digest_of(body), "application/vnd.strange.manifest.v1+json", body)
        note = self.noted(client, Item(GROUP, "1", digest), None)
        assert digest_of(body) in note
        assert "application/vnd.strange.manifest.v1+json" in note
