"""Images of every shape are moved byte for byte by the step chain; invalid images fail with a reason."""

from __future__ import annotations

import json
from typing import Any, Final

import pytest

from syncline.kinds.images import facts
from syncline.kinds.images.referrers import DEEPEST
from syncline.model import Run, RunStatus
from tests.rig.images import ImagesChain, ImagesWorld, small
from tests.standins.oci import Fault
from tests.standins.oci_store import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, Repository, Stored, descriptor, digest_of
from tests.standins.proxy import http_proxy
from tests.standins.quay import TOKEN, QuayServer

pytestmark = pytest.mark.moto

DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"


@pytest.fixture
def chain(registries: ImagesWorld) -> ImagesChain:
    chain = registries.chain()
    chain.configure(concurrency=4)
    return chain


@pytest.mark.parametrize("end", ["source", "target"])
def test_through_a_proxy_at_one_end(chain: ImagesChain, end: str) -> None:
    registry = getattr(chain, end)
    with http_proxy() as proxy:
        endpoint = {"registry": registry.host, "plain_http": True, "proxy": proxy.url}
        small(chain, **{end: endpoint | ({"catalog": True} if end == "source" else {})})
        registry.requests.clear()
        chain.run()
        chain.check()
        assert len(proxy.heads) == len(registry.requests) > 10
        assert all(f" http://{registry.host}/" in each for each in proxy.requests)


def put(chain: ImagesChain, name: str, tag: str, media_type: str, manifest: dict[str, Any], *blobs: bytes) -> str:
    """Put a manifest of any form, with its blobs, directly into the source; return its digest."""
    repository = chain.source.store.repositories.setdefault(name, Repository())
    repository.blobs |= {digest_of(blob): blob for blob in blobs}
    body = json.dumps(manifest, indent=1).encode()
    repository.manifests[digest_of(body)] = Stored(media_type, body)
    repository.tags[tag] = digest_of(body)
    return digest_of(body)


def test_manifests_are_moved_byte_for_byte(chain: ImagesChain) -> None:
    small(chain)
    chain.run()
    source, target = chain.source.store.repositories, chain.target.store.repositories
    for name, repository in source.items():
        for digest, stored in repository.manifests.items():
            if (name, digest) not in {
                (n, d) for (n, t), d in chain.source.store.tags().items() if (n, t) in chain.before
            }:
                assert target[name].manifests[digest] == stored


def test_an_image_as_docker_pushes_it(chain: ImagesChain) -> None:
    config, layer = b'{"os": "linux"}', b"a layer"
    manifest = {
        "schemaVersion": 2,
        "mediaType": DOCKER_MANIFEST,
        "config": descriptor("application/vnd.docker.container.image.v1+json", config),
        "layers": [descriptor("application/vnd.docker.image.rootfs.diff.tar.gzip", layer)],
    }
    child = put(chain, "team/docker", "one", DOCKER_MANIFEST, manifest, config, layer)
    stored = chain.source.store.repositories["team/docker"].manifests[child]
    entries = [descriptor(DOCKER_MANIFEST, stored.body, platform={"os": "linux", "architecture": "amd64"})]
    listed = {"schemaVersion": 2, "mediaType": DOCKER_LIST, "manifests": entries}
    put(chain, "team/docker", "all", DOCKER_LIST, listed)
    chain.run()
    chain.check()


def test_nested_indexes_are_moved(chain: ImagesChain) -> None:
    store = chain.source.store
    inner = store.add_image("team/deep", None, b"a layer")
    for _ in range(DEEPEST - 1):
        inner = store.add_index("team/deep", None, inner)
    store.add_index("team/deep", "deep", inner)
    chain.run()
    chain.check()


def test_indexes_nested_too_deeply_are_refused(chain: ImagesChain) -> None:
    store = chain.source.store
    inner = store.add_image("team/deep", "sound", b"a layer")
    for _ in range(DEEPEST + 2):
        inner = store.add_index("team/deep", None, inner)
    store.repositories["team/deep"].tags["deep"] = inner
    chain.run()
    chain.check({("team/deep", "deep"): "MANIFEST_INVALID"})


def test_parts_referenced_twice_are_sent_once(chain: ImagesChain) -> None:
    store = chain.source.store
    image = store.add_image("team/twice", "1", b"layer", b"layer")
    store.add_index("team/twice", "2", image, image)
    chain.run()
    chain.check()
    assert len(chain.target.asked("PUT", f"digest={digest_of(b'layer')}")) == 1


def test_an_image_without_layers_and_one_with_an_empty_layer(chain: ImagesChain) -> None:
    chain.source.store.add_image("team/empty", "none")
    chain.source.store.add_image("team/empty", "nothing", b"")
    chain.source.store.add_index("team/empty", "index")
    chain.run()
    chain.check()


def test_a_signature_with_a_subject(chain: ImagesChain) -> None:
    image = chain.source.store.add_image("team/signed", "1", b"layer")
    stored = chain.source.store.repositories["team/signed"].manifests[image]
    chain.source.store.add_image(
        "team/signed", f"sha256-{image[7:]}", b"signature", subject=descriptor(OCI_MANIFEST, stored.body)
    )
    chain.run()
    chain.check()


def test_a_foreign_layer_may_be_absent(chain: ImagesChain) -> None:
    config, foreign = b"{}", b"a layer of Windows"
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(OCI_CONFIG, config),
        "layers": [descriptor(OCI_LAYER, foreign, urls=["https://elsewhere.example/layer"])],
    }
    put(chain, "team/windows", "1", OCI_MANIFEST, manifest, config)
    # The strict stand-in requires every blob; real registries accept manifests without their foreign layers.
    repository = chain.target.store.repositories.setdefault("team/windows", Repository())
    repository.blobs[digest_of(foreign)] = foreign
    chain.run()
    assert chain.latest().counts.moved == 1
    assert not chain.source.asked("GET", digest_of(foreign))


@pytest.mark.parametrize(
    ("media_type", "body", "code"),
    [
        ("application/vnd.docker.distribution.manifest.v1+prettyjws", {"schemaVersion": 1}, "MANIFEST_UNSUPPORTED"),
        ("application/vnd.example.artifact+json", {"schemaVersion": 2}, "MANIFEST_UNSUPPORTED"),
        (OCI_MANIFEST, {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "layers": []}, "MANIFEST_INVALID"),
        (OCI_MANIFEST, {"schemaVersion": 2, "config": {}, "layers": [{"digest": "sha256:zz"}]}, "MANIFEST_INVALID"),
        (OCI_MANIFEST, {"schemaVersion": 2, "config": {}, "layers": [], "manifests": []}, "MANIFEST_INVALID"),
    ],
)
def test_an_invalid_image_fails_alone_and_at_once(
    chain: ImagesChain, media_type: str, body: dict[str, Any], code: str
) -> None:
    chain.source.store.add_image("team/mixed", "sound", b"layer")
    put(chain, "team/mixed", "odd", media_type, body)
    chain.run()
    chain.check({("team/mixed", "odd"): code})
    assert len(chain.source.asked("GET", "/manifests/odd")) == 1


def test_a_different_tag_is_replaced_with_overwrite(registries: ImagesWorld) -> None:
    chain = small(registries.chain(), overwrite=True)
    chain.run()
    assert chain.latest().counts.conflict == 0
    assert chain.target.store.tags() == chain.source.store.tags()


def test_names_at_the_target_have_the_prefix(registries: ImagesWorld) -> None:
    chain = registries.chain()
    target = {"registry": chain.target.host, "plain_http": True, "prefix": "mirror/prod"}
    chain.configure(target=target)
    chain.source.store.add_image("team/app", "1", b"layer")
    chain.run()
    assert chain.target.store.tags().keys() == {("mirror/prod/team/app", "1")}
    chain.start("mirror/prod/team/app")
    chain.clock.sleep(1)
    chain.pump.run()
    assert chain.latest().counts.skipped == 1


# -- blobs that several repositories share


@pytest.mark.parametrize("worth_noting", [0, 1 << 30], ids=["shared memory", "own memory"])
def test_a_shared_layer_crosses_the_network_once(
    registries: ImagesWorld, monkeypatch: pytest.MonkeyPatch, worth_noting: int
) -> None:
    monkeypatch.setattr(facts, "WORTH_NOTING", worth_noting)
    chain = registries.chain()
    chain.configure()
    for name in ("a", "b", "c"):
        chain.source.store.add_image(f"team/{name}", "1", b"the base", name.encode())
    chain.run()
    chain.check()
    assert len(chain.target.asked("PUT", f"digest={digest_of(b'the base')}")) == 1
    assert len(chain.target.asked("POST", "mount=")) == 2


@pytest.mark.parametrize(
    "fault",
    [Fault(405), Fault(401), Fault(403), Fault(404), Fault(202, {"Location": "/v2/team/b/blobs/uploads/x?y=z"})],
)
def test_a_layer_is_sent_if_mounting_is_refused(
    registries: ImagesWorld, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    monkeypatch.setattr(facts, "WORTH_NOTING", 0)
    chain = registries.chain()
    chain.configure()
    for name in ("a", "b", "c"):
        chain.source.store.add_image(f"team/{name}", "1", b"the base", name.encode())
    chain.target.fault("POST", "mount=", fault, times=None)
    chain.run()
    chain.check()
    chain.check_again()


def test_a_wrong_hint_for_mounting_costs_only_a_request(
    registries: ImagesWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facts, "WORTH_NOTING", 0)
    chain = registries.chain()
    chain.configure()
    chain.source.store.add_image("team/a", "1", b"the base")
    key = f"{chain.target.host}@{digest_of(b'the base')}"
    chain.state.facts.remember(key, "team/removed")
    chain.run()
    chain.check()
    assert chain.state.facts.recall(key) == "team/a"


# -- Quay's API


def quay_sync(chain: ImagesChain, source: QuayServer, target: QuayServer | None = None) -> None:
    def api(server: QuayServer) -> dict[str, Any]:
        return {"api": {"kind": "quay", "url": server.url, "token": "env:QUAY"}}

    chain.secrets = {"QUAY": TOKEN}
    chain.configure(
        source={"registry": chain.source.host, "plain_http": True, "organizations": ["team"], **api(source)},
        target={"registry": chain.target.host, "plain_http": True, **(api(target) if target else {})},
    )


def mirror(chain: ImagesChain, server: QuayServer) -> None:
    """Put the content of the source into Quay's API."""
    for name, repository in chain.source.store.repositories.items():
        server.put(name, dict(repository.tags))


def test_all_of_quays_pages_are_read(registries: ImagesWorld) -> None:
    chain = registries.chain()
    for number in range(270):
        chain.source.store.add_image(f"team/app-{number:03}", "1.0", b"a layer")
    with QuayServer() as quay:
        mirror(chain, quay)
        quay_sync(chain, quay)
        chain.start(plan=True)
        chain.pump.run()
        assert quay.counts["repositories"] == 3
    assert chain.latest().counts.would_move == 270
    assert len(chain.results(chain.latest())) == 270


def test_a_drill_reads_all_images_at_the_target_and_writes_nothing(registries: ImagesWorld) -> None:
    chain = small(registries.chain(), overwrite=True)
    chain.run()
    writes = len(chain.reaper.effects)

    def drill() -> Run:
        chain.clock.sleep(1)
        chain.start(drill=1.0)
        chain.pump.run()
        return chain.latest()

    first = drill()
    assert (first.counts.skipped, first.counts.failed) == (len(chain.source.store.tags()), 0)
    assert not [each for each in chain.reaper.effects[writes:] if "/v2/" in each]
    chain.target.store.add_image("team/web", "2.0", b"planted")
    second = drill()
    assert {key: result.code for key, result in chain.results(second).items()} == {
        ("team/web", "2.0"): "RESTORE_DIFFERS"
    }
    drilled = chain.state.drill(chain.sync)
    assert drilled is not None
    assert (drilled.failed, drilled.verified) == (1, first.started)
    assert chain.dead() == []


def test_between_two_quays_a_run_without_differences_sends_no_request_to_a_registry(registries: ImagesWorld) -> None:
    chain = small(registries.chain())
    with QuayServer() as quay, QuayServer() as dr:
        mirror(chain, quay)
        quay_sync(chain, quay, dr)
        chain.run()
        chain.check()
        for name, repository in chain.target.store.repositories.items():
            dr.put(name, dict(repository.tags))
        asked = len(chain.source.requests) + len(chain.target.requests)
        chain.check_again()
        assert len(chain.source.requests) + len(chain.target.requests) == asked


def test_a_token_unknown_to_quay_fails_the_run(registries: ImagesWorld) -> None:
    chain = small(registries.chain())
    with QuayServer() as quay:
        mirror(chain, quay)
        quay_sync(chain, quay)
        chain.secrets = {"QUAY": "another token"}
        run = chain.run()
    assert (run.status, run.counts.failed, run.counts.moved) == (RunStatus.DONE, 1, 0)
    (dead,) = chain.dead_items().values()
    assert dead.code in ("UNAUTHORIZED", "LISTING_INCOMPLETE")
