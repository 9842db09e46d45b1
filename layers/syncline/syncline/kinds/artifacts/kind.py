"""The kind ``artifacts``: images that GitHub workflow runs leave as artifacts, copied to a GitLab project's registry."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from syncline.clients.github.client import GitHub
from syncline.clients.http.client import Http
from syncline.kinds.artifacts.builds import Builds
from syncline.kinds.artifacts.config import ArtifactsSync
from syncline.kinds.artifacts.discover import BuildScan, ProjectTarget
from syncline.kinds.artifacts.layers import KnownLayers
from syncline.kinds.artifacts.records import PushRecords
from syncline.kinds.artifacts.transfer import ArtifactTransfer, TransferOutcome
from syncline.kinds.artifacts.verify import verify_items
from syncline.kinds.facts import FactStore
from syncline.kinds.kind import Completed, Failure, Page, StepContext, Unfinished
from syncline.model import Item, Scope, Step


@dataclass
class Artifacts:
    """The kind ``artifacts`` for one sync. A group is a repository at the target, an item an image of a build.

    The name of an item is the tag, its fingerprint the digest of the image's config. An alias, such as ``latest``, is also
    an item.
    """

    moves_by = Step.TRANSFER
    share = 20  # they are transferred in order; separate messages would only wait for the repository's lease

    sync: ArtifactsSync
    github: GitHub
    target: ProjectTarget
    http: Http
    memory: FactStore
    now: Callable[[], float]

    def __post_init__(self) -> None:
        registry = self.target.registry
        self._pushed = PushRecords(self.memory, registry.host)
        self._builds = Builds(self.sync, self.github, self.memory)
        known = KnownLayers(self.memory, registry)
        self._moving = ArtifactTransfer(
            self.sync, self.github, registry, self._builds, known, self._pushed, self.memory, self.now
        )

    def discover(self, scope: Scope, cursor: str | None, context: StepContext) -> Iterator[Page]:
        scan = BuildScan(self.sync, self._builds, self.target, self._pushed, self.memory, self.now)
        return scan.pages(scope, cursor, context)

    def transfer(self, items: Sequence[Item], context: StepContext) -> Iterator[TransferOutcome]:
        return self._moving.items(items, context)

    def verify(self, items: Sequence[Item], context: StepContext) -> Iterator[Completed | Unfinished | Failure]:
        for answer in verify_items(self.target.registry, items, context):
            if isinstance(answer, Completed):
                self._pushed.note_verified(answer.item.group, answer.item.name, str(answer.item.source))
            yield answer

    def reference(self, group: str) -> str:
        return f"{self.target.registry.host}/{group}"

    def requests(self) -> int:
        return self.http.requests_made
