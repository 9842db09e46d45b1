"""Memory of tags: what was pushed for which run, and what cannot be had, so that nothing is done or reported twice."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Protocol

from syncline.clients.github.client import WorkflowRun
from syncline.clients.registry.client import Registry
from syncline.errors import CodeName, SynclineError, stored_code
from syncline.kinds.artifacts.builds import READING, Place
from syncline.kinds.artifacts.verify import fingerprint_of
from syncline.kinds.images.facts import SharedFacts


class Facts(SharedFacts, Protocol):
    """The memory that all functions share; see :class:`syncline.store.facts.Facts`."""

    def remember(self, key: str, value: str, seconds: float = ...) -> None: ...

    def take(self, key: str, owner: str, seconds: float) -> bool: ...


@dataclass(frozen=True, slots=True)
class Push:
    """A tag as it was pushed: from which run (number and attempt), its manifest, and the image's fingerprint.

    It is ``proved`` once it was verified. ``other`` is the digest that somebody else put there in its place, if any.
    """

    run: str
    manifest: str
    fingerprint: str
    proved: bool = True
    other: str = ""


def age_of(run: str) -> tuple[int, int]:
    """Return the number and attempt of a run. GitHub counts both up, so a younger run has greater ones."""
    number, _, attempt = run.partition(".")
    return int(number), int(attempt)


class Pushed:
    """The memory of one registry's tags. Losing it costs reading archives again, and nothing else."""

    def __init__(self, memory: SharedFacts, host: str) -> None:
        self._memory = memory
        self._host = host

    def note(self, repository: str, tag: str, push: Push) -> None:
        if not push.proved:
            # Scans read one note for each repository, and those of its tags only where this one is there.
            self._memory.remember(self._open_key(repository), "open")
        value = json.dumps([push.run, push.manifest, push.fingerprint, push.proved, push.other])
        self._memory.remember(self._key(repository, tag), value)

    def note_proved(self, repository: str, tag: str, fingerprint: str) -> None:
        """Note that a tag was verified."""
        push = self.of(repository, tag)
        if push is not None and push.fingerprint == fingerprint and not push.proved:
            self.note(repository, tag, replace(push, proved=True))

    def of(self, repository: str, tag: str) -> Push | None:
        noted = self._memory.recall(self._key(repository, tag))
        return None if noted is None else Push(*json.loads(noted))

    def is_replaced(self, registry: Registry, repository: str, tag: str, digest: str) -> bool:
        """Return True if a tag, which now has a digest, is known to be another image than the one that was pushed."""
        push = self.of(repository, tag)
        if push is None or digest == push.manifest:
            return False
        return digest == push.other or fingerprint_of(registry.manifest(repository, digest)) != push.fingerprint

    def may_be_unproved(self, repository: str) -> bool:
        """Return True if a tag of the repository may have been pushed and not verified."""
        return self._memory.recall(self._open_key(repository)) is not None

    def unproved(self, place: Place) -> Push | None:
        """Return how a tag was pushed that was not verified."""
        push = self.of(place.repository, place.tag)
        return push if push is not None and not push.proved else None

    def note_all_proved(self, repository: str) -> None:
        self._memory.forget(self._open_key(repository))

    def run_of(self, place: Place) -> str | None:
        push = self.of(place.repository, place.tag)
        return None if push is None else push.run

    def note_gone(self, run: str, repository: str, tag: str, error: SynclineError) -> None:
        """An image of a run (its number and attempt, ``1.1``) cannot be had."""
        self._memory.remember(self._gone_key(run, repository, tag), json.dumps([error.code.name, error.what]))

    def why_gone(self, run: WorkflowRun, place: Place) -> tuple[CodeName, str] | None:
        """Code and reason, where that was found out before."""
        noted = self._memory.recall(self._gone_key(run.mark, place.repository, place.tag))
        if noted is None:
            return None
        code, reason = json.loads(noted)
        return stored_code(code), str(reason)

    def _key(self, repository: str, tag: str) -> str:
        return f"pushed@{self._host}/{repository}:{tag}"

    def _gone_key(self, run: str, repository: str, tag: str) -> str:
        return f"gone{READING}@{run}@{self._host}/{repository}:{tag}"

    def _open_key(self, repository: str) -> str:
        return f"unproved@{self._host}/{repository}"
