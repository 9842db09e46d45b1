"""Builds the kind of a sync of images."""

from __future__ import annotations

from pathlib import Path

from syncline.clients.http.addresses import Endpoint
from syncline.clients.registry.quay import Quay
from syncline.clients.registry.store import ImageStore
from syncline.config.sync import Sync
from syncline.kinds.images.config import ImagesEndpoint, ImagesSync, ImagesTarget
from syncline.kinds.images.events import repositories_in
from syncline.kinds.images.facts import BlobLocations, TargetNotes
from syncline.kinds.images.kind import Images
from syncline.kinds.images.listing import RegistryClients
from syncline.kinds.images.signatures import Trust
from syncline.kinds.kind import Kind
from syncline.store.image_records import ImageRecords
from syncline.store.removals import RemovalWindows
from syncline.wiring.dependencies import Dependencies, budget_of, route_of
from syncline.wiring.registries import registry_at


class Builder:
    """Builds the kind of a sync. All kinds of a process share connections and blob locations."""

    def __init__(self, parts: Dependencies) -> None:
        self._parts = parts
        self._locations = BlobLocations(parts.state.facts)

    def __call__(self, sync: Sync) -> Kind:
        assert isinstance(sync, ImagesSync)
        source, target = self._clients(sync.source), self._clients(sync.target)
        notes = TargetNotes(self._parts.state.facts, target.registry.host)
        parts, clock = self._parts, self._parts.clock
        trust = Trust(sync.verify, parts.secrets.text, clock)
        records = ImageRecords(parts.database, sync.name, sync.target_id(), clock)
        windows = RemovalWindows(parts.database, sync.name, clock)
        return Images(sync, source, target, parts.http, self._locations, notes, trust, records, windows, clock)

    def _clients(self, config: ImagesEndpoint) -> RegistryClients:
        return RegistryClients(store_at(config, self._parts), quay_at(config, self._parts))


def store_at(config: ImagesEndpoint, parts: Dependencies) -> ImageStore:
    """Return the client of a registry, or of a layout or archive on this machine."""
    if config.layout is None:
        return registry_at(config, parts.secrets, parts.http)
    from syncline.clients.layout.shared import shared_folder, shared_reader  # noqa: PLC0415 - few syncs need it

    transport, path = config.layout
    if isinstance(config, ImagesTarget):
        return shared_folder(Path(path), config.registry)
    return shared_reader(transport, Path(path), config.registry)


def quay_at(config: ImagesEndpoint, parts: Dependencies) -> Quay | None:
    """Return the client of a registry's own API, None if the sync does not name it."""
    if config.api is None or config.api_url is None:
        return None
    token, secrets = config.api.token, parts.secrets
    budget = budget_of(parts.http, config.api_url, config.limits)
    endpoint = Endpoint.parse(config.api_url, route=route_of(secrets, config.ca, config.proxy, budget))
    if token is None:
        return Quay(endpoint, lambda: None, parts.http)
    return Quay(endpoint, lambda: secrets.resolve(token), parts.http, lambda: secrets.refresh(token))


def changed_groups(sync: Sync, event: object, _now: float) -> tuple[str, ...]:
    """Return the groups that a registry's notification names; see :func:`syncline.wiring.syncs.changed_groups_of`."""
    assert isinstance(sync, ImagesSync)
    return tuple(sync.target_repository(name) for name in repositories_in(event) if sync.takes_repository(name))
