"""Builds the console."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from functools import cache

from syncline.config.sync import Sync
from syncline.errors import SynclineError
from syncline.secrets import Reference, Secrets
from syncline.store.backup_index import BackupIndex
from syncline.store.state import State
from syncline.store.table import Database
from syncline.store.totals import totals_of
from syncline.telemetry import logger
from syncline.web.console import Console, Figures


def console_of(state: State, database: Database, secrets: Secrets, token: str) -> Console:
    """The console over a table; ``token`` is a reference to what requests have to bring, empty for nothing."""

    def figures() -> Iterator[Figures]:
        from syncline.config.sync import load_sync  # noqa: PLC0415 - each kind's model when it is there

        for name in state.sync_names():
            try:
                sync = load_sync(state.sync_config(name))
            except SynclineError as error:  # removed just now, or of another version: the others are shown
                logger.error("sync not shown", extra={"sync": name, "code": error.code.name, "why": error.what})
                continue
            totals, running = totals_of(database, name), state.current_run(name) is not None
            yield Figures(name, sync.kind, totals, running, _clusters(sync, database))

    return Console(figures, lambda: secrets.resolve(Reference.parse(token)) if token else None)


def _clusters(sync: Sync, database: Database) -> int | None:
    if sync.kind != "backups":
        return None
    from syncline.kinds.backups.config import BackupsSync, GitTarget  # noqa: PLC0415

    assert isinstance(sync, BackupsSync)
    where = sync.target.repository if isinstance(sync.target, GitTarget) else sync.name
    return BackupIndex(database, time.time).clusters_of(where)


@cache
def console() -> Console:
    """What the function behind the function URL does."""
    from syncline.wiring.functions import database, secrets, state  # noqa: PLC0415

    return console_of(state(), database(), secrets(), os.environ.get("SYNCLINE_CONSOLE_TOKEN", ""))
