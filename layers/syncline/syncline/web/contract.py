"""The contract of ``GET /v1/synced``: its words, its headers, and the shape of its body.

The dataclasses here, with a description beside each type, are what the OpenAPI document is made from;
:func:`body_of` gives what they describe, and a test holds each answer to that document.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Final

from syncline.kinds.tokens.listing import Listing
from syncline.kinds.tokens.verdict import Finding, Known, Reason, Seen, State

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
"""Reasons that lie in the request, or in us. All others are verdicts, and 200."""


@dataclass(frozen=True, slots=True)
class InstanceBody:
    """One instance, and what it said."""

    name: Annotated[str, "The instance's name: its pod's."]
    address: Annotated[str, "Its address and port."]
    verdict: Annotated[State, "Whether it has the token."]
    attempts: Annotated[int, "How many times it was asked."]
    first_yes_ms: Annotated[float | None, "Milliseconds until it first had the token."]
    last_status: Annotated[int | None, "The last HTTP status it answered with."]
    reason: Annotated[str, "Why it does not count as having the token; empty if it has it."]


@dataclass(frozen=True, slots=True)
class ListBody:
    """The list of instances that the verdict rests on."""

    instances: Annotated[int, "How many instances it has."]
    serving: Annotated[int, "How many of them get requests now: ready, and not terminating."]
    seen: Annotated[str | None, "When the cluster was last listed whole (RFC 3339)."]
    failed: Annotated[str | None, "The code of the failure, if the latest look at the cluster failed."]


@dataclass(frozen=True, slots=True)
class Body:
    """A verdict, and all it rests on."""

    verdict: Annotated[Known, "The verdict; `Unknown` where nothing was seen that would carry one."]
    reason: Annotated[Reason, "Why, in one word."]
    sync: Annotated[str | None, "The sync that the origin belongs to."]
    token: Annotated[str | None, "The first 8 hex digits of the token's SHA-256."]
    origin: Annotated[
        InstanceBody | None, "The origin, asked as a control; null if it is not listed, or if several have its name."
    ]
    asked: Annotated[int, "How many instances were asked, the origin not counted."]
    needed: Annotated[int, "How many of them must have the token."]
    synced: Annotated[int, "How many of them have it."]
    unknown: Annotated[int, "How many of them could not be asked or gave no usable answer."]
    ms: Annotated[float, "Milliseconds until the verdict."]
    list: Annotated[ListBody | None, "The list of instances that the verdict rests on."]
    instances: Annotated[tuple[InstanceBody, ...], "Each instance that was asked."]


def body_of(sync: str | None, token_hash: str | None, finding: Finding, listing: Listing | None) -> dict[str, Any]:
    """The body as JSON values, shaped as :class:`Body`."""
    return {
        "verdict": finding.verdict.value,
        "reason": finding.reason.value,
        "sync": sync,
        "token": token_hash,
        "origin": None if finding.origin is None else _instance(finding.origin),
        "asked": len(finding.seen),
        "needed": finding.needed,
        "synced": finding.yes,
        "unknown": finding.unknown,
        "ms": round(finding.milliseconds, 3),
        "list": None if listing is None else _list(listing),
        "instances": [_instance(seen) for seen in finding.seen],
    }


def _instance(seen: Seen) -> dict[str, Any]:
    # Whoever said no so far and was not asked to the end said no.
    pending = seen.state is State.PENDING
    state = State.NO if pending and seen.last_status == 401 else seen.state
    return {
        "name": seen.name,
        "address": seen.address,
        "verdict": state.value,
        "attempts": seen.attempts,
        "first_yes_ms": seen.first_yes,
        "last_status": seen.last_status,
        "reason": seen.reason or ("no answer in time" if pending else ""),
    }


def _list(listing: Listing) -> dict[str, Any]:
    seen = None if listing.seen is None else datetime.fromtimestamp(listing.seen, UTC)
    return {
        "instances": len(listing.instances),
        "serving": sum(instance.serves for instance in listing.instances),
        "seen": None if seen is None else seen.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "failed": listing.failed,
    }
