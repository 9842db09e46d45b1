"""How the canaries are put together: one for each sync that has one, on the connections of its prober."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

from syncline.config.tokens import Request, TokensSync
from syncline.errors import SynclineError
from syncline.kinds.tokens.canary import Call, Canary, CanaryRules, Sighting
from syncline.kinds.tokens.listing import Listing, Listings
from syncline.kinds.tokens.probing import Prober
from syncline.secrets import Secrets
from syncline.service.counting import Counts
from syncline.service.loop import Loop
from syncline.telemetry import logger
from syncline.wiring_tokens.parts import rules_of


class Canaries:
    """Flies a round for each sync. What it made of a configuration it keeps, so that canaries take turns."""

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

    def fly(self) -> dict[str, list[Sighting]]:
        """One round for each sync that has a canary and a list that can be believed; all of them side by side."""
        lists = self._listings.all()
        rounds = {}
        for name, sync in self._syncs().items():
            listing = lists.get(name, Listing())
            problem = listing.problem(time.time(), sync.stale_after)
            if sync.canary is None:
                continue
            if problem is not None:
                logger.warning("canary not flown", extra={"sync": name, "why": problem.value})
                continue
            try:
                rounds[name] = (self._canary(sync), listing)
            except SynclineError as error:
                logger.error("canary not flown", extra={"sync": name, "code": error.code.name, "why": error.what})
        flown = self._loop.run(_all(rounds))
        for name, sightings in flown.items():
            self._counts.sighted(name, sightings)
        return flown

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


async def _all(rounds: Mapping[str, tuple[Canary, Listing]]) -> dict[str, list[Sighting]]:
    found = await asyncio.gather(*(canary.round(listing.instances) for canary, listing in rounds.values()))
    for name, sightings in zip(rounds, found, strict=True):
        for each in sightings:
            say = logger.warning if each.bad else logger.info
            fields = {"sync": name, "instance": each.instance, "check": each.check.value, "seconds": each.seconds}
            say("canary", extra={**fields, "outcome": each.outcome.value, "why": each.reason})
    return dict(zip(rounds, found, strict=True))


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
