"""Builds and flies the canaries: one for each sync that has one, on the connections of its prober."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from syncline.config.tokens import Request, TokensSync
from syncline.errors import SynclineError
from syncline.kinds.tokens.canary import Call, Canary, CanaryRules, Sighting
from syncline.kinds.tokens.listing import Listing, Listings
from syncline.kinds.tokens.probing import Prober
from syncline.secrets import Secrets
from syncline.service.counting import Counts
from syncline.service.isolation import Isolated
from syncline.service.loop import Loop
from syncline.telemetry import logger
from syncline.wiring_tokens.parts import rules_of

_LONGEST_ROUND: Final = 200.0  # seconds; then it is given up, and what it wrote is deleted
_DEADLINE: Final = 240.0  # seconds; less than the function `canary` has


class Canaries:
    """Flies a round for each sync, each in a thread of its own, so that one that hangs delays no other."""

    def __init__(
        self,
        syncs: Callable[[], Mapping[str, TokensSync]],
        listings: Listings,
        secrets: Secrets,
        counts: Counts,
        loop: Loop | None = None,
    ) -> None:
        self._syncs = syncs
        self._listings = listings
        self._secrets = secrets
        self._counts = counts
        self._loop = loop or Loop()
        self._made: dict[str, tuple[TokensSync, Prober, Canary]] = {}
        self._isolated: Isolated[list[Sighting]] = Isolated("the canary", _DEADLINE)
        self._counting = threading.Lock()

    def fly(self, name: str | None = None) -> dict[str, list[Sighting]]:
        """Fly a round for each sync that has a canary, or for the one called `name`, and return what was seen."""
        lists = self._listings.all()
        rounds = {
            sync.name: partial(self._round, sync, lists.get(sync.name, Listing()))
            for sync in self._syncs().values()
            if sync.canary is not None and name in (None, sync.name)
        }
        flown = {}
        for sync_name, result in self._isolated.run(rounds).items():
            if isinstance(result, SynclineError):
                fields = {"sync": sync_name, "code": result.code.name, "why": result.what}
                logger.error("canary not flown", extra=fields)
            elif result:
                flown[sync_name] = result
        return flown

    def _round(self, sync: TokensSync, listing: Listing) -> list[Sighting]:
        problem = listing.problem(time.time(), sync.stale_after)
        if problem is not None:
            logger.warning("canary not flown", extra={"sync": sync.name, "why": problem.value})
            return []
        found = self._loop.run(_in_time(self._canary(sync), listing))
        for each in found:
            say = logger.warning if each.bad else logger.info
            fields = {"sync": sync.name, "instance": each.instance, "check": each.check.value, "seconds": each.seconds}
            say("canary", extra={**fields, "outcome": each.outcome.value, "why": each.reason})
        with self._counting:  # metrics are lines of the log, and must not be mixed
            self._counts.sighted(sync.name, found)
        return found

    def close(self) -> None:
        """Close every connection."""
        for _, prober, _ in self._made.values():
            self._loop.call(prober.close)

    def _canary(self, sync: TokensSync) -> Canary:
        made = self._made.get(sync.name)
        if made is not None and made[0] == sync:
            return made[2]
        if made is not None:
            self._loop.call(made[1].close)
        rules = rules_of(sync, self._secrets)
        prober = self._loop.call(lambda: Prober(rules, self._loop.loop))
        canary = canary_of(sync, self._secrets, prober)
        assert canary is not None
        self._made[sync.name] = (sync, prober, canary)
        return canary


async def _in_time(canary: Canary, listing: Listing) -> list[Sighting]:
    async with asyncio.timeout(_LONGEST_ROUND):
        return await canary.round(listing.instances)


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
