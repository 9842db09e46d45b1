"""Webhooks of chats and services, and the URLs of heartbeats.

Redirects are never followed: a body with names of items goes only to the host that the operator has named. Errors name
the host alone, because the path of such a URL is often its secret.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from syncline.clients.http.addresses import DIRECT, Address, Route, is_refused, redacted
from syncline.clients.http.client import Http, Response
from syncline.clients.http.retry import RetryPolicy
from syncline.errors import SynclineError
from syncline.secrets import redact

SECONDS: Final = 10.0
"""Limit for a request, with its connection and its answer."""
_ANSWER: Final = 4096
_LONG_PART: Final = 8
"""Characters from which a part of a URL may be its secret."""


@dataclass(frozen=True, slots=True)
class HookClient:
    """Sends to one URL. Raises CONFIG_INVALID for a URL that is none, without repeating it."""

    http: Http
    url: str
    route: Route = DIRECT

    def __post_init__(self) -> None:
        address = Address.parse(self.url)
        if address is None or "@" in self.url.partition("://")[2].partition("/")[0]:
            raise SynclineError("CONFIG_INVALID", "the secret of a hook is not a URL such as https://host/path")

    def slack(self, text: str) -> None:
        """Send a text to an incoming webhook of Slack. Raises the errors of :meth:`Http.request` and its status."""
        body = {"text": slack_text(text), "mrkdwn": False, "unfurl_links": False, "unfurl_media": False}
        self._post(_json(body), {"Content-Type": "application/json"})

    def signed(self, body: Mapping[str, Any], secret: str, event: str, delivery: str) -> None:
        """Send a JSON object with a signature of its bytes, as GitHub does. Raises as :meth:`slack`."""
        data = _json(body)
        headers = {
            "Content-Type": "application/json",
            "X-Hub-Signature-256": signature(secret, data),
            "X-Syncline-Event": event,
            "X-Syncline-Delivery": delivery,
        }
        self._post(data, headers)

    def beat(self, phase: str, text: str) -> None:
        """Call the URL of a heartbeat: with ``/start``, ``/fail`` or, for a success, alone. Raises as :meth:`slack`."""
        suffix = {"start": "/start", "fail": "/fail"}.get(phase, "")
        base, mark, query = self.url.partition("?")
        HookClient(self.http, f"{base.rstrip('/') if suffix else base}{suffix}{mark}{query}", self.route)._post(  # noqa: SLF001
            text.encode(), {"Content-Type": "text/plain; charset=utf-8"}
        )

    def _post(self, body: bytes, headers: Mapping[str, str]) -> None:
        policy = RetryPolicy(attempts=1, deadline=time.monotonic() + SECONDS)
        try:
            with self.http.request(
                "POST", self.url, headers, body, route=self.route, stream=True, retry=policy, timeout=SECONDS
            ) as response:
                if not 200 <= response.status < 300:
                    raise _refusal(self.url, response)
                response.read(_ANSWER)
        except SynclineError as error:
            if error.code.name == "TIME_SHORT":
                what = f"{self._safe(self.url)} did not answer completely within {SECONDS:.0f} s"
                raise SynclineError("UNREACHABLE", what) from None
            raise SynclineError(error.code.name, self._safe(error.what), retry_after=error.retry_after) from None

    def _safe(self, what: str) -> str:
        """Return an error's text with the URL shortened to its origin, also where the server repeats a part of it."""
        address = Address.parse(self.url)
        assert address is not None
        for form in (self.url, redacted(self.url), redacted(address.url)):
            what = what.replace(form, address.origin)
        for part in re.split(r"[/?&=]", address.target):
            if len(part) >= _LONG_PART:
                what = what.replace(part, "…")
        return redact(what)


def _refusal(url: str, response: Response) -> SynclineError:
    """Return the error of a status: ADDRESS_REFUSED for a redirect to a refused address."""
    if 300 <= response.status < 400:
        target = Address.parse_at(url, response.header("Location"))
        host = target.host if target is not None else "no valid address"
        what = f"{url} redirects to {host}; redirects are not followed"
        if target is not None and is_refused(target.name):
            return SynclineError("ADDRESS_REFUSED", f"{what}, and that is a link-local or metadata address")
        return SynclineError("REDIRECTED", what)
    return response.error()


def signature(secret: str, body: bytes) -> str:
    """Return the value of ``X-Hub-Signature-256`` for a body."""
    return f"sha256={hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}"


def slack_text(text: str) -> str:
    """Return a text without the markup of Slack: neither links, nor mentions of users, channels or everybody."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return escaped.replace("@", "@\u200b")  # compatible services resolve a plain @channel


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
