"""The vocabulary of Syncline, as types. This module imports no other one of the package."""

from __future__ import annotations

import hashlib
import json
import math
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Final, TypeVar

from syncline.errors import CodeName


class Trigger(StrEnum):
    """The cause of a run."""

    SCHEDULE = "schedule"
    WEBHOOK = "webhook"
    EVENT = "event"
    MANUAL = "hand"
    RETRY = "retry"
    START = "start"
    """`syncline up`, after the engine on one machine was killed."""


class Step(StrEnum):
    """A step of a run; its value is also the name of its queue."""

    DISCOVER = "discover"
    TRANSFER = "transfer"
    COMMIT = "commit"
    VERIFY = "verify"


class Outcome(StrEnum):
    """The outcome of an item. The value is stored, and shown in JSON."""

    MOVED = "moved"
    EQUAL = "skipped"
    LEFT_OUT = "left_out"  # by the selection or by the rule for Secrets, or the target cannot hold a counterpart
    REMOVED = "removed"
    EXTRA = "extra"  # only at the target, and not ours
    CONFLICT = "conflict"
    UNTRUSTED = "untrusted"  # a signature that the sync requires is absent or invalid
    FAILED = "failed"
    KNOWN = "known"  # failed in an earlier run with the same code and source
    WOULD_MOVE = "would_move"  # only in a plan
    WOULD_REMOVE = "would_remove"  # only in a plan
    CANCELLED = "cancelled"  # the run was cancelled first
    DIFFERENT = "different"  # only in an audit, as the next two
    MISSING = "missing"  # the target does not have the item
    UNREADABLE = "unreadable"  # source or target could not be read


class RunStatus(StrEnum):
    """The status of a run."""

    RUNNING = "running"
    CANCELLING = "cancelling"
    DONE = "done"
    CANCELLED = "cancelled"
    LOST = "lost"  # without a commit for longer than a message can stay invisible


_REFUSED: Final = re.compile("[\ud800-\udfff\ufffe\uffff]")
_MINUTE, _HOUR, _DAY = 60, 3600, 86_400
LAG_BOUNDS: Final = (
    *(1.0, 2.0, 3.0, 5.0, 7.0, 10.0, 15.0, 20.0, 30.0, 45.0),
    *(_MINUTE * each for each in (1.0, 1.5, 2.0, 3.0, 5.0, 7.0, 10.0, 15.0, 20.0, 30.0, 45.0)),
    *(_HOUR * each for each in (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 9.0, 12.0, 18.0)),
    *(_DAY * each for each in (1.0, 1.5, 2.0, 3.0, 5.0, 7.0, 10.0, 14.0, 30.0, 90.0)),
)
"""Upper bounds in seconds of the buckets of :class:`Lags`; the last bucket has none."""
_LAG: Final = "lag"  # with the number of a bucket, the name of its counter
_LAG_SECONDS: Final = "secondsOfLag"
SYSTEMS: Final = ("source", "target", "both", "other")
"""Systems of a sync. ``both`` is a server that is source and target, ``other`` one that these refer to."""
STATUSES: Final = ("2xx", "3xx", "4xx", "429", "5xx", "error")
"""Classes of responses by status; ``error`` is a request without a response."""
_COUNTED: Final = (*STATUSES, "throttled", "waited")
_TRAFFIC: Final = "traffic"
LARGEST_SCOPE: Final = 100_000
"""Limit of the names that one scan covers, in bytes of JSON: its run is an item of the table, its batch a message."""
_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class Scope:
    """The part of a sync that a scan covers: some groups, or everything if `groups` is None."""

    groups: tuple[str, ...] | None = None

    @classmethod
    def of(cls, groups: Iterable[str] | None) -> Scope:
        return cls(None) if groups is None else cls(tuple(sorted(set(groups))))

    @property
    def everything(self) -> bool:
        return self.groups is None

    @property
    def fits(self) -> bool:
        """Return True if one scan may cover it."""
        return self.groups is None or sum(map(json_bytes, self.groups)) <= LARGEST_SCOPE

    def parts(self) -> Iterator[Scope]:
        """Yield the scope in parts that one scan each may cover; none if it has no groups."""
        if self.groups is None:
            yield self
        else:
            for groups in portions(self.groups, json_bytes, LARGEST_SCOPE):
                yield Scope(tuple(groups))


def portions(
    values: Iterable[_Value], size: Callable[[_Value], int], limit: int, most: int | None = None
) -> Iterator[list[_Value]]:
    """Yield values, in their order, in portions of the size `limit` and `most` values at most; a larger value is alone."""
    portion, total = list[_Value](), 0
    for value in values:
        more = size(value)
        if portion and (total + more > limit or len(portion) == most):
            yield portion
            portion, total = [], 0
        portion.append(value)
        total += more
    if portion:
        yield portion


EVERYTHING: Final = Scope()


@dataclass(frozen=True, slots=True)
class Item:
    """The smallest thing that is transferred on its own.

    `group` is the group that has one writer at a time (for images a repository), and `name` identifies the item in it (a
    tag). `source` and `target` are the fingerprints that the scan knew: `source` is None if a request would be needed to
    learn it, `target` is None if the target does not have the item. `size` is in bytes, None if unknown. `detail` holds
    JSON values of the kind, for example the position of an unfinished transfer. `changed` is the time at which the source
    changed, in Unix seconds, None if the source does not tell.
    """

    group: str
    name: str
    source: str | None = None
    target: str | None = None
    size: int | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)
    changed: int | None = None

    def to_json(self) -> list[Any]:
        """Return the item without `changed`, which the message states: earlier versions read six values."""
        return [self.group, self.name, self.source, self.target, self.size, dict(self.detail)]

    @classmethod
    def from_json(cls, value: list[Any]) -> Item:
        return cls(*value)

    def __str__(self) -> str:
        return f"{self.group}:{self.name}"


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of one item, as the report shows it.

    `source` and `target` are the fingerprints that decided the outcome, and `moved_bytes` counts the bytes sent to the
    target. `code` is one of :mod:`syncline.errors` for a conflict or a failure, and `reason` one plain sentence. `lag` is
    the time in seconds from the change at the source to the verification at the target, for items moved or removed.
    """

    group: str
    name: str
    outcome: Outcome
    source: str | None = None
    target: str | None = None
    moved_bytes: int = 0
    code: CodeName | None = None
    reason: str | None = None
    lag: int | None = None

    def to_json(self) -> list[Any]:
        """Return the result without its lag, which is stored apart."""
        identity = [self.group, self.name, self.outcome.value, self.source, self.target]
        return [*identity, self.moved_bytes, self.code, self.reason]

    @classmethod
    def cancelled(cls, item: Item) -> Result:
        """Return the result of an item that is left as it is because its run was cancelled."""
        return cls(item.group, item.name, Outcome.CANCELLED, item.source, item.target)

    @classmethod
    def from_json(cls, value: list[Any], lag: int | None = None) -> Result:
        group, name, outcome, source, target, moved_bytes, code, reason = value
        return cls(group, name, Outcome(outcome), source, target, moved_bytes, code, reason, lag)

    def as_dict(self) -> dict[str, Any]:
        """Return the result as JSON values with field names."""
        return {**asdict(self), "outcome": self.outcome.value}


@dataclass(frozen=True, slots=True)
class Counts:
    """The items of a run by outcome, the `bytes` sent to the target, and the `requests` made to source and target.

    `queued` counts the items found to differ, each of which ends as moved, removed, conflict,
    untrusted, failed or cancelled. An
    item that turns out to be equal counts as `skipped` and no longer as queued; likewise one that is left out.

    `left_out` counts items that the selection or the rule for Secrets excludes, and keys of which the target cannot hold
    a counterpart. `extra` counts items that only the target has and that are not ours. Neither is a failure.

    `known` counts the known failures of the sync that the operator has not acknowledged, and `acknowledged` the others.
    For a run that is over they include known failures that the run has not met.

    `different`, `missing` and `unreadable` are outcomes of an audit, whose `bytes` are those read at the target.
    """

    queued: int = 0
    moved: int = 0
    skipped: int = 0
    left_out: int = 0
    removed: int = 0
    extra: int = 0
    conflict: int = 0
    untrusted: int = 0
    failed: int = 0
    known: int = 0
    acknowledged: int = 0
    cancelled: int = 0
    would_move: int = 0
    would_remove: int = 0
    bytes: int = 0
    requests: int = 0
    different: int = 0
    missing: int = 0
    unreadable: int = 0

    @property
    def ended(self) -> int:
        """The number of queued items that have ended."""
        return self.moved + self.removed + self.cancelled + self.failed + self.known + self.conflict + self.untrusted

    @property
    def not_restored(self) -> int:
        """The items of a restore drill that failed, without those whose failure in runs the operator acknowledged."""
        return self.failed + self.known + self.cancelled

    @classmethod
    def of(cls, results: Iterable[Result], *, equal: int = 0, **more: int) -> Counts:
        """Count results. `equal` and `more`, by the names of the counts, are added for items without a result."""
        tally = Counter(more | {"skipped": equal})
        for result in results:
            tally[result.outcome.value] += 1
            tally["bytes"] += result.moved_bytes
        return cls(**tally)


@dataclass(frozen=True, slots=True)
class Lags:
    """A histogram of lags: the number of items by the first of :data:`LAG_BOUNDS` that their lag does not exceed.

    `seconds` is the sum of all lags.
    """

    buckets: Mapping[int, int] = field(default_factory=dict)
    seconds: int = 0

    @classmethod
    def of(cls, results: Iterable[Result]) -> Lags:
        lags = [each.lag for each in results if each.lag is not None]
        return cls(Counter(bisect_left(LAG_BOUNDS, lag) for lag in lags), sum(lags))

    @classmethod
    def total(cls, histograms: Iterable[Lags]) -> Lags:
        """Return the sum of histograms."""
        counters = Counter[str]()
        for each in histograms:
            counters.update(each.counters)
        return cls.from_counters(counters)

    @classmethod
    def from_counters(cls, counters: Mapping[str, Any]) -> Lags:
        """Return the histogram whose :attr:`counters` are among others."""
        names = [name for name in counters if name.startswith(_LAG) and name.removeprefix(_LAG).isdecimal()]
        buckets = {int(name.removeprefix(_LAG)): int(counters[name]) for name in names}
        return cls(buckets, int(counters.get(_LAG_SECONDS, 0)))

    @property
    def counters(self) -> dict[str, int]:
        """The histogram as counters by name, which can be added to those of another."""
        if not self.buckets:
            return {}
        return {_LAG_SECONDS: self.seconds} | {f"{_LAG}{bucket}": count for bucket, count in self.buckets.items()}

    @property
    def count(self) -> int:
        """The number of items."""
        return sum(self.buckets.values())

    def within(self, bound: float) -> int:
        """Return the number of items whose lag did not exceed a bound, which is one of :data:`LAG_BOUNDS`."""
        last = bisect_left(LAG_BOUNDS, bound)
        return sum(count for bucket, count in self.buckets.items() if bucket <= last)

    def percentile(self, share: float) -> float | None:
        """Return the bound in seconds that a share of the lags (such as 0.95) does not exceed; None without items.

        It is one of :data:`LAG_BOUNDS`, or infinity.
        """
        left = share * self.count
        for bucket in sorted(self.buckets):
            left -= self.buckets[bucket]
            if left <= 0:
                return LAG_BOUNDS[bucket] if bucket < len(LAG_BOUNDS) else math.inf
        return None


@dataclass(frozen=True, slots=True)
class Traffic:
    """Counts of requests over HTTP by the system that they were sent to, and by a kind of count.

    A system is one of :data:`SYSTEMS`. The kind of count is one of :data:`STATUSES` for the responses, ``throttled`` for
    the responses that asked to slow down, or ``waited`` for the milliseconds that requests were held back for that.
    """

    counts: Mapping[tuple[str, str], int] = field(default_factory=dict)

    @classmethod
    def from_counters(cls, counters: Mapping[str, Any]) -> Traffic:
        """Return the traffic whose :attr:`counters` are among others."""
        keys = {f"{_TRAFFIC}_{system}_{what}": (system, what) for system in SYSTEMS for what in _COUNTED}
        return cls({key: int(counters[name]) for name, key in keys.items() if name in counters})

    @classmethod
    def total(cls, parts: Iterable[Traffic]) -> Traffic:
        """Return the sum of several."""
        counts = Counter[tuple[str, str]]()
        for each in parts:
            counts.update(each.counts)
        return cls(counts)

    @property
    def counters(self) -> dict[str, int]:
        """The traffic as counters by name, which can be added to those of another."""
        return {f"{_TRAFFIC}_{system}_{what}": count for (system, what), count in self.counts.items() if count}


NO_TRAFFIC: Final = Traffic()


def drill_succeeded(compared: int, failed: int) -> bool:
    """Return True if a restore drill has compared an item, and no item failed."""
    return compared > 0 and not failed


@dataclass(frozen=True, slots=True)
class Waiting:
    """The reason why work of a run waits: the code and the text of an error.

    It was noted first at `since` and last at `at`; the work is tried again at `until`. All are Unix seconds.
    """

    code: CodeName
    what: str
    since: float
    at: float
    until: float


@dataclass(frozen=True, slots=True)
class Audit:
    """The options of an audit: how much of each item it reads.

    Without any, only fingerprints are compared. With `parts`, all parts of the target's items are checked to exist with
    their sizes. With `deep`, the bytes of share `part` of `of` are also read and hashed; part 0 is the share that is due
    next. With `allow_extra`, extra items are reported but do not make source and target unequal.
    """

    parts: bool = False
    deep: bool = False
    part: int = 1
    of: int = 1
    allow_extra: bool = False

    def to_json(self) -> list[Any]:
        return [self.parts, self.deep, self.part, self.of, self.allow_extra]

    @classmethod
    def from_json(cls, value: Iterable[Any]) -> Audit:
        parts, deep, part, of, allow_extra = value
        return cls(bool(parts), bool(deep), int(part), int(of), bool(allow_extra))

    def covers(self, digest: str) -> bool:
        """Return True if content belongs to the share that a deep audit reads, by a hash of its digest or name."""
        hashed = hashlib.blake2b(digest.encode(errors="surrogatepass"), digest_size=8).digest()
        return int.from_bytes(hashed) % self.of == self.part - 1

    def is_equal(self, counts: Counts) -> bool:
        """Return True if the counts of an audit show that source and target are equal. Without an equal item they show nothing."""
        extra = 0 if self.allow_extra else counts.extra
        return counts.skipped > 0 and not (
            counts.different or counts.missing or counts.unreadable or counts.failed or extra
        )


@dataclass(frozen=True, slots=True)
class Run:
    """One execution of a sync. Times are Unix seconds; `number` grows by one with each run of a sync.

    `allow_removals` is the number of removals that the operator allowed for this run in place of the sync's limits, None
    if the limits apply. `config` is the digest of the configuration that the run began with and keeps, None for a run of
    a version that did not record it. `waiting` is the latest reason why work of it waited, None if none did. `lag_start`
    is the time since which a difference can exist (:mod:`syncline.store.health`). `lags` and `traffic` are empty until the
    run is over. `audit` has the options of an audit, `drill` the share of the items that a restore drill restores; both
    write nothing and are also a `plan`.
    """

    id: str
    sync: str
    number: int
    trigger: Trigger
    scope: Scope
    started: float
    status: RunStatus = RunStatus.RUNNING
    plan: bool = False
    ended: float | None = None
    counts: Counts = field(default_factory=Counts)
    allow_removals: int | None = None
    config: str | None = None
    waiting: Waiting | None = None
    lag_start: float = 0.0
    lags: Lags = field(default_factory=Lags)
    traffic: Traffic = field(default_factory=Traffic)
    audit: Audit | None = None
    drill: float | None = None

    @property
    def over(self) -> bool:
        return self.status in (RunStatus.DONE, RunStatus.CANCELLED, RunStatus.LOST)

    def as_dict(self) -> dict[str, Any]:
        """Return the run as JSON values with field names."""
        value = asdict(self)
        value |= {"trigger": self.trigger.value, "status": self.status.value, "scope": self.scope.groups}
        del value["lag_start"], value["lags"], value["traffic"]  # the command shows percentiles
        return value


def json_bytes(value: Any) -> int:
    """Return the bytes that a value takes in a list of JSON."""
    return len(compact_json(value).encode()) + 1


def compact_json(value: Any) -> str:
    """Return JSON without spaces, with keys in the given order.

    Non-ASCII characters are kept, but lone surrogates, U+FFFE and U+FFFF, which UTF-8 or SQS refuse, are escaped.
    """
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return _REFUSED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
