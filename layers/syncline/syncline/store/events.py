"""Subscriptions of syncs to the events of sources, and the events that no scan has covered yet.

=======================  ==============  ===========================================================
pk                       sk              content
=======================  ==============  ===========================================================
``HEARS#<source>``       ``<sync>``      a subscription of the sync to a source (``bucket:NAME``)
``SYNC#<sync>``          ``HEARS``       the sources that the sync subscribes to
``HEARD#<sync>``         ``NOTE#<id>``   the groups that one delivery of events named
``HEARD#<sync>``         ``CLAIM``       the notes that a scan is made for, and until when (``until``) its function may run
=======================  ==============  ===========================================================

A claim belongs to one function for as long as that may run, and is deleted after its scan. Meanwhile no other function
scans for it. If the function dies, the next one that finds the claim makes the same scan again, under the same ID: no note
is lost, and no two functions make the same scan at once.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Final

from syncline.model import LARGEST_SCOPE, json_bytes, portions
from syncline.store.table import Store, is_key, number, pack, unpack

KEPT: Final = 7 * 24 * 3600
"""Seconds after which a note that no scan covers is deleted: a scheduled scan has covered it by then."""


@dataclass(frozen=True, slots=True)
class Note:
    """The groups that one delivery of events named, `at` a time in Unix seconds."""

    id: str
    at: float
    groups: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Claim:
    """Notes that become one scan, named by `id`. It was claimed `at` and is held `until`, in Unix seconds."""

    id: str
    at: float
    groups: tuple[str, ...]
    notes: tuple[str, ...]
    until: float = 0.0


class EventStore(Store):
    """The subscriptions and notes in the table."""

    def subscribe(self, sync: str, sources: Iterable[str]) -> None:
        """Subscribe a sync to these sources and to no others."""
        wanted = set(sources)
        item = self._db.get(f"SYNC#{sync}", "HEARS") or {}
        previous = {str(source) for source in item.get("sources", ())}
        for source in wanted - previous:
            self._db.put({"pk": f"HEARS#{source}", "sk": sync})
        if wanted != previous:
            self._db.put({"pk": f"SYNC#{sync}", "sk": "HEARS", "sources": sorted(wanted)})
        for source in previous - wanted:
            self._db.delete(f"HEARS#{source}", sync)

    def subscribers(self, source: str) -> list[str]:
        """Return the syncs that subscribe to a source; none if its name cannot be a part of a key."""
        if not is_key(source):
            return []
        return [str(item["sk"]) for item in self._db.query(f"HEARS#{source}")]

    def add_note(self, sync: str, note_id: str, groups: Iterable[str]) -> float:
        """Store the groups that a delivery named, and return the time of the note in Unix seconds.

        A repeated `note_id` replaces the note. Groups that exceed the limit of one scan become several notes.
        """
        now = round(self._clock(), 3)
        for part, names in enumerate(portions(sorted(set(groups)), json_bytes, LARGEST_SCOPE)):
            item = {"pk": f"HEARD#{sync}", "sk": f"NOTE#{note_id}" + (f"-{part}" if part else "")}
            self._db.put(item | {"groups": pack(names), "at": number(now), "expires": int(now) + KEPT})
        return now

    def notes(self, sync: str) -> list[Note]:
        """Return the notes that no scan has covered, oldest first."""
        items = self._db.query(f"HEARD#{sync}", "NOTE#")
        notes = [
            Note(str(item["sk"]).removeprefix("NOTE#"), float(item["at"]), tuple(unpack(item["groups"])))
            for item in items
        ]
        return sorted(notes, key=lambda note: (note.at, note.id))

    def current_claim(self, sync: str) -> Claim | None:
        """Return the claim of a sync, None if there is none."""
        item = self._db.get(f"HEARD#{sync}", "CLAIM")
        if item is None:
            return None
        groups, notes = tuple(unpack(item["groups"])), tuple(unpack(item["notes"]))
        return Claim(str(item["id"]), float(item["at"]), groups, notes, float(item.get("until", 0)))

    def claim(self, sync: str, notes: Iterable[Note], seconds: float) -> Claim | None:
        """Claim notes for `seconds`, in their order, as many as one scan may cover; None if there is a claim."""
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
        claim = Claim(digest, round(now, 3), tuple(sorted(groups)), tuple(taken), now + seconds)
        item = {"pk": f"HEARD#{sync}", "sk": "CLAIM", "id": claim.id, "at": number(now), "expires": int(now) + KEPT}
        item |= {"groups": pack(list(claim.groups)), "notes": pack(list(claim.notes)), "until": number(claim.until)}
        refused = self._db.transact([self._db.put_request(item, "attribute_not_exists(pk)")])
        return None if refused else claim

    def resume(self, sync: str, claim: Claim, seconds: float) -> Claim | None:
        """Take over a claim for `seconds`. Return None if its function may be running, or another one was faster."""
        now = self._clock()
        # boto3 repeats a call whose response was lost: the repeated call finds its own name.
        free = "#id = :id AND (attribute_not_exists(#until) OR #until <= :now OR #call = :call)"
        return self._hold(sync, claim, now + seconds, free, {":now": number(now)})

    def release(self, sync: str, claim: Claim) -> None:
        """Let the next function resume a claim whose scan was not made."""
        self._hold(sync, claim, 0.0, "#id = :id AND #until = :mine", {":mine": number(claim.until)})

    def _hold(self, sync: str, claim: Claim, until: float, condition: str, extra: dict[str, Any]) -> Claim | None:
        held = self._db.update(
            f"HEARD#{sync}",
            "CLAIM",
            "SET #until = :until, #call = :call",
            {"until": number(until), "call": secrets.token_hex(8)},
            condition=condition,
            extra={":id": claim.id, **extra},
            names=("id",),
        )
        return None if held is None else replace(claim, until=until)

    def finish(self, sync: str, claim: Claim) -> None:
        """Delete a claim whose scan was made, and its notes."""
        for note_id in claim.notes:
            self._db.delete(f"HEARD#{sync}", f"NOTE#{note_id}")
        self._db.delete(f"HEARD#{sync}", "CLAIM")
