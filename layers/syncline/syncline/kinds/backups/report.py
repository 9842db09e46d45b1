"""Reports for people and logs: the message of a commit, and the log line at the end of a run."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from syncline.clients.s3.client import Bucket
from syncline.errors import SynclineError
from syncline.escaping import escape
from syncline.kinds.backups.paths import Layout
from syncline.kinds.backups.source import list_clusters
from syncline.model import Outcome, Result, Run, RunStatus

SYNC: Final = "Syncline-Sync"
"""The trailer that names the sync. Files put by such commits are the sync's own, even if the table is lost."""
BATCH: Final = "Syncline-Batch"  # the trailer with the batch, which identifies a commit whose push got no response

LogOperation = Callable[[str, dict[str, object], dict[str, float]], None]
"""Logs an operation: its name, its data, and its metrics."""


@dataclass(frozen=True, slots=True)
class Change:
    """A change of a path: the IDs of its blob before and after, None for no blob."""

    path: str
    before: str | None
    after: str | None


@dataclass(frozen=True, slots=True)
class Tally:
    """Numbers of new, modified and deleted paths."""

    new: int
    modified: int
    deleted: int

    @classmethod
    def of(cls, changes: Iterable[Change]) -> Tally:
        kinds = Counter((change.before is None, change.after is None) for change in changes)
        return cls(kinds[True, False], kinds[False, False], kinds[False, True])

    def __str__(self) -> str:
        return f"{self.new} new, {self.modified} modified, {self.deleted} deleted"


def commit_message(  # noqa: PLR0913, PLR0917 - the parts of a message
    sync: str, batch: str, seconds: float, files: Mapping[str, int], changed: Collection[str], tally: Tally
) -> str:
    """Return a commit's message. `files` has the number of files of each cluster, `changed` the changed clusters."""
    lines = [f"Automated backup sync - {time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(seconds))} UTC", ""]
    lines += [f"Clusters processed: {len(changed)}"]
    lines += [f"- {escape(cluster)}: {files[cluster]} files" for cluster in sorted(changed)]
    lines += ["", f"Total files: {sum(files.values())}", f"Changes: {tally}", ""]
    lines += [f"{SYNC}: {sync}", f"{BATCH}: {batch}", ""]
    return "\n".join(lines)


def log_run(log: LogOperation, layout: Layout, bucket: Bucket, run: Run, results: Iterable[Result]) -> None:
    """Log ``sync_complete`` with the counts of a run, or ``sync_failed`` if an item failed or the run was cancelled.

    The names of the events and their fields are those of git-sync.
    """
    changed = [each for each in results if each.outcome in (Outcome.MOVED, Outcome.REMOVED)]
    counts = run.counts
    data: dict[str, object] = {
        "clusters_processed": len(_clusters(layout, bucket, run) | {layout.cluster_of(each.name) for each in changed}),
        "files_downloaded": counts.moved,
        "files_changed": len(changed),
        "files_unchanged": counts.skipped,
        "files_failed": counts.failed,
        "duration_ms": round(1000 * ((run.ended or run.started) - run.started), 1),
    }
    succeeded = run.status is RunStatus.DONE and not counts.failed
    log("sync_complete" if succeeded else "sync_failed", data, {})


def _clusters(layout: Layout, bucket: Bucket, run: Run) -> set[str | None]:
    """Return the clusters that a run scanned, or none if the bucket cannot be listed: the run is over either way."""
    if run.scope.groups is not None:
        named = (g.partition("/")[0] if g.endswith("/") else layout.cluster_of(g) for g in run.scope.groups)
        return set(named) - {None}
    try:
        return set(list_clusters(bucket, layout).names)
    except SynclineError:
        return set()
