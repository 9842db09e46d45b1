"""The metrics of syncs of backups in the console, under the names that git-sync's dashboards use."""

from __future__ import annotations

import time
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from syncline.config.sync import Sync
from syncline.kinds.backups.config import BackupsSync, GitTarget
from syncline.store.backup_index import BackupIndex
from syncline.store.table import Database
from syncline.store.totals import Totals
from syncline.web.metrics import histogram_buckets


def metrics(sync: Sync, totals: Totals, database: Database) -> Iterator[Metric]:
    """Yield the metrics of one sync."""
    assert isinstance(sync, BackupsSync)
    repository = sync.target.repository if isinstance(sync.target, GitTarget) else sync.name
    values = (sync.name,)
    duration = HistogramMetricFamily("git_sync_duration_seconds", "Complete sync operation duration.", labels=["sync"])
    duration.add_metric(values, histogram_buckets(totals), totals.seconds)
    yield duration
    counters = {
        "git_sync_errors": ("Total number of sync failures.", totals.failed),
        "git_sync_files_processed": ("Cumulative files processed.", totals.items["moved"] + totals.items["removed"]),
    }
    gauges = {
        "git_sync_last_success_timestamp": ("Unix timestamp of last success.", totals.last_success),
        "git_sync_clusters_backed_up": (
            "Number of clusters backed up.",
            BackupIndex(database, time.time).clusters_of(repository),
        ),
    }
    for family, samples in ((CounterMetricFamily, counters), (GaugeMetricFamily, gauges)):
        for name, (text, value) in samples.items():
            metric = family(name, text, labels=["sync"])
            metric.add_metric(values, value)
            yield metric
