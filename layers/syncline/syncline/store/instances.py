"""The instances of each sync of tokens, as they were last listed.

=======================  ==============  ===========================================================
pk                       sk              what
=======================  ==============  ===========================================================
``INSTANCES``            ``<sync>``      the list, when it was read, and how the latest look failed
=======================  ==============  ===========================================================

All are under one key, so that a probe has them with one query; they are few, and small.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from syncline.errors import CodeName
from syncline.store.table import Database, number, pack, unpack

KEPT: Final = 7 * 24 * 3600
"""Seconds for which a list is kept that nobody renews; it is not believed for that long."""
_PK: Final = "INSTANCES"
_LONGEST_REASON: Final = 2000


@dataclass(frozen=True, slots=True)
class Record:
    """``seen`` is when the list was read whole (Unix seconds), None if never.

    If the latest scan failed, ``failed`` is its code and ``reason`` says why.
    """

    instances: tuple[dict[str, Any], ...] = ()
    seen: float | None = None
    failed: CodeName | None = None
    reason: str | None = None


class InstanceLists:
    """The table's part about instances. ``clock`` gives Unix seconds."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._db = database
        self._clock = clock

    def all(self) -> dict[str, Record]:
        """Every sync's record by its name."""
        return {str(item["sk"]): _record(item) for item in self._db.query(_PK)}

    def put(self, sync: str, instances: Sequence[dict[str, Any]], seen: float) -> bool:
        """Remember a list that was asked for at ``seen``; False if a later one is there already."""
        update = self._db.update(
            _PK,
            sync,
            "SET instances = :list, #seen = :seen, #expires = :expires REMOVE failed, #reason",
            {"seen": number(seen), "expires": int(self._clock()) + KEPT},
            condition="attribute_not_exists(#seen) OR #seen <= :seen",
            names=("reason",),
            extra={":list": pack(list(instances))},
        )
        return self._db.update_if(update) is not None

    def fail(self, sync: str, code: CodeName, reason: str) -> None:
        """Remember that a scan failed, and why; the list from before stays."""
        values = {"failed": code, "reason": reason[:_LONGEST_REASON], "expires": int(self._clock()) + KEPT}
        setting = "SET #failed = :failed, #reason = :reason, #expires = :expires"
        self._db.update_if(self._db.update(_PK, sync, setting, values))


def _record(item: dict[str, Any]) -> Record:
    instances = tuple(unpack(item["instances"])) if "instances" in item else ()
    seen = float(item["seen"]) if "seen" in item else None
    failed, reason = item.get("failed"), item.get("reason")
    return Record(instances, seen, failed, reason)
