"""Metrics of verdicts, lists and canaries in CloudWatch and Prometheus, and the metrics that alarms use."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
from samcli.yamlhelper import yaml_parse  # type: ignore[import-untyped]

from syncline.kinds.tokens.canary import CanaryCheck, CheckOutcome, CheckResult
from syncline.kinds.tokens.metrics import BUCKETS, CloudWatchMetrics, PrometheusMetrics
from syncline.kinds.tokens.verdict import ProbeResult, Reason, Verdict
from syncline.kinds.tokens.wiring_scrape import ScrapeResult

TEMPLATE: Final = Path(__file__).parents[4] / "template.yaml"
RESULTS: Final = (
    CheckResult(CanaryCheck.WRITE, "gateway-001", CheckOutcome.ARRIVED, 0.7),
    CheckResult(CanaryCheck.WRITE, "gateway-002", CheckOutcome.LOST, 0.4, "it was there, and is not any more"),
    CheckResult(CanaryCheck.DELETE, "gateway-001", CheckOutcome.KEPT),
    CheckResult(CanaryCheck.LONG, "gateway-001", CheckOutcome.NEVER),
)
# values by the metric's name and its dimensions
Measured = dict[tuple[str, frozenset[tuple[str, str]]], Any]
Measure = Callable[[str, Callable[[CloudWatchMetrics], None]], Measured]


@pytest.fixture
def measured(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Measure:
    """Return the metrics that CloudWatch reads from the lines of a function of that name (embedded metric format)."""

    def measure(function: str, count: Callable[[CloudWatchMetrics], None]) -> Measured:
        monkeypatch.setenv("POWERTOOLS_METRICS_NAMESPACE", "Syncline")
        monkeypatch.setenv("POWERTOOLS_SERVICE_NAME", function)
        monkeypatch.setattr("syncline.telemetry._STACK", "one")
        capsys.readouterr()
        count(CloudWatchMetrics())
        found: Measured = {}
        for line in map(json.loads, capsys.readouterr().out.splitlines()):
            for directive in line["_aws"]["CloudWatchMetrics"]:
                assert directive["Namespace"] == "Syncline"
                for names in directive["Dimensions"]:
                    dimensions = {name: line[name] for name in names}
                    assert dimensions.pop("stack") == "one"
                    for metric in directive["Metrics"]:
                        key = metric["Name"], frozenset(dimensions.items())
                        assert key not in found  # CloudWatch would add them
                        found[key] = line[metric["Name"]]
        return found

    return measure


def _of(name: str, **dimensions: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset(dimensions.items())


def test_canary_metrics_are_by_check_not_by_instance(measured: Measure) -> None:
    found = measured("canary", lambda counts: counts.canary_round("gateway", RESULTS, 3))
    where = {"service": "canary", "sync": "gateway"}
    assert found[_of("CanarySeconds", **where, check="write")] == [0.7, 0.4]
    assert _of("CanarySeconds", **where, check="delete") not in found
    assert found[_of("CanaryArrived", **where, check="write")] == [1]
    assert found[_of("CanaryLost", **where, check="write")] == [1]
    assert found[_of("CanaryKept", **where, check="delete")] == [1]
    assert found[_of("CanaryFaults", **where)] == [3]
    assert found[_of("CanaryFailed", **where)] == [1]  # deletions and long values depend on the store


def test_number_of_metrics_is_independent_of_instances(measured: Measure) -> None:
    """A metric costs money for each value of its dimensions, and each new pod has a new name."""

    def metrics_of(instances: int) -> set[object]:
        names = [f"gateway-{number}" for number in range(instances)]
        results = [CheckResult(check, name, CheckOutcome.ARRIVED, 0.5) for name in names for check in CanaryCheck]
        return set(measured("canary", lambda counts: counts.canary_round("gateway", results, 0)))

    assert metrics_of(30) == metrics_of(1)


def test_verdicts_are_counted(measured: Measure) -> None:
    found = measured(
        "probe",
        lambda counts: counts.verdict("gateway", ProbeResult(Verdict.TIMEOUT, Reason.NOT_IN_TIME, milliseconds=3000)),
    )
    words = {known: found[_of(f"Verdict{known.value}", service="probe", sync="gateway")] for known in Verdict}
    assert words == {known: [int(known is Verdict.TIMEOUT)] for known in Verdict}
    assert found[_of("VerdictMilliseconds", service="probe", sync="gateway")] == [3000]


@pytest.mark.parametrize(
    ("verdict", "reason", "milliseconds", "late"),
    [
        (Verdict.SYNCED, Reason.ALL_AGREE, 2000.0, False),
        (Verdict.SYNCED, Reason.ALL_AGREE, 2000.1, True),
        (Verdict.PARTIALLY, Reason.SOME_DO_NOT, 10.0, True),
        (Verdict.UNKNOWN, Reason.LIST_STALE, 0.0, True),
        (Verdict.NOT_SYNCED, Reason.TOKEN_EXPIRED, 0.0, None),
        (Verdict.NOT_SYNCED, Reason.ORIGIN_REFUSES, 40.0, None),
    ],
)
def test_the_objective_counts_tokens_that_could_be_replicated(
    measured: Measure, verdict: Verdict, reason: Reason, milliseconds: float, late: bool | None
) -> None:
    result = ProbeResult(verdict, reason, milliseconds=milliseconds)
    found = measured("probe", lambda counts: counts.verdict("gateway", result))
    assert found.get(_of("AgreementLate", service="probe")) == (None if late is None else [int(late)])
    counts = PrometheusMetrics()
    counts.verdict("gateway", result)

    def value(name: str, **more: str) -> float | None:
        return counts.registry.get_sample_value(name, {"sync": "gateway", **more})

    assert value("syncline_agreement_checks_total") == (None if late is None else 1)
    assert value("syncline_agreement_seconds_bucket", le="2.0") == (None if late is None else int(not late))


@pytest.mark.parametrize(
    ("alarm", "function", "count", "bad"),
    [
        ("CanaryFailedAlarm", "canary", lambda counts: counts.canary_round("gateway", RESULTS, 1), 1),
        ("CanaryFailedAlarm", "canary", lambda counts: counts.canary_round("gateway", RESULTS, 0), 0),
        (
            "InstancesNotListedAlarm",
            "scrape",
            lambda counts: counts.scraped([ScrapeResult("a", failed="FORBIDDEN")]),
            1,
        ),
        ("InstancesNotListedAlarm", "scrape", lambda counts: counts.scraped([ScrapeResult("a", 3, 3)]), 0),
    ],
)
def test_alarms_use_existing_metrics(
    measured: Measure, alarm: str, function: str, count: Callable[[CloudWatchMetrics], None], bad: int
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


def test_prometheus_histogram_for_each_instance() -> None:
    counts = PrometheusMetrics()
    counts.canary_round("gateway", RESULTS, 2)
    assert counts.registry.get_sample_value("syncline_canary_faults", {"sync": "gateway"}) == 2
    counts.canary_round("gateway", RESULTS[:1], 0)
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
