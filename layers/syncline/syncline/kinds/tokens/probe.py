"""Verdicts on tokens: what can be said without asking, and the question to the instances where it cannot."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import json
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from syncline import __version__
from syncline.clients.http.addresses import host_name
from syncline.clients.replicas.client import ReplicaClient
from syncline.kinds.tokens.ask import Asking, Crowd, Patience, Question
from syncline.kinds.tokens.listing import Listing
from syncline.kinds.tokens.verdict import Finding, Known, Quorum, Reason

# The token asked about: whether it can be asked about at all, and what may be said of it.

LONGEST_TOKEN: Final = 16 * 1024
"""Bytes. nginx takes 8 KiB in one header field by default, and says so itself."""

# RFC 6265, section 4.1.1: what a cookie's value may hold. Anything else could add a header or a second cookie.
_COOKIE_VALUE: Final = re.compile(r"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]+")


def problem_of(token: str) -> str | None:
    """Why a token cannot be asked about, in one word of the contract; None if it can."""
    if not token:
        return "token_missing"
    if len(token) > LONGEST_TOKEN:
        return "token_too_long"
    return None if _COOKIE_VALUE.fullmatch(token) else "token_invalid"


def short_hash(token: str) -> str:
    """What stands for the token in answers, logs and metrics: the first 8 hex digits of its SHA-256."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()[:8]


def expiry_of(token: str) -> float | None:
    """When a JWT expires (``exp``, Unix seconds; RFC 7519, section 4.1.4); None for one without, and for no JWT.

    The signature is not looked at: the instances do that. A forged expiry only spares them a question.
    """
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        padded = parts[1] + "=" * (-len(parts[1]) % 4)
        claims = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (ValueError, binascii.Error, RecursionError):
        return None
    expiry = claims.get("exp") if isinstance(claims, dict) else None
    if isinstance(expiry, bool) or not isinstance(expiry, int | float):
        return None
    try:
        return float(expiry)
    except OverflowError:
        return None


LONGEST_ORIGIN: Final = 253
"""Characters: a pod's name, or an address with a port."""
_CONNECTING: Final = 1.0  # seconds that a connection may take at least, TLS included; half the deadline if that is more
_ORIGIN: Final = re.compile(r"[A-Za-z0-9._:\[\]-]+")


@dataclass(frozen=True, slots=True)
class Rules:
    """How a sync's instances are asked. ``ca`` is PEM text, None for the system's roots; times are in seconds."""

    path: str
    host: str
    cookie: str
    quorum: Quorum
    patience: Patience
    stale_after: float
    server_name: str | None = None
    ca: str | None = None
    plain_http: bool = False


class Prober:
    """Gives verdicts for one sync. Lives on one event loop; ``clock`` gives Unix seconds."""

    def __init__(
        self,
        rules: Rules,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float] = time.time,
        chance: random.Random | None = None,
    ) -> None:
        self.rules = rules
        self._loop = loop
        self._clock = clock
        self._crowd = Crowd()
        self._chance = chance or random.Random()  # noqa: S311 - for jitter
        authorities = None if rules.plain_http else rules.ca or ""
        connecting = max(_CONNECTING, rules.patience.deadline / 2)
        self.replicas = ReplicaClient(loop, authorities, rules.server_name or host_name(rules.host), connecting)
        head = f"Host: {rules.host}\r\nUser-Agent: syncline/{__version__}\r\nAccept: */*\r\nCookie: {rules.cookie}="
        self._head = f"GET {rules.path} HTTP/1.1\r\n{head}".encode()

    async def finding(self, token: str, origin: str, listing: Listing) -> Finding:
        """Return the verdict on a token that the instance called `origin` has just written."""
        at_hand = self._without_asking(token, listing)
        if at_hand is not None:
            return Finding(Known.UNKNOWN if at_hand is not Reason.TOKEN_EXPIRED else Known.NOT_SYNCED, at_hand)
        origins = listing.called(origin)
        # Under a shared name it is unknown which of them wrote the token: all are asked, and those that serve counted.
        known = origins[0] if len(origins) == 1 else None
        others = [one for one in listing.instances if one.serves and one is not known]
        controls = [one for one in origins if one is known or not one.serves]
        shared = [one for one in origins if one is not known and one.serves]
        request = self._head + token.encode() + b"\r\n\r\n"
        question = Question(request, others, controls, shared, self.rules.quorum, self.rules.patience)
        return await Asking(self._loop, self.replicas, question, self._chance, self._crowd).finding()

    def _without_asking(self, token: str, listing: Listing) -> Reason | None:
        problem = problem_of(token)
        if problem is not None:
            return Reason(problem)
        expiry = expiry_of(token)
        now = self._clock()
        if expiry is not None and expiry <= now:
            return Reason.TOKEN_EXPIRED
        return listing.problem(now, self.rules.stale_after)

    def close(self) -> None:
        """Give connections back; what is under way ends by itself."""
        self.replicas.close()


def origin_problem(origin: str) -> Reason | None:
    """Why an origin cannot be looked for."""
    if not origin:
        return Reason.ORIGIN_MISSING
    return None if len(origin) <= LONGEST_ORIGIN and _ORIGIN.fullmatch(origin) else Reason.ORIGIN_INVALID
