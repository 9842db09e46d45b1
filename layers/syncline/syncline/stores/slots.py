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
        """One of ``count`` slots for ``seconds``, None if all are taken. The first try is at one by chance."""
        holder = secrets.token_hex(8)
        for which in self._rng.sample(range(count), count):
            now = self._clock()
            taken = self._db.update(
                f"SLOT#{place}",
                f"{which:04}",
                "SET #until = :until, #holder = :holder, #expires = :expires",
                {"until": number(now + seconds), "holder": holder, "expires": int(now + seconds) + 3600},
                condition="attribute_not_exists(pk) OR #until <= :now",
                extra={":now": number(now)},
            )
            if self._db.update_if(taken) is not None:
                return Slot(place, which, holder)
        return None

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
