"""Ownership of items at a target, and limits on removals: decided here for every kind.

An item at the target is *ours* if its version is the one that we verified last, or if evidence at the target shows that
we wrote it. Everything else is foreign: it is never overwritten (unless the sync says ``overwrite``) and never removed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Protocol


class Action(StrEnum):
    """The action that makes the target agree with the source."""

    NOTHING = "nothing"
    """Neither side has the item, or the target has a foreign one that the source does not have."""
    EQUAL = "equal"
    ADOPT = "adopt"
    """The target's item equals the source's, and becomes ours although we did not write it."""
    CREATE = "create"
    REPLACE = "replace"
    REMOVE = "remove"
    CONFLICT = "conflict"


def decide(  # noqa: PLR0913 - the facts of one item, each by its name
    *, at_source: bool, at_target: bool, ours: bool = False, current: bool = False, same: bool = False, overwrite: bool
) -> Action:
    """Return the action for one item.

    `ours` means that the target's item is ours, `current` that it was made from the source's present version, and `same`
    that the fingerprints of both sides are equal.
    """
    if not at_source:
        return Action.REMOVE if at_target and ours else Action.NOTHING
    if not at_target:
        return Action.CREATE
    if ours and current:
        return Action.EQUAL
    if same:
        return Action.ADOPT
    return Action.REPLACE if ours or overwrite else Action.CONFLICT


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits on the removals in a window of `per` seconds.

    At most `count` items may be removed, and at most the part `share` (0 to 1) of the items that are ours and selected
    when the window begins. One item may be removed whatever the share is, unless `count` is 0.
    """

    share: float
    count: int
    per: float


@dataclass(frozen=True, slots=True)
class RemovalRequest:
    """A request for `count` removals, all or none of them, in the current window of a sync.

    A repeated `name` keeps what it has reserved in this window, and reserves only the difference. `run` is the ID of the
    requesting run; with `own` the run has separate limits and a separate window. With `keep` False nothing is reserved:
    the answer is that to a real request. Raises ValueError if `count` is negative.
    """

    limits: Limits
    count: int
    name: str
    run: str = ""
    own: bool = False
    keep: bool = True

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ValueError(f"cannot reserve {self.count} removals")


@dataclass(frozen=True, slots=True)
class Grant:
    """The answer to a request for removals.

    `used` is the number of removals reserved in the window before, `total` the number of items that are ours and
    selected at its beginning, and `most` the number of removals that it allows in all. `until` is its end in Unix
    seconds, or the time of the answer if there is no window.
    """

    allowed: bool
    used: int
    total: int
    until: float
    most: int


def allowance(limits: Limits, total: int, used: int) -> int:
    """Return how many more items may be removed in a window that began with `total` items, `used` of them removed."""
    # 0.29 * 100 is 28.999999999999996 in binary: the share is meant as a decimal.
    share = int(Decimal(repr(limits.share)) * total)
    most = min(limits.count, max(1, share))
    return max(0, most - used)


def digest_of(texts: Iterable[str]) -> str:
    """Return a name for a request, the same for the same removals, so that they are reserved once."""
    return hashlib.blake2b("\0".join(texts).encode(errors="surrogatepass"), digest_size=8).hexdigest()


class Windows(Protocol):
    """The windows of removals of one sync; see :class:`syncline.store.removals.RemovalWindows`."""

    def reserve(
        self, request: RemovalRequest, total: Callable[[], int], removed: Callable[[str], int] | None = None
    ) -> Grant:
        """Reserve removals.

        `total` returns the number of items that are ours and selected. `removed` returns the number of items that a run,
        by its ID, has removed so far, which are no longer among them. Both may be slow. Without `removed`, a run that is
        over is taken to have removed all it had reserved.
        """
