"""Tags that are gone from the source are removed from the target: only ours, within the limits, and never more."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest

from syncline.clients.http.addresses import Endpoint
from syncline.clients.http.client import Http, Response
from syncline.clients.registry.client import Registry
from syncline.clients.registry.transport import RegistryTransport
from syncline.kinds.images.listing import RegistryClients
from syncline.kinds.images.removals import TagRemoval, placeholder, removal
from syncline.kinds.kind import Completed, StepContext
from syncline.messages import Start
from syncline.model import EVERYTHING, Outcome, Trigger
from syncline.store.runs import new_run_id
from tests.rig.images import ImagesChain, ImagesWorld
from tests.rig.pump import KillPoint
from tests.standins.oci import Fault, OciRegistry
from tests.standins.programs import needs
from tests.standins.quay import TOKEN, QuayServer
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


def test_quay_deletes_a_tag_by_name_and_no_other_of_its_digest(registries: ImagesWorld) -> None:
    chain = registries.chain()
    add(chain, "1", "2")
    with QuayServer() as prod, QuayServer() as dr:
        chain.secrets = {"QUAY": TOKEN}
        apis = [{"kind": "quay", "url": each.url, "token": "env:QUAY"} for each in (prod, dr)]
        source = {"registry": chain.source.host, "plain_http": True, "organizations": ["team"], "api": apis[0]}
        target = {"registry": chain.target.host, "plain_http": True, "api": apis[1]}
        chain.configure(removals=WIDE, source=source, target=target)
        prod.put(APP, dict(chain.source.store.repository(APP).tags))
        store = chain.target.store
        chain.run()
        store.repository(APP).tags["theirs"] = store.repository(APP).tags["2"]
        dr.put(APP, dict(store.repository(APP).tags))
        dr.on_delete = lambda name, tag: store.repository(name).tags.pop(tag)
        drop(chain, "2")
        prod.remove(APP, "2")
        dr.without_write.add(TOKEN)
        assert chain.run().counts.removed == 0
        assert codes(chain) == ["FORBIDDEN"]
        dr.without_write.clear()
        dr.set(APP, state="READ_ONLY")
        assert chain.run().counts.removed == 0
        assert codes(chain) == ["READ_ONLY"]
        dr.set(APP, state="NORMAL")
        chain.target.requests.clear()
        assert chain.run().counts.removed == 1
        assert [each.method for each in chain.target.requests if each.method not in ("GET", "HEAD")] == []
    assert tags(chain) == ["1", "theirs"]


def test_a_plan_shows_removals_and_a_run_may_be_allowed_more(chain: ImagesChain) -> None:
    add(chain, "1", "2", "3", "4")
    chain.run()
    chain.configure(removals={"share": 0.25})
    drop(chain, "2", "3")
    chain.start(plan=True)
    chain.pump.run()
    (plan,) = (run for run in chain.state.runs(chain.sync, 20) if run.plan)
    assert {each.outcome for each in chain.results(plan).values()} == {Outcome.WOULD_REMOVE, Outcome.FAILED}
    assert tags(chain) == ["1", "2", "3", "4"]
    for allowed, left in ((1, ["1", "2", "3", "4"]), (2, ["1", "4"])):
        chain.clock.sleep(1)
        run = new_run_id(chain.clock.time)
        chain.state.begin_run(chain.sync, run, Trigger.MANUAL, EVERYTHING, allow_removals=allowed)
        chain.queues.start(Start(chain.sync, Trigger.MANUAL, run=run))
        chain.pump.run()
        assert tags(chain) == left
    assert chain.latest().counts.removed == 2


def test_a_repository_that_is_gone_keeps_its_images_and_is_reported(chain: ImagesChain) -> None:
    add(chain, "1", "2")
    chain.source.store.add_image("team/web", "1", b"of another repository")
    chain.run()
    del chain.source.store.repositories[APP]
    run = chain.run()
    assert tags(chain) == ["1", "2"]
    (result,) = chain.results(run).values()
    assert (result.group, result.name, result.outcome) == (APP, "*", Outcome.EXTRA)
    assert "no longer lists this repository; 2 tags of this sync stay at the target" in str(result.reason)
    assert (run.counts.removed, run.counts.extra, run.counts.failed) == (0, 1, 0)


def test_only_a_deletion_asks_for_the_permission_to_delete(registries: ImagesWorld) -> None:
    chain = registries.chain()
    chain.configure(removals=WIDE)
    add(chain, "1", "2")
    asked: list[str] = []
    send = RegistryTransport.send

    def noted(self: RegistryTransport, method: str, target: str, scopes: Any, *rest: Any, **more: Any) -> Response:
        if any("delete" in scope for scope in scopes):
            asked.append(method)
        return send(self, method, target, scopes, *rest, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RegistryTransport, "send", noted)
        chain.run()
        assert asked == []
        drop(chain, "2")
        chain.run()
    assert set(asked) == {"DELETE"}


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
