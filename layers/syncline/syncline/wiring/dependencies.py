"""The objects that all kinds of a process share."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from syncline.clients.http.addresses import Address, Route
from syncline.clients.http.budgets import Allowed, Budget
from syncline.clients.http.client import Http
from syncline.config.limits import EndpointLimits
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


def budget_of(http: Http, url: str, limits: EndpointLimits | None) -> Budget | None:
    """Return the budget of the server at ``url``, None without limits."""
    address = Address.parse(url)
    if limits is None or address is None:
        return None
    allowed = Allowed(
        None if limits.requests_per_second is None else float(limits.requests_per_second),
        limits.concurrent,
        limits.byte_rate,
    )
    return http.budgets.of(address.host, allowed, http.policy.clock)


def route_of(
    secrets: Secrets,
    ca: str | Reference | None,
    proxy: str | Reference | None,
    budget: Budget | None = None,
    account: str = "",
) -> Route:
    """Return the route of an endpoint. Raises CONFIG_INVALID and the errors of :meth:`Secrets.resolve`."""
    pem, url = (None if value is None else secrets.text(value) for value in (ca, proxy))
    route = Route(pem, url, budget, account)
    password = urlsplit(route.proxy or "").password or ""
    register(password)
    register(unquote(password))
    return route
