"""The probe's API, whoever carries its requests: a function URL or the container's server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from syncline.kinds.tokens.directory import Entry
from syncline.kinds.tokens.probe import origin_problem, problem_of, short_hash
from syncline.kinds.tokens.verdict import Finding, Known, Reason
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
from syncline.web.function_url import Answer, Request
from syncline.web.pages import START, page

_TOKEN: Final = TOKEN_HEADER.lower()
_ORIGIN: Final = ORIGIN_HEADER.lower()
_JSON: Final[Mapping[str, str]] = {"content-type": "application/json", "cache-control": "no-store"}


class Directory(Protocol):
    """The syncs of the kind ``tokens`` as they are now."""

    def entries(self) -> Sequence[Entry]:
        """Every one that is enabled."""
        ...


class Observer(Protocol):
    """Whoever counts verdicts."""

    def verdict(self, sync: str, finding: Finding) -> None: ...


class ProbeApi:
    """Answers requests. Runs on the loop that the probers of ``directory`` live on."""

    def __init__(self, directory: Directory, observer: Observer) -> None:
        self._directory = directory
        self._observer = observer

    async def answer(self, request: Request) -> Answer:
        """Return an answer, never raise: a failure has a status, a verdict and a reason."""
        path = request.path
        if path == PATH or path.startswith(f"{PATH}/"):
            if request.method != "GET":
                return _plain(405, "verdicts are asked for with GET", allow="GET")
            return await self._synced(request, path[len(PATH) + 1 :])
        return _shown(request)

    async def _synced(self, request: Request, sync: str) -> Answer:
        token, origin = request.headers.get(_TOKEN, ""), request.headers.get(_ORIGIN, "")
        token_hash = short_hash(token) if token else None
        entry: Entry | None = None
        try:
            problem = problem_of(token)
            reason = Reason(problem) if problem is not None else origin_problem(origin)
            if reason is None:
                entry, reason = self._entry(origin, sync)
            if entry is not None:
                finding = await entry.prober.finding(token, origin, entry.listing)
            else:
                assert reason is not None
                finding = Finding(Known.UNKNOWN, reason)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - whoever asks is owed a verdict and a reason
            # Its words may hold the token.
            logger.error("verdict failed", extra={"error": type(error).__name__, "token": token_hash})
            finding = Finding(Known.UNKNOWN, Reason.INTERNAL)
        return self._said(entry, origin, token_hash, finding)

    def _entry(self, origin: str, sync: str) -> tuple[Entry | None, Reason | None]:
        """Return the sync that is named, else the only one, else the one that lists the origin; or why there is none."""
        entries = self._directory.entries()
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

    def _said(self, entry: Entry | None, origin: str, token_hash: str | None, finding: Finding) -> Answer:
        sync = None if entry is None else entry.sync
        reason = finding.reason
        if entry is not None:
            self._observer.verdict(entry.sync, finding)
        fields = {
            "sync": sync,
            "token": token_hash,
            "origin": redact(origin) if reason not in (Reason.ORIGIN_INVALID, Reason.ORIGIN_MISSING) else None,
            "verdict": finding.verdict.value,
            "reason": reason.value,
            "synced": finding.yes,
            "unknown": finding.unknown,
            "asked": len(finding.seen),
            "ms": round(finding.milliseconds, 1),
        }
        say = logger.info if finding.verdict is Known.SYNCED else logger.warning
        say("verdict", extra=fields)
        body = body_of(sync, token_hash, finding, None if entry is None else entry.listing)
        headers = {STATUS_HEADER: finding.verdict.header.value, REASON_HEADER: reason.value, **_JSON}
        return Answer(STATUSES.get(reason, 200), json.dumps(body, separators=(",", ":")).encode(), headers)


def _shown(request: Request) -> Answer:
    """What there is besides verdicts: the page, its document, and whether this process lives."""
    if request.method not in ("GET", "HEAD"):
        return _plain(405, "there is nothing here to write to", allow="GET, HEAD")
    if request.path == "/health":
        return Answer(200, b'{"status":"Up"}', _JSON)
    if request.path in ("/", "/swagger-ui"):
        return Answer(302, b"", {"location": START})
    shown = page(request.path)
    if shown is None:
        return _plain(404, "no such page")
    headers = {"content-type": shown[0], "cache-control": "max-age=300", "x-content-type-options": "nosniff"}
    return Answer(200, shown[1], headers, packed=True)


def _plain(status: int, why: str, **headers: str) -> Answer:
    return Answer(status, json.dumps({"error": why}).encode(), {**_JSON, **headers})
