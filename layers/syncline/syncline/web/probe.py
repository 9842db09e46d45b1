"""The API of the probe, for a function URL and for the container's server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from syncline.kinds.tokens.directory import DirectoryEntry
from syncline.kinds.tokens.probe import origin_problem, problem_of, short_hash
from syncline.kinds.tokens.verdict import ProbeResult, Reason, Verdict
from syncline.secrets import redact
from syncline.telemetry import logger
from syncline.web.contract import (
    ORIGIN_HEADER,
    PATH,
    REASON_HEADER,
    STATUS_HEADER,
    STATUSES,
    TOKEN_HEADER,
    body_of,
)
from syncline.web.function_url import HttpRequest, HttpResponse, json_response
from syncline.web.pages import START, page

_TOKEN: Final = TOKEN_HEADER.lower()
_ORIGIN: Final = ORIGIN_HEADER.lower()
_JSON: Final[Mapping[str, str]] = {"content-type": "application/json", "cache-control": "no-store"}


@dataclass(frozen=True, slots=True)
class ProbeApi:
    """Answers requests, on the event loop of the probers.

    ``entries`` returns the enabled syncs, and ``observe`` receives each verdict with the name of its sync.
    """

    entries: Callable[[], Sequence[DirectoryEntry]]
    observe: Callable[[str, ProbeResult], None]

    async def answer(self, request: HttpRequest) -> HttpResponse:
        """Return a response, never raise: a failure has a status, a verdict and a reason."""
        path = request.path
        if path == PATH or path.startswith(f"{PATH}/"):
            if request.method != "GET":
                return _error(405, "use GET for verdicts", allow="GET")
            return await self._synced(request, path[len(PATH) + 1 :])
        return _static(request)

    async def _synced(self, request: HttpRequest, sync: str) -> HttpResponse:
        token, origin = request.headers.get(_TOKEN, ""), request.headers.get(_ORIGIN, "")
        token_hash = short_hash(token) if token else None
        entry: DirectoryEntry | None = None
        try:
            reason = problem_of(token) or origin_problem(origin)
            if reason is None:
                entry, reason = self._entry(origin, sync)
            if entry is not None:
                result = await entry.prober.probe(token, origin, entry.listing)
            else:
                assert reason is not None
                result = ProbeResult(Verdict.UNKNOWN, reason)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - a request always gets a verdict and a reason
            # The error's text may contain the token.
            logger.error("verdict failed", extra={"error": type(error).__name__, "token": token_hash})
            result = ProbeResult(Verdict.UNKNOWN, Reason.INTERNAL)
        return self._response(entry, origin, token_hash, result)

    def _entry(self, origin: str, sync: str) -> tuple[DirectoryEntry | None, Reason | None]:
        """Return the named sync, else the only one, else the one that lists the origin; or the reason why there is none."""
        entries = self.entries()
        if sync:
            named = next((entry for entry in entries if entry.sync == sync), None)
            return named, None if named is not None else Reason.NO_SUCH_SYNC
        if not entries:
            return None, Reason.NOT_CONFIGURED
        if len(entries) == 1:
            return entries[0], None
        listing = [entry for entry in entries if entry.listing.called(origin)]
        if len(listing) == 1:
            return listing[0], None
        return None, Reason.ORIGIN_AMBIGUOUS if listing else Reason.ORIGIN_NOT_LISTED

    def _response(
        self, entry: DirectoryEntry | None, origin: str, token_hash: str | None, result: ProbeResult
    ) -> HttpResponse:
        sync = None if entry is None else entry.sync
        reason = result.reason
        if entry is not None:
            self.observe(entry.sync, result)
        fields: dict[str, Any] = {
            "sync": sync,
            "token": token_hash,
            "origin": redact(origin) if reason not in (Reason.ORIGIN_INVALID, Reason.ORIGIN_MISSING) else None,
            "verdict": result.verdict.value,
            "reason": reason.value,
            "synced": result.yes,
            "unknown": result.unknown,
            "asked": len(result.instances),
            "ms": round(result.milliseconds, 1),
        }
        if result.causes:
            fields["causes"] = list(result.causes)
        log = logger.info if result.verdict is Verdict.SYNCED else logger.warning
        log("verdict", extra=fields)
        body = body_of(sync, token_hash, result, None if entry is None else entry.listing)
        headers = {STATUS_HEADER: result.verdict.header.value, REASON_HEADER: reason.value, **_JSON}
        return HttpResponse(STATUSES.get(reason, 200), json.dumps(body, separators=(",", ":")).encode(), headers)


def _static(request: HttpRequest) -> HttpResponse:
    """Return the response for a path without verdicts: a static page or the health check."""
    if request.method not in ("GET", "HEAD"):
        return _error(405, "use GET or HEAD", allow="GET, HEAD")
    if request.path == "/health":
        return HttpResponse(200, b'{"status":"Up"}', _JSON)
    if request.path in ("/", "/swagger-ui"):
        return HttpResponse(302, b"", {"location": START})
    found = page(request.path)
    if found is None:
        return _error(404, "no such page")
    headers = {"content-type": found[0], "cache-control": "max-age=300", "x-content-type-options": "nosniff"}
    return HttpResponse(200, found[1], headers, is_gzip=True)


def _error(status: int, why: str, **headers: str) -> HttpResponse:
    return json_response(status, {"error": why}, **{"cache-control": "no-store"}, **headers)
