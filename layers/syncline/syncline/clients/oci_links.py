"""``Location`` and ``Link``: where a registry says to go on, kept to the registry itself."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from syncline.clients.addresses import Address, Endpoint, host_name
from syncline.errors import SynclineError

_LINK: Final = re.compile(r"<([^<>]*)>((?:\s*;\s*[\w!#$&+.^`|~*-]+(?:\s*=\s*(?:\"(?:[^\"\\]|\\.)*\"|[^\s;,\"]+))?)*)")
_RELATION: Final = re.compile(r";\s*rel\s*=\s*(?:\"([^\"]*)\"|([^\s;,\"]+))", re.IGNORECASE)


def next_link(values: Iterable[str]) -> str | None:
    """The target of the ``rel="next"`` link among ``Link`` headers (RFC 8288), as it is written there."""
    for value in values:
        for target, parameters in _LINK.findall(value):
            relation = _RELATION.search(parameters)
            if relation is not None and "next" in (relation[1] or relation[2] or "").lower().split():
                return str(target)
    return None


def own_target(endpoint: Endpoint, base: str, location: str) -> str:
    """Path and query of a ``Location`` or ``Link`` of the registry's, relative or absolute, the query kept.

    A registry behind a proxy often knows neither its public scheme nor its port: the configured ones count. REDIRECTED if
    it names another host: a token, or the bytes of an image, would go to somebody the configuration does not know.
    """
    address = Address.parse_at(f"{endpoint.url}{base}", location)
    if address is None:
        raise SynclineError("BAD_ANSWER", f"{endpoint.host} says to go on at {location[:80]!r}, which is no address")
    if address.name != host_name(endpoint.host).lower():
        raise SynclineError(
            "REDIRECTED",
            f"{endpoint.host} says to go on at {address.host}; set its public address in its own configuration, "
            f"or use {address.host} in syncs.yaml",
        )
    return address.target or "/"
