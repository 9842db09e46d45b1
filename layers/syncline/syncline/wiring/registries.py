"""Builds the client of a registry from its configuration."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from syncline.clients.http.addresses import Endpoint
from syncline.clients.http.client import Http
from syncline.clients.registry.auth import RegistryCredentials
from syncline.clients.registry.client import Registry
from syncline.clients.registry.ecr import Ecr
from syncline.config.registry import BasicAuth, RegistryEndpoint, TokenAuth
from syncline.secrets import Reference, Secrets
from syncline.wiring.dependencies import budget_of, route_of


def registry_at(endpoint: RegistryEndpoint, secrets: Secrets, http: Http) -> Registry:
    """Return the client of a registry. It resolves the credentials on first use, and again after a refusal."""
    scheme = "http" if endpoint.plain_http else "https"
    url = f"{scheme}://{endpoint.registry}"
    budget = budget_of(http, url, endpoint.limits)
    route = route_of(secrets, endpoint.ca, endpoint.proxy, budget, repr(endpoint.auth))
    return Registry(
        Endpoint.parse(url, route=route, auth_realms=endpoint.auth_realms),
        lambda: _credentials(endpoint, secrets.resolve),
        http,
        renewed=lambda: _credentials(endpoint, secrets.refresh, renew=True),
        create=_ecr(endpoint.registry).create_repository if getattr(endpoint, "create_repositories", None) else None,
    )


@cache
def _ecr(host: str) -> Ecr:
    """Return the ECR of a host, one for the process: its tokens are valid for hours."""
    return Ecr(host.lower())


def _credentials(
    endpoint: RegistryEndpoint, value_of: Callable[[Reference], str], *, renew: bool = False
) -> RegistryCredentials | None:
    """Return the credentials for a registry; ``value_of`` returns the value of a reference."""
    match endpoint.auth:
        case "anonymous":
            return None
        case "ecr":
            return _ecr(endpoint.registry).credentials(renew=renew)
        case "docker-config":
            from syncline.clients.registry.docker_credentials import credentials_for  # noqa: PLC0415 - the SDK is slow to import

            return credentials_for(endpoint.registry)
        case BasicAuth(username=username, password=password):
            return RegistryCredentials(
                username if isinstance(username, str) else value_of(username), value_of(password)
            )
        case TokenAuth(token=token):
            return RegistryCredentials(registry_token=value_of(token))
