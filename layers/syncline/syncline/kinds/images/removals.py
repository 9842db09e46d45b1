"""Removal of tags that are gone from the source: which ones, within the limits, and one by one at the target.

A scan marks the record of a tag that a complete, non-empty listing of its repository lacks, and clears the mark when the
tag is listed again. At the end of the scan, the tags that have been absent for the sync's ``after`` are counted against
its limits; all of them are removed, or none. Before that the source is listed a second time, and each tag is requested
from it by name, so a shortened listing removes nothing.

Only our tags are removed: those of which the target still has the digest that we verified. Quay's API deletes a tag by
name. Many registries delete only a digest, with all its tags, and some do so even when they are asked to delete a tag.
Therefore the tag is first put on a small manifest that no other tag has, its placeholder, and that is deleted. The image
keeps its digest, other tags, indexes and referrers; the registry's garbage collection removes it if nothing needs it. A
removal that is interrupted continues at the placeholder, and a copy replaces it.

Registries have no conditional requests. A tag that somebody else pushes between the last reading of the tag and the
request behind it (the put of the placeholder, or the deletion at Quay) is replaced; no other tag can be affected.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Final

from syncline.clients.registry.client import TagTakenError
from syncline.clients.registry.manifest import OCI_MANIFEST, Descriptor, Manifest
from syncline.clients.registry.reference import is_digest
from syncline.errors import SynclineError
from syncline.kinds.images.config import ImagesSync
from syncline.kinds.images.listing import PAGE_TAGS, ListedTags, RegistryClients
from syncline.kinds.images.records import ImageRecord, Records, RepositoryRecords, ScanRecords
from syncline.kinds.kind import Completed, Failure, Page, StepContext, Unfinished
from syncline.model import Item, Outcome, Result, Scope, compact_json
from syncline.ownership import Limits, RemovalRequest, Windows, digest_of
from syncline.patterns import is_signature_tag, signature_subject
from syncline.schedule import seconds_of
from syncline.text import plural

_EMPTY: Final = b"{}"
_EMPTY_DIGEST: Final = f"sha256:{hashlib.sha256(_EMPTY).hexdigest()}"
_EMPTY_TYPE: Final = "application/vnd.oci.empty.v1+json"
_NO_DIGEST: Final = f"sha256:{0:064}"
_REMOVE: Final = "remove"
REMOVING: Final = "!"
"""Begins a cursor behind all repositories: ``!granted,time:repository``, with the removals that may still be sent on.

They are those due at the time of the grant, so a scan that is repeated later sends no others."""
_RUN_WINDOW: Final = 30 * 86_400.0
"""Seconds for which the window of a run with its own limit is kept: longer than any run."""


def removal(group: str, tag: str, digest: str) -> Item:
    """Return the item that removes a tag with a digest of ours."""
    return Item(group, tag, None, digest, detail={_REMOVE: True})


def is_removal(item: Item) -> bool:
    return bool(item.detail.get(_REMOVE))


def placeholder(group: str, tag: str) -> Manifest:
    """Return the manifest that a tag gets before it is deleted: the same in each attempt, and another for each tag."""
    empty = {"mediaType": _EMPTY_TYPE, "digest": _EMPTY_DIGEST, "size": len(_EMPTY)}
    annotations = {"syncline.removed": f"{group}:{tag}"}
    parts = {"config": empty, "layers": [empty], "annotations": annotations}
    body = compact_json({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": _EMPTY_TYPE, **parts}).encode()
    return Manifest(f"sha256:{hashlib.sha256(body).hexdigest()}", OCI_MANIFEST, body)


@dataclass(frozen=True, slots=True)
class GoneTags:
    """The records of a repository: the number of selected ones, and the tags to be removed, with their digests."""

    group: str
    ours: int
    due: dict[str, str]


@dataclass(frozen=True, slots=True)
class Granted:
    """The removals of a scan: their number, and the time (Unix seconds) for which the delays of tags were compared.

    ``failure`` says that the limits forbid them. ``groups`` has the repositories with records, and the number of these.
    """

    count: int
    at: int
    groups: Mapping[str, int]
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class TagRemovals:
    """The removals of one sync. ``clock`` returns Unix seconds."""

    sync: ImagesSync
    records: Records
    windows: Windows
    clock: Callable[[], float]

    def is_due(self, record: ImageRecord, at: int) -> bool:
        """Return True if a tag had been absent from the source for long enough at a time."""
        rule = self.sync.removals
        wait = 0.0 if rule is None or rule.after is None else seconds_of(rule.after)
        return bool(record.absent_since) and record.absent_since + wait <= at

    def gone(self, scope: Scope, at: int, behind: str = "") -> Iterator[GoneTags]:
        """Yield the records of each repository of a scope, in the order of names, behind one."""
        if scope.groups is None:
            rows: Iterable[tuple[str, str, list[object]]] = self.records.scan(behind)
        else:
            groups = (group for group in sorted(scope.groups) if group >= behind)
            rows = ((group, tag, row) for group in groups for tag, row in self.records.of(group))
        for group, some in groupby(rows, key=lambda row: row[0]):
            source = self.sync.source_repository(group)
            if group != behind and source is not None and self.sync.takes_repository(source):
                yield self.of(group, at, ((tag, ImageRecord.of_row(row)) for _, tag, row in some))

    def of(self, group: str, at: int, records: Iterable[tuple[str, ImageRecord]]) -> GoneTags:
        """Return the selected records of a repository, and the tags that are due at a time."""
        ours, due, kept = 0, dict[str, str](), set[str]()
        for tag, record in records:
            if self.sync.takes_tag(tag):
                ours += 1
                # A kept image keeps its signatures.
                stays = self.sync.keeping is not None and is_signature_tag(tag)
                if self.is_due(record, at) and not stays:
                    due[tag] = record.digest
                else:
                    kept.add(record.digest)
        # A signature goes with the last tag of its image.
        return GoneTags(group, ours, {tag: each for tag, each in due.items() if signature_subject(tag) not in kept})

    def granted(self, scope: Scope, context: StepContext, planned: Mapping[str, GoneTags]) -> Granted:
        """Reserve the removals of a scope, all or none. ``planned`` has repositories whose records a plan did not write."""
        rule, at = self.sync.removals, int(self.clock())
        assert rule is not None
        names: list[str] = []
        groups: dict[str, int] = {}
        for each in self.gone(scope, at):
            groups[each.group] = each.ours
            names += (f"{each.group}:{tag}" for tag in planned.get(each.group, each).due)
        if not names:
            return Granted(0, at, groups)
        own, count = context.allow_removals, len(names)
        limits = rule.limits if own is None else Limits(1.0, own, _RUN_WINDOW)
        request = RemovalRequest(limits, count, digest_of(names), context.run, own is not None, keep=not context.plan)

        def total() -> int:
            if own is not None:
                return sys.maxsize
            return sum(groups.values()) if scope.everything else sum(each.ours for each in self.gone(Scope(), at))

        grant = self.windows.reserve(request, total, context.removed)
        if grant.allowed:
            return Granted(count, at, groups)
        limit = f"the limit is {grant.most} of {grant.total} per {rule.per}" if own is None else f"it may remove {own}"
        what = f"tags gone from the source: {count}; {limit}, of which {grant.used} are used, so none is removed"
        advice = f"To remove them: syncline run {self.sync.name} --allow-removals {count}"
        return Granted(0, at, groups, capped(f"{what}. {advice}"))


def capped(what: str, group: str = "*") -> Failure:
    """Return the failure of a scan that removes nothing because of a limit."""
    return Failure(Item(group, "*"), SynclineError("REMOVALS_CAPPED", what))


class ScanRemovals:
    """The removals of one scan: it marks absent tags while repositories are compared, and then yields those to be removed."""

    def __init__(
        self, removals: TagRemovals, source: RegistryClients, records: ScanRecords, context: StepContext
    ) -> None:
        self._removals = removals
        self._source = source
        self._records = records
        self._context = context
        self._planned: dict[str, GoneTags] = {}

    def mark(self, name: str, records: RepositoryRecords, source: ListedTags, target: ListedTags) -> Iterator[Page]:
        """Mark the records of tags that only the target has. A plan yields those that would be removed.

        The pages have no cursor.
        """
        complete = not (source.invalid or target.invalid or target.next_position)
        if not complete or records.held is None:
            return
        current = dict(records.all())
        changes: dict[str, ImageRecord | None] = {}
        now = int(self._removals.clock())
        listed = not all(map(is_digest, source.tags))  # the digests are those that the sync names
        for tag, record in current.items():
            if tag in source.tags:
                # If the target still has the image, it is recorded again: an interrupted removal may have replaced it.
                changes |= {tag: None} if record.absent_since else {}
            elif tag not in target.tags:
                changes[tag] = None
            elif self._removals.sync.takes_tag(tag) and target.tags[tag].digest in (None, record.digest):
                marked = replace(record, absent_since=record.absent_since or now)
                changes |= {tag: marked} if marked != record else {}
        left = ((tag, changes.get(tag, record)) for tag, record in current.items())
        gone = self._removals.of(records.repository, now, ((tag, each) for tag, each in left if each is not None))
        absent = gone.due
        if not listed and absent:
            host = self._source.registry.host
            what = f"{host} lists no tags of {name}, but the target has {len(absent)} of ours; nothing is removed"
            failure = capped(
                f"{what} after an empty listing. If that is intended, delete them at the target", records.repository
            )
            yield Page("", failures=(failure,))
            return
        if listed:
            self._records.learn(records.repository, changes)
        if self._context.plan:
            self._planned[records.repository] = gone
            for at in range(0, len(absent), PAGE_TAGS):
                items = (removal(records.repository, *each) for each in [*absent.items()][at : at + PAGE_TAGS])
                yield Page("", tuple(items))

    def pages(
        self, scope: Scope, cursor: str | None, listed: Sequence[str] | None, tags_of: Callable[[str, str], ListedTags]
    ) -> Iterator[Page]:
        """Yield the tags to be removed, after all repositories of the scope were compared.

        ``listed`` are the repositories of the source if it was listed at once. ``tags_of`` lists the tags of one of them
        once more, by its names at the source and at the target.
        """
        if cursor is None:
            self._records.write(least=1)
            found = self._removals.granted(scope, self._context, self._planned)
            if found.failure is not None:
                yield Page(f"{REMOVING}0,{found.at}", failures=(found.failure,))
            cursor = f"{REMOVING}{found.count},{found.at}"
            if listed is not None and scope.everything:
                yield from self._vanished(found, listed, cursor)
        left, _, behind = cursor.removeprefix(REMOVING).partition(":")
        granted, at = map(int, left.split(","))
        if self._context.plan or not granted:
            return
        yield Page(cursor)
        for gone in self._removals.gone(scope, at, behind):
            if self._context.over or not granted:
                return
            if not gone.due:
                continue
            failures = tuple[Failure, ...]()
            items = list[Item]()
            try:
                items = self._still_gone(gone, tags_of)[:granted]
            except SynclineError as error:
                failures = (Failure(Item(gone.group, "*"), error),)
            while items:
                some, items = items[:PAGE_TAGS], items[PAGE_TAGS:]
                granted -= len(some)
                # A scan that resumes in a repository sends its tags again: a removed one has no record, or is completed.
                yield Page(f"{REMOVING}{granted},{at}:{behind if items else gone.group}", tuple(some))
            behind = gone.group
            yield Page(f"{REMOVING}{granted},{at}:{behind}", failures=failures)

    def _vanished(self, found: Granted, names: Sequence[str], cursor: str) -> Iterator[Page]:
        """Yield results for repositories of ours that the source no longer lists; they keep their images."""
        listed = set(map(self._removals.sync.target_repository, names))
        host = self._source.registry.host
        what = "the source {} no longer lists this repository; {} of this sync stay at the target"
        results = [
            Result(group, "*", Outcome.EXTRA, reason=what.format(host, plural(count, "tag")))
            for group, count in found.groups.items()
            if count and group not in listed
        ]
        for at in range(0, len(results), PAGE_TAGS):
            yield Page(cursor, results=tuple(results[at : at + PAGE_TAGS]))

    def _still_gone(self, gone: GoneTags, tags_of: Callable[[str, str], ListedTags]) -> list[Item]:
        """Return the removals of the tags that a second listing of their repository lacks, too."""
        listed = tags_of(self._removals.sync.source_repository(gone.group) or "", gone.group)
        if not listed.tags or listed.invalid or listed.next_position is not None:
            return []
        return [removal(gone.group, tag, digest) for tag, digest in gone.due.items() if tag not in listed.tags]


class TagRemoval:
    """Removal of tags from one repository of the target."""

    def __init__(self, source: RegistryClients, name: str, target: RegistryClients, group: str) -> None:
        self._source, self._name = source.registry, name
        self._target, self._api, self._group = target.registry, target.api, group
        self._deletes: bool | None = None
        self.returned: list[Item] = []
        """Items whose tag the source has again: they are to be copied."""

    def answers(
        self, items: Sequence[Item], context: StepContext
    ) -> Iterator[Completed | Unfinished | Result | Failure]:
        """Yield an answer for each item, except those that are ``returned``. A Result is one for a foreign tag."""
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
        if present is None:
            return Completed(item)
        begun = present == placeholder(self._group, item.name).digest
        if present != item.target and not begun:
            return self._foreign(item, present)
        if self._api is not None:
            self._api.delete_tag(self._group, item.name)
            return Completed(item)
        return self._delete(item, begun=begun)

    def _delete(self, item: Item, *, begun: bool) -> Completed | Result:
        """Delete a tag, and nothing else, by its placeholder. Raises REMOVAL_REFUSED if the registry cannot do that."""
        group, tag, alone = self._group, item.name, placeholder(self._group, item.name)
        if self._deletes is None:
            # The answer to an absent digest tells whether images can be deleted, before the tag is changed.
            self._deletes = self._target.delete(group, _NO_DIGEST)
        if self._deletes:
            if not begun:
                self._put_empty()
                try:
                    self._target.put_tag(group, tag, alone, item.target)
                except TagTakenError as taken:
                    return self._foreign(item, taken.digest)
            for reference in (alone.digest, tag):
                self._target.delete(group, reference)
                if self._target.manifest_digest(group, tag) != alone.digest:
                    return Completed(item)
            begun = True
        if begun:
            self._target.put_tag(group, tag, self._target.manifest(group, str(item.target)), alone)
        raise SynclineError("REMOVAL_REFUSED", f"{group}:{tag}: {self._target.host} does not delete images")

    def _put_empty(self) -> None:
        if self._target.blob_size(self._group, Descriptor(_EMPTY_DIGEST, len(_EMPTY), _EMPTY_TYPE)) is None:
            self._target.begin_upload(self._group).put(_EMPTY_DIGEST, _EMPTY, len(_EMPTY))

    @staticmethod
    def _foreign(item: Item, present: str) -> Result:
        why = f"the target has {present} under this tag by now, which this sync did not write"
        return Result(item.group, item.name, Outcome.EXTRA, None, present, reason=why)
