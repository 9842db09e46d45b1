"""Container images: every tag of a source registry under the same digest at a target registry."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from syncline.clients.http.client import Http
from syncline.kinds.images.config import ImagesSync
from syncline.kinds.images.discover import ImageScan
from syncline.kinds.images.drill import ImageDrill
from syncline.kinds.images.facts import BlobLocations, TargetNotes
from syncline.kinds.images.listing import RegistryClients
from syncline.kinds.images.pieces import CopyRoute
from syncline.kinds.images.transfer import RepositoryCopy, TransferResult
from syncline.kinds.images.verify import ImageVerification, Origin
from syncline.kinds.kind import Completed, Failure, Page, StepContext, Unfinished
from syncline.model import Item, Scope, Step


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

    def discover(self, scope: Scope, cursor: str | None, context: StepContext) -> Iterator[Page]:
        return ImageScan(self.sync, self.source, self.target, self.notes).pages(scope, cursor, context)

    def transfer(self, items: Sequence[Item], context: StepContext) -> Iterator[TransferResult]:
        group = items[0].group
        route = CopyRoute(self.source.registry, self._repository(group), self.target.registry, group)
        return RepositoryCopy(route, self.locations, context, self.sync, self.notes).images(items)

    def verify(self, items: Sequence[Item], context: StepContext) -> Iterator[Completed | Unfinished | Failure]:
        origin = Origin(self.source.registry, self._repository, self.sync.referrers != "none", self.notes)
        return ImageVerification(self.target.registry, origin).verify(items, context)

    def drill(self, scope: Scope, cursor: str | None, context: StepContext, share: float) -> Iterator[Page]:
        return ImageDrill(self.sync, self.source, self.target).pages(scope, cursor, context, share)

    def _repository(self, group: str) -> str:
        source = self.sync.source_repository(group)
        assert source is not None, "discover names only repositories below the prefix"
        return source

    def reference(self, group: str) -> str:
        return f"{self.target.registry.host}/{group}"

    def requests(self) -> int:
        return self.http.requests_made
