"""Syncs of tokens have no runs: what there is of them is put together in :mod:`syncline.wiring_tokens`."""

from __future__ import annotations

from syncline.config import Sync
from syncline.errors import SynclineError
from syncline.kinds.kind import Kind
from syncline.wiring.parts import Parts


class Builder:
    """Says of each sync that it has no runs."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def __call__(self, sync: Sync) -> Kind:
        what = (
            f"{sync.name} is of the kind tokens and has no runs: `scrape` lists its instances, GET /v1/synced asks them"
        )
        raise SynclineError("USAGE", what)
