"""What is counted of verdicts, lists and canaries, as CloudWatch and Prometheus get it, and what the alarms look at."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
from samcli.yamlhelper import yaml_parse  # type: ignore[import-untyped]

from syncline.kinds.tokens.canary import Check, Outcome, Sighting
from syncline.kinds.tokens.metrics import BUCKETS, CloudWatchCounts, PrometheusCounts
from syncline.kinds.tokens.scrape import Scraped
from syncline.kinds.tokens.verdict import Finding, Known, Reason

TEMPLATE: Final = Path(__file__).parents[3] / "template.yaml"
SIGHTINGS: Final = (
    Sighting(Check.WRITE, "gateway-001", Outcome.ARRIVED, 0.7),
    Sighting(Check.WRITE, "gateway-002", Outcome.LOST, 0.4, "it was there, and is not any more"),
    Sighting(Check.DELETE, "gateway-001", Outcome.KEPT),
    Sighting(Check.LONG, "gateway-001", Outcome.NEVER),
)
# By the metric's name and its dimensions.
Measured = dict[tuple[str, frozenset[tuple[str, str]]], Any]
Measure = Callable[[str, Callable[[CloudWatchCounts], None]], Measured]


@pytest.fixture
def measured(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Measure:
    """What CloudWatch makes of the lines that a function of that name writes (embedded metric format)."""

    def measure(function: str, count: Callable[[CloudWatchCounts], None]) -> Measured:
        monkeypatch.setenv("POWERTOOLS_METRICS_NAMESPACE", "Syncline")
        monkeypatch.setenv("POWERTOOLS_SERVICE_NAME", function)
        monkeypatch.setattr("syncline.telemetry._STACK", "one")
        capsys.readouterr()
        count(CloudWatchCounts())
        found: Measured = {}
        for line in map(json.loads, capsys.readouterr().out.splitlines()):
            for directive in line["_aws"]["CloudWatchMetrics"]:
                assert directive["Namespace"] == "Syncline"
                for names in directive["Dimensions"]:
                    dimensions = {name: line[name] for name in names}
                    assert dimensions.pop("stack") == "one"
                    for metric in directive["Metrics"]:
                        key = metric["Name"], frozenset(dimensions.items())
                        assert key not in found  # CloudWatch would take the sum
                        found[key] = line[metric["Name"]]
        return found

    return measure


def _of(name: str, **dimensions: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset(dimensions.items())


def test_canaries_are_measured_by_check_and_not_by_instance(measured: Measure) -> None:
    found = measured("canary", lambda counts: counts.sighted("gateway", SIGHTINGS, 3))
    where = {"service": "canary", "sync": "gateway"}
    assert found[_of("CanarySeconds", **where, check="write")] == [0.7, 0.4]
    assert _of("CanarySeconds", **where, check="delete") not in found
    assert found[_of("CanaryArrived", **where, check="write")] == [1]
    assert found[_of("CanaryLost", **where, check="write")] == [1]
    assert found[_of("CanaryKept", **where, check="delete")] == [1]
    assert found[_of("CanaryFaults", **where)] == [3]
    assert found[_of("CanaryFailed", **where)] == [1]  # what a deletion and a long value come to is the store's way


def test_more_instances_are_no_more_metrics(measured: Measure) -> None:
    """A metric costs money for each value of its dimensions, and each new pod has a new name."""

    def metrics_of(instances: int) -> set[object]:
        names = [f"gateway-{number}" for number in range(instances)]
        sightings = [Sighting(check, name, Outcome.ARRIVED, 0.5) for name in names for check in Check]
        return set(measured("canary", lambda counts: counts.sighted("gateway", sightings, 0)))

    assert metrics_of(30) == metrics_of(1)


def test_a_verdict_is_counted_by_its_word(measured: Measure) -> None:
    found = measured(
        "probe", lambda counts: counts.verdict("gateway", Finding(Known.TIMEOUT, Reason.NOT_IN_TIME, milliseconds=3000))
    )
    words = {known: found[_of(f"Verdict{known.value}", service="probe", sync="gateway")] for known in Known}
    assert words == {known: [int(known is Known.TIMEOUT)] for known in Known}
    assert found[_of("VerdictMilliseconds", service="probe", sync="gateway")] == [3000]


@pytest.mark.parametrize(
    ("alarm", "function", "count", "bad"),
    [
        ("CanaryFailedAlarm", "canary", lambda counts: counts.sighted("gateway", SIGHTINGS, 1), 1),
        ("CanaryFailedAlarm", "canary", lambda counts: counts.sighted("gateway", SIGHTINGS, 0), 0),
        ("InstancesNotListedAlarm", "scrape", lambda counts: counts.scraped([Scraped("a", failed="FORBIDDEN")]), 1),
        ("InstancesNotListedAlarm", "scrape", lambda counts: counts.scraped([Scraped("a", 3, 3)]), 0),
    ],
)
def test_an_alarm_looks_at_what_is_measured(
    measured: Measure, alarm: str, function: str, count: Callable[[CloudWatchCounts], None], bad: int
) -> None:
    resources = yaml_parse(TEMPLATE.read_text())["Resources"]
    wanted = resources[alarm]["Properties"]
    service = resources[f"{function.capitalize()}Function"]["Properties"]["Environment"]["Variables"]
    dimensions = {each["Name"]: each["Value"] for each in wanted["Dimensions"]}
    assert dimensions.pop("stack") == {"Ref": "AWS::StackName"}
    assert (wanted["Namespace"], dimensions) == ("Syncline", {"service": service["POWERTOOLS_SERVICE_NAME"]})
    (value,) = measured(function, count)[_of(wanted["MetricName"], **dimensions)]
    assert value == bad
    assert (value > wanted["Threshold"]) == bool(bad)
    assert wanted["ComparisonOperator"] == "GreaterThanThreshold"


def test_prometheus_gets_a_histogram_for_each_instance() -> None:
    counts = PrometheusCounts()
    counts.sighted("gateway", SIGHTINGS, 2)
    assert counts.registry.get_sample_value("syncline_canary_faults", {"sync": "gateway"}) == 2
    counts.sighted("gateway", SIGHTINGS[:1], 0)
    assert counts.registry.get_sample_value("syncline_canary_faults", {"sync": "gateway"}) == 0
    labels = {"sync": "gateway", "instance": "gateway-001", "check": "write"}

    def value(name: str, **more: str) -> float | None:
        return counts.registry.get_sample_value(name, {**labels, **more})

    below = {bound: value("syncline_canary_seconds_bucket", le=str(bound)) for bound in BUCKETS}
    assert below == {bound: 2.0 if bound >= 0.7 else 0.0 for bound in BUCKETS}
    assert (value("syncline_canary_seconds_count"), value("syncline_canary_seconds_sum")) == (2, 1.4)
    assert value("syncline_canaries_total", outcome="arrived") == 2
    assert value("syncline_canaries_total", instance="gateway-002", outcome="lost") == 1
    assert b"# TYPE syncline_canary_seconds histogram" in counts.text()
