"""The decision when a notification of a sync is due, and its text. Everything here is pure.

A notification is due when the state of a sync differs from the one notified last, or a sync fails with a code that
was not. At most three are sent in an hour: the third one says that the state changes again and again, and nothing follows
until it has not changed for an hour. In quiet hours nothing is decided, so that at their end the state of that time
counts.
"""

from __future__ import annotations

import datetime as dt
import re
import time
import zoneinfo
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Self

from syncline.config.notify import QUIET, Notify
from syncline.config.sync import Sync
from syncline.errors import code_of
from syncline.escaping import escape
from syncline.model import Counts, Run, RunStatus
from syncline.secrets import redact
from syncline.store.alerts import Alert, Delivery
from syncline.store.drills import NO_PROOFS, Proofs
from syncline.store.health import Health

IN_SYNC: Final = "in sync"
FAILING: Final = "failing"
UNTRUSTED: Final = "untrusted"
CONFLICT: Final = "conflict"
UNEQUAL: Final = "unequal"
DRILL_FAILED: Final = "drill-failed"
STALE: Final = "stale"
ACKNOWLEDGED: Final = "acknowledged"
UNKNOWN: Final = "not known"
PAUSED: Final = "paused"
REMINDER: Final = "reminder"
FLAPPING: Final = "flapping"
BAD: Final = frozenset({FAILING, UNTRUSTED, CONFLICT, UNEQUAL, DRILL_FAILED, STALE})

HOUR: Final = 3600.0
MOST_AN_HOUR: Final = 3
"""Limit of the notifications about changes of one sync in an hour."""
EXAMPLES: Final = 3
_LONGEST_ITEM: Final = 200
_LONGEST_REASON: Final = 300
_LONGEST_TITLE: Final = 150


@dataclass(frozen=True, slots=True)
class Condition:
    """The state of a sync since a time in Unix seconds, with the codes with which it fails.

    ``stale_at`` is the time at which it becomes stale if nothing changes, None if it does not.
    """

    state: str
    since: float = 0.0
    codes: tuple[str, ...] = ()
    stale_at: float | None = None


def condition_of(  # noqa: PLR0911, PLR0913, PLR0917 - one for each state, and what is known of a sync
    sync: Sync, health: Health, last: Run | None, codes: Iterable[str], now: float, proofs: Proofs = NO_PROOFS
) -> Condition:
    """Return the state of a sync. ``last`` is its latest run that is over, ``codes`` are those of its known failures.

    Acknowledged failures are not among the codes. An audit that found differences counts until one finds none, and a
    failed restore drill until one is good.
    """
    fresh = sync.fresh_seconds
    start = max(health.verified, health.expected)
    stale_at = None if fresh is None or health.paused else start + fresh
    if health.paused or not sync.enabled:
        return Condition(PAUSED)
    counts = Counts() if last is None else last.counts
    failing = tuple(sorted(set(codes)))
    if health.in_sync is False and not failing and last is not None and last.status is RunStatus.LOST:
        failing = ("STEP_DIED",)
    if health.in_sync is False and failing:
        return Condition(FAILING, health.since, failing, stale_at)
    if health.in_sync is False and counts.untrusted:
        return Condition(UNTRUSTED, health.since, (), stale_at)
    if health.in_sync is False and counts.conflict:
        return Condition(CONFLICT, health.since, (), stale_at)
    if (disproved := _disproved(health, proofs)) is not None:
        return replace(disproved, stale_at=stale_at)
    if health.is_stale(fresh, now):
        return Condition(STALE, stale_at or 0.0)
    if health.in_sync:
        return Condition(IN_SYNC, health.since, (), stale_at)
    if health.in_sync is False and counts.acknowledged:
        return Condition(ACKNOWLEDGED, health.since, (), stale_at)
    return Condition(UNKNOWN, 0.0, (), stale_at)


def _disproved(health: Health, proofs: Proofs) -> Condition | None:
    """Return the state of a sync whose latest audit or restore drill was not good, None for others."""
    if proofs.has_unequal_audit(health):
        return Condition(UNEQUAL, proofs.audits.ended)
    drill = proofs.failed_drill(health)
    return None if drill is None else Condition(DRILL_FAILED, drill.ended)


def decide(  # noqa: PLR0911 - one for each reason to be silent
    alert: Alert, condition: Condition, rules: Notify, now: float
) -> tuple[Alert, str | None]:
    """Return the record after a decision, and the event that is to be notified: a state, a reminder, flapping, or None.

    The record has the event as told already. ``wake`` is the time at which another decision is needed.
    """
    # The clock of an earlier function may have been ahead: times in the future would silence the sync.
    alert = replace(
        alert,
        sent=tuple(min(at, now) for at in alert.sent if min(at, now) > now - HOUR),
        seen_at=min(alert.seen_at, now),
        told_at=min(alert.told_at, now),
        wake=None,
    )
    state = condition.state
    if state == PAUSED:
        seen_at = alert.seen_at if alert.seen == PAUSED else now
        return replace(alert, seen=PAUSED, seen_at=seen_at, notice=None, left=_beats(alert)), None
    if state == UNKNOWN:  # it remains what it was
        return replace(alert, wake=condition.stale_at), None
    if state != alert.seen:
        alert = replace(alert, seen=state, seen_at=now)
    if alert.flapping and now - alert.seen_at < HOUR:
        return replace(alert, wake=alert.seen_at + HOUR), None
    alert = replace(alert, flapping=False)
    event = _event(alert, condition, rules, now)
    if event is None:
        if state not in BAD and (alert.told not in BAD or state == ACKNOWLEDGED):
            alert = replace(alert, told=state, codes=(), since=condition.since)
        return replace(alert, wake=_wake(alert, condition, rules)), None
    held = None if state in rules.urgent else quiet_until(rules.quiet, now)
    if held is not None:
        # It may become stale before their end, and that may be urgent.
        stale_at = condition.stale_at if state not in BAD else None
        return replace(alert, wake=held if stale_at is None else min(held, stale_at)), None
    if len(alert.sent) >= MOST_AN_HOUR:
        return replace(alert, wake=alert.sent[0] + HOUR), None
    if len(alert.sent) == MOST_AN_HOUR - 1:
        event = FLAPPING
        alert = replace(alert, flapping=True, seen_at=now)
    told = replace(
        alert,
        told=state,
        codes=tuple(sorted({*condition.codes, *(alert.codes if alert.told == state else ())})),
        since=condition.since,
        told_at=now,
        sent=(*alert.sent, now),
    )
    wake = now + HOUR if told.flapping else _wake(told, condition, rules)
    return replace(told, wake=wake), event


def _event(alert: Alert, condition: Condition, rules: Notify, now: float) -> str | None:
    state = condition.state
    if state == IN_SYNC:
        return IN_SYNC if alert.told in BAD else None
    if state not in rules.states:
        return None
    if alert.told != state or set(condition.codes) - set(alert.codes):
        return state
    every = rules.reminder_seconds
    return REMINDER if every is not None and now - alert.told_at >= every else None


def _wake(alert: Alert, condition: Condition, rules: Notify) -> float | None:
    """Return the time at which the sync becomes stale or a reminder is due, None if neither will be."""
    times = [condition.stale_at] if condition.stale_at is not None and condition.state not in BAD else []
    if rules.reminder_seconds is not None and alert.told == condition.state and condition.state in rules.states:
        times.append(alert.told_at + rules.reminder_seconds)
    return min(times, default=None)


def _beats(alert: Alert) -> dict[str, Delivery]:
    """Return what is left to deliver without the notification: the heartbeat."""
    return {name: each for name, each in alert.left.items() if name == "heartbeat"}


def quiet_until(quiet: str | None, now: float) -> float | None:
    """Return the end of the quiet hours that last at a time, None if none do."""
    match = re.fullmatch(QUIET, quiet or "")
    if match is None:
        return None
    zone: dt.tzinfo = dt.UTC
    if match["zone"]:
        try:
            zone = zoneinfo.ZoneInfo(match["zone"])
        except (zoneinfo.ZoneInfoNotFoundError, ValueError):  # the machine has no database of time zones
            zone = dt.UTC
    here = dt.datetime.fromtimestamp(now, zone)
    begin, end = (dt.time.fromisoformat(match[name]) for name in ("begin", "end"))
    at = here.time()
    is_quiet = begin <= at < end if begin < end else at >= begin or at < end
    if not is_quiet:
        return None
    day = here.date() + dt.timedelta(days=at >= end)
    # A change of clocks may put the end before now; a moment later it is decided again.
    return max(now + 1, dt.datetime.combine(day, end, zone).timestamp())


@dataclass(frozen=True, slots=True)
class Example:
    """An item that is not in sync, with the code and the reason."""

    item: str
    code: str
    reason: str

    @classmethod
    def of(cls, item: str, code: str, reason: str) -> Self:
        """Return an example that is safe in every channel: on one line, cut, and without secrets."""
        return cls(_cut(item, _LONGEST_ITEM), code, _cut(reason, _LONGEST_REASON))


@dataclass(frozen=True, slots=True)
class Notice:
    """A notification of a sync. ``id`` is the same for each attempt to deliver it. Times are Unix seconds.

    ``since`` is the begin of the state, for a sync that is in sync again that of the state before it. ``stack`` is the
    name of the stack.
    """

    id: str
    event: str
    sync: str
    state: str
    since: float
    at: float
    count: int = 0
    codes: tuple[str, ...] = ()
    examples: tuple[Example, ...] = ()
    stack: str = ""

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Notice:
        """Return a stored notification, without fields that only another version of Syncline knows."""
        known = {name: value[name] for name in cls.__slots__ if name in value}
        examples = tuple(Example(each["item"], each["code"], each["reason"]) for each in value["examples"])
        return cls(**{**known, "codes": tuple(value["codes"]), "examples": examples})

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def title(self) -> str:
        """The subject, on one line."""
        items = f": {self.count:,} item{'s' * (self.count != 1)}" if self.count else ""
        codes = f" ({', '.join(self.codes[:3])}{', …' if len(self.codes) > 3 else ''})" if self.codes else ""
        says = {
            IN_SYNC: "is in sync again",
            REMINDER: f"is still {_adjective(self.state)}{items}{codes}",
            FLAPPING: f"changes again and again; now {_adjective(self.state)}{items}{codes}",
            "test": "sends a test notification",
        }.get(self.event, f"is {_adjective(self.state)}{items}{codes}")
        return _cut(f"[{self.stack or 'syncline'}] {self.sync} {says}", _LONGEST_TITLE)

    @property
    def commands(self) -> tuple[str, ...]:
        """The commands to run next."""
        name = self.sync
        return {
            FAILING: (f"syncline doctor {name}", f"syncline report {name}", f"syncline retry {name}"),
            UNTRUSTED: (f"syncline report {name}",),
            CONFLICT: (f"syncline report {name}",),
            UNEQUAL: (f"syncline audit {name} --last", f"syncline audit {name} --repair"),
            DRILL_FAILED: (f"syncline status {name}", f"syncline drill {name}"),
            STALE: (f"syncline doctor {name}", f"syncline run {name}"),
        }.get(self.state, (f"syncline status {name}",) if self.event == FLAPPING else ())

    @property
    def lines(self) -> tuple[str, ...]:
        """The text, without secrets, line by line."""
        lines = [f"{self.title}."]
        if self.event == IN_SYNC:
            lines.append(f"It had not been since {utc(self.since)}.")
        elif self.event != "test" and self.since:
            lines.append(f"Since {utc(self.since)}.")
        if self.event == FLAPPING:
            lines.append("Nothing more is sent until the state has not changed for an hour.")
        lines += [f"  {each.item}  {each.code}: {each.reason}" for each in self.examples]
        if self.count > len(self.examples) > 0:
            lines.append(f"  and {self.count - len(self.examples):,} more")
        lines += [f"{code}: {code_of(code).action}" for code in self.codes[:EXAMPLES]]  # type: ignore[arg-type]
        lines += [f"Run: {each}" for each in self.commands]
        return tuple(_clean(line) for line in lines)

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def public(self) -> dict[str, Any]:
        """Return the body of the webhook. Its fields keep their names and meanings within a version."""
        values = self.to_json() | {
            "version": 1,
            "title": self.title,
            "text": self.text,
            "commands": list(self.commands),
        }
        values |= {"since": _iso(self.since) if self.since else None, "at": _iso(self.at)}
        return values | {"codes": list(self.codes), "examples": [asdict(each) for each in self.examples]}


def _adjective(state: str) -> str:
    return {CONFLICT: "in conflict", UNEQUAL: "unequal in an audit", DRILL_FAILED: "failing its restore drill"}.get(
        state, state
    )


def _clean(text: str) -> str:
    return redact(escape(text))


def _cut(text: str, limit: int) -> str:
    text = _clean(text)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def utc(at: float) -> str:
    """Return a time in Unix seconds as people read it."""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(at))


def _iso(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))


@dataclass(frozen=True, slots=True)
class Beat:
    """A call of a heartbeat's URL: ``phase`` is start, success or fail. ``key`` identifies it."""

    key: str
    phase: str
    text: str


def beat_of(runs: Sequence[Run]) -> Beat | None:
    """Return the call that the latest runs of a sync, newest first, lead to; None without one.

    Only runs of everything say that a sync is well; any run says that it is not.
    """
    for run in runs:
        if run.plan:
            continue
        counts = run.counts
        failed = counts.failed + counts.known + counts.conflict + counts.untrusted
        if not run.over:
            if run.scope.everything:
                return Beat(f"{run.id}/start", "start", f"run {run.id} of {run.sync} has started")
        elif failed or run.status is not RunStatus.DONE:
            what = f"{counts.moved} moved, {failed} failed, in conflict or untrusted"
            ending = "failed" if run.status is RunStatus.DONE else f"was {run.status.value}"
            return Beat(f"{run.id}/end", "fail", f"run {run.id} of {run.sync} {ending}: {what}")
        elif run.scope.everything:
            what = f"{counts.moved} moved, {counts.removed} removed, {counts.skipped} equal"
            return Beat(f"{run.id}/end", "success", f"run {run.id} of {run.sync} succeeded: {what}")
    return None
