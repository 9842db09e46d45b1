"""The words of Syncline as types. Nothing here imports anything of Syncline's."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from typing import Any, Final

from syncline.errors import CodeName


class Trigger(StrEnum):
    """What started a run."""

    SCHEDULE = "schedule"
    WEBHOOK = "webhook"
    EVENT = "event"
    HAND = "hand"
    RETRY = "retry"
    START = "start"
    """`syncline up` after the engine on one machine was ended by force."""


class Step(StrEnum):
    """What a function does to items; also the name of its queue."""

    DISCOVER = "discover"
    TRANSFER = "transfer"
    COMMIT = "commit"
    VERIFY = "verify"


class Outcome(StrEnum):
    """How a step ended for an item."""

    MOVED = "moved"
    SKIPPED = "skipped"
    LEFT_OUT = "left_out"  # by the selection or by the rule for Secrets, or the target cannot hold a counterpart
    REMOVED = "removed"
    EXTRA = "extra"  # at the target alone, and not ours
    CONFLICT = "conflict"
    FAILED = "failed"
    KNOWN = "known"  # a known failure: failed in an earlier run, too, with the same code and source
    WOULD_MOVE = "would_move"  # only in a plan
    WOULD_REMOVE = "would_remove"  # only in a plan
    CANCELLED = "cancelled"  # the run was cancelled before its turn came


class RunStatus(StrEnum):
    """Where a run stands."""

    RUNNING = "running"
    CANCELLING = "cancelling"
    DONE = "done"
    CANCELLED = "cancelled"
    LOST = "lost"  # nothing was heard of it for longer than a message can live unseen


_REFUSED: Final = re.compile("[\ud800-\udfff\ufffe\uffff]")
LARGEST_SCOPE: Final = 100_000
"""Bytes of names, as JSON, that one look may cover: its run is an item of the table, its batch a message."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What a look covers: everything, or some groups (for images: repositories as the target names them).

    ``groups`` is ``None`` for everything.
    """

    groups: tuple[str, ...] | None = None

    @classmethod
    def of(cls, groups: Iterable[str] | None) -> Scope:
        return cls(None) if groups is None else cls(tuple(sorted(set(groups))))

    @property
    def everything(self) -> bool:
        return self.groups is None

    @property
    def fits(self) -> bool:
        """Whether one look may cover it."""
        return self.groups is None or sum(map(json_bytes, self.groups)) <= LARGEST_SCOPE

    def parts(self) -> Iterator[Scope]:
        """The same as scopes that one look each may cover; none where there is nothing to look at."""
        if self.groups is None:
            yield self
        else:
            yield from map(Scope, portions(self.groups))


def portions(names: Iterable[str]) -> Iterator[tuple[str, ...]]:
    """Names, in their order, in portions that one look each may cover."""
    portion: list[str] = []
    size = 0
    for name in names:
        more = json_bytes(name)
        if portion and size + more > LARGEST_SCOPE:
            yield tuple(portion)
            portion, size = [], 0
        portion.append(name)
        size += more
    if portion:
        yield tuple(portion)


EVERYTHING: Final = Scope()


@dataclass(frozen=True, slots=True)
class Item:
    """The smallest thing that moves by itself.

    ``group`` is the target reference that has one writer at a time (for images the repository) and ``name`` the item
    in it (the tag). ``source`` and ``target`` are fingerprints as far as the look knew them: ``source`` may be
    unknown where learning it costs a request, ``target`` is None where the target has nothing. ``size`` is in bytes,
    if known. ``detail`` is the kind's own, of JSON values: for example where a half-done transfer stands.
    """

    group: str
    name: str
    source: str | None = None
    target: str | None = None
    size: int | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> list[Any]:
        return [self.group, self.name, self.source, self.target, self.size, dict(self.detail)]

    @classmethod
    def from_json(cls, value: list[Any]) -> Item:
        return cls(*value)

    def __str__(self) -> str:
        return f"{self.group}:{self.name}"


@dataclass(frozen=True, slots=True)
class Result:
    """How a step ended for one item, as the report shows it.

    ``source`` and ``target`` are the fingerprints the outcome rests on; ``moved_bytes`` counts what was sent to the
    target; ``code`` is one of :mod:`syncline.errors` for a conflict or a failure, ``reason`` one plain sentence.
    """

    group: str
    name: str
    outcome: Outcome
    source: str | None = None
    target: str | None = None
    moved_bytes: int = 0
    code: CodeName | None = None
    reason: str | None = None

    def to_json(self) -> list[Any]:
        return [
            self.group,
            self.name,
            self.outcome.value,
            self.source,
            self.target,
            self.moved_bytes,
            self.code,
            self.reason,
        ]

    @classmethod
    def cancelled(cls, item: Item) -> Result:
        """Return the result of an item that is left as it is, for its run was cancelled."""
        return cls(item.group, item.name, Outcome.CANCELLED, item.source, item.target)

    @classmethod
    def from_json(cls, value: list[Any]) -> Result:
        group, name, outcome, source, target, moved_bytes, code, reason = value
        return cls(group, name, Outcome(outcome), source, target, moved_bytes, code, reason)

    def as_dict(self) -> dict[str, Any]:
        """The result with its field names, for people's JSON."""
        return {**asdict(self), "outcome": self.outcome.value}


@dataclass(frozen=True, slots=True)
class Counts:
    """What a run did, in items; ``bytes`` were sent to the target, ``requests`` made to source and target.

    ``queued`` counts the items found to differ, each of which ends as moved, removed, conflict, failed or cancelled. One
    that turns out to be equal after all is skipped, and counts as queued no more; likewise one that is left out.

    ``left_out`` counts what the selection or the rule for Secrets excludes, and keys of which the target cannot hold a
    counterpart. ``extra`` counts items that the target alone has and that are not ours. Neither is ever a failure.

    ``known`` counts the known failures of the sync, and ``acknowledged`` those of them that the operator has
    acknowledged, which are not among ``known``. Of a run that is over they count all there are, also those that the run
    has not met.
    """

    queued: int = 0
    moved: int = 0
    skipped: int = 0
    left_out: int = 0
    removed: int = 0
    extra: int = 0
    conflict: int = 0
    failed: int = 0
    known: int = 0
    acknowledged: int = 0
    cancelled: int = 0
    would_move: int = 0
    would_remove: int = 0
    bytes: int = 0
    requests: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})

    @property
    def ended(self) -> int:
        """Queued items that have come to an end."""
        return self.moved + self.removed + self.cancelled + self.failed + self.known + self.conflict

    @classmethod
    def of(  # noqa: PLR0913 - each is a count, by its name
        cls,
        results: Iterable[Result],
        *,
        skipped: int = 0,
        left_out: int = 0,
        extra: int = 0,
        queued: int = 0,
        requests: int = 0,
    ) -> Counts:
        """Tally results; ``skipped``, ``left_out`` and ``extra`` add items that have no result of their own."""
        tally: dict[str, int] = dict.fromkeys((o.value for o in Outcome), 0)
        moved_bytes = 0
        for result in results:
            tally[result.outcome.value] += 1
            moved_bytes += result.moved_bytes
        tally["skipped"] += skipped
        tally["left_out"] += left_out
        tally["extra"] += extra
        return cls(**tally, queued=queued, bytes=moved_bytes, requests=requests)


@dataclass(frozen=True, slots=True)
class Waiting:
    """Why work of a run waits or was put back: an error's code and text.

    It was noted at ``at`` last, and at ``since`` first; ``until`` is when the work is tried again. All are Unix seconds.
    """

    code: CodeName
    what: str
    since: float
    at: float
    until: float


@dataclass(frozen=True, slots=True)
class Run:
    """One execution of a sync. Times are Unix seconds; ``number`` grows by one with each run of a sync.

    ``allow_removals`` is the number of removals that the operator allowed for this run in place of the sync's limits,
    None where the limits hold. ``config`` is the digest of the configuration that the run began with, which it keeps;
    None for a run of a version that did not record it. ``waiting`` is why work of it waited last, None if none did.
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

    @property
    def over(self) -> bool:
        return self.status in (RunStatus.DONE, RunStatus.CANCELLED, RunStatus.LOST)

    def as_dict(self) -> dict[str, Any]:
        """The run with its field names, for people's JSON."""
        value = asdict(self)
        value |= {"trigger": self.trigger.value, "status": self.status.value, "scope": self.scope.groups}
        return value


def json_bytes(value: Any) -> int:
    """Return the bytes that a value takes in a list of JSON."""
    return len(compact_json(value).encode()) + 1


def compact_json(value: Any) -> str:
    """Return JSON without spaces, keys in the order given.

    Non-ASCII is kept, except what UTF-8 or SQS refuses: lone surrogates, U+FFFE and U+FFFF become escapes.
    """
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return _REFUSED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
