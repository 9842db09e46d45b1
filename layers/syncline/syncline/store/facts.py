"""Facts: a cache that all functions share, such as the location of a blob or the digest that a layer gets.

===============  ========  =================================================
pk               sk        content
===============  ========  =================================================
``FACT#<key>``   ``FACT``  a fact, or the claim of a function to establish it
===============  ========  =================================================

Facts only save work: losing them makes nothing wrong.
"""

from __future__ import annotations

import secrets
from typing import Final

from syncline.store.table import Store, number

RETENTION: Final = 30 * 24 * 3600
"""Seconds for which a fact is kept."""


class Facts(Store):
    """The facts in the table."""

    def recall(self, key: str) -> str | None:
        """Return a fact, None if it is unknown."""
        item = self._db.get(f"FACT#{key}", "FACT") or {}
        return str(item["value"]) if "value" in item else None

    def remember(self, key: str, value: str, seconds: float = RETENTION) -> None:
        """Keep a fact for `seconds`."""
        self._db.put({"pk": f"FACT#{key}", "sk": "FACT", "value": value, "expires": self._expiry(seconds)})

    def forget(self, key: str) -> None:
        """Remove a fact, if there is one."""
        exists = "attribute_exists(pk)"
        self._db.update(f"FACT#{key}", "FACT", "REMOVE #value", {}, names=("value",), condition=exists)

    def claim(self, key: str, seconds: float) -> bool:
        """Return True if the caller is to establish a fact: for `seconds` no other caller is."""
        # boto3 repeats a call whose response was lost: the repeated call finds its own claim.
        return self._take(key, secrets.token_hex(8), seconds, RETENTION)

    def take(self, key: str, owner: str, seconds: float) -> bool:
        """Return True if nobody but `owner` has taken the key; it is then the owner's for `seconds`."""
        return self._take(key, owner, seconds, seconds)

    def _take(self, key: str, owner: str, seconds: float, retention: float) -> bool:
        now = self._clock()
        taken = self._db.update(
            f"FACT#{key}",
            "FACT",
            "SET #until = :until, #owner = :owner, #expires = :expires",
            {"until": number(now + seconds), "owner": owner, "expires": int(now + retention)},
            condition="attribute_not_exists(#until) OR #until <= :now OR #owner = :owner",
            extra={":now": number(now)},
        )
        return taken is not None
