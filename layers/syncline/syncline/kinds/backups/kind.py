"""Backups: a bucket laid out ``<cluster>/<namespace>/…`` as a branch of a git repository, commit by commit."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager

from syncline.clients.git.repository import Branch, Place, open_branch
from syncline.clients.http.client import Http
from syncline.clients.s3.client import Bucket
from syncline.kinds.backups.commit import Answer, Committer, Rules
from syncline.kinds.backups.discover import SHARE, Look
from syncline.kinds.backups.memory import Memory
from syncline.kinds.backups.ours import Ledger
from syncline.kinds.backups.plan import foreseen
from syncline.kinds.backups.reading import Reader
from syncline.kinds.backups.run_log import tell
from syncline.kinds.backups.verify import Proof
from syncline.kinds.kind import Completed, Failure, Page, StepContext, Unfinished
from syncline.model import Item, Result, Run, Scope, Step


class Backups:
    """The kind ``backups`` for one sync.

    A group is a branch, an item a key of the bucket, a fingerprint the id of a blob. ``place`` gives the repository
    with its credentials as they are now.
    """

    moves_by = Step.COMMIT
    share = SHARE

    def __init__(  # noqa: PLR0913, PLR0917 - each is a part of the kind
        self,
        rules: Rules,
        bucket: Bucket,
        reader: Reader,
        memory: Memory,
        ledger: Ledger,
        place: Callable[[], Place],
        http: Http,
    ) -> None:
        self._rules = rules
        self._bucket = bucket
        self._memory = memory
        self._ledger = ledger
        self._place = place
        self._http = http
        self._reader = reader
        self._committer = Committer(rules, reader, memory, ledger, self._open)
        self._opened = 0
        self._lock = threading.Lock()

    def discover(self, scope: Scope, cursor: str | None, context: StepContext) -> Iterator[Page]:
        return Look(self._rules, self._bucket, self._memory, self._ledger, self._open).pages(scope, cursor, context)

    def planned(self, items: Sequence[Item], context: StepContext) -> Iterator[Result]:
        return foreseen(self._reader, items, context)

    def transfer(self, items: Sequence[Item], context: StepContext) -> Iterator[Answer]:
        return self._committer.commit(items, context)

    def verify(self, items: Sequence[Item], context: StepContext) -> Iterator[Completed | Unfinished | Failure]:
        return Proof(self._rules.layout, self._open).of(items, context)

    def ended(self, run: Run, results: Iterable[Result]) -> None:
        tell(self._rules, self._bucket, run, results)

    def reference(self, group: str) -> str:
        return self._rules.reference(group)

    def changed_groups(self, event: object) -> tuple[str, ...]:
        return self._rules.layout.keys_in(event, self._bucket.name)

    def requests(self) -> int:
        """Requests to the bucket, and one for each time the repository was opened."""
        return self._http.requests_made + self._opened

    def _open(self, name: str, context: StepContext) -> AbstractContextManager[Branch]:
        with self._lock:
            self._opened += 1
        return open_branch(
            self._place(), name, depth=self._rules.layout.depth, left=context.left, halted=context.halted
        )
