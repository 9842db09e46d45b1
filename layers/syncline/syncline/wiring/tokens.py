"""How syncs of tokens are put together: what asks their instances, and the function URL in front of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from syncline.clients.instances import Instance
from syncline.config import Sync, load_sync
from syncline.config.tokens import Request, TokensSync
from syncline.errors import SynclineError
from syncline.kinds.kind import Kind
from syncline.kinds.tokens.canary import Call, Canary, CanaryRules
from syncline.kinds.tokens.listing import Listing
from syncline.kinds.tokens.patience import Patience
from syncline.kinds.tokens.probing import Prober, Rules
from syncline.kinds.tokens.verdict import Quorum
from syncline.secrets import Secrets
from syncline.service.api import Observer, ProbeApi
from syncline.service.directory import Directory
from syncline.service.function_url import request_of, response_of
from syncline.service.loop import Loop
from syncline.state import State
from syncline.stores.instances import InstanceLists, Record
from syncline.wiring.parts import Parts

KIND: Final = "tokens"


class Builder:
    """What a run of a sync of tokens would be made of; there are none."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def __call__(self, sync: Sync) -> Kind:
        what = f"{sync.name} is of the kind tokens: it has no runs; ask GET /v1/synced, which `scrape` keeps ready"
        raise SynclineError("USAGE", what)


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


def canary_of(sync: TokensSync, secrets: Secrets, prober: Prober) -> Canary | None:
    """The canary of a sync that has one; raises why a reference cannot be resolved."""
    if sync.canary is None:
        return None
    rules = CanaryRules(
        _call(sync.canary.write),
        _call(sync.canary.read),
        _call(sync.canary.delete),
        {name: secrets.resolve(reference) for name, reference in sync.canary.headers.items()},
        sync.canary.long_value,
        sync.canary.watch_deletes,
    )
    return Canary(rules, sync.check.host, sync.sync_interval, prober.rules.patience, prober.replicas)


def _call(request: Request) -> Call:
    return Call(request.method, request.path, request.body)


class ProbeFunction:
    """What the function behind the probe's URL does."""

    def __init__(
        self,
        syncs: Callable[[], Mapping[str, TokensSync]],
        listings: StoredListings,
        secrets: Secrets,
        observer: Observer,
        loop: Loop | None = None,
    ) -> None:
        self.loop = loop or Loop()
        self.directory = Directory(syncs, listings, lambda sync: self._prober(rules_of(sync, secrets)))
        self._api = ProbeApi(self.directory, observer)

    def handle(self, event: dict[str, Any]) -> dict[str, Any]:
        """A function URL's event (payload format 2.0); its response."""
        self.directory.refresh()
        return response_of(self.loop.run(self._api.answer(request_of(event))))

    def _prober(self, rules: Rules) -> Prober:
        return self.loop.call(lambda: Prober(rules, self.loop.loop))
