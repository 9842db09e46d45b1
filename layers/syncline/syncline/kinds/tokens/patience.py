"""How long a question is asked, and how often: derived from how often the store tells its peers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

FEWEST_INTERVALS: Final = 2.0
"""A change may just miss one round and travel with the next, so less than two intervals prove nothing."""
_INTERVALS: Final = 2.5
_GRACE: Final = 0.5  # seconds between the last retry and the hard deadline: an instance may be slow to answer
_FIRST_DELAY: Final = 0.05  # share of the interval
_LONGEST_DELAY: Final = 0.25  # share of the interval
_GROWTH: Final = 1.6
_SHORTEST_DELAY: Final = 0.02  # seconds; more often would tell nothing that somebody waiting for a login notices
_ASKS_PER_SECOND: Final = 2000.0  # about what one process may ask of all instances together and still answer at once
_JITTER: Final = 0.25  # a delay is this share shorter or longer, so that questions do not come in waves


@dataclass(frozen=True, slots=True)
class Patience:
    """All in seconds. After ``retry_for`` an instance that still says no is taken at its word; ``deadline`` is hard."""

    retry_for: float
    deadline: float
    first_delay: float
    longest_delay: float

    @classmethod
    def of(cls, interval: float, retry_for: float | None = None, deadline: float | None = None) -> Patience:
        """For a store that synchronizes every ``interval`` seconds."""
        lasts = interval * _INTERVALS if retry_for is None else retry_for
        return cls(
            lasts,
            lasts + _GRACE if deadline is None else deadline,
            max(0.01, interval * _FIRST_DELAY),
            max(0.02, interval * _LONGEST_DELAY),
        )

    def delay(self, attempt: int, elapsed: float, chance: float, crowd: int | None = None) -> float | None:
        """Seconds to wait after ``attempt`` questions (from 1); None when the retries are over.

        ``chance`` is between 0 and 1. ``crowd`` is how many instances are being asked just now, by whomever: the
        fewer, the more often each. The last question comes when ``retry_for`` ends, not before: what arrives late is
        still seen.
        """
        if elapsed >= self.retry_for:
            return None
        longest = self.longest_delay
        if crowd is not None:
            longest = min(longest, max(_SHORTEST_DELAY, crowd / _ASKS_PER_SECOND))
        # The exponent is bounded: long before that the longest delay is reached.
        wanted = min(self.first_delay * _GROWTH ** min(attempt - 1, 30), longest)
        return min(wanted * (1 + _JITTER * (2 * chance - 1)), self.retry_for - elapsed)
