"""Verdicts on a token, computed from the responses of the instances."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

_HALF: Final = 2
_REFUSED: Final = 401


class Verdict(enum.Enum):
    """The verdicts of the body: those of the header, and ``Unknown`` if there is no evidence for any of them."""

    SYNCED = "Synced"
    PARTIALLY = "Partialy"  # spelt as clients expect
    NOT_SYNCED = "NotSynced"
    TIMEOUT = "Timeout"
    UNKNOWN = "Unknown"

    @property
    def header(self) -> Verdict:
        """Return the verdict for ``X-Token-Status``, where unknown counts as not synced."""
        return Verdict.NOT_SYNCED if self is Verdict.UNKNOWN else self


class Reason(enum.Enum):
    """The reason for a verdict."""

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
    TOKEN_EXPIRED = "token_expired"  # noqa: S105 - a value of the contract
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


class TokenState(enum.Enum):
    """State of the token at one instance; FAILED and PENDING mean that it is unknown."""

    YES = "has_it"
    NO = "not_yet"
    FAILED = "failed"
    PENDING = "no_answer"


@dataclass(slots=True)
class InstanceResult:
    """The result of asking one instance. ``first_yes`` is in milliseconds from the beginning."""

    name: str
    address: str
    state: TokenState = TokenState.PENDING
    attempts: int = 0
    first_yes: float | None = None
    last_status: int | None = None
    reason: str = ""

    @property
    def unknown(self) -> bool:
        """Return True if the instance has neither confirmed nor refused the token."""
        return self.state is TokenState.FAILED or (self.state is TokenState.PENDING and self.last_status != _REFUSED)


OBJECTIVE_SECONDS: Final = 2.0
"""Seconds within which instances should agree."""
_NOT_REPLICATED: Final = frozenset(
    {
        Reason.ORIGIN_REFUSES,
        Reason.TOKEN_EXPIRED,
        Reason.TOKEN_MISSING,
        Reason.TOKEN_INVALID,
        Reason.TOKEN_TOO_LONG,
        Reason.ORIGIN_MISSING,
        Reason.ORIGIN_INVALID,
        Reason.ORIGIN_AMBIGUOUS,
        Reason.NO_SUCH_SYNC,
    }
)
"""Reasons for which the request is at fault: no replication could have made its token known."""

Quorum: TypeAlias = int | Literal["all", "majority"]
"""The asked instances that must have the token: all, more than half, or so many."""


def needed_of(quorum: Quorum, asked: int) -> int:
    """Return the number of instances that must agree; 0 if none is asked. A number above ``asked`` cannot be reached."""
    if quorum == "majority":
        return asked // 2 + 1 if asked else 0
    return asked if quorum == "all" else quorum


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """A verdict with its evidence. ``milliseconds`` is the time taken; ``origin`` is the control read.

    ``causes`` are sentences on the replication that explain why instances do not agree.
    """

    verdict: Verdict
    reason: Reason
    instances: tuple[InstanceResult, ...] = ()
    origin: InstanceResult | None = None
    needed: int = 0
    milliseconds: float = 0.0
    causes: tuple[str, ...] = ()

    @property
    def late(self) -> bool | None:
        """Return True if the instances did not agree within :data:`OBJECTIVE_SECONDS`; None if they could not."""
        if self.reason in _NOT_REPLICATED:
            return None
        return self.verdict is not Verdict.SYNCED or self.milliseconds > OBJECTIVE_SECONDS * 1000

    @property
    def yes(self) -> int:
        """Return the number of instances that have the token."""
        return sum(one.state is TokenState.YES for one in self.instances)

    @property
    def unknown(self) -> int:
        """Return the number of instances without a usable response."""
        return sum(one.unknown for one in self.instances)


def judge(
    results: Sequence[InstanceResult], needed: int, *, over: bool, origin_listed: bool, origin: InstanceResult | None
) -> tuple[Verdict, Reason]:
    """Return the verdict on the results and its reason; `over` is True after the hard deadline.

    A verdict is never better than the evidence. An instance that cannot be asked is unknown and does not count as having
    the token. A list without the origin may lack others too, so agreement of the listed instances is at most
    ``Partialy``.
    """
    yes = sum(one.state is TokenState.YES for one in results)
    if not results and needed == 0:
        return _single_instance(origin, over=over)
    if results and yes >= needed:
        if not origin_listed:
            return Verdict.PARTIALLY, Reason.ORIGIN_NOT_LISTED
        return Verdict.SYNCED, Reason.ALL_AGREE if yes == len(results) else Reason.QUORUM_AGREES
    if over and any(one.state is TokenState.PENDING for one in results):
        return Verdict.TIMEOUT, Reason.NOT_IN_TIME
    verdict = Verdict.PARTIALLY if yes * _HALF > len(results) else Verdict.NOT_SYNCED
    others = [one for one in results if one.state is not TokenState.YES]
    if others and all(one.unknown for one in others):
        return verdict, Reason.SOME_UNKNOWN
    return verdict, Reason.SOME_DO_NOT if verdict is Verdict.PARTIALLY else Reason.TOO_FEW


def _single_instance(origin: InstanceResult | None, *, over: bool) -> tuple[Verdict, Reason]:
    """Return the verdict if the origin is the only instance, which its own response decides."""
    if origin is not None and origin.state is TokenState.YES:
        return Verdict.SYNCED, Reason.ONLY_INSTANCE
    return (Verdict.TIMEOUT, Reason.NOT_IN_TIME) if over else (Verdict.UNKNOWN, Reason.ORIGIN_SILENT)
