"""Signatures, attestations and SBOMs without a tag, which only name their subject, in the step chain."""

from __future__ import annotations

import json
import random
import re
from typing import Any, Final

import pytest

from syncline.kinds.images.referrers import DEEPEST
from syncline.model import Counts, RunStatus
from tests.rig.images import ImagesChain, ImagesWorld
from tests.rig.pump import Delivery, Duplicates, KillPoint
from tests.standins.oci import OciRegistry
from tests.standins.oci_store import OCI_INDEX, Repository, Store, Stored, descriptor, digest_of

NAME: Final = "team/signed"
SIDES: Final = pytest.mark.parametrize(
    ("there", "here"),
    [(True, True), (True, False), (False, True), (False, False)],
    ids=lambda has: "api" if has else "tag",
)


def refer(store: Store, subject: str, what: bytes, **more: Any) -> str:
    """Add a referrer without a tag; return its digest."""
    stored = store.repositories[NAME].manifests[subject]
    named = descriptor(stored.media_type, stored.body)
    return store.add_image(NAME, None, what, subject=named, artifactType="application/vnd.example.signature", **more)


def list_by_tags(store: Store) -> None:
    """List all referrers under tags, like clients of a registry without the referrers API."""
    manifests = store.repositories[NAME].manifests
    for subject in list(manifests):
        found = [entry["digest"] for entry in store.referrers(NAME, subject)]
        if found:
            store.add_index(NAME, subject.replace(":", "-"), *found)


def signed(chain: ImagesChain, *, there: bool, here: bool) -> dict[str, str]:
    """Add an image and an index with a signature each, a signature of a child, and one of a signature; return all by name."""
    chain.source.lists_referrers, chain.target.lists_referrers = there, here
    store = chain.source.store
    one = store.add_image(NAME, "1.0", b"an image")
    child = store.add_image(NAME, None, b"for one processor")
    inner = store.add_index(NAME, None, store.add_image(NAME, None, b"for another"))
    index = store.add_index(NAME, "multi", child, inner)
    made = {"1.0": one, "multi": index, "child": child, "inner": inner}
    for name in list(made):
        made[f"{name} signed"] = refer(store, made[name], f"the signature of {name}".encode())
    made["witnessed"] = refer(store, made["child signed"], b"the witness of a signature")
    if not there:
        list_by_tags(store)
    return made


def listed(registry: OciRegistry, subject: str) -> set[str]:
    """Return the referrers that a registry lists for a subject, by the API or by the tag."""
    if registry.lists_referrers:
        return {entry["digest"] for entry in registry.store.referrers(NAME, subject)}
    repository = registry.store.repositories[NAME]
    tagged = repository.tags.get(subject.replace(":", "-"))
    if tagged is None:
        return set()
    return {entry["digest"] for entry in json.loads(repository.manifests[tagged].body)["manifests"]}


def check(chain: ImagesChain) -> None:
    """Check the run, and that the target lists every referrer of the source, byte for byte with its parts."""
    there, here = chain.source.store.repositories[NAME], chain.target.store.repositories[NAME]
    referrers = set[str]()
    for subject in there.manifests:
        found = listed(chain.source, subject)
        assert found <= listed(chain.target, subject), f"referrers of {subject}"
        referrers |= found
    for digest in referrers:
        assert here.manifests[digest] == there.manifests[digest]
        for blob in json.loads(here.manifests[digest].body)["layers"]:
            assert digest_of(here.blobs[blob["digest"]]) == blob["digest"]
    for key, digest in chain.source.store.tags().items():
        assert chain.target.store.digest(*key) == digest
    assert not chain.target.store.broken()
    run = chain.latest()
    assert (run.status, run.counts.failed, run.counts.conflict) == (RunStatus.DONE, 0, 0)
    assert chain.state.progress(run.id).settled
    assert not chain.dead_items()


def run_again(chain: ImagesChain) -> Counts:
    """Execute a second scheduled run, and check that it requests no referrers and writes nothing."""
    asked, wrote = referrer_requests(chain), len(writes(chain))
    counts = chain.run().counts
    assert len(writes(chain)) == wrote
    assert referrer_requests(chain) == asked
    return counts


def referrer_requests(chain: ImagesChain) -> int:
    """Return the number of requests for referrers."""
    return sum(len(registry.asked("GET", "/referrers/")) for registry in (chain.source, chain.target))


def writes(chain: ImagesChain) -> list[str]:
    return [each.target for each in chain.target.requests if each.method in ("PUT", "POST", "PATCH")]


@SIDES
def test_all_referrers_of_an_image_are_moved(registries: ImagesWorld, *, there: bool, here: bool) -> None:
    chain = registries.chain()
    chain.configure(concurrency=4)
    signed(chain, there=there, here=here)
    tags = len(chain.source.store.tags())
    assert chain.run().counts.moved == tags
    check(chain)
    counts = run_again(chain)
    assert (counts.skipped, counts.queued, counts.conflict) == (tags, 0, 0)


@pytest.mark.parametrize("here", [True, False], ids=["api", "tag"])
def test_referrers_are_moved_and_listed_before_the_tag(registries: ImagesWorld, *, here: bool) -> None:
    chain = registries.chain()
    chain.configure()
    made = signed(chain, there=True, here=here)
    seen: list[bool] = []

    def look(method: str, target: str) -> None:
        if method == "PUT" and target.endswith("/manifests/multi"):
            wanted = {"multi": "multi signed", "child": "child signed", "child signed": "witnessed"}
            seen.append(all(made[what] in listed(chain.target, made[subject]) for subject, what in wanted.items()))

    chain.target.before = look
    try:
        chain.run()
    finally:
        chain.target.before = lambda _method, _target: None
    assert seen == [True]


@SIDES
def test_a_later_signature_is_moved_when_its_repository_is_named(
    registries: ImagesWorld, *, there: bool, here: bool
) -> None:
    chain = registries.chain()
    chain.configure()
    made = signed(chain, there=there, here=here)
    chain.run()
    refer(chain.source.store, made["child"], b"a second signature")
    if there:
        assert run_again(chain).queued == 0
    else:
        list_by_tags(chain.source.store)  # the tag differs, but a list may grow without `overwrite`
    wrote = len(writes(chain))
    chain.clock.sleep(1)
    chain.start(NAME)
    chain.pump.run()
    check(chain)
    assert not [each for each in writes(chain)[wrote:] if made["child signed"] in each], (
        "an existing referrer was sent again"
    )
    assert run_again(chain).queued == 0


def test_with_referrers_always_a_later_signature_is_moved_by_any_run(registries: ImagesWorld) -> None:
    chain = registries.chain()
    chain.configure(referrers="always")
    made = signed(chain, there=True, here=True)
    chain.run()
    new = refer(chain.source.store, made["witnessed"], b"the witness of a witness")
    assert chain.run().counts.moved == 1
    check(chain)
    assert new in listed(chain.target, made["witnessed"])
    assert chain.run().counts.queued == 0


def test_with_referrers_never_none_are_requested(registries: ImagesWorld) -> None:
    chain = registries.chain()
    chain.configure(referrers="none")
    made = signed(chain, there=True, here=True)
    chain.run()
    chain.check()
    chain.start(NAME)
    chain.pump.run()
    assert referrer_requests(chain) == 0
    assert listed(chain.target, made["1.0"]) == set()


@pytest.mark.parametrize("there", [True, False], ids=["api", "tag"])
def test_additional_referrers_at_the_target_remain(registries: ImagesWorld, *, there: bool) -> None:
    chain = registries.chain()
    chain.configure()
    made = signed(chain, there=there, here=False)
    target = chain.target.store
    target.repositories[NAME] = Repository(
        manifests={made["1.0"]: chain.source.store.repositories[NAME].manifests[made["1.0"]]}
    )
    own = refer(target, made["1.0"], b"the target's own signature")
    target.add_index(NAME, made["1.0"].replace(":", "-"), own)
    del target.repositories[NAME].manifests[made["1.0"]]
    chain.run()
    assert listed(chain.target, made["1.0"]) == {own, made["1.0 signed"]}
    # If the source lists by a tag, that tag differs: revoked entries could be the reason.
    conflicts = 0 if there else 1
    assert (chain.latest().counts.failed, chain.latest().counts.conflict) == (0, conflicts)
    counts = run_again(chain)
    assert (counts.queued, counts.conflict, counts.failed) == (0, conflicts, 0)


def test_listed_manifests_that_are_not_referrers_are_left_out(registries: ImagesWorld) -> None:
    chain = registries.chain()
    chain.configure()
    store = chain.source.store
    chain.source.lists_referrers = False
    image, other = store.add_image(NAME, "1.0", b"an image"), store.add_image(NAME, None, b"another")
    sound, astray, gone = (
        refer(store, subject, what) for subject, what in ((image, b"a"), (other, b"b"), (image, b"c"))
    )
    artifact = descriptor("application/vnd.oci.artifact.manifest.v1+json", b"{}")
    manifests = store.repositories[NAME].manifests
    entries = [descriptor(manifests[d].media_type, manifests[d].body) for d in (sound, astray, gone)]
    body = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [*entries, artifact]}).encode()
    manifests[digest_of(body)] = Stored(OCI_INDEX, body)
    store.repositories[NAME].tags[image.replace(":", "-")] = digest_of(body)
    del manifests[gone]
    chain.configure(select={"tags": {"include": ["1.0"]}})
    chain.run()
    results = chain.results(chain.latest())
    assert results[NAME, "1.0"].outcome == "moved"
    here = chain.target.store.repositories[NAME].manifests
    assert (sound in here, gone in here) == (True, False)


def test_referrers_nested_too_deeply_are_refused(registries: ImagesWorld) -> None:
    chain = registries.chain()
    chain.configure()
    last = chain.source.store.add_image(NAME, "deep", b"an image")
    for depth in range(DEEPEST + 1):
        last = refer(chain.source.store, last, str(depth).encode())
    chain.run()
    chain.check({(NAME, "deep"): "MANIFEST_INVALID"})


def test_many_pages_of_referrers_are_moved(registries: ImagesWorld) -> None:
    chain = registries.chain()
    chain.configure()
    chain.source.referrers_page = chain.target.referrers_page = 2
    image = chain.source.store.add_image(NAME, "1.0", b"an image")
    for number in range(5):
        refer(chain.source.store, image, str(number).encode())
    chain.run()
    check(chain)
    assert len(listed(chain.target, image)) == 5


# -- killed steps


def begun(registries: ImagesWorld, *, there: bool) -> ImagesChain:
    chain = registries.chain()
    chain.configure()
    signed(chain, there=there, here=False)
    chain.remember()
    chain.start()
    chain.reaper.effects.clear()
    return chain


@pytest.mark.parametrize("when", [KillPoint.BEFORE, KillPoint.AFTER])
def test_a_step_killed_at_any_manifest_leaves_no_referrer_unlisted(registries: ImagesWorld, when: KillPoint) -> None:
    chain = begun(registries, there=True)
    chain.pump.run()
    effects = [number for number, each in enumerate(chain.reaper.effects, 1) if re.search("PUT.*/manifests/", each)]
    assert len(effects) > 12
    for number in effects[:: 2 if when is KillPoint.BEFORE else 1]:
        chain = begun(registries, there=True)
        chain.reaper.plan = {(number, when)}
        chain.pump.run()
        check(chain)
        assert run_again(chain).queued == 0


@pytest.mark.parametrize("there", [True, False], ids=["api", "tag"])
def test_messages_delivered_twice_and_in_any_order(registries: ImagesWorld, *, there: bool) -> None:
    chain = begun(registries, there=there)
    chain.pump.delivery = Delivery(random.Random(1), shuffle=True, duplicates=Duplicates.AT_ONCE)
    chain.pump.run()
    check(chain)
    assert run_again(chain).queued == 0
