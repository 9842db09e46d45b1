"""Parts of all three functions of tokens: the syncs and lists that are stored, and what asks a sync's instances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from syncline.clients.instances import Instance
from syncline.config import Sync, load_sync
from syncline.config.tokens import TokensSync
from syncline.errors import SynclineError
from syncline.kinds.tokens.listing import Listing
from syncline.kinds.tokens.patience import Patience
from syncline.kinds.tokens.probing import Rules
from syncline.kinds.tokens.verdict import Quorum
from syncline.secrets import Secrets
from syncline.state import State
from syncline.stores.instances import InstanceLists, Record

KIND: Final = "tokens"


class StoredListings:
    """Lists in the table."""

    def __init__(self, lists: InstanceLists) -> None:
        self._lists = lists

    def all(self) -> Mapping[str, Listing]:
        return {sync: _listing(record) for sync, record in self._lists.all().items()}

    def listed(self, sync: str, instances: Sequence[Instance], seen: float) -> None:
        self._lists.put(sync, [instance.as_json() for instance in instances], seen)

    def not_listed(self, sync: str, code: str) -> None:
        self._lists.fail(sync, code)


def _listing(record: Record) -> Listing:
    return Listing(tuple(map(Instance.from_json, record.instances)), record.seen, record.failed)


class StoredSyncs:
    """The applied syncs of tokens that are enabled; a configuration is parsed once."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._parsed: dict[str, tuple[str, Sync]] = {}

    def __call__(self) -> Mapping[str, TokensSync]:
        found = {}
        for name in self._state.sync_names():
            sync = self._sync(name)
            if isinstance(sync, TokensSync) and sync.enabled:
                found[name] = sync
        return found

    def _sync(self, name: str) -> Sync | None:
        """None for one of another kind, which is not parsed, and for one that was removed just now."""
        try:
            text = self._state.sync_config(name)
        except SynclineError:
            return None
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
