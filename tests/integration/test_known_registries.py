"""Each known registry product as source and as target: a full copy, an idle run, and the errors that its users meet."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any, Final

import pytest
from moto import mock_aws

from syncline.clients.http.addresses import Endpoint
from syncline.clients.http.client import Http
from syncline.clients.registry.auth import RegistryCredentials
from syncline.clients.registry.client import Registry
from syncline.errors import SynclineError
from syncline.model import Outcome
from tests.rig.images import ImagesChain
from tests.standins.known_registries import (
    ARTIFACTORY,
    ECR,
    GHCR,
    GITLAB,
    HARBOR,
    MIB,
    NEXUS,
    PRODUCTS,
    ZOT,
    KnownRegistry,
    Product,
)
from tests.standins.oci import OciRegistry
from tests.standins.oci_store import OCI_CONFIG, Repository, Stored, descriptor, digest_of

pytestmark = pytest.mark.moto

AUTH: Final = {"username": KnownRegistry.user[0], "password": "env:PASSWORD"}
REPOSITORIES: Final = ["team/app", "team/base", "team/empty"]
TAGS: Final = 130
"""Tags of one repository that are more than a page."""


class World:
    """A registry of a product at one end, and a strict registry without deviations at the other."""

    def __init__(self, product: Product, role: str, known: KnownRegistry, other: OciRegistry) -> None:
        self.known = known
        source, target = (known, other) if role == "source" else (other, known)
        self.chain = ImagesChain(source, target)
        self.chain.secrets = {"PASSWORD": KnownRegistry.user[1]}
        known.clock = self.chain.clock.time
        ends: dict[str, dict[str, Any]] = {
            "source": {"registry": source.host, "plain_http": True, "repositories": REPOSITORIES},
            "target": {"registry": target.host, "plain_http": True},
        }
        ends[role]["auth"] = AUTH
        self.chain.configure(concurrency=4, **ends)
        if product.created and role == "target":
            for name in REPOSITORIES if product.created == "repository" else ["team"]:
                known.create(name)


@pytest.fixture
def other() -> Iterator[OciRegistry]:
    with OciRegistry() as registry:
        yield registry


@pytest.fixture
def worlds(other: OciRegistry) -> Iterator[Any]:
    """Return a function that begins a world of a product in a role."""
    with mock_aws(), contextlib.ExitStack() as stack:
        yield lambda product, role: World(product, role, stack.enter_context(KnownRegistry(product)), other)


def fill(registry: OciRegistry, tags: int = 7) -> None:
    """Add images: many tags, a shared layer, an index, a signature tag, a referrer, and a repository without tags."""
    store, base = registry.store, b"the base layer that all share " * 100
    one = store.add_image("team/app", "1.0", base, b"app 1.0")
    two = store.add_image("team/app", None, base, b"for another processor")
    store.add_index("team/app", "multi", one, two)
    store.add_image("team/app", f"sha256-{one.partition(':')[2]}.sig", b"a signature")
    subject = {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": one, "size": len(image(store, one))}
    sbom = store.add_image("team/app", None, b"an SBOM", subject=subject, artifactType="application/spdx+json")
    if not registry.lists_referrers:  # as its clients push them
        store.add_index("team/app", one.replace(":", "-"), sbom)
    for number in range(tags):
        store.repositories["team/app"].tags[f"build-{number:03}"] = two
    store.add_image("team/base", "latest", base)
    store.repositories["team/empty"] = Repository()


def image(store: Any, digest: str) -> bytes:
    """Return the bytes of a manifest of ``team/app``."""
    return bytes(store.repositories["team/app"].manifests[digest].body)


@pytest.mark.parametrize("role", ["source", "target"])
@pytest.mark.parametrize("product", PRODUCTS, ids=lambda product: product.name)
def test_a_full_copy_and_an_idle_run(worlds: Any, product: Product, role: str) -> None:
    world = worlds(product, role)
    chain: ImagesChain = world.chain
    fill(chain.source)
    run = chain.run()
    results = chain.results(run)
    assert {each.outcome for each in results.values()} == {Outcome.MOVED}, [
        each for each in results.values() if each.outcome is not Outcome.MOVED
    ]
    wanted = chain.source.store.tags()
    assert {key: chain.target.store.digest(*key) for key in wanted} == wanted
    assert not chain.target.store.broken()
    # The idle run moves nothing and, at the product, pulls nothing: each tag costs a HEAD at most.
    for registry in (chain.source, chain.target):
        registry.requests.clear()
    idle = chain.run()
    assert (idle.counts.moved, idle.counts.failed, idle.counts.skipped) == (0, 0, len(wanted)), idle.counts
    pulls = world.known.asked("GET", "/manifests/")
    assert len(pulls) <= (len(wanted) if not product.head_has_digest else 0)
    assert not [each for each in world.known.requests if each.method in ("POST", "PUT", "PATCH", "DELETE")]


@pytest.mark.parametrize("product", [GHCR, ECR], ids=lambda product: product.name)
def test_a_layer_larger_than_one_request(worlds: Any, product: Product, monkeypatch: pytest.MonkeyPatch) -> None:
    """GHCR refuses chunks of more than 4 MiB; ECR accepts no small ones before the end."""
    monkeypatch.setattr("syncline.kinds.images.parts.SINGLE_REQUEST", MIB)
    world = worlds(product, "target")
    chain: ImagesChain = world.chain
    layer = bytes(range(256)) * 40_000  # 10 MB
    chain.source.store.add_image("team/app", "1.0", layer)
    for name in ("team/base", "team/empty"):
        chain.source.store.add_image(name, "1.0", b"small")
    run = chain.run()
    assert run.counts.failed == 0, chain.results(run)
    assert not chain.target.store.broken()
    assert chain.target.store.digest("team/app", "1.0") is not None
    sizes = [len(each.body) for each in world.known.asked("PATCH") if each.status < 300]
    if product is GHCR:
        assert max(sizes) <= 4 * MIB
        refused = [each for each in world.known.asked("PATCH") if each.status == 416]
        assert len(refused) <= 1, "the limit is learned once"


def test_a_token_of_five_minutes_ends_during_an_upload(worlds: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncline.kinds.images.parts.SINGLE_REQUEST", MIB)
    world = worlds(GITLAB, "target")
    chain: ImagesChain = world.chain
    chain.source.store.add_image("team/app", "1.0", b"x" * (8 * MIB))
    for name in ("team/base", "team/empty"):
        chain.source.store.add_image(name, "1.0", b"small")

    patched: list[str] = []

    def slow(method: str, target: str) -> None:
        if patched and method == "PUT" and "/blobs/uploads/" in target:  # the body took five minutes
            world.known._times.ends = dict.fromkeys(world.known._times.ends, 0.0)
            patched.clear()
        if method == "PATCH":
            patched.append(target)

    world.known.before = slow
    run = chain.run()
    assert run.counts.failed == 0, chain.results(run)
    assert not chain.target.store.broken()
    assert [each for each in world.known.asked("PUT", "/blobs/uploads/") if each.status == 401]


@pytest.mark.parametrize("product", [ECR, HARBOR, GITLAB], ids=lambda product: product.name)
def test_what_must_be_created_first_is_named(worlds: Any, product: Product) -> None:
    world = worlds(product, "target")
    chain: ImagesChain = world.chain
    world.known.existing.clear()
    world.known.store.repositories.clear()
    fill(chain.source)
    run = chain.run()
    failed = [each for each in chain.results(run).values() if each.outcome is Outcome.FAILED]
    assert len(failed) == len(chain.source.store.tags())
    code = "FORBIDDEN" if product is GITLAB else "PROJECT_ABSENT"
    assert {each.code for each in failed} == {code}, failed[0]
    message = product.absent[2].format(repository="team/app", project="team")
    assert any(message in str(each.reason) for each in failed)


def test_zot_states_that_it_takes_no_docker_manifests(worlds: Any) -> None:
    world = worlds(ZOT, "target")
    chain: ImagesChain = world.chain
    config = b"{}"
    docker = "application/vnd.docker.distribution.manifest.v2+json"
    body = json.dumps(
        {"schemaVersion": 2, "mediaType": docker, "config": descriptor(OCI_CONFIG, config), "layers": []}
    ).encode()
    for name in REPOSITORIES:
        chain.source.store.add_image(name, "oci", b"a layer")
    repository = chain.source.store.repositories["team/app"]
    repository.blobs[digest_of(config)] = config
    repository.manifests[digest_of(body)] = Stored(docker, body)
    repository.tags["docker"] = digest_of(body)
    run = chain.run()
    result = chain.results(run)["team/app", "docker"]
    assert (result.outcome, result.code) == (Outcome.FAILED, "MANIFEST_UNSUPPORTED")
    assert "docker2s2" in str(result.reason)
    assert run.counts.moved == len(REPOSITORIES)


@pytest.mark.parametrize("product", PRODUCTS, ids=lambda product: product.name)
def test_the_client_alone_lists_and_reads(product: Product) -> None:
    with KnownRegistry(product) as known:
        fill(known, TAGS)
        client = Registry(Endpoint.parse(known.url), lambda: RegistryCredentials(*KnownRegistry.user), Http())
        assert sorted(client.tags("team/app")) == sorted(known.store.repositories["team/app"].tags)
        assert list(client.tags("team/empty")) == []
        digest = client.manifest_digest("team/app", "1.0")
        assert digest == known.store.digest("team/app", "1.0")
        (referrer,) = client.referrers("team/app", str(digest))
        assert b"application/spdx+json" in client.manifest("team/app", referrer.digest).body
        if product.lists_catalog:
            assert sorted(client.catalog()) == REPOSITORIES
        else:
            with pytest.raises(SynclineError) as error:
                list(client.catalog())
            assert "name them in syncs.yaml" in error.value.what


@pytest.mark.parametrize("product", [ARTIFACTORY, NEXUS], ids=lambda product: product.name)
def test_a_link_to_a_path_that_is_not_served_is_followed_by_its_query(product: Product) -> None:
    with KnownRegistry(product) as known:
        for number in range(250):
            known.store.add_image("team/app", f"t{number:03}", b"a layer")
        client = Registry(Endpoint.parse(known.url), lambda: RegistryCredentials(*KnownRegistry.user), Http())
        assert len(list(client.tags("team/app"))) == 250
        assert {each.path for each in known.asked("GET", "tags/list")} == {"/v2/team/app/tags/list"}
