"""Builds the objects of the functions `probe`, `scrape` and `canary`, each once per process, on first use.

Imports are kept to a minimum, as a login waits while `probe` starts.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from botocore.config import Config

from syncline.clients.replicas.instances import Instance
from syncline.config.sync import Sync, load_sync
from syncline.environment import FunctionEnvironment
from syncline.errors import SynclineError
from syncline.kinds.tokens.ask import AskSchedule
from syncline.kinds.tokens.canary import CanaryMemory
from syncline.kinds.tokens.config import TokensSync
from syncline.kinds.tokens.listing import Listing
from syncline.kinds.tokens.metrics import CloudWatchMetrics
from syncline.kinds.tokens.probe import ProbeRules
from syncline.secrets import Secrets
from syncline.store.state import State
from syncline.store.table import Database
from syncline.store.tokens import CanaryRecords, InstanceList, InstanceLists
from syncline.telemetry import logger

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.service_resource import Table

    from syncline.kinds.tokens.wiring_canary import Canaries
    from syncline.kinds.tokens.wiring_probe import ProbeFunction
    from syncline.kinds.tokens.wiring_scrape import Scraping


KIND: Final = "tokens"


class StoredListings:
    """Listings in the table."""

    def __init__(self, lists: InstanceLists) -> None:
        self._lists = lists

    def all(self) -> Mapping[str, Listing]:
        return {sync: _listing(sync, record) for sync, record in self._lists.all().items()}

    def listed(self, sync: str, instances: Sequence[Instance], seen: float) -> None:
        self._lists.put(sync, [instance.as_json() for instance in instances], seen)

    def not_listed(self, sync: str, error: SynclineError) -> None:
        self._lists.fail(sync, error.code.name, error.what)


def _listing(sync: str, record: InstanceList) -> Listing:
    """Return a stored list; one of an incompatible version counts as missing."""
    try:
        return Listing(tuple(map(Instance.from_json, record.instances)), record.seen, record.failed)
    except (KeyError, TypeError, ValueError) as error:
        logger.error("stored list not understood", extra={"sync": sync, "error": type(error).__name__})
        return Listing(failed=record.failed)


class StoredSyncs:
    """The enabled syncs of tokens. Each configuration is parsed once."""

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
        """Return a sync; None for one of another kind, which is not parsed.

        Raises NO_SUCH_SYNC if it was removed meanwhile, CONFIG_INVALID if its configuration is invalid.
        """
        text = self._state.sync_config(name)
        if f'"kind":"{KIND}"' not in text:
            return None
        parsed = self._parsed.get(name)
        if parsed is None or parsed[0] != text:
            parsed = self._parsed[name] = (text, load_sync(text))
        return parsed[1]


def rules_of(sync: TokensSync, secrets: Secrets) -> ProbeRules:
    """Return the rules for asking a sync's instances. Raises the error of a reference that cannot be resolved."""
    schedule = AskSchedule.of(sync.sync_interval, sync.retry_for, sync.deadline)
    ca = None if sync.check.ca is None else secrets.text(sync.check.ca)
    return ProbeRules(sync.check, sync.quorum, schedule, sync.stale_after, ca, sync.zone_sync)


class StoredMemories:
    """Memories in the table, so that the order of the writers survives the process."""

    def __init__(self, records: CanaryRecords) -> None:
        self._records = records

    def recall(self, sync: str) -> CanaryMemory:
        record = self._records.get(sync)
        return CanaryMemory() if record is None else CanaryMemory(*record)

    def remember(self, sync: str, memory: CanaryMemory) -> None:
        self._records.put(sync, memory.last_writer, memory.failures)


# A verdict must come within seconds, so requests to AWS fail early.
_AWS_CONFIG: Final = Config(retries={"mode": "standard", "max_attempts": 3}, connect_timeout=2, read_timeout=5)


@cache
def prober() -> ProbeFunction:
    """Return the object behind the function `probe`."""
    from syncline.kinds.tokens.wiring_probe import ProbeFunction  # noqa: PLC0415 - the others do not need it
    from syncline.store.read_only_table import open_table  # noqa: PLC0415 - it only reads

    table = open_table(FunctionEnvironment.read("probe").table, _AWS_CONFIG)
    return ProbeFunction(StoredSyncs(State(table)), _listings(table), _secrets(), CloudWatchMetrics())


@cache
def scraper() -> Scraping:
    """Return the object behind the function `scrape`."""
    from syncline.kinds.tokens.wiring_scrape import Scraping  # noqa: PLC0415 - clusters are nothing to a probe

    table = _table("scrape")
    return Scraping(StoredSyncs(State(table)), _listings(table), _secrets(), time.time, CloudWatchMetrics())


@cache
def canaries() -> Canaries:
    """Return the object behind the function `canary`."""
    from syncline.kinds.tokens.wiring_canary import Canaries  # noqa: PLC0415 - the others do not need it

    table = _table("canary")
    memories = StoredMemories(CanaryRecords(Database(table), time.time))
    return Canaries(StoredSyncs(State(table)), _listings(table), memories, _secrets(), CloudWatchMetrics())


def _listings(table: Table) -> StoredListings:
    return StoredListings(InstanceLists(Database(table), time.time))


def _table(function: str) -> Table:
    import boto3  # noqa: PLC0415 - a probe does without

    return boto3.resource("dynamodb", config=_AWS_CONFIG).Table(FunctionEnvironment.read(function).table)


@cache
def _secrets() -> Secrets:
    return Secrets(lambda: _client("secretsmanager"), lambda: _client("ssm"))


def _client(name: Any) -> Any:
    import boto3  # noqa: PLC0415 - only where a secret is AWS's

    return boto3.client(name, config=_AWS_CONFIG)
