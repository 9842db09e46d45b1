"""Console: the health check, and metrics for Prometheus."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from syncline import __version__
from syncline.errors import SynclineError
from syncline.store.table import AWS_ERRORS
from syncline.store.totals import BUCKETS, Totals
from syncline.telemetry import logger
from syncline.web.function_url import HttpError, HttpRequest, HttpResponse, json_response, respond


@dataclass(frozen=True, slots=True)
class Figures:
    """The metrics of one sync. ``own`` are metrics that only its kind has, each with samples of this sync only."""

    sync: str
    kind: str
    totals: Totals
    running: bool
    own: tuple[Metric, ...] = ()


@dataclass(frozen=True, slots=True)
class Console:
    """Answers requests. ``token`` returns the required bearer token, None if none is required."""

    figures: Callable[[], Iterable[Figures]]
    token: Callable[[], str | None]

    def handle(self, event: dict[str, Any]) -> dict[str, Any]:
        """Return the response to a function URL's event."""
        return respond(event, self._answer)

    def _answer(self, request: HttpRequest) -> HttpResponse:
        path = request.path.rstrip("/")
        if path not in ("/health", "/metrics"):
            raise HttpError(404, "not found; use /health or /metrics")
        if request.method not in ("GET", "HEAD"):
            return json_response(405, {"error": "use GET or HEAD"}, allow="GET, HEAD")
        try:
            # The health check needs no token, as load balancers use it.
            if path == "/metrics" and not self._is_authorized(request.headers.get("authorization", "")):
                raise HttpError(401, "the bearer token is missing or wrong")
            figures = list(self.figures())
        except (*AWS_ERRORS, SynclineError) as error:
            code = error.code.name if isinstance(error, SynclineError) else type(error).__name__
            logger.error("console cannot read the table", extra={"why": str(error)})
            return json_response(503, {"status": "unwell", "error": code})
        if path == "/health":
            return json_response(200, {"status": "ok", "version": __version__, "syncs": len(figures)})
        return HttpResponse(200, exposition(figures), {"content-type": CONTENT_TYPE_LATEST})

    def _is_authorized(self, given: str) -> bool:
        token = self.token()
        return token is None or hmac.compare_digest(f"Bearer {token}".encode(), given.encode(errors="replace"))


def exposition(figures: Iterable[Figures]) -> bytes:
    """Return the metrics in Prometheus' text format."""
    return generate_latest(_Collected(list(figures)))


@dataclass(frozen=True, slots=True)
class _Collected(Collector):
    """The metrics of every sync, and those that only its kind has."""

    figures: list[Figures]

    def collect(self) -> Iterator[Metric]:
        yield from _general(self.figures)
        own: dict[str, Metric] = {}
        for metric in (metric for each in self.figures for metric in each.own):
            family = own.setdefault(metric.name, Metric(metric.name, metric.documentation, metric.type))
            family.samples += metric.samples
        yield from own.values()


def _general(figures: list[Figures]) -> Iterator[Metric]:
    labels = ("sync", "kind")
    runs = HistogramMetricFamily("syncline_run_duration_seconds", "Duration of runs.", labels=labels)
    failed = CounterMetricFamily("syncline_runs_failed", "Runs with failed items.", labels=labels)
    items = CounterMetricFamily("syncline_items", "Items by outcome.", labels=(*labels, "outcome"))
    moved = CounterMetricFamily("syncline_moved_bytes", "Bytes sent to targets.", labels=labels)
    success = GaugeMetricFamily(
        "syncline_last_success_timestamp_seconds", "The last run without failures.", labels=labels
    )
    known = GaugeMetricFamily("syncline_known_failures", "Items known to fail and not acknowledged.", labels=labels)
    running = GaugeMetricFamily("syncline_running", "1 if a run is in progress.", labels=labels)
    for each in figures:
        values = (each.sync, each.kind)
        runs.add_metric(values, histogram_buckets(each.totals), each.totals.seconds)
        failed.add_metric(values, each.totals.failed)
        for outcome, count in each.totals.items.items():
            items.add_metric((*values, outcome), count)
        moved.add_metric(values, each.totals.bytes)
        success.add_metric(values, each.totals.last_success)
        known.add_metric(values, each.totals.known)
        running.add_metric(values, float(each.running))
    yield from (runs, failed, items, moved, success, known, running)


def histogram_buckets(totals: Totals) -> list[tuple[str, float]]:
    """Return Prometheus' cumulative buckets; the last one counts all runs."""
    rows: list[tuple[str, float]] = []
    count = 0
    for bound, within in zip((*map(str, map(float, BUCKETS)), "+Inf"), totals.durations, strict=True):
        count += within
        rows.append((bound, count))
    return rows
