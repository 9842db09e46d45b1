"""Metrics of all syncs in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from syncline.config.sync import Sync
from syncline.messages import QueueDepth
from syncline.model import LAG_BOUNDS, STATUSES, Counts
from syncline.store.audits import PERIOD, AuditRecord
from syncline.store.health import Health
from syncline.store.totals import BUCKETS, Totals

_LABELS: Final = ("sync", "kind")
_LAG_BUCKETS: Final = tuple(
    bound
    for bound in LAG_BOUNDS
    if bound in {5, 10, 30, 60, 300, 900, 1800, 3600, 10_800, 21_600, 43_200, 86_400, 259_200}
)
"""Buckets of lags that Prometheus gets, in seconds."""


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures of one sync.

    ``health`` is None for a kind without runs, and ``current`` has the counts of the run in progress, None if there is
    none. ``own`` are metrics that only its kind has, each with samples of this sync only. ``started`` and ``advanced`` are
    the times at which the run in progress started and last counted an item, in Unix seconds. ``given_up`` counts the
    notifications that could not be delivered, None for a sync without a record of them. ``audits`` is what is known of its
    audits. ``restore_verified`` is the start of the latest restore drill without a failure, 0 if there was none yet, None for
    a sync without drills. ``restore_within`` is their `within` in seconds.
    """

    sync: Sync
    totals: Totals
    health: Health | None
    current: Counts | None
    own: tuple[Metric, ...] = ()
    started: float | None = None
    advanced: float | None = None
    given_up: int | None = None
    audits: AuditRecord = field(default_factory=AuditRecord)
    restore_verified: float | None = None
    restore_within: float | None = None


def exposition(figures: Iterable[Figures], now: float, depths: Iterable[QueueDepth] = ()) -> bytes:
    """Return the metrics in Prometheus' text format. A queue that is not among ``depths`` has no sample."""
    return generate_latest(_Collected(list(figures), now, list(depths)))


@dataclass(frozen=True, slots=True)
class _Collected(Collector):
    """The metrics of every sync, and those that only its kind has."""

    figures: list[Figures]
    now: float
    depths: list[QueueDepth]

    def collect(self) -> Iterator[Metric]:
        yield from _of_runs(self.figures)
        yield from _of_requests(self.figures)
        yield from _of_queues(self.depths)
        yield _of_notifications(self.figures)
        yield from _of_audits(self.figures, self.now)
        yield from _of_drills(self.figures)
        yield from _of_health([each for each in self.figures if each.health is not None], self.now)
        own: dict[str, Metric] = {}
        for metric in (metric for each in self.figures for metric in each.own):
            family = own.setdefault(metric.name, Metric(metric.name, metric.documentation, metric.type))
            family.samples += metric.samples
        yield from own.values()


def _of_runs(figures: list[Figures]) -> Iterator[Metric]:
    labels = _LABELS
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
        values = (each.sync.name, each.sync.kind)
        runs.add_metric(values, histogram_buckets(each.totals), each.totals.seconds)
        failed.add_metric(values, each.totals.failed)
        for outcome, count in each.totals.items.items():
            items.add_metric((*values, outcome), count)
        moved.add_metric(values, each.totals.bytes)
        success.add_metric(values, each.totals.last_success)
        known.add_metric(values, each.totals.known)
        running.add_metric(values, float(each.current is not None))
    yield from (runs, failed, items, moved, success, known, running)


def _of_requests(figures: list[Figures]) -> Iterator[Metric]:
    """Yield the metrics of requests by system. They are written when a run ends, as the items are."""
    labels = (*_LABELS, "system")
    requests = CounterMetricFamily(
        "syncline_requests", "Requests by the class of their response.", labels=(*labels, "status")
    )
    throttled = CounterMetricFamily("syncline_throttled_requests", "Responses that asked to slow down.", labels=labels)
    waited = CounterMetricFamily(
        "syncline_throttle_wait_seconds",
        "Time that requests were held back because a system asked to slow down.",
        labels=labels,
    )
    for each in figures:
        values, counts = (each.sync.name, each.sync.kind), each.totals.traffic.counts
        for system in {system: None for system, _ in counts}:
            for status in STATUSES:
                requests.add_metric((*values, system, status), counts.get((system, status), 0))
            throttled.add_metric((*values, system), counts.get((system, "throttled"), 0))
            waited.add_metric((*values, system), counts.get((system, "waited"), 0) / 1000)
    yield from (requests, throttled, waited)


def _of_queues(depths: list[QueueDepth]) -> Iterator[Metric]:
    messages = GaugeMetricFamily("syncline_queue_messages", "Messages by queue and state.", labels=("queue", "state"))
    dead = GaugeMetricFamily("syncline_dead_letters", "Dead letters of a queue.", labels=("queue",))
    for depth in depths:
        if depth.dead:
            dead.add_metric((depth.queue,), depth.visible + depth.in_flight + depth.delayed)
            continue
        for state in ("visible", "in_flight", "delayed"):
            messages.add_metric((depth.queue, state), getattr(depth, state))
    yield from (messages, dead)


def _of_notifications(figures: list[Figures]) -> Metric:
    """Return the metric of notifications. A sync for which none was ever due has no sample."""
    failed = CounterMetricFamily(
        "syncline_notifications_failed", "Notifications and heartbeats that were given up.", labels=_LABELS
    )
    for each in figures:
        if each.given_up is not None:
            failed.add_metric((each.sync.name, each.sync.kind), each.given_up)
    return failed


def _of_drills(figures: list[Figures]) -> Iterator[Metric]:
    """Yield the metrics of restore drills. A sync without drills has no sample; one that never succeeded has 0."""
    verified = GaugeMetricFamily(
        "syncline_restore_verified_timestamp_seconds",
        "Start of the last restore drill in which everything equalled the source.",
        labels=_LABELS,
    )
    within = GaugeMetricFamily("syncline_restore_within_seconds", "The drill.within of the sync.", labels=_LABELS)
    for each in figures:
        for family, value in ((verified, each.restore_verified), (within, each.restore_within)):
            if value is not None:
                family.add_metric((each.sync.name, each.sync.kind), value)
    yield from (verified, within)


def _of_health(figures: list[Figures], now: float) -> Iterator[Metric]:
    """Yield the metrics of health and lag. A value that is unknown has no sample."""
    lag = HistogramMetricFamily(
        "syncline_lag_seconds", "Time from a change at the source to its verification at the target.", labels=_LABELS
    )
    gauges = {
        "syncline_in_sync": "1 if the last complete scan found no difference and no item is known to fail.",
        "syncline_last_verified_timestamp_seconds": "Start of the last scan after which the target had all of the source.",
        "syncline_fresh_within_seconds": "The sync's fresh_within.",
        "syncline_stale": "1 if the last verification is older than fresh_within.",
        "syncline_paused": "1 if an operator has paused the sync.",
        "syncline_run_started_timestamp_seconds": "Start of the run in progress.",
        "syncline_run_advanced_timestamp_seconds": "The last time at which the run in progress counted an item.",
        "syncline_items_pending": "Items of the run in progress that were found to differ and have not ended.",
    }
    families = {name: GaugeMetricFamily(name, text, labels=_LABELS) for name, text in gauges.items()}
    for each in figures:
        assert each.health is not None
        health, fresh, current = each.health, each.sync.fresh_seconds, each.current
        samples: dict[str, float | None] = {
            "syncline_in_sync": None if health.in_sync is None else float(health.in_sync),
            "syncline_last_verified_timestamp_seconds": health.verified or None,
            "syncline_fresh_within_seconds": fresh,
            "syncline_stale": None if fresh is None else float(health.is_stale(fresh, now)),
            "syncline_paused": float(health.paused > 0),
            "syncline_run_started_timestamp_seconds": each.started,
            "syncline_run_advanced_timestamp_seconds": each.advanced or None,
            "syncline_items_pending": 0.0 if current is None else float(max(0, current.queued - current.ended)),
        }
        values = (each.sync.name, each.sync.kind)
        for name, value in samples.items():
            if value is not None:
                families[name].add_metric(values, value)
        lags = each.totals.lags
        bounds = [*((str(bound), float(lags.within(bound))) for bound in _LAG_BUCKETS), ("+Inf", float(lags.count))]
        lag.add_metric(values, bounds, lags.seconds)
    yield from (lag, *families.values())


def _of_audits(figures: list[Figures], now: float) -> Iterator[Metric]:
    """Yield the metrics of audits. A sync that was never audited has no samples but the limit of `audit.within`."""
    gauges = {
        "syncline_audit_timestamp_seconds": "Start of the latest complete audit.",
        "syncline_audit_equal": "1 if the latest complete audit found source and target equal.",
        "syncline_audit_equal_timestamp_seconds": "Start of the latest audit that found source and target equal.",
        "syncline_audit_differences": "Items that the latest complete audit found different, missing, extra or unreadable.",
        "syncline_audit_within_seconds": "The sync's audit.within.",
        "syncline_audit_stale": "1 if no audit found source and target equal within audit.within.",
        "syncline_audit_read_ratio": "Share of the target whose bytes audits have read within 31 days.",
    }
    families = {name: GaugeMetricFamily(name, text, labels=_LABELS) for name, text in gauges.items()}
    for each in figures:
        audits, within = each.audits, each.sync.audit_seconds
        samples: dict[str, float | None] = {}
        if audits.run:
            counts = audits.counts
            samples |= {
                "syncline_audit_timestamp_seconds": audits.at,
                "syncline_audit_equal": float(bool(audits.equal)),
                "syncline_audit_equal_timestamp_seconds": audits.equal_at or None,
                "syncline_audit_differences": float(
                    counts.different + counts.missing + counts.extra + counts.unreadable
                ),
                "syncline_audit_read_ratio": audits.read_since(now - PERIOD) if audits.last else None,
            }
        if within is not None and each.health is not None:
            samples["syncline_audit_within_seconds"] = within
            samples["syncline_audit_stale"] = float(audits.is_stale(within, each.health, now))
        for name, value in samples.items():
            if value is not None:
                families[name].add_metric((each.sync.name, each.sync.kind), value)
    yield from families.values()


def histogram_buckets(totals: Totals) -> list[tuple[str, float]]:
    """Return Prometheus' cumulative buckets; the last one counts all runs."""
    rows: list[tuple[str, float]] = []
    count = 0
    for bound, within in zip((*map(str, map(float, BUCKETS)), "+Inf"), totals.durations, strict=True):
        count += within
        rows.append((bound, count))
    return rows
