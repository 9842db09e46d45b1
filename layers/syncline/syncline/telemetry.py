"""Logs and metrics: structured lines with Powertools, and nothing secret in any of them."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.logging.formatter import LambdaPowertoolsFormatter
from aws_lambda_powertools.logging.types import LogRecord
from aws_lambda_powertools.metrics import EphemeralMetrics, MetricUnit

from syncline.model import Counts, Outcome, Result, Run
from syncline.secrets import redact


class RedactingFormatter(LambdaPowertoolsFormatter):
    """Powertools' JSON lines, with every known secret replaced wherever it occurs in a line.

    The level is in lower case, and every line has an ``operation``: the function's name unless the line has its own.
    Queries on the logs of git-sync rely on both.
    """

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))

    def serialize(self, log: LogRecord) -> str:
        line: dict[str, Any] = {**log, "level": str(log["level"]).lower()}
        return super().serialize({"operation": line.get("service", "syncline")} | line)


logger = Logger(logger_formatter=RedactingFormatter(), utc=True)
metrics = Metrics()

# A call that ended no batch has nothing to count, and that is no reason for a warning.
warnings.filterwarnings("ignore", message="No application metrics to publish")

_COUNTED = ("moved", "skipped", "left_out", "removed", "extra", "conflict", "failed", "known")


def run_ended(run: Run) -> None:
    """Say how a run ended: one log line, and a metric for each outcome with the sync as its dimension."""
    counts = run.counts
    seconds = round((run.ended or run.started) - run.started, 3)
    fields: dict[str, Any] = {"sync": run.sync, "run": run.id, "status": run.status.value, "number": run.number}
    fields |= {name: getattr(counts, name) for name in (*_COUNTED, "bytes", "requests")} | {"seconds": seconds}
    say = logger.warning if counts.failed + counts.known + counts.conflict else logger.info
    say("run ended", extra=fields)
    # Metrics of their own: the dimension is not to spread to what else this call counts.
    ended = EphemeralMetrics()
    ended.add_dimension("sync", run.sync)
    for name in _COUNTED:
        words = name.title().replace("_", "")
        ended.add_metric(f"Items{words}", MetricUnit.Count, getattr(counts, name))
    ended.add_metric("BytesMoved", MetricUnit.Bytes, counts.bytes)
    ended.add_metric("RunSeconds", MetricUnit.Seconds, seconds)
    ended.add_metric("RunsFailed", MetricUnit.Count, int(counts.failed + counts.known > 0))
    if not counts.failed and not counts.known and run.ended is not None:
        ended.add_metric("LastSuccess", MetricUnit.Seconds, run.ended)  # Unix time
    ended.flush_metrics()


def operation(sync: str, name: str, data: Mapping[str, Any], gauges: Mapping[str, float]) -> None:
    """Log an ``operation`` of a kind with its ``data``, and emit its metrics by sync.

    A name that ends with ``_failed`` is logged as an error.
    """
    say = logger.error if name.endswith("_failed") else logger.info
    say(name.replace("_", " "), extra={"sync": sync, "operation": name, "data": dict(data)})
    if gauges:
        said = EphemeralMetrics()
        said.add_dimension("sync", sync)
        for metric, value in gauges.items():
            said.add_metric(metric, MetricUnit.Count, value)
        said.flush_metrics()


def batch_ended(about: Mapping[str, object], results: Sequence[Result], counts: Counts) -> None:
    """Log the counts of a batch and a line for each item with a code, an error for a failed one; add the metrics.

    ``about`` are fields that identify the batch.
    """
    for result in results:
        if result.code is not None:
            item = f"{result.group}:{result.name}"
            fields = {"item": item, "outcome": result.outcome.value, "code": result.code, "why": result.reason}
            say = logger.error if result.outcome is Outcome.FAILED else logger.warning
            say("item not moved", extra=fields)
    tally = {name: value for name, value in asdict(counts).items() if value}
    logger.info("batch ended", extra={**about, **tally})
    metrics.add_metric("Moved", MetricUnit.Count, counts.moved)
    metrics.add_metric("Failed", MetricUnit.Count, counts.failed)
