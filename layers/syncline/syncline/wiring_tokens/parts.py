"""Parts of all three functions of tokens: the syncs and lists that are stored, and what asks a sync's instances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from syncline.clients.replicas.instances import Instance
from syncline.config import Sync, load_sync
from syncline.config.tokens import TokensSync
from syncline.errors import SynclineError
from syncline.kinds.tokens.listing import Listing
from syncline.kinds.tokens.patience import Patience
from syncline.kinds.tokens.probing import Rules
from syncline.kinds.tokens.verdict import Quorum
from syncline.secrets import Secrets
from syncline.store.instances import InstanceLists, Record
from syncline.store.state import State
from syncline.telemetry import logger

KIND: Final = "tokens"


class StoredListings:
    """Lists in the table."""

    def __init__(self, lists: InstanceLists) -> None:
        self._lists = lists

    def all(self) -> Mapping[str, Listing]:
        return {sync: _listing(sync, record) for sync, record in self._lists.all().items()}

    def listed(self, sync: str, instances: Sequence[Instance], seen: float) -> None:
        self._lists.put(sync, [instance.as_json() for instance in instances], seen)

    def not_listed(self, sync: str, error: SynclineError) -> None:
        self._lists.fail(sync, error.code.name, error.what)


def _listing(sync: str, record: Record) -> Listing:
    """Return a stored list; one that this version does not understand is as good as none."""
    try:
        return Listing(tuple(map(Instance.from_json, record.instances)), record.seen, record.failed)
    except (KeyError, TypeError, ValueError) as error:
        logger.error("stored list not understood", extra={"sync": sync, "error": type(error).__name__})
        return Listing(failed=record.failed)


class StoredSyncs:
    """The applied syncs of tokens that are enabled; a configuration is parsed once."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._parsed: dict[str, tuple[str, Sync]] = {}

    def __call__(self) -> Mapping[str, TokensSync]:
        found = {}
        for name in self._state.sync_names():
            try:
                sync = self._sync(name)
            except SynclineError as error:
                logger.error("sync not used", extra={"sync": name, "code": error.code.name, "why": error.what})
                continue
            if isinstance(sync, TokensSync) and sync.enabled:
                found[name] = sync
        return found

    def _sync(self, name: str) -> Sync | None:
        """Return a sync, or None for one of another kind, which is not parsed.

        Raises NO_SUCH_SYNC for one that was removed just now, CONFIG_INVALID for one that is not understood.
        """
        text = self._state.sync_config(name)
        if f'"kind":"{KIND}"' not in text:
            return None
        parsed = self._parsed.get(name)
        if parsed is None or parsed[0] != text:
            parsed = self._parsed[name] = (text, load_sync(text))
        return parsed[1]


def rules_of(sync: TokensSync, secrets: Secrets) -> Rules:
    """How a sync's instances are asked; raises why a reference cannot be resolved."""
    check, quorum = sync.check, sync.quorum
    return Rules(
        check.path,
        check.host,
        check.cookie,
        Quorum("count", quorum) if isinstance(quorum, int) else Quorum(quorum),
        Patience.of(sync.sync_interval, sync.retry_for, sync.deadline),
        sync.stale_after,
        check.server_name,
        None if check.ca is None else secrets.text(check.ca),
        check.plain_http,
    )
