"""Builds the console: health, and the metrics of all syncs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

from syncline.config.sync import Sync
from syncline.kinds.table import KINDS
from syncline.messages import QueueDepth
from syncline.secrets import Reference, Secrets
from syncline.store.state import State
from syncline.store.table import Database
from syncline.store.totals import Totals, read_totals
from syncline.web.console import Console
from syncline.web.metrics import Figures
from syncline.wiring.environments import ConsoleEnvironment
from syncline.wiring.queue_depths import QueueDepths
from syncline.wiring.watch import applied_syncs

if TYPE_CHECKING:
    from prometheus_client.core import Metric


def console_of(
    state: State, database: Database, secrets: Secrets, token: str, depths: Callable[[], Iterable[QueueDepth]] = tuple
) -> Console:
    """Return the console of a table; ``token`` is a reference to the bearer token of requests, empty for none.

    ``depths`` returns those of the queues that can be read.
    """

    def figures() -> Iterator[Figures]:
        for sync in applied_syncs(state):
            current = state.current_run(sync.name)
            progress = None if current is None else state.progress(current.id)
            counts = None if progress is None else progress.counts
            totals = read_totals(database, sync.name)
            health = state.health(sync.name) if KINDS[sync.kind].has_runs else None
            yield Figures(
                sync,
                totals,
                health,
                counts,
                _own_metrics(sync, totals, database),
                started=None if current is None else current.started,
                advanced=None if progress is None else progress.advanced,
            )

    return Console(figures, lambda: secrets.resolve(Reference.parse(token)) if token else None, depths=depths)


def _own_metrics(sync: Sync, totals: Totals, database: Database) -> tuple[Metric, ...]:
    """Return the metrics that only the kind of a sync has."""
    if not KINDS[sync.kind].has_metrics:
        return ()
    return tuple(import_module(f"syncline.kinds.{sync.kind}.wiring_console").metrics(sync, totals, database))


@cache
def console() -> Console:
    """Return the console of the function. Raises CONFIG_INVALID if a variable is missing."""
    from syncline.wiring.functions import dependencies_of  # noqa: PLC0415

    environment = ConsoleEnvironment.read("console")
    dependencies, depths = dependencies_of(environment), QueueDepths(environment.queues)
    return console_of(
        dependencies.state, dependencies.database, dependencies.secrets, environment.console_token, depths
    )
