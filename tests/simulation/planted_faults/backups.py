"""Planted faults in the kind ``backups``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final
from unittest.mock import patch

from syncline.clients.git.repository import RemoteBranch
from syncline.errors import SynclineError
from syncline.kinds.backups.commit import _Batch
from syncline.kinds.backups.compare import Comparison
from syncline.kinds.backups.ownership import BranchEvidence
from syncline.kinds.backups.removals import Limiter
from syncline.kinds.backups.secrets_filter import Filtered, SecretsFilter
from syncline.kinds.backups.verify import Verifier
from syncline.kinds.kind import Completed
from tests.simulation.planted_faults.registry import planted_fault

WORLDS: Final = ("backups",)


@planted_fault
def push_over_a_moved_branch() -> Iterator[None]:
    """Push over commits that were pushed after the branch was read."""
    original_push = RemoteBranch.push

    def push(self: Any, commit: str) -> None:
        now = self.remote_tip()
        if now is not None and self.tip is not None:
            self.tip = replace(self.tip, oid=now)
        original_push(self, commit)

    with patch.object(RemoteBranch, "push", push):
        yield


@planted_fault
def commit_secrets_unfiltered() -> Iterator[None]:
    """Commit a Secret without filtering it."""
    with patch.object(SecretsFilter, "apply", lambda _self, _path, data, _over=None: Filtered(data)):
        yield


@planted_fault
def ignore_a_rejected_push() -> Iterator[None]:
    """Treat a push that the server rejected as done, and skip the verification."""
    original_push = RemoteBranch.push

    def push(self: Any, commit: str) -> None:
        with suppress(SynclineError):
            original_push(self, commit)

    with patch.object(RemoteBranch, "push", push), patch.object(Verifier, "verify", _all_completed):
        yield


@planted_fault
def skip_backup_verification() -> Iterator[None]:
    """Report backups as verified without reading the branch."""
    with patch.object(Verifier, "verify", _all_completed):
        yield


def _all_completed(_self: Any, items: Any, _context: Any) -> Any:
    return [Completed(item) for item in items]


@planted_fault
def replace_foreign_backups() -> Iterator[None]:
    """Replace files that were committed by others."""
    with (
        patch.object(_Batch, "_is_ours", lambda *_: True),
        patch.object(Comparison, "_is_ours", lambda _self, key, mark: bool(key and mark)),
    ):
        yield


@planted_fault
def lose_a_deletion() -> Iterator[None]:
    """Lose one of the files that a scan found deleted at the source."""
    original_add = Comparison._add_extras

    def add_extras(self: Any, existing: Any, results: Any) -> int:
        extras = original_add(self, existing, results)
        if self.gone:
            self.gone.popitem()
        return extras

    with patch.object(Comparison, "_add_extras", add_extras):
        yield


@planted_fault
def exceed_backup_removal_limits() -> Iterator[None]:
    """Apply no limit to removals."""
    with patch.object(Limiter, "refused", lambda *_: {}):
        yield


@planted_fault
def ignore_commit_evidence() -> Iterator[None]:
    """Treat a file without a record as foreign even if one of our commits wrote it."""
    with patch.object(BranchEvidence, "has", lambda *_: False):
        yield
