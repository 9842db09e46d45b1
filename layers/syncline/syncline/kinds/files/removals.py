"""Removals of files that are gone from the source, within the limits of the sync."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from syncline.clients.s3.client import Bucket
from syncline.errors import SynclineError
from syncline.kinds.files.compare import FileChange
from syncline.kinds.files.config import FilesSync
from syncline.kinds.files.records import Records
from syncline.kinds.kind import Failure, StepContext
from syncline.model import Item
from syncline.ownership import Action, Limits, RemovalRequest, Windows

_RUN_WINDOW: Final = 30 * 86_400.0
"""Seconds for which the window of a run with its own removal limit is kept: longer than any run."""


@dataclass(frozen=True, slots=True)
class RemovalLimits:
    """Reserves the removals of one sync in its windows."""

    sync: FilesSync
    source: Bucket
    records: Records
    windows: Windows

    def reserve(self, gone: int, ours: int | None, context: StepContext, name: str) -> tuple[int, Failure | None]:
        """Reserve all of ``gone`` removals or none of them, and return their number and the failure if there is one.

        ``ours`` is the number of our files, None if it is to be counted. ``name`` is that of the request.
        """
        rule = self.sync.removals
        assert rule is not None
        own = context.allow_removals
        limits = rule.limits if own is None else Limits(1.0, own, _RUN_WINDOW)
        request = RemovalRequest(limits, gone, name, context.run, own is not None, keep=not context.plan)
        if own is not None:
            ours = sys.maxsize

        def removed(run: str) -> int:
            # A full scan counts while files are being removed, so those that its run has removed may be among its files.
            return 0 if run == context.run and ours is not None else context.removed(run)

        grant = self.windows.reserve(request, self._count if ours is None else lambda: ours, removed)
        if grant.allowed:
            return gone, None
        limit = f"the limit is {grant.most} of {grant.total} per {rule.per}"
        allowed = f"{limit if own is None else f'this run may remove {own}'}, of which {grant.used} are used"
        what = f"files gone from {self.source}: {gone}; {allowed}, so none is removed"
        return 0, capped(f"{what}. To remove them: syncline run {self.sync.name} --allow-removals {gone}")

    def _count(self) -> int:
        """Return the number of files that are ours and selected."""
        if not self.sync.selects:
            return self.records.count()
        return sum(self.sync.takes(self.sync.source.prefix + name) for name, _ in self.records.scan())


def capped(what: str) -> Failure:
    """Return the failure of a scan that removes nothing because of a limit."""
    return Failure(Item("*", "*"), SynclineError("REMOVALS_CAPPED", what))


def removals_among(changes: Sequence[FileChange], renames: Mapping[str, str]) -> list[FileChange]:
    """Return the removals that count against the limits.

    A key without record and file belongs to an item in flight, so its transfer decides.
    """
    origins = set(renames.values())
    gone = [change for change in changes if change.action is Action.REMOVE and change.key not in origins]
    return [change for change in gone if change.record is not None or change.existing is not None]
