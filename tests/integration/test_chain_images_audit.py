"""An audit compares every image of source and target, whatever the records say, and writes nothing to either."""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from typing import Any

import pytest

from syncline.errors import SynclineError
from syncline.kinds.images import audit, audit_bytes
from syncline.kinds.kind import Auditing, StepContext
from syncline.messages import Start
from syncline.model import EVERYTHING, Audit, Outcome, Result, Run, RunStatus, Scope, Step, Trigger
from tests.rig.images import ImagesChain, ImagesWorld
from tests.rig.run_ids import made_run_id
from tests.standins.oci import Fault
from tests.standins.oci_store import OCI_INDEX, Stored, descriptor, digest_of

pytestmark = pytest.mark.moto

EQUAL, DIFFERENT, MISSING = Outcome.EQUAL, Outcome.DIFFERENT, Outcome.MISSING
BASE, LAYERS = b"a base layer", [f"layer {number}".encode() for number in range(6)]


@pytest.fixture
def chain(registries: ImagesWorld) -> ImagesChain:
    """Return a chain whose target has all of the source: two repositories, with shared layers and an index."""
    chain = registries.chain()
    chain.configure()
    store = chain.source.store
    for at, name in enumerate(("team/app", "team/base")):
        images = [store.add_image(name, f"v{number}", BASE, LAYERS[3 * at + number]) for number in range(3)]
        store.add_index(name, "all", *images)
    chain.run()
    chain.check()
    return chain


def outcomes(chain: ImagesChain) -> Counter[Outcome]:
    return Counter(each.outcome for each in chain.results().values())


def writes(chain: ImagesChain) -> list[str]:
    """Return the requests that change a registry."""
    return [each.target for each in chain.source.requests + chain.target.requests if each.method not in ("GET", "HEAD")]


def blob_reads(chain: ImagesChain) -> list[str]:
    """Return the paths of the target's blobs that were read."""
    return [each.target for each in chain.target.asked("GET", "/blobs/")]


def test_an_equal_target(chain: ImagesChain) -> None:
    chain.source.requests.clear()
    chain.target.requests.clear()
    for options in ({}, {"parts": True}, {"deep": True}):
        run = chain.audit(**options)
        assert (run.status, run.plan) == (RunStatus.DONE, True)
        assert run.audit == Audit(**options)
        assert outcomes(chain) == {EQUAL: 8}
        for (name, tag), result in chain.results().items():
            assert result.source == result.target == chain.source.store.digest(name, tag)
        assert Audit().is_equal(run.counts)
        assert chain.state.audits(chain.sync).equal
    assert not writes(chain)
    assert chain.state.current_run(chain.sync) is None


def test_each_outcome_with_both_digests(chain: ImagesChain) -> None:
    source, target = chain.source.store, chain.target.store
    changed = target.add_image("team/app", "v0", b"other")
    del target.repositories["team/app"].tags["v1"]
    extra = target.add_image("team/app", "extra", b"extra")
    alone = target.add_image("team/alone", "one", b"alone")
    run = chain.audit()
    found = {key: each for key, each in chain.results().items() if each.outcome is not EQUAL}
    assert {key: (each.outcome, each.source, each.target) for key, each in found.items()} == {
        ("team/app", "v0"): (DIFFERENT, source.digest("team/app", "v0"), changed),
        ("team/app", "v1"): (MISSING, source.digest("team/app", "v1"), None),
        ("team/app", "extra"): (Outcome.EXTRA, None, extra),
        ("team/alone", "one"): (Outcome.EXTRA, None, alone),
    }
    counts = run.counts
    assert (counts.different, counts.missing, counts.extra, counts.skipped) == (1, 1, 2, 6)
    assert not Audit().is_equal(counts)
    assert chain.state.audits(chain.sync).equal is False


def test_a_named_repository_that_the_source_does_not_have_is_no_proof(chain: ImagesChain) -> None:
    run = chain.audit("team/nope", "team/app")
    (failed,) = [each for each in chain.results(run).values() if each.outcome is not EQUAL]
    assert (failed.group, failed.outcome, failed.code) == ("team/nope", Outcome.UNREADABLE, "SOURCE_ABSENT")
    assert not Audit().is_equal(run.counts)


def test_health_does_not_change(chain: ImagesChain) -> None:
    before = chain.state.health(chain.sync)
    del chain.target.store.repositories["team/app"].tags["v1"]
    chain.audit()
    assert chain.state.health(chain.sync) == before
    assert not chain.dead()


def test_a_deleted_layer_and_a_deleted_child(chain: ImagesChain) -> None:
    repositories = chain.target.store.repositories
    del repositories["team/app"].blobs[digest_of(LAYERS[1])]
    child = repositories["team/base"].tags["v2"]
    del repositories["team/base"].tags["v2"]
    del repositories["team/base"].manifests[child]
    run = chain.audit()
    assert outcomes(chain) == {EQUAL: 7, MISSING: 1}
    run = chain.audit(parts=True)
    found = {key: each for key, each in chain.results().items() if each.outcome is DIFFERENT}
    assert found.keys() == {("team/app", "v1"), ("team/app", "all"), ("team/base", "all")}
    assert {each.code for each in found.values()} == {"INCOMPLETE"}
    assert digest_of(LAYERS[1]) in str(found["team/app", "v1"].reason)
    assert child in str(found["team/base", "all"].reason)
    assert run.counts.different == 3


def flip(chain: ImagesChain, name: str, layer: bytes) -> str:
    """Flip one bit of a layer at the target; return its digest."""
    digest = digest_of(layer)
    chain.target.store.repositories[name].blobs[digest] = bytes([layer[0] ^ 1]) + layer[1:]
    return digest


def test_a_flipped_bit_of_a_layer(chain: ImagesChain) -> None:
    digest = flip(chain, "team/base", LAYERS[4])
    chain.audit(parts=True)
    assert outcomes(chain) == {EQUAL: 8}
    chain.audit(deep=True)
    found = {key: each for key, each in chain.results().items() if each.outcome is DIFFERENT}
    assert found.keys() == {("team/base", "v1"), ("team/base", "all")}
    for each in found.values():
        assert each.code == "BLOB_DAMAGED"
        assert digest in str(each.reason)
        assert each.source == each.target


def test_a_flipped_bit_of_a_manifest(chain: ImagesChain) -> None:
    repository = chain.target.store.repositories["team/app"]
    digest = repository.tags["v0"]
    stored = repository.manifests[digest]
    repository.manifests[digest] = Stored(stored.media_type, stored.body.replace(b"sha256", b"sha25\x37", 1))
    chain.audit(parts=True)
    found = {tag for (name, tag), each in chain.results().items() if each.outcome is not EQUAL}
    assert found == {"v0", "all"}


def test_each_blob_is_read_once_for_a_repository(chain: ImagesChain) -> None:
    chain.target.requests.clear()
    run = chain.audit(deep=True)
    reads = blob_reads(chain)
    assert len(reads) == len(set(reads))
    store = chain.target.store.repositories
    assert run.counts.bytes == sum(len(blob) for each in store.values() for blob in each.blobs.values())


def test_the_shares_cover_everything_once(chain: ImagesChain) -> None:
    reads: Counter[str] = Counter()
    for part in range(1, 4):
        chain.target.requests.clear()
        chain.audit(deep=True, part=part, of=3)
        assert outcomes(chain) == {EQUAL: 8}
        reads.update(blob_reads(chain))
    store = chain.target.store.repositories
    assert len(reads) == sum(len(each.blobs) for each in store.values())
    assert set(reads.values()) == {1}
    assert chain.state.audits(chain.sync).read_since(1) == 1


def test_the_next_share_follows_from_the_audits_before(chain: ImagesChain) -> None:
    parts = [chain.audit(deep=True, part=0, of=3).audit for _ in range(4)]
    assert [each.part for each in parts if each] == [1, 2, 3, 1]


def in_short_functions(chain: ImagesChain, options: Audit) -> dict[tuple[str, str], Result]:
    """Audit with as many functions as possible: each has hardly more time than the first progress takes."""
    kind = chain.new_worker(Step.DISCOVER).engine.kind(chain.latest())
    assert isinstance(kind, Auditing)
    found: dict[tuple[str, str], Result] = {}
    cursor: str | None = None
    moments, functions = 1, 0
    while True:
        clock = itertools.count()
        context = StepContext(lambda end=moments, clock=clock: float(end - next(clock)))  # type: ignore[misc]
        before = cursor
        with contextlib.suppress(SynclineError):  # TIME_SHORT: the step tries again
            for page in kind.audit(EVERYTHING, cursor, context, options):
                assert all(each.error.code.name == "TIME_SHORT" for each in page.failures)
                if page.failures:
                    break
                for each in page.results:
                    assert (each.group, each.name) not in found, f"{each} twice"
                    found[each.group, each.name] = each
                cursor = page.cursor
        if cursor == before and next(clock) < moments:
            break
        functions += cursor != before
        moments = max(moments - 4, 1) if cursor != before else moments + 2
    assert functions >= 4
    return found


@pytest.mark.parametrize("options", [{}, {"parts": True}, {"deep": True}], ids=["tags", "parts", "bytes"])
def test_many_functions_find_the_same(
    chain: ImagesChain, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "BLOCK_TAGS", 2)
    monkeypatch.setattr(audit_bytes, "READERS", 1)
    digest = flip(chain, "team/app", LAYERS[2])
    chain.audit(**options)
    whole = chain.results()
    assert any(digest in str(each.reason) for each in whole.values()) is bool(options.get("deep"))
    assert in_short_functions(chain, Audit(**options)) == whole


def test_an_unreadable_image_does_not_hide_the_others(chain: ImagesChain) -> None:
    chain.target.fault("HEAD", "/team/app/manifests/v1", Fault(status=500), times=None)
    chain.audit()
    found = {key: each for key, each in chain.results().items() if each.outcome is not EQUAL}
    assert found.keys() == {("team/app", "v1")}
    assert found["team/app", "v1"].outcome is Outcome.UNREADABLE
    assert found["team/app", "v1"].code == "SERVER_ERROR"
    assert not chain.dead()


def repair(chain: ImagesChain) -> Run:
    """Start the run that `syncline audit --repair` starts after the latest audit, and execute it."""
    asked = [key for key, each in chain.results().items() if each.outcome in (DIFFERENT, MISSING)]
    scope = Scope.of(group for group, _ in asked)
    chain.clock.sleep(1)
    run, _ = chain.state.begin_run(chain.sync, made_run_id(), Trigger.RETRY, scope, asked=asked)
    chain.queues.start(Start(chain.sync, Trigger.RETRY, scope, run=run.id))
    chain.pump.run()
    return chain.state.run(chain.sync, run.id)


def test_a_repair_sends_deleted_parts_again(chain: ImagesChain) -> None:
    repositories = chain.target.store.repositories
    del repositories["team/app"].blobs[digest_of(LAYERS[1])]
    child = repositories["team/base"].tags.pop("v2")
    del repositories["team/base"].manifests[child]
    chain.audit(parts=True)
    assert not repair(chain).counts.failed
    chain.audit(deep=True)
    assert outcomes(chain) == {EQUAL: 8}


def test_a_repair_sends_a_damaged_layer_again(chain: ImagesChain) -> None:
    flip(chain, "team/base", LAYERS[4])
    chain.audit(deep=True)
    assert outcomes(chain)[DIFFERENT] == 2
    assert not repair(chain).counts.failed
    chain.audit(deep=True)
    assert outcomes(chain) == {EQUAL: 8}


def damage(chain: ImagesChain, digest: str) -> None:
    """Change the bytes of a manifest at the target, and leave it under its digest."""
    manifests = chain.target.store.repositories["team/app"].manifests
    stored = manifests[digest]
    manifests[digest] = Stored(stored.media_type, stored.body.replace(b"sha256", b"sha25\x37", 1))


def test_a_repair_sends_damaged_manifests_again(chain: ImagesChain) -> None:
    """That of a tag, of a child of an index, of a referrer, and of a signature."""
    store = chain.source.store
    child = store.add_image("team/app", None, b"only in an index")
    index = store.add_index("team/app", "indexed", child)
    subject = descriptor(OCI_INDEX, store.repositories["team/app"].manifests[index].body)
    referrer = store.add_image("team/app", None, b"an attestation", subject=subject, artifactType="text/plain")
    signature = store.add_image("team/app", f"{index.replace(':', '-')}.sig", b"a signature")
    tagged = store.digest("team/app", "v0")
    chain.run()
    for damaged in (child, index, referrer, signature, str(tagged)):
        damage(chain, damaged)
        chain.audit(parts=True)
        found = [each for each in chain.results().values() if each.outcome is not EQUAL]
        assert found, damaged
        assert {each.code for each in found} <= {"BLOB_DAMAGED", "INCOMPLETE"}, "a damaged referrer may not be listed"
        assert not repair(chain).counts.failed
        chain.audit(parts=True)
        assert outcomes(chain) == {EQUAL: 10}, damaged
    for lost in (child, referrer):
        del chain.target.store.repositories["team/app"].manifests[lost]
        chain.audit(parts=True)
        assert [name for (_, name), each in chain.results().items() if each.outcome is not EQUAL] == ["indexed"]
        assert not repair(chain).counts.failed
        chain.audit(parts=True)
        assert outcomes(chain) == {EQUAL: 10}, lost


def test_a_repair_overwrites_no_conflict_and_removes_nothing(chain: ImagesChain) -> None:
    target = chain.target.store
    changed = target.add_image("team/app", "v0", b"other")
    extra = target.add_image("team/app", "extra", b"extra")
    chain.audit()
    assert repair(chain).counts.conflict == 1
    assert (target.digest("team/app", "v0"), target.digest("team/app", "extra")) == (changed, extra)
