"""The credentials in the requests of Syncline's clients, resolved by the product's own wiring."""

from __future__ import annotations

from typing import Any

from syncline.clients.http.addresses import Endpoint
from syncline.kinds.artifacts.wiring import _tokens
from syncline.wiring import registries
from syncline.wiring.buckets import bucket_at as real_bucket_at
from tests.simulation.vault import Texts


def registry_identity(place: Any, secrets: Any) -> Texts:
    """Return the credentials for a registry: a token, or a user name, a password and the header made of both."""

    def texts() -> list[str]:
        found = registries._credentials(place, secrets.resolve)
        if found is None:
            return []
        return [found.registry_token] if found.registry_token else [found.username, found.password, found.basic]

    return texts


def bucket_identity(place: Any, parts: Any) -> Texts:
    """Return the access key for a bucket. The secret key only signs requests and is never sent."""
    bucket = real_bucket_at(place, parts)

    def texts() -> list[str]:
        keys = bucket._requests._keys()
        return [] if keys is None else [keys.access]

    return texts


def token_identity(reference: Any, secrets: Any) -> Texts:
    """Return the token that is sent in a header."""

    def texts() -> list[str]:
        return [] if reference is None else [secrets.resolve(reference)]

    return texts


def github_identity(source: Any, secrets: Any, http: Any) -> Texts:
    """Return the token for GitHub."""
    token, _ = _tokens(source, Endpoint.parse(source.url), secrets, http, "")

    def texts() -> list[str]:
        text = token()
        return [] if text is None else [text]

    return texts
