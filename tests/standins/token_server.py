"""A token server by the Docker token specification, for registries that trust one.

The registry answers 401 and names the realm; the client asks ``GET <realm>?service=&scope=&account=`` with Basic
credentials and gets a JWT whose ``access`` claim lists the permitted part of the requested scopes: fewer permissions than
requested are not an error. The registry knows the signing certificate and checks everything else itself.
https://distribution.github.io/distribution/spec/auth/token/ and
https://distribution.github.io/distribution/spec/auth/jwt/
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final, Literal, Self
from urllib.parse import parse_qs, urlsplit

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from tests.rig.server import Reply, Request, Server, json_reply, reply
from tests.standins.certificates import Authority, PrivateKey, as_pem, self_signed

REGISTRY_LEEWAY: Final = 60  # seconds past `exp` for which docker-registry still accepts a token

_SCOPE: Final = re.compile(
    r"(?P<type>[a-z0-9]+)(\([a-z0-9]+\))?:(?P<name>[A-Za-z0-9][A-Za-z0-9._/:-]*):(?P<actions>(?:[a-z]+|\*)(?:,(?:[a-z]+|\*))*)"
)


@dataclass(frozen=True, slots=True)
class User:
    """``rights`` maps patterns of repository names (``*`` crosses slashes) to actions such as ``pull,push``.

    The first pattern that matches decides. With ``catalog`` the user may list all repositories.
    """

    password: str
    rights: Mapping[str, str]
    catalog: bool = True

    def allowed(self, kind: str, name: str) -> frozenset[str]:
        if kind == "registry":
            return frozenset("*") if self.catalog and name == "catalog" else frozenset()
        if kind != "repository":
            return frozenset()
        actions = next((a for pattern, a in self.rights.items() if fnmatchcase(name, pattern)), "")
        return frozenset(actions.split(",")) - {""}


NOBODY: Final = User("", {}, catalog=False)


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """An answered request: ``account`` is empty for an anonymous one."""

    account: str
    scopes: tuple[str, ...]
    status: int


class TokenServer:
    """Runs in a thread of this process. Attributes that :meth:`start` does not read may be changed while it runs.

    ``lifetime`` is in seconds. docker-registry accepts a token for 60 s after its expiry; with ``exact_expiry`` the token
    claims 60 s less, so that the registry refuses it when ``lifetime`` is over (`expires_in` stays correct). ``field`` is
    the field of the response with the token; ``say_expires_in`` adds `expires_in` to the response.
    """

    def __init__(
        self,
        users: Mapping[str, User],
        *,
        service: str = "registry of the tests",
        anonymous: User = NOBODY,
        algorithm: Literal["ES256", "RS256"] = "ES256",
        key_header: Literal["x5c", "kid"] = "x5c",
        tls: Authority | None = None,
    ) -> None:
        self.users = dict(users)
        self.service = service
        self.issuer = "token server of the tests"
        self.anonymous = anonymous
        self.lifetime = 300
        self.exact_expiry = False
        self.field: Literal["token", "access_token", "both"] = "token"
        self.say_expires_in = True
        self.requests: list[TokenRequest] = []
        self._signer = _Signer(algorithm, key_header)
        self._tls = tls
        self._server: Server | None = None

    @property
    def realm(self) -> str:
        """The address that issues tokens."""
        port = self._server.port if self._server else 0
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{port}/token"

    def start(self) -> Self:
        self._server = Server(self._answer, tls=self._tls.server_context() if self._tls else None)
        self._server.start()
        return self

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop()

    def settings(self, folder: Path) -> dict[str, Any]:
        """Return the `auth` part of a registry's configuration, its files written to ``folder``."""
        bundle = folder / "token.pem"
        bundle.write_text(self._signer.certificate_pem)
        token = {"realm": self.realm, "service": self.service, "issuer": self.issuer, "rootcertbundle": str(bundle)}
        return {"token": token}

    def authorization(self, scope: str) -> str:
        """Return a header value with all of ``scope``, to seed and check without the product."""
        match = _SCOPE.fullmatch(scope)
        assert match is not None, scope
        access = {"type": match["type"], "name": match["name"], "actions": match["actions"].split(",")}
        return f"Bearer {self.sign('seeding', [access])}"

    def sign(self, subject: str, access: Sequence[Mapping[str, Any]], **claims: Any) -> str:
        """Return a token; ``claims`` replace those of a valid one (``exp``, ``aud``, ...)."""
        now = int(time.time())
        leeway = REGISTRY_LEEWAY if self.exact_expiry else 0
        usual = {
            "iss": self.issuer,
            "sub": subject,
            "aud": self.service,
            "exp": now + self.lifetime - leeway,
            "nbf": now - leeway,
            "iat": now,
            "jti": secrets.token_urlsafe(16),
            "access": list(access),
        }
        return self._signer.sign({**usual, **claims})

    def _answer(self, request: Request) -> Reply:
        request.read()
        url = urlsplit(request.target)
        if url.path != "/token":
            return _error(404, "nothing here")
        if request.method != "GET":  # POST is the OAuth2 flow, a separate specification
            return _error(405, "only GET", Allow="GET")
        query = parse_qs(url.query, keep_blank_values=True)
        account = self._account(request.authorization)
        scopes = tuple(scope for value in query.get("scope", []) for scope in value.split())
        answer = self._grant(account, query, scopes)
        self.requests.append(TokenRequest(account or "", scopes, answer.status))
        return answer

    def _grant(self, account: str | None, query: Mapping[str, list[str]], scopes: tuple[str, ...]) -> Reply:
        if account is None or query.get("account", [account])[0] != account:
            return _error(401, "wrong name or password", WWW_Authenticate='Basic realm="tokens"')
        if query.get("service") != [self.service]:
            return _error(400, "service is missing or not one of this server")
        matches = [_SCOPE.fullmatch(scope) for scope in scopes]
        user = self.users[account] if account else self.anonymous
        access = []
        for match in matches:
            if match is None:
                return _error(400, "a scope is not <type>:<name>:<actions>")
            asked = match["actions"].split(",")
            allowed = user.allowed(match["type"], match["name"])
            if granted := [action for action in asked if action in allowed]:
                access.append({"type": match["type"], "name": match["name"], "actions": granted})
        return self._token(account, access)

    def _token(self, account: str, access: Sequence[Mapping[str, Any]]) -> Reply:
        token = self.sign(account, access)
        fields = ("token", "access_token") if self.field == "both" else (self.field,)
        value: dict[str, Any] = dict.fromkeys(fields, token)
        value["issued_at"] = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        if self.say_expires_in:
            value["expires_in"] = self.lifetime
        return json_reply(value)

    def _account(self, authorization: str) -> str | None:
        """Return the name in the credentials, empty without any, None if they are wrong."""
        if not authorization:
            return ""
        scheme, _, encoded = authorization.partition(" ")
        try:
            name, colon, password = base64.b64decode(encoded, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return None
        user = self.users.get(name)
        right = scheme.lower() == "basic" and colon and user is not None
        return name if right and user is not None and secrets.compare_digest(password, user.password) else None


def _error(status: int, words: str, **headers: str) -> Reply:
    body = json.dumps({"details": words}).encode()
    return reply(status, body, **headers)


class _Signer:
    """Signs claims; the header names the key, by a certificate (x5c) or its fingerprint (kid)."""

    def __init__(self, algorithm: Literal["ES256", "RS256"], key_header: Literal["x5c", "kid"]) -> None:
        self._key: PrivateKey = (
            ec.generate_private_key(ec.SECP256R1()) if algorithm == "ES256" else rsa.generate_private_key(65537, 2048)
        )
        certificate = self_signed(self._key, "token signing")
        self.certificate_pem = as_pem(certificate)
        shown: dict[str, Any] = {"kid": _fingerprint(self._key)}
        if key_header == "x5c":
            shown = {"x5c": [base64.b64encode(certificate.public_bytes(serialization.Encoding.DER)).decode()]}
        self._header = _part({"typ": "JWT", "alg": algorithm, **shown})

    def sign(self, claims: Mapping[str, Any]) -> str:
        text = f"{self._header}.{_part(claims)}"
        if isinstance(self._key, rsa.RSAPrivateKey):
            signature = self._key.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256())
        else:
            r, s = decode_dss_signature(self._key.sign(text.encode(), ec.ECDSA(hashes.SHA256())))
            signature = r.to_bytes(32, "big") + s.to_bytes(32, "big")
        return f"{text}.{_base64url(signature)}"


def _fingerprint(key: PrivateKey) -> str:
    """Return docker-registry's ID of the key: 240 bits of a sha256 in twelve groups of base32."""
    public = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    text = base64.b32encode(hashlib.sha256(public).digest()[:30]).decode()
    return ":".join(text[i : i + 4] for i in range(0, 48, 4))


def _part(value: Mapping[str, Any]) -> str:
    return _base64url(json.dumps(value, separators=(",", ":")).encode())


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
