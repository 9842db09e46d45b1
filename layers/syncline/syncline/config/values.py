"""Types of single values of ``syncs.yaml``, such as hosts, repositories, patterns and references.

Each check returns its value, or raises ValueError with the problem and the expected form. No message repeats a value
that could be a secret.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from contextlib import suppress
from typing import Annotated, Any, Final, TypeAlias

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    PlainValidator,
    StrictFloat,
    StrictInt,
    ValidationInfo,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

from syncline.patterns import LONGEST_PATTERN, compile_pattern
from syncline.schedule import DURATION, check_schedule, check_timezone
from syncline.secrets import REFERENCE_PATTERN, Reference

KeyPath: TypeAlias = tuple[str | int, ...]
"""The path of a value: keys of mappings and indexes of lists."""

NAME_PATTERN: Final = r"^[a-z0-9][a-z0-9-]{0,62}$"
_PART: Final = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
REPOSITORY_PATTERN: Final = rf"^{_PART}(?:/{_PART})*$"
ORGANIZATION_PATTERN: Final = rf"^{_PART}$"
_LONGEST_REPOSITORY: Final = 255
LONGEST_CA: Final = 128 * 1024
"""Characters of a certificate: a sync is one item of the table, which holds 400 KB."""
LONGEST_KEYS: Final = 16 * 1024
"""Characters of the public keys in one value."""
_HOST: Final = re.compile(
    r"(?P<name>(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*\.?"
    r"|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{1,5}))?"
)
STORED: Final = {"stored": True}
"""The validation context for a stored sync, which was checked before."""
_CERTIFICATE: Final = "-----BEGIN CERTIFICATE-----"
_PUBLIC_KEY: Final = "-----BEGIN PUBLIC KEY-----"
_LOOPBACK: Final = re.compile(r"localhost|.*\.localhost|127\.[0-9.]+|\[::1\]")


def text_schema(**keywords: Any) -> WithJsonSchema:
    """Return the JSON Schema of a text with `keywords` such as ``pattern``."""
    return WithJsonSchema({"type": "string", **keywords})


def matching(pattern: str, message: str) -> AfterValidator:
    """Return a validator of texts that match a regular expression completely."""

    def check(text: str) -> str:
        if re.fullmatch(pattern, text):
            return text
        raise ValueError(message)

    return AfterValidator(check)


def split_host(text: str) -> tuple[str, int | None]:
    """Split ``host[:port]`` into the name, in lower case and without a trailing dot, and the port or None.

    Raises ValueError with the reason if `text` is invalid.
    """
    if "@" in text:
        raise ValueError("contains a user name or password; write host[:port] here and the credentials under auth")
    if "://" in text:
        raise ValueError("has a scheme; write only host[:port], such as quay.prod.example:8443 (see also plain_http)")
    if "/" in text:
        raise ValueError("has a path; write only host[:port], such as quay.prod.example:8443")
    match = _HOST.fullmatch(text)
    if match is None:
        raise ValueError("is not host[:port]; write a host such as quay.prod.example:8443")
    port = int(match["port"]) if match["port"] else None
    if port is not None and not 1 <= port <= 65535:
        raise ValueError(f"has port {port}; allowed are 1 to 65535")
    return match["name"].lower().rstrip("."), port


def server_of(host: str, port: int) -> tuple[str, int]:
    """Return name and port of ``host[:port]``, equal for all spellings of one server. `port` is the default port."""
    name, given = split_host(host)
    return "localhost" if is_loopback(host) else name, given or port


def folded(name: str) -> str:
    """Return a name with case and Unicode form normalized, as on file systems that ignore them."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def is_loopback(registry: str) -> bool:
    """Return True if the name in ``host[:port]`` always means this machine."""
    return _LOOPBACK.fullmatch(split_host(registry)[0]) is not None


def check_host(text: str) -> str:
    split_host(text)
    return text


def _check_realm(text: str) -> str:
    if split_host(text)[1] is not None:
        raise ValueError("has a port; write only the host name, such as auth.prod.example")
    return text


def check_repository(text: str) -> str:
    """Return the name of a repository. Raises ValueError with the reason if it is invalid."""
    if len(text) > _LONGEST_REPOSITORY:
        raise ValueError(f"is longer than {_LONGEST_REPOSITORY} characters")
    if re.fullmatch(REPOSITORY_PATTERN, text):
        return text
    if text.startswith("/") or text.endswith("/") or "//" in text:
        raise ValueError("has an empty path part; remove the extra /, as in team/app")
    if ":" in text or "@" in text:
        raise ValueError("has a host, tag or digest; write only the repository's path, such as team/app")
    if text != text.lower():
        raise ValueError("has capital letters, which repositories cannot have; write a path such as team/app")
    raise ValueError("is not a repository; write lower-case parts of a-z 0-9 . _ - separated by /, such as team/app")


def _check_number(value: Any) -> Any:
    # Without this check, pydantic reports an error for each type of the union.
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    raise PydanticCustomError("number_type", "is not a number")


def _check_url(text: str) -> str:
    scheme, found, rest = text.partition("://")
    if not found or scheme not in ("https", "http"):
        raise ValueError("is not a URL; write https://host[:port]")
    if "?" in rest or "#" in rest:
        raise ValueError("has a query or fragment; write https://host[:port] and the token under token")
    split_host(rest.removesuffix("/"))
    return text.removesuffix("/")


def _check_timezone(text: str, info: ValidationInfo) -> str:
    # A stored zone was checked before. The check takes 50 ms, and a function may have another list of zones or none.
    return text if info.context == STORED else check_timezone(text)


def _check_pattern(text: str) -> str:
    compile_pattern(text)
    if not text.startswith("re:") and (invalid := re.search(r"[^A-Za-z0-9._/*?\[\]!-]", text)):
        raise ValueError(
            f"has the character {invalid[0]!r}, which no name contains, so it would match nothing; "
            "write several patterns instead of {a,b}, and re: before a regular expression"
        )
    return text


def _check_list(values: tuple[str, ...]) -> tuple[str, ...]:
    if not values:
        raise ValueError("is an empty list; list at least one, or remove the key")
    twice = sorted(value for value, count in Counter(values).items() if count > 1)
    if twice:
        raise ValueError(f"lists {', '.join(twice)} twice; list each once")
    return values


def _parse_reference(value: Any) -> Reference:
    if isinstance(value, Reference):
        return value
    if not isinstance(value, str):
        raise ValueError("is not a reference; write secret:NAME#KEY, ssm:/PATH or env:NAME")  # noqa: TRY004 - pydantic
    return Reference.parse(value)


def _parse_text_or_reference(value: Any) -> str | Reference:
    if isinstance(value, str) and value and ":" not in value:
        return value
    try:
        return _parse_reference(value)
    except ValueError:
        raise ValueError(
            "is not a user name; write the name (without a colon), or secret:NAME#KEY, ssm:/PATH, env:NAME"
        ) from None


def _parse_ca(value: Any) -> str | Reference:
    if isinstance(value, str) and "PRIVATE KEY" in value:
        raise ValueError("contains a private key; write only the certificate of the authority")
    if isinstance(value, str) and _CERTIFICATE in value:
        if len(value) > LONGEST_CA:
            raise ValueError(
                f"is longer than {LONGEST_CA} characters; write only the authority that signed the server's certificate"
            )
        return value
    try:
        return _parse_reference(value)
    except ValueError:
        raise ValueError(
            "is not a certificate authority; write file:PATH, secret:NAME, ssm:/PATH, env:NAME or the PEM text"
        ) from None


def _parse_public_keys(value: Any) -> str | Reference:
    if isinstance(value, str) and "PRIVATE KEY" in value:
        raise ValueError("contains a private key; write only the public key")
    if isinstance(value, str) and _PUBLIC_KEY in value:
        if len(value) > LONGEST_KEYS:
            raise ValueError(f"is longer than {LONGEST_KEYS} characters; write only the keys that are needed")
        return value
    try:
        return _parse_reference(value)
    except ValueError:
        raise ValueError(
            "is not a public key; write file:PATH, secret:NAME, ssm:/PATH, env:NAME or the PEM text"
        ) from None


def _check_text_pattern(text: str) -> str:
    compile_pattern(text)
    return text


def _parse_proxy(value: Any) -> str | Reference:
    if isinstance(value, str) and value.startswith("http") and "@" in value:
        raise ValueError(
            "contains a user name or password; store the URL with them as a secret, and write its reference here"
        )
    with suppress(ValueError):
        if not isinstance(value, str) or not value.startswith("http://"):
            return _parse_reference(value)
        if split_host(value.removeprefix("http://"))[1] is not None:
            return value
    raise ValueError("is not a proxy; write http://host:port, or a reference to such a URL")


_AS_TEXT: Final = PlainSerializer(str, return_type=str)
_NOT_EMPTY: Final = Field(json_schema_extra={"minItems": 1})
_HOST_SCHEMA: Final = text_schema(pattern=r"^[A-Za-z0-9.:\[\]-]+$")

Number: TypeAlias = Annotated[StrictFloat | StrictInt, BeforeValidator(_check_number)]
SecretReference: TypeAlias = Annotated[
    Reference, PlainValidator(_parse_reference), _AS_TEXT, text_schema(pattern=REFERENCE_PATTERN)
]
TextOrReference: TypeAlias = Annotated[
    str | Reference, PlainValidator(_parse_text_or_reference), _AS_TEXT, text_schema(minLength=1)
]
Authority: TypeAlias = Annotated[str | Reference, PlainValidator(_parse_ca), _AS_TEXT, text_schema(minLength=1)]
PublicKeys: TypeAlias = Annotated[
    str | Reference, PlainValidator(_parse_public_keys), _AS_TEXT, text_schema(minLength=1)
]
ServerAuthority: TypeAlias = Annotated[
    Authority | None,
    Field(
        description="The certificate authority of the server, if the system does not trust it: `file:PATH` (relative to "
        "syncs.yaml, read by `apply`), a reference, or the PEM text.",
        examples=["file:ca.pem"],
    ),
]
_PROXY_PATTERN: Final = rf"^http://[A-Za-z0-9.:\[\]-]+:[0-9]+$|{REFERENCE_PATTERN}"
Proxy: TypeAlias = Annotated[
    Annotated[str | Reference, PlainValidator(_parse_proxy), _AS_TEXT, text_schema(pattern=_PROXY_PATTERN)] | None,
    Field(
        description="The HTTP proxy for requests to the server: `http://host:port`, or a reference to such a URL, which may "
        "have credentials (`http://user:password@host:port`).",
        examples=["http://proxy.example:3128"],
    ),
]
Host: TypeAlias = Annotated[str, AfterValidator(check_host), _HOST_SCHEMA]
Realm: TypeAlias = Annotated[str, AfterValidator(_check_realm), _HOST_SCHEMA]
Schedule: TypeAlias = Annotated[str, AfterValidator(check_schedule), text_schema(pattern=r"^(rate|cron)\(.+\)$")]
Timezone: TypeAlias = Annotated[str, AfterValidator(_check_timezone)]
Pattern: TypeAlias = Annotated[str, AfterValidator(_check_pattern), text_schema(maxLength=LONGEST_PATTERN)]
TextPattern: TypeAlias = Annotated[str, AfterValidator(_check_text_pattern), text_schema(maxLength=LONGEST_PATTERN)]
"""A pattern of texts that may have any characters."""
Repository: TypeAlias = Annotated[
    str, AfterValidator(check_repository), text_schema(pattern=REPOSITORY_PATTERN, maxLength=_LONGEST_REPOSITORY)
]
Organization: TypeAlias = Annotated[
    str,
    matching(ORGANIZATION_PATTERN, "is not an organization; write only its name, of a-z 0-9 . _ -, such as payments"),
    text_schema(pattern=ORGANIZATION_PATTERN),
]
Repositories: TypeAlias = Annotated[tuple[Repository, ...], AfterValidator(_check_list), _NOT_EMPTY]
Organizations: TypeAlias = Annotated[tuple[Organization, ...], AfterValidator(_check_list), _NOT_EMPTY]
Name: TypeAlias = Annotated[
    str,
    matching(
        NAME_PATTERN,
        "is not a valid name; use 1 to 63 of a-z 0-9 -, beginning with a letter or digit, such as prod-to-dr",
    ),
    text_schema(pattern=NAME_PATTERN),
]
Duration: TypeAlias = Annotated[
    str,
    matching(DURATION.pattern, "is not a duration; write a whole number and s, m, h or d, such as 12h or 7d"),
    text_schema(pattern=f"^{DURATION.pattern}$"),
]
Url: TypeAlias = Annotated[str, AfterValidator(_check_url), text_schema(pattern="^https?://")]
Prefix: TypeAlias = Annotated[
    str,
    AfterValidator(lambda text: check_repository(text) if text else text),
    text_schema(pattern=f"^$|{REPOSITORY_PATTERN}"),
]
