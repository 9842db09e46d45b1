"""Access to the status page: the token, sessions, and checks against requests that another site causes.

A browser gets a session for the token: a cookie with an expiry and a signature with the token as key (HMAC), never the
token itself. A new token ends all sessions. Where no token is needed, the session is random and only protects forms.

A form carries a value that follows from the session, which another site cannot know. Its request is also refused if the
browser says that another site caused it (``Sec-Fetch-Site``, ``Origin``).
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl

from syncline.web.function_url import HttpError, HttpRequest

SESSION_SECONDS: Final = 12 * 3600
REAL_HOST: Final = "x-syncline-host"
"""Header with the host that a browser named, from the engine on one machine: the emulator replaces ``Host``."""
_COOKIE: Final = "syncline"
_SECURE_COOKIE: Final = "__Host-syncline"
_LOOPBACK: Final = re.compile(
    r"(?:localhost|127(?:\.[0-9]{1,3}){3}|\[::1\]|(?:[a-z0-9-]+\.)+localhost)(?::[0-9]{1,5})?"
)
_TOKEN_NAMES: Final = frozenset(
    {"token", "access_token", "auth", "authorization", "bearer", "api_key", "apikey", "key", "secret", "password"}
)
_NO_ACCESS: Final = (
    "the status page is not served: anybody could read it. Set the parameter ConsoleToken to a reference to a token, "
    "or ConsoleAuth to AWS_IAM"
)


@dataclass(frozen=True, slots=True)
class Visitor:
    """The sender of an admitted request. `session` is the value of the cookie, "" for a client with a bearer token.

    `csrf` is the value that its forms carry. `cookie` is a cookie to set, "" for none.
    """

    session: str
    csrf: str
    cookie: str = ""


@dataclass(frozen=True, slots=True)
class Access:
    """Decides who may see the page.

    `token` returns the required token, None if none is. `signed` is True if Lambda admits only signed requests. `local` is
    True on the engine on one machine, which only this machine reaches. `clock` returns Unix seconds.
    """

    token: Callable[[], str | None]
    signed: bool
    local: bool
    clock: Callable[[], float] = time.time

    def check_host(self, request: HttpRequest) -> None:
        """Raise HttpError (421) on one machine if the browser names another host.

        A site whose name is changed to point to this machine would otherwise read the page through a visitor's browser.
        """
        if self.local and not _LOOPBACK.fullmatch(host_of(request, local=True)):
            raise HttpError(421, "this engine answers only to localhost and 127.0.0.1")

    def visitor(self, request: HttpRequest) -> Visitor | None:
        """Return the sender of a request, None if it has to log in. Raises HttpError if nobody may see the page (403).

        A wrong bearer token is an error too (401).
        """
        token = self.token()
        if token is None and not self.signed and not self.local:
            raise HttpError(403, _NO_ACCESS)
        given = _cookie(request.cookies, self._cookie_name(request))
        if token is None:
            session = given if re.fullmatch(r"[0-9a-f]{32}", given) else secrets.token_hex(16)
            cookie = "" if session == given else self._set_cookie(request, session)
            return Visitor(session, _sign(session, "csrf"), cookie)
        bearer = request.headers.get("authorization", "")
        if bearer[:7].lower() == "bearer ":
            if not same(token, bearer[7:]):
                raise HttpError(401, "the bearer token is wrong")
            return Visitor("", "")
        if not self._is_session(token, given):
            return None
        return Visitor(given, _sign(token, "csrf", given))

    def login(self, request: HttpRequest, given: str) -> str | None:
        """Return the cookie of a new session, None if the token is wrong."""
        token = self.token()
        if token is None or not same(token, given):
            return None
        expiry = f"{int(self.clock()) + SESSION_SECONDS}.{secrets.token_hex(8)}"
        return self._set_cookie(request, f"{expiry}.{_sign(token, 'session', expiry)}")

    def logout(self, request: HttpRequest) -> str:
        """Return the cookie that ends a session."""
        return self._set_cookie(request, "", 0)

    def check_form(self, request: HttpRequest, visitor: Visitor | None, csrf: str) -> None:
        """Raise HttpError (403) for a form that another site has sent. `visitor` is None before the login."""
        own = f"{'https' if self.is_https(request) else 'http'}://{host_of(request, local=self.local)}"
        is_foreign = request.headers.get("sec-fetch-site", "same-origin") != "same-origin"
        if is_foreign or request.headers.get("origin", own).lower() != own:
            raise HttpError(403, "the request came from another site; use the buttons of this page")
        if visitor is not None and visitor.session and not same(visitor.csrf, csrf):
            raise HttpError(403, "the form is too old; go back, reload the page and try again")

    def is_https(self, request: HttpRequest) -> bool:
        """Return True unless the browser uses plain HTTP, which only the engine on one machine and tests do."""
        if self.local:
            return False
        is_loopback = _LOOPBACK.fullmatch(host_of(request, local=False)) is not None
        return request.headers.get("x-forwarded-proto", "https" if not is_loopback else "http") == "https"

    def _is_session(self, token: str, value: str) -> bool:
        expiry, _, signature = value.rpartition(".")
        until = expiry.partition(".")[0]
        is_signed = same(_sign(token, "session", expiry), signature)
        return is_signed and until.isdecimal() and float(until) > self.clock()

    def _cookie_name(self, request: HttpRequest) -> str:
        return _SECURE_COOKIE if self.is_https(request) else _COOKIE

    def _set_cookie(self, request: HttpRequest, value: str, seconds: int = SESSION_SECONDS) -> str:
        secure = "; Secure" if self.is_https(request) else ""
        name = self._cookie_name(request)
        return f"{name}={value}; Max-Age={seconds}; Path=/; HttpOnly; SameSite=Strict{secure}"


def check_query(request: HttpRequest, required_token: Callable[[], str | None]) -> None:
    """Raise HttpError (400) for a token in the address, where proxies and browsers keep it."""
    if not request.query:
        return
    token = required_token()
    try:
        fields = parse_qsl(request.query, keep_blank_values=True, max_num_fields=50)
    except ValueError:
        raise HttpError(400, "the address has too many fields") from None
    for name, value in fields:
        if name.lower() in _TOKEN_NAMES or (token is not None and (same(token, value) or same(token, name))):
            raise HttpError(
                400,
                "a token does not belong in an address, where logs and browsers keep it; replace it, as others may "
                "know it now, and send the new one in the header `Authorization: Bearer …` or by the login form",
            )


def host_of(request: HttpRequest, *, local: bool) -> str:
    """Return the host and port that the browser named, in lower case."""
    return request.headers.get(REAL_HOST if local else "host", "").lower()


def same(secret: str, given: str) -> bool:
    """Compare a secret with a given text, in a time that tells nothing about it."""
    return hmac.compare_digest(secret.encode(), given.encode(errors="replace"))


def _sign(key: str, *parts: str) -> str:
    return hmac.new(key.encode(), "\0".join(parts).encode(errors="replace"), hashlib.sha256).hexdigest()


def _cookie(cookies: Sequence[str], name: str) -> str:
    return next((each.partition("=")[2] for each in cookies if each.partition("=")[0] == name), "")
