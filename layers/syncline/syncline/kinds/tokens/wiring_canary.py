"""Builds and flies the canaries: one for each sync that has one, on the connections of its prober."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

from syncline.clients.replicas.instances import Instance
from syncline.errors import SynclineError
from syncline.kinds.tokens.canary import (
    Call,
    Canary,
    CanaryMemories,
    CanaryMemory,
    CanaryRules,
    Role,
    Sighting,
    failed_round,
)
from syncline.kinds.tokens.config import Request, TokensSync
from syncline.kinds.tokens.isolation import Isolated
from syncline.kinds.tokens.listing import Listing, Listings
from syncline.kinds.tokens.loop import Loop
from syncline.kinds.tokens.metrics import Counts
from syncline.kinds.tokens.probe import Prober
from syncline.kinds.tokens.wiring import rules_of
from syncline.secrets import Secrets
from syncline.telemetry import logger

DEADLINE: Final = 240.0
"""Seconds for the rounds of all syncs together; less than the function `canary` has."""


@dataclass(frozen=True, slots=True)
class Flown:
    """A round of one sync, and the faults that are confirmed after it."""

    sightings: tuple[Sighting, ...]
    faults: tuple[str, ...]


class Canaries:
    """Flies a round for each sync, each in a thread of its own, so that one that hangs delays no other."""

    def __init__(
        self,
        syncs: Callable[[], Mapping[str, TokensSync]],
        listings: Listings,
        memories: CanaryMemories,
        secrets: Secrets,
        counts: Counts,
    ) -> None:
        self._syncs = syncs
        self._listings = listings
        self._secrets = secrets
        self._counts = counts
        self._memories = memories
        self._uncounted: dict[str, CanaryMemory] = {}
        self._before: dict[str, CanaryMemory] = {}  # what the failure of the latest round is added to
        self._loop = Loop()
        self._made: dict[str, tuple[TokensSync, Prober, Canary]] = {}
        self._isolated: Isolated[Flown] = Isolated("the canary", DEADLINE)
        self._counting = threading.Lock()

    def fly(self, name: str | None = None) -> dict[str, Flown]:
        """Fly a round for each sync that has a canary, or for the one called `name`, and return the results."""
        lists = self._listings.all()
        rounds = {
            sync.name: partial(self._round, sync, lists.get(sync.name, Listing()))
            for sync in self._syncs().values()
            if sync.canary is not None and name in (None, sync.name)
        }
        flown = {}
        for sync_name, result in self._isolated.run(rounds).items():
            if isinstance(result, SynclineError):
                result = self._failed(sync_name, result)  # noqa: PLW2901 - it stands for the round
            flown[sync_name] = result
        return flown

    def _failed(self, sync: str, error: SynclineError) -> Flown:
        """Count a round that ended with an error: the table was out of reach, a thread hangs, or there is a defect.

        One such round is no confirmed fault. If it cannot be counted in the table, it is counted in this process. The
        table may have the round's own count although the round ended with an error, so the count before it is used.
        """
        found = failed_round(f"{error.code.name}: {error.what}")
        uncounted = self._uncounted.pop(sync, CanaryMemory())
        try:
            before = self._before.get(sync) or self._memories.recall(sync)
            after = self._before[sync] = before.after([found], None, ())  # a round that hangs may fail again
            self._memories.remember(sync, after)
        except Exception as problem:  # noqa: BLE001 - the round has failed whatever this was
            logger.warning("canary round not counted", extra={"sync": sync, "error": type(problem).__name__})
            # What the table had before is not known. It must not be overwritten with what an older round knew.
            after = self._uncounted[sync] = uncounted.after([found], None, ())
        flown = Flown((found,), after.faults)
        self._tell(sync, flown)
        return flown

    def _round(self, sync: TokensSync, listing: Listing) -> Flown:
        found, writer = self._seen(sync, listing, self._recalled(sync.name))
        # Another round may have been counted since.
        after = self._recalled(sync.name).after(found, writer, listing.instances)
        if not any(each.role is Role.ROUND for each in found):
            self._before[sync.name] = after
        self._memories.remember(sync.name, after)
        self._uncounted.pop(sync.name, None)
        flown = Flown(tuple(found), after.faults)
        self._tell(sync.name, flown)
        return flown

    def _recalled(self, sync: str) -> CanaryMemory:
        self._before.pop(sync, None)
        memory = self._before[sync] = self._memories.recall(sync)
        return memory

    def _seen(self, sync: TokensSync, listing: Listing, memory: CanaryMemory) -> tuple[list[Sighting], Instance | None]:
        problem = listing.problem(time.time(), sync.stale_after)
        if problem is None:
            try:
                return self._loop.run(self._canary(sync).round(listing.instances, memory))
            except SynclineError as error:
                why = f"{error.code.name}: {error.what}"
        else:
            why = f"the list of instances cannot be used ({problem.value})"
        return [failed_round(why)], None

    def _tell(self, sync: str, flown: Flown) -> None:
        """Log and count a round."""
        for each in flown.sightings:
            say = logger.warning if each.bad else logger.info
            fields = {"sync": sync, "instance": each.instance, "check": each.check.value, "seconds": each.seconds}
            fields |= {"role": each.role.value, "outcome": each.outcome.value, "why": each.reason}
            say("canary", extra=fields)
        if flown.faults:
            logger.error("canary faults confirmed", extra={"sync": sync, "faults": flown.faults})
        with self._counting:  # metrics are lines of the log, and must not be mixed
            self._counts.sighted(sync, flown.sightings, len(flown.faults))

    def close(self) -> None:
        """Close every connection, and end the loop."""
        for _, prober, _ in self._made.values():
            self._loop.call(prober.close)
        self._loop.stop()

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


def canary_of(sync: TokensSync, secrets: Secrets, prober: Prober) -> Canary | None:
    """Return the canary of a sync, None if it has none; raises why a reference cannot be resolved."""
    if sync.canary is None:
        return None
    headers = {name: secrets.resolve(reference) for name, reference in sync.canary.headers.items()}
    rules = CanaryRules(
        _call(sync.canary.write, headers),
        _call(sync.canary.read, headers),
        _call(sync.canary.delete, headers),
        Call("GET", sync.check.path, headers={"Cookie": f"{sync.check.cookie}={{key}}"}),
        sync.canary.long_value,
        sync.canary.watch_deletes,
    )
    return Canary(rules, sync.check.host, sync.sync_interval, prober.rules.patience, prober.replicas)


def _call(request: Request, headers: Mapping[str, str]) -> Call:
    return Call(request.method, request.path, request.body, headers)
