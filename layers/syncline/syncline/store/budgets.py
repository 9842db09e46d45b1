"""The limits of endpoints that all functions keep together: granted requests and bytes, and requests at a time.

=====================  ===============  ==========================================================================
pk                     sk               content
=====================  ===============  ==========================================================================
``LIMIT#<name>``       ``WINDOW``       the number of the current window of a rate, the amount granted of it, and the
                                        process that asked for a share of the next one
``LIMIT#<name>``       ``SLOTS``        the processes with slots for requests: how many, and until when
=====================  ===============  ==========================================================================

``name`` is an endpoint, a unit and its limit. :mod:`syncline.clients.http.budgets` explains how the windows are used; their
number grows, so a grant that is written twice because a response was lost counts twice and breaks no limit.

Slots expire, so a process that was killed gives them back. The clocks of two functions may differ by :data:`SKEW`
seconds: only after that time beyond their end are slots given to others.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from syncline.errors import SynclineError
from syncline.store.runs import RETENTION
from syncline.store.table import AWS_ERRORS, Store, number

SLOTS_FOR: Final = 15.0
"""Seconds for which slots are held without renewal."""
SKEW: Final = 30.0
"""Seconds by which the clocks of two functions may differ."""
_TRIES: Final = 20


class WindowRule(Protocol):
    """The amount of a window, and the share of it that is reserved for an owner that asked for it."""

    @property
    def most(self) -> int:
        """The amount of a window."""

    @property
    def share(self) -> int:
        """The reserved share."""


class LimitLedger(Store):
    """The ledger of limits in the table."""

    def current(self, name: str) -> tuple[int, int] | None:
        """Return the number of the current window of a rate and the amount granted of it, None before the first one."""
        try:
            found = self._db.get(f"LIMIT#{name}", "WINDOW")
        except AWS_ERRORS as error:
            raise _unavailable(name, error) from error
        return None if found is None else (int(found["window"]), int(found["used"]))

    def grant(self, name: str, owner: str, window: int, amount: int, rule: WindowRule) -> bool:
        """Grant an amount of a window. Return False if the window is over or has too little left.

        Others leave the share of the owner that asked for it.
        """
        room = rule.most - amount
        taken = self._update(
            name,
            "SET #used = #used + :amount, #last = :owner",
            condition="#window = :window AND (#used <= :rest OR (attribute_not_exists(#asked) AND #used <= :room))",
            extra={":amount": amount, ":window": window, ":room": room, ":rest": room - rule.share, ":owner": owner},
            names=("used", "window", "asked", "last"),
        )
        return taken or self._update(
            name,
            "SET #used = #used + :amount, #last = :owner REMOVE #asked",
            condition="#window = :window AND #used <= :room AND #asked = :owner",
            extra={":amount": amount, ":window": window, ":room": room, ":owner": owner},
            names=("used", "window", "asked", "last"),
        )

    def open(self, name: str, owner: str, after: int | None, amount: int, rule: WindowRule) -> int | None:
        """Open the window after another one; return the amount granted of it, None if that is not the current one.

        It is 0 if what is left is reserved for the owner that asked first. That holds for one window: the owner may be dead.
        """
        number = 0 if after is None else after + 1
        values = {"window": number, "used": amount, "last": owner, "expires": self._expiry(RETENTION)}
        setting = "SET #window = :window, #used = :used, #last = :last, #expires = :expires"
        if after is None:
            return amount if self._update(name, setting, values, condition="attribute_not_exists(pk)") else None
        if self._update(
            name,
            f"{setting} REMOVE #asked",
            values,
            condition="#window = :after AND (attribute_not_exists(#asked) OR #asked = :last OR #reserved = :after)",
            extra={":after": after},
            names=("asked", "reserved"),
        ):
            return amount
        rest = min(amount, rule.most - rule.share)
        reserved = self._update(
            name,
            f"{setting}, #reserved = :reserved",
            {**values, "used": rest, "reserved": number},
            condition="#window = :after AND attribute_exists(#asked)",
            extra={":after": after},
            names=("asked",),
        )
        return rest if reserved else None

    def ask(self, name: str, owner: str, window: int) -> bool:
        """Reserve a share of the next window, unless another owner has that did not get the latest grant."""
        return self._update(
            name,
            "SET #asked = :asked",
            {"asked": owner},
            condition="#window = :window AND (attribute_not_exists(#asked) OR #asked = :asked OR #asked = #last)",
            extra={":window": window},
            names=("window", "last"),
        )

    def _update(self, name: str, expression: str, values: dict[str, Any] | None = None, **options: Any) -> bool:
        try:
            return self._db.update(f"LIMIT#{name}", "WINDOW", expression, values or {}, **options) is not None
        except AWS_ERRORS as error:
            raise _unavailable(name, error) from error

    def slots(self, name: str, owner: str, in_use: int, wanted: int, limit: int) -> tuple[int, int, bool]:
        """Set the number of slots that a process holds, as far as some are free.

        Return that number, the fair share of each process, and True if others wait for slots. A process that wants some
        and gets none is noted, so that the others return some; one that wants none is removed.
        """
        try:
            for _ in range(_TRIES):
                found = self._db.get(f"LIMIT#{name}", "SLOTS")
                now = self._clock()
                holders: Mapping[str, Any] = {} if found is None else found["holders"]
                alive = {key: each for key, each in holders.items() if float(each[1]) + SKEW > now}
                alive.pop(owner, None)
                held, fair, waited_for = allot([int(each[0]) for each in alive.values()], in_use, wanted, limit)
                if wanted > 0:
                    alive[owner] = [held, number(now + SLOTS_FOR)]
                item = {
                    "pk": f"LIMIT#{name}",
                    "sk": "SLOTS",
                    "holders": alive,
                    "version": secrets.token_hex(8),
                    "expires": self._expiry(RETENTION),
                }
                if self._db.replace(item, None if found is None else str(found["version"])):
                    return held, fair, waited_for
        except AWS_ERRORS as error:
            raise _unavailable(name, error) from error
        return 0, 1, True


def allot(others: Sequence[int], in_use: int, wanted: int, limit: int) -> tuple[int, int, bool]:
    """Return the slots that a process gets beside ``others``, the fair share, and True if some of these wait.

    It keeps those in use, and gets further ones as far as they are free. While others wait, that is no more than its fair
    share.
    """
    fair = max(1, limit // (len(others) + 1))
    waited_for = not all(others)
    most = max(fair, in_use) if waited_for else limit
    return max(0, min(wanted, most, limit - sum(others))), fair, waited_for


def _unavailable(name: str, error: Exception) -> SynclineError:
    return SynclineError("AWS_UNAVAILABLE", f"the limit {name} cannot be read or written: {error}")
