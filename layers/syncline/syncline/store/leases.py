"""Leases: the right to write to a target reference, or to work at a server, until a time.

=====================  ==========  =============================================================
pk                     sk          content
=====================  ==========  =============================================================
``LEASE#<reference>``  ``LEASE``   the writer of a target reference
``SLOT#<server>``      number      a client of a server, which allows a number of them at a time
=====================  ==========  =============================================================

Each record has the time until which it is held, its owner, the call that took it and a fencing token that grows.

A lease guarantees that at most one writer commits work to a reference: the transaction that ends a batch is refused if
another call has taken the lease. It is short, and its holder renews it while it works, so a holder that was killed blocks
others for a minute at most. boto3 repeats a call whose response was lost; the repeated call finds its own name in the
record and takes the lease.
"""

from __future__ import annotations

import hashlib
import logging
import random
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

from syncline.errors import SynclineError
from syncline.store.runs import RETENTION
from syncline.store.table import AWS_ERRORS, Database, is_key, number

_logger = logging.getLogger(__name__)

LONGEST: Final = 60.0
"""Limit in seconds for which a lease is taken or renewed."""
RENEWED: Final = 20.0
"""Seconds between two renewals: one may fail before the lease expires."""

Every = Callable[[float, Callable[[], None]], AbstractContextManager[None]]
"""A function that calls another one at an interval in seconds while a block runs."""


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
    """The right to `reference` until `expires` (Unix seconds), 0 after it was released or lost.

    `part` is the slot of a server, "LEASE" for a target reference. `call` names the call that took the lease. Of two
    leases the one with the higher `fence` is newer.
    """

    reference: str
    part: str
    owner: str
    call: str
    fence: int
    expires: float


class LeaseHeldError(SynclineError):
    """The lease is held; `same_owner` if by a function that works on the same batch, which was delivered twice."""

    def __init__(self, reference: str, until: float, seconds_left: float, *, same_owner: bool) -> None:
        time_of_day = time.strftime("%H:%M:%S", time.gmtime(until))
        what = f"{reference} is locked by another writer until {time_of_day} UTC"
        super().__init__("LEASE_HELD", what, retry_after=seconds_left)
        self.same_owner = same_owner


class Leases:
    """The leases in the table. `clock` returns Unix seconds; `every` calls the renewals."""

    def __init__(self, database: Database, clock: Callable[[], float], every: Every = every) -> None:
        self._db = database
        self._clock = clock
        self._every = every

    def take(self, reference: str, owner: str, seconds: float) -> Lease:
        """Take the lease on `reference` for `seconds`, :data:`LONGEST` at most; raises :class:`LeaseHeldError`."""
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
            taken = self._db.update(
                *_key(reference, part),
                "SET #until = :until, #owner = :owner, #call = :call, #expires = :expires ADD #fence :fence",
                {"until": number(until), "owner": owner, "call": call, "expires": int(now) + RETENTION, "fence": 1},
                condition="attribute_not_exists(pk) OR #until <= :now OR #call = :call",
                extra={":now": number(now)},
            )
        except AWS_ERRORS:
            # The lease may have been taken nevertheless, and no caller will know.
            self.release(Lease(reference, part, owner, call, 0, until))
            raise
        return None if taken is None else Lease(reference, part, owner, call, int(taken["fence"]), until)

    def renew(self, lease: Lease, seconds: float) -> None:
        """Renew a lease for `seconds`, :data:`LONGEST` at most. If it has expired or was taken, it counts as lost."""
        now = self._clock()
        until = now + min(seconds, LONGEST)
        renewed = self._db.update(
            *_key(lease.reference, lease.part),
            "SET #until = :until",
            {"until": number(until)},
            condition="#call = :call AND #until > :now",
            extra={":call": lease.call, ":now": number(now)},
            names=("call",),
        )
        if renewed is None and lease.expires:
            _logger.warning("the lease on %s was lost", lease.reference)
        lease.expires = until if renewed is not None else 0.0

    def release(self, lease: Lease) -> None:
        """Release a lease if it is still this one. If AWS cannot be reached, it expires by itself."""
        try:
            self._db.apply(self.release_request(lease))
        except AWS_ERRORS as error:
            _logger.warning("cannot release the lease on %s, which expires by itself: %s", lease.reference, error)
        lease.expires = 0.0

    def release_request(self, lease: Lease) -> dict[str, Any]:
        """Return the request that releases a lease, on condition that it is still this one."""
        return self._db.update_request(
            *_key(lease.reference, lease.part),
            "SET #until = :until",
            {"until": 0},
            condition="#call = :call",
            extra={":call": lease.call},
            names=("call",),
        )

    @contextmanager
    def held(self, lease: Lease, left: Callable[[], float]) -> Iterator[None]:
        """Renew a lease while the block runs, and release it however the block ends.

        `left` returns the seconds for which the holder may still work; with 0 the lease is not renewed.
        """

        def renew() -> None:
            with suppress(*AWS_ERRORS, SynclineError):  # it is renewed again before it expires
                seconds = left() if lease.expires else 0.0
                if seconds > 0:
                    self.renew(lease, seconds)

        try:
            with self._every(RENEWED, renew):
                yield
        finally:
            if lease.expires:
                self.release(lease)

    def take_slot(self, server: str, count: int, seconds: float, rng: random.Random) -> Lease | None:
        """Take one of the `count` slots of a server for `seconds`; None if all are taken.

        The first try is at a random slot, the next ones at those that are free: a caller that polls while all are taken
        makes two requests each time, however many slots there are.
        """
        owner, first = secrets.token_hex(8), rng.randrange(count)
        if (slot := self._take(server, f"{first:04}", owner, seconds)) is not None:
            return slot
        free = self._free_slots(server, count)
        for part in rng.sample(free, len(free)):
            if (slot := self._take(server, part, owner, seconds)) is not None:
                return slot
        return None

    def _free_slots(self, server: str, count: int) -> list[str]:
        """Return the slots that are free now, of the first 100."""
        parts = [f"{index:04}" for index in range(min(count, 100))]
        now = self._clock()
        items = self._db.batch_get([_key(server, part) for part in parts])
        taken = {item["sk"] for item in items if float(item["until"]) > now}
        return [part for part in parts if part not in taken]


def _key(reference: str, part: str) -> tuple[str, str]:
    """Return the key of a lease, with a digest of the reference if that cannot be a part of a key."""
    if not is_key(reference):
        reference = hashlib.blake2b(reference.encode(errors="surrogatepass"), digest_size=16).hexdigest()
    return f"{'LEASE' if part == 'LEASE' else 'SLOT'}#{reference}", part
