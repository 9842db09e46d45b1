"""Application of a selection in a scan: the differing tags of a repository that are left out, and the digests of smaller indexes."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Final

from syncline.clients.registry.reference import is_digest
from syncline.clients.registry.store import ImageStore
from syncline.errors import SynclineError
from syncline.kinds.images.config_select import ImagesSelect
from syncline.kinds.images.details import INDEX
from syncline.kinds.images.facts import TargetNotes
from syncline.kinds.images.listing import Tag
from syncline.kinds.images.selection import DigestMemo, ImageTimes, TagSelection, for_platforms, none_selected
from syncline.kinds.kind import Failure, StepContext
from syncline.model import Item, Outcome, Result
from syncline.patterns import is_signature_tag, signature_subject

_UNCHANGED: Final = "="
_NONE: Final = "-"


def _is_equal(item: Item) -> bool:
    return item.source is not None and item.source == item.target


@dataclass(frozen=True, slots=True)
class RepositoryEnds:
    """A repository at the source and at the target."""

    source: ImageStore
    name: str
    target: ImageStore
    group: str


@dataclass(frozen=True, slots=True)
class Judged:
    """The items of a page that are selected, the results and failures of others, and the number that is left out."""

    items: list[Item]
    results: tuple[Result, ...] = ()
    failures: tuple[Failure, ...] = ()
    left_out: int = 0


def left_out_by_selection(group: str, tag: str) -> Result:
    """Return the result of a tag that a person asked for and the selection leaves out."""
    return Result(group, tag, Outcome.LEFT_OUT, reason="`select` of the sync leaves it out by its version or number")


class RepositorySelection:
    """The selection of one repository's tags in one scan. Nothing is stored before :meth:`save`."""

    def __init__(
        self, select: ImagesSelect, ends: RepositoryEnds, notes: TargetNotes, requests: Executor, now: float
    ) -> None:
        self._select = select
        self._ends = ends
        self._facts = notes.facts
        self._requests = requests
        at = f"{ends.source.host}/{ends.name}"
        self._chosen = f"{zlib.crc32(' '.join(sorted(select.platforms)).encode()):08x}"
        # Times that an image states are no use in a quarantine, so those of other syncs are kept apart.
        quarantine = select.older_than is not None
        self._now = now
        self._times = DigestMemo(notes.facts, f"{'seen' if quarantine else 'times'}@{at}")
        self._indexes = DigestMemo(notes.facts, f"platforms@{at}#{self._chosen}")
        times = ImageTimes(ends.source, ends.name, self._times, now, quarantine=quarantine)
        self._tags = TagSelection(select, times, requests, now)
        self._gone: set[str | None] = set()

    def left_out(self, tags: Mapping[str, Tag]) -> set[str]:
        """Return the tags that are left out by version or number; ``tags`` are all of the repository."""
        left = self._tags.left_out(tags)
        self._gone = {tags[tag].digest for tag in left} - {each.digest for tag, each in tags.items() if tag not in left}
        return left

    def judge(self, items: Sequence[Item], asked: frozenset[tuple[str, str]]) -> Judged:
        """Divide a page's items, whose digests were compared, into those that are selected and the others.

        The source digest of an index that gets smaller is replaced by that of the smaller one. The age and the platforms
        of an image that is equal at both registries do not matter.
        """
        if not self._select.narrows:
            return Judged(list(items))
        results: list[Result] = []
        failures: list[Failure] = []
        kept: list[Item] = []
        counted = 0
        items = self._of_platforms(items, results, failures)
        differing = [item for item in items if not _is_equal(item)]
        aged = self._tags.aged(differing)
        absent = self._without_image(differing)
        for item in items:
            age = aged.get(item.name)
            if item.name in absent and (item.group, item.name) in asked:
                reason = "the image that it belongs to is not at the target"
                results.append(Result(item.group, item.name, Outcome.LEFT_OUT, item.source, reason=reason))
            elif item.name in absent:
                counted += 1
            elif age is None:
                kept.append(item)
            elif isinstance(age.time, SynclineError):
                failures.append(Failure(item, age.time))
            elif age.reason is not None:
                if age.waiting or (item.group, item.name) in asked:
                    digest = item.source or age.digest
                    results.append(
                        Result(item.group, item.name, Outcome.LEFT_OUT, digest, item.target, reason=age.reason)
                    )
                else:
                    counted += 1
            elif age.digest is not None:
                kept.append(replace(item, source=item.source or age.digest))
        return Judged(kept, tuple(results), tuple(failures), counted)

    def save(self, context: StepContext) -> None:
        """Store what was learned, except in a plan."""
        if context.plan:
            return
        if self._select.older_than is not None:
            self._times.keep(self._now)
        self._times.save()
        self._indexes.save()

    def platforms_changed(self) -> bool:
        """Return True if indexes may lack images although their digests are equal: the selected platforms changed."""
        return self._select.sparse and self._facts.recall(self._sparse_key) != self._chosen

    def note_platforms(self) -> None:
        """Note that the images of the selected platforms are at the target."""
        if self._select.sparse:
            self._facts.remember(self._sparse_key, self._chosen)

    @property
    def _sparse_key(self) -> str:
        return f"sparse@{self._ends.target.host}/{self._ends.group}"

    def _of_platforms(self, items: Sequence[Item], results: list[Result], failures: list[Failure]) -> list[Item]:
        """Return the items with the digests of smaller indexes; those without a selected platform get a result."""
        if not self._select.platforms:
            return list(items)
        differing = [
            item
            for item in items
            if not is_signature_tag(item.name) and not is_digest(item.name) and not _is_equal(item)
        ]
        answers = dict(
            zip((item.name for item in differing), self._requests.map(self._smaller, differing), strict=True)
        )
        found: list[Item] = []
        for item in items:
            answer = answers.get(item.name, item)
            if isinstance(answer, Item):
                found.append(answer)
            elif isinstance(answer, Result):
                results.append(answer)
            elif answer is not None:
                failures.append(Failure(item, answer))
        return found

    def _smaller(self, item: Item) -> Item | Result | SynclineError | None:
        """Return an item with the digest that the target is to have, or its result or error; None if it has gone."""
        source, name = self._ends.source, self._ends.name
        try:
            digest = item.source or source.manifest_digest(name, item.name)
            if digest is None:
                return None
            answer = self._indexes.get(digest)
            if answer is None:
                chosen = for_platforms(source.manifest(name, digest), self._select)
                answer = _NONE if chosen is None else _UNCHANGED if chosen.digest == digest else chosen.digest
                self._indexes.set(digest, answer)
        except SynclineError as error:
            return error
        if answer == _NONE:
            return none_selected(item.group, item.name, digest)
        if answer == _UNCHANGED:
            return replace(item, source=digest)
        return replace(item, source=answer, detail={**item.detail, INDEX: digest})

    def _without_image(self, items: Sequence[Item]) -> set[str]:
        """Return the tags of signatures, absent at the target, whose image is not there.

        If its image is copied, the transfer takes them along.
        """
        signatures = [item for item in items if is_signature_tag(item.name) and item.target is None]
        lacking = self._requests.map(self._lacks_image, signatures)
        return {item.name for item, lacks in zip(signatures, lacking, strict=True) if lacks}

    def _lacks_image(self, item: Item) -> bool:
        subject = signature_subject(item.name)
        if subject is None or not is_digest(subject):
            return False
        if subject in self._gone:
            return True
        return self._ends.target.manifest_digest(item.group, subject) is None
