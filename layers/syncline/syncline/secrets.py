"""Secrets by reference: ``secret:NAME#KEY`` (Secrets Manager), ``ssm:/PATH`` (Parameter Store), ``env:NAME``.

A reference may be stored, sent and logged. Its value is fetched as late as possible, kept in memory for a few minutes
and never written. :func:`redact` removes every fetched value from a text, in each form in which it may occur there.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shlex
import string
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, cast
from urllib.parse import quote, quote_plus

from pydantic import BaseModel

from syncline.environment import Environment
from syncline.errors import CodeName, SynclineError

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient
    from mypy_boto3_ssm import SSMClient

_NAME: Final = r"[A-Za-z0-9/_+=.@-]{1,512}"
_KEY: Final = r"[A-Za-z0-9_.:/@-]{1,128}"
_PARAMETER: Final = r"(?:/[A-Za-z0-9_.-]+){1,15}"
_VARIABLE: Final = r"[A-Za-z_][A-Za-z0-9_]{0,127}"
REFERENCE_PATTERN: Final = rf"^(?:secret:{_NAME}(?:#{_KEY})?|ssm:{_PARAMETER}|env:{_VARIABLE})$"

_ON_ENGINE: Final = bool(Environment.read().engine)
_ABSENT: Final = "does not exist"
_KEYLESS: Final = "is not a JSON object, so it has no keys"

Scheme = Literal["secret", "ssm", "env"]

_FORMS: Final = {
    "secret": "is not a secret's name; write secret:NAME or secret:NAME#KEY, with a name of letters, digits and /_+=.@-",
    "ssm": "is not a parameter's name; write ssm:/PATH, with parts of letters, digits and _.- after each /",
    "env": "is not a variable's name; write env:NAME, with letters, digits and _",
}


@dataclass(frozen=True, slots=True)
class Reference:
    """A reference to a secret. `key` names one value of a secret that is a JSON object. ``str()`` returns the text."""

    scheme: Scheme
    name: str
    key: str | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Return the reference in a text. Raises ValueError without repeating the text, which may be the secret itself."""
        scheme, colon, rest = text.partition(":")
        if not colon or scheme not in _FORMS:
            raise ValueError(
                "is not a reference (never write a secret itself here); "
                "store it and write secret:NAME#KEY, ssm:/PATH or env:NAME"
            )
        if not re.fullmatch(REFERENCE_PATTERN, text):
            raise ValueError(_FORMS[scheme])
        name, _, key = rest.partition("#")
        return cls(cast("Scheme", scheme), name, key or None)

    def __str__(self) -> str:
        return f"{self.scheme}:{self.name}" + (f"#{self.key}" if self.key else "")


def references_in(part: object, path: str = "") -> Iterator[tuple[str, Reference]]:
    """Yield the references in a sync or a part of it, with their dotted paths, such as ``source.auth.password``."""
    if isinstance(part, Reference):
        yield path, part
    elif isinstance(part, BaseModel | dict):
        for name, inner in part.items() if isinstance(part, dict) else part:
            yield from references_in(inner, f"{path}.{name}" if path else str(name))
    elif isinstance(part, tuple):
        for number, inner in enumerate(part):
            yield from references_in(inner, f"{path}[{number}]")


class _UnreadableError(Exception):
    """A secret or one of its values cannot be read: `code` of the error, and `why`, which follows the reference."""

    def __init__(self, code: CodeName, why: str) -> None:
        super().__init__(code, why)
        self.code = code
        self.why = why


@dataclass(slots=True)
class _CachedSecret:
    """The fetched value of a secret or the error. One thread holds `lock` to fetch it while the others wait."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    text: str = ""
    error: _UnreadableError | None = None
    fetched: float | None = None  # seconds of the clock


class Secrets:
    """The values of references, each fetched once for all threads and cached for `ttl` seconds.

    The two factories return a client of boto3 when it is first needed. `clock` returns monotonic seconds. `local` is True
    on the engine on one machine, where errors state how to create a secret there. `environment` names the process whose
    variables are read, for errors.
    """

    _MIN_AGE: Final = 5.0  # seconds between two fetches of one secret, however many requests are refused meanwhile
    _MIN_AGE_OF_ERROR: Final = 1.0  # seconds: threads that waited for a fetch that failed do not all repeat it

    def __init__(  # noqa: PLR0913 - two services, and what tests set
        self,
        secretsmanager: Callable[[], SecretsManagerClient],
        ssm: Callable[[], SSMClient],
        environ: Mapping[str, str] = os.environ,
        clock: Callable[[], float] = time.monotonic,
        ttl: float = 300.0,
        *,
        local: bool = _ON_ENGINE,
        environment: str = "",
    ) -> None:
        self._secretsmanager = secretsmanager
        self._ssm = ssm
        self._environ = environ
        self._clock = clock
        self._ttl = ttl
        self._local = local
        self._environment = environment
        self._cache: dict[tuple[str, str], _CachedSecret] = {}
        self._lock = threading.Lock()

    def resolve(self, reference: Reference) -> str:
        """Return the value of a reference, without trailing line ends.

        Raises SECRET_MISSING, SECRET_DENIED, AWS_DENIED or AWS_UNAVAILABLE; the message states how to create the secret.
        """
        return self._value(reference, self._ttl)

    def refresh(self, reference: Reference) -> str:
        """Return the value, fetched again after a refusal (401) in case it was changed.

        Of many threads that are refused at once, one fetches for all. Raises as :meth:`resolve`.
        """
        return self._value(reference, self._MIN_AGE)

    def text(self, value: Reference | str) -> str:
        """Return `value` if it is plain text, or the value that it refers to."""
        return value if isinstance(value, str) else self.resolve(value)

    def _value(self, reference: Reference, oldest: float) -> str:
        with self._lock:
            cached = self._cache.setdefault((reference.scheme, reference.name), _CachedSecret())
        with cached.lock:
            oldest = self._MIN_AGE_OF_ERROR if cached.error else oldest
            if cached.fetched is None or self._clock() - cached.fetched >= oldest:
                try:
                    cached.text, cached.error = self._fetch(reference), None
                except _UnreadableError as error:
                    cached.error = error
                cached.fetched = self._clock()
            try:
                if cached.error:
                    raise cached.error
                value = _part(reference, cached.text)
            except _UnreadableError as error:
                # Several references may share the fetched secret: each is named in its own error.
                hint = ""
                if error.why == _KEYLESS:
                    whole = self._remedy(Reference(reference.scheme, reference.name), absent=False)
                    hint = f"; leave out #{reference.key} in syncs.yaml, or store an object: {whole}"
                elif error.code == "SECRET_MISSING":
                    absent = error.why == _ABSENT
                    hint = f"; to {'create' if absent else 'set'} it: {self._remedy(reference, absent=absent)}"
                raise SynclineError(error.code, f"{reference} {error.why}{hint}") from None
        register(value)
        return value

    def _remedy(self, reference: Reference, *, absent: bool) -> str:
        """Return the command that stores the value, or the variable that holds it."""
        if reference.scheme == "env":
            environment = self._environment or ("`syncline up`" if self._local else "the functions")
            return f"{reference.name} in the environment of {environment}"
        if self._local:
            name = str(reference).removeprefix("secret:")
            return f"syncline secret set {shlex.quote(name)}"
        if reference.scheme == "ssm":
            replace = "" if absent else " --overwrite"
            return f"aws ssm put-parameter --type SecureString --name {reference.name} --value file://FILE{replace}"
        call = "create-secret --name" if absent else "put-secret-value --secret-id"
        holds = f", where FILE holds a JSON object with the key {reference.key}" if reference.key else ""
        return f"aws secretsmanager {call} {reference.name} --secret-string file://FILE{holds}"

    def _fetch(self, reference: Reference) -> str:
        if reference.scheme == "env":
            return self._environ.get(reference.name, "")
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415 - `env:` alone needs no boto

        try:
            if reference.scheme == "secret":
                response = self._secretsmanager().get_secret_value(SecretId=reference.name)
                text = response.get("SecretString")
                return text if text is not None else response["SecretBinary"].decode()
            parameter = self._ssm().get_parameter(Name=reference.name, WithDecryption=True)
            return parameter["Parameter"].get("Value", "")
        except ClientError as error:
            raise _refused(error.response.get("Error", {}).get("Code", "")) from None
        except UnicodeDecodeError:
            raise _UnreadableError("SECRET_MISSING", "is binary, not text") from None
        except BotoCoreError as error:
            code: CodeName = "AWS_DENIED" if "Credentials" in type(error).__name__ else "AWS_UNAVAILABLE"
            raise _UnreadableError(code, f"could not be read ({type(error).__name__})") from None


_MISSING_CODES: Final = {"ResourceNotFoundException", "ParameterNotFound", "InvalidRequestException"}
_DENIED_CODES: Final = {"AccessDeniedException", "AccessDenied", "DecryptionFailure", "InvalidKeyId"}
_IDENTITY_CODES: Final = {
    "ExpiredTokenException",
    "InvalidSignatureException",
    "UnrecognizedClientException",
    "InvalidClientTokenId",
}


def _refused(code: str) -> _UnreadableError:
    """Return the error for an error code of AWS; the service's message is left out."""
    if code in _MISSING_CODES:
        return _UnreadableError("SECRET_MISSING", _ABSENT)
    if code in _DENIED_CODES:
        return _UnreadableError("SECRET_DENIED", f"may not be read by this function's role ({code})")
    if code in _IDENTITY_CODES:
        return _UnreadableError("AWS_DENIED", f"could not be read ({code})")
    return _UnreadableError("AWS_UNAVAILABLE", f"could not be read ({code or 'no code'})")


def json_object(text: str) -> dict[str, Any] | None:
    """Return the JSON object in a text, None for any other text."""
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _part(reference: Reference, text: str) -> str:
    """Return the value that the reference names in a stored text."""
    value: object = text
    if reference.key is not None:
        values = json_object(text)
        if values is None:
            raise _UnreadableError("SECRET_MISSING", _KEYLESS)
        value = values.get(reference.key)
        if isinstance(value, int | float) and not isinstance(value, bool):
            value = str(value)
    if not isinstance(value, str):
        raise _UnreadableError("SECRET_MISSING", "has no text under that key")
    value = value.rstrip("\r\n")
    if not value:
        raise _UnreadableError("SECRET_MISSING", "is empty")
    if any("\ud800" <= character <= "\udfff" for character in value):  # bytes of the environment that are not UTF-8
        raise _UnreadableError("SECRET_MISSING", "is not text in UTF-8")
    return value


class _Redaction:
    """The forms of the known values, the longest first, so that no end of a longer one is left in a text."""

    _SHORTEST: Final = 4  # characters; shorter values would redact ordinary text
    _SHORTEST_ENCODED: Final = 6
    _MOST: Final = 256  # values; a warm function gets many short-lived tokens

    def __init__(self) -> None:
        self.plain: tuple[str, ...] = ()
        self.encoded: tuple[str, ...] = ()
        self._forms: dict[str, tuple[set[str], set[str]]] = {}
        self._lock = threading.Lock()

    def add(self, value: str) -> None:
        if len(value) < self._SHORTEST or value in self._forms:
            return
        with self._lock:
            encoded = {form for form in _encoded_forms(value) if len(form) >= self._SHORTEST_ENCODED}
            self._forms[value] = set(_plain_forms(value)), encoded
            if len(self._forms) > self._MOST:
                del self._forms[next(iter(self._forms))]
            self.plain, self.encoded = (
                tuple(sorted(set().union(*forms), key=len, reverse=True))
                for forms in zip(*self._forms.values(), strict=True)
            )


def _plain_forms(value: str) -> Iterator[str]:
    """Yield the value and its forms in URLs, JSON and `repr`, and the long lines of one with several, such as a key."""
    yield value
    for quoted in (quote(value), quote(value, safe=""), quote_plus(value)):
        yield quoted
        yield re.sub("%[0-9A-F]{2}", lambda match: match[0].lower(), quoted)
    yield json.dumps(value)[1:-1]
    yield json.dumps(value, ensure_ascii=False)[1:-1]
    yield repr(value)[1:-1]
    if "\n" in value:
        yield from (line.strip() for line in value.splitlines() if len(line.strip()) >= 16)


def _encoded_forms(value: str) -> Iterator[str]:
    """Yield the base64 characters that depend on the value alone, after any bytes such as ``user:`` of a Basic header."""
    raw = value.encode()
    for before in range(3):
        used = before + len(raw)
        code = base64.b64encode(b"\0" * before + raw).decode()
        certain = code[-(-before * 8 // 6) : used * 8 // 6]
        yield certain
        yield certain.replace("+", "-").replace("/", "_")
    yield base64.b64encode(raw).decode()


_redaction = _Redaction()
_BASE64: Final = re.compile(r"[A-Za-z0-9+/_-]*={0,2}")
_BASE64_LETTERS: Final = string.ascii_letters + string.digits + "+/_-"


def register(value: str) -> None:
    """Let :func:`redact` remove a secret that :class:`Secrets` did not fetch, such as a token."""
    _redaction.add(value)


def redact(text: str) -> str:
    """Return a text with ``***`` in place of every known secret of four characters or more.

    That includes its URL-quoted and JSON forms, and base64 words that contain it, as in a Basic header.
    """
    # A search for each form is faster than one expression of all, which is expensive to compile.
    for form in _redaction.plain:
        if form in text:
            text = text.replace(form, "***")
    for form in _redaction.encoded:
        if form in text:
            text = _without_words(text, form)
    return text


def _without_words(text: str, form: str) -> str:
    """Return a text with ``***`` in place of the base64 words that contain `form`."""
    pieces: list[str] = []
    done = 0
    while (found := text.find(form, done)) >= 0:
        before = text[done:found]
        pieces += [before.rstrip(_BASE64_LETTERS), "***"]
        rest = _BASE64.match(text, found + len(form))
        done = rest.end() if rest else found + len(form)
    return "".join([*pieces, text[done:]])
