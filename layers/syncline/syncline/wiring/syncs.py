"""The applied syncs of a process, and the kind of each, made once for a configuration."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from syncline.config import Sync, load_sync
from syncline.kinds.kind import Kind
from syncline.state import State
from syncline.wiring.parts import Parts


class Syncs:
    """The applied syncs as they are now, and their kinds, each made once for a configuration."""

    def __init__(self, state: State, build: Callable[[Sync], Kind]) -> None:
        self._state = state
        self._build = build
        self._kinds: dict[str, tuple[str, Kind]] = {}

    def config(self, name: str) -> Sync:
        """A sync's configuration; raises NO_SUCH_SYNC."""
        return load_sync(self._state.sync_config(name))

    def kind(self, name: str) -> Kind:
        """A sync's kind; raises NO_SUCH_SYNC, or why a secret cannot be had."""
        # Read each time: a run right after `apply` must not go by what was applied before.
        text = self._state.sync_config(name)
        made = self._kinds.get(name)
        if made is None or made[0] != text:
            made = self._kinds[name] = (text, self._build(load_sync(text)))
        return made[1]


class Kinds:
    """Makes the kind of a sync by the wiring of its name, which is imported when a sync of that kind is there."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._builders: dict[str, Callable[[Sync], Kind]] = {}

    def __call__(self, sync: Sync) -> Kind:
        builder = self._builders.get(sync.kind)
        if builder is None:
            module = import_module(f"syncline.wiring.{sync.kind}")
            builder = self._builders[sync.kind] = module.Builder(self._parts)
        return builder(sync)
