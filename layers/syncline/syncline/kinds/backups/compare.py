"""The comparison of one cluster, file by file: the source's listing, the target's files, and the records of our files."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import Final

from syncline.clients.http.listings import InvalidEntry
from syncline.clients.s3.xml import ListedObject
from syncline.errors import SynclineError
from syncline.kinds.backups.ownership import EXTRAS, OwnedFile, foreign
from syncline.kinds.backups.paths import Layout, TakenPaths, path_error
from syncline.kinds.backups.secrets_filter import left_out
from syncline.kinds.backups.source import failed_result
from syncline.kinds.kind import Failure, Page, StepContext, split_equal
from syncline.model import Item, Result
from syncline.store.backup_records import IndexEntry

_PORTION: Final = 200
"""Keys that an audit or a drill reads and compares before a page ends."""


@dataclass(slots=True)
class Comparison:
    """A comparison of a cluster's selected files.

    `objects` are the objects that the source lists, and `current` the index entries of those that have not changed since
    they were read. `rows` are the records of our files. `evidence` returns True if
    a file without a record is ours. `invalid` are results of invalid entries of the listings, by key: a file that seems
    gone may be what one of them stands for. `asked` are the items that a retry asks for.

    Afterwards `learned` has the records to write, `ours` the number of files that are ours, and `gone` those of them
    that are gone from the source.
    """

    layout: Layout
    group: str
    objects: Mapping[str, ListedObject]
    current: Mapping[str, IndexEntry]
    rows: Mapping[str, OwnedFile]
    evidence: Callable[[str, str], bool]
    invalid: Mapping[str, Result]
    asked: frozenset[tuple[str, str]]
    learned: dict[str, OwnedFile | None] = field(default_factory=dict)
    ours: int = 0
    gone: dict[str, tuple[Item, OwnedFile]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.objects = {key: facts for key, facts in self.objects.items() if key not in self.invalid}

    def all_equal(self) -> Page:
        """Return the page of a cluster that is the same at source and target."""
        at_target = {key: entry.blob for key, entry in self.current.items() if entry.blob}
        for key, fingerprint in at_target.items():
            self._equal(key, fingerprint)
        self._forget(at_target.keys())
        return self._page(self.current)

    def compared(self, at_target: Mapping[str, str]) -> Page:
        """Return the page of a cluster; `at_target` has the fingerprints of the target's files by key."""
        taken = TakenPaths()
        for key in at_target:
            if key in self.objects:
                taken.add(self.layout.path_of(key))
        items: list[Item] = []
        results: list[Result] = []
        equal: dict[str, IndexEntry] = {}
        for key in sorted(self.objects, key=str.encode):
            listed, target, entry = self.objects[key], at_target.get(key), self.current.get(key)
            item = Item(self.group, key, listed.etag, target, listed.size, changed=int(listed.modified))
            error = path_error(self.layout.path_of(key), taken)
            if error is not None:
                results.append(failed_result(item, error))
            elif entry is not None and entry.blob == (target or ""):
                equal[key] = entry
                if target is not None:
                    self._equal(key, target)
            elif target is None or self._is_ours(key, target):
                self.ours += target is not None
                items.append(item)
            elif entry is None:
                items.append(item)  # it may be equal, so it is read
            else:
                results.append(foreign(self.group, key, entry.blob or None, target))
        self._forget(at_target.keys())
        extra = self._add_extras({key: at_target[key] for key in at_target.keys() - self.objects.keys()}, results)
        page = self._page(equal)
        return replace(page, items=tuple(items), results=(*results, *page.results), extra=extra)

    def _page(self, equal: Mapping[str, IndexEntry]) -> Page:
        page = unchanged_page(self.group, equal, self.asked)
        return replace(page, results=(*page.results, *self.invalid.values()))

    def _equal(self, key: str, fingerprint: str) -> None:
        """Adopt a file that is equal at source and target."""
        self.ours += 1
        row, listed = self.rows.get(key), self.objects[key]
        if row is None or (row.fingerprint, row.etag, row.size) != (fingerprint, listed.etag, listed.size):
            created = row.created if row is not None and row.fingerprint == fingerprint else 0
            self.learned[key] = OwnedFile(fingerprint, listed.etag, listed.size, created)

    def _is_ours(self, key: str, fingerprint: str) -> bool:
        row = self.rows.get(key)
        if row is not None and row.is_at(fingerprint):
            return True
        ours = self.evidence(key, fingerprint)
        if ours and row is None:
            self.learned[key] = OwnedFile(fingerprint)
        return ours

    def _forget(self, at_target: AbstractSet[str]) -> None:
        """Delete the records of files that neither source nor target has."""
        if self.invalid:
            return
        gone = self.rows.keys() - at_target - self.objects.keys()
        self.learned |= dict.fromkeys(key for key in gone if self.layout.takes(key))

    def _add_extras(self, only_target: Mapping[str, str], results: list[Result]) -> int:
        """Split files that only the target has into `gone` and extras; return the number of extras without a result."""
        extras = 0
        for key, fingerprint in sorted(only_target.items()):
            if not self.layout.takes(key) or key in self.invalid:
                continue
            if self._is_ours(key, fingerprint):
                self.ours += 1
                if self.invalid:
                    continue
                item = Item(self.group, key, None, fingerprint, None, {"remove": True})
                self.gone[key] = (item, self.rows.get(key) or OwnedFile(fingerprint))
                continue
            extras += 1
            if extras <= EXTRAS:
                results.append(foreign(self.group, key, None, fingerprint))
        return max(0, extras - EXTRAS)


def portion_pages(
    keys: Sequence[str], page_of: Callable[[Sequence[str]], Page | None], context: StepContext
) -> Generator[Page, None, bool]:
    """Yield the pages of a cluster's keys while there is time, and return True if all were yielded.

    ``page_of`` returns the page of some keys, or None if there was no time for any of them.
    """
    for at in range(0, len(keys), _PORTION):
        page = page_of(keys[at : at + _PORTION])
        if page is not None:
            yield page
        if page is None or context.over:
            return False
    return True


def cluster_failure(cluster: str, error: SynclineError) -> Failure:
    """Return the failure of a complete cluster."""
    return Failure(Item(f"{cluster}/", "*"), error)


def unchanged_page(group: str, entries: Mapping[str, IndexEntry], asked: frozenset[tuple[str, str]]) -> Page:
    """Return the page of objects that have not changed since they were committed or left out.

    It has results of objects left out with a code, and of equal ones that a retry asks for.
    """
    excluded = {key: entry.code for key, entry in entries.items() if not entry.blob}
    named = tuple(left_out(Item(group, key), code) for key, code in excluded.items() if code)
    skipped, equal = split_equal(((group, key) for key in entries if key not in excluded), asked)
    return Page("", equal=skipped, results=(*named, *equal), left_out=len(excluded) - len(named))


def invalid_entry_results(
    invalid: Iterable[InvalidEntry], group: str, takes: Callable[[str], bool]
) -> dict[str, Result]:
    """Return a failed result for each invalid entry of a listing, by key or by label if it has no key.

    Entries whose key `takes` rejects are left out.
    """
    return {
        each.name or each.label: failed_result(Item(group, each.name or each.label), each.error)
        for each in invalid
        if each.name is None or takes(each.name)
    }
