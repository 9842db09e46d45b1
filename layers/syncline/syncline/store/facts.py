"""What one function learnt and others need not find out again: where a blob is, what a layer became.

===============  ========  =================================================
pk               sk        what
===============  ========  =================================================
``FACT#<key>``   ``FACT``  a fact, or that somebody is about to find it out
===============  ========  =================================================

Facts make things fast; losing them makes nothing wrong.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Final

from syncline.store.table import Database, number

RETENTION: Final = 30 * 24 * 3600
"""Seconds for which a fact is kept."""


class Facts:
    """The table's part about facts. ``clock`` gives Unix seconds."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._db = database
        self._clock = clock

    def recall(self, key: str) -> str | None:
        """A fact that a function noted, None if nothing is known."""
        item = self._db.get(f"FACT#{key}", "FACT") or {}
        return str(item["value"]) if "value" in item else None

    def remember(self, key: str, value: str, seconds: float = RETENTION) -> None:
        """Keep a fact for all functions, for ``seconds``. It makes things fast; losing it makes nothing wrong."""
        self._db.put({"pk": f"FACT#{key}", "sk": "FACT", "value": value, "expires": int(self._clock() + seconds)})

    def forget(self, key: str) -> None:
        """Remove a fact, if there is one."""
        exists = "attribute_exists(pk)"
        self._db.update_if(
            self._db.update(f"FACT#{key}", "FACT", "REMOVE #value", {}, names=("value",), condition=exists)
        )

    def claim(self, key: str, seconds: float) -> bool:
        """Whether the caller is the one to find out a fact: for ``seconds`` nobody else is told so."""
        now = self._clock()
        claimed = self._db.update(
            f"FACT#{key}",
            "FACT",
            "SET #until = :until, #call = :call, #expires = :expires",
            # boto3 repeats a call whose answer was lost: it meets its own claim.
            {"until": number(now + seconds), "call": secrets.token_hex(8), "expires": int(now) + RETENTION},
            condition="attribute_not_exists(#until) OR #until <= :now OR #call = :call",
            extra={":now": number(now)},
        )
        return self._db.update_if(claimed) is not None

    def take(self, key: str, owner: str, seconds: float) -> bool:
        """Return True if nobody but ``owner`` has taken the key; it is then the owner's for ``seconds``."""
        now = self._clock()
        taken = self._db.update(
            f"FACT#{key}",
            "FACT",
            "SET #until = :until, #owner = :owner, #expires = :expires",
            {"until": number(now + seconds), "owner": owner, "expires": int(now + seconds)},
            condition="attribute_not_exists(#until) OR #until <= :now OR #owner = :owner",
            extra={":now": number(now)},
        )
        return self._db.update_if(taken) is not None
