"""Pages of metrics with a sample of every metric: of the console, and of the container of tokens."""

from __future__ import annotations

from dataclasses import replace

from syncline.config.sync import Sync
from syncline.kinds.tokens.canary import CanaryCheck, CheckOutcome, CheckResult
from syncline.kinds.tokens.metrics import PrometheusMetrics
from syncline.kinds.tokens.verdict import ProbeResult, Reason, Verdict
from syncline.kinds.tokens.wiring_scrape import ScrapeResult
from syncline.messages import QueueDepth
from syncline.model import STATUSES, Counts, Lags, Traffic
from syncline.store.health import Health
from syncline.store.totals import BUCKETS, Totals
from syncline.web.metrics import Figures, exposition
from syncline.wiring.environments import QUEUES

NOW = 1_790_000_500.0


def stale_figures() -> Figures:
    """Return those of a stale sync with a run in progress, and with a value of every metric."""
    items = dict.fromkeys(("moved", "skipped", "left_out", "removed", "extra", "conflict", "failed"), 1)
    counted = ("2xx", "throttled", "waited", *STATUSES)
    traffic = Traffic({(system, what): 2 for system in ("source", "target") for what in counted})
    totals = Totals((1,) * (len(BUCKETS) + 1), 60.0, 1, items, 1000, NOW - 500, 2, Lags({3: 1}, 4), traffic)
    health = Health(False, NOW - 90_000, NOW - 80_000, NOW - 90_000)
    sync = Sync(name="shop", kind="images", fresh_within="2h")
    current = Counts(queued=9, moved=3)
    return Figures(
        sync,
        totals,
        health,
        current,
        started=NOW - 40_000,
        advanced=NOW - 30_000,
        given_up=2,
        restore_verified=NOW - 90_000,
        restore_within=86_400.0,
    )


def all_depths() -> list[QueueDepth]:
    """Return queues without consumers, and dead letters of each."""
    return [QueueDepth(queue, dead, 3, 0, 0) for queue in QUEUES for dead in (False, True)]


def console_page() -> str:
    """Return the console's page: a stale sync, a queue without a consumer, and dead letters."""
    verified = replace(stale_figures(), sync=Sync(name="fresh", kind="files"), health=Health(True, NOW, NOW, NOW))
    return exposition([stale_figures(), verified], NOW, all_depths()).decode()


def container_page() -> str:
    """Return the container's page, with late logins, faults and a failed listing."""
    metrics = PrometheusMetrics()
    metrics.verdict("gateway", ProbeResult(Verdict.SYNCED, Reason.ALL_AGREE, milliseconds=900))
    metrics.verdict("gateway", ProbeResult(Verdict.PARTIALLY, Reason.SOME_DO_NOT, milliseconds=2500))
    metrics.scraped([ScrapeResult("gateway", 3, 3), ScrapeResult("other", failed="FORBIDDEN")])
    metrics.canary_round("gateway", [CheckResult(CanaryCheck.WRITE, "gateway-1", CheckOutcome.ARRIVED, 0.7)], 1)
    return metrics.text().decode()
