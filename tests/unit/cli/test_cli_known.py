"""Known failures in ``run``, ``status`` and ``report``, and ``acknowledge``."""

from __future__ import annotations

import re
from dataclasses import replace

from syncline.model import Counts, Run, Scope, Trigger
from syncline.model import Result as ItemResult
from syncline.steps.results import final_counts, mark_known, record_failures
from syncline.store.batches import BatchRecord
from syncline.store.state import first_batch
from tests.rig.run_ids import made_run_id
from tests.unit.cli.cli_stack import Stack, failed, moved


def finish(stack: Stack, *results: ItemResult, skipped: int = 0, plan: bool = False) -> Run:
    """End a run with these results, as the functions do."""
    run = stack.begin(plan=plan)
    state, batch = stack.target.state, first_batch(run)
    marked, dead = mark_known(state.failures, batch, results, (), 0.0)
    record = BatchRecord(marked, (), dead)
    state.end_batch(batch, record, Counts.of(marked, equal=skipped, queued=len(marked)))
    record_failures(state.failures, batch, record, 0.0)
    ended = state.finish_run(run.sync, run.id, lambda run: final_counts(state.failures, run, state.results(run.id)))
    assert ended is not None
    return ended


def test_a_run_with_only_known_failures_exits_with_1(applied: Stack) -> None:
    finish(applied, failed(), skipped=3)
    run = finish(applied, failed(), skipped=3)
    assert (run.counts.failed, run.counts.known) == (0, 1)
    result = applied.run("status", "prod", "--wait")
    assert result.exit_code == 1, result.output
    assert "✗ prod: 3 equal, 1 known failure, in " in result.stdout
    assert "no differences" not in result.stdout
    assert "dr.example does not accept" not in result.stdout, "the reason is shown only for new failures"


def test_status_counts_known_failures_and_the_sync_is_not_in_sync(applied: Stack) -> None:
    finish(applied, failed(), moved())
    finish(applied, failed(), skipped=1)
    [sync] = applied.json("status")["syncs"]
    assert (sync["known"], sync["acknowledged"], sync["in_sync"]) == (1, 0, False)
    shown = applied.run("status", "prod").stdout
    assert re.search(r"^not in sync for \d+ s: 1 known failure$", shown, re.MULTILINE)
    assert "mirror/team/base:2.0  UNAUTHORIZED" in shown
    assert "1 known failure" in applied.run("status").stdout


def test_a_sync_without_known_failures_is_in_sync(applied: Stack) -> None:
    assert applied.json("status")["syncs"][0]["in_sync"] is None
    finish(applied, moved())
    assert applied.json("status")["syncs"][0]["in_sync"] is True
    assert "in sync" in applied.run("status", "prod").stdout


def test_many_partial_runs_do_not_hide_the_last_complete_scan(applied: Stack) -> None:
    finish(applied, moved())
    for number in range(12):
        state = applied.target.state
        run, _ = state.begin_run("prod", made_run_id(100 + number), Trigger.EVENT, Scope.of(["mirror/team/app"]))
        applied.finish(run, moved())
    assert applied.json("status")["syncs"][0]["in_sync"] is True


def test_a_report_lists_known_failures_without_reasons(applied: Stack) -> None:
    finish(applied, failed())
    finish(applied, failed(), moved())
    result = applied.run("report", "prod")
    assert result.exit_code == 1
    assert "known" in next(line for line in result.stdout.splitlines() if "mirror/team/base:2.0" in line)
    assert "dr.example does not accept" not in result.stdout
    assert "dr.example does not accept" in applied.run("report", "prod", "--full").stdout
    items = applied.json("report", "prod", code=1)["items"]
    assert {each["outcome"] for each in items} == {"known", "moved"}


def test_a_report_names_known_failures_that_its_run_has_not_met(applied: Stack) -> None:
    finish(applied, failed(), failed(group="*", name="*", code="FORBIDDEN"))
    finish(applied, failed(group="*", name="*", code="FORBIDDEN"))
    value = applied.json("report", "prod", code=1)
    assert [each["group"] for each in value["items"]] == ["*"]
    assert [(each["group"], each["code"]) for each in value["known"]] == [("mirror/team/base", "UNAUTHORIZED")]
    assert "mirror/team/base:2.0  UNAUTHORIZED" in applied.run("report", "prod").stdout


def test_acknowledged_failures_do_not_fail_a_run(applied: Stack) -> None:
    finish(applied, failed(), failed("mirror/team/app", "1.0"))
    result = applied.run("acknowledge", "prod", "mirror/team/base:2.0", "mirror/team/app:1.0")
    assert result.exit_code == 0, result.output
    assert "mirror/team/base:2.0" in result.stdout
    run = finish(applied, failed(), failed("mirror/team/app", "1.0"), skipped=1)
    assert (run.counts.failed, run.counts.known, run.counts.acknowledged) == (0, 0, 2)
    again = applied.run("status", "prod", "--wait")
    assert again.exit_code == 0, again.output
    assert "✓ prod: no differences, 1 item equal, 2 acknowledged" in again.stdout
    [sync] = applied.json("status")["syncs"]
    assert (sync["known"], sync["acknowledged"], sync["in_sync"]) == (0, 2, False)
    assert "acknowledged" in applied.run("status", "prod").stdout
    assert "acknowledged" in applied.run("report", "prod").stdout


def test_a_plan_counts_acknowledged_failures(applied: Stack) -> None:
    finish(applied, failed(), failed("mirror/team/app", "1.0"))
    assert applied.run("acknowledge", "prod", "mirror/team/base:2.0").exit_code == 0
    plan = finish(applied, failed(), failed("mirror/team/app", "1.0"), plan=True)
    assert (plan.counts.failed, plan.counts.known, plan.counts.acknowledged) == (0, 1, 1)


def test_undo_revokes_an_acknowledgement(applied: Stack) -> None:
    finish(applied, failed())
    assert applied.run("acknowledge", "prod", "mirror/team/base:2.0").exit_code == 0
    value = applied.json("acknowledge", "prod", "mirror/team/base:2.0", "--undo")
    assert [each["acknowledged"] for each in value["known"]] == [False]
    assert finish(applied, failed()).counts.known == 1


def test_an_acknowledged_failure_that_changes_is_new(applied: Stack) -> None:
    finish(applied, failed())
    assert applied.run("acknowledge", "prod", "mirror/team/base:2.0").exit_code == 0
    assert finish(applied, replace(failed(), source="another")).counts.failed == 1
    assert finish(applied, failed(code="FORBIDDEN")).counts.failed == 1


def test_only_known_failures_can_be_acknowledged(applied: Stack) -> None:
    finish(applied, failed())
    result = applied.run("acknowledge", "prod", "mirror/team/bose:2.0")
    assert result.exit_code == 2
    assert "error USAGE: mirror/team/bose:2.0 is not a known failure of prod" in result.stderr
    assert applied.json("acknowledge", "prod")["known"][0]["acknowledged"] is False


def test_acknowledge_without_an_item_lists_known_failures(applied: Stack) -> None:
    assert applied.run("acknowledge", "prod").stdout == "prod has no known failures\n"
    finish(applied, failed(), failed("*", "*", "FORBIDDEN"))
    shown = applied.run("acknowledge", "prod").stdout
    assert "mirror/team/base:2.0" in shown
    assert "(complete scan)" in shown
    assert applied.run("acknowledge", "prod", "*").exit_code == 0
    assert {each["acknowledged"] for each in applied.json("acknowledge", "prod")["known"]} == {True, False}


def test_a_unique_name_needs_no_group(applied: Stack) -> None:
    finish(applied, failed(), failed("mirror/team/app", "2.0"), failed("mirror/team/app", "1.0"))
    assert applied.run("acknowledge", "prod", "1.0").exit_code == 0
    result = applied.run("acknowledge", "prod", "2.0")
    assert result.exit_code == 2
    assert "2.0 is ambiguous: mirror/team/app:2.0 or mirror/team/base:2.0" in result.stderr


def test_reports_as_files_have_known_failures_that_the_run_did_not_check(applied: Stack) -> None:
    unread = failed(group="*", name="*", code="FORBIDDEN")
    first = finish(applied, failed(name="a<b>"), failed(name="3.0"), unread)
    assert applied.run("acknowledge", "prod", "3.0").exit_code == 0
    second = finish(applied, unread)
    table = applied.run("report", second.id, "--format", "csv").stdout.splitlines()
    assert [line.split(",")[:3] for line in table[1:]] == [
        ["*", "*", "known"],
        ["mirror/team/base", "3.0", "known"],
        ["mirror/team/base", "a<b>", "known"],
    ]
    assert table[2].endswith("UNAUTHORIZED,dr.example does not accept the credentials")
    page = applied.run("report", second.id, "--format", "html").stdout
    known = page[page.index("<h2>Known failures") :]
    assert f"<td>{first.id}</td><td>yes</td>" in known
    assert known.count("mirror/team/base:a&lt;b&gt;") == 1
    assert "<dt>UNAUTHORIZED</dt><dd>Renew the credentials" in known


def test_a_known_failure_that_the_run_met_has_one_row(applied: Stack) -> None:
    finish(applied, failed())
    run = finish(applied, failed())
    assert len(applied.run("report", run.id, "--format", "csv").stdout.splitlines()) == 2
    assert "<h2>Known failures" not in applied.run("report", run.id, "--format", "html").stdout
