"""Foreign files at the target: they stay as they are, and the report shows them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from syncline.clients.s3.client import Bucket
from syncline.errors import SynclineError
from syncline.kinds.backups.layout import Layout
from syncline.kinds.backups.ours import Ledger
from syncline.kinds.backups.paths import shown
from syncline.kinds.backups.reading import Clusters
from syncline.model import Outcome, Result

EXTRAS: Final = 100
"""Extras of a cluster that are listed in a run; the others are counted."""


def foreign(group: str, key: str, source: str | None, target: str) -> Result:
    """Return the result of a foreign file: a conflict where the source has another under its name, else an extra."""
    if source is None:
        return Result(group, key, Outcome.EXTRA, None, target)
    what = f"{shown(key)} was not written by this sync, and is another at the source"
    return Result(group, key, Outcome.CONFLICT, source, target, 0, "FILE_DIFFERS", what)


def check_listing(bucket: Bucket, layout: Layout, found: Clusters, there: Collection[str], ledger: Ledger) -> None:
    """Check a bucket's list of clusters, of which the target has those ``there``.

    Raises LISTING_INCOMPLETE if the bucket lists none, although files of ours lie in those of the target, and
    SOURCE_ABSENT if it has no object below the source's prefix.
    """
    if found.names:
        return
    ours = [cluster for cluster in there if ledger.has(cluster)]
    if ours:
        what = f"{bucket} is listed without a single cluster, while the target has {len(ours)}"
        raise SynclineError("LISTING_INCOMPLETE", what)
    if found.is_empty and layout.prefix:
        raise SynclineError("SOURCE_ABSENT", f"{bucket} has no object below {layout.prefix!r}")
