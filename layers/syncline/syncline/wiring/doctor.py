"""Builds the checks of a sync, which its kind has."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

from syncline.config.sync import Sync
from syncline.errors import SynclineError
from syncline.kinds.table import kind_info
from syncline.wiring.checks import Check, CheckChain
from syncline.wiring.dependencies import Dependencies
from syncline.wiring.server_checks import address_chains, notification_chains


def chains_of(sync: Sync, parts: Dependencies, *, local: bool) -> list[CheckChain]:
    """Return the checks of a sync's sources and targets, and of the servers that it notifies.

    ``local`` is True for the engine on this machine. If a client cannot be built, such as for a proxy whose secret is
    missing, that is a failed check, and the servers are checked without credentials.
    """
    return [*_chains_of_kind(sync, parts, local=local), *notification_chains(sync, parts)]


def _chains_of_kind(sync: Sync, parts: Dependencies, *, local: bool) -> list[CheckChain]:
    module = f"syncline.kinds.{kind_info(sync.kind).name}.wiring_doctor"
    if find_spec(module) is None:
        return address_chains(sync, parts)
    try:
        found: list[CheckChain] = import_module(module).chains(sync, parts, local=local)
    except SynclineError as error:
        problem = error

        def raise_problem() -> str:
            raise problem

        return [*address_chains(sync, parts), CheckChain("sync", [Check("clients", raise_problem)])]
    return found
