"""Stores of secrets, and the search for leaked secrets in everything that the product writes.

Servers see the credentials in requests and may repeat them in error messages, as real servers and proxies do.
"""

from __future__ import annotations

import base64
import json
import random
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final
from unittest.mock import patch
from urllib.parse import quote

from syncline import secrets
from syncline.clients.git.failures import error_of_git
from syncline.clients.http.failures import error_of_status
from syncline.errors import SynclineError
from tests.simulation.expressions import client_error
from tests.simulation.machine import Process, current_process

KEY: Final = "value"
"""The key of a secret that is a JSON object."""
RequestCredentials = Callable[[], Sequence[str]]
"""Returns the credentials in the requests of a client: secrets, and headers that contain them."""


class SecretStore:
    """Models Secrets Manager, Parameter Store and the functions' environment. ``planted`` maps values to names."""

    def __init__(self, seed: int, environ: dict[str, str]) -> None:
        self._seed = seed
        self._environ = environ
        self._stored: dict[str, str] = {}
        self.planted: dict[str, str] = {}

    def plant(self, name: str, value: str | None = None) -> str:
        """Store a secret and return a reference to it. The seed chooses the scheme of the reference."""
        rng = random.Random(f"{self._seed} {name}")
        value = value or f"{rng.randbytes(9).hex()}+p/w&{rng.randbytes(3).hex()}="
        self.planted[value] = name
        word = re.sub("[^a-z0-9]", "-", name)
        match rng.randrange(4):
            case 0:
                variable = word.upper().replace("-", "_")
                self._environ[variable] = value
                return f"env:{variable}"
            case 1:
                self._stored[f"/syncline/{word}"] = value
                return f"ssm:/syncline/{word}"
            case 2:
                self._stored[f"syncline/{word}"] = value
                return f"secret:syncline/{word}"
            case _:
                self._stored[f"syncline/{word}"] = json.dumps({KEY: value})
                return f"secret:syncline/{word}#{KEY}"

    def get_secret_value(self, *, SecretId: str) -> dict[str, Any]:  # noqa: N803 - as boto3 has it
        if SecretId not in self._stored:
            raise client_error("ResourceNotFoundException", "GetSecretValue")
        return {"SecretString": self._stored[SecretId]}

    def get_parameter(self, *, Name: str, WithDecryption: bool) -> dict[str, Any]:  # noqa: N803 - as boto3 has it
        assert WithDecryption
        if Name not in self._stored:
            raise client_error("ParameterNotFound", "GetParameter")
        return {"Parameter": {"Value": self._stored[Name]}}

    def leaks(self, places: Iterable[tuple[str, str]]) -> Iterator[str]:
        """Yield each secret that a text contains, and the text's place. ``places`` has pairs of place and text."""
        named = list(places)
        everything = "\n".join(text for _, text in named)
        for value, name in self.planted.items():
            for form in sorted(_forms(value)):
                if form in everything:
                    where = next((place for place, text in named if form in text), "several places")
                    yield f"the secret {name!r} is in {where}, as {form!r}"
                    break


def _forms(value: str) -> set[str]:
    """Return the encodings of a secret: plain, in a URL, in JSON, and in base64 at any offset."""
    raw, forms = (
        value.encode(),
        {value, quote(value), quote(value, safe=""), json.dumps(value)[1:-1], repr(value)[1:-1]},
    )
    for before in range(3):
        code = base64.b64encode(b"\0" * before + raw).decode()
        sure = code[-(-before * 8 // 6) : (before + len(raw)) * 8 // 6]
        forms |= {sure, sure.replace("+", "-").replace("/", "_")}
    return forms


class _RedactionPerProcess:
    """Replaces the global redaction of the product: each simulated process redacts the secrets that it has resolved."""

    def __init__(self) -> None:
        self._of: dict[Process | None, Any] = {}

    def _current(self) -> Any:
        process = current_process()
        if process not in self._of:
            self._of[process] = _REDACTION()
        return self._of[process]

    def add(self, value: str) -> None:
        self._current().add(value)

    @property
    def plain(self) -> tuple[str, ...]:
        return tuple(self._current().plain)

    @property
    def encoded(self) -> tuple[str, ...]:
        return tuple(self._current().encoded)


_REDACTION: Final = secrets._Redaction
_CACHED_SECRET: Final = secrets._CachedSecret


@contextmanager
def secrets_per_process() -> Iterator[None]:
    """Give each simulated process its own redaction, and simulated locks for its cached secrets."""
    with (
        patch.object(secrets, "_redaction", _RedactionPerProcess()),
        patch.object(secrets, "_CachedSecret", lambda: _CACHED_SECRET(threading.Lock())),  # the default is a real lock
    ):
        yield


def error_response(
    rng: random.Random, host: str, name: str, status: int, credentials: Sequence[str], note: str
) -> SynclineError:
    """Return the error of a client for an error response, which at random repeats credentials of the request."""
    credential = rng.choice(credentials) if credentials and rng.random() < 0.5 else "unknown"
    if name.startswith("git "):
        refused = f"fatal: unable to access {host}: The requested URL returned error: {status}"
        output = f"remote: no session for {credential}\n{refused} {note}"
        return error_of_git(name.removeprefix("git ").split(" ")[0], 128, output)
    body = rng.choice([_plain, _json, _oci, _xml])(f"no session for {credential} {note}")
    headers = {
        "WWW-Authenticate": f"Basic realm={credential}",
        "Location": f"https://x:{credential}@{host}/?token={credential}",
    }
    return error_of_status(name.split(" ", maxsplit=1)[0], f"https://{host}/", status, headers, body.encode())


def _plain(message: str) -> str:
    return message


def _json(message: str) -> str:
    return json.dumps({"message": message})


def _oci(message: str) -> str:
    return json.dumps({"errors": [{"code": "UNAVAILABLE", "message": message}]})


def _xml(message: str) -> str:
    return f"<Error><Code>InternalError</Code><Message>{message}</Message></Error>"
