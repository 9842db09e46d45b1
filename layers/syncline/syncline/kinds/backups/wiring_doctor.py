"""The checks of a sync of backups."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

from syncline.clients.git.repository import open_branch
from syncline.config.sync import Sync
from syncline.errors import SynclineError
from syncline.kinds.backups.config import BackupsSync, DirectoryTarget, GitTarget
from syncline.kinds.backups.wiring import repository_of
from syncline.text import size
from syncline.wiring.checks import Check, CheckChain, Observation, unchecked, warning
from syncline.wiring.dependencies import Dependencies
from syncline.wiring.server_checks import bucket_chain, server_checks

_GIT_SECONDS = 12.0
_LITTLE = 1 << 30
"""Free bytes below which a warning is given."""


def chains(sync: Sync, parts: Dependencies, *, local: bool) -> list[CheckChain]:
    """Return the checks of the bucket with the backups, and of the target."""
    assert isinstance(sync, BackupsSync)
    source = bucket_chain("source", sync.source, parts, local=local, reads=True)
    match sync.target:
        case GitTarget() as target:
            git = _Repository(sync, target, parts)
            addresses = [check for address in target.addresses() for check in server_checks(address, parts)]
            checks = [Check("read", git.read), Check("push", git.push), Check("branch rules", git.rules)]
            return [source, CheckChain("target", [*addresses, *checks])]
        case DirectoryTarget(directory=folder):
            lenient = "" if local else "on this machine; the functions have their own disk"
            return [source, CheckChain("target", [Check("folder", lambda: _folder(Path(folder)))], lenient=lenient)]
        case bucket:
            return [source, bucket_chain("target", bucket, parts, local=local, writes=True)]


class _Repository:
    """The checks of a git repository."""

    def __init__(self, sync: BackupsSync, target: GitTarget, parts: Dependencies) -> None:
        self._sync = sync
        self._target = target
        self._parts = parts
        # The branches of clusters are known only after a scan; the permission to push is the same for all.
        self._branch = target.branch.replace("{cluster}", "doctor")

    def read(self) -> str:
        end = time.monotonic() + _GIT_SECONDS
        location = repository_of(self._sync, self._parts)
        with open_branch(location, self._branch, depth=1, left=lambda: end - time.monotonic()) as branch:
            found = branch.remote_tip()
        about = f"its branch {self._branch} is at {found[:12]}" if found else f"it has no branch {self._branch} yet"
        return f"{self._target.repository} accepts the credentials; {about}"

    def push(self) -> str:
        end = time.monotonic() + _GIT_SECONDS
        location = repository_of(self._sync, self._parts)
        with open_branch(location, self._branch, depth=1, left=lambda: end - time.monotonic()) as branch:
            branch.check_push()
        return f"{self._target.repository} accepts pushes; nothing was pushed"

    def rules(self) -> Observation:
        return unchecked("a server applies the rules of a protected branch to a push only; see the last run")


def _folder(folder: Path) -> str | Observation:
    """Check that the nearest existing folder can be written, and the free space there."""
    # `lexists` also finds a link that points to nothing, and raises nothing below a folder that cannot be searched.
    existing = next(each for each in (folder, *folder.parents) if os.path.lexists(each))
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise SynclineError("FILE_REFUSED", f"{existing} is no folder that can be written")
    free = shutil.disk_usage(existing).free
    text = f"{folder} can be written; {size(free)} are free"
    return warning(text, "Free space on that disk.") if free < _LITTLE else text
