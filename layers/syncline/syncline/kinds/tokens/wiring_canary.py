"""Builds and runs the canaries, one for each sync that has one, on the connections of its prober."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

from syncline.clients.replicas.instances import Instance
from syncline.errors import SynclineError
from syncline.kinds.tokens.canary import Canary, CanaryMemories, CanaryMemory, CanaryRole, CheckResult, failed_round
from syncline.kinds.tokens.config import TokensSync
from syncline.kinds.tokens.isolation import Isolated
from syncline.kinds.tokens.listing import Listing, ListingStore
from syncline.kinds.tokens.loop import Loop
from syncline.kinds.tokens.metrics import TokenMetrics
from syncline.kinds.tokens.probe import Prober
from syncline.kinds.tokens.wiring import rules_of
from syncline.secrets import Secrets
from syncline.telemetry import logger

DEADLINE: Final = 240.0
"""Seconds for the rounds of all syncs together; less than the timeout of the function `canary`."""


@dataclass(frozen=True, slots=True)
class CanaryRound:
    """The results of one sync's round, and the confirmed faults after it."""

    results: tuple[CheckResult, ...]
    faults: tuple[str, ...]


@dataclass
class Canaries:
    """Runs a round for each sync, each in a separate thread, so that one that hangs delays no other."""

    syncs: Callable[[], Mapping[str, TokensSync]]
    listings: ListingStore
    memories: CanaryMemories
    secrets: Secrets
    counts: TokenMetrics

    def __post_init__(self) -> None:
        self._uncounted: dict[str, CanaryMemory] = {}
        self._before: dict[str, CanaryMemory] = {}  # the memory to which a failure of the latest round is added
        self._loop = Loop()
        self._made: dict[str, tuple[TokensSync, Prober, Canary]] = {}
        self._isolated: Isolated[CanaryRound] = Isolated("the canary", DEADLINE)
        self._counting = threading.Lock()

    def run(self, name: str | None = None) -> dict[str, CanaryRound]:
        """Run a round for each sync that has a canary, or for the one called `name`, and return the results."""
        lists = self.listings.all()
        rounds = {
            sync.name: partial(self._round, sync, lists.get(sync.name, Listing()))
            for sync in self.syncs().values()
            if sync.canary is not None and name in (None, sync.name)
        }
        return {
            sync: self._failed(sync, result) if isinstance(result, SynclineError) else result
            for sync, result in self._isolated.run(rounds).items()
        }

    def _failed(self, sync: str, error: SynclineError) -> CanaryRound:
        """Count a round that ended with an error: the table was unreachable, a thread hangs, or there is a defect.

        One such round is not a confirmed fault. If the table cannot be written, the round is counted in this process. The
        table may already contain the round although it ended with an error, so the memory from before it is used.
        """
        found = failed_round(f"{error.code.name}: {error.what}")
        uncounted = self._uncounted.pop(sync, CanaryMemory())
        try:
            before = self._before.get(sync) or self.memories.recall(sync)
            after = self._before[sync] = before.after([found], None, ())  # a round that hangs may fail again
            self.memories.remember(sync, after)
        except Exception as problem:  # noqa: BLE001 - the round has failed in any case
            logger.warning("canary round not counted", extra={"sync": sync, "error": type(problem).__name__})
            # The table's content is unknown, and must not be overwritten with older memory.
            after = self._uncounted[sync] = uncounted.after([found], None, ())
        round_ = CanaryRound((found,), after.faults)
        self._report(sync, round_)
        return round_

    def _round(self, sync: TokensSync, listing: Listing) -> CanaryRound:
        found, writer = self._results(sync, listing, self._recalled(sync.name))
        # Another round may have been counted meanwhile.
        after = self._recalled(sync.name).after(found, writer, listing.instances)
        if not any(each.role is CanaryRole.ROUND for each in found):
            self._before[sync.name] = after
        self.memories.remember(sync.name, after)
        self._uncounted.pop(sync.name, None)
        round_ = CanaryRound(tuple(found), after.faults)
        self._report(sync.name, round_)
        return round_

    def _recalled(self, sync: str) -> CanaryMemory:
        self._before.pop(sync, None)
        memory = self._before[sync] = self.memories.recall(sync)
        return memory

    def _results(
        self, sync: TokensSync, listing: Listing, memory: CanaryMemory
    ) -> tuple[list[CheckResult], Instance | None]:
        problem = listing.problem(time.time(), sync.stale_after)
        if problem is None:
            try:
                return self._loop.run(self._canary(sync).round(listing.instances, memory))
            except SynclineError as error:
                why = f"{error.code.name}: {error.what}"
        else:
            why = f"the list of instances cannot be used ({problem.value})"
        return [failed_round(why)], None

    def _report(self, sync: str, round_: CanaryRound) -> None:
        """Log and count a round."""
        for each in round_.results:
            log = logger.warning if each.bad else logger.info
            fields = {"sync": sync, "instance": each.instance, "check": each.check.value, "seconds": each.seconds}
            fields |= {"role": each.role.value, "outcome": each.outcome.value, "why": each.reason}
            log("canary", extra=fields)
        if round_.faults:
            logger.error("canary faults confirmed", extra={"sync": sync, "faults": round_.faults})
        with self._counting:  # metrics are log lines, which must not be interleaved
            self.counts.canary_round(sync, round_.results, len(round_.faults))

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
        assert sync.canary is not None
        rules = rules_of(sync, self.secrets)
        headers = {name: self.secrets.resolve(reference) for name, reference in sync.canary.headers.items()}
        prober = self._loop.call(lambda: Prober(rules, self._loop.loop))
        canary = Canary(sync, headers, rules.schedule, prober.replicas)
        self._made[sync.name] = (sync, prober, canary)
        return canary
