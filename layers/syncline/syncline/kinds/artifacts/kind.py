"""Artifacts: the images that builds at GitHub leave, in the registry of a GitLab project, streamed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from syncline.clients.github.client import GitHub
from syncline.clients.http.client import Http
from syncline.kinds.artifacts.builds import Builds
from syncline.kinds.artifacts.config import ArtifactsSync
from syncline.kinds.artifacts.discover import Look, Target
from syncline.kinds.artifacts.events import runs_in
from syncline.kinds.artifacts.layers import KnownLayers
from syncline.kinds.artifacts.memory import Facts, Pushed
from syncline.kinds.artifacts.transfer import Answer, Moving
from syncline.kinds.artifacts.verify import proved
from syncline.kinds.kind import Completed, Failure, Page, StepContext, Unfinished
from syncline.model import Item, Scope, Step


class Artifacts:
    """The kind ``artifacts`` for one sync. A group is a repository at the target, an item an image of a build.

    Its name is the tag, its fingerprint the digest of the image's config. An alias, such as ``latest``, is an item too.
    """

    moves_by = Step.TRANSFER
    share = 20  # one after another; messages of their own would only wait for the one that has the repository

    def __init__(  # noqa: PLR0913 - each is handed in
        self,
        sync: ArtifactsSync,
        github: GitHub,
        target: Target,
        http: Http,
        *,
        memory: Facts,
        now: Callable[[], float],
    ) -> None:
        self._sync = sync
        self._target = target
        self._http = http
        self._now = now
        self._memory = memory
        self._pushed = Pushed(memory, target.registry.host)
        self._builds = Builds(sync, github, memory)
        known = KnownLayers(memory, target.registry)
        self._moving = Moving(sync, github, target.registry, self._builds, known, self._pushed, memory, now)

    def discover(self, scope: Scope, cursor: str | None, context: StepContext) -> Iterator[Page]:
        look = Look(self._sync, self._builds, self._target, self._pushed, self._memory, now=self._now)
        return look.pages(scope, cursor, context)

    def transfer(self, items: Sequence[Item], context: StepContext) -> Iterator[Answer]:
        return self._moving.items(items, context)

    def verify(self, items: Sequence[Item], context: StepContext) -> Iterator[Completed | Unfinished | Failure]:
        for answer in proved(self._target.registry, items, context):
            if isinstance(answer, Completed):
                self._pushed.note_proved(answer.item.group, answer.item.name, str(answer.item.source))
            yield answer

    def reference(self, group: str) -> str:
        return f"{self._target.registry.host}/{group}"

    def changed_groups(self, event: object) -> tuple[str, ...]:
        return runs_in(event, self._sync.source)

    def requests(self) -> int:
        return self._http.requests_made
