"""The evidence of a branch: which of its files are ours because our own commits put them.

It counts where the table has no record of a file, after a lost table or a function that died behind its push. The
table remembers up to which commit the history was read, so that a scan reads what is new. It also remembers the commits
of ours behind that one: where the branch no longer has one of them, the branch was set back, and the records are of files
that are no longer there. The history is then read as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from syncline.clients.git.repository import Branch
from syncline.kinds.backups.layout import Layout
from syncline.kinds.backups.message import SYNC
from syncline.kinds.backups.ours import Ledger, Ours, content_of
from syncline.kinds.kind import Pace

_ALWAYS: Final = 10 * 365 * 86_400.0
_MOST: Final = 8
"""Commits of ours that are remembered behind what was read; beyond that the history is read as a whole next time."""


class Evidence:
    """The evidence of one branch. Make it before the branch is fetched: what was read lies before what is there."""

    def __init__(  # noqa: PLR0913, PLR0917 - the parts of one look at a branch
        self, sync: str, reference: str, layout: Layout, ledger: Ledger, branch: Branch, pace: Pace
    ) -> None:
        self._sync = sync
        self._layout = layout
        self._ledger = ledger
        self._branch = branch
        self._pace = pace
        self._fact = f"backups-history:{sync}:{reference}:{layout.folder}"
        since, *pushed = (ledger.facts.recall(self._fact) or "").split(" ")
        self._since, self._pushed = since or None, tuple(pushed)
        self._tip: str | None = None
        self._put: dict[str, str | None] = {}
        self._learned: dict[str, Ours] = {}

    def has(self, key: str, blob: str) -> bool:
        """Return True if our latest commit that changed the key put this blob. Reads the history, once for each tip."""
        tip = self._branch.tip.oid if self._branch.tip else None
        if tip is not None and tip != self._tip and (tip != self._since or self._pushed):
            self._read()
            self._tip = tip
        return self._put.get(key) == content_of(blob)

    def learned(self) -> dict[str, Ours]:
        """Return the records that were written for what the history shows, since this was asked last."""
        learned, self._learned = self._learned, {}
        return learned

    def note(self, before: str | None) -> None:
        """Note that the branch's last commit is ours, and that it follows the commit ``before``.

        Call this before its files are recorded, and :meth:`settle` after. If the branch loses the commit, the records
        are ahead of it, and only this note leads to the history.
        """
        if self._branch.tip is None:
            return
        tip, pushed = self._branch.tip.oid, self._pushed
        pushed = (*(pushed[:-1] if pushed and before == pushed[-1] else pushed), tip)
        self._remember(*((self._since, pushed) if len(pushed) <= _MOST else (None, (tip,))))

    def settle(self, before: str | None) -> None:
        """Note that all up to the branch's last commit is recorded, if it directly follows what was read."""
        if self._branch.tip is not None and self._pushed == (self._branch.tip.oid,) and before == self._since:
            self._remember(self._branch.tip.oid)

    def _read(self) -> None:
        layout = self._layout
        trailer, folder = f"{SYNC}: {self._sync}", layout.folder.encode()
        put = self._branch.blobs_put(self._since, trailer, folder, having=self._pushed)
        # What was read before stays: this may be only what is new since.
        self._put |= {layout.key_of(path.decode("utf-8", "surrogateescape")): blob for path, blob in put.items()}
        if self._pace.plan or self._branch.tip is None:
            return
        recorded = self._ledger.some(self._put)
        new = {key: blob for key, blob in self._put.items() if blob and key not in recorded}
        learned = {key: Ours(blob) for key, blob in (new | self._unrecorded(recorded)).items()}
        self._ledger.write(learned)
        self._learned |= learned
        self._remember(self._branch.tip.oid)

    def _unrecorded(self, recorded: Mapping[str, Ours]) -> dict[str, str]:
        """Return what the branch still has of files that we put after they were recorded."""
        latest = ((key, self._put[key], ours.fingerprint) for key, ours in recorded.items())
        put = {key: blob for key, blob, known in latest if blob is not None and blob != known}
        places = {key: self._layout.path_of(key).encode(errors="surrogateescape").rpartition(b"/") for key in put}
        folders = self._branch.folders({folder for folder, _, _ in places.values()})
        there = {key: folders[folder].get(name) for key, (folder, _, name) in places.items()}
        return {key: blob for key, blob in put.items() if (entry := there[key]) is not None and entry.oid == blob}

    def _remember(self, since: str | None, pushed: tuple[str, ...] = ()) -> None:
        self._since, self._pushed = since, pushed
        self._ledger.facts.remember(self._fact, " ".join((since or "", *pushed)), _ALWAYS)
