"""Foreign writes to the tags of a registry, and what Syncline last read of each tag before it writes there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final

from syncline.kinds.images.referrers import is_list
from tests.simulation.machine import Process, writer
from tests.simulation.models.registry import RegistryServer
from tests.simulation.stack import Stack

RACE_WINDOW: Final = 30.0
"""Seconds within which Syncline may overwrite a foreign write that it has not read: registries have no conditional put."""
_MAX_DELAY: Final = 1.0
"""Seconds after an answer within which a foreign writer changes the tag."""


class TagWatch:
    """The watch of one registry. It calls ``change`` to let a foreign writer change a tag that Syncline has just read.

    ``foreign`` is True while a foreign writer writes.
    """

    def __init__(self, stack: Stack, server: RegistryServer, change: Callable[[str, str], None]) -> None:
        self.foreign = False
        self._stack = stack
        self._change = change
        self._last_read: dict[tuple[Process, str, str], str | None] = {}
        self._changed: set[tuple[str, str]] = set()
        server.on_head = self._tag_read

    @contextmanager
    def foreign_writer(self) -> Iterator[None]:
        """Attribute the changes in the block to a foreign writer."""
        before, self.foreign = self.foreign, True
        try:
            yield
        finally:
            self.foreign = before

    def raced(self, repository: str, tag: str, old: str | None, changed: float | None) -> bool:
        """Return True if the writing process cannot know that a foreign writer ``changed`` the tag, which is now ``old``.

        Only what the process read last counts.
        """
        process = writer()
        if changed is None or self._stack.machine.now - changed >= RACE_WINDOW:
            return False
        return process is None or self._last_read.get((process, repository, tag)) != old

    def possible(self, repository: str, tag: str, digest: str | None, changed: float | None) -> set[str | None]:
        """Return the digests that the writing process may assume for a tag that is now ``digest``.

        Besides the present one this is the one that it read last, if a foreign writer ``changed`` the tag since then.
        """
        process = writer()
        if process is None or not self.raced(repository, tag, digest, changed):
            return {digest}
        return {digest, self._last_read.get((process, repository, tag))}

    def _tag_read(self, repository: str, tag: str, digest: str | None) -> None:
        process, machine, faults = writer(), self._stack.machine, self._stack.faults
        if process is None:
            return
        self._last_read[process, repository, tag] = digest
        if faults.off or not faults.meddles or (repository, tag) in self._changed or is_list(tag):
            return
        if machine.rng.random() < faults.meddles:
            self._changed.add((repository, tag))
            machine.at(machine.now + machine.rng.uniform(0, _MAX_DELAY), partial(self._change, repository, tag))
