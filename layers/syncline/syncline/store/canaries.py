"""State of the canaries of each sync of tokens between rounds.

=======================  ==============  ===========================================================
pk                       sk              content
=======================  ==============  ===========================================================
``CANARIES``             ``<sync>``      the last writer, and the failures in a row by fault
=======================  ==============  ===========================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from syncline.store.table import Store

KEPT: Final = 90 * 24 * 3600
"""Seconds after which a record that no round renews is deleted."""
_PK: Final = "CANARIES"


@dataclass(frozen=True, slots=True)
class CanaryRecord:
    """The address and port of the last writer, and the number of failures in a row by fault."""

    last_writer: str | None = None
    failures: Mapping[str, int] = field(default_factory=dict)


class CanaryRecords(Store):
    """The records of canaries in the table."""

    def get(self, sync: str) -> CanaryRecord | None:
        """Return the record of a sync, None if it has none."""
        item = self._db.get(_PK, sync)
        if item is None:
            return None
        failures = {str(fault): int(times) for fault, times in item["failures"].items()}
        return CanaryRecord(item.get("writer"), failures)

    def put(self, sync: str, record: CanaryRecord) -> None:
        """Store the record of a sync. Of two rounds at the same time the later write wins."""
        writer = {} if record.last_writer is None else {"writer": record.last_writer}
        expires = self._expiry(KEPT)
        self._db.put({"pk": _PK, "sk": sync, "failures": dict(record.failures), "expires": expires, **writer})
