"""The base of all models of ``syncs.yaml``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from syncline.config.values import KeyPath
from syncline.secrets import Reference


class ServerAddress(NamedTuple):
    """The URL of a server, its certificate authority and proxy, and the path of the URL in the sync."""

    url: str
    ca: str | Reference | None = None
    proxy: str | Reference | None = None
    path: KeyPath = ()


class Model(BaseModel):
    """The base of all parts of the configuration: frozen, and without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    def addresses(self) -> Iterator[ServerAddress]:
        """Yield the addresses of the servers in this part of the configuration."""
        for name in type(self).model_fields:
            value = getattr(self, name)
            parts = value.items() if isinstance(value, dict) else [(None, value)]
            for key, part in parts:
                if isinstance(part, Model):
                    path = (name,) if key is None else (name, str(key))
                    yield from (each._replace(path=(*path, *each.path)) for each in part.addresses())
