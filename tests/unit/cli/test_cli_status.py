"""``status`` and ``report``."""

from __future__ import annotations

import re
import time
from dataclasses import replace

import pytest

from syncline.clients.replicas.instances import Instance
from syncline.errors import SynclineError, stored_code
from syncline.kinds.files.wiring import group_of
from syncline.kinds.tokens.wiring import StoredListings
from syncline.model import EVERYTHING, Counts, Outcome, Result, Scope, Trigger
from syncline.run_text import source_and_target
from syncline.steps.results import record_failures
from syncline.store.batches import BatchRecord
from syncline.store.state import State, first_batch
from syncline.store.table import Database
from syncline.store.tokens import InstanceLists
from tests.rig.run_ids import made_run_id
from tests.unit.cli.cli_stack import FILES, GOOD, OTHER, SYNCS, Stack, conflict, failed, moved, row

TWO_SYNCS = SYNCS + SYNCS.removeprefix("syncs:\n").replace("  prod:", "  dev:").replace(
    "    schedule: rate(1 hour)\n", ""
).replace("mirror", "dev")


def test_status_before_anything_was_applied(stack: Stack) -> None:
    result = stack.run("status")
    assert result.exit_code == 0
    assert "no syncs have been applied" in result.stdout
    assert "→ syncline apply" in result.stdout


def test_status_of_all(stack: Stack) -> None:
    assert stack.apply(TWO_SYNCS).exit_code == 0
    stack.finish(stack.begin(), moved(), skipped=3)
    stack.begin("dev")
    result = stack.run("status")
    assert result.exit_code == 0, result.output
    assert row(result.stdout, "SYNC").split() == ["SYNC", "NOW", "NEXT", "LAST", "RUN"]
    assert row(result.stdout, "prod").split()[:4] == ["prod", "in", "sync", "for"]
    assert "✓ " in row(result.stdout, "prod")
    assert "manually: 1 moved (3.0 MiB), 3 equal" in row(result.stdout, "prod")
    assert "in 1 h" in row(result.stdout, "prod")
    assert "running, scanning" in row(result.stdout, "dev")
    assert row(result.stdout, "dev").endswith("never")
    assert "→ syncline status dev --wait" in result.stdout


def test_status_names_the_console(applied: Stack) -> None:
    address = applied.target.output("ConsoleUrl")
    assert row(applied.run("status").stdout, "the status page:") == f"the status page: {address}"
    assert applied.json("status")["console"] == address


def test_status_shows_why_a_run_waits(applied: Stack) -> None:
    """The functions' clock is five minutes behind, so the run appears to have made no progress since then."""
    state = State(applied.target.state._db._table, lambda: time.time() - 300)
    run, _ = state.begin_run("prod", made_run_id(), Trigger.MANUAL, EVERYTHING)
    assert applied.json("status")["syncs"][0]["current"]["waiting"] is None
    state.note_waiting(run, SynclineError("THROTTLED", "prod.example asked to slow down"), 900.0)
    for arguments in (["status"], ["status", "prod"]):
        shown = applied.run(*arguments).stdout
        assert "running, waiting since" in shown
        assert "THROTTLED: prod.example asked to slow down; retrying at" in shown
    waiting = applied.json("status")["syncs"][0]["current"]["waiting"]
    assert (waiting["code"], waiting["what"]) == ("THROTTLED", "prod.example asked to slow down")
    assert waiting["since"] < waiting["until"]


def test_status_shows_that_a_run_is_being_cancelled(applied: Stack) -> None:
    run = applied.begin()
    applied.target.state.cancel_run("prod", run.id)
    assert "cancelling, scanning" in applied.run("status").stdout


def test_status_as_json(applied: Stack) -> None:
    applied.finish(applied.begin(trigger=Trigger.SCHEDULE), moved())
    applied.add_dead_letters("mirror/team/base")
    value = applied.json("status")
    [sync] = value["syncs"]
    assert value["dead_letters"] == {"discover": 0, "transfer": 1, "commit": 0, "verify": 0}
    assert value["engine"] == applied.target.name
    assert (sync["name"], sync["kind"], sync["enabled"], sync["schedule"]) == ("prod", "images", True, "rate(1 hour)")
    assert sync["current"] is None
    assert sync["last"]["counts"]["moved"] == 1
    assert 3500 < sync["next"] - time.time() <= 3600


def test_failures_and_dead_letters_are_shown(applied: Stack) -> None:
    applied.finish(applied.begin(), failed())
    applied.add_dead_letters("mirror/team/base", "mirror/team/app")
    result = applied.run("status")
    assert "✗ " in row(result.stdout, "prod")
    assert "dead letters: transfer 2" in result.stdout
    assert "→ syncline report 2026" in result.stdout


def test_status_of_one_shows_its_latest_runs(applied: Stack) -> None:
    first = applied.finish(applied.begin(), moved())
    plan = applied.begin(plan=True)
    result = applied.run("status", "prod")
    lines = result.stdout.splitlines()
    assert lines[0] == "prod: images, prod.example → dr.example"
    assert lines[1].startswith("schedule: rate(1 hour), next in ")
    assert lines[2] == "now: idle"
    assert lines[3].split()[:2] == ["…", plan.id]
    assert lines[4].split()[:2] == ["✓", first.id]


def test_a_plan_is_not_the_last_run(applied: Stack) -> None:
    run = applied.finish(applied.begin(), moved())
    applied.finish(applied.begin(plan=True))
    assert applied.json("status")["syncs"][0]["last"]["id"] == run.id
    assert applied.json("report")["run"]["id"] == run.id


def test_status_shows_a_disabled_sync(stack: Stack) -> None:
    stack.apply(SYNCS + "    enabled: false\n")
    result = stack.run("status")
    assert row(result.stdout, "prod").split() == ["prod", "disabled", "-", "never"]


def test_status_shows_a_missing_schedule(applied: Stack) -> None:
    applied.target.scheduler.delete_schedule(Name="prod", GroupName="syncline")
    assert "schedule missing" in row(applied.run("status").stdout, "prod")


def test_the_row_of_a_sync_shows_that_its_run_is_being_cancelled(applied: Stack) -> None:
    applied.target.state.cancel_run("prod", applied.begin().id)
    assert "cancelling, scanning" in row(applied.run("status").stdout, "prod")


def test_wait_without_a_current_run_reports_the_latest(applied: Stack) -> None:
    run = applied.finish(applied.begin(), failed())
    result = applied.run("status", "prod", "--wait")
    assert result.exit_code == 1
    assert "no run of prod is in progress; the latest started " in result.stdout
    assert applied.json("status", "prod", "--wait", code=1)["run"]["id"] == run.id


def test_wait_needs_a_name_and_a_run(applied: Stack) -> None:
    assert applied.run("status", "--wait").stderr.startswith("error USAGE: --wait needs the name of a sync")
    result = applied.run("status", "prod", "--wait")
    assert result.exit_code == 2
    assert result.stderr.startswith("error NO_SUCH_RUN: prod has not run yet")


def test_a_report_lists_failures_and_conflicts_first(applied: Stack) -> None:
    run = applied.finish(applied.begin(), moved(), failed(), conflict(), skipped=7)
    result = applied.run("report")
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert lines[0].startswith(f"run {run.id} of prod, manually, started ")
    assert lines[1].split() == ["failed", "mirror/team/base:2.0", "aaaaaaaaaaaa", "→", "-"]
    assert lines[2] == "  UNAUTHORIZED: dr.example does not accept the credentials"
    assert lines[3].split()[:2] == ["conflict", "mirror/team/app:latest"]
    assert lines[5].split() == ["moved", "mirror/team/app:1.0", "aaaaaaaaaaaa", "on", "both", "sides", "3.0", "MiB"]
    assert all(len(line) <= 80 for line in lines[1:6])
    assert "TAG_DIFFERS (1): The target has another image under this tag, and the sync may not overwrite." in lines
    assert "→ Renew the credentials that `auth` refers to, then run `syncline retry NAME`." in lines
    assert lines[-3].startswith("✗ prod: 1 moved (3.0 MiB), 7 equal, 1 conflict, 1 failed, in ")
    assert lines[-2] == "3.0 MiB sent, 7 requests to source and target"
    assert lines[-1].startswith("→ syncline retry prod")


def test_a_full_report_shows_complete_digests(applied: Stack) -> None:
    applied.finish(applied.begin(), conflict())
    result = applied.run("report", "prod", "--full")
    assert f"{GOOD} → {OTHER}" in result.stdout


def test_the_rows_of_a_report_fit_80_columns(applied: Stack) -> None:
    """Only a name that is too long by itself exceeds them; it has its own line."""
    long, too_long = "mirror/team/" + "n" * 40, "mirror/team/" + "n" * 90
    results = [moved(), replace(conflict(), group=long), moved(too_long)]
    blob, etag = "0123456789abcdef0123456789abcdef01234567", "d41d8cd98f00b204e9800998ecf8427e-12"
    run = applied.finish(applied.begin(), *results, replace(moved("main", "east/n/f0.yaml"), source=blob, target=etag))
    lines = applied.run("report", run.id, env={"COLUMNS": "80"}).stdout.splitlines()
    wide = [line for line in lines if len(line) > 80]
    assert wide == [f"    {too_long}:1.0"]
    index = lines.index(f"conflict  {long}:latest")
    assert lines[index + 1].split() == ["aaaaaaaaaaaa", "→", "bbbbbbbbbbbb"]
    assert "moved     main:east/n/f0.yaml  0123456789ab → d41d8cd98f00  3.0 MiB" in lines


@pytest.mark.parametrize(
    ("groups", "scope"),
    [
        (["key:odd/x"], "only odd/x"),
        (["event:0055AED6DCD90281E5:odd/x", "key:odd/x", "prefix:docs/"], "only docs/, odd/x"),
        (['mode:["odd/x","rw-r--r--",1.5,1790000000.0,0]'], "only odd/x"),
        (["mirror/team/app", "mirror/team/base"], "only mirror/team/app, mirror/team/base"),
    ],
)
def test_a_report_shows_the_scope_without_internal_prefixes(applied: Stack, groups: list[str], scope: str) -> None:
    run, root = applied.target.state.begin_run("prod", made_run_id(), Trigger.EVENT, Scope.of(groups))
    failure = Result(groups[0], "*", Outcome.FAILED, code="SOURCE_ABSENT", reason="it has no object")
    applied.target.state.end_batch(root, BatchRecord((failure,)), Counts.of([failure]))
    applied.target.state.finish_run("prod", run.id)
    lines = applied.run("report", run.id).stdout.splitlines()
    assert lines[1] == scope
    name = scope.removeprefix("only ").split(", ")[-1 if len(groups) == 3 else 0]
    assert lines[2] == f"failed  {name} (all)"


def test_all_commands_name_a_file_by_its_key(stack: Stack) -> None:
    """The group of a file is a share of the keys, which has no meaning to users."""
    assert stack.apply(FILES).exit_code == 0
    run = stack.begin("shop-files")
    bad = failed(group_of("odd/x"), "odd/x")
    record_failures(stack.target.state.failures, first_batch(run), BatchRecord((bad,)), time.time())
    stack.finish(run, bad)
    stack.add_dead_letters(group_of("odd/x"), sync="shop-files", name="odd/x")
    for arguments in (
        ["report", run.id],
        ["status", "shop-files"],
        ["status", "shop-files", "--wait"],
        ["acknowledge", "shop-files"],
    ):
        lines = stack.run(*arguments).stdout.splitlines()
        assert any("odd/x" in re.split(r"[ :]+", line.strip())[:2] for line in lines), lines
        assert f"{group_of('odd/x')}:odd/x" not in "\n".join(lines)
    assert stack.run("acknowledge", "shop-files", "odd/x").exit_code == 0
    wrong = stack.run("retry", "shop-files", "--drop", "odd/y")
    assert "it has dead letters of: odd/x" in wrong.stderr
    assert stack.run("retry", "shop-files", "--drop", "odd/x").exit_code == 0
    assert stack.dead_letters() == 0


def test_an_item_whose_group_is_its_own_key_is_named_once(applied: Stack) -> None:
    run = applied.finish(applied.begin(), failed("key:odd/x", "odd/x"))
    assert applied.run("report", run.id).stdout.splitlines()[1].split()[:2] == ["failed", "odd/x"]


def test_a_report_as_json(applied: Stack) -> None:
    run = applied.finish(applied.begin(), moved(), failed())
    value = applied.json("report", run.id, code=1)
    assert value["run"]["id"] == run.id
    assert [each["outcome"] for each in value["items"]] == ["failed", "moved"]
    assert value["items"][0]["action"].startswith("Renew the credentials")
    assert value["items"][1] == {
        "group": "mirror/team/app",
        "name": "1.0",
        "outcome": "moved",
        "source": GOOD,
        "target": GOOD,
        "moved_bytes": 3 * 1024 * 1024,
        "code": None,
        "reason": None,
        "lag": None,
        "action": None,
    }
    assert list(value["actions"]) == ["UNAUTHORIZED"]


def test_a_report_shows_the_code_of_another_version(applied: Stack) -> None:
    run = applied.finish(applied.begin(), failed(code=stored_code("OF_LATER")))
    shown = applied.run("report", run.id).stdout
    assert "OF_LATER (1): This version of Syncline does not know the code." in shown
    assert "Use the version of Syncline that reported it." in shown


def test_a_report_of_a_run_by_its_id(applied: Stack) -> None:
    """The ID of an earlier run is not taken for the name of a sync."""
    run = applied.finish(applied.begin(), moved())
    applied.finish(applied.begin(), failed())
    assert applied.json("report", run.id)["run"]["id"] == run.id


def test_a_report_of_a_run_in_progress(applied: Stack) -> None:
    applied.begin()
    result = applied.run("report", "prod")
    assert result.exit_code == 0
    assert "in progress: nothing found so far" in result.stdout


def test_a_report_names_a_failed_scan(applied: Stack) -> None:
    full_scan = Result("*", "*", Outcome.FAILED, None, None, 0, "LISTING_INCOMPLETE", "the listing came back empty")
    one_group = Result("mirror/team/app", "*", Outcome.FAILED, None, None, 0, "UNREACHABLE", "refused")
    applied.finish(applied.begin(), full_scan, one_group)
    result = applied.run("report")
    assert "(complete scan)" in result.stdout
    assert "mirror/team/app (all)" in result.stdout


def test_reports_of_unknown_runs_are_errors(applied: Stack) -> None:
    unknown = made_run_id()
    for arguments, what in (
        ([], "no sync has run yet"),
        (["prod"], "prod has not run yet"),
        ([unknown], f"no sync has a run {unknown}"),
    ):
        result = applied.run("report", *arguments)
        assert result.exit_code == 2
        assert result.stderr.startswith(f"error NO_SUCH_RUN: {what}")


TOKENS = """\
syncs:
  gateway:
    kind: tokens
    sources: {one: {namespace: gateway, service: nginx}, two: {namespace: edge, service: nginx}}
    check: {host: api.example}
"""
BACKUPS = """\
syncs:
  clusters:
    kind: backups
    source: {bucket: backups, prefix: prod/}
    target: {directory: /srv/copies}
"""
MANAGED = """\
syncs:
  shop:
    kind: files
    source: {bucket: shop, endpoint: "http://127.0.0.1:9000", auth: anonymous}
    target: {file_manager: "http://127.0.0.1:9001/api"}
"""


@pytest.mark.parametrize(
    ("text", "head"),
    [
        (FILES, "shop-files: files, s3://shop/ → s3://shop-copy/"),
        (MANAGED, "shop: files, s3://shop/ at http://127.0.0.1:9000 → http://127.0.0.1:9001/api"),
        (BACKUPS, "clusters: backups, s3://backups/prod/ → /srv/copies"),
        (TOKENS, "gateway: tokens, one, two → api.example"),
    ],
)
def test_status_names_source_and_target_of_each_kind(stack: Stack, text: str, head: str) -> None:
    assert stack.apply(text).exit_code == 0
    name = head.partition(":")[0]
    assert stack.run("status", name).stdout.splitlines()[0] == head


def test_status_names_source_and_target_of_artifacts() -> None:
    config = {
        "kind": "artifacts",
        "source": {"repository": "octo/app", "url": "https://api.github.com"},
        "target": {"registry": "registry.gitlab.example", "project": "team/images"},
    }
    assert source_and_target(config) == "octo/app at https://api.github.com → registry.gitlab.example"


def test_status_of_tokens_shows_instances_and_recommends_no_run(stack: Stack) -> None:
    assert stack.apply(TOKENS).exit_code == 0
    shown = stack.run("status", "gateway").stdout
    assert "instances: never listed" in shown
    listings = StoredListings(InstanceLists(Database(stack.target.table), time.time))
    nginx = Instance("nginx-0", "10.0.0.7", 8443, source="one")
    listings.listed(
        "gateway", [nginx, replace(nginx, name="nginx-1", address="10.0.0.8", ready=False)], time.time() - 120
    )
    listings.not_listed("gateway", SynclineError("UNREACHABLE", "the API of one refuses connections"))
    lines = stack.run("status", "gateway").stdout.splitlines()
    assert "instances: 2, listed 2 min ago; the latest scrape failed: UNREACHABLE" in lines
    assert "  the API of one refuses connections" in lines
    assert ["one", "nginx-0", "10.0.0.7:8443"] in [line.split() for line in lines]
    assert ["one", "nginx-1", "10.0.0.8:8443", "not", "ready"] in [line.split() for line in lines]
    assert f"probe: {stack.target.output('ProbeUrl')}v1/synced" in lines
    everything = stack.run("status").stdout
    assert row(everything, "gateway").split()[1:3] == ["2", "instances"]
    for arguments in ("plan gateway", "run gateway"):
        assert arguments not in everything + "\n".join(lines)
    [value] = stack.json("status")["syncs"]
    assert (value["instances"], value["scrape_failed"]) == (2, "UNREACHABLE")
    assert value["scrape_reason"] == "the API of one refuses connections"
    assert time.time() - value["listed"] > 100
    listings.listed("gateway", [nginx], time.time())
    [value] = stack.json("status")["syncs"]
    assert (value["scrape_failed"], value["scrape_reason"]) == (None, None)


def test_status_recommends_a_sync_that_has_runs(stack: Stack) -> None:
    assert stack.apply(TOKENS.replace("gateway:", "a-gateway:") + SYNCS.removeprefix("syncs:\n")).exit_code == 0
    assert "→ syncline plan prod" in stack.run("status").stdout


def test_the_status_of_one_sync_marks_dead_letters_as_those_of_all_syncs(applied: Stack) -> None:
    applied.add_dead_letters("mirror/team/app", sync="other")
    assert "dead letters of all syncs: transfer 1" in applied.run("status", "prod").stdout.splitlines()
    assert "dead letters: transfer 1" in applied.run("status").stdout.splitlines()


def test_dead_letters_of_a_removed_sync_are_named_listed_and_cleared(applied: Stack) -> None:
    applied.add_dead_letters("mirror/team/app", "mirror/team/base")
    applied.add_dead_letters("mirror/team/app", sync="other")
    assert applied.apply(TWO_SYNCS.replace("  prod:", "  next:"), "--prune").exit_code == 0
    shown = applied.run("status").stdout
    assert "dead letters of prod, which is not applied: 2" in shown
    assert "syncline retry prod --drop '*'" in shown
    value = applied.json("status")
    assert value["dead_letters_of_others"] == {"other": 1, "prod": 2}
    listed = applied.run("retry", "prod")
    assert listed.exit_code == 0, listed.output
    assert "mirror/team/app:1.0" in listed.stdout
    assert applied.started() == []
    assert applied.run("retry", "prod", "--drop", "mirror/team/app:1.0").exit_code == 0
    assert applied.dead_letters() == 2
    assert applied.run("retry", "prod", "--drop", "*").stdout == "1 dead letter of prod dropped\n"
    assert applied.json("status")["dead_letters_of_others"] == {"other": 1}
    assert applied.run("retry", "prod").stderr.startswith("error NO_SUCH_SYNC: ")
