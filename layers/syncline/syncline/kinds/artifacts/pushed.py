"""What was pushed for which run, and what cannot be any more: so that nothing is done or reported twice."""

from __future__ import annotations

import json
from dataclasses import dataclass

from syncline.clients.github import WorkflowRun
from syncline.errors import SynclineError
from syncline.kinds.artifacts.builds import Place
from syncline.kinds.images.places import Memory


@dataclass(frozen=True, slots=True)
class Push:
    """A tag as it was pushed: from which run (number and attempt), its manifest, and the image's fingerprint."""

    run: str
    manifest: str
    fingerprint: str


class Pushed:
    """The memory of one registry's tags. Losing it costs reading archives again, and nothing else."""

    def __init__(self, memory: Memory, host: str) -> None:
        self._memory = memory
        self._host = host

    def note(self, repository: str, tag: str, push: Push) -> None:
        value = json.dumps([push.run, push.manifest, push.fingerprint])
        self._memory.remember(self._key(repository, tag), value)

    def of(self, repository: str, tag: str) -> Push | None:
        noted = self._memory.recall(self._key(repository, tag))
        return None if noted is None else Push(*json.loads(noted))

    def run_of(self, place: Place) -> str | None:
        push = self.of(place.repository, place.tag)
        return None if push is None else push.run

    def note_gone(self, run: str, repository: str, tag: str, error: SynclineError) -> None:
        """An image of a run (its number and attempt, ``1.1``) cannot be had."""
        self._memory.remember(self._gone_key(run, repository, tag), json.dumps([error.code.name, error.what]))

    def why_gone(self, run: WorkflowRun, place: Place) -> tuple[str, str] | None:
        """Code and reason, where that was found out before."""
        noted = self._memory.recall(self._gone_key(run.mark, place.repository, place.tag))
        if noted is None:
            return None
        code, reason = json.loads(noted)
        return str(code), str(reason)

    def _key(self, repository: str, tag: str) -> str:
        return f"pushed@{self._host}/{repository}:{tag}"

    def _gone_key(self, run: str, repository: str, tag: str) -> str:
        return f"gone@{run}@{self._host}/{repository}:{tag}"
