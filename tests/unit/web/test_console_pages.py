"""The pages of the console, without a table: samples with their labels, and responses with their headers."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.parser import text_string_to_metric_families

from syncline import __version__
from syncline.config.sync import Sync
from syncline.errors import SynclineError
from syncline.messages import QueueDepth
from syncline.model import LAG_BOUNDS, STATUSES, Counts, Lags, Traffic
from syncline.store.health import Health
from syncline.store.totals import BUCKETS, Totals
from syncline.web.console import Console
from syncline.web.metrics import Figures, exposition

ITEMS = {"moved": 38, "skipped": 5, "left_out": 7, "removed": 2, "extra": 1, "conflict": 3, "failed": 4}
TOTALS = Totals(tuple(range(1, len(BUCKETS) + 2)), 4003.5, 6, ITEMS, 1000, 1_790_000_000.0, known=9)
NOW = 1_790_000_500.0
SHOP = Sync(name="shop", kind="images", fresh_within="2h")
HEALTH = Health(True, 1_780_000_000.0, 1_790_000_100.0, 1_780_000_000.0)
IMAGES = Figures(SHOP, TOTALS, HEALTH, Counts(queued=9, moved=3, failed=1))
BACKUPS = Figures(Sync(name="clusters", kind="backups"), replace(TOTALS, seconds=7.0), Health(), None)
BOUNDS = ["1.0", "2.5", "5.0", "10.0", "30.0", "60.0", "120.0", "300.0", "600.0", "1800.0", "+Inf"]
CUMULATED = [1, 3, 6, 10, 15, 21, 28, 36, 45, 55, 66]


def samples(
    *figures: Figures, depths: Iterable[QueueDepth] = ()
) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Return every sample by its name and its labels, in alphabetical order."""
    families = text_string_to_metric_families(exposition(figures, NOW, depths).decode())
    return {(each.name, tuple(sorted(each.labels.items()))): each.value for fam in families for each in fam.samples}


def of_runs(name: str, seconds: float, **labels: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Return the samples of the durations of runs."""
    own = tuple(sorted(labels.items()))
    found = {(f"{name}_count", own): 66.0, (f"{name}_sum", own): seconds}
    for bound, count in zip(BOUNDS, CUMULATED, strict=True):
        found[f"{name}_bucket", tuple(sorted({**labels, "le": bound}.items()))] = count
    return found


def test_requests_are_counted_by_system_and_status() -> None:
    traffic = Traffic(
        {("target", "2xx"): 7, ("target", "429"): 2, ("target", "throttled"): 3, ("target", "waited"): 1500}
    )
    found = samples(replace(IMAGES, totals=replace(TOTALS, traffic=traffic)))
    labels = (("kind", "images"), ("status", "2xx"), ("sync", "shop"), ("system", "target"))
    assert found["syncline_requests_total", labels] == 7
    by_status = {
        dict(key)["status"]: value for (name, key), value in found.items() if name == "syncline_requests_total"
    }
    assert by_status == dict.fromkeys(STATUSES, 0.0) | {"2xx": 7, "429": 2}, "a rate needs the zeros of a system in use"
    own = (("kind", "images"), ("sync", "shop"), ("system", "target"))
    assert found["syncline_throttled_requests_total", own] == 3
    assert found["syncline_throttle_wait_seconds_total", own] == 1.5


def test_unknown_values_have_no_sample() -> None:
    found = {name for name, _ in samples(IMAGES, BACKUPS)}
    assert not {name for name in found if name.startswith(("syncline_requests", "syncline_throttle", "syncline_queue"))}
    assert not {"syncline_dead_letters", "syncline_run_started_timestamp_seconds"} & found


def test_notifications_that_were_given_up_are_counted_once_one_was_due() -> None:
    labels = (("kind", "images"), ("sync", "shop"))
    found = samples(replace(IMAGES, given_up=0), BACKUPS)
    assert {key: value for key, value in found.items() if "notifications" in key[0]} == {
        ("syncline_notifications_failed_total", labels): 0
    }
    assert samples(replace(IMAGES, given_up=2))["syncline_notifications_failed_total", labels] == 2


def test_a_run_in_progress_has_its_times() -> None:
    found = samples(replace(IMAGES, started=1_790_000_000.0, advanced=1_790_000_400.0))
    labels = (("kind", "images"), ("sync", "shop"))
    assert found["syncline_run_started_timestamp_seconds", labels] == 1_790_000_000.0
    assert found["syncline_run_advanced_timestamp_seconds", labels] == 1_790_000_400.0
    assert ("syncline_run_advanced_timestamp_seconds", labels) not in samples(
        replace(IMAGES, started=1.0, advanced=0.0)
    )


def test_queues_are_counted_by_state_and_dead_letters_apart() -> None:
    depths = [
        QueueDepth("transfer", dead=False, visible=3, in_flight=2, delayed=1),
        QueueDepth("transfer", dead=True, visible=4, in_flight=1, delayed=0),
    ]
    found = {key: value for key, value in samples(depths=depths).items() if "queue" in dict(key[1])}
    assert found == {
        ("syncline_queue_messages", (("queue", "transfer"), ("state", "visible"))): 3,
        ("syncline_queue_messages", (("queue", "transfer"), ("state", "in_flight"))): 2,
        ("syncline_queue_messages", (("queue", "transfer"), ("state", "delayed"))): 1,
        ("syncline_dead_letters", (("queue", "transfer"),)): 5,
    }


def test_every_sync_has_the_figures_of_syncline() -> None:
    labels = (("kind", "images"), ("sync", "shop"))
    expected = of_runs("syncline_run_duration_seconds", 4003.5, sync="shop", kind="images")
    expected |= {
        ("syncline_items_total", (*labels[:1], ("outcome", each), *labels[1:])): n for each, n in ITEMS.items()
    }
    expected |= {
        ("syncline_runs_failed_total", labels): 6,
        ("syncline_moved_bytes_total", labels): 1000,
        ("syncline_last_success_timestamp_seconds", labels): 1_790_000_000,
        ("syncline_known_failures", labels): 9,
        ("syncline_running", labels): 1,
        ("syncline_in_sync", labels): 1,
        ("syncline_last_verified_timestamp_seconds", labels): 1_790_000_100,
        ("syncline_fresh_within_seconds", labels): 7200,
        ("syncline_stale", labels): 0,
        ("syncline_paused", labels): 0,
        ("syncline_items_pending", labels): 5,
    }
    found = samples(IMAGES)
    assert {key: value for key, value in found.items() if not key[0].startswith("syncline_lag_")} == expected


def test_the_lags_of_items_are_a_histogram() -> None:
    lags = Lags({LAG_BOUNDS.index(7): 2, LAG_BOUNDS.index(300): 3, len(LAG_BOUNDS): 1}, 900)
    found = samples(replace(IMAGES, totals=replace(TOTALS, lags=lags)))
    buckets = {
        float(dict(labels)["le"]): value
        for (name, labels), value in found.items()
        if name == "syncline_lag_seconds_bucket"
    }
    assert buckets == {bound: 0 if bound < 7 else 2 if bound < 300 else 5 for bound in buckets} | {math.inf: 6}
    assert {5.0, 10.0, 60.0, 300.0, 3600.0, 86_400.0} < buckets.keys()
    labels = (("kind", "images"), ("sync", "shop"))
    assert (found["syncline_lag_seconds_count", labels], found["syncline_lag_seconds_sum", labels]) == (6, 900)


def test_an_unknown_value_has_no_sample() -> None:
    """A sync that has not run yet, without `fresh_within`."""
    labels = (("kind", "backups"), ("sync", "clusters"))
    health = {name for name, found in samples(BACKUPS) if found == labels} & {
        "syncline_in_sync",
        "syncline_last_verified_timestamp_seconds",
        "syncline_fresh_within_seconds",
        "syncline_stale",
        "syncline_items_pending",
    }
    assert health == {"syncline_items_pending"}


def test_a_sync_that_was_not_verified_in_time_is_stale() -> None:
    for seconds, value in ((7200, 0), (7201, 1)):
        health = replace(HEALTH, verified=NOW - seconds)
        assert (
            samples(replace(IMAGES, health=health))["syncline_stale", (("kind", "images"), ("sync", "shop"))] == value
        )


def test_a_kind_without_runs_has_no_health() -> None:
    gateway = replace(IMAGES, sync=Sync(name="gateway", kind="tokens"), health=None)
    assert not {name for name, _ in samples(gateway)} & {"syncline_in_sync", "syncline_lag_seconds_count"}


def test_a_metric_of_a_kind_has_the_samples_of_all_its_syncs() -> None:
    def gauge(sync: str, value: float) -> GaugeMetricFamily:
        metric = GaugeMetricFamily("own_clusters", "Number of clusters.", labels=["sync"])
        metric.add_metric((sync,), value)
        return metric

    one, two = (
        replace(BACKUPS, sync=Sync(name=sync, kind="backups"), own=(gauge(sync, value),))
        for sync, value in (("east", 3), ("west", 0))
    )
    page = exposition([IMAGES, one, two], NOW).decode()
    assert (page.count("# HELP own_clusters"), page.count('own_clusters{sync="east"}')) == (1, 1)
    found = samples(IMAGES, one, two)
    assert found["own_clusters", (("sync", "east"),)] == 3
    assert found["own_clusters", (("sync", "west"),)] == 0
    assert found["syncline_running", (("kind", "backups"), ("sync", "east"))] == 0


def ask(
    path: str = "/metrics",
    method: str = "GET",
    token: str | None = None,
    figures: Iterable[Figures] | Exception = (IMAGES, BACKUPS),
    headers: dict[str, str] | None = None,
) -> dict[str, Any]:
    def read() -> Iterable[Figures]:
        if isinstance(figures, Exception):
            raise figures
        return figures

    event = {"rawPath": path, "headers": headers, "requestContext": {"http": {"method": method}}}
    return Console(read, lambda: token, lambda: NOW).handle(event)


JSON = {"content-type": "application/json"}


@pytest.mark.parametrize("path", ["/health", "/health/"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_health_is_reported(path: str, method: str) -> None:
    answer = ask(path, method, token="secret")
    assert (answer["statusCode"], answer["headers"]) == (200, JSON)
    assert json.loads(answer["body"]) == {"status": "ok", "version": __version__, "syncs": 2}


def test_metrics_are_returned_as_text() -> None:
    answer = ask()
    assert (answer["statusCode"], answer["headers"]) == (200, {"content-type": CONTENT_TYPE_LATEST})
    assert answer["body"].encode() == exposition([IMAGES, BACKUPS], NOW)


@pytest.mark.parametrize("path", ["/", "/metrics/more", ""])
def test_another_path_is_not_found(path: str) -> None:
    answer = ask(path)
    assert (answer["statusCode"], answer["headers"]) == (404, JSON)
    assert "/metrics" in json.loads(answer["body"])["error"]


@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_another_method_is_not_allowed(method: str) -> None:
    answer = ask("/health", method)
    assert (answer["statusCode"], answer["headers"]) == (405, JSON | {"allow": "GET, HEAD"})


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ({"authorization": "Bearer secret"}, 200),
        ({"Authorization": "Bearer secret"}, 200),
        ({"authorization": "bearer secret"}, 401),
        ({"authorization": "secret"}, 401),
        ({"authorization": "Bearer \ud83d"}, 401),
        ({}, 401),
    ],
)
def test_metrics_require_the_token(given: dict[str, str], status: int) -> None:
    answer = ask(token="secret", headers=given)
    assert answer["statusCode"] == status
    assert (answer["headers"] == JSON) is (status == 401)
    assert ask("/health", token="secret", headers=given)["statusCode"] == 200


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SynclineError("SECRET_MISSING", "it is gone"), "SECRET_MISSING"),
        (ClientError({"Error": {"Code": "Throttling"}}, "Query"), "ClientError"),
        (EndpointConnectionError(endpoint_url="https://dynamodb.example"), "EndpointConnectionError"),
    ],
)
@pytest.mark.parametrize("path", ["/health", "/metrics"])
def test_an_unreadable_table_is_reported_with_a_code(error: Exception, code: str, path: str) -> None:
    answer = ask(path, figures=error)
    assert (answer["statusCode"], answer["headers"]) == (503, JSON)
    assert json.loads(answer["body"]) == {"status": "unwell", "error": code}
