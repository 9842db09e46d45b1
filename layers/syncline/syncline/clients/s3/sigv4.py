"""AWS Signature Version 4 for S3, for requests sent by :class:`syncline.clients.http.client.Http`.

The AWS SDK is not used: its import takes 128 ms, and signing here takes 7 µs per request, since the key of the day is
cached. A test compares the signatures with botocore's.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

EMPTY_SHA256: Final = hashlib.sha256(b"").hexdigest()


@dataclass(frozen=True, slots=True)
class AccessKeys:
    """Credentials for an S3 service. ``token`` is the session token of temporary keys."""

    access: str
    secret: str = field(repr=False)
    token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class SigningRequest:
    """The signed parts of a request: ``path`` percent-encoded once, ``query`` encoded and sorted."""

    method: str
    host: str
    path: str
    query: str = ""


@dataclass(frozen=True, slots=True)
class Signer:
    """Signs requests to one service in one region. ``clock`` returns Unix seconds."""

    region: str
    clock: Callable[[], float] = time.time

    def headers(
        self, keys: AccessKeys, asked: SigningRequest, headers: Mapping[str, str], payload: str
    ) -> dict[str, str]:
        """Return ``headers`` with those that sign the request added; ``payload`` is the SHA-256 of the body in hex."""
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self.clock()))
        signed = {name.lower(): " ".join(value.split()) for name, value in headers.items()}
        added = {"x-amz-content-sha256": payload, "x-amz-date": stamp}
        if keys.token is not None:
            added["x-amz-security-token"] = keys.token
        signed |= {"host": asked.host, **added}
        # libcurl or a proxy may set or change these.
        names = sorted(name for name in signed if name not in ("content-length", "user-agent", "connection"))
        lines = "".join(f"{name}:{signed[name]}\n" for name in names)
        listed = ";".join(names)
        canonical = f"{asked.method}\n{asked.path}\n{asked.query}\n{lines}\n{listed}\n{payload}"
        scope = f"{stamp[:8]}/{self.region}/s3/aws4_request"
        text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        key = _key_of_the_day(keys.secret, stamp[:8], self.region)
        signature = hmac.digest(key, text.encode(), "sha256").hex()
        credential = f"Credential={keys.access}/{scope}, SignedHeaders={listed}, Signature={signature}"
        return {**headers, **added, "Authorization": f"AWS4-HMAC-SHA256 {credential}"}


@lru_cache(maxsize=64)
def _key_of_the_day(secret: str, day: str, region: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for part in (day, region, "s3", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key
