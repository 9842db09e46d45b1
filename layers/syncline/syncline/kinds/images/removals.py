"""Removal of tags that are gone from the source: which ones, within the limits, and one by one at the target.

A scan marks the record of a tag that a complete, non-empty listing of its repository lacks, and clears the mark when the
tag is listed again. At the end of the scan, the tags that have been absent for the sync's ``after`` are counted against
its limits; all of them are removed, or none. Before that the source is listed a second time, and each tag is requested
from it by name, so a shortened listing removes nothing.

Only our tags are removed: those of which the target still has the digest that we verified. Quay's API deletes a tag by
name, and so do registries of the distribution specification 1.1. Others delete only a digest, with all its tags; there
a tag is removed only if no other tag and no index of the repository has its digest.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import Final

from syncline.clients.http.listings import InvalidEntry
from syncline.clients.registry.manifest import Manifest
from syncline.errors import SynclineError
from syncline.kinds.images.config import ImagesSync
from syncline.kinds.images.listing import HELD_TAGS, RegistryClients
from syncline.kinds.images.records import ImageRecord, Records
from syncline.kinds.images.referrers import manifest_or_none
from syncline.kinds.kind import Completed, Failure, StepContext, Unfinished
from syncline.model import Item, Outcome, Result, Scope
from syncline.ownership import Limits, RemovalRequest, Windows, digest_of
from syncline.patterns import signature_subject
from syncline.schedule import seconds_of

AT_ONCE: Final = 16
_REMOVE: Final = "remove"
_RUN_WINDOW: Final = 30 * 86_400.0
"""Seconds for which the window of a run with its own limit is kept: longer than any run."""


def removal(group: str, tag: str, digest: str) -> Item:
    """Return the item that removes a tag with a digest of ours."""
    return Item(group, tag, None, digest, detail={_REMOVE: True})


def is_removal(item: Item) -> bool:
    return bool(item.detail.get(_REMOVE))


@dataclass(frozen=True, slots=True)
class GoneTags:
    """The records of a repository: the number of selected ones, and the tags to be removed, with their digests."""

    group: str
    ours: int
    due: dict[str, str]


@dataclass(frozen=True, slots=True)
class TagRemovals:
    """The removals of one sync. ``clock`` returns Unix seconds."""

    sync: ImagesSync
    records: Records
    windows: Windows
    clock: Callable[[], float]

    def is_due(self, record: ImageRecord) -> bool:
        """Return True if a tag has been absent from the source for long enough."""
        rule = self.sync.removals
        wait = 0.0 if rule is None or rule.after is None else seconds_of(rule.after)
        return bool(record.absent_since) and record.absent_since + wait <= self.clock()

    def gone(self, scope: Scope, behind: str = "") -> Iterator[GoneTags]:
        """Yield the records of each repository of a scope, in the order of names, behind one."""
        if scope.groups is None:
            rows: Iterable[tuple[str, str, list[object]]] = self.records.scan(behind)
        else:
            groups = (group for group in scope.groups if group >= behind)
            rows = ((group, tag, row) for group in groups for tag, row in self.records.of(group))
        for group, some in groupby(rows, key=lambda row: row[0]):
            source = self.sync.source_repository(group)
            if group != behind and source is not None and self.sync.takes_repository(source):
                yield self._gone(group, ((tag, ImageRecord.of_row(row)) for _, tag, row in some))

    def _gone(self, group: str, records: Iterable[tuple[str, ImageRecord]]) -> GoneTags:
        ours, due, kept = 0, dict[str, str](), set[str]()
        for tag, record in records:
            if self.sync.takes_tag(tag):
                ours += 1
                if self.is_due(record):
                    due[tag] = record.digest
                else:
                    kept.add(record.digest)
        # A signature goes with the last tag of its image.
        return GoneTags(group, ours, {tag: each for tag, each in due.items() if signature_subject(tag) not in kept})

    def granted(self, scope: Scope, context: StepContext) -> tuple[int, Failure | None]:
        """Reserve the removals of a scope, all or none. Return their number, and the failure if the limits forbid them."""
        rule = self.sync.removals
        assert rule is not None
        names: list[str] = []
        ours = 0
        for each in self.gone(scope):
            ours += each.ours
            names += (f"{each.group}:{tag}" for tag in each.due)
        if not names:
            return 0, None
        own, count = context.allow_removals, len(names)
        limits = rule.limits if own is None else Limits(1.0, own, _RUN_WINDOW)
        request = RemovalRequest(limits, count, digest_of(names), context.run, own is not None, keep=not context.plan)

        def total() -> int:
            if own is not None:
                return sys.maxsize
            return ours if scope.everything else sum(each.ours for each in self.gone(Scope()))

        grant = self.windows.reserve(request, total, context.removed)
        if grant.allowed:
            return count, None
        limit = f"the limit is {grant.most} of {grant.total} per {rule.per}" if own is None else f"it may remove {own}"
        what = f"tags gone from the source: {count}; {limit}, of which {grant.used} are used, so none is removed"
        return 0, capped(f"{what}. To remove them: syncline run {self.sync.name} --allow-removals {count}")


def capped(what: str, group: str = "*") -> Failure:
    """Return the failure of a scan that removes nothing because of a limit."""
    return Failure(Item(group, "*"), SynclineError("REMOVALS_CAPPED", what))


class TagRemoval:
    """Removal of tags from one repository of the target."""

    def __init__(self, source: RegistryClients, name: str, target: RegistryClients, group: str) -> None:
        self._source, self._name = source.registry, name
        self._target, self._api, self._group = target.registry, target.api, group
        self._digests: dict[str, str | None] = {}
        self._parts: dict[str, set[str]] = {}
        self.returned: list[Item] = []
        """Items whose tag the source has again: they are to be copied."""

    def answers(
        self, items: Sequence[Item], context: StepContext
    ) -> Iterator[Completed | Unfinished | Result | Failure]:
        """Yield an answer for each item, except those that are ``returned``."""
        for item in items:
            if context.over:
                yield Unfinished(item)
                continue
            try:
                answer = self._answer(item)
            except SynclineError as error:
                yield Failure(item, error)
            else:
                if answer is None:
                    self.returned.append(replace(item, detail={}))
                else:
                    yield answer

    def _answer(self, item: Item) -> Completed | Result | None:
        if self._source.manifest_digest(self._name, item.name) is not None:
            return None
        present = self._target.manifest_digest(self._group, item.name)
        if present is not None and present != item.target:
            why = f"the target has {present} under this tag by now, which this sync did not write"
            return Result(item.group, item.name, Outcome.EXTRA, None, present, reason=why)
        if present is not None:
            if self._api is not None:
                self._api.delete_tag(self._group, item.name)
            else:
                self._delete(item.name, present)
            self._digests.pop(item.name, None)
        return Completed(item)

    def _delete(self, tag: str, digest: str) -> None:
        """Delete a tag that has a digest, and nothing else. Raises REMOVAL_REFUSED if the registry cannot do that."""
        manifest = manifest_or_none(self._target, self._group, digest)
        if manifest is None:
            raise SynclineError("NOT_FOUND", f"{self._group}@{digest} is not at {self._target.host}, but its tag is")
        shared = [other for other, has in self._others(tag).items() if has == digest]
        if self._target.delete(self._group, tag):
            self._restore(tag, shared, manifest)
        elif why := self._in_use(tag, shared, manifest):
            raise self._refused(tag, f"deletes images only by digest, and {why}")
        elif not self._target.delete(self._group, digest):
            raise self._refused(tag, "does not delete images")

    def _others(self, tag: str) -> dict[str, str | None]:
        """Return the digests of all other tags of the repository. Each tag is requested once."""
        names: set[str] = set()
        for name in self._target.tags(self._group, self._unreadable):
            names.add(name)
            if len(names) > HELD_TAGS:
                raise self._refused(tag, f"has more than {HELD_TAGS:,} tags in {self._group}, too many to protect")
        unknown = sorted(names - self._digests.keys() - {tag})
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="tag") as pool:
            digests = pool.map(partial(self._target.manifest_digest, self._group), unknown)
            self._digests |= dict(zip(unknown, digests, strict=True))
        return {name: self._digests[name] for name in sorted(names - {tag})}

    def _in_use(self, tag: str, shared: Sequence[str], manifest: Manifest) -> str | None:
        """Return why a digest may not be deleted, None if it may."""
        if shared:
            return f"{', '.join(shared[:5])} {'has' if len(shared) == 1 else 'have'} the same one"
        if manifest.subject is not None:
            return f"it is listed as a referrer of {manifest.subject.digest}"
        for other, digest in self._others(tag).items():
            if digest is not None and manifest.digest in self._parts_of(digest):
                return f"it is a part of {other}"
        return None

    def _parts_of(self, digest: str) -> set[str]:
        """Return the manifests that an index consists of, at all depths; none for an image."""
        if digest not in self._parts:
            found = self._parts[digest] = set()
            manifest = manifest_or_none(self._target, self._group, digest)
            for child in () if manifest is None else manifest.children():
                found |= {child.digest, *(self._parts_of(child.digest) if child.names_manifest else ())}
        return self._parts[digest]

    def _restore(self, tag: str, shared: Sequence[str], manifest: Manifest) -> None:
        """Check that the other tags of a digest are still there, and put back those that are not."""
        lost = [other for other in shared if self._target.manifest_digest(self._group, other) is None]
        for other in lost:
            self._target.put_manifest(self._group, other, manifest)
        if lost:
            raise self._refused(tag, f"deleted {', '.join(lost)} with it, which were put back")

    def _refused(self, tag: str, why: str) -> SynclineError:
        return SynclineError("REMOVAL_REFUSED", f"{self._group}:{tag}: {self._target.host} {why}")

    def _unreadable(self, entry: InvalidEntry) -> None:
        raise SynclineError("REMOVAL_REFUSED", f"{self._group} at {self._target.host}: {entry.error.what}")
