"""Events of sources: they are noted, and after a quiet time many of them become one scan."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from syncline.config.sync import Sync
from syncline.errors import SynclineError
from syncline.messages import Queues, Start
from syncline.model import Trigger
from syncline.store.events import Claim, EventStore
from syncline.telemetry import log_dropped_message, logger

_NEXT_SCAN_DELAY: Final = 1.0
"""Least seconds before a scan of the notes that one scan left."""
_RETRY_DELAY: Final = 30
"""Seconds before an event is passed again to a sync that could not note it."""


@dataclass(frozen=True, slots=True)
class EventGatherer:
    """Notes events for the syncs that subscribe to their sources, and claims scans of what was noted.

    `sources` returns the names of the sources of an event, given its body; it raises MESSAGE_INVALID if the body is no
    event of any kind. `reader` returns the function that reads an event for a sync: it returns the groups that the event
    names, and raises MESSAGE_INVALID if the sync cannot read it.
    """

    event_store: EventStore
    sources: Callable[[object], tuple[str, ...]]
    config: Callable[[str], Sync]
    reader: Callable[[Sync], Callable[[object], tuple[str, ...]]]
    queues: Queues
    clock: Callable[[], float]

    def gather(self, bodies: Sequence[tuple[str, Any]]) -> set[str]:
        """Note events for each sync that subscribes to their sources, and queue a scan of each.

        `bodies` are the messages with their IDs. Return the IDs of those that a sync cannot read; raises MESSAGE_INVALID
        for a message of no source. An event that a sync cannot note, because a secret of it is missing, is queued again
        for that sync alone: the others neither wait for it nor note the event twice.
        """
        by_sync: dict[str, list[tuple[str, Any]]] = {}
        for message_id, body in bodies:
            names = {name for source in self.sources(body) for name in self.event_store.subscribers(source)}
            for name in sorted(names):
                by_sync.setdefault(name, []).append((message_id, body))
            if not names:
                log_dropped_message("no sync subscribes to the source of the event")
        refused: set[str] = set()
        for name, events in by_sync.items():
            try:
                refused |= self.gather_for(name, events)
            except SynclineError as error:
                logger.error("cannot store events for a sync", extra={"sync": name, "why": str(error)})
                if error.code.name != "NO_SUCH_SYNC":
                    for _, body in events:
                        self._retry_later(name, body)
        return refused

    def _retry_later(self, name: str, body: Any) -> None:
        """Queue an event again for one sync. An event that is too large for that is left to the next full scan."""
        try:
            self.queues.start(replace(self.start_message(name), event=body), _RETRY_DELAY)
        except SynclineError as error:
            if error.code.name != "MESSAGE_REFUSED":
                raise
            logger.error("the event cannot be queued again", extra={"sync": name, "why": str(error)})

    def gather_for(self, name: str, events: Sequence[tuple[str, Any]]) -> set[str]:
        """Note events for one sync, and queue a scan. Return the IDs of the messages that the sync cannot read.

        Raises SynclineError if the events cannot be noted.
        """
        ids = sorted(message_id for message_id, _ in events)
        note_id = hashlib.blake2b("\n".join(ids).encode(), digest_size=10).hexdigest()
        sync = self.config(name)
        if not sync.enabled:
            return set()
        changed_groups, groups, refused = self.reader(sync), set[str](), set[str]()
        for message_id, body in events:
            try:
                groups |= set(changed_groups(body))
            except SynclineError as error:
                if error.code.name != "MESSAGE_INVALID":
                    raise
                logger.error("event cannot be read", extra={"sync": name, "why": str(error)})
                refused.add(message_id)
        if groups:
            noted = self.event_store.add_note(name, note_id, groups)
            self.queues.start(replace(self.start_message(name), noted=noted), round(sync.gathering().quiet))
            logger.info("events stored", extra={"sync": name, "groups": len(groups)})
        return refused

    def is_applied(self, sync: str) -> bool:
        """Return False if no sync of that name is applied."""
        try:
            self.config(sync)
        except SynclineError as error:
            return error.code.name != "NO_SUCH_SYNC"
        return True

    @staticmethod
    def start_message(sync: str) -> Start:
        """Return the message that asks for a scan of what was noted for a sync."""
        return Start(sync, Trigger.EVENT, gathered=True)

    def claim(self, sync: str, seconds: float, noted: float | None = None) -> Claim | None:
        """Claim what is to be scanned now, for `seconds`; `noted` is that of the message that asks.

        Return None if nothing was noted, if events keep coming and none has waited too long, or if another function is
        scanning: that one asks for a scan of what was noted meanwhile.
        """
        claim = self.event_store.current_claim(sync)
        if claim is not None:
            return self.event_store.resume(sync, claim, seconds)
        notes = self.event_store.notes(sync)
        if not notes:
            return None
        gathering, now = self.config(sync).gathering(), self.clock()
        # The message about the latest note comes after the quiet time, whatever the clock of this function says.
        is_last = noted is not None and notes[-1].at <= noted
        is_early = now - notes[-1].at < gathering.quiet - 0.5 and now - notes[0].at < gathering.longest
        if is_early and not is_last:
            return None
        return self.event_store.claim(sync, notes, seconds)

    def finish(self, sync: str, claim: Claim) -> None:
        """Delete a claim whose scan was made, and queue another scan if more was noted."""
        self.event_store.finish(sync, claim)
        if self.event_store.notes(sync):
            self.queues.start(
                self.start_message(sync), round(max(_NEXT_SCAN_DELAY, self.config(sync).gathering().quiet))
            )
