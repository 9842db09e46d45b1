"""Authorization at a registry: Basic, or Bearer with tokens from the token server that the registry names.

1. A request goes out without ``Authorization`` until the registry has answered one with 401 and ``WWW-Authenticate``.
2. ``Basic``: the credentials go with each request, to the registry's own host only.
3. ``Bearer realm, service``: a token for the scope wanted (``repository:org/app:pull``) is fetched from the realm and
   kept until shortly before its end; without ``expires_in`` the JWT's own ``exp`` counts, without that 60 seconds.
4. An identity token (``docker login`` with single sign-on) is exchanged at the realm by POST instead of a password.
5. The registry chooses the realm, so a false one could steal credentials: see :mod:`syncline.clients.registry.auth`.
6. A 401 to a token that should be good fetches a new one, once; a second 401 is the answer.

https://distribution.github.io/distribution/spec/auth/token/ and RFC 9110 section 11.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import json
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlencode

from syncline.clients.http.addresses import Address, Endpoint, host_name
from syncline.clients.http.client import Http, Response
from syncline.clients.http.rejections import REJECTIONS
from syncline.errors import SynclineError
from syncline.secrets import register

# ``WWW-Authenticate``: the ways a server offers to authenticate (RFC 9110 section 11.6.1).

LONGEST_HEADER: Final = 8192

_WORD: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PARAMETER: Final = re.compile(rf'({_WORD})[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')
_TOKEN68: Final = r"[A-Za-z0-9._~+/-]+=*(?=[ \t]*(?:,|$))"  # what Negotiate sends in place of parameters
_SCHEME: Final = re.compile(rf"({_WORD})(?:[ \t]+(?:{_TOKEN68})?|(?=,)|$)")
_GAP: Final = re.compile(r"[ \t,]*")
_ESCAPED: Final = re.compile(r"\\(.)")


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way to authenticate. ``scheme`` and the names of ``parameters`` are lower case; of two the first counts."""

    scheme: str
    parameters: Mapping[str, str]


def parse_challenges(values: Iterable[str]) -> list[Challenge]:
    """The challenges of all ``WWW-Authenticate`` headers in order; what cannot be read is left out, never an error."""
    found: list[Challenge] = []
    for value in values:
        found += _parse(value[:LONGEST_HEADER])
    return found


def _parse(text: str) -> list[Challenge]:
    found: list[Challenge] = []
    parameters: dict[str, str] = {}
    at = _end(_GAP.match(text, 0))
    while at < len(text):
        # A parameter is tried first: "realm = x" could else pass for the scheme "realm".
        parameter = _PARAMETER.match(text, at)
        if parameter is not None and found:
            name, quoted, plain = parameter.groups()
            parameters.setdefault(name.lower(), plain if quoted is None else _ESCAPED.sub(r"\1", quoted))
            at = parameter.end()
        elif (scheme := _SCHEME.match(text, at)) is not None:
            parameters = {}
            found.append(Challenge(scheme[1].lower(), parameters))
            at = scheme.end()
        else:
            comma = text.find(",", at)
            at = len(text) if comma < 0 else comma
        at = _end(_GAP.match(text, at))
    return found


def _end(match: re.Match[str] | None) -> int:
    assert match is not None  # the pattern matches the empty text
    return match.end()


# Which token server may see a registry's credentials.
#
# The registry names its token server (realm) itself, so whoever can alter one answer could have the credentials sent
# anywhere (CVE-2026-48978). They go only where the same people can be expected to be in charge.

# Below these, neighbours are strangers. A country's second level (co.uk) is known by its form, see _is_shared.
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


def is_expected_realm(realm: Address, endpoint: Endpoint) -> bool:
    """Whether ``endpoint``'s credentials may go to ``realm``.

    They may over TLS, or if the registry itself is configured as plain HTTP; and to the registry's own host (on any
    port), to a host with the same parent domain (``auth.example.com`` for ``registry.example.com``, and also
    ``example.com``), or to one that the configuration lists.
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
    """The domain that a host's neighbours share with it, or None where neighbours may be strangers."""
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


DEFAULT_LIFE: Final = 60.0  # seconds, where the token server names no time
LARGEST_MARGIN: Final = 20.0  # a token is renewed this long before its end, or at the last quarter of a short life
KEPT_TOKENS: Final = 2000
CLIENT_ID: Final = "syncline"

Scopes = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who we are to a registry: a name and password, or an identity token, or a token used as it is."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)

    @property
    def basic(self) -> str:
        pair = f"{self.username}:{self.password}".encode()
        return f"Basic {base64.b64encode(pair).decode()}"


@dataclass(frozen=True, slots=True)
class _Token:
    header: str = field(repr=False)
    good_until: float  # of the clock of Auth


class Auth:
    """The ``Authorization`` headers for one registry; safe to use from any number of threads.

    ``credentials`` is asked whenever they are needed; ``renewed``, if given, once more where those were refused, so that
    a changed password is found without a restart.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        credentials: Callable[[], Credentials | None],
        http: Http,
        *,
        renewed: Callable[[], Credentials | None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._endpoint = endpoint
        self._credentials = credentials
        self._renewed = renewed or credentials
        self._given: str | None = None  # the header of a token that is used as it is
        self._refused: str | None = None  # that header, once it was refused
        self._http = http
        self._clock = clock
        self._challenge: Challenge | None = None
        self._basic: str | None = None
        self._wanted: dict[Scopes, Scopes] = {}  # what the registry itself asked for beyond the scopes
        self._tokens: dict[Scopes, _Token] = {}
        self._flights: dict[Scopes, threading.Lock] = {}
        self._lock = threading.Lock()

    def header(self, scopes: Scopes) -> str | None:
        """What to send with a request that needs ``scopes``; None as long as the registry has not asked for any."""
        challenge = self._challenge
        if challenge is None:
            return None
        if challenge.scheme == "basic":
            return self._basic
        token = self._good_token(scopes)
        if token is not None:
            return token.header
        with self._lock:
            flight = self._flights.setdefault(scopes, threading.Lock())
        with flight:  # the first thread fetches, the others find its token
            token = self._good_token(scopes)
            if token is None:
                token = self._fetch(challenge, scopes)
                self._keep(scopes, token)
            return token.header

    def renew(self, answer: Response, sent: str | None, scopes: Scopes) -> bool:
        """After a 401 to a request with the header ``sent``: whether there is something better to send now."""
        offered = parse_challenges(answer.all_headers("WWW-Authenticate"))
        challenge = next((c for scheme in ("bearer", "basic") for c in offered if c.scheme == scheme), None)
        if challenge is None:
            raise SynclineError("UNAUTHORIZED", f"{self._endpoint.host} answered 401 and names no way to authenticate")
        if challenge.scheme == "basic":
            credentials = self._credentials() if sent is None else self._renewed()
            self._basic = credentials.basic if credentials and credentials.username else None
            self._challenge = challenge
            return self._basic is not None and self._basic != sent
        if sent is not None and challenge.parameters.get("error") == "insufficient_scope":
            return False
        beyond = tuple(s for s in challenge.parameters.get("scope", "").split() if not _covered(s, scopes))
        with self._lock:
            for key in (scopes, _with_push(scopes)):
                held = self._tokens.get(key)
                if held is not None and held.header == sent:  # else another thread has renewed it already
                    del self._tokens[key]
            if beyond and len(self._wanted) < KEPT_TOKENS:
                self._wanted[scopes] = beyond
        self._challenge = challenge
        self._refused = sent
        return True

    def own(self, sent: str | None) -> str | None:
        """Return the header ``sent`` if it is made of the credentials themselves, None for a token made for them."""
        return sent if sent in (self._basic, self._given) else None

    def other_than(self, sent: str | None) -> bool:
        """Return True if the renewed credentials give another header than ``sent``, which is then used from here on."""
        credentials = self._renewed()
        if credentials is None:
            return False
        if sent != self._given:
            self._basic = credentials.basic
            return self._basic != sent
        self._refused = sent
        with self._lock:
            self._tokens = {scopes: token for scopes, token in self._tokens.items() if token.header != sent}
        return f"Bearer {credentials.registry_token}" != sent

    def refusal(self, answer: Response, scopes: Scopes) -> SynclineError:
        """The error for a 401 that no better header helps against."""
        error = answer.error()
        wanted = " ".join(scopes) or "this request"
        offered = parse_challenges(answer.all_headers("WWW-Authenticate"))
        if any(c.parameters.get("error") == "insufficient_scope" for c in offered):
            return SynclineError("FORBIDDEN", f"{error.what} (the token granted is not enough for {wanted})")
        credentials = self._credentials()
        who = "without credentials" if credentials is None else f"as {credentials.username or 'the holder of a token'}"
        return SynclineError("UNAUTHORIZED", f"{error.what} (asked {who} for {wanted})")

    def _good_token(self, scopes: Scopes) -> _Token | None:
        now = self._clock()
        for key in (scopes, _with_push(scopes)):
            token = self._tokens.get(key)
            if token is not None and token.good_until > now:
                return token
        return None

    def _keep(self, scopes: Scopes, token: _Token) -> None:
        register(token.header.removeprefix("Bearer "))
        with self._lock:
            if len(self._tokens) >= KEPT_TOKENS:
                self._tokens = dict(list(self._tokens.items())[KEPT_TOKENS // 2 :])  # the older half goes
                self._flights = {s: f for s, f in self._flights.items() if s in self._tokens or f.locked()}
            self._tokens[scopes] = token

    def _fetch(self, challenge: Challenge, scopes: Scopes) -> _Token:
        credentials = self._credentials()
        if credentials is not None and self._refused == f"Bearer {credentials.registry_token}":
            credentials = self._renewed()
        if credentials is not None and credentials.registry_token:
            self._given = f"Bearer {credentials.registry_token}"
            return _Token(self._given, self._clock() + DEFAULT_LIFE)
        realm = Address.parse(challenge.parameters.get("realm", ""))
        if realm is None:
            raise SynclineError("UNAUTHORIZED", f"{self._endpoint.host} names no usable token server (realm)")
        if credentials is not None and not is_expected_realm(realm, self._endpoint):
            raise SynclineError(
                "UNAUTHORIZED",
                f"{self._endpoint.host} sends its clients to {realm.scheme}://{realm.host} for tokens, which is not "
                f"known to belong to it, so the credentials stay here; if it does, list {realm.name} in `auth_realms`",
            )
        asked = self._clock()
        wanted = (*scopes, *self._wanted.get(scopes, ()))
        service = challenge.parameters.get("service", "")
        answer = REJECTIONS.ask(
            realm.host,
            credentials,
            self._renewed if credentials is not None else self._credentials,
            lambda who: self._ask(realm, service, wanted, who),
            lambda answer: self._no_token(answer) if answer.status == 401 else None,
        )
        if answer.status != 200:
            raise self._no_token(answer)
        return _token(answer, asked)

    def _no_token(self, answer: Response) -> SynclineError:
        error = answer.error()
        return SynclineError(error.code.name, f"no token for {self._endpoint.host}: {error.what}")

    def _ask(self, realm: Address, service: str, wanted: Iterable[str], credentials: Credentials | None) -> Response:
        fields = [("service", service)] if service else []
        if credentials is not None and credentials.identity_token:
            fields += [("client_id", CLIENT_ID), ("grant_type", "refresh_token"), ("scope", " ".join(wanted))]
            fields.append(("refresh_token", credentials.identity_token))
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            body = urlencode(fields).encode()
            return self._http.request(
                "POST", realm.url, headers, body, ca=self._endpoint.ca, repeatable=True
            )  # a token asked for twice is two tokens
        fields += [("scope", scope) for scope in wanted]
        headers = {}
        if credentials is not None and credentials.username:
            fields.append(("account", credentials.username))
            headers["Authorization"] = credentials.basic
        mark = "&" if "?" in realm.target else "?"
        url = f"{realm.url}{mark}{urlencode(fields)}" if fields else realm.url
        return self._http.request("GET", url, headers, ca=self._endpoint.ca)


def _with_push(scopes: Scopes) -> Scopes:
    """The scopes with push beside each pull: a token for those does for these."""
    return tuple(f"{s},push" if s.endswith(":pull") else s for s in scopes)


def _covered(scope: str, by: Scopes) -> bool:
    """Whether ``scope`` asks for nothing that ``by`` does not."""
    resource, _, actions = scope.rpartition(":")
    return any(
        resource == mine.rpartition(":")[0] and set(actions.split(",")) <= set(mine.rpartition(":")[2].split(","))
        for mine in by
    )


def _token(answer: Response, asked: float) -> _Token:
    value = answer.json()
    text = (value.get("token") or value.get("access_token")) if isinstance(value, dict) else None
    if not isinstance(text, str) or not text.isascii() or not text.isprintable():
        raise answer.bad("the token server's answer has no token")
    life = _life(value, text)
    # Counted from before the request: a slow answer must not make a token look younger than it is.
    return _Token(f"Bearer {text}", asked + life - min(LARGEST_MARGIN, life / 4))


def _life(value: Mapping[str, Any], token: str) -> float:
    """Seconds the token is good for: what the server says, else the JWT's own end, else 60."""
    said = value.get("expires_in")
    if isinstance(said, int | float) and said > 0:
        return float(said)
    claims = _claims(token)
    end = claims.get("exp")
    if not isinstance(end, int | float):
        return DEFAULT_LIFE
    begin = claims.get("iat", claims.get("nbf"))
    # The difference of the two does not depend on our clock being right.
    life = end - (begin if isinstance(begin, int | float) else time.time())
    return max(0.0, float(life))


def _claims(token: str) -> dict[str, Any]:
    """The claims of a JWT, unverified: they only say when to ask for the next one. Empty if it is not a JWT."""
    parts = token.split(".")
    if len(parts) != 3:
        return {}
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        return {}
    return claims if isinstance(claims, dict) else {}
