"""The contract of ``GET /v1/synced``: its headers, statuses, and the schema of its body.

The OpenAPI document is generated from the dataclasses here, whose types are annotated with descriptions. :func:`body_of`
returns a body of that schema, and a test checks every response against the document.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Final

from syncline.kinds.tokens.listing import Listing
from syncline.kinds.tokens.verdict import InstanceResult, ProbeResult, Reason, TokenState, Verdict

TOKEN_HEADER: Final = "X-Auth-Token"  # noqa: S105 - the header's name
ORIGIN_HEADER: Final = "X-Nginx-Origin"
STATUS_HEADER: Final = "X-Token-Status"
REASON_HEADER: Final = "X-Token-Reason"
PATH: Final = "/v1/synced"

STATUSES: Final[dict[Reason, int]] = {
    Reason.TOKEN_MISSING: 400,
    Reason.TOKEN_INVALID: 400,
    Reason.TOKEN_TOO_LONG: 431,
    Reason.ORIGIN_MISSING: 400,
    Reason.ORIGIN_INVALID: 400,
    Reason.NO_SUCH_SYNC: 404,
    Reason.INTERNAL: 500,
}
"""Statuses of reasons that are errors of the request or of Syncline. All other reasons are verdicts, with 200."""


@dataclass(frozen=True, slots=True)
class InstanceBody:
    """One instance and its response."""

    name: Annotated[str, "The instance's name: that of its pod."]
    address: Annotated[str, "Its address and port."]
    verdict: Annotated[TokenState, "The state of the token at it."]
    attempts: Annotated[int, "The number of requests to it."]
    first_yes_ms: Annotated[float | None, "Milliseconds until it first had the token."]
    last_status: Annotated[int | None, "The HTTP status of its last response."]
    reason: Annotated[str, "The reason why it does not count as having the token; empty if it has it."]


@dataclass(frozen=True, slots=True)
class ListBody:
    """The list of instances on which the verdict is based."""

    instances: Annotated[int, "The number of instances in the list."]
    serving: Annotated[int, "The number of them that receive requests now: ready, and not terminating."]
    seen: Annotated[str | None, "The time of the last complete list of the cluster (RFC 3339)."]
    failed: Annotated[str | None, "The code of the failure, if the latest scrape of the cluster failed."]


@dataclass(frozen=True, slots=True)
class Body:
    """A verdict and its evidence."""

    verdict: Annotated[Verdict, "The verdict; `Unknown` if there is no evidence for another one."]
    reason: Annotated[Reason, "The reason for the verdict."]
    sync: Annotated[str | None, "The sync that the origin belongs to."]
    token: Annotated[str | None, "The first 8 hex digits of the token's SHA-256."]
    origin: Annotated[
        InstanceBody | None, "The origin, asked as a control; null if it is not listed, or if several have its name."
    ]
    asked: Annotated[int, "The number of instances asked, without the origin."]
    needed: Annotated[int, "The number of them that must have the token."]
    synced: Annotated[int, "The number of them that have it."]
    unknown: Annotated[int, "The number of them without a usable response."]
    ms: Annotated[float, "Milliseconds until the verdict."]
    list: Annotated[ListBody | None, "The list of instances on which the verdict is based."]
    instances: Annotated[tuple[InstanceBody, ...], "Each instance that was asked."]


def body_of(sync: str | None, token_hash: str | None, result: ProbeResult, listing: Listing | None) -> dict[str, Any]:
    """Return the body as JSON values, with the schema of :class:`Body`."""
    return {
        "verdict": result.verdict.value,
        "reason": result.reason.value,
        "sync": sync,
        "token": token_hash,
        "origin": None if result.origin is None else _instance(result.origin),
        "asked": len(result.instances),
        "needed": result.needed,
        "synced": result.yes,
        "unknown": result.unknown,
        "ms": round(result.milliseconds, 3),
        "list": None if listing is None else _list(listing),
        "instances": [_instance(each) for each in result.instances],
    }


def _instance(result: InstanceResult) -> dict[str, Any]:
    # An instance that refused the token so far and was not asked until the end counts as a refusal.
    pending = result.state is TokenState.PENDING
    state = TokenState.NO if pending and result.last_status == 401 else result.state
    return {
        "name": result.name,
        "address": result.address,
        "verdict": state.value,
        "attempts": result.attempts,
        "first_yes_ms": result.first_yes,
        "last_status": result.last_status,
        "reason": result.reason or ("no answer in time" if pending else ""),
    }


def _list(listing: Listing) -> dict[str, Any]:
    seen = None if listing.seen is None else datetime.fromtimestamp(listing.seen, UTC)
    return {
        "instances": len(listing.instances),
        "serving": sum(instance.serves for instance in listing.instances),
        "seen": None if seen is None else seen.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "failed": listing.failed,
    }
