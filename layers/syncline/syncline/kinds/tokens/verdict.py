"""The verdict on a token, as it follows from the answers of the instances. Nothing here asks or waits."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_HALF: Final = 2
_REFUSED: Final = 401


class Verdict(enum.Enum):
    """The words of the contract, spelt as its clients know them."""

    SYNCED = "Synced"
    PARTIALLY = "Partialy"
    NOT_SYNCED = "NotSynced"
    TIMEOUT = "Timeout"


class Known(enum.Enum):
    """The same with the one word more that the body has: nothing was seen that would carry a verdict."""

    SYNCED = "Synced"
    PARTIALLY = "Partialy"
    NOT_SYNCED = "NotSynced"
    TIMEOUT = "Timeout"
    UNKNOWN = "Unknown"

    @property
    def header(self) -> Verdict:
        """The word for ``X-Token-Status``: what is not known is not synced."""
        return Verdict.NOT_SYNCED if self is Known.UNKNOWN else Verdict(self.value)


class Reason(enum.Enum):
    """Why the verdict is what it is, in one word."""

    ALL_AGREE = "all_agree"
    QUORUM_AGREES = "quorum_agrees"
    ONLY_INSTANCE = "only_instance"
    SOME_DO_NOT = "some_do_not"
    SOME_UNKNOWN = "some_unknown"
    TOO_FEW = "too_few"
    NOT_IN_TIME = "not_in_time"
    ORIGIN_REFUSES = "origin_refuses"
    ORIGIN_SILENT = "origin_silent"
    ORIGIN_NOT_LISTED = "origin_not_listed"
    TOKEN_EXPIRED = "token_expired"  # noqa: S105 - a word of the contract
    TOKEN_MISSING = "token_missing"  # noqa: S105
    TOKEN_INVALID = "token_invalid"  # noqa: S105
    TOKEN_TOO_LONG = "token_too_long"  # noqa: S105
    ORIGIN_MISSING = "origin_missing"
    ORIGIN_INVALID = "origin_invalid"
    ORIGIN_AMBIGUOUS = "origin_ambiguous"
    NO_SUCH_SYNC = "no_such_sync"
    LIST_MISSING = "list_missing"
    LIST_EMPTY = "list_empty"
    LIST_FAILED = "list_failed"
    LIST_STALE = "list_stale"
    NOT_CONFIGURED = "not_configured"
    INTERNAL = "internal"


class State(enum.Enum):
    """State of one instance: of one that failed or gave no answer it is unknown whether it has the token."""

    YES = "has_it"
    NO = "not_yet"
    FAILED = "failed"
    PENDING = "no_answer"


@dataclass(slots=True)
class Seen:
    """What one instance said. ``first_yes`` is in milliseconds from the question's beginning."""

    name: str
    address: str
    state: State = State.PENDING
    attempts: int = 0
    first_yes: float | None = None
    last_status: int | None = None
    reason: str = ""

    @property
    def unknown(self) -> bool:
        """Return True if it has neither confirmed nor refused the token, however often it was asked."""
        return self.state is State.FAILED or (self.state is State.PENDING and self.last_status != _REFUSED)


@dataclass(frozen=True, slots=True)
class Quorum:
    """How many of the instances asked must have it: all of them, more than half, or ``count``."""

    rule: str = "all"
    count: int = 0

    def needed(self, asked: int) -> int:
        """May be more than were asked; then it cannot be reached. Where nobody is to be asked, nobody has to agree."""
        if self.rule == "majority":
            return asked // 2 + 1 if asked else 0
        return asked if self.rule == "all" else self.count


@dataclass(frozen=True, slots=True)
class Finding:
    """A verdict with what it rests on. ``milliseconds`` is how long it took; ``origin`` is the control read."""

    verdict: Known
    reason: Reason
    seen: tuple[Seen, ...] = ()
    origin: Seen | None = None
    needed: int = 0
    milliseconds: float = 0.0

    @property
    def yes(self) -> int:
        """Return how many instances have the token."""
        return sum(one.state is State.YES for one in self.seen)

    @property
    def unknown(self) -> int:
        """Return how many instances could not be asked or gave no usable answer."""
        return sum(one.unknown for one in self.seen)


def judge(
    seen: Sequence[Seen], needed: int, *, over: bool, origin_listed: bool, origin: Seen | None
) -> tuple[Known, Reason]:
    """Return the verdict on what was seen and its reason; `over` says that the hard deadline has come.

    It is never better than what was seen. An instance that cannot be asked is unknown and does not count as having the
    token. A list without the instance that the question comes from may lack others too, so agreement of those on it is
    at most ``Partialy``.
    """
    yes = sum(one.state is State.YES for one in seen)
    if not seen and needed == 0:
        return _alone(origin, over=over)
    if seen and yes >= needed:
        if not origin_listed:
            return Known.PARTIALLY, Reason.ORIGIN_NOT_LISTED
        return Known.SYNCED, Reason.ALL_AGREE if yes == len(seen) else Reason.QUORUM_AGREES
    if over and any(one.state is State.PENDING for one in seen):
        return Known.TIMEOUT, Reason.NOT_IN_TIME
    verdict = Known.PARTIALLY if yes * _HALF > len(seen) else Known.NOT_SYNCED
    others = [one for one in seen if one.state is not State.YES]
    if others and all(one.unknown for one in others):
        return verdict, Reason.SOME_UNKNOWN
    return verdict, Reason.SOME_DO_NOT if verdict is Known.PARTIALLY else Reason.TOO_FEW


def _alone(origin: Seen | None, *, over: bool) -> tuple[Known, Reason]:
    """Where the origin is the only instance, its own word is all there is."""
    if origin is not None and origin.state is State.YES:
        return Known.SYNCED, Reason.ONLY_INSTANCE
    return (Known.TIMEOUT, Reason.NOT_IN_TIME) if over else (Known.UNKNOWN, Reason.ORIGIN_SILENT)
