"""Builds the console: health, the metrics of all syncs, and the status page."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

from botocore.config import Config

from syncline.config.sync import Sync, load_sync
from syncline.errors import SynclineError
from syncline.kinds.table import KINDS
from syncline.messages import QueueDepth, Queues
from syncline.secrets import Reference, Secrets
from syncline.store.alerts import Alerts
from syncline.store.drills import Drill
from syncline.store.overview import Overview
from syncline.store.state import State
from syncline.store.table import Database
from syncline.store.totals import Totals
from syncline.telemetry import logger
from syncline.web.access import Access
from syncline.web.console import Console
from syncline.web.metrics import Figures
from syncline.wiring.environments import ConsoleEnvironment
from syncline.wiring.queue_depths import QueueDepths

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from syncline.web.status import StatusPages


@dataclass(frozen=True, slots=True)
class Stack:
    """The state and the queues with which the status page starts and cancels runs."""

    state: State
    queues: Queues


def console_of(  # noqa: PLR0913 - each is a fact of the function
    state: State,
    database: Database,
    secrets: Secrets,
    token: str,
    depths: Callable[[], Iterable[QueueDepth]] = tuple,
    *,
    signed: bool = False,
    local: bool = False,
    queues: Queues | None = None,
) -> Console:
    """Return the console of a table; ``token`` is a reference to the bearer token of requests, empty for none.

    ``depths`` returns those of the queues that can be read. ``signed`` and ``local`` are those of
    :class:`syncline.web.access.Access`. With ``queues``, the status page starts and cancels runs.
    """

    def required_token() -> str | None:
        return secrets.resolve(Reference.parse(token)) if token else None

    access = Access(required_token, signed, local)

    @cache
    def pages() -> StatusPages:
        from syncline.web.status import StatusPages  # noqa: PLC0415 - only visitors of the page need it

        return StatusPages(state, Overview(database), access, None if queues is None else Stack(state, queues))

    alerts = Alerts(database)

    def given_up(sync: Sync) -> int | None:
        alert = alerts.get(sync.name) if sync.notifies else None
        return None if alert is None or alert.version is None else alert.given_up

    def figures() -> Iterator[Figures]:
        for each in Overview(database).read():
            try:
                sync = load_sync(each.config)
            except SynclineError as error:  # of another version
                logger.error("sync not read", extra={"sync": each.name, "code": error.code.name, "why": error.what})
                continue
            progress = each.progress
            yield Figures(
                sync,
                each.totals,
                each.health if KINDS[sync.kind].has_runs else None,
                None if progress is None else progress.counts,
                _own_metrics(sync, each.totals, database),
                started=None if each.current is None else each.current.started,
                advanced=None if progress is None else progress.advanced,
                given_up=given_up(sync),
                audits=each.audits,
                restore_verified=_restore_verified(sync, each.drill),
                restore_within=sync.drill_seconds,
            )

    return Console(figures, required_token, depths=depths, pages=pages, check_host=access.check_host)


def _restore_verified(sync: Sync, drill: Drill | None) -> float | None:
    """Return the start of the latest successful restore drill of a sync, 0 if none has succeeded, None without drills."""
    if drill is not None:
        return drill.verified
    return 0.0 if sync.drills is not None else None


def _own_metrics(sync: Sync, totals: Totals, database: Database) -> tuple[Metric, ...]:
    """Return the metrics that only the kind of a sync has."""
    if not KINDS[sync.kind].has_metrics:
        return ()
    return tuple(import_module(f"syncline.kinds.{sync.kind}.wiring_console").metrics(sync, totals, database))


@cache
def console() -> Console:
    """Return the console of the function. Raises CONFIG_INVALID if a variable is missing."""
    from syncline.wiring.functions import AWS_CONFIG, dependencies_of, queues_of  # noqa: PLC0415

    environment = ConsoleEnvironment.read("console")
    dependencies, depths = dependencies_of(environment), QueueDepths(environment.queues)
    import boto3  # noqa: PLC0415 - imported with the functions' wiring

    # A page shows what it knows if the table does not respond, well before the function's own time is over.
    quick = AWS_CONFIG.merge(Config(retries={"mode": "standard", "max_attempts": 2}, connect_timeout=2, read_timeout=4))
    table = boto3.resource("dynamodb", config=quick).Table(environment.table)
    queues = None
    if environment.console_actions == "true":
        queues = queues_of(environment, boto3.client("sqs", config=AWS_CONFIG))
    return console_of(
        State(table),
        Database(table),
        dependencies.secrets,
        environment.console_token,
        depths,
        signed=environment.console_auth == "AWS_IAM",
        local=bool(environment.engine),
        queues=queues,
    )
