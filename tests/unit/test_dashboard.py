"""The dashboard and the alarms of the template use metrics that something emits, with the dimensions that it emits."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import pytest

from syncline import telemetry
from syncline.kinds.tokens.canary import CanaryCheck, CheckOutcome, CheckResult
from syncline.kinds.tokens.metrics import CloudWatchMetrics
from syncline.kinds.tokens.verdict import ProbeResult, Reason, Verdict
from syncline.kinds.tokens.wiring_scrape import ScrapeResult
from syncline.model import EVERYTHING, STATUSES, SYSTEMS, Lags, Run, RunStatus, Traffic, Trigger
from tests.rig import grants

STACK: Final = "one"
_SEARCH: Final = re.compile(r"SEARCH\('\{Syncline,([a-z,]+)\} stack=\"one\" MetricName=\((.*)\)', '(\w+)', 300\)")
_SQS: Final = {"ApproximateNumberOfMessagesVisible", "ApproximateAgeOfOldestMessage"}
_LAMBDA: Final = {"Errors", "Throttles"}
Metric = tuple[str, frozenset[str]]
"""The name of a metric, and the names of its dimensions."""


@dataclass
class Emitted:
    """The metrics of all functions, and the values of their dimensions."""

    names: set[Metric]
    values: dict[str, set[str]]


@pytest.fixture
def emitted(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Emitted:
    monkeypatch.setenv("POWERTOOLS_METRICS_NAMESPACE", "Syncline")
    monkeypatch.setattr("syncline.telemetry._STACK", STACK)
    found = Emitted(set(), {})

    def record() -> None:
        for line in map(json.loads, capsys.readouterr().out.splitlines()):
            for directive in line.get("_aws", {}).get("CloudWatchMetrics", ()):
                (dimensions,) = directive["Dimensions"]
                found.names |= {(each["Name"], frozenset(dimensions)) for each in directive["Metrics"]}
                for name in dimensions:
                    found.values.setdefault(name, set()).add(line[name])

    monkeypatch.setenv("POWERTOOLS_SERVICE_NAME", "verify")
    traffic = Traffic({(system, what): 1 for system in SYSTEMS for what in (*STATUSES, "throttled", "waited")})
    run = Run("r1", "a/sync", 7, Trigger.MANUAL, EVERYTHING, 1.0, RunStatus.DONE, ended=2.0)
    telemetry.log_run_end(replace(run, traffic=traffic, lags=Lags({1: 1})))
    record()
    monkeypatch.setenv("POWERTOOLS_SERVICE_NAME", "watch")
    telemetry.record_health(1, 2)
    telemetry.record_sync_health("a/sync", in_sync=True, age=5.0)
    record()
    monkeypatch.setenv("POWERTOOLS_SERVICE_NAME", "notify")
    telemetry.log_undelivered("a/sync", "slack", "403")
    record()
    for service in ("receive", "discover", "notify"):
        monkeypatch.setenv("POWERTOOLS_SERVICE_NAME", service)
        telemetry.log_dropped_message("unknown")
        record()
    metrics = CloudWatchMetrics()
    monkeypatch.setenv("POWERTOOLS_SERVICE_NAME", "probe")
    metrics.verdict("gateway", ProbeResult(Verdict.SYNCED, Reason.ALL_AGREE))
    monkeypatch.setenv("POWERTOOLS_SERVICE_NAME", "scrape")
    metrics.scraped([ScrapeResult("gateway", 3, 3)])
    monkeypatch.setenv("POWERTOOLS_SERVICE_NAME", "canary")
    metrics.canary_round("gateway", [CheckResult(CanaryCheck.WRITE, "gateway-001", CheckOutcome.ARRIVED, 0.7)], 0)
    record()
    return found


def resolved(text: str) -> str:
    """Return a text of Fn::Sub as CloudFormation makes it."""
    resources = grants.translated()["Resources"]

    def value(found: re.Match[str]) -> str:
        name = found[1]
        if name.startswith("!"):
            return f"${{{name[1:]}}}"
        if name == "AWS::StackName":
            return STACK
        if name == "AWS::Region":
            return "eu-central-1"
        resource, _, attribute = name.partition(".")
        assert attribute in ("", "QueueName"), name
        properties = resources[resource]["Properties"]
        return str(properties["QueueName" if attribute else "FunctionName"]["Fn::Sub"]).replace(
            "${AWS::StackName}", STACK
        )

    return re.sub(r"\$\{([^}]+)\}", value, text)


@pytest.fixture
def dashboard() -> dict[str, Any]:
    properties = grants.translated()["Resources"]["Dashboard"]["Properties"]
    body: dict[str, Any] = json.loads(resolved(properties["DashboardBody"]["Fn::Sub"]))
    return body


def graphs(dashboard: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield each metric or expression of the graphs with the title of its graph."""
    for widget in dashboard["widgets"]:
        for metric in widget["properties"].get("metrics", ()):
            yield widget["properties"]["title"], metric


def test_the_dashboard_shows_metrics_that_are_emitted(dashboard: dict[str, Any], emitted: Emitted) -> None:
    queues = {
        resolved(each["Properties"]["QueueName"]["Fn::Sub"])
        for each in grants.translated()["Resources"].values()
        if each["Type"] == "AWS::SQS::Queue"
    }
    shown = set[str]()
    for title, (first, *rest) in graphs(dashboard):
        if isinstance(first, dict):
            match = _SEARCH.fullmatch(first["expression"])
            assert match is not None, first["expression"]
            names, dimensions = re.findall(r'"(\w+)"', match[2]), frozenset(match[1].split(","))
            assert {(name, dimensions) for name in names} <= emitted.names, title
            shown |= set(names)
            continue
        name, *pairs = rest
        values = dict(zip(pairs[::2], pairs[1::2], strict=True))
        if first == "Syncline":
            assert (name, frozenset(values)) in emitted.names, title
            assert all(value in emitted.values[key] for key, value in values.items()), values
            shown.add(name)
        elif first == "AWS/SQS":
            assert name in _SQS
            assert values["QueueName"] in queues
        else:
            assert (first, set(values)) == ("AWS/Lambda", {"FunctionName"})
            assert name in _LAMBDA
    assert {
        "SyncsStale",
        "VerificationAge",
        "Requests429",
        "ThrottleWait",
        "AgreementLate",
        "RunsFailed",
        "Lag",
    } <= shown


def test_every_queue_and_function_is_shown(dashboard: dict[str, Any]) -> None:
    shown = {value for _, metric in graphs(dashboard) if not isinstance(metric[0], dict) for value in metric}
    for resource in grants.translated()["Resources"].values():
        if resource["Type"] == "AWS::SQS::Queue":
            assert resolved(resource["Properties"]["QueueName"]["Fn::Sub"]) in shown
        if resource["Type"] == "AWS::Lambda::Function":
            assert resolved(resource["Properties"]["FunctionName"]["Fn::Sub"]) in shown


def test_the_widgets_of_the_dashboard_do_not_overlap(dashboard: dict[str, Any]) -> None:
    taken: set[tuple[int, int]] = set()
    for at in dashboard["widgets"]:
        cells = {(x, y) for x in range(at["x"], at["x"] + at["width"]) for y in range(at["y"], at["y"] + at["height"])}
        assert not cells & taken
        assert at["x"] + at["width"] <= 24
        taken |= cells
    ids = [metric[0]["id"] for _, metric in graphs(dashboard) if isinstance(metric[0], dict)]
    assert all(re.fullmatch(r"[a-z]\w*", each) for each in ids)


def test_no_metric_has_an_unbounded_dimension(emitted: Emitted) -> None:
    dimensions = {name for _, names in emitted.names for name in names}
    assert dimensions == {"service", "stack", "sync", "system", "check"}
    assert all("stack" in names for _, names in emitted.names), "two stacks of an account are told apart"
    assert emitted.values["system"] == set(SYSTEMS)


def test_alarms_of_syncline_use_metrics_that_are_emitted(emitted: Emitted) -> None:
    alarms = [
        each["Properties"]
        for each in grants.translated()["Resources"].values()
        if each["Type"] == "AWS::CloudWatch::Alarm" and each["Properties"]["Namespace"] == "Syncline"
    ]
    assert len(alarms) >= 5
    for alarm in alarms:
        dimensions = {each["Name"]: each["Value"] for each in alarm["Dimensions"]}
        assert (alarm["MetricName"], frozenset(dimensions)) in emitted.names
        assert dimensions["service"] in emitted.values["service"]


def test_every_queue_has_an_alarm_for_old_messages() -> None:
    resources = grants.translated()["Resources"]
    watched = {
        each["Properties"]["Dimensions"][0]["Value"]["Fn::GetAtt"][0]
        for each in resources.values()
        if each["Type"] == "AWS::CloudWatch::Alarm"
        and each["Properties"]["MetricName"] == "ApproximateAgeOfOldestMessage"
    }
    queues = {name for name, each in resources.items() if each["Type"] == "AWS::SQS::Queue"}
    assert watched == {name for name in queues if not name.endswith("DeadLetterQueue")}


def test_the_reference_describes_every_metric_and_alarm(emitted: Emitted) -> None:
    page = (grants.TEMPLATE.parent / "docs" / "reference" / "metrics.md").read_text()
    assert {name for name, _ in emitted.names if f"`{name}`" not in page} == set()
    alarms = {
        name for name, each in grants.translated()["Resources"].items() if each["Type"] == "AWS::CloudWatch::Alarm"
    }
    families = re.compile(r"(?:DeadLetters|QueueAge|Errors)Alarm$")
    assert {name for name in alarms if not families.search(name) and f"`{name}`" not in page} == set()
