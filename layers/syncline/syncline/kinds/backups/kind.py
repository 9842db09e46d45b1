"""The kind `backups`: a bucket laid out ``<cluster>/<namespace>/…``, committed to branches of a git repository."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial

from syncline.clients.git.repository import RemoteBranch, RepositoryLocation, open_branch
from syncline.clients.http.client import Http
from syncline.kinds.backups.commit import Committer, SyncSettings, TransferResult
from syncline.kinds.backups.discover import SHARE, BackupScan
from syncline.kinds.backups.drill import NO_ACCESS, BranchTargets, Drill, DrillAccess
from syncline.kinds.backups.ownership import OwnedFiles
from syncline.kinds.backups.report import log_run
from syncline.kinds.backups.source import Index, Reader
from syncline.kinds.backups.verify import Verifier
from syncline.kinds.kind import Completed, Failure, Page, StepContext, Unfinished
from syncline.model import Audit, Item, Result, Run, Scope, Step


class Backups:
    """The kind ``backups`` for one sync.

    A group is a branch, an item a key of the bucket, a fingerprint the ID of a blob. `repository` returns the
    repository with its current credentials.
    """

    moves_by = Step.COMMIT
    share = SHARE

    def __init__(  # noqa: PLR0913, PLR0917 - each is a part of the kind
        self,
        settings: SyncSettings,
        reader: Reader,
        index: Index,
        owned: OwnedFiles,
        repository: Callable[[], RepositoryLocation],
        http: Http,
        drill_access: DrillAccess = NO_ACCESS,
    ) -> None:
        self._settings = settings
        self._reader = reader
        self._repository = repository
        self._http = http
        self._scan = BackupScan(settings, reader.bucket, index, owned, self._open)
        self._committer = Committer(settings, reader, index, owned, self._open)
        self._verifier = Verifier(settings.layout, self._open)
        targets = BranchTargets(settings, self._open, drill_access)
        self._drill = Drill(settings, reader, index, owned, settings.layout.branch_of, targets.open)
        self._opened = 0
        self._lock = threading.Lock()

    def discover(self, scope: Scope, cursor: str | None, context: StepContext) -> Iterator[Page]:
        return self._scan.pages(scope, cursor, context)

    def planned(self, items: Sequence[Item], context: StepContext) -> Iterator[Result]:
        return self._reader.plan(items, context)

    def transfer(self, items: Sequence[Item], context: StepContext) -> Iterator[TransferResult]:
        return self._committer.commit(items, context)

    def verify(self, items: Sequence[Item], context: StepContext) -> Iterator[Completed | Unfinished | Failure]:
        return self._verifier.verify(items, context)

    def audit(self, scope: Scope, cursor: str | None, context: StepContext, audit: Audit) -> Iterator[Page]:
        from syncline.kinds.backups import audit as audits  # noqa: PLC0415 - few functions audit

        layout = self._settings.layout
        opened = partial(audits.fetched_branch, layout, self._open)
        clusters = partial(audits.clusters_of_branches, layout, self._open)
        of_branch = audits.BackupAudit(self._reader, layout, layout.branch_of, opened, clusters, audit)
        return of_branch.pages(scope, cursor, context)

    def drill(self, scope: Scope, cursor: str | None, context: StepContext, share: float) -> Iterator[Page]:
        return self._drill.pages(scope, cursor, context, share)

    def ended(self, run: Run, results: Iterable[Result]) -> None:
        log_run(self._settings.log, self._settings.layout, self._reader.bucket, run, results)

    def reference(self, group: str) -> str:
        return self._settings.reference(group)

    def requests(self) -> int:
        """Return the number of requests to the bucket, plus one for each time the repository was opened."""
        return self._http.requests_made + self._opened

    def _open(self, name: str, context: StepContext) -> AbstractContextManager[RemoteBranch]:
        with self._lock:
            self._opened += 1
        depth = self._settings.layout.depth
        return open_branch(self._repository(), name, depth=depth, left=context.left, halted=context.halted)
