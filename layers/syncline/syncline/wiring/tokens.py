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
        raise _no_runs(sync)


def hints(sync: Sync, _event: object, _now: float) -> tuple[str, ...]:
    """Say that a sync has no runs."""
    raise _no_runs(sync)


def _no_runs(sync: Sync) -> SynclineError:
    what = f"{sync.name} is of the kind tokens and has no runs: `scrape` lists its instances, GET /v1/synced asks them"
    return SynclineError("USAGE", what)
