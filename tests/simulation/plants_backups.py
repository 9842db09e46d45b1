"""Faults that are planted in what commits backups; see :mod:`tests.simulation.plants`, which registers them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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


def push_although_the_branch_moved() -> Iterator[None]:
    """A commit replaces what somebody else pushed meanwhile."""
    push_old = RemoteBranch.push

    def push(self: Any, commit: str) -> None:
        now = self.remote_tip()
        if now is not None and self.tip is not None:
            self.tip = replace(self.tip, oid=now)
        push_old(self, commit)

    with patch.object(RemoteBranch, "push", push):
        yield


def let_a_secret_reach_git() -> Iterator[None]:
    """A Secret is committed as it is."""
    with patch.object(SecretsFilter, "apply", lambda _self, _path, data, _over=None: Filtered(data)):
        yield


def believe_a_rejected_push() -> Iterator[None]:
    """A push that the server refused counts as done, and nobody asks the branch again."""
    push_old = RemoteBranch.push

    def push(self: Any, commit: str) -> None:
        with suppress(SynclineError):
            push_old(self, commit)

    with patch.object(RemoteBranch, "push", push), patch.object(Verifier, "verify", _all_arrived):
        yield


def believe_the_answer_to_a_push() -> Iterator[None]:
    """Verify does not ask the branch again."""
    with patch.object(Verifier, "verify", _all_arrived):
        yield


def _all_arrived(_self: Any, items: Any, _context: Any) -> Any:
    return [Completed(item) for item in items]


def replace_foreign_files() -> Iterator[None]:
    """A file that strangers committed is replaced."""
    with (
        patch.object(_Batch, "_is_ours", lambda *_: True),
        patch.object(Comparison, "_is_ours", lambda _self, key, mark: bool(key and mark)),
    ):
        yield


def lose_a_deletion() -> Iterator[None]:
    """A scan forgets one of the files that are gone from the source."""
    part_old = Comparison._add_extras

    def part(self: Any, there: Any, results: Any) -> int:
        extras = part_old(self, there, results)
        if self.gone:
            self.gone.popitem()
        return extras

    with patch.object(Comparison, "_add_extras", part):
        yield


def remove_beyond_the_limits() -> Iterator[None]:
    """No limit holds a removal back."""
    with patch.object(Limiter, "refused", lambda *_: {}):
        yield


def forget_our_commits() -> Iterator[None]:
    """A file without a record is foreign, even if a commit of ours put it."""
    with patch.object(BranchEvidence, "has", lambda *_: False):
        yield


ALL: Final[tuple[Callable[[], Iterator[None]], ...]] = (
    push_although_the_branch_moved,
    let_a_secret_reach_git,
    believe_a_rejected_push,
    believe_the_answer_to_a_push,
    replace_foreign_files,
    lose_a_deletion,
    remove_beyond_the_limits,
    forget_our_commits,
)
