"""Limits on the use of a server in ``syncs.yaml``, kept by all functions together."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Any, Final, Self, TypeAlias
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, StrictInt, model_validator

from syncline.config.findings import Finding
from syncline.config.model import Model
from syncline.config.values import KeyPath, Number, server_of, text_schema

if TYPE_CHECKING:
    from syncline.config.sync import Sync

_UNITS: Final = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}
_RATE: Final = re.compile(r"([1-9][0-9]{0,11})(?:([kMG])?B)?")
LOWEST_RATE: Final = 64_000
"""Bytes a second: with less, a request would end as too slow."""


def _rate_text(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def rate_of(text: str) -> int:
    """Return a rate such as ``50MB`` in bytes a second. Raises ValueError."""
    match = _RATE.fullmatch(text)
    if match is None:
        raise ValueError("is not a number of bytes; write a whole number and B, kB, MB or GB, such as 50MB")
    return int(match[1]) * _UNITS[match[2] or ""]


def _check_rate(text: str) -> str:
    if rate_of(text) < LOWEST_RATE:
        raise ValueError(f"is too low; write at least {LOWEST_RATE // 1000}kB")
    return text


ByteRate: TypeAlias = Annotated[
    str, BeforeValidator(_rate_text), AfterValidator(_check_rate), text_schema(pattern=f"^{_RATE.pattern}$")
]


class EndpointLimits(Model):
    """Limits on the use of one endpoint. All functions keep them together, for all syncs that name the same limits."""

    requests_per_second: Annotated[Number, Field(ge=1, le=10_000)] | None = Field(
        None,
        description="Requests that begin in one second. In no period does one second's worth more begin.",
        examples=[10],
    )
    concurrent: Annotated[StrictInt, Field(ge=2, le=1000)] | None = Field(
        None,
        description="Requests that are open at a time, at least 2. A function that dies returns its share after 45 seconds.",
        examples=[8],
    )
    bytes_per_second: ByteRate | None = Field(
        None,
        description="Bytes of content that are sent and received in one second: a whole number and `kB`, `MB` or `GB` (powers "
        "of 1000), at least `64kB`.",
        examples=["50MB"],
    )

    @model_validator(mode="after")
    def _check_any(self) -> Self:
        if self.requests_per_second is None and self.concurrent is None and self.bytes_per_second is None:
            raise ValueError("limits nothing; write requests_per_second, concurrent or bytes_per_second, or remove it")
        return self

    @property
    def byte_rate(self) -> int | None:
        """`bytes_per_second` as a number."""
        return None if self.bytes_per_second is None else rate_of(self.bytes_per_second)


Limits: TypeAlias = Annotated[
    EndpointLimits | None,
    Field(
        description="Limits on requests, connections and bytes, over all functions together. Defaults to none. They also count "
        "the requests to the endpoint's token server and to the store that it redirects to.",
    ),
]


def limited_servers(part: Model, path: KeyPath = ()) -> Iterator[tuple[KeyPath, tuple[str, int], EndpointLimits]]:
    """Yield each server of a part of the configuration that has limits, with the path of the limits."""
    limits = getattr(part, "limits", None)
    if isinstance(limits, EndpointLimits):
        for url in sorted({address.url for address in part.addresses()}):
            parsed = urlsplit(url)
            yield (*path, "limits"), server_of(parsed.netloc, 80 if parsed.scheme == "http" else 443), limits
    for name in type(part).model_fields:
        value = getattr(part, name)
        if isinstance(value, Model):
            yield from limited_servers(value, (*path, name))


def different_limits(syncs: Iterable[Sync]) -> Iterator[Finding]:
    """Yield a finding for limits of a server that differ from those before it; its path begins at `syncs`."""
    first: dict[tuple[str, int], tuple[str, EndpointLimits]] = {}
    for sync in syncs:
        for path, server, limits in limited_servers(sync):
            name, others = first.setdefault(server, (sync.name, limits))
            if others != limits:
                what = (
                    f"differs from the limits of {server[0]} in the sync {name}; both are counted separately and add up, so "
                    "write the same ones"
                )
                yield Finding(("syncs", sync.name, *path), what)
