"""Who wants to hear of which source, and what has been heard of it and not been looked at yet.

=======================  ==============  ===========================================================
pk                       sk              what
=======================  ==============  ===========================================================
``HEARS#<source>``       ``<sync>``      the sync wants to hear of the source (``bucket:NAME``)
``SYNC#<sync>``          ``HEARS``       the sources it wants to hear of
``HEARD#<sync>``         ``NOTE#<id>``   groups that one delivery of events named
``HEARD#<sync>``         ``CLAIM``       the notes that a look is being begun for
=======================  ==============  ===========================================================

A look is begun for a claim, and a claim is kept until that look was made: whoever finds it makes the same look again,
under the same name, so a message that is delivered twice, or whose function dies, loses no note and doubles no look.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from syncline.model import LARGEST_SCOPE, json_bytes, portions
from syncline.table import Database, number, pack, unpack

KEPT: Final = 7 * 24 * 3600
"""Seconds for which a note that nobody looked at is kept: a scheduled look has healed it by then."""


@dataclass(frozen=True, slots=True)
class Note:
    """What one delivery of events named: ``at`` in Unix seconds."""

    id: str
    at: float
    groups: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Claim:
    """Notes that become one look, which bears ``id``; ``at`` is when it was claimed, in Unix seconds."""

    id: str
    at: float
    groups: tuple[str, ...]
    notes: tuple[str, ...]


class Hearing:
    """The table's part about events. ``clock`` gives Unix seconds."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._db = database
        self._clock = clock

    def subscribe(self, sync: str, sources: Iterable[str]) -> None:
        """Let a sync hear of just these sources."""
        wanted = set(sources)
        before = self._sources(sync)
        for source in wanted - before:
            self._db.put({"pk": f"HEARS#{source}", "sk": sync})
        if wanted != before:
            self._db.put({"pk": f"SYNC#{sync}", "sk": "HEARS", "sources": sorted(wanted)})
        for source in before - wanted:
            self._db.delete(f"HEARS#{source}", sync)

    def _sources(self, sync: str) -> set[str]:
        item = self._db.get(f"SYNC#{sync}", "HEARS") or {}
        return {str(source) for source in item.get("sources", ())}

    def subscribers(self, source: str) -> list[str]:
        """The syncs that want to hear of a source."""
        return [str(item["sk"]) for item in self._db.query(f"HEARS#{source}")]

    def note(self, sync: str, note_id: str, groups: Iterable[str]) -> None:
        """Keep what a delivery named; the same ``note_id`` again is the same note.

        What is more than a look may cover becomes several notes.
        """
        now = self._clock()
        for part, names in enumerate(portions(sorted(set(groups)))):
            item = {"pk": f"HEARD#{sync}", "sk": f"NOTE#{note_id}" + (f"-{part}" if part else "")}
            self._db.put(item | {"groups": pack(list(names)), "at": number(now), "expires": int(now) + KEPT})

    def notes(self, sync: str) -> list[Note]:
        """What has been heard and not been looked at, oldest first."""
        items = self._db.query(f"HEARD#{sync}", "NOTE#")
        notes = [
            Note(str(item["sk"]).removeprefix("NOTE#"), float(item["at"]), tuple(unpack(item["groups"])))
            for item in items
        ]
        return sorted(notes, key=lambda note: (note.at, note.id))

    def claimed(self, sync: str) -> Claim | None:
        """The claim for which a look is to be made, if there is one."""
        item = self._db.get(f"HEARD#{sync}", "CLAIM")
        if item is None:
            return None
        return Claim(str(item["id"]), float(item["at"]), tuple(unpack(item["groups"])), tuple(unpack(item["notes"])))

    def claim(self, sync: str, notes: Iterable[Note]) -> Claim:
        """Claim notes, in their order, as many as one look may cover; the claim that stands if there is one already."""
        groups: set[str] = set()
        taken: list[str] = []
        size = 0
        for note in notes:
            more = set(note.groups) - groups
            size += sum(map(json_bytes, more))
            if taken and size > LARGEST_SCOPE:
                break
            groups |= more
            taken.append(note.id)
        digest = hashlib.blake2b("\n".join(taken).encode(), digest_size=8).hexdigest()
        now = self._clock()
        claim = Claim(digest, round(now, 3), tuple(sorted(groups)), tuple(taken))
        item = {"pk": f"HEARD#{sync}", "sk": "CLAIM", "id": claim.id, "at": number(now), "expires": int(now) + KEPT}
        item |= {"groups": pack(list(claim.groups)), "notes": pack(list(claim.notes))}
        if self._db.transact([self._db.put_if(item, "attribute_not_exists(pk)")]):
            return self.claimed(sync) or claim
        return claim

    def settle(self, sync: str, claim: Claim) -> None:
        """The look for a claim was made: forget its notes."""
        for note_id in claim.notes:
            self._db.delete(f"HEARD#{sync}", f"NOTE#{note_id}")
        self._db.delete(f"HEARD#{sync}", "CLAIM")
