"""Authorization at a registry: Basic, or Bearer with tokens from the token server that the registry names.

1. Requests have no ``Authorization`` until the registry answers 401 with ``WWW-Authenticate``, which lists the
   accepted schemes (RFC 9110 section 11.6.1). Unreadable parts of that header are skipped.
2. ``Basic``: the credentials are sent with each request, to the registry's own host only.
3. ``Bearer realm, service``: a token for the scope (``repository:org/app:pull``) is fetched from the realm, the token
   server, and kept until shortly before it expires: by ``expires_in``, else by the JWT's ``exp``, else in 60 seconds.
4. An identity token (``docker login`` with single sign-on) is exchanged at the realm by POST instead of a password.
5. The registry names the realm, so an altered response could direct the credentials anywhere (CVE-2026-48978). They
   are sent only to hosts that belong to the same operator (:func:`is_expected_realm`).
6. A 401 to an unexpired token fetches a new one, once. A second 401 is final.

https://distribution.github.io/distribution/spec/auth/token/ and RFC 9110 section 11.
"""

from __future__ import annotations

import base64
import ipaddress
import math
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlencode

from syncline.clients.http.addresses import Address, Endpoint, host_name
from syncline.clients.http.client import Http, Response
from syncline.clients.http.jwt import jwt_claims
from syncline.clients.http.rejections import REJECTIONS
from syncline.errors import SynclineError
from syncline.secrets import register

DEFAULT_LIFETIME: Final = 60.0  # seconds, if the token server names no lifetime
MAX_MARGIN: Final = 20.0  # seconds before its end at which a token is renewed; a quarter of a short lifetime
MAX_TOKENS: Final = 2000
CLIENT_ID: Final = "syncline"
MAX_HEADER: Final = 8192
_WORD: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PARAMETER: Final = rf'({_WORD})[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))'
_TOKEN68: Final = r"[A-Za-z0-9._~+/-]+=*(?=[ \t]*(?:,|$))"  # sent by Negotiate instead of parameters
_SCHEME: Final = rf"({_WORD})(?:[ \t]+(?:{_TOKEN68})?|(?=,)|$)"
# Parameters first: otherwise "realm = x" would match as the scheme "realm". The last is an unreadable part.
_PART: Final = re.compile(rf"{_PARAMETER}|{_SCHEME}|[^ \t,][^,]*")
_ESCAPED: Final = re.compile(r"\\(.)")
# Domains whose subdomains belong to different customers. Second levels of countries (co.uk) are found by their form.
_SHARED_PARENTS: Final = frozenset(
    {
        "amazonaws.com",
        "appspot.com",
        "azurecr.io",
        "azurewebsites.net",
        "cloudapp.net",
        "cloudfront.net",
        "fly.dev",
        "github.io",
        "gitlab.io",
        "herokuapp.com",
        "jfrog.io",
        "netlify.app",
        "ngrok.io",
        "onrender.com",
        "pages.dev",
        "run.app",
        "trycloudflare.com",
        "ts.net",
        "vercel.app",
        "windows.net",
        "workers.dev",
    }
)
_SECOND_LEVELS: Final = frozenset(
    {"ac", "co", "com", "ed", "edu", "go", "gob", "gov", "gouv", "ltd", "mil", "ne", "net", "nom", "or", "org", "plc"}
)

Scopes = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RegistryCredentials:
    """Credentials for a registry: user name and password, or an identity token, or a registry token used unchanged.

    ``renewed_at`` is the Unix time at which they are to be requested again.
    """

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)
    renewed_at: float = field(default=math.inf, compare=False)

    @property
    def basic(self) -> str:
        pair = f"{self.username}:{self.password}".encode()
        return f"Basic {base64.b64encode(pair).decode()}"


@dataclass(frozen=True, slots=True)
class _Token:
    header: str = field(repr=False)
    expires: float  # time of the clock of RegistryAuth


class RegistryAuth:
    """The ``Authorization`` headers for one registry. Safe for concurrent use by threads.

    ``credentials`` is called whenever they are needed, and ``renewed`` (by default ``credentials``) after a refusal, so
    that a changed password is used without a restart.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        credentials: Callable[[], RegistryCredentials | None],
        http: Http,
        *,
        renewed: Callable[[], RegistryCredentials | None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._endpoint = endpoint
        self._credentials = credentials
        self._renewed = renewed or credentials
        self._given: str | None = None  # the header of a registry token
        self._refused: str | None = None  # that header, after a refusal
        self._http = http
        self._clock = clock
        self._challenge: Challenge | None = None
        self._basic: str | None = None
        self._basic_until = math.inf
        self._extra: dict[Scopes, Scopes] = {}  # further scopes that the registry requested, by scopes
        self._tokens: dict[Scopes, _Token] = {}
        self._flights: dict[Scopes, threading.Lock] = {}
        self._lock = threading.Lock()

    def header(self, scopes: Scopes) -> str | None:
        """Return the header for a request that needs ``scopes``, None until the registry has sent a challenge."""
        challenge = self._challenge
        if challenge is None:
            return None
        if challenge.scheme == "basic":
            if time.time() >= self._basic_until and (credentials := self._credentials()) is not None:
                self._take(credentials)
            return self._basic
        token = self._kept_token(scopes)
        if token is not None:
            return token.header
        with self._lock:
            flight = self._flights.setdefault(scopes, threading.Lock())
        with flight:  # the first thread fetches the token, the others use it
            token = self._kept_token(scopes)
            if token is None:
                token = self._fetch(challenge, scopes)
                self._keep(scopes, token)
            return token.header

    def renew(self, answer: Response, sent: str | None, scopes: Scopes) -> bool:
        """Process a 401 to a request with the header ``sent``; return True if another header can be tried."""
        offered = parse_challenges(answer.all_headers("WWW-Authenticate"))
        challenge = next((c for scheme in ("bearer", "basic") for c in offered if c.scheme == scheme), None)
        if challenge is None:
            raise SynclineError("UNAUTHORIZED", f"{self._endpoint.host} answered 401 without a usable challenge")
        if challenge.scheme == "basic":
            credentials = self._credentials() if sent is None else self._renewed()
            self._take(credentials)
            self._challenge = challenge
            return self._basic is not None and self._basic != sent
        if sent is not None and challenge.parameters.get("error") == "insufficient_scope":
            return False
        beyond = tuple(s for s in challenge.parameters.get("scope", "").split() if not _covered(s, scopes))
        with self._lock:
            for key in (scopes, _with_push(scopes)):
                held = self._tokens.get(key)
                if held is not None and held.header == sent:  # otherwise another thread has renewed it
                    del self._tokens[key]
            if beyond and len(self._extra) < MAX_TOKENS:
                self._extra[scopes] = beyond
        self._challenge = challenge
        self._refused = sent
        return True

    def is_credentials(self, sent: str | None) -> bool:
        """Return True if the header ``sent`` contains the credentials themselves, not a token issued for them."""
        return sent in (self._basic, self._given)

    def renew_credentials(self, sent: str | None) -> bool:
        """Renew the credentials; return True if their header differs from ``sent``. It is then used for all requests."""
        credentials = self._renewed()
        if credentials is None:
            return False
        if sent != self._given:
            self._take(credentials)
            return self._basic != sent
        self._refused = sent
        with self._lock:
            self._tokens = {scopes: token for scopes, token in self._tokens.items() if token.header != sent}
        return f"Bearer {credentials.registry_token}" != sent

    def _take(self, credentials: RegistryCredentials | None) -> None:
        """Use credentials for Basic authentication."""
        self._basic = credentials.basic if credentials and credentials.username else None
        self._basic_until = math.inf if credentials is None else credentials.renewed_at

    def refusal(self, answer: Response, scopes: Scopes) -> SynclineError:
        """Return the error for a final 401."""
        error = answer.error()
        needed = " ".join(scopes) or "this request"
        offered = parse_challenges(answer.all_headers("WWW-Authenticate"))
        if any(c.parameters.get("error") == "insufficient_scope" for c in offered):
            return SynclineError("FORBIDDEN", f"{error.what} (the granted token does not cover {needed})")
        credentials = self._credentials()
        who = "without credentials" if credentials is None else f"as {credentials.username or 'the holder of a token'}"
        return SynclineError("UNAUTHORIZED", f"{error.what} (requested {who} for {needed})")

    @property
    def uses_tokens(self) -> bool:
        """True once the registry has asked for a token of a token server."""
        return self._challenge is not None and self._challenge.scheme == "bearer"

    def granted(self, scopes: Scopes) -> frozenset[str] | None:
        """Return the actions on the repository of ``scopes`` that its token lists; None if the token lists none.

        A token server grants a part of what was requested, as the claim ``access`` of a JWT.
        """
        header = self.header(scopes) if self.uses_tokens else None
        access = jwt_claims(header.removeprefix("Bearer ")).get("access") if header else None
        if not isinstance(access, list):
            return None
        names = {scope.split(":")[1] for scope in scopes}
        entries = [each for each in access if isinstance(each, dict) and each.get("name") in names]
        listed = (each.get("actions") for each in entries)
        return frozenset(str(action) for actions in listed if isinstance(actions, list) for action in actions)

    def _kept_token(self, scopes: Scopes) -> _Token | None:
        now = self._clock()
        for key in (scopes, _with_push(scopes)):
            token = self._tokens.get(key)
            if token is not None and token.expires > now:
                return token
        return None

    def _keep(self, scopes: Scopes, token: _Token) -> None:
        register(token.header.removeprefix("Bearer "))
        with self._lock:
            if len(self._tokens) >= MAX_TOKENS:
                self._tokens = dict(list(self._tokens.items())[MAX_TOKENS // 2 :])  # drop the older half
                self._flights = {s: f for s, f in self._flights.items() if s in self._tokens or f.locked()}
            self._tokens[scopes] = token

    def _fetch(self, challenge: Challenge, scopes: Scopes) -> _Token:
        credentials = self._credentials()
        if credentials is not None and self._refused == f"Bearer {credentials.registry_token}":
            credentials = self._renewed()
        if credentials is not None and credentials.registry_token:
            self._given = f"Bearer {credentials.registry_token}"
            return _Token(self._given, self._clock() + DEFAULT_LIFETIME)
        realm = Address.parse(challenge.parameters.get("realm", ""))
        if realm is None:
            raise SynclineError("UNAUTHORIZED", f"the challenge of {self._endpoint.host} has no valid realm")
        if credentials is not None and not is_expected_realm(realm, self._endpoint):
            raise SynclineError(
                "UNAUTHORIZED",
                f"{self._endpoint.host} names {realm.scheme}://{realm.host} as its token server, a host that may belong "
                f"to somebody else; if it is right, add {realm.name} to `auth_realms`. No credentials were sent",
            )
        requested_at = self._clock()
        requested = (*scopes, *self._extra.get(scopes, ()))
        service = challenge.parameters.get("service", "")
        answer = REJECTIONS.send(
            realm.host,
            credentials,
            self._renewed if credentials is not None else self._credentials,
            lambda who: self._request_token(realm, service, requested, who),
            lambda answer: self._token_error(answer) if answer.status == 401 else None,
        )
        if answer.status != 200:
            raise self._token_error(answer)
        return _token(answer, requested_at)

    def _token_error(self, answer: Response) -> SynclineError:
        error = answer.error()
        return SynclineError(error.code.name, f"no token for {self._endpoint.host}: {error.what}")

    def _request_token(
        self, realm: Address, service: str, requested: Iterable[str], credentials: RegistryCredentials | None
    ) -> Response:
        fields = [("service", service)] if service else []
        if credentials is not None and credentials.identity_token:
            fields += [("client_id", CLIENT_ID), ("grant_type", "refresh_token"), ("scope", " ".join(requested))]
            fields.append(("refresh_token", credentials.identity_token))
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            body = urlencode(fields).encode()
            return self._http.request(
                "POST", realm.url, headers, body, route=self._endpoint.route, repeatable=True
            )  # a repeated request only issues a second token
        fields += [("scope", scope) for scope in requested]
        headers = {}
        if credentials is not None and credentials.username:
            fields.append(("account", credentials.username))
            headers["Authorization"] = credentials.basic
        mark = "&" if "?" in realm.target else "?"
        url = f"{realm.url}{mark}{urlencode(fields)}" if fields else realm.url
        return self._http.request("GET", url, headers, route=self._endpoint.route)


def _with_push(scopes: Scopes) -> Scopes:
    """Return the scopes with push added to each pull. A token for those also covers ``scopes``."""
    return tuple(f"{s},push" if s.endswith(":pull") else s for s in scopes)


def _covered(scope: str, by: Scopes) -> bool:
    """Return True if the scopes ``by`` include ``scope``."""
    resource, _, actions = scope.rpartition(":")
    return any(
        resource == mine.rpartition(":")[0] and set(actions.split(",")) <= set(mine.rpartition(":")[2].split(","))
        for mine in by
    )


def _token(answer: Response, requested_at: float) -> _Token:
    value = answer.json()
    text = (value.get("token") or value.get("access_token")) if isinstance(value, dict) else None
    if not isinstance(text, str) or not text.isascii() or not text.isprintable():
        raise answer.protocol_error("the response of the token server has no token")
    lifetime = _lifetime(value, text)
    # Counted from before the request, since the token was issued before a slow response arrived.
    return _Token(f"Bearer {text}", requested_at + lifetime - min(MAX_MARGIN, lifetime / 4))


def _lifetime(value: Mapping[str, Any], token: str) -> float:
    """Return the lifetime of a token in seconds: ``expires_in``, else by the JWT's ``exp``, else 60."""
    stated = value.get("expires_in")
    if isinstance(stated, int | float) and stated > 0:
        return float(stated)
    claims = jwt_claims(token)  # unverified: they only decide when to renew the token
    end = claims.get("exp")
    if not isinstance(end, int | float):
        return DEFAULT_LIFETIME
    begin = claims.get("iat", claims.get("nbf"))
    # The difference does not depend on the local clock.
    life = end - (begin if isinstance(begin, int | float) else time.time())
    return max(0.0, float(life))


@dataclass(frozen=True, slots=True)
class Challenge:
    """One challenge. ``scheme`` and the parameter names are lower case; of a repeated parameter the first counts."""

    scheme: str
    parameters: Mapping[str, str]


def parse_challenges(values: Iterable[str]) -> list[Challenge]:
    """Return the challenges of all ``WWW-Authenticate`` headers, in order. Unreadable parts are skipped."""
    found: list[Challenge] = []
    for value in values:
        parameters: dict[str, str] | None = None
        for name, quoted, plain, scheme in _PART.findall(value[:MAX_HEADER]):
            if scheme:
                parameters = {}
                found.append(Challenge(scheme.lower(), parameters))
            elif name and parameters is not None:
                parameters.setdefault(name.lower(), plain or _ESCAPED.sub(r"\1", quoted))
    return found


def is_expected_realm(realm: Address, endpoint: Endpoint) -> bool:
    """Return True if ``endpoint``'s credentials may be sent to ``realm``.

    The realm must use TLS, unless the registry is configured as plain HTTP. It must be the registry's own host (any
    port), a host with the same parent domain (``auth.example.com`` or ``example.com`` for ``registry.example.com``), or
    a host listed in the configuration.
    """
    if realm.scheme != "https" and endpoint.scheme != "http":
        return False
    name, own = realm.name.rstrip("."), host_name(endpoint.host).lower().rstrip(".")
    if name == own or name in {host.lower() for host in endpoint.auth_realms}:
        return True
    parent = _parent(own)
    return (
        parent is not None
        and (name == parent or name.endswith(f".{parent}") or own.endswith(f".{name}"))
        and (not _is_shared(name))
    )


def _parent(name: str) -> str | None:
    """Return the parent domain of a host, None if its subdomains may belong to different customers."""
    if _is_address(name):
        return None
    parent = name.partition(".")[2] if name.count(".") >= 2 else name
    return None if "." not in parent or _is_shared(parent) else parent


def _is_shared(domain: str) -> bool:
    labels = domain.split(".")
    if len(labels) < 2 or (len(labels) == 2 and len(labels[1]) == 2 and labels[0] in _SECOND_LEVELS):
        return True
    return any(".".join(labels[-n:]) in _SHARED_PARENTS for n in range(2, len(labels) + 1))


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
