"""How the client of a registry is put together, whatever kind it is for."""

from __future__ import annotations

from collections.abc import Callable

from syncline.clients.http.addresses import Endpoint
from syncline.clients.http.client import Http
from syncline.clients.registry.auth import Credentials
from syncline.clients.registry.client import Registry
from syncline.config.registry import BasicAuth, RegistryEndpoint, TokenAuth
from syncline.secrets import Reference, Secrets


def registry_at(place: RegistryEndpoint, secrets: Secrets, http: Http) -> Registry:
    """The client of a registry; who we are there is asked for when it is needed, and again when it is refused."""
    scheme = "http" if place.plain_http else "https"
    ca = None if place.ca is None else secrets.text(place.ca)
    return Registry(
        Endpoint.parse(f"{scheme}://{place.registry}", ca=ca, auth_realms=place.auth_realms),
        lambda: _credentials(place, secrets.resolve),
        http,
        renewed=lambda: _credentials(place, secrets.refresh),
    )


def _credentials(place: RegistryEndpoint, value_of: Callable[[Reference], str]) -> Credentials | None:
    """Who we are at a registry; ``value_of`` gives the value of a reference."""
    match place.auth:
        case "anonymous":
            return None
        case "docker-config":
            from syncline.clients.registry.docker_credentials import credentials_for  # noqa: PLC0415 - the SDK is slow to import

            return credentials_for(place.registry)
        case BasicAuth(username=username, password=password):
            return Credentials(username if isinstance(username, str) else value_of(username), value_of(password))
        case TokenAuth(token=token):
            return Credentials(registry_token=value_of(token))
