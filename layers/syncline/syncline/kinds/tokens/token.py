"""The token asked about: whether it can be asked about at all, and what may be said of it."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from typing import Final

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
