"""The objects that all kinds of a process share."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from syncline.clients.http.addresses import Route
from syncline.clients.http.client import Http
from syncline.secrets import Reference, Secrets, register
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


def route_of(secrets: Secrets, ca: str | Reference | None, proxy: str | Reference | None) -> Route:
    """Return the route of an endpoint. Raises CONFIG_INVALID and the errors of :meth:`Secrets.resolve`."""
    route = Route(*(None if value is None else secrets.text(value) for value in (ca, proxy)))
    password = urlsplit(route.proxy or "").password or ""
    register(password)
    register(unquote(password))
    return route
