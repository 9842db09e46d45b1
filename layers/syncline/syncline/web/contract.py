"""The contract of ``GET /v1/synced``: its headers, statuses and body.

``openapi.json`` describes it; ``scripts/openapi.py`` generates that file. A test checks every response against it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from syncline.kinds.tokens.listing import Listing
from syncline.kinds.tokens.verdict import InstanceResult, ProbeResult, Reason, TokenState

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


def body_of(sync: str | None, token_hash: str | None, result: ProbeResult, listing: Listing | None) -> dict[str, Any]:
    """Return the body as JSON values, with the schema ``Body``."""
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
        "causes": list(result.causes),
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
