"""Changes at the target during the transfer of images: foreign tags, lost and truncated layers, duplicate messages."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from syncline.messages import Start
from syncline.model import Outcome, Result, Run, Scope, Step, Trigger
from tests.rig.artifacts import (
    PROJECT,
    ArtifactsChain,
    ArtifactsWorld,
    block,
    build,
    image,
    log,
)
from tests.rig.images import SYNC
from tests.rig.pump import Letter
from tests.standins import saved
from tests.standins.github import zipped
from tests.standins.oci import Fault
from tests.standins.oci_store import Repository

TAG = "presto-1-linux-amd64"
COORDINATOR = f"{PROJECT}/x86/presto-coordinator"
WORKER = f"{PROJECT}/x86/presto-native-worker-cpu"
KNOWN = ("failed", "known")
"""Outcomes of a failure that is reported in a later run."""


def once(act: Callable[[], object], method: str, pattern: str) -> Callable[[str, str], None]:
    """Return a hook that calls `act` before the first request of a method whose target contains the pattern."""
    acted: list[bool] = []

    def before(asked: str, target: str) -> None:
        if asked == method and pattern in target and not acted:
            acted.append(True)
            act()

    return before


def repository(chain: ArtifactsChain, name: str = COORDINATOR) -> Repository:
    return chain.target.store.repositories[name]


def layers(chain: ArtifactsChain, name: str = COORDINATOR, tag: str = "presto-1") -> list[str]:
    """Return the digests of the layers of a tag."""
    store = chain.target.store
    digest = store.digest(name, tag)
    assert digest is not None
    return [layer["digest"] for layer in json.loads(store.manifest(name, digest)[1].body)["layers"]]


def result(chain: ArtifactsChain, run: Run, name: str = COORDINATOR) -> Result:
    return chain.results(run)[name, "presto-1"]


class TestTags:
    """A foreign tag that appears while an image is transferred."""

    MOMENTS = (("POST", f"/{COORDINATOR}/blobs/uploads/"), ("PUT", f"/{COORDINATOR}/blobs/uploads/"))

    def stranger(self, chain: ArtifactsChain) -> str:
        return chain.target.store.add_image(COORDINATOR, "presto-1", b"a stranger's layer")

    @pytest.mark.parametrize("moment", [*MOMENTS, None])
    def test_is_not_overwritten(self, builds: ArtifactsWorld, moment: tuple[str, str] | None) -> None:
        chain = builds.chain([build(1, TAG)], aliases=[])
        theirs: list[str] = []

        def act() -> None:
            theirs.append(self.stranger(chain))

        if moment is None:

            def on_delivery(letter: Letter) -> None:
                if letter.step is Step.TRANSFER and not theirs:
                    act()

            chain.pump.on_delivery = on_delivery
        else:
            chain.target.before = once(act, *moment)
        run = chain.run()
        assert chain.target.store.digest(COORDINATOR, "presto-1") == theirs[0]
        found = result(chain, run)
        assert (found.outcome, found.code, found.target) == (Outcome.CONFLICT, "TAG_DIFFERS", theirs[0])
        assert theirs[0] in (found.reason or "")
        assert (found.reason or "").count("sha256:") == 2, "the reason does not name both digests"
        assert (run.counts.moved, run.counts.conflict) == (1, 1)

    def test_remains_a_conflict_in_later_runs_until_it_is_resolved(self, builds: ArtifactsWorld) -> None:
        chain = builds.chain([build(1, TAG)], aliases=[])
        chain.target.before = once(lambda: self.stranger(chain), *self.MOMENTS[0])
        first = result(chain, chain.run())
        builds.github.ranges.clear()
        second = chain.run()
        assert result(chain, second) == replace(first, reason=result(chain, second).reason)
        assert (result(chain, second).reason or "").count("sha256:") == 2
        assert (second.counts.conflict, second.counts.skipped, second.counts.queued) == (1, 1, 0)
        assert not builds.github.ranges, "the archive was read again"
        del repository(chain).tags["presto-1"]
        assert result(chain, chain.run()).outcome is Outcome.MOVED
        assert chain.run().counts.skipped == 2

    def test_is_named_if_it_replaces_ours_immediately(self, builds: ArtifactsWorld) -> None:
        chain = builds.chain([build(1, TAG)], aliases=[])
        puts: list[str] = []
        theirs: list[str] = []

        def before(method: str, target: str) -> None:
            if target.endswith(f"/{COORDINATOR}/manifests/presto-1"):
                if method == "PUT":
                    puts.append(target)
                elif puts and not theirs:
                    theirs.append(self.stranger(chain))

        chain.target.before = before
        found = result(chain, chain.run())
        assert (found.outcome, found.code) == (Outcome.CONFLICT, "TAG_DIFFERS")
        assert theirs[0] in (found.reason or "")

    def test_is_not_the_target_of_an_alias(self, builds: ArtifactsWorld) -> None:
        chain = builds.chain([build(1, TAG), build(2, "presto-2-linux-amd64")])
        chain.target.before = once(
            lambda: chain.target.store.add_image(COORDINATOR, "presto-2", b"a stranger's layer"), *self.MOMENTS[0]
        )
        for counts in ((3, 1), (0, 1)):
            run = chain.run()
            assert (run.counts.moved, run.counts.conflict) == counts
            assert chain.config_digest(COORDINATOR, "latest") == chain.config_digest(COORDINATOR, "presto-1")

    def test_is_replaced_with_overwrite(self, builds: ArtifactsWorld) -> None:
        chain = builds.chain([build(1, TAG)], aliases=[], overwrite=True)
        chain.target.before = once(lambda: self.stranger(chain), *self.MOMENTS[0])
        assert result(chain, chain.run()).outcome is Outcome.MOVED
        assert chain.config_digest(COORDINATOR, "presto-1") == f"sha256:{image('presto-coordinator', TAG).id}"

    def test_of_the_same_image_is_equal(self, builds: ArtifactsWorld) -> None:
        """The manifest differs only in white space; the config decides."""
        chain = builds.chain([build(1, TAG)], aliases=[])
        chain.run()
        store = chain.target.store
        ours = store.manifest(COORDINATOR, "presto-1")[1]
        theirs = json.dumps(json.loads(ours.body), indent=7).encode()
        again = builds.chain([build(1, TAG)], aliases=[])
        again.target.store = store
        del repository(again).tags["presto-1"]

        def act() -> None:
            store.put_manifest(COORDINATOR, "presto-1", ours.media_type, theirs)

        def on_delivery(letter: Letter) -> None:
            if letter.step is Step.TRANSFER:
                act()

        again.pump.on_delivery = on_delivery
        run = again.run()
        assert result(again, run).outcome is Outcome.EQUAL
        assert (run.counts.skipped, run.counts.queued, run.counts.conflict) == (2, 0, 0)
        assert store.digest(COORDINATOR, "presto-1") == f"sha256:{saved.sha(theirs)}"


def cut(chain: ArtifactsChain) -> None:
    blobs = repository(chain).blobs
    blobs[layers(chain)[1]] = blobs[layers(chain)[1]][:10]


def lose(chain: ArtifactsChain) -> None:
    del repository(chain).blobs[layers(chain)[1]]


def lose_config(chain: ArtifactsChain) -> None:
    manifest = json.loads(chain.target.store.manifest(COORDINATOR, "presto-1")[1].body)
    del repository(chain).blobs[manifest["config"]["digest"]]


class TestLostLayers:
    """Layers that the target loses."""

    @pytest.mark.parametrize("harm", [cut, lose, lose_config])
    @pytest.mark.parametrize("aliases", [[], ["latest"]])
    def test_are_sent_again_if_lost_after_the_tag_was_put(
        self, builds: ArtifactsWorld, aliases: list[str], harm: Callable[[ArtifactsChain], None]
    ) -> None:
        chain = builds.chain([build(1, TAG)], aliases=aliases)
        harmed: list[bool] = []

        def on_delivery(letter: Letter) -> None:
            if letter.step is Step.VERIFY and not harmed and COORDINATOR in letter.body:
                harmed.append(True)
                harm(chain)

        chain.pump.on_delivery = on_delivery
        run = chain.run()
        assert harmed
        assert (run.counts.moved, run.counts.failed) == (2, 0)
        assert not chain.target.store.broken()

    @pytest.mark.parametrize("overwrite", [False, True])
    @pytest.mark.parametrize("harm", [cut, lose])
    def test_lost_repeatedly_are_a_failure_and_not_equal_in_later_runs(
        self, builds: ArtifactsWorld, harm: Callable[[ArtifactsChain], None], *, overwrite: bool
    ) -> None:
        chain = builds.chain([build(1, TAG)], aliases=[], overwrite=overwrite)

        def on_delivery(letter: Letter) -> None:
            if letter.step is Step.VERIFY and COORDINATOR in letter.body:
                harm(chain)

        chain.pump.on_delivery = on_delivery
        found = result(chain, chain.run())
        assert (found.outcome, found.code) == (Outcome.FAILED, "NOT_ARRIVED")
        chain.pump.on_delivery = lambda _letter: None
        second = chain.run()
        assert result(chain, second).outcome is Outcome.MOVED
        assert (second.counts.moved, second.counts.skipped) == (1, 1)
        assert not chain.target.store.broken()
        third = chain.run()
        assert (third.counts.moved, third.counts.skipped) == (0, 2)

    def test_a_failed_verification_is_repeated_by_the_next_run(self, builds: ArtifactsWorld) -> None:
        """The next run verifies the image although the tag exists."""
        chain = builds.chain([build(1, TAG)], aliases=[])
        harmed: list[bool] = []

        def on_delivery(letter: Letter) -> None:
            if letter.step is Step.VERIFY and not harmed and COORDINATOR in letter.body:
                harmed.append(True)
                cut(chain)
                builds.target.fault("GET", f"/{COORDINATOR}/manifests/presto-1", Fault(403), times=None)

        chain.pump.on_delivery = on_delivery
        assert result(chain, chain.run()).code == "FORBIDDEN"
        builds.target.heal()
        second = chain.run()
        assert (second.counts.moved, second.counts.skipped) == (1, 1)
        assert not chain.target.store.broken()

    @pytest.mark.parametrize("broken", [True, False])
    def test_of_an_unverified_older_build(self, builds: ArtifactsWorld, *, broken: bool) -> None:
        """Without `overwrite`, a younger build replaces an unverified one only if that is broken."""
        chain = builds.chain([build(1, TAG)], aliases=[])

        def on_delivery(letter: Letter) -> None:
            if letter.step is Step.VERIFY and COORDINATOR in letter.body:
                builds.target.fault("GET", f"/{COORDINATOR}/manifests/presto-1", Fault(403), times=None)

        chain.pump.on_delivery = on_delivery
        chain.run()
        chain.pump.on_delivery = lambda _letter: None
        builds.target.heal()
        if broken:
            lose(chain)
        older = chain.config_digest(COORDINATOR, "presto-1")
        other = [
            image(name, TAG, saved.layer({name: b"again"}))
            for name in ("presto-coordinator", "presto-native-worker-cpu")
        ]
        builds.github.runs.append(build(2, TAG, other))
        run = chain.run()
        assert (run.counts.moved, run.counts.skipped, run.counts.conflict) == ((1, 1, 0) if broken else (0, 2, 0))
        wanted = f"sha256:{other[0].id}" if broken else older
        assert chain.config_digest(COORDINATOR, "presto-1") == wanted
        assert not chain.target.store.broken()
        assert chain.run().counts.skipped == 2

    @pytest.mark.parametrize("harm", [cut, lose])
    def test_are_sent_again_if_lost_before_the_tag_is_put(
        self, builds: ArtifactsWorld, harm: Callable[[ArtifactsChain], None]
    ) -> None:
        """The target loses a known base layer before the manifest is put."""
        chain = builds.chain([build(1, TAG)], aliases=[])
        chain.run()
        builds.github.runs.append(build(2, "presto-2-linux-amd64"))
        base = layers(chain)[0]
        blobs = repository(chain).blobs
        whole: list[bool] = []

        def act() -> None:
            if harm is cut:
                blobs[base] = blobs[base][:10]
            else:
                del blobs[base]

        harming = once(act, "POST", f"/{COORDINATOR}/blobs/uploads/")

        def before(method: str, target: str) -> None:
            harming(method, target)
            if method == "PUT" and target.endswith(f"/{COORDINATOR}/manifests/presto-2"):
                whole.append(saved.sha(blobs.get(base, b"")) == base.partition(":")[2])

        chain.target.before = before
        run = chain.run()
        assert whole == [True], "a tag was put before all its parts existed"
        assert (run.counts.moved, run.counts.failed) == (2, 0)
        assert not chain.target.store.broken()


class TestKnownFailures:
    def test_a_failed_image_is_not_counted_as_equal(self, builds: ArtifactsWorld) -> None:
        flawed = build(1, TAG)
        archives: dict[str, str | bytes] = {
            f"presto-coordinator-{TAG}.tar.gz": b"\x1f\x8b\x08\x00 not gzip at all",
            f"presto-native-worker-cpu-{TAG}.tar": saved.until_24(image("presto-native-worker-cpu", TAG)),
        }
        flawed.artifacts[0].content = zipped(archives)
        chain = builds.chain([flawed], aliases=[])
        first = result(chain, chain.run())
        assert (first.outcome, first.code) == (Outcome.FAILED, "ARCHIVE_INVALID")
        assert first.source
        second = chain.run()
        found = result(chain, second)
        assert (found.outcome.value in KNOWN, found.code) == (True, "ARCHIVE_INVALID")
        assert (found.source, found.reason) == (first.source, first.reason), (
            "the known failure has another source or reason"
        )
        assert (second.counts.skipped, second.counts.queued) == (1, 0)

    def test_a_run_with_invalid_metadata_is_a_known_failure(self, builds: ArtifactsWorld) -> None:
        flawed = build(1, TAG)
        flawed.logs = {"0_build.txt": "nothing"}
        chain = builds.chain([flawed], aliases=[])
        (first,) = chain.results(chain.run()).values()
        (second,) = chain.results(chain.run()).values()
        assert first.outcome is Outcome.FAILED
        assert second.outcome.value in KNOWN
        assert (first.code, first.source, first.reason) == (second.code, second.source, second.reason)
        assert first.source
        flawed.attempt, flawed.logs = 2, {"0_build.txt": log(block(TAG))}
        assert chain.run().counts.moved == 2


class TestDeliveries:
    """Eleven events of one workflow run during its transfer."""

    @pytest.fixture
    def many_files(self) -> dict[str, str | bytes]:
        files: dict[str, str | bytes] = {f"build/{n}_Step {n}.txt": f"step {n}\n" * 50 for n in range(1, 100)}
        return {"0_build.txt": log(block(TAG, java=True, gpu=True)), **files}

    @pytest.mark.parametrize("when", ["at once", "while it is transferred", "while it is verified"])
    @pytest.mark.parametrize("full", [False, True])
    def test_each_image_is_counted_once(
        self, builds: ArtifactsWorld, many_files: dict[str, str | bytes], when: str, *, full: bool
    ) -> None:
        made = build(1, TAG, java=True, gpu=True)
        made.logs = many_files
        chain = builds.chain([made], aliases=[])
        wanted = {"at once": None, "while it is transferred": Step.TRANSFER, "while it is verified": Step.VERIFY}[when]
        sent: list[bool] = []

        def send_events(times: int) -> None:
            for _ in range(times):
                chain.queues.start(Start(SYNC, Trigger.WEBHOOK, Scope.of(["run:1"])))

        def on_delivery(letter: Letter) -> None:
            if letter.step is wanted and not sent:
                sent.append(True)
                send_events(10)

        chain.pump.on_delivery = on_delivery
        if full:
            chain.start()
        else:
            send_events(1)
        if wanted is None:
            send_events(10)
        chain.pump.run()
        runs = chain.state.runs(SYNC, 20)
        assert sum(run.counts.moved for run in runs) == 4
        for run in runs:
            counts = run.counts
            assert len(chain.results(run)) == counts.moved + counts.failed, "an item has two results"
            assert counts.moved + counts.skipped in (0, 4), counts
            assert counts.queued == counts.moved
        assert not chain.target.store.broken()
        assert len(builds.github.ranges) < 150, "the archive was read too often (a former version made 3,404 requests)"

    def test_a_failure_is_reported_once(self, builds: ArtifactsWorld) -> None:
        flawed = build(1, TAG)
        flawed.logs = {"0_build.txt": "nothing"}
        expired = build(2, "presto-2-linux-amd64")
        expired.artifacts[0].expired = True
        chain = builds.chain([flawed, expired], aliases=[])
        for number in (1, 2):
            for _ in range(11):
                chain.queues.start(Start(SYNC, Trigger.WEBHOOK, Scope.of([f"run:{number}"])))
        chain.pump.run()
        for run in chain.state.runs(SYNC, 20):
            results = chain.results(run).values()
            assert {each.outcome.value for each in results} <= set(KNOWN)
            assert len(results) <= 3

    def test_a_repeated_scan_sends_only_the_unsent_batches(self, builds: ArtifactsWorld) -> None:
        chain = builds.chain([build(1, TAG)], aliases=[])
        builds.target.fault("GET", f"/{WORKER}/tags/list", Fault(503), times=12)
        run = chain.run()
        assert (run.counts.moved, run.counts.failed) == (2, 0)
