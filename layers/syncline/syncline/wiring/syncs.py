"""The applied syncs of a process, and the kind of each, made once for a configuration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final

from syncline.clients.http.client import Http
from syncline.clients.http.pacing import SLOWEST
from syncline.config.sync import Sync, load_sync
from syncline.errors import SynclineError
from syncline.kinds.kind import Kind
from syncline.kinds.table import KINDS
from syncline.model import Run
from syncline.store.state import State
from syncline.store.syncs import config_digest
from syncline.wiring.parts import Parts

_MOST: Final = 2
"""Kinds kept of a sync: that of the applied configuration, and that of the one which the run under way began with."""


@dataclass(frozen=True, slots=True)
class _Made:
    """A sync's kind, and the lowest rate of bodies that its configuration accepts, in bytes a second."""

    kind: Kind
    slowest: int


class Syncs:
    """The applied syncs as they are now, and kinds of syncs, each made once for a configuration."""

    def __init__(self, state: State, build: Callable[[Sync], Kind]) -> None:
        self._state = state
        self._build = build
        self._kinds: dict[str, dict[str, _Made]] = {}

    def config(self, name: str) -> Sync:
        """Return a sync's configuration; raises NO_SUCH_SYNC."""
        return load_sync(self._state.sync_config(name))

    def kind(self, name: str) -> Kind:
        """Return a sync's kind by the applied configuration; raises NO_SUCH_SYNC, or why a secret cannot be had."""
        # Read each time: what comes right after `apply` must not go by what was applied before.
        text = self._state.sync_config(name)
        return self._made(name, config_digest(text), text)

    def kind_of(self, run: Run) -> Kind:
        """Return the kind of a run's sync by the configuration that the run began with.

        Raises CONFIG_CHANGED if the table no longer has that configuration, or why a secret cannot be had.
        """
        if run.config is None:
            return self.kind(run.sync)
        made = self._kinds.get(run.sync, {}).get(run.config)
        return made.kind if made else self._made(run.sync, run.config, self._state.config_of(run.sync, run.config))

    def bind(
        self, http: Http, slow: Callable[[Run, str], None] = lambda _run, _what: None
    ) -> Callable[[Run, float, Callable[[], bool]], None]:
        """Return what ends the requests that a step makes for its run: all kinds of a process share ``http``.

        ``slow`` is told of a server of the run that is slow.
        """

        def end(run: Run, seconds: float, halted: Callable[[], bool]) -> None:
            http.end_within(seconds, halted, self._slowest(run), lambda what: slow(run, what))

        return end

    def _slowest(self, run: Run) -> int:
        """Return the lowest rate that the sync of a run accepts; its kind has been made."""
        kinds = self._kinds.get(run.sync, {})
        made = kinds.get(run.config or next(reversed(kinds), ""))
        return SLOWEST if made is None else made.slowest

    def _made(self, name: str, digest: str, text: str) -> Kind:
        kinds = self._kinds.setdefault(name, {})
        # The one used last is at the end.
        made = kinds.pop(digest, None)
        if made is None:
            sync = load_sync(text)
            made = _Made(self._build(sync), sync.slowest)
        while len(kinds) >= _MOST:
            del kinds[next(iter(kinds))]
        kinds[digest] = made
        return made.kind


def changed_groups_of(sync: Sync, event: object, now: float) -> tuple[str, ...]:
    """Return the groups of a sync that a decoded event names, without building its kind, which may need secrets.

    ``now`` is the time at which the event came. Raises MESSAGE_INVALID if it is no event that the sync can read.
    """
    groups: tuple[str, ...] = _wiring(sync).changed_groups(sync, event, now)
    return groups


def _wiring(sync: Sync) -> Any:
    """Return the module that builds the kind of a sync; raises USAGE if the kind has no runs."""
    if not KINDS[sync.kind].has_runs:
        raise SynclineError("USAGE", f"{sync.name} is a sync of {sync.kind}, which has no runs")
    return import_module(f"syncline.kinds.{sync.kind}.wiring")


class Kinds:
    """Makes the kind of a sync by the wiring of its name, which is imported when a sync of that kind is there."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._builders: dict[str, Callable[[Sync], Kind]] = {}

    def __call__(self, sync: Sync) -> Kind:
        builder = self._builders.get(sync.kind)
        if builder is None:
            builder = self._builders[sync.kind] = _wiring(sync).Builder(self._parts)
        return builder(sync)
