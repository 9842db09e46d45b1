"""Planted secrets are found in every form in which they may be written, and nothing else is."""

from __future__ import annotations

import base64
import json
from urllib.parse import quote

import pytest

from tests.simulation.secret_store import SecretStore


@pytest.mark.parametrize(
    "write",
    [
        lambda secret: f"token {secret}!",
        lambda secret: quote(secret, safe=""),
        lambda secret: json.dumps({"token": secret}),
        lambda secret: base64.b64encode(f"user:{secret}".encode()).decode(),
        lambda secret: base64.urlsafe_b64encode(f"robot:{secret}".encode()).decode(),
    ],
    ids=["plain", "url", "json", "basic", "base64url"],
)
def test_a_secret_is_found(write: object) -> None:
    store = SecretStore(1, {})
    store.plant("password")
    (secret,) = store.planted
    assert list(store.leaks([("a message", "nothing"), ("the table", write(secret))]))  # type: ignore[operator]
    assert not list(store.leaks([("a message", "secret:syncline/password")]))


def test_every_reference_can_be_resolved() -> None:
    environ: dict[str, str] = {}
    for seed in range(20):
        store = SecretStore(seed, environ)
        scheme, _, name = store.plant("password").partition(":")
        (secret,) = store.planted
        if scheme == "env":
            assert environ[name] == secret
        elif scheme == "ssm":
            assert store.get_parameter(Name=name, WithDecryption=True)["Parameter"]["Value"] == secret
        else:
            stored, _, key = name.partition("#")
            text = store.get_secret_value(SecretId=stored)["SecretString"]
            assert (json.loads(text)[key] if key else text) == secret
