"""Instances of a replicated service, listed by a cluster and asked by a probe.

Address and port identify an instance. Names do not: hand-written endpoints may share a host name, and a pod may have
several addresses.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from syncline.clients.http.addresses import is_refused


@dataclass(frozen=True, slots=True)
class Instance:
    """One replica. ``name`` is that of its pod or host and may be shared; ``source`` names the source that listed it.

    ``address`` is an IP address, or a host name, which is never probed. A ``ready`` instance gets requests, a
    ``terminating`` one gets no new ones.
    """

    name: str
    address: str
    port: int
    ready: bool = True
    terminating: bool = False
    source: str = ""

    @property
    def serves(self) -> bool:
        """Return True if clients' requests may reach it."""
        return self.ready and not self.terminating

    @property
    def where(self) -> str:
        """Address and port in the form of a URL; the identity of the instance."""
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"

    def as_json(self) -> dict[str, Any]:
        """Return the stored form, in which ``source`` has its former name ``place``."""
        fields = asdict(self)
        return {**fields, "place": fields.pop("source")}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Instance:
        """Return the instance of :meth:`as_json`. Raises KeyError, TypeError or ValueError for an invalid value."""
        return cls(
            str(value["name"]),
            str(value["address"]),
            int(value["port"]),
            bool(value["ready"]),
            bool(value["terminating"]),
            str(value["place"]),
        )


def distinct(instances: Iterable[Instance]) -> tuple[Instance, ...]:
    """Return one instance for each address and port, sorted by name. Of duplicates, one that serves is preferred."""
    found: dict[str, Instance] = {}
    for instance in instances:
        known = found.get(instance.where)
        if known is None or (instance.serves and not known.serves):
            found[instance.where] = instance
    return tuple(sorted(found.values(), key=lambda one: (one.name, one.where)))


def is_probed(address: str) -> bool:
    """Return True if a probe may connect to `address`: the IP address of a pod, private ones included, never a name.

    Link-local and metadata addresses are refused as for all clients, and also multicast and reserved ones.
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return not (is_refused(address) or parsed.is_multicast or parsed.is_unspecified or parsed.is_reserved)
