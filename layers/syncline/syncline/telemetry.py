"""Structured logs and metrics with Powertools, with secrets redacted."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from aws_lambda_powertools import Logger
from aws_lambda_powertools.logging.formatter import LambdaPowertoolsFormatter
from aws_lambda_powertools.logging.types import LogRecord
from aws_lambda_powertools.metrics import EphemeralMetrics, MetricUnit

from syncline.environment import Environment
from syncline.escaping import escape_json
from syncline.model import LAG_BOUNDS, Audit, Counts, Lags, Outcome, Result, Run, RunStatus, Traffic, drill_succeeded
from syncline.secrets import redact


class RedactingFormatter(LambdaPowertoolsFormatter):
    """Powertools' JSON lines, with every known secret redacted in the values.

    Names of fields are kept, so that a secret such as ``second`` hides no field. The level is in lower case, and every
    line has an ``operation``: the function's name, unless the line sets it. Queries on the logs of git-sync need both.
    """

    def format(self, record: logging.LogRecord) -> str:
        return escape_json(super().format(record))

    def serialize(self, log: LogRecord) -> str:
        line: dict[str, Any] = {**log, "level": str(log["level"]).lower()}
        line = {"operation": line.get("service", "syncline")} | line
        return "{" + ", ".join(f"{json.dumps(name)}: {redact(self.json_serializer(line[name]))}" for name in line) + "}"


logger = Logger(logger_formatter=RedactingFormatter(), utc=True)
_MOST_VALUES: Final = 50
"""Limit of the values of one metric in a line: with 100, which CloudWatch allows, Powertools ends the line early."""
_STACK: Final = Environment.read().stack
_COUNTED = ("moved", "skipped", "left_out", "removed", "extra", "conflict", "untrusted", "failed", "known")


def stack_metrics(**dimensions: str) -> EphemeralMetrics:
    """Return metrics with these dimensions and that of the stack, which distinguishes stacks of one account."""
    metrics = EphemeralMetrics()
    for name, value in (({"stack": _STACK} if _STACK else {}) | dimensions).items():
        metrics.add_dimension(name, value)
    metrics.add_metadata("operation", "metrics")  # as every log line has one
    return metrics


def log_run_end(run: Run) -> None:
    """Log the end of a run, and count each outcome by sync.

    An audit and a restore drill have metrics of their own, and another plan has none: it moves nothing, so its end is
    no success.
    """
    counts = run.counts
    if run.audit is not None:
        _log_audit_end(run, run.audit)
        return
    if run.drill is not None:
        _log_drill_end(run, run.drill)
        return
    seconds = round((run.ended or run.started) - run.started, 3)
    fields: dict[str, Any] = {"sync": run.sync, "run": run.id, "status": run.status.value, "number": run.number}
    fields |= {name: getattr(counts, name) for name in (*_COUNTED, "bytes", "requests")} | {"seconds": seconds}
    log = logger.warning if counts.failed + counts.known + counts.conflict + counts.untrusted else logger.info
    log("plan ended" if run.plan else "run ended", extra=fields)
    if run.plan:
        _record_traffic(run.traffic)
        return
    ended = stack_metrics(sync=run.sync)
    for name in _COUNTED:
        title = name.title().replace("_", "")
        ended.add_metric(f"Items{title}", MetricUnit.Count, getattr(counts, name))
    ended.add_metric("BytesMoved", MetricUnit.Bytes, counts.bytes)
    ended.add_metric("RunSeconds", MetricUnit.Seconds, seconds)
    ended.add_metric("RunsFailed", MetricUnit.Count, int(counts.failed + counts.known > 0))
    if not counts.failed and not counts.known and run.ended is not None:
        ended.add_metric("LastSuccess", MetricUnit.Seconds, run.ended)  # Unix time
    for lag in _lag_values(run.lags):
        ended.add_metric("Lag", MetricUnit.Seconds, lag)
    ended.flush_metrics()
    _record_traffic(run.traffic)


def _log_audit_end(run: Run, audit: Audit) -> None:
    counts, equal = run.counts, run.status is RunStatus.DONE and audit.is_equal(run.counts)
    found = {
        name: getattr(counts, name) for name in ("skipped", "different", "missing", "extra", "unreadable", "failed")
    }
    fields: dict[str, Any] = {"sync": run.sync, "run": run.id, "status": run.status.value, "equal": equal, **found}
    fields |= {
        "deep": audit.deep,
        "part": audit.part,
        "of": audit.of,
        "bytes": counts.bytes,
        "requests": counts.requests,
    }
    (logger.info if equal else logger.warning)("audit ended", extra=fields)
    ended = stack_metrics(sync=run.sync)
    ended.add_metric("AuditsUnequal", MetricUnit.Count, int(not equal))
    ended.add_metric("AuditBytes", MetricUnit.Bytes, counts.bytes)
    ended.flush_metrics()
    _record_traffic(run.traffic)


def _log_drill_end(run: Run, share: float) -> None:
    failed = run.counts.not_restored
    good = run.status is RunStatus.DONE and drill_succeeded(run.counts.skipped, failed)
    fields = {"sync": run.sync, "run": run.id, "status": run.status.value, "share": share, "good": good}
    fields |= {"compared": run.counts.skipped, "failed": failed, "requests": run.counts.requests}
    (logger.info if good else logger.warning)("drill ended", extra=fields)
    ended = stack_metrics(sync=run.sync)
    ended.add_metric("DrillsFailed", MetricUnit.Count, int(not good))
    ended.flush_metrics()
    _record_traffic(run.traffic)


def _lag_values(lags: Lags) -> list[float]:
    """Return values from which CloudWatch computes the percentiles of lags, one for each item if they are few."""
    number = min(lags.count, _MOST_VALUES)
    bounds = (lags.percentile((at + 0.5) / number) for at in range(number))
    return [min(bound, LAG_BOUNDS[-1]) for bound in bounds if bound is not None]


def _record_traffic(traffic: Traffic) -> None:
    """Record the requests of a run by system, for all syncs together: each further dimension is more metrics to pay for."""
    by_system: dict[str, dict[str, int]] = {}
    for (system, what), count in traffic.counts.items():
        by_system.setdefault(system, {})[what] = count
    for system, counts in by_system.items():
        metrics = stack_metrics(system=system)
        for what, count in counts.items():
            if what == "waited":
                metrics.add_metric("ThrottleWait", MetricUnit.Milliseconds, count)
            else:
                metrics.add_metric(f"Requests{what.capitalize()}", MetricUnit.Count, count)
        metrics.flush_metrics()


def log_operation(sync: str, name: str, data: Mapping[str, Any], gauges: Mapping[str, float]) -> None:
    """Log an `operation` of a kind with its `data`, and record its gauges by sync.

    A name that ends with ``_failed`` is logged as an error.
    """
    log = logger.error if name.endswith("_failed") else logger.info
    log(name.replace("_", " "), extra={"sync": sync, "operation": name, "data": dict(data)})
    if gauges:
        metrics = stack_metrics(sync=sync)
        for metric, value in gauges.items():
            metrics.add_metric(metric, MetricUnit.Count, value)
        metrics.flush_metrics()


def log_stale(sync: str, fresh_within: str, age: float, verified: float) -> None:
    """Log that a sync was not verified for `age` seconds. `verified` is in Unix seconds, 0 if it never was."""
    fields = {"sync": sync, "fresh_within": fresh_within, "seconds": round(age), "verified": verified or None}
    logger.warning("sync is stale", extra=fields)


def log_audit_stale(sync: str, within: str, equal_at: float) -> None:
    """Log that no audit found a sync equal within a time. `equal_at` is in Unix seconds, 0 if none ever did."""
    logger.warning("audit is stale", extra={"sync": sync, "within": within, "equal_at": equal_at or None})


def log_drill_stale(sync: str, within: str, verified: float) -> None:
    """Log that no restore drill was good within a time. `verified` is in Unix seconds, 0 if none ever was."""
    logger.warning("drill is stale", extra={"sync": sync, "within": within, "verified": verified or None})


def record_sync_health(sync: str, in_sync: bool | None, age: float | None) -> None:  # noqa: FBT001 - a measured value
    """Record whether a sync is in sync, and the seconds since its latest verification; nothing of what is unknown."""
    metrics = stack_metrics(sync=sync)
    if in_sync is not None:
        metrics.add_metric("InSync", MetricUnit.Count, int(in_sync))
    if age is not None:
        metrics.add_metric("VerificationAge", MetricUnit.Seconds, max(0.0, round(age)))
    if metrics.metric_set:
        metrics.flush_metrics()


def record_health(stale: int, out_of_sync: int) -> None:
    """Record the number of stale syncs, and of those that are not in sync."""
    metrics = stack_metrics()
    metrics.add_metric("SyncsStale", MetricUnit.Count, stale)
    metrics.add_metric("SyncsOutOfSync", MetricUnit.Count, out_of_sync)
    metrics.flush_metrics()


def log_undelivered(sync: str, channel: str, why: str) -> None:
    """Log and count a notification that a channel of a sync did not accept and that is not sent again."""
    logger.error("notification not delivered", extra={"sync": sync, "channel": channel, "why": why})
    metrics = stack_metrics()
    metrics.add_metric("NotificationsFailed", MetricUnit.Count, 1)
    metrics.flush_metrics()


def log_dropped_message(why: str, sync: str | None = None) -> None:
    """Log and count a message or an event that no sync accepts, so that it cannot be retried."""
    logger.warning("message dropped", extra={"sync": sync, "why": why} if sync else {"why": why})
    metrics = stack_metrics()
    metrics.add_metric("MessagesDropped", MetricUnit.Count, 1)
    metrics.flush_metrics()


def log_batch_end(about: Mapping[str, object], results: Sequence[Result], counts: Counts) -> None:
    """Log the counts of a batch, and each item with a code. `about` are fields that identify the batch."""
    for result in results:
        if result.code is not None:
            item = f"{result.group}:{result.name}"
            fields = {"item": item, "outcome": result.outcome.value, "code": result.code, "why": result.reason}
            log = logger.error if result.outcome is Outcome.FAILED else logger.warning
            log("item not moved", extra=fields)
    tally = {name: value for name, value in asdict(counts).items() if value}
    logger.info("batch ended", extra={**about, **tally})
