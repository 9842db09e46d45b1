"""The checks of a sync of images."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from syncline.clients.http.listings import ignore
from syncline.clients.registry.client import Registry
from syncline.clients.registry.store import ImageStore
from syncline.config.model import ServerAddress
from syncline.config.sync import Sync
from syncline.errors import SynclineError
from syncline.kinds.images.config import ImagesEndpoint, ImagesSync
from syncline.kinds.images.wiring import quay_at, store_at
from syncline.wiring.checks import Check, CheckChain, Observation, warning
from syncline.wiring.dependencies import Dependencies
from syncline.wiring.server_checks import check_pull, check_push, registry_checks, server_checks

_LISTED = 20
"""Most repositories of a listing that are read."""


def chains(sync: Sync, parts: Dependencies, *, local: bool) -> list[CheckChain]:  # noqa: ARG001 - the same everywhere
    """Return the checks of the source and the target, and of their APIs."""
    assert isinstance(sync, ImagesSync)
    source, target = (store_at(config, parts) for config in (sync.source, sync.target))
    pull = Check("pull", lambda: _pull(sync, source, parts))
    at_source, at_target = list[Check](), [Check("write", lambda: _write(sync.target))]
    if isinstance(source, Registry):
        at_source = registry_checks(sync.source, source, parts)
    if isinstance(target, Registry):
        registry, names = target, (sync.target_repository(each) for each in _repositories(sync, source, parts))
        at_target = [*registry_checks(sync.target, registry, parts), Check("push", lambda: check_push(registry, names))]
    return [
        CheckChain("source", [*at_source, pull]),
        *_api_chain("source", sync.source, sync.source.organizations or (), parts),
        CheckChain("target", at_target),
        *_api_chain("target", sync.target, (), parts),
    ]


def _write(config: ImagesEndpoint) -> str:
    """Raise FILE_REFUSED if the folder of a layout, or the nearest one above it, cannot be written."""
    assert config.layout is not None
    folder = Path(config.layout[1])
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise SynclineError("FILE_REFUSED", f"{folder} is not a folder that can be written")
    return f"{folder} can be written"


def _pull(sync: ImagesSync, source: ImageStore, parts: Dependencies) -> str | Observation:
    names = [name for name in sync.source.repositories or () if sync.takes_repository(name)]
    if not names and sync.source.organizations:
        return "the repositories are listed by the API"
    names = names or list(islice(_repositories(sync, source, parts), 1))
    if not names:
        return warning(
            f"{source.host} lists no repository that the sync selects", "Check `select` and the credentials."
        )
    return check_pull(source, names)


def _repositories(sync: ImagesSync, source: ImageStore, parts: Dependencies) -> Iterator[str]:
    """Yield some repositories of the source that the sync selects."""
    if sync.source.repositories is not None:
        found: Iterator[str] = iter(sync.source.repositories)
    elif sync.source.organizations is not None:
        quay = quay_at(sync.source, parts)
        assert quay is not None, "the configuration has checked it"
        found = (each.name for name in sync.source.organizations for each in quay.repositories(name))
    else:
        found = (name for page in source.catalog_pages(ignore) for name in page.entries)
    return (name for name in islice(found, _LISTED) if sync.takes_repository(name))


def _api_chain(
    part: str, config: ImagesEndpoint, organizations: tuple[str, ...], parts: Dependencies
) -> Iterator[CheckChain]:
    quay = quay_at(config, parts)
    if config.api is None or config.api_url is None or quay is None:
        return

    def listing() -> str:
        for name in organizations:
            next(quay.repositories(name), None)
        return f"the API lists {', '.join(organizations)}"

    checks = server_checks(ServerAddress(config.api_url, config.ca, config.proxy), parts)
    yield CheckChain(f"{part}.api", [*checks, *([Check("list", listing)] if organizations else [])])
