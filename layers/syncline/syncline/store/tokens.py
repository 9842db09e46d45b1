"""State of each sync of tokens: its instances as they were last read, and its canaries between rounds.

=======================  ==============  ===========================================================
pk                       sk              content
=======================  ==============  ===========================================================
``INSTANCES``            ``<sync>``      the list, when it was read, and why the latest scan failed
``CANARIES``             ``<sync>``      the last writer, and the failures in a row by fault
=======================  ==============  ===========================================================

All lists are under one key, so that a probe reads them with one query; they are few and small.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from syncline.errors import CodeName
from syncline.store.table import Store, number, pack, unpack

INSTANCES_KEPT: Final = 7 * 24 * 3600
"""Seconds after which a list that is not renewed is deleted; it is stale long before."""
CANARIES_KEPT: Final = 90 * 24 * 3600
"""Seconds after which a record that no round renews is deleted."""
_INSTANCES: Final = "INSTANCES"
_CANARIES: Final = "CANARIES"
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
        return {str(item["sk"]): _list_from(item) for item in self._db.query(_INSTANCES)}

    def put(self, sync: str, instances: Sequence[dict[str, Any]], seen: float) -> bool:
        """Store a list that was requested at `seen` (Unix seconds); return False if a later one is stored."""
        updated = self._db.update(
            _INSTANCES,
            sync,
            "SET instances = :list, #seen = :seen, #expires = :expires REMOVE failed, #reason",
            {"seen": number(seen), "expires": self._expiry(INSTANCES_KEPT)},
            condition="attribute_not_exists(#seen) OR #seen <= :seen",
            names=("reason",),
            extra={":list": pack(list(instances))},
        )
        return updated is not None

    def fail(self, sync: str, code: CodeName, reason: str) -> None:
        """Note that a scan failed, and why; the previous list stays."""
        values = {"failed": code, "reason": reason[:_LONGEST_REASON], "expires": self._expiry(INSTANCES_KEPT)}
        setting = "SET #failed = :failed, #reason = :reason, #expires = :expires"
        self._db.update(_INSTANCES, sync, setting, values)


def _list_from(item: dict[str, Any]) -> InstanceList:
    instances = tuple(unpack(item["instances"])) if "instances" in item else ()
    seen = float(item["seen"]) if "seen" in item else None
    failed, reason = item.get("failed"), item.get("reason")
    return InstanceList(instances, seen, failed, reason)


class CanaryRecords(Store):
    """Records of canaries: the address and port of the last writer, and the number of failures in a row by fault."""

    def get(self, sync: str) -> tuple[str | None, dict[str, int]] | None:
        """Return the record of a sync, None if it has none."""
        item = self._db.get(_CANARIES, sync)
        if item is None:
            return None
        failures = {str(fault): int(times) for fault, times in item["failures"].items()}
        return item.get("writer"), failures

    def put(self, sync: str, last_writer: str | None, failures: Mapping[str, int]) -> None:
        """Store the record of a sync. Of two rounds at the same time the later write wins."""
        writer = {} if last_writer is None else {"writer": last_writer}
        expires = self._expiry(CANARIES_KEPT)
        self._db.put({"pk": _CANARIES, "sk": sync, "failures": dict(failures), "expires": expires, **writer})
