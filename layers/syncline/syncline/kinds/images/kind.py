"""Container images: every tag of a source registry under the same digest at a target registry."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from syncline.clients.http.client import Http
from syncline.kinds.images.config import ImagesSync
from syncline.kinds.images.discover import ImageScan
from syncline.kinds.images.facts import BlobLocations, TargetNotes
from syncline.kinds.images.listing import RegistryClients
from syncline.kinds.images.pieces import CopyRoute
from syncline.kinds.images.records import ImageRecord, ProcessRecords, Records
from syncline.kinds.images.removals import TagRemoval, TagRemovals, is_removal
from syncline.kinds.images.transfer import RepositoryCopy, TransferResult
from syncline.kinds.images.verify import ImageVerification, Origin
from syncline.kinds.kind import Completed, Failure, Page, StepContext, Unfinished, would_move, would_remove
from syncline.model import Item, Result, Scope, Step
from syncline.ownership import Windows


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
    records: Records = field(default_factory=ProcessRecords)
    windows: Windows | None = None
    clock: Callable[[], float] = time.time

    def discover(self, scope: Scope, cursor: str | None, context: StepContext) -> Iterator[Page]:
        removals = None
        if self.sync.removals is not None and self.windows is not None:
            removals = TagRemovals(self.sync, self.records, self.windows, self.clock)
        return ImageScan(self.sync, self.source, self.target, self.notes, self.records, removals).pages(
            scope, cursor, context
        )

    def transfer(self, items: Sequence[Item], context: StepContext) -> Iterator[TransferResult]:
        group = items[0].group
        route = CopyRoute(self.source.registry, self._repository(group), self.target.registry, group)
        removal = TagRemoval(self.source, route.source_repository, self.target, group)
        yield from removal.answers([item for item in items if is_removal(item)], context)
        copied = [item for item in items if not is_removal(item)] + removal.returned
        if copied:
            yield from RepositoryCopy(route, self.locations, context, self.sync, self.notes).images(copied)

    def planned(self, items: Sequence[Item], context: StepContext) -> Iterator[Result]:  # noqa: ARG002 - nothing is read
        return (would_remove(item) if is_removal(item) else would_move(item) for item in items)

    def verify(self, items: Sequence[Item], context: StepContext) -> list[Completed | Unfinished | Failure]:
        origin = Origin(self.source.registry, self._repository, self.sync.referrers != "none", self.notes)
        answers = list(ImageVerification(self.target.registry, origin).verify(items, context))
        verified = [answer.item for answer in answers if isinstance(answer, Completed)]
        rows = {(each.group, each.name): ImageRecord(str(each.source)).to_row() for each in verified if each.source}
        self.records.write({**dict.fromkeys((each.group, each.name) for each in verified), **rows})
        return answers

    def _repository(self, group: str) -> str:
        source = self.sync.source_repository(group)
        assert source is not None, "discover names only repositories below the prefix"
        return source

    def reference(self, group: str) -> str:
        return f"{self.target.registry.host}/{group}"

    def requests(self) -> int:
        return self.http.requests_made
