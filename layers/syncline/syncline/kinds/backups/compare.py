"""Comparing one cluster file by file: the source's listing, the target's, and the records of what is ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import replace

from syncline.kinds.backups.ours import EXTRAS, Ours, foreign
from syncline.kinds.backups.paths import Layout, Names, refusal
from syncline.kinds.backups.removals import refused
from syncline.kinds.backups.sealing import staying
from syncline.kinds.kind import Page
from syncline.model import Item, Result
from syncline.store.backup_records import Known


class Comparison:
    """A comparison of a cluster's selected files.

    ``objects`` are the ETag and the size of each object that the source lists, and ``current`` is what is known of
    those that were read as they are. ``odd`` are results of entries of the listings that cannot be used, by key: what
    seems gone may be what one of them stands for. ``evidence`` tells whether a file is ours that ``rows`` do not have.
    ``asked`` are the items that a retry asks for. Afterwards ``learned`` has the records to write, ``ours`` the number of files that are ours, and ``gone`` those of them that are
    gone from the source.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - what is compared
        self,
        layout: Layout,
        group: str,
        objects: Mapping[str, tuple[str, int]],
        current: Mapping[str, Known],
        rows: Mapping[str, Ours],
        evidence: Callable[[str, str], bool],
        odd: Mapping[str, Result],
        asked: frozenset[tuple[str, str]],
    ) -> None:
        self._layout = layout
        self._group = group
        self._objects = {key: facts for key, facts in objects.items() if key not in odd}
        self._odd = odd
        self._asked = asked
        self._current = current
        self._rows = rows
        self._evidence = evidence
        self.learned: dict[str, Ours | None] = {}
        self.ours = 0
        self.gone: dict[str, tuple[Item, Ours]] = {}

    def all_equal(self) -> Page:
        """Return the page of a cluster that is the same on both sides."""
        there = {key: was.blob for key, was in self._current.items() if was.blob}
        for key, mark in there.items():
            self._equal(key, mark)
        self._forget(there.keys())
        return self._page(self._current)

    def compared(self, there: Mapping[str, str]) -> Page:
        """Return the page of a cluster of which the target has the fingerprints ``there``, by key."""
        names = Names()
        for key in there:
            if key in self._objects:
                names.add(self._layout.path_of(key))
        items: list[Item] = []
        results: list[Result] = []
        equal: dict[str, Known] = {}
        for key in sorted(self._objects, key=str.encode):
            etag, size = self._objects[key]
            here, was = there.get(key), self._current.get(key)
            item = Item(self._group, key, etag, here, size)
            error = refusal(self._layout.path_of(key), names)
            if error is not None:
                results.append(refused(item, error))
            elif was is not None and was.blob == (here or ""):
                equal[key] = was
                if here is not None:
                    self._equal(key, here)
            elif here is None or self._is_ours(key, here):
                self.ours += here is not None
                items.append(item)
            elif was is None:
                items.append(item)  # it may be equal: it is read
            else:
                results.append(foreign(self._group, key, was.blob or None, here))
        self._forget(there.keys())
        extra = self._part({key: there[key] for key in there.keys() - self._objects.keys()}, results)
        page = self._page(equal)
        return replace(page, items=tuple(items), results=(*results, *page.results), extra=extra)

    def _page(self, equal: Mapping[str, Known]) -> Page:
        page = staying(self._group, equal, self._asked)
        return replace(page, results=(*page.results, *self._odd.values()))

    def _equal(self, key: str, mark: str) -> None:
        """Adopt a file that is equal on both sides."""
        self.ours += 1
        row, (etag, size) = self._rows.get(key), self._objects[key]
        if row is None or (row.fingerprint, row.etag, row.size) != (mark, etag, size):
            created = row.created if row is not None and row.fingerprint == mark else 0
            self.learned[key] = Ours(mark, etag, size, created)

    def _is_ours(self, key: str, mark: str) -> bool:
        row = self._rows.get(key)
        if row is not None and row.is_at(mark):
            return True
        ours = self._evidence(key, mark)
        if ours and row is None:
            self.learned[key] = Ours(mark)
        return ours

    def _forget(self, there: AbstractSet[str]) -> None:
        """Forget files that neither side has."""
        if self._odd:
            return
        gone = self._rows.keys() - there - self._objects.keys()
        self.learned |= dict.fromkeys(key for key in gone if self._layout.takes(key))

    def _part(self, there: Mapping[str, str], results: list[Result]) -> int:
        """Part files that only the target has into those that are gone and extras; return the extras not listed."""
        extras = 0
        for key, mark in sorted(there.items()):
            if not self._layout.takes(key) or key in self._odd:
                continue
            if self._is_ours(key, mark):
                self.ours += 1
                if self._odd:
                    continue
                item = Item(self._group, key, None, mark, None, {"remove": True})
                self.gone[key] = (item, self._rows.get(key) or Ours(mark))
                continue
            extras += 1
            if extras <= EXTRAS:
                results.append(foreign(self._group, key, None, mark))
        return max(0, extras - EXTRAS)
