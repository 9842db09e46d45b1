"""Tokens of an installed GitHub App, which are valid for one hour.

The App's private key signs a JWT that identifies the App for a few minutes. GitHub exchanges it for a token with the
permissions of the installation.
https://docs.github.com/en/apps/creating-github-apps/authenticating-with-a-github-app
"""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from urllib.parse import quote

from syncline.clients.github.client import VERSION
from syncline.clients.http.addresses import Endpoint
from syncline.clients.http.client import Http, Response
from syncline.clients.http.rejections import REJECTIONS
from syncline.errors import SynclineError
from syncline.secrets import register

_EARLY: Final = 120.0  # seconds before a token's end at which it is renewed
_JWT_LIFE: Final = 540  # seconds; GitHub's limit is 600, and clocks differ
_JWT_SKEW: Final = 60  # seconds


@dataclass(eq=False, repr=False)
class AppTokens:
    """Tokens of an App's installation, kept until shortly before they expire. Safe for concurrent use by threads.

    ``key`` returns the App's private key in PEM form, and ``renewed_key`` does after a refusal. Without ``installation``,
    the ID of the installation on ``repository`` is used. Raises the errors of :class:`Http`, UNAUTHORIZED if GitHub rejects
    the App or its key, and SECRET_MISSING for an invalid key.
    """

    endpoint: Endpoint
    http: Http
    app: str
    key: Callable[[], str]
    renewed_key: Callable[[], str]
    repository: str
    installation: int | None = None
    prefix: str = ""
    clock: Callable[[], float] = time.time
    _token: str | None = None
    _until: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def token(self) -> str:
        with self._lock:
            if self._token is None or self.clock() >= self._until:
                self._token, self._until = self._ask()
            return self._token

    def renewed(self) -> str:
        """Return a new token in place of a refused one."""
        with self._lock:
            self._token = None
        return self.token()

    def _ask(self) -> tuple[str, float]:
        installation = self.installation or self._installation()
        response = self._send("POST", f"/app/installations/{installation}/access_tokens")
        if response.status != 201:
            raise response.error()
        value = response.json_object()
        token, until = value.get("token"), value.get("expires_at")
        if not isinstance(token, str) or not isinstance(until, str):
            raise response.protocol_error("the response has no token")
        register(token)
        return token, datetime.fromisoformat(until).timestamp() - _EARLY

    def _installation(self) -> int:
        response = self._send("GET", f"/repos/{quote(self.repository)}/installation")
        if response.status != 200:
            raise response.error()
        number = response.json_object().get("id")
        if not isinstance(number, int):
            raise response.protocol_error("the response has no installation ID")
        return number

    def _send(self, method: str, path: str) -> Response:
        url = f"{self.endpoint.url}{self.prefix}{path}"

        def send(key: str | None) -> Response:
            assert key is not None
            headers = {
                "Accept": "application/vnd.github+json",
                "X-GitHub-Api-Version": VERSION,
                "Authorization": f"Bearer {app_jwt(self.app, key, self.clock())}",
            }
            return self.http.request(method, url, headers, route=self.endpoint.route, repeatable=True)

        return REJECTIONS.send(self.endpoint.host, self.key(), self.renewed_key, send)


def app_jwt(app: str, key: str, now: float) -> str:
    """Return the JWT that identifies an App (RFC 7519, RS256). Raises SECRET_MISSING for an invalid key."""
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415 - slow to import, and used for Apps only
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import padding, rsa  # noqa: PLC0415

    try:
        private = serialization.load_pem_private_key(key.encode(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        private = None
    if not isinstance(private, rsa.RSAPrivateKey):
        raise SynclineError("SECRET_MISSING", f"the private key of the App {app} is not an RSA key in PEM form")
    claims = {"iat": int(now) - _JWT_SKEW, "exp": int(now) + _JWT_LIFE - _JWT_SKEW, "iss": app}
    parts = (json.dumps(part, separators=(",", ":")).encode() for part in ({"alg": "RS256", "typ": "JWT"}, claims))
    text = ".".join(map(_base64, parts))
    return f"{text}.{_base64(private.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256()))}"


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
