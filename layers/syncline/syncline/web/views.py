"""The syncs and runs as pages show them, computed from the state in the table."""

from __future__ import annotations

import json
import math
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from syncline.errors import SynclineError
from syncline.kinds.table import KindInfo, kind_info
from syncline.model import Run, RunStatus, Trigger
from syncline.progress import (
    ProgressHistory,
    Sample,
    Throughput,
    ended_items,
    known_items,
    seconds_left,
    waiting_reason,
)
from syncline.run_text import is_bad, source_and_target
from syncline.schedule import DURATION, next_time, seconds_of
from syncline.store.audits import AuditRecord
from syncline.store.batches import Progress
from syncline.store.drills import Drill
from syncline.store.overview import SyncState
from syncline.store.table import AWS_ERRORS
from syncline.telemetry import logger
from syncline.text import count_phrases, number, size
from syncline.web.charts import Chart, chart

_REMEMBERED: Final = 64
_RATES: Final = 64
_REASONS: Final = ("not in sync", "stale", "unknown")
"""The reasons for which a sync needs attention, the most urgent first."""
_RETRIED_AFTER: Final = 5.0
"""Seconds after which a table that could not be read is read again."""
_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class Known(Generic[_Value]):
    """A value that was read, and the time since which the table cannot be read, None if it was read just now."""

    value: _Value
    unreachable: float | None = None


class LastKnown:
    """The last values that were read, for the time when the table cannot be read. `clock` returns Unix seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._values: OrderedDict[object, Any] = OrderedDict()
        self._since: float | None = None
        self._failed = 0.0

    def get(self, key: object, read: Callable[[], _Value]) -> Known[_Value]:
        """Return a value that was just read or, if the table cannot be read, the last one.

        Raises AWS_UNAVAILABLE if there is none.
        """
        if self._since is not None and 0 <= self._clock() - self._failed < _RETRIED_AFTER:
            return self._remembered(key, self._since)  # a page reads several values, and each attempt takes seconds
        try:
            value = read()
        except (*AWS_ERRORS, SynclineError) as error:
            if isinstance(error, SynclineError) and not error.is_any("AWS_UNAVAILABLE"):
                raise
            logger.error("console cannot read the table", extra={"why": str(error)})
            self._failed = self._clock()
            self._since = self._failed if self._since is None else self._since
            return self._remembered(key, self._since)
        self._since = None
        self._values.pop(key, None)
        self._values[key] = value
        if len(self._values) > _REMEMBERED:
            self._values.popitem(last=False)
        return Known(value)

    def _remembered(self, key: object, since: float) -> Known[Any]:
        if key in self._values:
            return Known(self._values[key], since)
        what = f"the table has not been reachable since {clock_time(since)}, and nothing was read before that"
        raise SynclineError("AWS_UNAVAILABLE", what) from None


def clock_time(moment: float) -> str:
    """Return a time as text: ``14:02 UTC``."""
    return time.strftime("%H:%M UTC", time.gmtime(moment))


@dataclass(frozen=True, slots=True)
class Activity:
    """The progress of a run: items ended and known so far, and as text the rate, the time left and the notes.

    `left` is in seconds, None if unknown.
    """

    run: Run
    ended: int
    known: int
    rate: str
    left: float | None
    waiting: str


class Rates:
    """The latest counts of runs in progress, for their throughput. `clock` returns Unix seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._histories: OrderedDict[str, ProgressHistory] = OrderedDict()

    def activity(self, run: Run, progress: Progress) -> Activity:
        """Return the progress of a run in progress."""
        now, counts = self._clock(), progress.counts
        history = self._histories.setdefault(run.id, ProgressHistory())
        history.add(Sample(now, counts))
        self._histories.move_to_end(run.id)
        if len(self._histories) > _RATES:
            self._histories.popitem(last=False)
        speed = history.throughput
        if speed == Throughput() and (seconds := max(progress.advanced, run.started) - run.started) >= 1:
            speed = Throughput(ended_items(counts) / seconds, counts.bytes / seconds)  # the average so far
        rates = [f"{number(speed.items)} items/s"] if speed.items else []
        rates += [f"{size(speed.bytes)}/s"] if speed.bytes else []
        waiting = waiting_reason(run, progress, now)
        return Activity(
            run,
            ended_items(counts),
            known_items(counts),
            ", ".join(rates),
            seconds_left(counts, speed.items),
            "" if waiting is None else f"{waiting.code}: {waiting.what}",
        )


@dataclass(frozen=True, slots=True)
class SyncView:
    """One sync on a page. Times are in Unix seconds, None if unknown; `state` is the value that styles and tests use.

    `audits` is what is known of its audits, `drill` the latest restore drill. `failing` counts the items that the last run
    has failed, and the earlier failures that it has not solved.
    """

    name: str
    kind: KindInfo
    config: Mapping[str, Any]
    state: str
    since: float | None
    verified: float | None
    fresh_within: str | None
    stale: bool
    paused: float | None
    enabled: bool
    activity: Activity | None
    last: Run | None
    next: float | None
    failing: int | None
    acknowledged: int | None
    audits: AuditRecord
    audit_stale: bool
    drill: Drill | None = None

    @property
    def schedule(self) -> str | None:
        """The schedule in the configuration."""
        return self.config.get("schedule")

    @property
    def timezone(self) -> str | None:
        """The time zone of the schedule, None for UTC."""
        return self.config.get("timezone")

    @property
    def endpoints(self) -> str:
        """The source and the target."""
        return source_and_target(self.config)

    @property
    def attention(self) -> str | None:
        """The reason for which somebody has to act: not in sync, stale or unknown; None if there is none."""
        if self.state == "not-in-sync" or self.failing:
            return "not in sync"
        if self.stale or self.audit_stale:
            return "stale"
        is_expected = self.kind.has_runs and self.enabled and self.paused is None and self.activity is None
        return "unknown" if self.state == "unknown" and is_expected else None


def by_attention(syncs: Iterable[SyncView]) -> list[SyncView]:
    """Return the syncs that need attention, then those with a run in progress, then the others; each by name."""

    def order(sync: SyncView) -> tuple[int, str]:
        rank = len(_REASONS) + (sync.activity is None) if sync.attention is None else _REASONS.index(sync.attention)
        return rank, sync.name

    return sorted(syncs, key=order)


def summary(syncs: Sequence[SyncView]) -> str:
    """Return how many syncs need attention, and why, as one sentence."""
    reasons = Counter(sync.attention for sync in syncs if sync.attention is not None)
    if found := reasons.total():
        needed = f"{number(found)} of {number(len(syncs))} {'sync needs' if len(syncs) == 1 else 'syncs need'}"
        return f"{needed} attention: {', '.join(count_phrases(*((reasons[each], each) for each in _REASONS)))}."
    if all(sync.state == "in-sync" for sync in syncs):
        return f"All {number(len(syncs))} syncs are in sync." if len(syncs) > 1 else "The sync is in sync."
    return f"None of {number(len(syncs))} syncs needs attention."


def sync_view(sync: SyncState, rates: Rates, now: float) -> SyncView:
    """Return a sync as a page shows it."""
    config = _config(sync.config)
    kind, health, enabled = kind_info(str(config.get("kind"))), sync.health, bool(config.get("enabled", True))
    fresh, within = config.get("fresh_within"), (config.get("audit") or {}).get("within")
    limit = _seconds(fresh) if enabled else None
    activity = None
    if sync.current is not None and sync.progress is not None and not sync.current.over:
        activity = rates.activity(sync.current, sync.progress)
    return SyncView(
        sync.name,
        kind,
        config,
        {None: "unknown", True: "in-sync", False: "not-in-sync"}[health.in_sync],
        health.since or None,
        health.verified or None,
        fresh,
        kind.has_runs and health.is_stale(limit, now),
        health.paused or None,
        enabled,
        activity,
        sync.last,
        _next_start(config, sync, now) if enabled and not health.paused else None,
        None if sync.last is None else sync.last.counts.failed + sync.last.counts.known,
        None if sync.last is None else sync.last.counts.acknowledged,
        sync.audits,
        enabled and sync.audits.is_stale(_seconds(within), health, now),
        sync.drill,
    )


def _seconds(duration: object) -> float | None:
    """Return a duration of a configuration in seconds, None for one of another version."""
    return seconds_of(duration) if isinstance(duration, str) and DURATION.fullmatch(duration) else None


def _config(text: str) -> Mapping[str, Any]:
    try:
        config = json.loads(text)
    except ValueError:
        return {}
    return config if isinstance(config, dict) else {}


def _next_start(config: Mapping[str, Any], sync: SyncState, now: float) -> float | None:
    """Return the next start by the schedule in the configuration, None without one.

    A rate counts from the latest scheduled start, else from the time when the sync was applied.
    """
    schedule, timezone = config.get("schedule"), config.get("timezone")
    if not isinstance(schedule, str):
        return None
    last = sync.last.started if sync.last is not None and sync.last.trigger is Trigger.SCHEDULE else 0.0
    since = max(sync.applied, last) or now
    try:
        return next_time(schedule, timezone, now, since)
    except (ValueError, LookupError, OSError):  # of another version, or without a time zone database
        return None


def run_state(run: Run) -> str:
    """Return how a run ended, as one word for styles: running, cancelling, cancelled, lost, failed or done."""
    if run.status is RunStatus.DONE:
        return "failed" if is_bad(run) else "done"
    return run.status.value


def run_seconds(run: Run) -> float | None:
    """Return the duration of a run in seconds, None while it is in progress."""
    return None if run.ended is None else max(run.ended - run.started, 0.0)


def items_per_second(run: Run) -> float | None:
    """Return the throughput of a run in items per second; None if it is in progress or transferred nothing."""
    seconds, items = run_seconds(run), run.counts.moved + run.counts.removed
    return None if seconds is None or not items else items / max(seconds, 1.0)


def lag_chart(runs: Sequence[Run], text: Callable[[float], str]) -> Chart | None:
    """Return the plot of the percentiles of lag; `runs` are the newest first."""
    columns: list[tuple[str, dict[str, float | None]]] = [
        (_label(run), {"p50": run.lags.percentile(0.5), "p95": run.lags.percentile(0.95)})
        for run in reversed(runs)
        if run.lags.count
    ]
    return chart(columns, lambda value: "unbounded" if math.isinf(value) else text(value), logarithmic=True)


def throughput_chart(runs: Sequence[Run]) -> Chart | None:
    """Return the plot of items per second; `runs` are the newest first."""
    columns: list[tuple[str, dict[str, float | None]]] = [
        (_label(run), {"items": items_per_second(run)}) for run in reversed(runs) if run.over and not run.plan
    ]
    return chart(columns, lambda value: f"{number(value)}/s")


def _label(run: Run) -> str:
    return time.strftime("%d %b %H:%M", time.gmtime(run.started))
