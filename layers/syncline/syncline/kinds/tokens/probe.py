"""Verdicts on tokens: from the token and the list of instances alone if possible, otherwise by asking the instances."""

from __future__ import annotations

import asyncio
import hashlib
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from syncline import __version__
from syncline.clients.http.addresses import host_name
from syncline.clients.http.jwt import jwt_claims
from syncline.clients.replicas.client import ReplicaClient
from syncline.kinds.tokens.ask import AskLoad, AskSchedule, OngoingQuestion, Question
from syncline.kinds.tokens.config import Check, ZoneSync
from syncline.kinds.tokens.listing import Listing
from syncline.kinds.tokens.verdict import ProbeResult, Quorum, Reason, Verdict
from syncline.kinds.tokens.zone_sync import ZoneSyncReader

LONGEST_TOKEN: Final = 16 * 1024
"""Bytes. nginx accepts 8 KiB in one header field by default and refuses longer ones itself."""

# RFC 6265, section 4.1.1: the characters of a cookie's value. Others could add a header or a second cookie.
_COOKIE_VALUE: Final = re.compile(r"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]+")
LONGEST_ORIGIN: Final = 253
"""Characters: a pod's name, or an address with a port."""
_CONNECTING: Final = 1.0  # minimum of the connect timeout in seconds, with TLS; half the deadline if that is longer
_ORIGIN: Final = re.compile(r"[A-Za-z0-9._:\[\]-]+")


@dataclass(frozen=True, slots=True)
class ProbeRules:
    """The rules for asking a sync's instances. ``ca`` is PEM text, None for the system's roots; times are in seconds."""

    check: Check
    quorum: Quorum
    schedule: AskSchedule
    stale_after: float
    ca: str | None = None
    zone_sync: ZoneSync | None = None


class Prober:
    """Gives verdicts for one sync. Belongs to one event loop; ``clock`` gives Unix seconds."""

    def __init__(
        self,
        rules: ProbeRules,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float] = time.time,
        rng: random.Random | None = None,
    ) -> None:
        self.rules = rules
        self._loop = loop
        self._clock = clock
        self._load = AskLoad()
        self._rng = rng or random.Random()  # noqa: S311 - for jitter
        check = rules.check
        authorities = None if check.plain_http else rules.ca or ""
        connecting = max(_CONNECTING, rules.schedule.deadline / 2)
        self.replicas = ReplicaClient(loop, authorities, check.server_name or host_name(check.host), connecting)
        self._zone_sync: ZoneSyncReader | None = None
        if rules.zone_sync is not None:
            self._zone_sync = ZoneSyncReader(rules.zone_sync, check, rules.ca, loop, connecting)
        head = f"Host: {check.host}\r\nUser-Agent: syncline/{__version__}\r\nAccept: */*\r\nCookie: {check.cookie}="
        self._head = f"GET {check.path} HTTP/1.1\r\n{head}".encode()

    async def probe(self, token: str, origin: str, listing: Listing) -> ProbeResult:
        """Return the verdict on a token that the instance called `origin` has just written."""
        reason = self._without_asking(token, listing)
        if reason is not None:
            return ProbeResult(Verdict.NOT_SYNCED if reason is Reason.TOKEN_EXPIRED else Verdict.UNKNOWN, reason)
        origins = listing.called(origin)
        # If several instances have the origin's name, all are asked, and those that serve are counted.
        known = origins[0] if len(origins) == 1 else None
        others = [one for one in listing.instances if one.serves and one is not known]
        controls = [one for one in origins if one is known or not one.serves]
        shared = [one for one in origins if one is not known and one.serves]
        request = self._head + token.encode() + b"\r\n\r\n"
        question = Question(request, others, controls, shared, self.rules.quorum, self.rules.schedule)
        asking = OngoingQuestion(self._loop, self.replicas, question, self._rng, self._load).run()
        if self._zone_sync is None:
            return await asking
        return await self._zone_sync.explain(asking, listing.instances, self.rules.schedule)

    def _without_asking(self, token: str, listing: Listing) -> Reason | None:
        if problem := problem_of(token):
            return problem
        expiry = expiry_of(token)
        now = self._clock()
        if expiry is not None and expiry <= now:
            return Reason.TOKEN_EXPIRED
        return listing.problem(now, self.rules.stale_after)

    def close(self) -> None:
        """Close the connections. Requests in progress end by themselves."""
        self.replicas.close()
        if self._zone_sync is not None:
            self._zone_sync.close()


def origin_problem(origin: str) -> Reason | None:
    """Return the reason why an origin is invalid, None if it is valid."""
    if not origin:
        return Reason.ORIGIN_MISSING
    return None if len(origin) <= LONGEST_ORIGIN and _ORIGIN.fullmatch(origin) else Reason.ORIGIN_INVALID


def problem_of(token: str) -> Reason | None:
    """Return the reason why a token is invalid, None if it is valid."""
    if not token:
        return Reason.TOKEN_MISSING
    if len(token) > LONGEST_TOKEN:
        return Reason.TOKEN_TOO_LONG
    return None if _COOKIE_VALUE.fullmatch(token) else Reason.TOKEN_INVALID


def short_hash(token: str) -> str:
    """Return the first 8 hex digits of the token's SHA-256, which represent it in responses, logs and metrics."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()[:8]


def expiry_of(token: str) -> float | None:
    """Return the expiry of a JWT (``exp``, Unix seconds; RFC 7519, section 4.1.4); None if there is none.

    The signature is not checked, as the instances do that. A forged expiry only saves them a request.
    """
    expiry = jwt_claims(token).get("exp")
    if isinstance(expiry, bool) or not isinstance(expiry, int | float):
        return None
    try:
        return float(expiry)
    except OverflowError:
        return None
