"""Where tokens are put together: the functions `probe`, `scrape` and `canary`, and the container.

Apart from :mod:`syncline.wiring`, because somebody waits for a login while a probe starts, and of what the other
functions are made of it needs nothing. Made once for a process, on first use.
"""

from __future__ import annotations

import os
import time
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from botocore.config import Config

from syncline.secrets import Secrets
from syncline.service.counting import CloudWatchCounts
from syncline.store.instances import InstanceLists
from syncline.store.state import State
from syncline.store.table import Database
from syncline.wiring_tokens.parts import StoredListings, StoredSyncs

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.service_resource import Table

    from syncline.wiring_tokens.canaries import Canaries
    from syncline.wiring_tokens.probing import ProbeFunction
    from syncline.wiring_tokens.scraping import Scraping

# A verdict has seconds at most: rather none than a late one.
_AWS_CONFIG: Final = Config(retries={"mode": "standard", "max_attempts": 3}, connect_timeout=2, read_timeout=5)


@cache
def prober() -> ProbeFunction:
    """What the function behind the probe's URL does."""
    from syncline.wiring_tokens.lean_table import lean_table  # noqa: PLC0415 - it only reads
    from syncline.wiring_tokens.probing import ProbeFunction  # noqa: PLC0415 - the others do not need it

    table = lean_table(os.environ["SYNCLINE_TABLE"], _AWS_CONFIG)
    listings = StoredListings(InstanceLists(Database(table), time.time))
    return ProbeFunction(StoredSyncs(State(table)), listings, _secrets(), CloudWatchCounts())


@cache
def scraper() -> Scraping:
    """What the function `scrape` does."""
    from syncline.wiring_tokens.scraping import Scraping  # noqa: PLC0415 - clusters are nothing to a probe

    return Scraping(StoredSyncs(State(_table())), _listings(), _secrets(), time.time, CloudWatchCounts())


@cache
def canaries() -> Canaries:
    """What the function `canary` does."""
    from syncline.store.canaries import CanaryRecords  # noqa: PLC0415 - the others do not need it
    from syncline.wiring_tokens.canaries import Canaries  # noqa: PLC0415
    from syncline.wiring_tokens.memories import StoredMemories  # noqa: PLC0415

    memories = StoredMemories(CanaryRecords(Database(_table()), time.time))
    return Canaries(StoredSyncs(State(_table())), _listings(), memories, _secrets(), CloudWatchCounts())


def _listings() -> StoredListings:
    return StoredListings(InstanceLists(Database(_table()), time.time))


@cache
def _table() -> Table:
    import boto3  # noqa: PLC0415 - a probe does without

    return boto3.resource("dynamodb", config=_AWS_CONFIG).Table(os.environ["SYNCLINE_TABLE"])


@cache
def _secrets() -> Secrets:
    return Secrets(lambda: _client("secretsmanager"), lambda: _client("ssm"))


def _client(name: Any) -> Any:
    import boto3  # noqa: PLC0415 - only where a secret is AWS's

    return boto3.client(name, config=_AWS_CONFIG)
