"""What canaries remember, in the table."""

from __future__ import annotations

from syncline.kinds.tokens.sightings import CanaryMemory
from syncline.store.canaries import CanaryRecord, CanaryRecords


class StoredMemories:
    """Memories in the table: the turn of the writers survives the process."""

    def __init__(self, records: CanaryRecords) -> None:
        self._records = records

    def recall(self, sync: str) -> CanaryMemory:
        record = self._records.get(sync)
        return CanaryMemory() if record is None else CanaryMemory(record.last_writer, record.failures)

    def remember(self, sync: str, memory: CanaryMemory) -> None:
        self._records.put(sync, CanaryRecord(memory.last_writer, memory.failures))
