"""The log line at the end of a run, with the event names that git-sync writes."""

from __future__ import annotations

from collections.abc import Iterable

from syncline.clients.s3.client import Bucket
from syncline.errors import SynclineError
from syncline.kinds.backups.commit import Rules
from syncline.kinds.backups.reading import clusters_in
from syncline.model import Outcome, Result, Run, RunStatus


def tell(rules: Rules, bucket: Bucket, run: Run, results: Iterable[Result]) -> None:
    """Log ``sync_complete`` with the counts of a run, or ``sync_failed`` if an item failed or the run was cancelled."""
    changed = [each for each in results if each.outcome in (Outcome.MOVED, Outcome.REMOVED)]
    counts = run.counts
    data: dict[str, object] = {
        "clusters_processed": len(_clusters(rules, bucket, run) | {rules.layout.cluster_of(e.name) for e in changed}),
        "files_downloaded": counts.moved,
        "files_changed": len(changed),
        "files_unchanged": counts.skipped,
        "files_failed": counts.failed,
        "duration_ms": round(1000 * ((run.ended or run.started) - run.started), 1),
    }
    good = run.status is RunStatus.DONE and not counts.failed
    rules.say("sync_complete" if good else "sync_failed", data, {})


def _clusters(rules: Rules, bucket: Bucket, run: Run) -> set[str | None]:
    """Return the clusters that a run scanned, or none where the bucket cannot be listed: the run is over either way."""
    if run.scope.groups is not None:
        named = (g.partition("/")[0] if g.endswith("/") else rules.layout.cluster_of(g) for g in run.scope.groups)
        return set(named) - {None}
    try:
        return set(clusters_in(bucket, rules.layout).names)
    except SynclineError:
        return set()
