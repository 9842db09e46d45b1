"""Tests of what `status` says of health: in sync or not, since when, stale, and the lag."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from syncline.cli.applied_syncs import start_runs
from syncline.config.sync import load_sync
from syncline.store.health import Health, health_request
from syncline.store.table import Database, number
from tests.unit.cli.cli_stack import SYNCS, Stack, moved, row


def test_a_sync_that_was_not_verified_in_time_is_stale(stack: Stack) -> None:
    assert stack.apply(SYNCS + "    fresh_within: 2h\n").exit_code == 0
    [sync] = stack.json("status")["syncs"]
    assert (sync["stale"], sync["verified"], sync["in_sync"], sync["in_sync_since"]) == (False, None, None, None)
    database, now = Database(stack.target.table), time.time()
    database.update("SYNC#prod", "HEALTH", "SET #expected = :expected", {"expected": number(now - 9 * 3600)})
    health = Health(True, now - 8 * 3600, now - 3 * 3600, now - 9 * 3600)
    assert database.apply(health_request(database, "prod", health)) is not None
    [sync] = stack.json("status")["syncs"]
    assert (sync["stale"], sync["fresh_within"], sync["in_sync"]) == (True, "2h", True)
    assert sync["verified"] == pytest.approx(now - 3 * 3600, abs=1)
    assert sync["in_sync_since"] == pytest.approx(now - 8 * 3600, abs=1)
    assert row(stack.run("status").stdout, "prod").split()[:6] == ["prod", "stale,", "in", "sync", "for", "8"]
    lines = stack.run("status", "prod").stdout.splitlines()
    assert "in sync for 8 h" in lines
    assert "stale: last verified 3 h ago, fresh_within is 2h" in lines


def test_a_sync_that_was_never_verified_is_stale_in_the_end(stack: Stack) -> None:
    assert stack.apply(SYNCS + "    fresh_within: 2h\n").exit_code == 0
    database = Database(stack.target.table)
    database.update("SYNC#prod", "HEALTH", "SET #expected = :expected", {"expected": number(time.time() - 9 * 3600)})
    assert row(stack.run("status").stdout, "prod").split()[:3] == ["prod", "stale,", "idle"]
    assert "stale: last verified never, fresh_within is 2h" in stack.run("status", "prod").stdout.splitlines()


def test_the_lag_of_the_latest_runs_is_shown(applied: Stack) -> None:
    lags = (5, 50, 100)
    results = [replace(moved(), name=f"v{lag}", lag=lag) for lag in lags]
    run = applied.finish(applied.begin(), *results)
    assert (
        "lag of the 3 items of the latest runs: half within 1 min, 95 % within 2 min"
        in applied.run("status", "prod").stdout
    )
    [sync] = applied.json("status")["syncs"]
    assert sync["lag"] == applied.json("report", run.id)["run"]["lag"] == {"p50": 60, "p95": 120, "p99": 120}
    assert {each["name"]: each["lag"] for each in applied.json("report", run.id)["items"]} == {
        f"v{lag}": lag for lag in lags
    }


@pytest.mark.parametrize(
    ("change", "known"),
    [
        (("rate(1 hour)", "rate(2 hours)"), True),
        (("prod.example", "other.example"), False),
        (("dr.example", "other.example"), False),
        (("rate(1 hour)", "rate(1 hour)\n    select: {repositories: {include: [team/*]}}"), False),
    ],
)
def test_a_sync_with_another_source_target_or_selection_is_not_known_to_be_in_sync(
    stack: Stack, change: tuple[str, str], *, known: bool
) -> None:
    assert stack.apply(SYNCS).exit_code == 0
    stack.finish(stack.begin(), moved())
    assert stack.json("status")["syncs"][0]["in_sync"] is True
    assert stack.apply(SYNCS.replace(*change)).exit_code == 0
    assert stack.json("status")["syncs"][0]["in_sync"] is (True if known else None)


def test_a_sync_that_is_enabled_again_has_time_for_a_scan(stack: Stack) -> None:
    assert stack.apply(SYNCS + "    fresh_within: 2h\n    enabled: false\n").exit_code == 0
    database = Database(stack.target.table)
    database.update("SYNC#prod", "HEALTH", "SET #expected = :expected", {"expected": number(time.time() - 9 * 3600)})
    assert stack.json("status")["syncs"][0]["stale"] is False
    assert stack.apply(SYNCS + "    fresh_within: 2h\n").exit_code == 0
    assert stack.json("status")["syncs"][0]["stale"] is False


def test_a_paused_sync(applied: Stack) -> None:
    applied.finish(applied.begin(), moved())
    assert "prod is paused" in applied.run("pause", "prod").stdout
    paused = applied.json("pause", "prod")["paused"]
    assert paused == pytest.approx(time.time(), abs=60)
    assert row(applied.run("status").stdout, "prod").split()[:3] == ["prod", "paused", "-"]
    [sync] = applied.json("status")["syncs"]
    assert (sync["paused"], sync["next"], sync["in_sync"]) == (paused, None, True)
    assert "`syncline resume prod" in applied.run("status", "prod").stdout
    resumed = applied.json("resume", "prod")
    assert (resumed["resumed"], resumed["started"], resumed["run"]["trigger"]) == (True, True, "hand")
    assert [start.sync for start in applied.started()] == ["prod"]
    assert applied.json("resume", "prod") == {"name": "prod", "resumed": False}
    assert applied.run("pause", "nobody").exit_code == 2


def test_a_change_of_the_file_does_not_resume_a_sync(applied: Stack) -> None:
    applied.run("pause", "prod")
    assert applied.apply(SYNCS.replace("dr.example", "other.example")).exit_code == 0
    [sync] = applied.json("status")["syncs"]
    assert (sync["paused"] is not None, sync["in_sync"]) == (True, None)


def test_a_paused_sync_is_never_stale(stack: Stack) -> None:
    assert stack.apply(SYNCS + "    fresh_within: 2h\n").exit_code == 0
    database = Database(stack.target.table)
    database.update("SYNC#prod", "HEALTH", "SET #expected = :expected", {"expected": number(time.time() - 9 * 3600)})
    assert stack.json("status")["syncs"][0]["stale"] is True
    stack.run("pause", "prod")
    assert stack.json("status")["syncs"][0]["stale"] is False
    stack.run("resume", "prod")
    assert stack.json("status")["syncs"][0]["stale"] is False  # it has time for a scan


def test_a_disabled_sync_that_is_resumed_starts_no_run(stack: Stack) -> None:
    assert stack.apply(SYNCS + "    enabled: false\n").exit_code == 0
    stack.run("pause", "prod")
    assert "enabled: false" in stack.run("resume", "prod").stdout
    assert stack.started() == []


def test_a_paused_sync_is_not_started_with_the_engine(applied: Stack) -> None:
    syncs = [load_sync(applied.target.state.sync_config("prod"))]
    applied.run("pause", "prod")
    assert start_runs(applied.target, syncs) == []
    applied.target.state.resume("prod")
    assert [run.sync for run in start_runs(applied.target, syncs)] == ["prod"]
