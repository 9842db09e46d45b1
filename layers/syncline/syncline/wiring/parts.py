"""What the kinds of a process are made of: they share it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from syncline.clients.http.client import Http
from syncline.secrets import Reference, Secrets
from syncline.store.state import State
from syncline.store.table import Database


@dataclass(frozen=True, slots=True)
class Parts:
    """Secrets, connections and memory; ``database`` is the table, for the stores that a kind has of its own.

    ``clock`` gives Unix seconds.
    """

    secrets: Secrets
    http: Http
    state: State
    database: Database
    clock: Callable[[], float] = time.time

    def authority(self, ca: str | Reference | None) -> str | None:
        """The PEM text of a ``ca``; raises why a reference cannot be resolved."""
        return None if ca is None else self.secrets.text(ca)
