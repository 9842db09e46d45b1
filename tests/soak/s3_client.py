"""The soak test's own client of the S3 stand-in, independent of the product's client."""

from __future__ import annotations

import hashlib
import http.client
import time
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote
from xml.etree import ElementTree as ET

from tests.standins.s3_store import NAMESPACE
from tests.standins.s3_wire import ACCESS

_TIMEOUT: Final = 20


class S3Client:
    """Requests to the stand-in at ``port``. Each raises OSError or HTTPException if the server is down."""

    def __init__(self, port: int) -> None:
        self._port = port

    def put(self, bucket: str, key: str, content: bytes, metadata: Mapping[str, str]) -> None:
        """Put an object."""
        self._request("PUT", f"/{bucket}/{quote(key)}", content, {f"x-amz-meta-{n}": v for n, v in metadata.items()})

    def delete(self, bucket: str, key: str) -> None:
        """Delete an object."""
        self._request("DELETE", f"/{bucket}/{quote(key)}")

    def get(self, bucket: str, key: str) -> tuple[bytes, Mapping[str, str]]:
        """Return an object's bytes and its headers, whose names are in lower case."""
        return self._request("GET", f"/{bucket}/{quote(key)}")

    def keys(self, bucket: str) -> list[str]:
        """Return all keys."""
        found: list[str] = []
        while True:
            after = f"&start-after={quote(found[-1], safe='')}" if found else ""
            page = ET.fromstring(self._request("GET", f"/{bucket}?list-type=2{after}")[0])
            found += [each.findtext(f"{{{NAMESPACE}}}Key") or "" for each in page.iterfind(f"{{{NAMESPACE}}}Contents")]
            if page.findtext(f"{{{NAMESPACE}}}IsTruncated") != "true":
                return found

    def _request(
        self, method: str, target: str, body: bytes = b"", more: Mapping[str, str] | None = None
    ) -> tuple[bytes, Mapping[str, str]]:
        headers = {
            "x-amz-content-sha256": hashlib.sha256(body).hexdigest(),
            "x-amz-date": time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()),
            **(more or {}),
        }
        names = ";".join(sorted(["host", *headers]))
        day = headers["x-amz-date"][:8]
        # The stand-in requires that all headers are signed, but does not verify the signature.
        headers["Authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={ACCESS}/{day}/us-east-1/s3/aws4_request, SignedHeaders={names}, "
            f"Signature={'0' * 64}"
        )
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=_TIMEOUT)
        try:
            connection.request(method, target, body if method == "PUT" else None, headers)
            answer = connection.getresponse()
            content = answer.read()
            if answer.status >= 300:
                raise http.client.HTTPException(f"{method} {target}: {answer.status}: {content[:300]!r}")
            return content, {name.lower(): value for name, value in answer.getheaders()}
        finally:
            connection.close()
