"""The objects that all kinds of a process share."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from syncline.clients.http.client import Http
from syncline.secrets import Reference, Secrets
from syncline.store.state import State
from syncline.store.table import Database


@dataclass(frozen=True, slots=True)
class Dependencies:
    """Secrets, the HTTP client and the state; ``database`` is the table, for the stores of one kind.

    ``clock`` returns Unix seconds.
    """

    secrets: Secrets
    http: Http
    state: State
    database: Database
    clock: Callable[[], float] = time.time

    def authority(self, ca: str | Reference | None) -> str | None:
        """Return the PEM text of a ``ca``. Raises the errors of :meth:`Secrets.resolve`."""
        return None if ca is None else self.secrets.text(ca)
