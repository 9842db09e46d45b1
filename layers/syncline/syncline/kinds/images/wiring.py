"""How a sync of images is put together."""

from __future__ import annotations

from syncline.clients.http.addresses import Endpoint
from syncline.clients.registry.quay import Quay
from syncline.config.sync import Sync
from syncline.kinds.images.config import ImagesEndpoint, ImagesSync
from syncline.kinds.images.events import groups_in
from syncline.kinds.images.kind import Images
from syncline.kinds.images.listing import Side
from syncline.kinds.images.memory import BlobPlaces, Notes
from syncline.kinds.kind import Kind
from syncline.wiring.dependencies import Dependencies
from syncline.wiring.registries import registry_at


class Builder:
    """Makes the kind of a sync. All of a process's kinds share connections and known blobs."""

    def __init__(self, parts: Dependencies) -> None:
        self._parts = parts
        self._places = BlobPlaces(parts.state.facts)

    def __call__(self, sync: Sync) -> Kind:
        assert isinstance(sync, ImagesSync)
        source, target = self._side(sync.source), self._side(sync.target)
        notes = Notes(self._parts.state.facts, target.registry.host)
        return Images(sync, source, target, self._parts.http, places=self._places, notes=notes)

    def _side(self, place: ImagesEndpoint) -> Side:
        return Side(registry_at(place, self._parts.secrets, self._parts.http), self._api(place))

    def _api(self, place: ImagesEndpoint) -> Quay | None:
        if place.api is None or place.api_url is None:
            return None
        token, secrets = place.api.token, self._parts.secrets
        endpoint = Endpoint.parse(place.api_url, ca=self._parts.authority(place.ca))
        if token is None:
            return Quay(endpoint, lambda: None, self._parts.http)
        return Quay(endpoint, lambda: secrets.resolve(token), self._parts.http, lambda: secrets.refresh(token))


def changed_groups(sync: Sync, event: object, _now: float) -> tuple[str, ...]:
    """Return what a registry's notification names; see :func:`syncline.wiring.syncs.changed_groups_of`."""
    assert isinstance(sync, ImagesSync)
    return groups_in(sync, event)
