"""Gather: events of a source are noted, and after a quiet moment many of them become one look."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from syncline.config.sync import Sync
from syncline.errors import SynclineError
from syncline.kinds.kind import Kind
from syncline.messages import Queues, Start
from syncline.model import Scope, Trigger
from syncline.store.events import Claim, EventStore
from syncline.telemetry import logger, message_dropped

_AGAIN: Final = 1.0
"""Seconds before what did not fit into one look is looked at."""
_PUT_OFF: Final = 30
"""Seconds before an event is told once more to a sync that could not be told."""


@dataclass(frozen=True, slots=True)
class Gatherer:
    """Notes events and says when they are due. ``sources`` names the sources that an event's body speaks of.

    It raises MESSAGE_INVALID for what is nobody's event.
    """

    event_store: EventStore
    sources: Callable[[object], tuple[str, ...]]
    config: Callable[[str], Sync]
    kind: Callable[[str], Kind]
    queues: Queues
    clock: Callable[[], float]

    def hear(self, bodies: Sequence[tuple[str, Any]]) -> set[str]:
        """Note what a delivery of events speaks of, for each sync that wants to hear of it, and ask for a look.

        ``bodies`` are the messages by their ids. Answers with those that a sync which event_sources of their source cannot
        read; raises MESSAGE_INVALID for what is of no source. A sync that cannot be told, as a secret of it is
        missing, is told later by messages of its own: nobody else waits for it, or event_sources the same twice.
        """
        by_sync: dict[str, list[tuple[str, Any]]] = {}
        for message, body in bodies:
            names = {name for source in self.sources(body) for name in self.event_store.subscribers(source)}
            for name in sorted(names):
                by_sync.setdefault(name, []).append((message, body))
            if not names:
                message_dropped("an event that no sync event_sources of")
        refused: set[str] = set()
        for name, heard in by_sync.items():
            try:
                refused |= self.note(name, heard)
            except SynclineError as error:
                logger.error("a sync cannot be told of events", extra={"sync": name, "why": str(error)})
                if error.code.name != "NO_SUCH_SYNC":
                    for _, body in heard:
                        self._put_off(name, body)
        return refused

    def _put_off(self, name: str, body: Any) -> None:
        """Tell a sync of an event later. An event too large for a message of ours is left to the next full scan."""
        try:
            self.queues.start(replace(self.start(name), heard=body), _PUT_OFF)
        except SynclineError as error:
            if error.code.name != "MESSAGE_REFUSED":
                raise
            logger.error("an event cannot be put off", extra={"sync": name, "why": str(error)})

    def note(self, name: str, heard: Sequence[tuple[str, Any]]) -> set[str]:
        """Note what a sync event_sources; the messages that it cannot read. Raises why it cannot be told."""
        note_id = hashlib.blake2b("\n".join(sorted(each for each, _ in heard)).encode(), digest_size=10).hexdigest()
        sync = self.config(name)
        if not sync.enabled:
            return set()
        kind, groups, refused = self.kind(name), set[str](), set[str]()
        for message, body in heard:
            try:
                groups |= set(kind.changed_groups(body))
            except SynclineError as error:
                if error.code.name != "MESSAGE_INVALID":
                    raise
                logger.error("event cannot be read", extra={"sync": name, "why": str(error)})
                refused.add(message)
        if groups:
            noted = self.event_store.note(name, note_id, groups)
            self.queues.start(replace(self.start(name), noted=noted), round(sync.gathering().quiet))
            logger.info("events noted", extra={"sync": name, "groups": len(groups)})
        return refused

    def knows(self, sync: str) -> bool:
        """Return False if no sync of that name is applied."""
        try:
            self.config(sync)
        except SynclineError as error:
            return error.code.name != "NO_SUCH_SYNC"
        return True

    def start(self, sync: str) -> Start:
        return Start(sync, Trigger.EVENT, gathered=True)

    def due(self, sync: str, seconds: float, noted: float | None = None) -> Claim | None:
        """Claim what is to be scanned now, for `seconds`; `noted` is that of the message that asks.

        None where there is nothing, where events keep coming and none has waited too long, and where another function
        scans: when that is done it asks for a scan of what was noted meanwhile.
        """
        claim = self.event_store.claimed(sync)
        if claim is not None:
            return self.event_store.take_up(sync, claim, seconds)
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

    def release(self, sync: str, claim: Claim) -> None:
        """Leave a claim to the next start: its scan has to wait."""
        self.event_store.release(sync, claim)

    def settle(self, sync: str, claim: Claim) -> None:
        """Delete a claim whose scan was made, and ask for another scan if more was noted."""
        self.event_store.settle(sync, claim)
        if self.event_store.notes(sync):
            self.queues.start(self.start(sync), round(max(_AGAIN, self.config(sync).gathering().quiet)))


def scope_of(claim: Claim) -> Scope:
    """What a claim's look covers."""
    return Scope.of(claim.groups)
