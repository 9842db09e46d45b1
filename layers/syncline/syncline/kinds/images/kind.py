"""Container images: every tag of a source registry under the same digest at a target registry."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

from syncline.clients.http.client import Http
from syncline.errors import SynclineError
from syncline.kinds.images.config import ImagesSync
from syncline.kinds.images.details import FROM
from syncline.kinds.images.discover import ImageScan
from syncline.kinds.images.drill import ImageDrill
from syncline.kinds.images.facts import BlobLocations, TargetNotes
from syncline.kinds.images.listing import RegistryClients
from syncline.kinds.images.pieces import CopyRoute
from syncline.kinds.images.records import ImageRecord, ProcessRecords, Records
from syncline.kinds.images.removals import TagRemoval, TagRemovals, is_removal
from syncline.kinds.images.repositories import not_a_target
from syncline.kinds.images.signatures import Trust, UntrustedError, untrusted
from syncline.kinds.images.transfer import RepositoryCopy, TransferResult
from syncline.kinds.images.verify import ImageVerification, Origin
from syncline.kinds.kind import Completed, Failure, Page, StepContext, Unfinished, would_move, would_remove
from syncline.model import Audit, Item, Outcome, Result, Scope, Step
from syncline.ownership import Windows
from syncline.patterns import is_signature_tag


@dataclass(frozen=True)
class Images:
    """The kind ``images`` for one sync. A group is a target repository, an item a tag, a fingerprint a digest."""

    moves_by = Step.TRANSFER
    share = 100

    sync: ImagesSync
    source: RegistryClients
    target: RegistryClients
    http: Http
    locations: BlobLocations
    notes: TargetNotes
    trust: Trust
    records: Records = field(default_factory=ProcessRecords)
    windows: Windows | None = None
    clock: Callable[[], float] = time.time

    def discover(self, scope: Scope, cursor: str | None, context: StepContext) -> Iterator[Page]:
        removals = None
        if self.sync.removals is not None and self.windows is not None:
            removals = TagRemovals(self.sync, self.records, self.windows, self.clock)
        scan = ImageScan(self.sync, self.source, self.target, self.notes, self.records, removals, self.clock)
        return scan.pages(scope, cursor, context)

    def planned(self, items: Sequence[Item], context: StepContext) -> Iterator[Result]:
        """Yield WOULD_REMOVE or WOULD_MOVE for each item, or UNTRUSTED if it does not satisfy a rule of ``verify``."""
        with ThreadPoolExecutor(self.sync.concurrency, thread_name_prefix="plan") as pool:
            yield from pool.map(partial(self._planned, context), items)

    def _planned(self, context: StepContext, item: Item) -> Result:
        if is_removal(item):
            return would_remove(item)
        if context.over or not self.trust.rules:
            return would_move(item)
        try:
            repository = self._repositories([item])(item.group)
            trust = self.trust.of(self.source.registry, repository)
            check = trust.check_attached if is_signature_tag(item.name) else trust.check
            check(self.source.registry.manifest(repository, item.name))
        except UntrustedError as error:
            return untrusted(item, error)
        except SynclineError as error:
            fingerprints = (item.source, item.target)
            return Result(item.group, item.name, Outcome.FAILED, *fingerprints, code=error.code.name, reason=error.what)
        return would_move(item)

    def audit(self, scope: Scope, cursor: str | None, context: StepContext, audit: Audit) -> Iterator[Page]:
        from syncline.kinds.images.audit import ImageAudit  # noqa: PLC0415 - few functions audit

        begun = ImageAudit(self.sync, self.source, self.target, self.notes, audit, trust=self.trust, clock=self.clock)
        return begun.pages(scope, cursor, context)

    def transfer(self, items: Sequence[Item], context: StepContext) -> Iterator[TransferResult]:
        group = items[0].group
        try:
            repository = self._repositories(items)(group)
        except SynclineError as error:
            yield from (Failure(item, error) for item in items)
            return
        removal = TagRemoval(self.source, repository, self.target, group)
        yield from self._removals([item for item in items if is_removal(item)], removal, context)
        copied = [item for item in items if not is_removal(item)] + removal.returned
        if copied:
            # From here on, their records may be wrong; `verify` writes the new ones.
            self.records.write({(i.group, i.name): None for i in copied if i.target not in (None, i.source)})
            route = CopyRoute(self.source.registry, repository, self.target.registry, group)
            copy = RepositoryCopy(route, self.locations, context, self.sync, self.notes, trust=self.trust)
            yield from copy.images(copied)

    def _removals(self, items: Sequence[Item], removal: TagRemoval, context: StepContext) -> Iterator[TransferResult]:
        wanted: list[Item] = []
        for item in items:
            if self.sync.removals is not None and self.sync.takes_tag(item.name):
                wanted.append(item)
            else:
                reason = "the sync was changed since the scan and no longer removes this tag"
                yield Result(item.group, item.name, Outcome.EXTRA, None, item.target, reason=reason)
        for answer in removal.answers(wanted, context):
            if isinstance(answer, Result):
                self.records.write(
                    {(answer.group, answer.name): None}
                )  # it is foreign, and must not be counted as ours
            yield answer

    def verify(self, items: Sequence[Item], context: StepContext) -> list[Completed | Unfinished | Failure]:
        sync, repository = self.sync, self._repositories(items)
        origin = Origin(self.source.registry, repository, sync.referrers != "none", self.notes, sync.select)
        answers = list(ImageVerification(self.target.registry, origin).verify(items, context))
        verified = [answer.item for answer in answers if isinstance(answer, Completed)]
        rows = {(each.group, each.name): ImageRecord(str(each.source)).to_row() for each in verified if each.source}
        self.records.write({**dict.fromkeys((each.group, each.name) for each in verified), **rows})
        return answers

    def drill(self, scope: Scope, cursor: str | None, context: StepContext, share: float) -> Iterator[Page]:
        drill = ImageDrill(self.sync, self.source, self.target, self.notes, self.trust, self.clock)
        return drill.pages(scope, cursor, context, share)

    def _repositories(self, items: Sequence[Item]) -> Callable[[str], str]:
        """Return a function from the group of an item to its repository at the source.

        It raises SOURCE_ABSENT if the sync was changed since the scan and no longer copies there from this repository.
        """
        noted = {item.group: item.detail[FROM] for item in items if FROM in item.detail}

        def repository(group: str) -> str:
            source = noted.get(group) or self.sync.source_repository(group)
            if source is None or self.sync.target_repository(source) != group:
                raise not_a_target(group)
            return source

        return repository

    def reference(self, group: str) -> str:
        return f"{self.target.registry.host}/{group}"

    def requests(self) -> int:
        return self.http.requests_made
