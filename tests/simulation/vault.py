"""Secrets: planted where the product resolves references to them, and searched in all that the product writes.

A server of a source or target knows the credentials of the requests that it gets, and may repeat them in the words of a
refusal, as real ones do. So may a proxy on the way.
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
from tests.simulation.machine import Process, writer

KEY: Final = "value"
"""The key of a secret that is a JSON object."""
Texts = Callable[[], Sequence[str]]
"""Returns what the requests of a client say of who it is: secrets and headers made of them."""


class Vault:
    """Secrets Manager, Parameter Store and the environment of the functions. ``planted`` has each value and its name."""

    def __init__(self, seed: int, environ: dict[str, str]) -> None:
        self._seed = seed
        self._environ = environ
        self._stored: dict[str, str] = {}
        self.planted: dict[str, str] = {}

    def plant(self, name: str, value: str | None = None) -> str:
        """Plant a secret and return a reference to it. Its scheme depends on the seed."""
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
        """Yield where a secret stands in texts, which are given by the names of their places."""
        named = list(places)
        whole = "\n".join(text for _, text in named)
        for value, name in self.planted.items():
            for form in sorted(_forms(value)):
                if form in whole:
                    where = next((place for place, text in named if form in text), "several places")
                    yield f"the secret {name!r} stands in {where}, as {form!r}"
                    break


def _forms(value: str) -> set[str]:
    """Return how a secret may be written: as it is, in a URL, in JSON, and in base64 behind any bytes."""
    raw, forms = (
        value.encode(),
        {value, quote(value), quote(value, safe=""), json.dumps(value)[1:-1], repr(value)[1:-1]},
    )
    for before in range(3):
        code = base64.b64encode(b"\0" * before + raw).decode()
        sure = code[-(-before * 8 // 6) : (before + len(raw)) * 8 // 6]
        forms |= {sure, sure.replace("+", "-").replace("/", "_")}
    return forms


class _Redactions:
    """In place of the one that the module has: each process of a simulation knows the secrets that it resolved."""

    def __init__(self) -> None:
        self._of: dict[Process | None, Any] = {}

    def _mine(self) -> Any:
        process = writer()
        if process not in self._of:
            self._of[process] = _REDACTION()
        return self._of[process]

    def add(self, value: str) -> None:
        self._mine().add(value)

    @property
    def plain(self) -> tuple[str, ...]:
        return tuple(self._mine().plain)

    @property
    def encoded(self) -> tuple[str, ...]:
        return tuple(self._mine().encoded)


_REDACTION: Final = secrets._Redaction
_KEPT: Final = secrets._CachedSecret


@contextmanager
def secrets_of_processes() -> Iterator[None]:
    """Let each process of a simulation know the secrets that it resolved itself, and wait for each other by its locks."""
    with (
        patch.object(secrets, "_redaction", _Redactions()),
        patch.object(secrets, "_CachedSecret", lambda: _KEPT(threading.Lock())),  # its default is the real lock
    ):
        yield


def refusal(rng: random.Random, host: str, name: str, status: int, texts: Sequence[str], beside: str) -> SynclineError:
    """Return what a client makes of a refusal. By chance, its words or headers repeat credentials of the request."""
    words = rng.choice(texts) if texts and rng.random() < 0.5 else "none that is known"
    if name.startswith("git "):
        said = f"remote: no session for {words}\nfatal: unable to access {host}: The requested URL returned error: {status}"
        return error_of_git(name.removeprefix("git ").split(" ")[0], 128, f"{said} {beside}")
    body = rng.choice([_plain, _json, _oci, _xml])(f"no session for {words} {beside}")
    headers = {"WWW-Authenticate": f"Basic realm={words}", "Location": f"https://x:{words}@{host}/?token={words}"}
    return error_of_status(name.split(" ", maxsplit=1)[0], f"https://{host}/", status, headers, body.encode())


def _plain(words: str) -> str:
    return words


def _json(words: str) -> str:
    return json.dumps({"message": words})


def _oci(words: str) -> str:
    return json.dumps({"errors": [{"code": "UNAVAILABLE", "message": words}]})


def _xml(words: str) -> str:
    return f"<Error><Code>InternalError</Code><Message>{words}</Message></Error>"
