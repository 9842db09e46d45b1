"""A real Prometheus scrapes the console and the container of tokens, and evaluates the shipped rules."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from syncline.web.console import Console
from tests.rig.metric_pages import NOW, all_depths, container_page, stale_figures
from tests.rig.server import Reply, Request, Server
from tests.standins.programs import needs
from tests.standins.prometheus import Prometheus

RULES: Final = Path(__file__).parents[2] / "deploy" / "prometheus" / "syncline.rules.yml"
TOKEN: Final = "a-token-of-the-console"
SECONDS: Final = 60
QUEUES: Final = ("discover", "transfer", "commit", "verify", "events")
ACTIVE: Final = {
    ("SynclineSyncStale", "shop"),
    ("SynclineSyncFailing", "shop"),
    ("SynclineSyncOutOfSync", "shop"),
    ("SynclineRunStuck", "shop"),
    ("SynclineRunTooLong", "shop"),
    ("SynclineRestoreUnverified", "shop"),
    ("SynclineCanaryFaults", "gateway"),
    *(("SynclineDeadLetters", queue) for queue in QUEUES),
    *(("SynclineQueueStuck", queue) for queue in QUEUES),
}


def console(request: Request) -> Reply:
    """Answer as the console's function URL does."""
    answering = Console(lambda: [stale_figures()], lambda: TOKEN, lambda: NOW, all_depths)
    where = {"method": request.method}
    event = {"rawPath": request.path, "headers": dict(request.headers), "requestContext": {"http": where}}
    answer = answering.handle(event)
    return Reply(answer["statusCode"], answer["body"].encode(), answer["headers"])


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Yield a Prometheus that has scraped both and evaluated every rule."""
    needs("prometheus")
    folder = tmp_path_factory.mktemp("prometheus")
    with Server(console) as at_console, Server(lambda _: Reply(200, container_page().encode())) as container:
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(RULES)],
            "scrape_configs": [
                {
                    "job_name": "syncline",
                    "authorization": {"credentials": TOKEN},
                    "static_configs": [{"targets": [f"127.0.0.1:{at_console.port}"]}],
                },
                {"job_name": "syncline-tokens", "static_configs": [{"targets": [f"127.0.0.1:{container.port}"]}]},
            ],
        }
        with Prometheus(folder, {}, yaml.safe_dump(config)) as running:
            end = time.monotonic() + SECONDS
            while alerts(running) != ACTIVE:
                assert time.monotonic() < end, alerts(running)
                time.sleep(0.1)
            yield running


def rules(prometheus: Prometheus) -> list[dict[str, Any]]:
    return [rule for group in prometheus.get("/api/v1/rules")["groups"] for rule in group["rules"]]


def alerts(prometheus: Prometheus) -> set[tuple[str, str]]:
    """Return the active alerts with their sync or queue."""
    found = prometheus.get("/api/v1/alerts")["alerts"]
    labels = [alert["labels"] for alert in found]
    return {(each["alertname"], each.get("sync", each.get("queue", ""))) for each in labels}


def test_prometheus_scrapes_the_console_with_its_token(prometheus: Prometheus) -> None:
    targets = prometheus.get("/api/v1/targets")["activeTargets"]
    assert {(each["labels"]["job"], each["health"], each["lastError"]) for each in targets} == {
        ("syncline", "up", ""),
        ("syncline-tokens", "up", ""),
    }


def test_every_rule_is_evaluated(prometheus: Prometheus) -> None:
    found = rules(prometheus)
    wanted = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
    assert {each["name"] for each in found} == {each.get("alert", each.get("record")) for each in wanted}
    assert all(each["health"] == "ok" for each in found), [each.get("lastError") for each in found]


def test_alerts_become_active_for_what_the_console_shows(prometheus: Prometheus) -> None:
    assert alerts(prometheus) == ACTIVE
