"""Builds the watch over all syncs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import cache

from syncline.config.sync import Sync, load_sync
from syncline.errors import SynclineError
from syncline.kinds.table import KINDS
from syncline.steps.watch import Watch
from syncline.store.health import Health
from syncline.store.state import State
from syncline.telemetry import logger
from syncline.wiring.environments import ENVIRONMENTS


def watch_of(state: State, clock: Callable[[], float] = time.time) -> Watch:
    """Return the watch over the syncs of a table that have runs."""

    def syncs() -> Iterator[tuple[Sync, Health]]:
        for sync in applied_syncs(state, unread):
            if KINDS[sync.kind].has_runs:
                yield sync, state.health(sync.name)

    unread: list[str] = []
    return Watch(syncs, unread, clock)


def applied_syncs(state: State, unread: list[str] | None = None) -> Iterator[Sync]:
    """Yield all applied syncs. One that was removed meanwhile, or is of another version, is logged, and named in ``unread``."""
    for name in state.sync_names():
        try:
            yield load_sync(state.sync_config(name))
        except SynclineError as error:
            logger.error("sync not read", extra={"sync": name, "code": error.code.name, "why": error.what})
            if unread is not None and error.code.name != "NO_SUCH_SYNC":
                unread.append(name)


@cache
def watch() -> Watch:
    """Return the watch of the function. Raises CONFIG_INVALID if a variable is missing."""
    from syncline.wiring.functions import dependencies_of  # noqa: PLC0415

    return watch_of(dependencies_of(ENVIRONMENTS["watch"].read("watch")).state)
