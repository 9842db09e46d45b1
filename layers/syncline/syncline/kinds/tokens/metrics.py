"""Metrics of verdicts, lists and canaries: for CloudWatch on Lambda, for Prometheus in a container."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

from aws_lambda_powertools.metrics import MetricUnit

from syncline.kinds.tokens.verdict import ProbeResult, Verdict
from syncline.telemetry import stack_metrics

if TYPE_CHECKING:  # a probe counts neither
    from syncline.kinds.tokens.canary import CheckResult
    from syncline.kinds.tokens.wiring_scrape import ScrapeResult

BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 2.5, 5.0, 10.0)
"""Seconds. A store that synchronizes every second takes between 0 and 1 most of the time; the objective is 2."""


class TokenMetrics(Protocol):
    """A receiver of metrics; ``faults`` is the number of confirmed ones after a round."""

    def verdict(self, sync: str, result: ProbeResult) -> None: ...

    def scraped(self, results: Iterable[ScrapeResult]) -> None: ...

    def canary_round(self, sync: str, results: Iterable[CheckResult], faults: int) -> None: ...


class CloudWatchMetrics:
    """Metrics in CloudWatch's embedded format. CloudWatch computes percentiles of the values in one line."""

    def verdict(self, sync: str, result: ProbeResult) -> None:
        verdicts = [(f"Verdict{known.value}", MetricUnit.Count, int(result.verdict is known)) for known in Verdict]
        _emit([("VerdictMilliseconds", MetricUnit.Milliseconds, result.milliseconds), *verdicts], sync=sync)
        if result.late is not None:
            # The average is the share that missed the objective, of all syncs, for an alarm.
            _emit([("AgreementLate", MetricUnit.Count, int(result.late))])

    def scraped(self, results: Iterable[ScrapeResult]) -> None:
        found = list(results)
        # A sum of all syncs is for an alarm, which cannot name the syncs of a stack.
        _emit([("ScrapesFailed", MetricUnit.Count, sum(each.failed is not None for each in found))])
        for each in found:
            serving = [("InstancesServing", MetricUnit.Count, each.serving)] if each.failed is None else []
            _emit([("ScrapeFailed", MetricUnit.Count, int(each.failed is not None)), *serving], sync=each.sync)

    def canary_round(self, sync: str, results: Iterable[CheckResult], faults: int) -> None:
        """Count a round by check, not by instance: each pod name would be another metric to pay for."""
        found = list(results)
        confirmed = ("CanaryFaults", MetricUnit.Count, faults)
        _emit([confirmed])
        _emit([confirmed, ("CanaryFailed", MetricUnit.Count, sum(each.bad for each in found))], sync=sync)
        for check in dict.fromkeys(each.check for each in found):
            some = [each for each in found if each.check is check]
            times = [("CanarySeconds", MetricUnit.Seconds, each.seconds) for each in some if each.seconds is not None]
            outcomes = Tally(f"Canary{each.outcome.value.capitalize()}" for each in some)
            counts = [(name, MetricUnit.Count, count) for name, count in outcomes.items()]
            _emit([*times, *counts], sync=sync, check=check.value)


def _emit(values: Iterable[tuple[str, MetricUnit, float]], **dimensions: str) -> None:
    """Write metrics with their units as one line of the log."""
    metrics = stack_metrics(**dimensions)
    for name, unit, value in values:
        metrics.add_metric(name, unit, value)
    metrics.flush_metrics()


class PrometheusMetrics:
    """Metrics that a container serves at ``/metrics``."""

    def __init__(self) -> None:
        # Not imported on Lambda, where the start must be fast.
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram  # noqa: PLC0415

        self.registry = CollectorRegistry()
        counter, gauge = partial(Counter, registry=self.registry), partial(Gauge, registry=self.registry)
        seconds = partial(Histogram, registry=self.registry, buckets=BUCKETS)
        sync, results = ("sync",), ("sync", "instance", "check")
        self._verdicts = counter("syncline_verdicts", "Verdicts given.", ("sync", "verdict", "reason"))
        self._seconds = seconds("syncline_verdict_seconds", "Time until a verdict.", sync)
        self._checks = counter("syncline_agreement_checks", "Verdicts on tokens that could be replicated.", sync)
        self._agreement = seconds("syncline_agreement_seconds", "Time until all instances needed had a token.", sync)
        self._instances = gauge("syncline_instances", "Instances that receive requests now.", sync)
        self._scrapes = counter("syncline_scrapes", "Scrapes of the clusters.", ("sync", "code"))
        self._canaries = counter("syncline_canaries", "Canary checks by outcome.", (*results, "outcome"))
        self._faults = gauge("syncline_canary_faults", "Confirmed faults that canaries found.", sync)
        self._canary_seconds = seconds(
            "syncline_canary_seconds", "Time until an instance agreed with the writer.", results
        )

    def verdict(self, sync: str, result: ProbeResult) -> None:
        self._verdicts.labels(sync, result.verdict.value, result.reason.value).inc()
        self._seconds.labels(sync).observe(result.milliseconds / 1000)
        if result.late is not None:
            self._checks.labels(sync).inc()
            self._agreement.labels(sync)  # a share needs its zero
        if result.verdict is Verdict.SYNCED:
            self._agreement.labels(sync).observe(result.milliseconds / 1000)

    def scraped(self, results: Iterable[ScrapeResult]) -> None:
        for each in results:
            self._scrapes.labels(each.sync, each.failed or "").inc()
            if each.failed is None:
                self._instances.labels(each.sync).set(each.serving)

    def canary_round(self, sync: str, results: Iterable[CheckResult], faults: int) -> None:
        self._faults.labels(sync).set(faults)
        for each in results:
            self._canaries.labels(sync, each.instance, each.check.value, each.outcome.value).inc()
            if each.seconds is not None:
                self._canary_seconds.labels(sync, each.instance, each.check.value).observe(each.seconds)

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        from prometheus_client import generate_latest  # noqa: PLC0415

        return generate_latest(self.registry)
