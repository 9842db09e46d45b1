"""Tags that are gone from the source are removed from the target: only ours, within the limits, and never more."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator

import pytest

from syncline.clients.http.addresses import Endpoint
from syncline.clients.http.client import Http
from syncline.clients.registry.client import Registry
from syncline.kinds.images.listing import RegistryClients
from syncline.kinds.images.removals import TagRemoval, placeholder, removal
from syncline.kinds.kind import Completed, StepContext
from syncline.model import Outcome
from tests.rig.images import ImagesChain, ImagesWorld
from tests.rig.pump import KillPoint
from tests.standins.oci import Fault, OciRegistry
from tests.standins.programs import needs
from tests.standins.registry import Registry as Server

APP = "team/app"
WIDE = {"share": 1, "count": 100}


@pytest.fixture
def chain(registries: ImagesWorld) -> Iterator[ImagesChain]:
    chain = registries.chain()
    chain.configure(removals=WIDE)
    yield chain
    chain.target.deletes = "tags"


def add(chain: ImagesChain, *tags: str) -> None:
    for tag in tags:
        chain.source.store.add_image(APP, tag, f"content of {tag}".encode())


def drop(chain: ImagesChain, *tags: str) -> None:
    for tag in tags:
        del chain.source.store.repository(APP).tags[tag]


def tags(chain: ImagesChain) -> list[str]:
    return sorted(chain.target.store.repository(APP).tags)


def codes(chain: ImagesChain) -> list[str]:
    return [each.code for each in chain.results(chain.latest()).values() if each.code]


@pytest.mark.parametrize("deletes", ["tags", "digests"])
def test_a_tag_gone_from_the_source_is_removed(chain: ImagesChain, deletes: str) -> None:
    add(chain, "1", "2", "3")
    chain.run()
    drop(chain, "2")
    chain.target.deletes = deletes
    run = chain.run()
    assert (run.counts.removed, run.counts.skipped, run.counts.failed) == (1, 2, 0)
    assert chain.results(run)[APP, "2"].outcome is Outcome.REMOVED
    assert tags(chain) == ["1", "3"]
    again = chain.run()
    assert (again.counts.removed, again.counts.skipped) == (0, 2)


def test_a_tag_that_was_found_equal_is_ours_and_a_foreign_one_is_not(chain: ImagesChain) -> None:
    add(chain, "1", "2")
    chain.target.store.add_image(APP, "2", b"content of 2")
    chain.target.store.add_image(APP, "theirs", b"a stranger's")
    chain.run()
    drop(chain, "2")
    assert chain.run().counts.removed == 1
    assert tags(chain) == ["1", "theirs"]


def test_a_tag_that_somebody_has_moved_is_kept(chain: ImagesChain) -> None:
    add(chain, "1", "2")
    chain.run()
    drop(chain, "2")
    chain.target.store.add_image(APP, "2", b"a stranger's")
    run = chain.run()
    assert run.counts.removed == 0
    assert tags(chain) == ["1", "2"]


def test_nothing_is_removed_without_removals(chain: ImagesChain) -> None:
    chain.configure()
    add(chain, "1", "2")
    chain.run()
    drop(chain, "2")
    assert chain.run().counts.removed == 0
    assert tags(chain) == ["1", "2"]


def test_more_removals_than_allowed_remove_nothing(chain: ImagesChain) -> None:
    add(chain, "1", "2", "3", "4")
    chain.run()
    chain.configure(removals={"share": 0.25})
    drop(chain, "2", "3")
    run = chain.run()
    (failure,) = chain.results(run).values()
    assert failure.code == "REMOVALS_CAPPED"
    assert "tags gone from the source: 2; the limit is 1 of 4" in str(failure.reason)
    assert "syncline run prod-to-dr --allow-removals 2" in str(failure.reason)
    assert tags(chain) == ["1", "2", "3", "4"]


def test_an_empty_listing_removes_nothing(chain: ImagesChain) -> None:
    add(chain, "1", "2")
    chain.run()
    drop(chain, "1", "2")
    assert chain.run().counts.removed == 0
    assert codes(chain) == ["REMOVALS_CAPPED"]
    assert tags(chain) == ["1", "2"]


def test_a_tag_that_is_only_missing_from_the_listing_is_kept(chain: ImagesChain) -> None:
    add(chain, "1", "2")
    chain.run()
    body = json.dumps({"name": APP, "tags": ["1"]}).encode()
    chain.source.fault("GET", "/tags/list", Fault(200, {"Content-Type": "application/json"}, body), times=None)
    run = chain.run()
    assert (run.counts.removed, run.counts.failed) == (0, 0)
    assert tags(chain) == ["1", "2"]


@pytest.mark.parametrize("deletes", ["tags", "digests", "images"])
def test_another_tag_of_the_digest_keeps_its_image(chain: ImagesChain, deletes: str) -> None:
    add(chain, "1", "2")
    chain.run()
    store = chain.target.store
    digest = store.repository(APP).tags["theirs"] = store.repository(APP).tags["2"]
    drop(chain, "2")
    chain.target.deletes = deletes
    assert chain.run().counts.removed == 1
    assert tags(chain) == ["1", "theirs"]
    assert store.digest(APP, "theirs") == digest
    assert not store.broken()


@pytest.mark.parametrize("deletes", ["tags", "digests", "images"])
def test_an_index_keeps_a_part_whose_tag_is_removed(chain: ImagesChain, deletes: str) -> None:
    store = chain.source.store
    one = store.add_image(APP, "amd64", b"for one processor")
    store.add_index(APP, "multi", one)
    chain.run()
    drop(chain, "amd64")
    chain.target.deletes = deletes
    assert chain.run().counts.removed == 1
    assert tags(chain) == ["multi"]
    assert not chain.target.store.broken()


@pytest.mark.parametrize("comes_back", [False, True])
@pytest.mark.parametrize("when", [KillPoint.BEFORE, KillPoint.AFTER])
@pytest.mark.parametrize("deletes", ["digests", "images"])
def test_a_removal_killed_at_any_effect_loses_no_other_tag(
    registries: ImagesWorld, deletes: str, when: KillPoint, comes_back: bool
) -> None:
    """If the tag comes back to the source at that moment, the target has it in the end."""
    for number in itertools.count(1):
        chain = registries.chain()
        chain.configure(removals=WIDE)
        chain.target.deletes = deletes
        add(chain, "1", "2")
        chain.run()
        store = chain.target.store
        digest = store.repository(APP).tags["theirs"] = store.repository(APP).tags["2"]
        drop(chain, "2")
        chain.start()
        chain.reaper.effects.clear()
        chain.reaper.plan = {(number, when)}

        def put_back(chain: ImagesChain = chain, number: int = number, digest: str = digest) -> None:
            if len(chain.reaper.effects) >= number:
                chain.source.store.repository(APP).tags["2"] = digest

        if comes_back:
            chain.reaper.on_call = put_back
        chain.pump.run()
        if number > len(chain.reaper.effects):
            break
        killed = f"killed {when} effect {number}, {chain.reaper.effects[number - 1]}"
        if comes_back:
            chain.run()
        assert tags(chain) == (["1", "2", "theirs"] if comes_back else ["1", "theirs"]), killed
        assert {store.digest(APP, tag) for tag in tags(chain) if tag != "1"} == {digest}, killed
        assert not store.broken(), killed
    chain.target.deletes = "tags"
    assert number > 10


def test_a_registry_that_deletes_nothing_keeps_its_tags_unchanged(chain: ImagesChain) -> None:
    add(chain, "1", "2")
    chain.run()
    before = dict(chain.target.store.repository(APP).tags)
    drop(chain, "2")
    chain.target.deletes = "nothing"
    assert chain.run().counts.removed == 0
    assert codes(chain) == ["REMOVAL_REFUSED"]
    assert chain.target.store.repository(APP).tags == before


def test_a_signature_goes_with_the_last_tag_of_its_image(chain: ImagesChain) -> None:
    store = chain.source.store
    add(chain, "1")
    digest = store.add_image(APP, "2", b"content of 2")
    signature = f"sha256-{digest.partition(':')[2]}.sig"
    store.add_image(APP, signature, b'{"a": "signature"}')
    chain.run()
    drop(chain, signature)
    assert chain.run().counts.removed == 0, "its image is still there"
    drop(chain, "2")
    assert chain.run().counts.removed == 2
    assert tags(chain) == ["1"]


def test_an_immutable_tag_is_not_requested_again(chain: ImagesChain) -> None:
    chain.configure(immutable=["v*"])
    add(chain, "v1", "v2", "latest")
    chain.run()
    chain.source.requests.clear()
    chain.target.requests.clear()
    assert chain.run().counts.skipped == 3
    asked = [each.path for each in (*chain.source.requests, *chain.target.requests) if "/manifests/" in each.path]
    assert sorted(set(asked)) == [f"/v2/{APP}/manifests/latest"]


def test_docker_registry_deletes_a_tag_and_keeps_the_others_of_its_digest() -> None:
    needs("docker-registry")
    with Server() as server, OciRegistry() as source:
        for tag in ("alone", "shared", "theirs"):
            server.push_image(APP, tag, [b"alone" if tag == "alone" else b"shared"])
        clients = [
            RegistryClients(Registry(Endpoint("http", each.host), lambda: None, Http()), None)
            for each in (source, server)
        ]
        target = clients[1].registry
        digests = {tag: str(target.manifest_digest(APP, tag)) for tag in ("alone", "shared", "theirs")}
        # The second removal was interrupted after the tag had got its placeholder.
        removal_of = TagRemoval(clients[0], APP, clients[1], APP)
        items = [removal(APP, tag, digests[tag]) for tag in ("alone", "shared")]
        assert isinstance(next(removal_of.answers(items[:1], StepContext(lambda: 60.0))), Completed)
        target.put_manifest(APP, "shared", placeholder(APP, "shared"))
        assert isinstance(next(removal_of.answers(items[1:], StepContext(lambda: 60.0))), Completed)
        assert list(target.tags(APP)) == ["theirs"]
        assert target.manifest_digest(APP, "theirs") == digests["theirs"] == digests["shared"]
