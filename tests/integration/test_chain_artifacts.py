"""The step chain from builds at GitHub to images at the registry, with killed steps and duplicate or late messages."""

from __future__ import annotations

import gzip
import hashlib
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from syncline.clients.github import client as github
from syncline.clients.github.client import RemoteFile
from syncline.kinds.artifacts import upload
from syncline.kinds.artifacts.records import PushRecord, PushRecords
from syncline.messages import Start
from syncline.model import Outcome, Scope, Step, Trigger
from tests.rig.artifacts import (
    PROJECT,
    ArtifactsChain,
    ArtifactsWorld,
    block,
    build,
    config,
    expected,
    image,
    log,
)
from tests.rig.images import SYNC
from tests.rig.pump import Delivery, Duplicates, KillPoint, Letter
from tests.rig.server import json_reply
from tests.standins import saved
from tests.standins.github import Stored, zipped
from tests.standins.oci import Fault

OLD, NEW, ARM = "presto-1-linux-amd64", "presto-2-linux-amd64", "presto-2-linux-arm64"
SHARES = 4


def images(*tags: str, **flags: bool) -> dict[tuple[str, str], saved.Image]:
    """Return the expected images of builds with these tags, by repository and tag at GitLab."""
    found = {}
    for tag in tags:
        folder = "arm" if tag.endswith("arm64") else "x86"
        for name in expected(block(tag, **flags)):
            found[f"{folder}/{name}", tag.removesuffix("-linux-amd64").removesuffix("-linux-arm64")] = image(name, tag)
    return found


def started(builds: ArtifactsWorld, seed: int = 1) -> ArtifactsChain:
    chain = builds.chain([build(1, OLD), build(2, NEW), build(3, ARM)], seed)
    chain.start()
    chain.reaper.effects.clear()
    return chain


def check(chain: ArtifactsChain) -> None:
    chain.check_images(images(OLD, NEW, ARM))
    for repository, tag in (("x86/presto-coordinator", NEW), ("arm/presto-coordinator", ARM)):
        newest = f"sha256:{image('presto-coordinator', tag).id}"
        assert chain.config_digest(f"{PROJECT}/{repository}", "latest") == newest


@pytest.mark.moto
def test_everything_is_moved_and_a_second_scan_finds_nothing(builds: ArtifactsWorld) -> None:
    chain = started(builds)
    chain.pump.run()
    check(chain)
    assert chain.latest().counts.moved == 6
    builds.github.requests.clear()
    writes = len(chain.reaper.effects)
    second = chain.run()
    assert (second.counts.moved, second.counts.skipped, second.counts.queued) == (0, 6, 0)
    assert [target.partition("?")[0].rpartition("/")[2] for _, target in builds.github.requests] == ["runs"]
    assert not [effect for effect in chain.reaper.effects[writes:] if "/v2/" in effect]


@pytest.mark.moto
def test_a_webhook_scans_only_its_run(builds: ArtifactsWorld) -> None:
    chain = builds.chain([build(1, OLD), build(2, NEW)])
    chain.clock.sleep(1)
    chain.queues.start(Start(SYNC, Trigger.WEBHOOK, Scope.of(["run:2"])))
    chain.pump.run()
    chain.check_images(images(NEW))


@pytest.mark.parametrize(
    "name", [OLD, f"{PROJECT}/x86/presto-coordinator", f"{PROJECT}/x86/presto-coordinator:presto-1"]
)
def test_a_run_may_be_limited_to_one_name(builds: ArtifactsWorld, name: str) -> None:
    chain = builds.chain([build(1, OLD), build(2, ARM)])
    chain.run(name)
    wanted = images(OLD)
    if name != OLD:
        del wanted["x86/presto-native-worker-cpu", "presto-1"]
    chain.check_images(wanted)


@pytest.mark.moto
def test_the_most_recent_run_of_a_tag_wins(builds: ArtifactsWorld) -> None:
    other = [image("presto-coordinator", OLD, b""), image("presto-native-worker-cpu", OLD, b"")]
    chain = builds.chain([build(1, OLD, other), build(2, OLD)])
    chain.run()
    chain.check_images(images(OLD))


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_alias_points_at_the_youngest_image(builds: ArtifactsWorld, overwrite: bool) -> None:
    """A tag that was rebuilt but not replaced still has the image of the older build."""
    before = [image(name, OLD, saved.layer({"a": b"1"})) for name in ("presto-coordinator", "presto-native-worker-cpu")]
    chain = builds.chain([build(1, OLD, before), build(2, NEW)], overwrite=overwrite)
    chain.run()
    builds.github.runs.append(build(3, OLD))
    chain.run()
    youngest = image("presto-coordinator", OLD if overwrite else NEW)
    assert chain.config_digest(f"{PROJECT}/x86/presto-coordinator", "latest") == f"sha256:{youngest.id}"


@pytest.mark.parametrize("limit", [1, 2])
def test_a_webhook_of_an_older_run_waits_for_the_youngest_of_its_tag(builds: ArtifactsWorld, limit: int) -> None:
    """This also holds if the youngest run is older than the runs in the sync's limit."""
    other = [image("presto-coordinator", OLD, b""), image("presto-native-worker-cpu", OLD, b"")]
    runs = [build(1, OLD, other), build(2, OLD), build(3, NEW), build(4, NEW)]
    chain = builds.chain(runs, source={**config(builds.github, "")["source"], "limit": limit})
    for run, there in (("run:1", {}), ("run:2", images(OLD)), ("run:1", images(OLD))):
        chain.clock.sleep(1)
        chain.queues.start(Start(SYNC, Trigger.WEBHOOK, Scope.of([run])))
        chain.pump.run()
        chain.check_images(there)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_rebuilt_tag_is_replaced_only_with_overwrite(builds: ArtifactsWorld, overwrite: bool) -> None:
    before = [
        image("presto-coordinator", OLD, saved.layer({"a": b"1"})),
        image("presto-native-worker-cpu", OLD, saved.layer({"b": b"1"})),
    ]
    chain = builds.chain([build(1, OLD, before)], overwrite=overwrite)
    chain.run()
    builds.github.runs.append(build(2, OLD))
    chain.run()
    named = {(f"x86/{each.name.partition(':')[0]}", "presto-1"): each for each in before}
    chain.check_images(images(OLD) if overwrite else named)
    assert chain.latest().counts.moved == (2 if overwrite else 0)
    assert chain.run().counts.moved == 0


@pytest.mark.moto
def test_an_alias_follows_the_youngest_build_and_is_repaired(builds: ArtifactsWorld) -> None:
    chain = builds.chain([build(2, NEW)])
    chain.run()
    builds.github.runs.append(build(1, OLD))  # an older build that finishes later
    chain.run()
    repository = f"{PROJECT}/x86/presto-coordinator"
    newest = chain.config_digest(repository, "presto-2")
    assert chain.config_digest(repository, "latest") == newest
    tags = chain.target.store.repositories[repository].tags
    tags["latest"] = tags["presto-1"]
    repaired = chain.run()
    assert chain.config_digest(repository, "latest") == newest
    assert repaired.counts.moved == 1


def test_an_alias_follows_an_older_build_if_the_younger_one_fails(builds: ArtifactsWorld) -> None:
    """The alias follows in the same run, in whichever step the younger build fails."""
    chain = builds.chain([build(1, OLD)], aliases=[])
    chain.run()
    younger = build(2, NEW)
    younger.artifacts[0].expired = True
    builds.github.runs.append(younger)
    chain.configure()
    run = chain.run()
    repository = f"{PROJECT}/x86/presto-coordinator"
    assert chain.config_digest(repository, "latest") == chain.config_digest(repository, "presto-1") is not None
    assert run.counts.failed == 2
    assert chain.run().counts.moved == 0


def test_an_alias_does_not_follow_a_foreign_image_under_the_tag_of_a_build(builds: ArtifactsWorld) -> None:
    chain = builds.chain([build(1, OLD), build(2, NEW)])
    chain.run()
    repository = f"{PROJECT}/x86/presto-coordinator"
    chain.target.store.add_image(repository, "presto-2", b"of a stranger")
    chain.run()
    assert chain.config_digest(repository, "latest") == chain.config_digest(repository, "presto-1") is not None


@pytest.mark.moto  # threads advance the clock, and with the model a function does less before its end
def test_an_image_that_takes_several_functions_is_continued_at_a_checkpoint(
    builds: ArtifactsWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The download is so slow that a function transfers only a part of a layer."""
    monkeypatch.setattr(github, "CHUNK", 4096)
    monkeypatch.setattr(upload, "SEGMENT", 8192)
    monkeypatch.setattr(upload, "PIECE", 8192)
    dice = random.Random(3)
    names = ("presto-coordinator", "presto-native-worker-cpu")
    large = [image(name, OLD, saved.layer({name: dice.randbytes(600_000)})) for name in names]
    chain = builds.chain([build(1, OLD, large)])
    chunks = RemoteFile._chunks

    def slow(file: RemoteFile, *arguments: Any) -> Iterator[bytes]:
        for chunk in chunks(file, *arguments):
            chain.clock.sleep(3 if "artifact" in file.name else 0)
            time.sleep(0.01)  # lets the sending threads see the clock advance
            yield chunk

    monkeypatch.setattr(RemoteFile, "_chunks", slow)
    keys = [f"checkpoint@{chain.target.host}/{PROJECT}/x86/{name}:presto-1" for name in names]
    seen: set[str] = set()

    def look(_letter: Letter) -> None:
        seen.update(key for key in keys if chain.state.facts.recall(key))

    chain.pump.on_delivery = look
    chain.run()
    chain.check_images({(f"x86/{each.name.partition(':')[0]}", "presto-1"): each for each in large})
    assert seen == set(keys)
    assert not [key for key in keys if chain.state.facts.recall(key)]
    assert len([letter for letter in chain.pump.delivered if letter.step is Step.TRANSFER]) >= 5


class TestChangesAfterTheScan:
    """A message may be delivered long after the scan that sent it."""

    REPOSITORY = f"{PROJECT}/x86/presto-coordinator"

    def before_transfers(self, chain: ArtifactsChain, change: Callable[[], object]) -> None:
        """Call `change` once, before the first transfer."""
        done: list[Letter] = []

        def once(letter: Letter) -> None:
            if letter.step is Step.TRANSFER and not done:
                done.append(letter)
                change()

        chain.pump.on_delivery = once

    def pushed_by(self, chain: ArtifactsChain, run: str) -> Callable[[], object]:
        """Return an action that puts the image of another run, as a second function would."""

        def put() -> None:
            digest = chain.target.store.add_image(self.REPOSITORY, "presto-1", b"of another run")
            found = str(chain.config_digest(self.REPOSITORY, "presto-1"))
            PushRecords(chain.state.facts, chain.target.host).note(
                self.REPOSITORY, "presto-1", PushRecord(run, digest, found)
            )

        return put

    def test_a_younger_build_is_not_replaced(self, builds: ArtifactsWorld) -> None:
        chain = builds.chain([build(1, OLD)], overwrite=True)
        self.before_transfers(chain, self.pushed_by(chain, "2.1"))
        chain.run(self.REPOSITORY)
        there = chain.target.store.digest(self.REPOSITORY, "presto-1")
        push = PushRecords(chain.state.facts, chain.target.host).of(self.REPOSITORY, "presto-1")
        assert push is not None
        assert (push.run, push.manifest) == ("2.1", there)
        assert chain.run(self.REPOSITORY).counts.queued == 0
        assert chain.target.store.digest(self.REPOSITORY, "presto-1") == there

    def test_an_older_build_of_ours_is_not_a_conflict(self, builds: ArtifactsWorld) -> None:
        chain = builds.chain([build(1, OLD)])
        self.before_transfers(chain, self.pushed_by(chain, "0.1"))
        run = chain.run(self.REPOSITORY)
        assert (run.counts.conflict, run.counts.failed) == (0, 0)
        assert chain.config_digest(self.REPOSITORY, "latest") == chain.config_digest(self.REPOSITORY, "presto-1")

    def test_a_later_attempt_is_not_confused_with_the_scanned_one(self, builds: ArtifactsWorld) -> None:
        made = build(1, OLD)
        chain = builds.chain([made])

        def fail_again() -> None:
            made.attempt, made.conclusion = 2, "failure"
            other = build(1, OLD, [image("presto-coordinator", OLD, saved.layer({"a": b"2"}))])
            made.artifacts.append(replace(other.artifacts[0], id=11))

        self.before_transfers(chain, fail_again)
        run = chain.run(self.REPOSITORY)
        assert {r.code for r in chain.results(run).values()} == {"SOURCE_CHANGED"}
        assert not chain.target.store.tags()


class TestFailures:
    @pytest.mark.parametrize("aliases", [[], ["latest"]])
    def test_a_tag_deleted_before_its_verification_is_sent_again(
        self, builds: ArtifactsWorld, aliases: list[str]
    ) -> None:
        chain = builds.chain([build(1, OLD)], aliases=aliases)
        lost: list[Step] = []

        def lose(letter: Letter) -> None:
            if letter.step is Step.VERIFY and not lost:
                lost.append(letter.step)
                chain.target.store.repositories[f"{PROJECT}/x86/presto-coordinator"].tags.clear()

        chain.pump.on_delivery = lose
        run = chain.run()
        assert (run.counts.moved, run.counts.failed) == (2, 0)
        assert lost
        chain.check_images(images(OLD))

    @pytest.mark.parametrize("altered", ["presto-coordinator", "presto-native-worker-cpu"])
    def test_an_altered_zip_never_gets_a_tag(self, builds: ArtifactsWorld, altered: str) -> None:
        """Its checksums are right, and only one of its images was replaced: no byte of it can be trusted."""
        made, names = build(1, OLD), expected(block(OLD))
        layers = {altered: [saved.layer({"bin/backdoor": b"of a stranger"})]}
        other = build(1, OLD, [image(name, OLD, *layers.get(name, [])) for name in names])
        original = made.artifacts[0].content
        assert isinstance(original, bytes)
        made.artifacts[0].digest = f"sha256:{hashlib.sha256(original).hexdigest()}"
        made.artifacts[0].content = other.artifacts[0].content
        chain = builds.chain([made])
        run = chain.run()
        failed = [r for r in chain.results(run).values() if r.outcome is Outcome.FAILED]
        assert [r.code for r in failed] == ["DIGEST_MISMATCH"] * 2
        assert made.artifacts[0].digest in (failed[0].reason or "")
        assert not chain.target.store.tags()
        made.artifacts[0].content = original
        chain.run()
        chain.check_images(images(OLD))

    def test_a_younger_artifact_that_is_not_an_archive_is_ignored(self, builds: ArtifactsWorld) -> None:
        made = build(1, OLD)
        made.artifacts.append(Stored(11, "notes", b"written by a later step, and not put into a zip"))
        chain = builds.chain([made])
        assert chain.run().counts.failed == 0
        chain.check_images(images(OLD))

    def test_a_younger_archive_without_the_image_is_ignored(self, builds: ArtifactsWorld) -> None:
        made = build(1, OLD)
        made.artifacts.append(Stored(11, "logs", gzip.compress(b"written by a later step, and not put into a zip")))
        chain = builds.chain([made])
        assert chain.run().counts.failed == 0
        chain.check_images(images(OLD))

    def test_an_expired_artifact_is_named_if_the_others_lack_the_image(self, builds: ArtifactsWorld) -> None:
        made = build(1, OLD)
        made.artifacts[0].expired = True
        made.artifacts.append(Stored(11, "tests", zipped({"results.xml": b"<tests/>"})))
        chain = builds.chain([made])
        failed = [r for r in chain.results(chain.run()).values() if r.outcome is Outcome.FAILED]
        assert {r.code for r in failed} == {"ARTIFACT_EXPIRED"}
        assert f"images-{OLD} has expired" in (failed[0].reason or "")

    @pytest.mark.parametrize("expired", [False, True])
    def test_an_artifact_of_an_earlier_attempt_is_ignored(self, builds: ArtifactsWorld, expired: bool) -> None:
        before, made = build(1, OLD), build(2, OLD, [image("presto-coordinator", OLD)])
        made.attempt = 2
        made.artifacts[0].expired = expired
        made.artifacts.insert(0, before.artifacts[0])
        chain = builds.chain([made])
        failed = {r.group: r.code for r in chain.results(chain.run()).values() if r.outcome is Outcome.FAILED}
        worker = f"{PROJECT}/x86/presto-native-worker-cpu"
        assert failed[worker] == ("ARTIFACT_EXPIRED" if expired else "IMAGE_ABSENT")
        assert len(failed) == (2 if expired else 1)

    def test_an_expired_artifact_is_requested_only_once(self, builds: ArtifactsWorld) -> None:
        runs = [build(1, OLD), build(2, NEW)]
        runs[0].artifacts[0].expired = True
        chain = builds.chain(runs)
        first = chain.run()
        codes = {r.code for r in chain.results(first).values() if r.outcome is Outcome.FAILED}
        assert codes == {"ARTIFACT_EXPIRED"}
        assert (first.counts.moved, first.counts.failed) == (2, 2)
        second = chain.run()
        results = list(chain.results(second).values())
        assert {r.code for r in results} == {"ARTIFACT_EXPIRED"}
        assert (second.counts.moved, second.counts.skipped, second.counts.queued) == (0, 2, 0)

    @pytest.mark.parametrize(
        ("logs", "words"),
        [
            ({"0_build.txt": "\ufeffnothing here\n"}, "no metadata block"),
            ({"0_build.txt": log(block(OLD)), "1_more.txt": log(block(NEW))}, "2 different metadata blocks"),
            ({"0_build.txt": log(block(OLD)).replace("-linux-amd64", "-beos-ppc")}, "matches no entry of `mapping`"),
            ({"0_build.txt": log(block(OLD)).replace("presto-1-", "presto/1-")}, "matches no entry of `mapping`"),
        ],
    )
    def test_invalid_metadata_is_reported(self, builds: ArtifactsWorld, logs: dict[str, str], words: str) -> None:
        flawed = build(1, OLD)
        flawed.logs = logs
        chain = builds.chain([flawed, build(2, NEW)])
        first = chain.run()
        (failed,) = [r for r in chain.results(first).values() if r.outcome is Outcome.FAILED]
        assert failed.group == "run:1"
        assert failed.code == "METADATA_INVALID"
        assert words in (failed.reason or "")
        assert first.counts.moved == 2
        assert chain.run().counts.skipped == 2

    @pytest.mark.parametrize(
        ("files", "code"),
        [
            ({"other.txt": b"no archive"}, "IMAGE_ABSENT"),
            ({f"presto-coordinator-{OLD}.tar.gz": b"\x1f\x8b\x08\x00 not gzip at all"}, "ARCHIVE_INVALID"),
            ({f"presto-coordinator-{OLD}.tar.gz": saved.tar([("../etc/passwd", b"root")])}, "ARCHIVE_REFUSED"),
        ],
    )
    def test_an_invalid_artifact_is_reported(self, builds: ArtifactsWorld, files: dict[str, bytes], code: str) -> None:
        flawed = build(1, OLD)
        flawed.artifacts[0].content = zipped(files)
        chain = builds.chain([flawed, build(2, NEW)])
        run = chain.run(f"{PROJECT}/x86/presto-coordinator")
        failed = {r.code for r in chain.results(run).values() if r.outcome is Outcome.FAILED}
        assert failed == {code}
        assert run.counts.moved == 1
        assert not [tag for repository, tag in chain.target.store.tags() if tag == "presto-1"]
        assert not chain.target.store.broken()

    def test_an_invalid_tag_is_reported(self, builds: ArtifactsWorld) -> None:
        chain = builds.chain([build(1, OLD), build(2, NEW)])
        denied = Fault(
            403, {"Content-Type": "application/json"}, b'{"errors": [{"code": "DENIED", "message": "protected tag"}]}'
        )
        builds.target.fault("PUT", "/manifests/presto-1$", denied, times=None)
        run = chain.run()
        results = chain.results(run).values()
        assert {r.code for r in results if r.outcome is Outcome.FAILED} == {"FORBIDDEN"}
        assert {r.name for r in results if r.outcome is Outcome.MOVED} == {"presto-2"}
        assert not [tag for _, tag in chain.target.store.tags() if tag == "presto-1"]
        assert not chain.target.store.broken()

    def test_broken_connections_to_the_store_are_retried(self, builds: ArtifactsWorld) -> None:
        chain = started(builds)
        builds.github.cut = [100, 10**9, 10, 300, 5, 10**9, 7]
        chain.pump.run()
        check(chain)

    def test_a_run_waits_for_the_rate_limit_of_github(self, builds: ArtifactsWorld) -> None:
        chain = started(builds)
        answers = [json_reply({"message": "secondary limit"}, 403, Retry_After="60")] * 3
        builds.github.before = lambda _method, _target: answers.pop() if answers else None
        chain.pump.run()
        check(chain)


@pytest.fixture(scope="module")
def effects(builds: ArtifactsWorld) -> list[str]:
    chain = started(builds)
    chain.pump.run()
    check(chain)
    return list(chain.reaper.effects)


@pytest.mark.parametrize("share", range(SHARES))
@pytest.mark.parametrize("when", [KillPoint.BEFORE, KillPoint.AFTER])
def test_a_step_killed_at_any_effect(builds: ArtifactsWorld, effects: list[str], when: KillPoint, share: int) -> None:
    assert len(effects) > 60
    for number in range(1 + share, len(effects) + 1, SHARES * 3):  # every third effect, to limit the duration
        chain = started(builds)
        chain.reaper.plan = {(number, when)}
        print(f"killed {when} effect {number}, {effects[number - 1]}")
        chain.pump.run()
        check(chain)


@settings(max_examples=6, phases=[Phase.explicit, Phase.generate])
@given(
    kills=st.sets(st.tuples(st.integers(1, 120), st.sampled_from([KillPoint.BEFORE, KillPoint.AFTER])), max_size=4),
    seed=st.integers(0, 2**32),
    duplicates=st.sampled_from(Duplicates),
    late=st.sampled_from([0.0, 900.0]),
)
def test_many_kills_and_messages_in_any_order(
    builds: ArtifactsWorld, kills: set[tuple[int, KillPoint]], seed: int, duplicates: Duplicates, late: float
) -> None:
    chain = started(builds, seed)
    chain.pump.delivery = Delivery(random.Random(seed), True, duplicates, late, True)
    chain.reaper.plan = set(kills)
    chain.pump.run()
    check(chain)
