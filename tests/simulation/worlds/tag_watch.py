"""What Syncline was told of the tags of a registry before it writes there, and strangers who write in between."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from syncline.kinds.images.referrers import is_list
from tests.simulation.machine import Process, current_process
from tests.simulation.models.registry import RegistryServer
from tests.simulation.stack import Stack

RACE: Final = 30.0
"""Seconds within which a stranger's write may be lost that Syncline was not told of: no registry takes a tag on condition."""
_SOON: Final = 1.0
"""Seconds after an answer within which a stranger changes the tag."""


class TagWatch:
    """Watches one registry. ``change`` is called to let a stranger change a tag that Syncline has asked for."""

    def __init__(self, stack: Stack, server: RegistryServer, change: Callable[[str, str], None]) -> None:
        self._stack = stack
        self._change = change
        self._told: dict[tuple[Process, str, str], str | None] = {}
        self._meddled: set[tuple[str, str]] = set()
        server.on_asked = self._asked

    def raced(self, repository: str, tag: str, old: str | None, changed: float | None) -> bool:
        """Return True if the process at work cannot know that a stranger ``changed`` the tag, which now is ``old``.

        What the registry told it last counts.
        """
        process = current_process()
        if changed is None or self._stack.machine.now - changed >= RACE:
            return False
        return process is None or self._told.get((process, repository, tag)) != old

    def possible(self, repository: str, tag: str, digest: str | None, changed: float | None) -> set[str | None]:
        """Return what the process at work may take a tag for that is ``digest``.

        It may also be what the process was told, if a stranger ``changed`` the tag since; see :meth:`raced`.
        """
        process = current_process()
        if process is None or not self.raced(repository, tag, digest, changed):
            return {digest}
        return {digest, self._told.get((process, repository, tag))}

    def _asked(self, repository: str, tag: str, digest: str | None) -> None:
        process, machine, faults = current_process(), self._stack.machine, self._stack.faults
        if process is None:
            return
        self._told[process, repository, tag] = digest
        if faults.off or not faults.foreign_writes or (repository, tag) in self._meddled or is_list(tag):
            return
        if machine.rng.random() < faults.foreign_writes:
            self._meddled.add((repository, tag))
            machine.at(machine.now + machine.rng.uniform(0, _SOON), partial(self._change, repository, tag))
