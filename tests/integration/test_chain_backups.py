"""The step chain from a bucket to a branch, with killed steps and messages that are duplicated or out of order."""

from __future__ import annotations

import io
import json
import random
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from moto import mock_aws

from syncline.clients.git.repository import RemoteBranch
from syncline.errors import SynclineError
from syncline.messages import Start
from syncline.model import Outcome, Run, Scope, Trigger
from syncline.telemetry import logger
from tests.rig.backups import SYNC, BackupsChain, s3_server
from tests.rig.pump import Delivery, Duplicates, KillPoint, Reaper
from tests.rig.run_ids import made_run_id
from tests.standins.git_places import make_bare
from tests.standins.programs import needs, program

FILES: Final = {f"{c}/n/f{f}.yaml": f"{c} {f}\n".encode() for c in ("east", "west") for f in range(4)}
CHANGED: Final = {"east/n/f0.yaml": b"changed", "north/n/new.yaml": b"new"}
EVENT_EFFECTS: Final = 9  # of three events, each with a longer visibility, a note and a start message
GONE: Final = "west/n/f3.yaml"
AFTER: Final = {key: data for key, data in (FILES | CHANGED).items() if key != GONE}


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with mock_aws(), s3_server() as address:
        yield address


Make = Any


@pytest.fixture
def make(s3: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Return a function that makes chains, each with a separate bucket and repository. A push counts as an effect."""
    push = RemoteBranch._push
    reapers: list[Reaper] = []

    def mortal(branch: RemoteBranch, commit: str) -> SynclineError | None:
        with reapers[-1].call("git push", effect=True):
            return push(branch, commit)

    monkeypatch.setattr(RemoteBranch, "_push", mortal)

    def new(seed: int = 1, **config: Any) -> BackupsChain:
        folder: Path = tmp_path_factory.mktemp("chain")
        chain = BackupsChain(s3, make_bare(folder / "r.git"), seed)
        reapers.append(chain.reaper)
        chain.configure(**config)
        chain.upload(FILES)
        return chain

    return new


def changed(chain: BackupsChain) -> BackupsChain:
    """Synchronize a chain once, then change some objects and queue their events."""
    chain.run()
    chain.upload(CHANGED)
    chain.bucket.delete(GONE)
    chain.reaper.effects.clear()
    chain.changed(*CHANGED)
    chain.changed(GONE, name="ObjectRemoved:Delete")
    return chain


@pytest.mark.moto
def test_an_audit_compares_the_branch_and_writes_nothing(make: Make) -> None:
    chain = make()
    chain.run()
    commits = chain.bare.commits()
    run = chain.audit(deep=True)
    assert (run.counts.skipped, run.counts.bytes) == (len(FILES), sum(map(len, FILES.values())))
    assert chain.state.audits(SYNC).equal
    assert chain.bare.commits() == commits
    chain.bare.fill({"west/n/extra.yaml": b"extra"})
    chain.upload({"east/n/f0.yaml": b"changed"})
    counts = chain.audit().counts
    assert (counts.extra, counts.different, counts.skipped) == (1, 1, len(FILES) - 1)
    assert not chain.dead()


@pytest.mark.moto
def test_a_full_scan_makes_one_commit(make: Make) -> None:
    chain = make()
    run = chain.run()
    assert (run.counts.moved, run.counts.queued) == (len(FILES), len(FILES))
    chain.check(FILES, 1)
    chain.check_again()


@pytest.mark.moto
def test_events_make_one_commit(make: Make) -> None:
    chain = changed(make())
    chain.pump.run()
    run = chain.latest()
    assert run.trigger is Trigger.EVENT
    assert (run.counts.moved, run.counts.removed, run.counts.failed) == (2, 1, 0)
    outcomes = {name: result.outcome for name, result in chain.results(run).items()}
    assert outcomes == dict.fromkeys(CHANGED, Outcome.MOVED) | {GONE: Outcome.REMOVED}
    chain.check(AFTER, 2)
    chain.check_again()


@pytest.mark.moto
def test_the_queries_of_git_sync_work_on_the_log(make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Run the queries of git-sync's documentation with the real jq."""
    needs("jq")
    chain = make()
    chain.run()

    def logged(changed: Mapping[str, bytes]) -> Run:
        monkeypatch.setattr(logger.registered_handler, "stream", written := io.StringIO())
        chain.upload(changed)
        run: Run = chain.run()
        log.write_text(written.getvalue())
        return run

    def query(text: str) -> list[dict[str, Any]]:
        done = subprocess.run([program("jq"), "-c", text, str(log)], capture_output=True, text=True, check=True)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def summary(run: Run, changed: int) -> dict[str, Any]:
        assert run.ended is not None
        data = {"clusters_processed": 3, "files_downloaded": changed, "files_changed": changed, "files_failed": 0}
        took = round(1000 * (run.ended - run.started), 1)
        return data | {"files_unchanged": len(FILES) + 1 - changed, "duration_ms": took}

    log = tmp_path / "log.json"
    run = logged(CHANGED)
    assert query('select(.operation=="sync_complete") | .data') == [summary(run, 2)]
    (line,) = query('select(.operation | startswith("git_"))')
    assert (line["operation"], line["level"]) == ("git_push", "info")
    assert line["data"]["git_commit"] == chain.bare.git("rev-parse", "main").strip()
    assert (line["data"]["files_new"], line["data"]["files_modified"]) == (1, 1)
    assert query('select(.level=="error")') == []

    run = logged({})
    assert query('select(.operation=="sync_complete") | .data') == [summary(run, 0)], (
        "a run without changes must be logged as well"
    )

    logged({"east/.git/config": b"x"})
    failed = query('select(.level=="error")')
    assert [line.get("code") for line in failed] == ["PATH_REFUSED", None]
    assert failed[1]["operation"] == "sync_failed"


@pytest.mark.moto
def test_foreign_files_are_extras_also_after_a_lost_table(make: Make) -> None:
    chain = make()
    foreign = {"docs/guide.md": b"guide", "src/a.py": b"a"}
    chain.bare.fill(foreign)
    run = chain.run()
    assert (run.counts.moved, run.counts.extra, run.counts.failed) == (len(FILES), 2, 0)
    for item in chain.table.scan()["Items"]:
        if str(item["pk"]).startswith(("FILES#", "KNOWN#", "FACT#")):
            chain.table.delete_item(Key={"pk": item["pk"], "sk": item["sk"]})
    chain.upload(CHANGED)
    chain.bucket.delete(GONE)
    counts = chain.run().counts
    assert (counts.moved, counts.removed, counts.extra) == (2, 1, 2)
    assert (counts.failed, counts.conflict, counts.queued) == (0, 0, counts.ended)
    assert chain.bare.files() == AFTER | foreign


def test_a_folder_keeps_foreign_files_and_verifies_removals(make: Make, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    foreign = {"docs/guide.md": b"guide", "east/n/f0.yaml": b"of somebody else"}
    for name, data in foreign.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    chain = make(target={"directory": str(folder)})
    counts = chain.run().counts
    assert (counts.moved, counts.extra, counts.conflict, counts.failed) == (len(FILES) - 1, 1, 1, 0)
    chain.bucket.delete(GONE)
    run = chain.run()
    counts = run.counts
    assert (counts.removed, counts.extra, counts.conflict, counts.failed) == (1, 1, 1, 0)
    assert chain.results(run)[GONE].outcome is Outcome.REMOVED
    there = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert there == {key: data for key, data in FILES.items() if key != GONE} | foreign


def test_many_scans_of_one_event_share_the_removal_limit(make: Make) -> None:
    chain = make(removals={"share": 0.25})
    chain.run()
    east = [key for key in FILES if key.startswith("east/")]
    removed = []
    for key in east:
        chain.bucket.delete(key)
        chain.changed(key, name="ObjectRemoved:Delete")
        chain.pump.run()
        removed.append(chain.latest().counts.removed)
    assert removed == [1, 0, 0, 0]
    assert len(chain.bare.files()) == len(FILES) - 1


def test_false_events_cost_only_a_scan(make: Make) -> None:
    chain = make()
    chain.run()
    chain.changed("east/n/f0.yaml", "east/n/never.yaml", name="ObjectRemoved:Delete")
    chain.changed("elsewhere", "east/n/")
    chain.pump.run()
    assert chain.latest().counts.skipped == 2
    chain.check(FILES, 1)


def test_two_scans_of_the_same_objects_count_each_commit_once(make: Make) -> None:
    chain = make()
    chain.start(*FILES)
    chain.queues.start(Start(SYNC, Trigger.MANUAL, Scope.of(FILES)))
    chain.pump.run()
    (run,) = chain.state.runs(SYNC)
    counts = run.counts
    assert (counts.moved, counts.skipped, counts.queued) == (len(FILES), 0, len(FILES))
    chain.check(FILES, 1)


def test_a_scan_killed_at_any_effect_removes_deleted_objects(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncline.kinds.backups.discover.SHARE", 1)
    monkeypatch.setattr("syncline.steps.discover.CHUNK_ITEMS", 1)
    gone, number, effects = "east/n/f1.yaml", 2, 2
    while number <= effects:
        chain = make(number)
        chain.run()
        chain.upload({"north/n/new.yaml": b"new", "south/n/new.yaml": b"new", "west/n/f0.yaml": b"changed"})
        chain.bucket.delete(gone)
        chain.reaper.effects.clear()
        chain.reaper.plan = {(number, KillPoint.AFTER)}
        run = chain.run()
        effects = len(chain.reaper.effects)
        assert gone not in chain.bare.files(), f"wrong result after a kill at effect {number}"
        assert (run.counts.removed, run.counts.moved) == (1, 3), f"wrong result after a kill at effect {number}"
        chain.check(chain.bare.files(), len(FILES) + 4)
        number += 5


def test_a_plan_changes_nothing(make: Make) -> None:
    chain = make()
    chain.start(plan=True)
    chain.pump.run()
    assert chain.latest().counts.would_move == len(FILES)
    with pytest.raises(Exception, match="main"):
        chain.bare.commits()


def test_a_drill_is_kept_and_finds_damage_beside_a_run(make: Make, tmp_path: Path) -> None:
    chain = make(drill={"to": {"directory": str(tmp_path / "scratch")}})
    chain.run()
    health, commits = chain.state.health(chain.sync), chain.bare.commits()

    def drill() -> Run:
        chain.clock.sleep(1)
        chain.start(drill=1.0)
        chain.pump.run()
        run: Run = chain.latest()
        assert (run.plan, run.drill) == (True, 1.0)
        return run

    first = drill()
    assert (first.counts.skipped, first.counts.failed) == (len(FILES), 0)
    kept = chain.state.drill(chain.sync)
    assert (kept.run, kept.compared, kept.failed, kept.verified) == (first.id, len(FILES), 0, first.started)
    assert chain.bare.commits() == commits
    chain.bare.fill({"east/n/f0.yaml": b"planted", "east/n/extra.yaml": b"planted"})
    chain.state.begin_run(chain.sync, made_run_id(1), Trigger.MANUAL, Scope())
    second = drill()
    found = {key: result.code for key, result in chain.results(second).items()}
    assert found == dict.fromkeys(("east/n/f0.yaml", "east/n/extra.yaml"), "RESTORE_DIFFERS")
    kept = chain.state.drill(chain.sync)
    assert (kept.run, kept.failed, kept.succeeded, kept.verified) == (second.id, 2, False, first.started)
    assert chain.state.health(chain.sync) == health
    assert chain.dead() == []
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_drill_survives_kills(make: Make) -> None:
    chain = make()
    chain.run()
    number = effects = 1
    while number <= effects:
        chain.clock.sleep(1)
        chain.start(drill=1.0)
        chain.reaper.effects.clear()
        chain.reaper.plan = {(number, KillPoint.AFTER)}
        chain.pump.run()
        effects = len(chain.reaper.effects)
        chain.reaper.plan = set()
        counts = chain.latest().counts
        assert (counts.skipped, counts.failed) == (len(FILES), 0), f"wrong result after a kill at effect {number}"
        number += 2


SECRET = b"apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {password: cGFzc3dvcmQ=}\n"


@pytest.mark.parametrize("target", [None, {"directory": "copies"}])
def test_a_plan_distinguishes_removals_secrets_and_moves(make: Make, tmp_path: Path, target: Any) -> None:
    chain = make(target={"directory": str(tmp_path / "copies")}) if target else make()
    chain.run()
    chain.upload({"north/n/new.yaml": b"kind: ConfigMap\n", "south/n/secret.yaml": SECRET})
    chain.bucket.delete("east/n/f1.yaml")
    chain.clock.sleep(1)
    chain.start(plan=True)
    chain.pump.run()
    plan = chain.latest()
    outcomes = {key: (result.outcome, result.reason) for key, result in chain.results(plan).items()}
    assert outcomes == {
        "north/n/new.yaml": (Outcome.WOULD_MOVE, None),
        "south/n/secret.yaml": (Outcome.LEFT_OUT, "'south/n/secret.yaml' is or contains a Kubernetes Secret"),
        "east/n/f1.yaml": (Outcome.WOULD_REMOVE, None),
    }
    counts = plan.counts
    assert (counts.would_move, counts.would_remove, counts.left_out) == (1, 1, 1)
    run = chain.run()
    assert (run.counts.moved, run.counts.removed, run.counts.left_out) == (1, 1, 1)


def test_a_refused_key_fails_alone_and_is_not_retried(make: Make) -> None:
    chain = make()
    chain.upload({"east/.git/config": b"x"})
    run = chain.run()
    assert (run.counts.moved, run.counts.failed) == (len(FILES), 1)
    assert chain.results(run)["east/.git/config"].code == "PATH_REFUSED"
    assert chain.bare.files() == FILES


def test_an_unreachable_server_is_retried_and_becomes_a_dead_letter(make: Make) -> None:
    chain = make(target={"repository": "http://127.0.0.1:1/r.git"}, retry={"attempts": 1})
    run = chain.run()
    assert run.counts.failed == 1
    (result,) = chain.state.results(run.id)
    assert result.code == "UNREACHABLE"
    assert len(chain.mail.dead()) == 1


def test_short_functions_continue_each_other_with_the_same_result(make: Make) -> None:
    chain = make()
    chain.pump.tick = 12.0
    chain.run()
    chain.pump.tick = 0.0
    assert chain.bare.files() == FILES
    counts = chain.latest().counts
    assert (counts.moved, counts.failed) == (len(FILES), 0)


@pytest.fixture(scope="module")
def effects(s3: str, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return the effects of an undisturbed delivery of events."""
    chain = BackupsChain(s3, make_bare(tmp_path_factory.mktemp("effects") / "r.git"))
    push = RemoteBranch._push

    def counted(branch: RemoteBranch, commit: str) -> SynclineError | None:
        with chain.reaper.call("git push", effect=True):
            return push(branch, commit)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RemoteBranch, "_push", counted)
        chain.configure()
        chain.upload(FILES)
        changed(chain).pump.run()
    chain.check(AFTER, 2)
    return list(chain.reaper.effects)


@pytest.mark.parametrize("when", [KillPoint.BEFORE, KillPoint.AFTER])
def test_a_step_killed_at_any_effect(make: Make, effects: list[str], when: KillPoint) -> None:
    assert "git push" in effects
    numbers = set(range(1 + (when is KillPoint.AFTER), len(effects) + 1, 3)) | {effects.index("git push") + 1}
    for number in sorted(numbers):
        chain = changed(make())
        chain.reaper.plan = {(number, when)}
        print(f"killed {when} effect {number}, {effects[number - 1]}")
        chain.pump.run()
        # Events whose function was killed are delivered later than the others, and then make a separate commit.
        chain.check(AFTER, 2 if number > EVENT_EFFECTS else 3)
        done = [result.outcome for run in chain.state.runs(SYNC) for result in chain.state.results(run.id)]
        assert done.count(Outcome.REMOVED) == 1
        if effects[number - 1] == "git push":
            chain.check_again()


@settings(max_examples=4, phases=[Phase.explicit, Phase.generate], suppress_health_check=list(HealthCheck))
@given(
    kills=st.sets(st.tuples(st.integers(1, 40), st.sampled_from([KillPoint.BEFORE, KillPoint.AFTER])), max_size=4),
    seed=st.integers(0, 2**32),
    duplicates=st.sampled_from(Duplicates),
    late=st.sampled_from([0.0, 900.0]),
)
def test_many_kills_and_messages_in_any_order(
    make: Make, kills: set[tuple[int, KillPoint]], seed: int, duplicates: Duplicates, late: float
) -> None:
    chain = changed(make(seed))
    chain.pump.delivery = Delivery(random.Random(seed), True, duplicates, late, True)
    chain.reaper.plan = kills
    chain.pump.run()
    assert chain.bare.files() == AFTER
    chain.bare.check()
    # One commit for the change, and at most one more if events were delivered separately.
    assert len(chain.bare.commits()) <= 1 + len(CHANGED) + 1
    chain.pump.delivery = Delivery(random.Random(seed))
    chain.check_again()
