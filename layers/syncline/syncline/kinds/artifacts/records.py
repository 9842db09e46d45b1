"""Records of tags and of unavailable images, so that nothing is transferred or reported twice."""

from __future__ import annotations

import json
from typing import NamedTuple

from syncline.clients.github.client import WorkflowRun
from syncline.clients.registry.client import Registry
from syncline.errors import CodeName, SynclineError, stored_code
from syncline.kinds.artifacts.builds import READING, Destination
from syncline.kinds.artifacts.verify import fingerprint_of
from syncline.kinds.facts import FactStore


class PushRecord(NamedTuple):
    """A tag that was pushed: its run (number and attempt), its manifest's digest, and the image's fingerprint.

    ``other`` is the digest that somebody else put under the tag instead, if any.
    """

    run: str
    manifest: str
    fingerprint: str
    verified: bool = True
    other: str = ""


def age_of(run: str) -> tuple[int, int]:
    """Return the number and attempt of a run. GitHub counts both up, so a younger run has greater ones."""
    number, _, attempt = run.partition(".")
    return int(number), int(attempt)


class PushRecords:
    """The records of one registry. Losing them costs reading archives again, and nothing else."""

    def __init__(self, facts: FactStore, host: str) -> None:
        self._facts = facts
        self._host = host

    def note(self, repository: str, tag: str, push: PushRecord) -> None:
        if not push.verified:
            # Scans read this one fact of a repository, and the records of its tags only if it exists.
            self._facts.remember(self._unverified_key(repository), "open")
        self._facts.remember(self._key(repository, tag), json.dumps(push))

    def note_verified(self, repository: str, tag: str, fingerprint: str) -> None:
        """Record that a tag was verified."""
        push = self.of(repository, tag)
        if push is not None and push.fingerprint == fingerprint and not push.verified:
            self.note(repository, tag, push._replace(verified=True))

    def of(self, repository: str, tag: str) -> PushRecord | None:
        noted = self._facts.recall(self._key(repository, tag))
        return None if noted is None else PushRecord(*json.loads(noted))

    def is_replaced(self, registry: Registry, repository: str, tag: str, digest: str) -> bool:
        """Return True if a tag that now has `digest` is known to be another image than the one that was pushed."""
        push = self.of(repository, tag)
        if push is None or digest == push.manifest:
            return False
        return digest == push.other or fingerprint_of(registry.manifest(repository, digest)) != push.fingerprint

    def may_have_unverified(self, repository: str) -> bool:
        """Return True if a tag of the repository may have been pushed and not verified."""
        return self._facts.recall(self._unverified_key(repository)) is not None

    def note_all_verified(self, repository: str) -> None:
        self._facts.forget(self._unverified_key(repository))

    def run_of(self, destination: Destination) -> str | None:
        push = self.of(destination.repository, destination.tag)
        return None if push is None else push.run

    def note_unavailable(self, run: str, repository: str, tag: str, error: SynclineError) -> None:
        """Record that an image of a run (its number and attempt, ``1.1``) is unavailable."""
        self._facts.remember(self._unavailable_key(run, repository, tag), json.dumps([error.code.name, error.what]))

    def unavailable_reason(self, run: WorkflowRun, destination: Destination) -> tuple[CodeName, str] | None:
        """Return the recorded code and reason of an unavailable image."""
        noted = self._facts.recall(self._unavailable_key(run.mark, destination.repository, destination.tag))
        if noted is None:
            return None
        code, reason = json.loads(noted)
        return stored_code(code), str(reason)

    def _key(self, repository: str, tag: str) -> str:
        return f"pushed@{self._host}/{repository}:{tag}"

    def _unavailable_key(self, run: str, repository: str, tag: str) -> str:
        return f"gone{READING}@{run}@{self._host}/{repository}:{tag}"

    def _unverified_key(self, repository: str) -> str:
        return f"unproved@{self._host}/{repository}"
