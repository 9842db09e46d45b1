"""``syncline drill``, the schedule of drills, and what `status` shows of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from syncline.messages import Start, decode
from syncline.model import Outcome, Result, Run, Trigger
from syncline.store.drills import Drill
from tests.unit.cli.cli_stack import FILES, Stack
from tests.unit.cli.test_cli_run import functions

SYNC = """\
syncs:
  clusters:
    kind: backups
    source: {{bucket: backups, endpoint: "http://127.0.0.1:1", auth: anonymous}}
    target: {{repository: "file:///srv/r.git"}}
    {drill}
"""
DIFFERS = Result("main", "east/a/f0", Outcome.FAILED, "a" * 40, "b" * 40, 0, "RESTORE_DIFFERS", "differs")
CHANGED = Result("main", "east/a/f1", Outcome.LEFT_OUT, reason="changed at the source since the last run")


@pytest.fixture
def clusters(stack: Stack) -> Stack:
    assert apply(stack, "drill: {schedule: rate(7 days), sample: 0.25, within: 15d}") == 0
    return stack


def apply(stack: Stack, drill: str, *options: str) -> int:
    return stack.apply(SYNC.format(drill=drill), *options).exit_code


def schedules(stack: Stack) -> dict[str, Start]:
    group, scheduler = stack.target.output("ScheduleGroupName"), stack.target.scheduler
    names = [each["Name"] for each in scheduler.list_schedules(GroupName=group)["Schedules"]]
    inputs = {name: scheduler.get_schedule(Name=name, GroupName=group)["Target"]["Input"] for name in names}
    found = {name: decode(text) for name, text in inputs.items()}
    return {name: each for name, each in found.items() if isinstance(each, Start)}


def test_a_successful_drill_exits_with_0_and_is_kept(clusters: Stack) -> None:
    with functions(clusters, lambda run: clusters.finish(run, CHANGED, skipped=5)) as starts:
        result = clusters.run("drill", "clusters", "--all")
    assert (starts[0].plan, starts[0].drill) == (True, 1.0)
    assert result.exit_code == 0, result.output
    assert "left out" in result.stdout
    assert "✓ clusters: 5 items restored and equal to the source, in " in result.stdout
    drill = clusters.target.state.drill("clusters")
    assert isinstance(drill, Drill)
    assert (drill.compared, drill.failed, drill.verified, drill.share) == (5, 0, drill.started, 1.0)
    status = clusters.json("status", "clusters")["syncs"][0]["drill"]
    assert (status["succeeded"], status["compared"], status["run"]) == (True, 5, drill.run)
    assert "restore drill succeeded" in clusters.run("status", "clusters").stdout


def test_a_failed_drill_exits_with_1_and_keeps_the_time_of_the_last_success(clusters: Stack) -> None:
    with functions(clusters, lambda run: clusters.finish(run, skipped=5)) as starts:
        clusters.run("drill", "clusters")
    assert starts[0].drill == 0.25
    before = clusters.target.state.drill("clusters")
    assert before is not None
    with functions(clusters, lambda run: clusters.finish(run, DIFFERS, skipped=4)):
        value = clusters.json("drill", "clusters", code=1)
    assert (value["verified"], value["share"]) == (False, 0.25)
    assert [each["code"] for each in value["items"]] == ["RESTORE_DIFFERS"]
    drill = clusters.target.state.drill("clusters")
    assert drill is not None
    assert (drill.failed, drill.succeeded, drill.verified) == (1, False, before.verified)
    assert "restore drill failed" in clusters.run("status", "clusters").stdout


def test_a_drill_that_compares_nothing_exits_with_1(clusters: Stack) -> None:
    with functions(clusters, lambda run: clusters.finish(run, CHANGED)):
        result = clusters.run("drill", "clusters")
    assert result.exit_code == 1
    assert "nothing was compared" in result.stdout
    drill = clusters.target.state.drill("clusters")
    assert drill is not None
    assert drill.verified == 0


def test_a_drill_of_some_groups_does_not_verify_the_sync(clusters: Stack) -> None:
    with functions(clusters, lambda run: clusters.finish(run, skipped=5)):
        result = clusters.run("drill", "clusters", "--only", "east")
    assert result.exit_code == 0, result.output
    assert clusters.target.state.drill("clusters") is None


def test_a_cancelled_drill_is_an_error_and_not_kept(clusters: Stack) -> None:
    def cancel(run: Run) -> None:
        clusters.target.state.cancel_run(run.sync, run.id)
        clusters.finish(run)

    with functions(clusters, cancel):
        result = clusters.run("drill", "clusters")
    assert result.exit_code == 2
    assert result.stderr.startswith("error RUN_CANCELLED: the drill of clusters (")
    assert clusters.target.state.drill("clusters") is None


def test_a_kind_without_drills_is_refused(stack: Stack) -> None:
    assert stack.apply(FILES).exit_code == 0
    result = stack.run("drill", "shop-files")
    assert result.exit_code == 2
    assert "shop-files is a sync of files, which has no restore drills" in result.stderr


def test_drills_have_a_schedule_of_their_own(clusters: Stack, tmp_path: Path) -> None:
    drill = Start("clusters", Trigger.SCHEDULE, plan=True, drill=0.25)
    assert schedules(clusters) == {"clusters.drill": drill}
    assert apply(clusters, "schedule: rate(1 hour)\n    drill: {schedule: rate(7 days), sample: all}") == 0
    assert schedules(clusters)["clusters.drill"].drill == 1.0
    assert schedules(clusters).keys() == {"clusters", "clusters.drill"}
    (tmp_path / "other.yaml").write_text(
        "syncs:\n  shop: {kind: files, source: {bucket: shop}, target: {bucket: copy}}\n"
    )
    assert clusters.run("apply", str(tmp_path / "other.yaml")).exit_code == 0
    assert schedules(clusters).keys() == {"clusters", "clusters.drill"}
    assert apply(clusters, "schedule: rate(1 hour)") == 0
    assert schedules(clusters).keys() == {"clusters"}


def test_a_deleted_sync_leaves_no_schedule_and_no_drill(clusters: Stack) -> None:
    with functions(clusters, lambda run: clusters.finish(run, skipped=5)):
        clusters.run("drill", "clusters")
    assert clusters.run("delete", "clusters", "--yes").exit_code == 0
    assert schedules(clusters) == {}
    assert clusters.target.state.drill("clusters") is None
