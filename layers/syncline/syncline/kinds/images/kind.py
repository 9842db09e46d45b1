"""Container images: every tag of a source registry under the same digest at a target registry."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from syncline.clients.http.client import Http
from syncline.errors import SynclineError
from syncline.kinds.images.config import ImagesSync
from syncline.kinds.images.discover import ImageScan
from syncline.kinds.images.facts import BlobLocations, TargetNotes
from syncline.kinds.images.listing import RegistryClients
from syncline.kinds.images.names import not_a_target
from syncline.kinds.images.pieces import CopyRoute
from syncline.kinds.images.signatures import Trust, UntrustedError, untrusted
from syncline.kinds.images.transfer import FROM, RepositoryCopy, TransferResult
from syncline.kinds.images.verify import ImageVerification, Origin
from syncline.kinds.kind import Completed, Failure, Page, StepContext, Unfinished, would_move
from syncline.model import Audit, Item, Outcome, Result, Scope, Step
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
    clock: Callable[[], float] = time.time

    def discover(self, scope: Scope, cursor: str | None, context: StepContext) -> Iterator[Page]:
        return ImageScan(self.sync, self.source, self.target, self.notes, self.clock).pages(scope, cursor, context)

    def planned(self, items: Sequence[Item], context: StepContext) -> Iterator[Result]:
        """Yield WOULD_MOVE for each item, or UNTRUSTED if it does not satisfy a rule of ``verify``."""
        if not self.trust.rules:
            yield from map(would_move, items)
            return
        with ThreadPoolExecutor(self.sync.concurrency, thread_name_prefix="plan") as pool:
            yield from pool.map(partial(self._planned, context), items)

    def _planned(self, context: StepContext, item: Item) -> Result:
        if context.over:
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

        return ImageAudit(self.sync, self.source, self.target, self.notes, audit).pages(scope, cursor, context)

    def transfer(self, items: Sequence[Item], context: StepContext) -> Iterator[TransferResult]:
        group = items[0].group
        try:
            repository = self._repositories(items)(group)
        except SynclineError as error:
            return iter([Failure(item, error) for item in items])
        route = CopyRoute(self.source.registry, repository, self.target.registry, group)
        return RepositoryCopy(route, self.locations, context, self.sync, self.notes, trust=self.trust).images(items)

    def verify(self, items: Sequence[Item], context: StepContext) -> Iterator[Completed | Unfinished | Failure]:
        sync, repository = self.sync, self._repositories(items)
        origin = Origin(self.source.registry, repository, sync.referrers != "none", self.notes, sync.select)
        return ImageVerification(self.target.registry, origin).verify(items, context)

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
