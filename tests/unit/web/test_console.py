"""The console: health, and figures that the parser of Prometheus reads."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from botocore.exceptions import ClientError
from prometheus_client.parser import text_string_to_metric_families

from syncline.config.sync import load_sync
from syncline.messages import Batch
from syncline.model import Counts, Scope, Trigger
from syncline.secrets import Secrets
from syncline.store.alerts import Alert, Alerts
from syncline.store.backup_index import BackupIndex
from syncline.store.backup_records import FileCount
from syncline.store.batches import BatchRecord
from syncline.store.state import State
from syncline.store.table import Database
from syncline.store.totals import BUCKETS
from syncline.wiring.console import console_of
from tests.rig.run_ids import made_run_id
from tests.rig.stack import new_table
from tests.rig.totals import read_totals
from tests.standins.programs import needs
from tests.standins.prometheus import Prometheus
from tests.unit.web.status_site import counted_calls

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.service_resource import Table

REPOSITORY: Final = "https://git.example/backups.git"
BACKUPS: Final = {
    "name": "clusters",
    "kind": "backups",
    "source": {"bucket": "cluster-backups"},
    "target": {"repository": REPOSITORY},
}

ENDS: Final = {"source": {"bucket": "here"}, "target": {"bucket": "there"}}


@pytest.fixture
def table() -> Iterator[Table]:
    with new_table() as table:
        yield table


class Clock:
    now = 1_752_358_000.0

    def __call__(self) -> float:
        return self.now


def run(state: State, clock: Clock, counts: Counts, seconds: float) -> None:
    """Complete a run with a single batch that has these counts."""
    clock.now += 1
    started, batch = state.begin_run("clusters", made_run_id(int(clock.now)), Trigger.MANUAL, Scope())
    clock.now += seconds
    state.end_batch(batch, BatchRecord((), (), ()), counts)
    assert state.finish_run("clusters", started.id) is not None
    assert state.finish_run("clusters", started.id) is None, "a run is counted once"
    assert isinstance(batch, Batch)


def ask(table: Table, path: str, token: str = "", **headers: str) -> dict[str, Any]:
    secrets = Secrets(_fail_if_called, _fail_if_called, {"CONSOLE": "a-console-token"})
    event = {"rawPath": path, "headers": headers, "requestContext": {"http": {"method": "GET"}}}
    return console_of(State(table), Database(table), secrets, token).handle(event)


def _fail_if_called() -> Any:
    raise AssertionError("no secret may be fetched")


def samples(table: Table) -> dict[tuple[str, str], float]:
    """Return every sample by its name and its bucket or outcome."""
    families = text_string_to_metric_families(ask(table, "/metrics")["body"])
    return {
        (each.name, each.labels.get("le", each.labels.get("outcome", ""))): each.value
        for family in families
        for each in family.samples
    }


def test_the_metrics_include_those_of_git_sync(table: Table) -> None:
    clock = Clock()
    state = State(table, clock)
    state.put_sync("clusters", load_sync(json.dumps(BACKUPS)).model_dump_json())
    counts = {name: FileCount("t", 1) for name in ("east", "west", "north")}
    BackupIndex(Database(table), time.time).save_file_counts(f"{REPOSITORY}#main", counts)
    run(state, clock, Counts(queued=40, moved=38, removed=2, skipped=5, left_out=7, bytes=1000), 3.0)
    succeeded = clock.now
    run(state, clock, Counts(queued=2, moved=1, failed=1), 4000.0)
    found = samples(table)
    assert found["git_sync_duration_seconds_count", ""] == 2
    assert found["git_sync_duration_seconds_sum", ""] == pytest.approx(4003)
    assert found["git_sync_duration_seconds_bucket", "2.5"] == 0
    assert found["git_sync_duration_seconds_bucket", "5.0"] == 1
    assert found["git_sync_duration_seconds_bucket", "1800.0"] == 1
    assert found["git_sync_duration_seconds_bucket", "+Inf"] == 2
    assert found["git_sync_errors_total", ""] == 1
    assert found["git_sync_files_processed_total", ""] == 41
    assert found["git_sync_last_success_timestamp", ""] == succeeded
    assert found["git_sync_clusters_backed_up", ""] == 3
    assert found["syncline_items_total", "skipped"] == 5
    assert found["syncline_items_total", "left_out"] == 7
    assert found["syncline_moved_bytes_total", ""] == 1000
    assert found["syncline_running", ""] == 0
    state.begin_run("clusters", made_run_id(), Trigger.MANUAL, Scope())
    assert samples(table)["syncline_running", ""] == 1


def test_prometheus_answers_the_queries_of_git_sync(table: Table, tmp_path: Path) -> None:
    """A real Prometheus runs the queries of the documentation of git-sync."""
    needs("prometheus", "promtool")
    clock = Clock()
    state = State(table, clock)
    state.put_sync("clusters", load_sync(json.dumps(BACKUPS)).model_dump_json())
    run(state, clock, Counts(queued=40, moved=38, removed=2), 3.0)
    pages = {clock.now: ask(table, "/metrics")["body"]}
    # Pages are read once a minute: for an hour without runs, then once after two further runs.
    pages |= {clock.now + 60 * minute: pages[clock.now] for minute in range(1, 60)}
    run(state, clock, Counts(queued=6, moved=6), 5.0)
    run(state, clock, Counts(queued=2, moved=1, failed=1), 7.0)
    now = max(pages) + 60
    pages[now] = ask(table, "/metrics")["body"]
    with Prometheus(tmp_path, pages) as prometheus:

        def value(query: str) -> float:
            return prometheus.query(query, now)["clusters"]

        errors = "(1 - rate(git_sync_errors_total[5m]) / rate(git_sync_duration_seconds_count[5m])) * 100"
        assert value(errors) == pytest.approx(50)
        assert value("increase(git_sync_files_processed_total[1h])") == pytest.approx(7, rel=0.05)
        average = "rate(git_sync_duration_seconds_sum[5m]) / rate(git_sync_duration_seconds_count[5m])"
        assert value(average) == pytest.approx(6)
        succeeded = samples(table)["git_sync_last_success_timestamp", ""]
        assert value("time() - git_sync_last_success_timestamp") == pytest.approx(now - succeeded)


def test_clusters_of_downloads_are_counted(table: Table) -> None:
    sync = load_sync(json.dumps(BACKUPS | {"target": {"directory": "/mnt/backups"}}))
    State(table).put_sync("clusters", sync.model_dump_json())
    BackupIndex(Database(table), time.time).save_file_counts(
        "clusters#", dict.fromkeys(("east", "west"), FileCount("", 0))
    )
    assert samples(table)["git_sync_clusters_backed_up", ""] == 2


def test_a_plan_is_not_counted(table: Table) -> None:
    clock = Clock()
    state = State(table, clock)
    state.put_sync("clusters", load_sync(json.dumps(BACKUPS)).model_dump_json())
    started, batch = state.begin_run("clusters", made_run_id(), Trigger.MANUAL, Scope(), plan=True)
    state.end_batch(batch, BatchRecord((), (), ()), Counts(would_move=3))
    assert state.finish_run("clusters", started.id) is not None
    assert sum(read_totals(Database(table), "clusters").durations) == 0
    assert len(read_totals(Database(table), "clusters").durations) == len(BUCKETS) + 1


def test_notifications_that_were_given_up_are_read_for_syncs_that_notify(table: Table) -> None:
    notifying = {**BACKUPS, "heartbeat": {"url": "https://hc.example/1"}}
    State(table).put_sync("clusters", load_sync(json.dumps(notifying)).model_dump_json())
    assert "syncline_notifications_failed_total{" not in ask(table, "/metrics")["body"]
    Alerts(Database(table)).put("clusters", Alert(given_up=3))
    assert 'syncline_notifications_failed_total{kind="backups",sync="clusters"} 3.0' in ask(table, "/metrics")["body"]


def test_the_console_is_healthy(table: Table) -> None:
    answer = ask(table, "/health/", "env:CONSOLE")
    assert answer["statusCode"] == 200
    assert json.loads(answer["body"])["status"] == "ok"


def test_the_console_is_unhealthy_if_the_table_fails(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> list[str]:
        raise ClientError({"Error": {"Code": "InternalServerError"}}, "Query")

    monkeypatch.setattr(Database, "sort_keys", refuse)
    assert ask(table, "/health")["statusCode"] == ask(table, "/metrics")["statusCode"] == 503


def test_metrics_require_the_token(table: Table) -> None:
    assert ask(table, "/metrics", "env:CONSOLE")["statusCode"] == 401
    assert ask(table, "/metrics", "env:CONSOLE", Authorization="Bearer wrong")["statusCode"] == 401
    assert ask(table, "/metrics", "env:CONSOLE", authorization="Bearer a-console-token")["statusCode"] == 200


def test_unknown_paths_and_methods_are_refused(table: Table) -> None:
    assert ask(table, "/nothing", "env:CONSOLE", authorization="Bearer a-console-token")["statusCode"] == 404
    event = {"rawPath": "/health", "requestContext": {"http": {"method": "POST"}}}
    console = console_of(State(table), Database(table), Secrets(_fail_if_called, _fail_if_called, {}), "")
    assert console.handle(event)["statusCode"] == 405


def test_an_unreadable_sync_does_not_hide_the_figures_of_others(table: Table) -> None:
    State(table).put_sync("clusters", load_sync(json.dumps(BACKUPS)).model_dump_json())
    State(table).put_sync("newer", '{"kind": "backups", "of": "another version"}')
    assert ask(table, "/metrics")["statusCode"] == 200
    assert json.loads(ask(table, "/health")["body"])["syncs"] == 1


def test_the_metrics_of_many_syncs_take_few_calls(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    state = State(table)
    for number in range(16):
        name = f"clusters-{number}"
        state.put_sync(name, load_sync(json.dumps(BACKUPS | {"name": name, "kind": "files", **ENDS})).model_dump_json())
        started, batch = state.begin_run(name, made_run_id(number), Trigger.MANUAL, Scope())
        state.end_batch(batch, BatchRecord((), (), ()), Counts())
        assert state.finish_run(name, started.id) is not None
    calls = counted_calls(monkeypatch)
    text = ask(table, "/metrics")["body"]
    assert text.count("syncline_running{") == 16
    assert sorted(calls) == ["batch_get", "batch_get", "sort_keys"]
