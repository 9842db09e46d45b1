"""Leases: the right to write to a target reference, or to work at a server, until a time.

=====================  ==========  =============================================================
pk                     sk          what
=====================  ==========  =============================================================
``LEASE#<reference>``  ``LEASE``   who may write to a target reference
``SLOT#<place>``       number      who works at a server, which allows so many at a time
=====================  ==========  =============================================================

Each record has the time until which it is held, its owner, the call that took it and a fence that grows.

A lease is short, and its holder renews it for as long as it works: a holder that was killed blocks the others for a
minute at most. It names the call that took it. boto3 repeats a call whose answer was lost, and so the repetition meets
its own lease and takes it.
"""

from __future__ import annotations

import hashlib
import logging
import random
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

from syncline.errors import SynclineError
from syncline.store.run_items import RETENTION
from syncline.store.table import AWS_ERRORS, Database, is_key, number

_logger = logging.getLogger(__name__)

LONGEST: Final = 60.0
"""Seconds for which a lease is taken or renewed at most."""
RENEWED: Final = 20.0
"""Seconds between two renewals: one may fail before the lease runs out."""

Every = Callable[[float, Callable[[], None]], AbstractContextManager[None]]
"""Calls a function every so many seconds while a block runs."""


@contextmanager
def every(seconds: float, action: Callable[[], None]) -> Iterator[None]:
    """Call `action` every `seconds` in a thread while the block runs."""
    over = threading.Event()

    def repeat() -> None:
        while not over.wait(seconds):
            action()

    threading.Thread(target=repeat, name="every", daemon=True).start()
    try:
        yield
    finally:
        over.set()


@dataclass(slots=True)
class Lease:
    """The right to `reference` until `expires` (Unix seconds); 0 after it was given back or lost.

    `part` is the slot of a server, "LEASE" for a target reference. `call` names the call that took the lease. Of two
    leases the one with the higher fence is newer.
    """

    reference: str
    part: str
    owner: str
    call: str
    fence: int
    expires: float


class LeaseHeldError(SynclineError):
    """Another holder has the lease; `same_owner` if it works on the same batch, which was delivered twice."""

    def __init__(self, reference: str, until: float, seconds_left: float, *, same_owner: bool) -> None:
        time_of_day = time.strftime("%H:%M:%S", time.gmtime(until))
        what = f"{reference} has another writer, whose lease runs until {time_of_day} UTC"
        super().__init__("LEASE_HELD", what, retry_after=seconds_left)
        self.same_owner = same_owner


class Leases:
    """The leases of one table. `clock` gives Unix seconds; `every` calls the renewals."""

    def __init__(self, database: Database, clock: Callable[[], float], every: Every = every) -> None:
        self._db = database
        self._clock = clock
        self._every = every

    def take(self, reference: str, owner: str, seconds: float) -> Lease:
        """Take the right to write to `reference`, for :data:`LONGEST` seconds at most; raises :class:`LeaseHeldError`."""
        lease = self._take(reference, "LEASE", owner, seconds)
        if lease is None:
            now = self._clock()
            held = self._db.get(*_key(reference, "LEASE")) or {}
            until = float(held.get("until", 0))
            raise LeaseHeldError(reference, until, max(1.0, until - now), same_owner=held.get("owner") == owner)
        return lease

    def _take(self, reference: str, part: str, owner: str, seconds: float) -> Lease | None:
        call, now = secrets.token_hex(8), self._clock()
        until = now + min(seconds, LONGEST)
        try:
            taken = self._db.update_if(
                self._db.update(
                    *_key(reference, part),
                    "SET #until = :until, #owner = :owner, #call = :call, #expires = :expires ADD #fence :fence",
                    {
                        "until": number(until),
                        "owner": owner,
                        "call": call,
                        "expires": int(now) + RETENTION,
                        "fence": 1,
                    },
                    condition="attribute_not_exists(pk) OR #until <= :now OR #call = :call",
                    extra={":now": number(now)},
                )
            )
        except AWS_ERRORS:
            # The lease may be ours nevertheless, and no caller will know.
            self.give_back(Lease(reference, part, owner, call, 0, until))
            raise
        return None if taken is None else Lease(reference, part, owner, call, int(taken["fence"]), until)

    def renew(self, lease: Lease, seconds: float) -> None:
        """Renew a lease, for :data:`LONGEST` seconds at most; one that another has taken counts as lost from then on."""
        now = self._clock()
        until = now + min(seconds, LONGEST)
        renewed = self._db.update_if(
            self._db.update(
                *_key(lease.reference, lease.part),
                "SET #until = :until",
                {"until": number(until)},
                condition="#call = :call AND #until > :now",
                extra={":call": lease.call, ":now": number(now)},
                names=("call",),
            )
        )
        if renewed is None and lease.expires:
            _logger.warning("the lease on %s was lost", lease.reference)
        lease.expires = until if renewed is not None else 0.0

    def give_back(self, lease: Lease) -> None:
        """Let others have the lease, if it is still this one. If AWS cannot be reached, it runs out by itself."""
        try:
            self._db.update_if(self.freed(lease))
        except AWS_ERRORS as error:
            _logger.warning(
                "the lease on %s could not be given back and runs out by itself: %s", lease.reference, error
            )
        lease.expires = 0.0

    def freed(self, lease: Lease) -> dict[str, Any]:
        """Return the part of a transaction that gives the lease back, on condition that it is still this one."""
        return self._db.update(
            *_key(lease.reference, lease.part),
            "SET #until = :until",
            {"until": 0},
            condition="#call = :call",
            extra={":call": lease.call},
            names=("call",),
        )

    @contextmanager
    def held(self, lease: Lease, left: Callable[[], float]) -> Iterator[None]:
        """Renew a lease while the block runs, and give it back however the block ends.

        `left` returns for how many seconds more the holder may work; with 0 the lease is not renewed.
        """

        def renew() -> None:
            with suppress(*AWS_ERRORS, SynclineError):  # it is renewed again before it runs out
                seconds = left() if lease.expires else 0.0
                if seconds > 0:
                    self.renew(lease, seconds)

        try:
            with self._every(RENEWED, renew):
                yield
        finally:
            if lease.expires:
                self.give_back(lease)

    def slot(self, place: str, count: int, seconds: float, rng: random.Random) -> Lease | None:
        """Take one of the `count` slots of a server; None if all are taken.

        The first try is at one by chance, the next ones at those that are free: who waits while all are taken asks
        twice each time, however many there are.
        """
        owner, first = secrets.token_hex(8), rng.randrange(count)
        if (slot := self._take(place, f"{first:04}", owner, seconds)) is not None:
            return slot
        free = list(self._free(place, count))
        for part in rng.sample(free, len(free)):
            if (slot := self._take(place, part, owner, seconds)) is not None:
                return slot
        return None

    def _free(self, place: str, count: int) -> Iterable[str]:
        """Return the slots that are free now; at most 100 are asked for."""
        parts = [f"{which:04}" for which in range(min(count, 100))]
        now = self._clock()
        items = self._db.batch_get([_key(place, part) for part in parts])
        taken = {item["sk"] for item in items if float(item["until"]) > now}
        return [part for part in parts if part not in taken]


def _key(reference: str, part: str) -> tuple[str, str]:
    """Return the key of a lease; a digest stands for a reference that the table cannot have in a key."""
    if not is_key(reference):
        reference = hashlib.blake2b(reference.encode(errors="surrogatepass"), digest_size=16).hexdigest()
    return f"{'LEASE' if part == 'LEASE' else 'SLOT'}#{reference}", part
