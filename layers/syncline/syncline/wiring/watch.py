"""Builds the watch over all syncs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import cache

from syncline.config.sync import Sync, load_sync
from syncline.errors import SynclineError
from syncline.kinds.table import KINDS
from syncline.messages import Queues
from syncline.steps.notices import beat_of
from syncline.steps.notify import is_due
from syncline.steps.watch import Watch
from syncline.store.alerts import Alerts
from syncline.store.drills import Proofs
from syncline.store.health import Health
from syncline.store.state import State
from syncline.store.table import Database
from syncline.telemetry import logger
from syncline.wiring.environments import ENVIRONMENTS

_RUNS = 10


def watch_of(state: State, database: Database, queues: Queues, clock: Callable[[], float] = time.time) -> Watch:
    """Return the watch over the syncs of a table that have runs."""
    alerts = Alerts(database)

    def syncs() -> Iterator[tuple[Sync, Health, Proofs]]:
        for sync in applied_syncs(state, unread):
            if KINDS[sync.kind].has_runs:
                wanted = sync.notifies or sync.audit is not None or sync.drills is not None
                yield sync, state.health(sync.name), state.proofs(sync.name) if wanted else Proofs()

    def needs_hint(sync: Sync, health: Health, proofs: Proofs, now: float) -> bool:
        beat = beat_of(state.runs(sync.name, _RUNS)) if sync.heartbeat is not None else None
        return is_due(sync, health, proofs, alerts.get(sync.name), beat, now)

    unread: list[str] = []
    return Watch(syncs, unread, clock, needs_hint, queues.hint)


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
    import boto3  # noqa: PLC0415

    from syncline.wiring.functions import AWS_CONFIG, dependencies_of, queues_of  # noqa: PLC0415

    environment = ENVIRONMENTS["watch"].read("watch")
    dependencies = dependencies_of(environment)
    queues = queues_of(environment, boto3.client("sqs", config=AWS_CONFIG))
    return watch_of(dependencies.state, dependencies.database, queues)
