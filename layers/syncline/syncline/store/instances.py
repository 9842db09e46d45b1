"""Lists of the instances of each sync of tokens, as they were last read.

=======================  ==============  ===========================================================
pk                       sk              content
=======================  ==============  ===========================================================
``INSTANCES``            ``<sync>``      the list, when it was read, and why the latest scan failed
=======================  ==============  ===========================================================

All are under one key, so that a probe reads them with one query; they are few and small.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from syncline.errors import CodeName
from syncline.store.table import Store, number, pack, unpack

KEPT: Final = 7 * 24 * 3600
"""Seconds after which a list that is not renewed is deleted; it is stale long before."""
_PK: Final = "INSTANCES"
_LONGEST_REASON: Final = 2000


@dataclass(frozen=True, slots=True)
class InstanceList:
    """The instances of a sync, read completely at `seen` (Unix seconds), None if never.

    If the latest scan failed, `failed` is its code and `reason` the explanation.
    """

    instances: tuple[dict[str, Any], ...] = ()
    seen: float | None = None
    failed: CodeName | None = None
    reason: str | None = None


class InstanceLists(Store):
    """The lists of instances in the table."""

    def all(self) -> dict[str, InstanceList]:
        """Return the lists of all syncs, by name."""
        return {str(item["sk"]): _list_from(item) for item in self._db.query(_PK)}

    def put(self, sync: str, instances: Sequence[dict[str, Any]], seen: float) -> bool:
        """Store a list that was requested at `seen` (Unix seconds); return False if a later one is stored."""
        updated = self._db.update(
            _PK,
            sync,
            "SET instances = :list, #seen = :seen, #expires = :expires REMOVE failed, #reason",
            {"seen": number(seen), "expires": self._expiry(KEPT)},
            condition="attribute_not_exists(#seen) OR #seen <= :seen",
            names=("reason",),
            extra={":list": pack(list(instances))},
        )
        return updated is not None

    def fail(self, sync: str, code: CodeName, reason: str) -> None:
        """Note that a scan failed, and why; the previous list stays."""
        values = {"failed": code, "reason": reason[:_LONGEST_REASON], "expires": self._expiry(KEPT)}
        setting = "SET #failed = :failed, #reason = :reason, #expires = :expires"
        self._db.update(_PK, sync, setting, values)


def _list_from(item: dict[str, Any]) -> InstanceList:
    instances = tuple(unpack(item["instances"])) if "instances" in item else ()
    seen = float(item["seen"]) if "seen" in item else None
    failed, reason = item.get("failed"), item.get("reason")
    return InstanceList(instances, seen, failed, reason)
