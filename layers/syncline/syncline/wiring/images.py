"""How a sync of images is put together."""

from __future__ import annotations

from collections.abc import Callable

from syncline.clients.addresses import Endpoint
from syncline.clients.oci import Registry
from syncline.clients.oci_auth import Credentials
from syncline.clients.quay import Quay
from syncline.config import Sync
from syncline.config.images import ImagesEndpoint, ImagesSync
from syncline.config.registry import BasicAuth, RegistryEndpoint, TokenAuth
from syncline.kinds.images import BlobPlaces, Images, Side
from syncline.kinds.kind import Kind
from syncline.secrets import Reference
from syncline.wiring.parts import Parts


class Builder:
    """Makes the kind of a sync. All of a process's kinds share connections and known blobs."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._places = BlobPlaces(parts.state)

    def __call__(self, sync: Sync) -> Kind:
        assert isinstance(sync, ImagesSync)
        return Images(sync, self._side(sync.source), self._side(sync.target), self._parts.http, self._places)

    def _side(self, place: ImagesEndpoint) -> Side:
        return Side(registry_at(place, self._parts), self._api(place))

    def _api(self, place: ImagesEndpoint) -> Quay | None:
        if place.api is None or place.api_url is None:
            return None
        token, secrets = place.api.token, self._parts.secrets
        endpoint = Endpoint.parse(place.api_url, ca=self._parts.authority(place.ca))
        return Quay(endpoint, lambda: None if token is None else secrets.resolve(token), self._parts.http)


def registry_at(place: RegistryEndpoint, parts: Parts) -> Registry:
    """The client of a registry; who we are there is asked for when it is needed, and again when it is refused."""
    scheme = "http" if place.plain_http else "https"
    ca = parts.authority(place.ca)
    return Registry(
        Endpoint.parse(f"{scheme}://{place.registry}", ca=ca, auth_realms=place.auth_realms),
        lambda: _credentials(place, parts.secrets.resolve),
        parts.http,
        renewed=lambda: _credentials(place, parts.secrets.refresh),
    )


def _credentials(place: RegistryEndpoint, value_of: Callable[[Reference], str]) -> Credentials | None:
    """Who we are at a registry; ``value_of`` gives the value of a reference."""
    match place.auth:
        case "anonymous":
            return None
        case "docker-config":
            from syncline.clients.docker_credentials import credentials_for  # noqa: PLC0415 - the SDK is slow to import

            return credentials_for(place.registry)
        case BasicAuth(username=username, password=password):
            return Credentials(username if isinstance(username, str) else value_of(username), value_of(password))
        case TokenAuth(token=token):
            return Credentials(registry_token=value_of(token))
