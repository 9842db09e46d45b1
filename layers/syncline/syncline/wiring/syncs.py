"""The applied syncs and their kinds, each built once for a configuration."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from typing import Any, Final, NamedTuple

from syncline.clients.http.addresses import Address
from syncline.clients.http.client import Http
from syncline.clients.http.retry import MIN_RATE
from syncline.config.model import Model
from syncline.config.sync import Sync, load_sync
from syncline.errors import SynclineError
from syncline.kinds.kind import Kind
from syncline.kinds.table import KINDS
from syncline.model import Run, Traffic
from syncline.store.state import State
from syncline.store.syncs import config_digest
from syncline.wiring.dependencies import Dependencies

_KINDS_KEPT: Final = 2
"""Kinds kept of a sync: of the applied configuration, and of that with which the run in progress began."""


class _BuiltKind(NamedTuple):
    """A sync's kind, the lowest rate of bodies that its configuration accepts in bytes a second, and its servers."""

    kind: Kind
    slowest: int
    systems: Mapping[str, str]


class Syncs:
    """The applied syncs, read from the table, and their kinds, each built once for a configuration."""

    def __init__(self, state: State, build: Callable[[Sync], Kind]) -> None:
        self._state = state
        self._build = build
        self._kinds: dict[str, dict[str, _BuiltKind]] = {}

    def config(self, name: str) -> Sync:
        """Return a sync's configuration; raises NO_SUCH_SYNC."""
        return load_sync(self._state.sync_config(name))

    def kind(self, name: str) -> Kind:
        """Return the kind of a sync for the applied configuration.

        Raises NO_SUCH_SYNC, and the errors of :meth:`Secrets.resolve`.
        """
        # Read each time: work that follows `apply` must use the new configuration.
        text = self._state.sync_config(name)
        return self._built(name, config_digest(text), text)

    def kind_of(self, run: Run) -> Kind:
        """Return the kind of a run's sync for the configuration that the run began with.

        Raises CONFIG_CHANGED if the table no longer has that configuration, and the errors of :meth:`Secrets.resolve`.
        """
        if run.config is None:
            return self.kind(run.sync)
        built = self._kinds.get(run.sync, {}).get(run.config)
        return built.kind if built else self._built(run.sync, run.config, self._state.config_of(run.sync, run.config))

    def bind(
        self, http: Http, slow: Callable[[Run, str], None] = lambda _run, _what: None
    ) -> Callable[[Run, float, Callable[[], bool]], None]:
        """Return a function that limits the requests of a step to the seconds and the lowest rate of its run.

        All kinds of a process share ``http``. ``slow`` is called with the description of a slow server of the run.
        """

        def end(run: Run, seconds: float, halted: Callable[[], bool]) -> None:
            http.take_traffic()  # of work that did not end
            http.set_deadline(seconds, halted, self._slowest(run), lambda what: slow(run, what))

        return end

    def traffic(self, http: Http) -> Callable[[str], Traffic]:
        """Return a function that returns the requests of ``http`` since its last call, by the systems of a sync."""

        def taken(name: str) -> Traffic:
            kinds = self._kinds.get(name, {})
            systems = kinds[next(reversed(kinds))].systems if kinds else {}
            counts = Counter[tuple[str, str]]()
            for (host, what), count in http.take_traffic().items():
                counts[_system_of(host, systems), what] += count
            http.budgets.give_back()  # the step ends
            return Traffic(counts)

        return taken

    def _slowest(self, run: Run) -> int:
        """Return the lowest rate that the sync of a run accepts. Its kind has been built."""
        kinds = self._kinds.get(run.sync, {})
        built = kinds.get(run.config or next(reversed(kinds), ""))
        return MIN_RATE if built is None else built.slowest

    def _built(self, name: str, digest: str, text: str) -> Kind:
        kinds = self._kinds.setdefault(name, {})
        # The most recently used one is at the end.
        built = kinds.pop(digest, None)
        if built is None:
            sync = load_sync(text)
            built = _BuiltKind(self._build(sync), sync.slowest, _systems_of(sync))
        while len(kinds) >= _KINDS_KEPT:
            del kinds[next(iter(kinds))]
        kinds[digest] = built
        return built.kind


def _systems_of(sync: Sync) -> dict[str, str]:
    """Return the system of each host that the source or the target of a sync names."""
    systems: dict[str, str] = {}
    for role in ("source", "target"):
        part = getattr(sync, role, None)
        for each in part.addresses() if isinstance(part, Model) else ():
            address = Address.parse(each.url)
            if address is not None:
                systems[address.host] = role if systems.get(address.host, role) == role else "both"
    return systems


def _system_of(host: str, systems: Mapping[str, str]) -> str:
    """Return the system of a host. Its first label may be a bucket, as in ``bucket.s3.eu-central-1.amazonaws.com``."""
    return systems.get(host) or systems.get(host.partition(".")[2]) or "other"


def changed_groups_of(sync: Sync, event: object, now: float) -> tuple[str, ...]:
    """Return the groups of a sync that a decoded event names, without building its kind, which may need secrets.

    ``now`` is the time of the event. Raises MESSAGE_INVALID if the sync cannot read it.
    """
    read = getattr(_wiring(sync), "changed_groups", None)
    if read is None:
        raise SynclineError("MESSAGE_INVALID", f"a sync of {sync.kind} accepts no webhooks or events")
    groups: tuple[str, ...] = read(sync, event, now)
    return groups


def _wiring(sync: Sync) -> Any:
    """Return the module that builds the kind of a sync; raises USAGE if the kind has no runs."""
    if not KINDS[sync.kind].has_runs:
        raise SynclineError("USAGE", f"{sync.name} is a sync of {sync.kind}, which has no runs")
    return import_module(f"syncline.kinds.{sync.kind}.wiring")


def kind_builder(dependencies: Dependencies) -> Callable[[Sync], Kind]:
    """Return a function that builds the kind of a sync with the wiring of that kind, which is imported on first use."""
    builder_of = cache(lambda wiring: wiring.Builder(dependencies))
    return lambda sync: builder_of(_wiring(sync))(sync)
