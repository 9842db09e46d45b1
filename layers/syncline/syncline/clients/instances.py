"""Instances of a replicated service: what a cluster lists, and what a probe asks."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from syncline.clients.addresses import is_refused


@dataclass(frozen=True, slots=True)
class Instance:
    """One replica: ``name`` is its pod's, unique in its namespace; ``place`` says which of the sources listed it.

    ``ready`` is whether it gets requests now. One that is ``terminating`` gets no new ones.
    """

    name: str
    address: str
    port: int
    ready: bool = True
    terminating: bool = False
    place: str = ""

    @property
    def serves(self) -> bool:
        """Whether a client's next request may reach it."""
        return self.ready and not self.terminating

    @property
    def where(self) -> str:
        """Address and port as a URL has them."""
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"

    def is_called(self, origin: str) -> bool:
        """Whether ``origin`` means this instance: by its name, its address, or address and port."""
        return origin in (self.name, self.address, self.where)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Instance:
        """Raises KeyError, TypeError or ValueError for what :meth:`as_json` never gave."""
        return cls(
            str(value["name"]),
            str(value["address"]),
            int(value["port"]),
            bool(value["ready"]),
            bool(value["terminating"]),
            str(value["place"]),
        )


def is_probed(address: str) -> bool:
    """Whether ``address`` is one a probe may connect to: an IP address of a pod, never a name.

    The rule of copies is the other way round: they go to public names. Neither goes to a link-local address or a
    cloud's metadata service, and here nothing goes to an address that many machines share.
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return not (is_refused(address) or parsed.is_multicast or parsed.is_unspecified or parsed.is_reserved)
