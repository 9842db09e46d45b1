"""Slots: how many functions may work at one server at a time.

=====================  ========  =============================================================
pk                     sk        what
=====================  ========  =============================================================
``SLOT#<place>``       number    until when a slot is taken (Unix seconds), and by whom
=====================  ========  =============================================================
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from syncline.table import Database, number


@dataclass(frozen=True, slots=True)
class Slot:
    """A place at a server, taken by ``holder``."""

    place: str
    number: int
    holder: str


class Slots:
    """The slots of all servers. ``clock`` gives Unix seconds."""

    def __init__(self, database: Database, clock: Callable[[], float], rng: random.Random) -> None:
        self._db = database
        self._clock = clock
        self._rng = rng

    def take(self, place: str, count: int, seconds: float) -> Slot | None:
        """One of ``count`` slots for ``seconds``, None if all are taken.

        The first try is at one by chance, the next ones at those that a look shows free: one who waits while all are
        taken asks twice each time, however many there are.
        """
        holder, first = secrets.token_hex(8), self._rng.randrange(count)
        if self._take(place, first, holder, seconds):
            return Slot(place, first, holder)
        free = self._free(place, count)
        for which in self._rng.sample(free, len(free)):
            if self._take(place, which, holder, seconds):
                return Slot(place, which, holder)
        return None

    def _take(self, place: str, which: int, holder: str, seconds: float) -> bool:
        now = self._clock()
        taken = self._db.update(
            f"SLOT#{place}",
            f"{which:04}",
            "SET #until = :until, #holder = :holder, #expires = :expires",
            {"until": number(now + seconds), "holder": holder, "expires": int(now + seconds) + 3600},
            condition="attribute_not_exists(pk) OR #until <= :now",
            extra={":now": number(now)},
        )
        return self._db.update_if(taken) is not None

    def _free(self, place: str, count: int) -> list[int]:
        """The slots that are free now; at most 100 are looked at."""
        keys = [(f"SLOT#{place}", f"{which:04}") for which in range(min(count, 100))]
        now = self._clock()
        taken = {int(item["sk"]) for item in self._db.batch_get(keys) if float(item["until"]) > now}
        return [which for which in range(len(keys)) if which not in taken]

    def give_back(self, slot: Slot) -> None:
        """Let others have the slot, if it is still this holder's."""
        self._db.update_if(
            self._db.update(
                f"SLOT#{slot.place}",
                f"{slot.number:04}",
                "SET #until = :until",
                {"until": 0},
                condition="#holder = :holder",
                extra={":holder": slot.holder},
                names=("holder",),
            )
        )
