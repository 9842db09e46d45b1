"""Images that a sync selects by version, number, age, platform and digest are copied by the step chain, and no others."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
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
from syncline.kinds.images.signatures import NO_RULES
from syncline.kinds.kind import StepContext
from syncline.messages import Start
from syncline.model import EVERYTHING, Outcome, Result, Run, Scope, Trigger
from syncline.store.runs import new_run_id
from tests.rig.images import SYNC, ImagesChain, ImagesWorld
from tests.standins.oci import Fault
from tests.standins.oci_store import (
    OCI_CONFIG,
    OCI_INDEX,
    OCI_MANIFEST,
    Repository,
    Store,
    Stored,
    descriptor,
    digest_of,
)
from tests.standins.quay import TOKEN, QuayServer

pytestmark = pytest.mark.moto

TIME: Final = StepContext(lambda: 60.0)
HOUR: Final = timedelta(hours=1)
ATTESTATION: Final = "vnd.docker.reference.digest"


@pytest.fixture
def chain(registries: ImagesWorld) -> ImagesChain:
    return registries.chain()


def source(chain: ImagesChain, **more: Any) -> dict[str, Any]:
    return {"registry": chain.source.host, "plain_http": True, "catalog": True, **more}


def target(chain: ImagesChain, **more: Any) -> dict[str, Any]:
    return {"registry": chain.target.host, "plain_http": True, **more}


def images(chain: ImagesChain, **more: Any) -> Images:
    """Return the kind by itself, to change the source between its steps."""
    ends = {"source": source(chain), "target": target(chain)}
    sync = load_sync(json.dumps({"name": "s", "kind": "images", **ends, **more}))
    assert isinstance(sync, ImagesSync)
    http, facts = Http(), ProcessFacts()

    def clients(host: str) -> RegistryClients:
        return RegistryClients(Registry(Endpoint("http", host), lambda: None, http), None)

    notes, locations = TargetNotes(facts, chain.target.host), BlobLocations(facts)
    ends_ = clients(chain.source.host), clients(chain.target.host)
    return Images(sync, *ends_, http, locations=locations, notes=notes, trust=NO_RULES, clock=chain.clock.time)


def add(chain: ImagesChain, name: str, tag: str | None, *, age: timedelta | None, **more: Any) -> str:
    """Add an image that states its age, or no time at all; return its digest."""
    store, now = chain.source.store, datetime.fromtimestamp(chain.clock.now, UTC)
    created = (
        {} if age is None else {"created": (now - age).isoformat(timespec="microseconds").replace("+00:00", "123Z")}
    )
    config = json.dumps({"os": "linux", "tag": tag, **created}).encode()
    store.repositories.setdefault(name, Repository()).blobs[digest_of(config)] = config
    return store.add_image(name, tag, f"layer of {tag}".encode(), config=descriptor(OCI_CONFIG, config), **more)


def add_index(store: Store, name: str, tag: str, platforms: dict[str, str], *, attested: bool = False) -> str:
    """Add an index of existing images by platform; return its digest."""
    entries = []
    for text, digest in platforms.items():
        os, architecture, *variant = text.split("/")
        platform = {"os": os, "architecture": architecture, **({"variant": variant[0]} if variant else {})}
        entries.append(descriptor(OCI_MANIFEST, store.repositories[name].manifests[digest].body, platform=platform))
    for digest in list(platforms.values()) if attested else ():
        body = store.repositories[name].manifests[store.add_image(name, None, f"provenance of {digest}".encode())].body
        unknown = {"platform": {"os": "unknown", "architecture": "unknown"}}
        entries.append(descriptor(OCI_MANIFEST, body, annotations={ATTESTATION: digest}, **unknown))
    body = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}, indent=2).encode()
    repository = store.repositories[name]
    repository.manifests[digest_of(body)] = Stored(OCI_INDEX, body)
    repository.tags[tag] = digest_of(body)
    return digest_of(body)


def signature(digest: str) -> str:
    return f"sha256-{digest.partition(':')[2]}.sig"


def run(chain: ImagesChain, *groups: str) -> tuple[Run, dict[tuple[str, str], Any]]:
    run = chain.run(*groups)
    assert not chain.target.store.broken()
    return run, chain.results(run)


def tags(chain: ImagesChain, name: str = "team/app") -> set[str]:
    return set(chain.target.store.repositories.get(name, Repository()).tags)


def test_versions_in_a_range_and_latest(chain: ImagesChain) -> None:
    for tag in ("v1.1.0", "1.2.0", "1.3.0-rc.1", "2.0.0", "latest", "nightly"):
        chain.source.store.add_image("team/app", tag, tag.encode())
    chain.configure(select={"semver": "^1", "always": ["latest"]})
    ended, _ = run(chain)
    assert tags(chain) == {"v1.1.0", "1.2.0", "latest"}
    assert (ended.counts.moved, ended.counts.left_out) == (3, 3)
    ended, _ = run(chain)
    assert (ended.counts.skipped, ended.counts.left_out, ended.counts.queued) == (3, 3, 0)


def test_the_newest_versions(chain: ImagesChain) -> None:
    for tag in ("1.9.0", "1.10.0", "v1.10.0", "1.11.0-rc.1", "0.1.0", "latest"):
        chain.source.store.add_image("team/app", tag, tag.encode())
    chain.configure(select={"newest": 2, "newest_by": "version"})
    run(chain)
    assert tags(chain) == {"1.9.0", "1.10.0", "v1.10.0"}


def test_the_newest_images_by_their_creation_are_read_once(chain: ImagesChain) -> None:
    for hours, tag in enumerate(("c", "b", "a", "d")):
        add(chain, "team/app", tag, age=hours * HOUR)
    chain.configure(select={"newest": 2})
    run(chain)
    assert tags(chain) == {"c", "b"}
    chain.source.requests.clear()
    ended, _ = run(chain)
    assert (ended.counts.skipped, ended.counts.left_out) == (2, 2)
    assert not chain.source.asked("GET", "/blobs/|/manifests/")


def test_an_index_has_the_age_of_its_youngest_image(chain: ImagesChain) -> None:
    store = chain.source.store
    new, old = (add(chain, "team/app", None, age=age * HOUR) for age in (1, 100))
    add_index(store, "team/app", "new", {"linux/amd64": old, "linux/arm64": new})
    add_index(store, "team/app", "old", {"linux/amd64": old})
    chain.configure(select={"younger_than": "2d"})
    ended, results = run(chain)
    assert tags(chain) == {"new"}
    assert ended.counts.left_out == 1
    assert [key for key, result in results.items() if result.outcome is Outcome.LEFT_OUT] == []


def test_a_young_image_waits_and_is_named(chain: ImagesChain) -> None:
    store = chain.source.store
    young = add(chain, "team/app", "young", age=HOUR)
    add(chain, "team/app", "old", age=48 * HOUR)
    store.add_image("team/app", signature(young), b"signature")
    chain.configure(select={"older_than": "1d"})
    ended, results = run(chain)
    assert tags(chain) == {"old"}
    result = results["team/app", "young"]
    assert (result.outcome, result.source) == (Outcome.LEFT_OUT, young)
    assert "copied when it is 1d old" in str(result.reason)
    assert ended.counts.failed == ended.counts.conflict == 0
    chain.configure(select={"older_than": "30m"})
    run(chain)
    assert tags(chain) == {"old", "young", signature(young)}


def test_an_image_without_a_usable_time_waits_from_the_first_scan_on(chain: ImagesChain) -> None:
    add(chain, "team/app", "none", age=None)
    add(chain, "team/app", "1970", age=timedelta(days=365 * 50))
    add(chain, "team/app", "future", age=-1000 * HOUR)
    chain.configure(select={"older_than": "1h"})
    _, results = run(chain)
    assert {name for _, name in results} == {"none", "1970", "future"}
    assert tags(chain) == set()
    chain.source.requests.clear()
    run(chain)
    assert not chain.source.asked("GET", "/blobs/|/manifests/")


def test_a_tag_that_moves_after_the_scan_does_not_escape_its_quarantine(chain: ImagesChain) -> None:
    add(chain, "team/app", "1", age=48 * HOUR)
    kind = images(chain, select={"older_than": "1d"})
    (item,) = (item for page in kind.discover(EVERYTHING, None, TIME) for item in page.items)
    add(chain, "team/app", "1", age=HOUR, annotations={"by": "somebody"})
    (answer,) = kind.transfer([item], TIME)
    assert isinstance(answer, Result)
    assert answer.outcome is Outcome.LEFT_OUT
    assert tags(chain) == set()


@pytest.mark.parametrize("select", [{"newest": 1}, {"older_than": "1d"}])
def test_an_image_whose_config_is_damaged_is_a_failure_and_not_copied(
    chain: ImagesChain, select: dict[str, Any]
) -> None:
    digest = add(chain, "team/app", "1", age=48 * HOUR)
    repository = chain.source.store.repositories["team/app"]
    config = json.loads(repository.manifests[digest].body)["config"]["digest"]
    repository.blobs[config] = repository.blobs[config].replace(b"linux", b"linus")
    chain.configure(select=select)
    ended, results = run(chain)
    assert results["team/app", "1"].code == "DIGEST_MISMATCH"
    assert ended.counts.failed == 1
    assert tags(chain) == set()


def test_a_smaller_index_has_only_the_selected_platforms(chain: ImagesChain) -> None:
    store = chain.source.store
    images = {f"linux/{name}": store.add_image("team/app", None, name.encode()) for name in ("amd64", "arm64", "s390x")}
    index = add_index(store, "team/app", "all", images, attested=True)
    store.add_image("team/app", "single", b"no index")
    store.add_image("team/app", signature(images["linux/amd64"]), b"signature of a child")
    store.add_image("team/app", signature(images["linux/s390x"]), b"signature of a child left out")
    store.add_image("team/app", signature(index), b"signature of the complete index")
    chain.configure(select={"platforms": ["linux/amd64", "linux/arm64/v8"]})
    ended, results = run(chain)
    at_target = chain.target.store.repositories["team/app"]
    copied = json.loads(at_target.manifests[at_target.tags["all"]].body)["manifests"]
    assert [each["digest"] for each in copied[:2]] == [images["linux/amd64"], images["linux/arm64"]]
    assert len(copied) == 4  # with an attestation of each
    assert images["linux/s390x"] not in at_target.manifests
    assert tags(chain) == {"all", "single", signature(images["linux/amd64"])}
    result = results["team/app", "all"]
    assert result.source == result.target == at_target.tags["all"] != index
    assert f"only the selected platforms of the source's index {index}, so the digests differ" in str(result.reason)
    assert ended.counts.conflict == 0
    chain.source.requests.clear()
    ended, _ = run(chain)
    assert (ended.counts.skipped, ended.counts.queued, ended.counts.conflict) == (3, 0, 0)
    assert not chain.source.asked("GET", "/manifests/")


def test_a_platform_that_is_added_later_is_copied_and_one_that_is_removed_is_a_conflict(chain: ImagesChain) -> None:
    store = chain.source.store
    images = {f"linux/{name}": store.add_image("team/app", None, name.encode()) for name in ("amd64", "arm64", "s390x")}
    add_index(store, "team/app", "all", images)
    chain.configure(select={"platforms": ["linux/amd64"]})
    run(chain)
    chain.configure(select={"platforms": ["linux/amd64", "linux/arm64"]})
    ended, results = run(chain)
    assert results["team/app", "all"].outcome is Outcome.MOVED
    assert images["linux/arm64"] in chain.target.store.repositories["team/app"].manifests
    chain.configure(select={"platforms": ["linux/arm64"]})
    ended, results = run(chain)
    assert ended.counts.conflict == 1


def test_the_referrers_of_the_images_of_a_smaller_index_are_copied(chain: ImagesChain) -> None:
    store = chain.source.store
    images = {f"linux/{name}": store.add_image("team/app", None, name.encode()) for name in ("amd64", "arm64")}
    add_index(store, "team/app", "all", images)
    chain.configure(select={"platforms": ["linux/amd64"]}, referrers="always")
    run(chain)
    subject = descriptor(OCI_MANIFEST, store.repositories["team/app"].manifests[images["linux/amd64"]].body)
    signed = store.add_image("team/app", None, b"signature", subject=subject)
    ended, _ = run(chain)
    assert signed in chain.target.store.repositories["team/app"].manifests
    ended, _ = run(chain)
    assert (ended.counts.skipped, ended.counts.queued) == (1, 0)


def test_an_index_without_a_selected_platform_is_left_out(chain: ImagesChain) -> None:
    store = chain.source.store
    add_index(store, "team/app", "all", {"windows/amd64": store.add_image("team/app", None, b"windows")})
    chain.configure(select={"platforms": ["linux/amd64"]})
    ended, results = run(chain)
    assert tags(chain) == set()
    assert "none of the selected platforms" in str(results["team/app", "all"].reason)
    assert ended.counts.left_out == 1


def test_a_sparse_index_keeps_its_digest_and_gets_platforms_that_are_added(chain: ImagesChain) -> None:
    store = chain.source.store
    images = {f"linux/{name}": store.add_image("team/app", None, name.encode()) for name in ("amd64", "arm64", "s390x")}
    index = add_index(store, "team/app", "all", images)
    chain.target.store.takes_all = True
    try:
        chain.configure(select={"platforms": ["linux/amd64"], "sparse": True})
        chain.run()
        at_target = chain.target.store.repositories["team/app"]
        assert at_target.tags == {"all": index}
        assert set(at_target.manifests) == {index, images["linux/amd64"]}
        ended = chain.run()
        assert (ended.counts.skipped, ended.counts.queued) == (1, 0)
        chain.configure(select={"platforms": ["linux/amd64", "linux/arm64"], "sparse": True})
        chain.run()
        assert set(at_target.manifests) == {index, images["linux/amd64"], images["linux/arm64"]}
        ended = chain.run()
        assert (ended.counts.skipped, ended.counts.queued, ended.counts.failed) == (1, 0, 0)
    finally:
        chain.target.store.takes_all = False


def test_a_target_that_refuses_a_sparse_index_is_named_as_the_cause(chain: ImagesChain) -> None:
    store = chain.source.store
    images = {f"linux/{name}": store.add_image("team/app", None, name.encode()) for name in ("amd64", "arm64")}
    add_index(store, "team/app", "all", images)
    chain.configure(select={"platforms": ["linux/amd64"], "sparse": True})
    _, results = run(chain)
    assert results["team/app", "all"].code == "INDEX_INCOMPLETE"
    assert "remove `sparse`" in str(results["team/app", "all"].reason)


def test_images_without_a_tag_are_copied_by_digest_with_their_referrers(chain: ImagesChain) -> None:
    store = chain.source.store
    one, two = (store.add_image("team/app", None, layer) for layer in (b"one", b"two"))
    index = add_index(store, "team/app", "gone", {"linux/amd64": one})
    del store.repositories["team/app"].tags["gone"]
    subject = descriptor(OCI_INDEX, store.repositories["team/app"].manifests[index].body)
    signed = store.add_image("team/app", None, b"signature", subject=subject)
    chain.configure(source=source(chain, digests=[f"team/app@{index}", f"team/app@{two}"]))
    ended, results = run(chain)
    manifests = chain.target.store.repositories["team/app"].manifests
    assert {one, two, index, signed} <= set(manifests)
    assert {name for _, name in results} == {index, two}
    assert tags(chain) == set()
    assert ended.counts.moved == 2
    ended, _ = run(chain)
    assert (ended.counts.skipped, ended.counts.queued) == (2, 0)


def test_a_digest_that_the_source_does_not_have_is_a_failure(chain: ImagesChain) -> None:
    store = chain.source.store
    store.add_image("team/app", "1", b"one")
    absent = f"sha256:{'0' * 64}"
    chain.configure(source=source(chain, digests=[f"team/app@{absent}"]))
    ended, results = run(chain)
    assert results["team/app", absent].code == "NOT_FOUND"
    assert (ended.counts.moved, ended.counts.failed) == (1, 1)


def test_repositories_are_renamed_by_the_first_rule_that_matches(chain: ImagesChain) -> None:
    for name in ("team-a/app", "team-b/app", "other/app"):
        chain.source.store.add_image(name, "1", name.encode())
    rules = [{"from": "team-(.*)/(.*)", "to": "dr/\\1/\\2"}, {"from": ".*", "to": "rest/\\0"}]
    chain.configure(rename=rules, target=target(chain, prefix="mirror"))
    ended, _ = run(chain)
    assert set(chain.target.store.repositories) == {"mirror/dr/a/app", "mirror/dr/b/app", "mirror/rest/other/app"}
    assert ended.counts.moved == 3
    assert chain.target.store.digest("mirror/dr/a/app", "1") == chain.source.store.digest("team-a/app", "1")
    chain.source.store.add_image("team-a/app", "2", b"two")
    chain.source.store.add_image("team-b/app", "2", b"two")
    ended, _ = run(chain, "mirror/dr/a/app")
    assert (ended.counts.moved, ended.counts.skipped) == (1, 1)
    assert tags(chain, "mirror/dr/b/app") == {"1"}


def test_two_repositories_with_one_name_fail_and_nothing_is_written_for_them(chain: ImagesChain) -> None:
    for name in ("a/app", "b/app", "c/web"):
        chain.source.store.add_image(name, "1", name.encode())
    chain.configure(rename=[{"from": "[ab]/(.*)", "to": "dr/\\1"}])
    for scope in ((), ("dr/app",)):
        ended, results = run(chain, *scope)
        assert {key: result.code for key, result in results.items() if result.code} == {
            ("dr/app", "a/app"): "RENAME_REFUSED",
            ("dr/app", "b/app"): "RENAME_REFUSED",
        }
        assert set(chain.target.store.repositories) == {"c/web"}
        assert ended.counts.failed + ended.counts.known == 2


def test_a_rename_to_an_invalid_name_fails_for_that_repository_only(chain: ImagesChain) -> None:
    for name in ("a/app", "b/app"):
        chain.source.store.add_image(name, "1", name.encode())
    chain.configure(rename=[{"from": "a/(.*)", "to": "dr//\\1"}])
    _, results = run(chain)
    assert results["dr//app", "a/app"].code == "RENAME_REFUSED"
    assert set(chain.target.store.repositories) == {"b/app"}


def test_the_push_times_of_quay_decide_without_reading_images(registries: ImagesWorld) -> None:
    chain = registries.chain()
    digest = add(chain, "team/app", "1", age=None)
    with QuayServer() as quay:
        quay.put("team/app", {"1": digest})
        chain.secrets = {"QUAY": TOKEN}
        chain.clock.now = time.time() + 1800
        api = {"kind": "quay", "url": quay.url, "token": "env:QUAY"}
        chain.configure(source=source(chain, api=api), select={"older_than": "1h"})
        _, results = run(chain)
        assert results["team/app", "1"].outcome is Outcome.LEFT_OUT
        assert not chain.source.asked("GET", "/manifests/|/blobs/")
        chain.clock.now += 3600
        run(chain)
    assert tags(chain) == {"1"}


def retry(chain: ImagesChain, *keys: tuple[str, str]) -> Run:
    """Execute the run that `syncline retry` starts for dead letters of these items."""
    chain.clock.sleep(1)
    scope = Scope.of(group for group, _ in keys)
    begun, _ = chain.state.begin_run(SYNC, new_run_id(chain.clock.time), Trigger.RETRY, scope, asked=keys)
    chain.queues.start(Start(SYNC, Trigger.RETRY, scope, run=begun.id))
    chain.pump.run()
    return chain.state.run(SYNC, begun.id)


def test_a_retry_finds_renamed_repositories_again(chain: ImagesChain) -> None:
    chain.source.store.add_image("team-a/app", "1", b"one")
    chain.configure(rename=[{"from": "team-(.*)/(.*)", "to": "dr/\\1/\\2"}])
    chain.target.fault("PUT", "/v2/dr/a/app/manifests/", Fault(403), times=None)
    ended, _ = run(chain)
    assert ended.counts.failed == 1
    chain.target.heal()
    ended = retry(chain, ("dr/a/app", "1"))
    assert ended.counts.moved == 1
    assert tags(chain, "dr/a/app") == {"1"}


def test_a_retry_after_a_rename_was_corrected_resolves_the_dead_letters(chain: ImagesChain) -> None:
    for name in ("a/app", "b/app"):
        chain.source.store.add_image(name, "1", name.encode())
    chain.configure(rename=[{"from": "[ab]/(.*)", "to": "dr/\\1"}])
    run(chain)
    chain.configure(rename=[{"from": "a/(.*)", "to": "dr/\\1"}])
    ended = retry(chain, ("dr/app", "a/app"), ("dr/app", "b/app"))
    assert (ended.counts.failed, ended.counts.moved) == (0, 1)
    found = chain.state.failures.find(SYNC, [("dr/app", "a/app"), ("dr/app", "b/app")])
    assert all(each.solved for each in found.values())


def test_a_retry_says_why_an_image_is_left_out(chain: ImagesChain) -> None:
    digest = add(chain, "team/app", "2.0.0", age=HOUR)
    add(chain, "team/app", "1.0.0", age=99 * HOUR)
    chain.source.store.add_image("team/app", signature(digest), b"signature")
    keys = [("team/app", name) for name in ("2.0.0", "1.0.0", signature(digest))]
    chain.configure(select={"semver": "^2", "older_than": "1d"})
    ended = retry(chain, *keys)
    results = chain.results(ended)
    assert [results[key].outcome for key in keys] == [Outcome.LEFT_OUT] * 3
    assert ended.counts.failed == 0


def test_a_run_that_only_plans_stores_no_times(chain: ImagesChain) -> None:
    add(chain, "team/app", "1", age=None)
    chain.configure(select={"older_than": "1h"})
    chain.start(plan=True)
    chain.pump.run()
    chain.source.requests.clear()
    run(chain)
    assert chain.source.asked("GET", "/manifests/"), "the plan stored when the image was first seen"


def test_a_digest_that_failed_is_tried_again(chain: ImagesChain) -> None:
    store = chain.source.store
    digest = store.add_image("team/app", None, b"one")
    chain.configure(source=source(chain, digests=[f"team/app@{digest}"]))
    chain.target.fault("PUT", "/v2/team/app/manifests/", Fault(403), times=None)
    run(chain)
    chain.target.heal()
    ended = retry(chain, ("team/app", digest))
    assert ended.counts.moved == 1
    assert digest in chain.target.store.repositories["team/app"].manifests


def test_a_quarantine_ends_by_itself(chain: ImagesChain) -> None:
    add(chain, "team/app", "1", age=HOUR)
    chain.configure(select={"older_than": "1d"})
    run(chain)
    assert tags(chain) == set()
    chain.clock.now += 24 * 3600
    run(chain)
    assert tags(chain) == {"1"}


def test_a_new_image_that_states_an_old_time_does_not_escape_its_quarantine(chain: ImagesChain) -> None:
    add(chain, "team/app", "1", age=48 * HOUR)
    chain.configure(select={"older_than": "1d"})
    run(chain)
    assert tags(chain) == {"1"}, "the first scan knows no time but the stated one"
    for _ in range(2):
        chain.clock.now += 20 * 24 * 3600  # facts expire after 30 days
        run(chain)
    forged = add(chain, "team/app", "2", age=2000 * HOUR)
    _, results = run(chain)
    assert results["team/app", "2"].outcome is Outcome.LEFT_OUT
    assert results["team/app", "2"].source == forged
    assert tags(chain) == {"1"}
    chain.clock.now += 24 * 3600
    run(chain)
    assert tags(chain) == {"1", "2"}


def test_an_index_with_an_image_without_a_time_waits(chain: ImagesChain) -> None:
    old, none = (add(chain, "team/app", None, age=age) for age in (48 * HOUR, None))
    add_index(chain.source.store, "team/app", "1", {"linux/amd64": old, "linux/arm64": none})
    chain.configure(select={"older_than": "1d"})
    run(chain)
    assert tags(chain) == set()


def test_of_the_newest_images_those_in_quarantine_do_not_take_a_place(chain: ImagesChain) -> None:
    for tag, hours in (("1", 90), ("2", 60), ("3", 30), ("4", 1)):
        add(chain, "team/app", tag, age=hours * HOUR)
    chain.configure(select={"newest": 2, "older_than": "1d"})
    _, results = run(chain)
    assert tags(chain) == {"2", "3"}
    assert [name for (_, name), result in results.items() if result.outcome is Outcome.LEFT_OUT] == ["4"]
