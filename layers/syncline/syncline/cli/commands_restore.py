"""``syncline restore``: a cluster or namespace as of any commit, into a folder or a bucket, with the proof."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from syncline.cli.context import Answer, Context
from syncline.cli.show import many, size
from syncline.config import load_sync
from syncline.errors import SynclineError

if TYPE_CHECKING:
    from syncline.config.backups import BackupsSync
    from syncline.kinds.backups.restoring import Place
    from syncline.wiring.parts import Parts

_LONGEST = 24 * 3600.0
_S3 = "s3://"


def restore(context: Context, name: str, part: str, to: str, at: str | None) -> Answer:
    """Restore ``part`` (``<cluster>`` or ``<cluster>/<namespace>``) of a sync of backups, with this person's rights.

    Raises USAGE for what cannot be restored, NOT_FOUND where it is not in the repository at that commit.
    """
    from syncline.clients.git_repository import open_branch  # noqa: PLC0415 - git is asked for here alone
    from syncline.clients.http import Http  # noqa: PLC0415
    from syncline.config.backups import BackupsSync, Encrypt, GitTarget  # noqa: PLC0415
    from syncline.kinds.backups.restoring import restore as restore_part  # noqa: PLC0415
    from syncline.table import Database  # noqa: PLC0415
    from syncline.wiring.backups import layout_of, place_of  # noqa: PLC0415
    from syncline.wiring.parts import Parts  # noqa: PLC0415

    target = context.target
    sync = load_sync(target.state.sync_config(name))
    if not isinstance(sync, BackupsSync) or not isinstance(sync.target, GitTarget):
        raise SynclineError("USAGE", f"{name} is no sync of backups into git, so there is nothing to restore from")
    part = part.strip("/")
    if at is not None and (len(at) not in (40, 64) or not set(at) <= set("0123456789abcdef")):
        raise SynclineError("USAGE", "--at takes a commit's full id, as `git log` shows it")
    parts = Parts(target.secrets, Http(), target.state, Database(target.table))
    layout = layout_of(sync)
    branch = layout.branch_of(part.partition("/")[0])
    key = target.secrets.resolve(sync.secrets.encrypt) if isinstance(sync.secrets, Encrypt) else None
    place = _place(sync, to, parts)
    with open_branch(place_of(sync, parts), branch, depth=layout.depth, left=lambda: _LONGEST) as opened:
        restored = restore_part(opened, layout, part, place, at=at, key=key)
    files = many(restored.files, "file", "files")
    context.out.line(f"restored {files}, {size(restored.bytes)}, of {part} at {restored.commit} to {place}", "green")
    context.out.line("each was read again there and is what git has")
    return Answer({"restored": {"part": part, "to": str(place), **asdict(restored)}})


def _place(sync: BackupsSync, to: str, parts: Parts) -> Place:
    """A folder, or a bucket at the service that the backups come from."""
    from syncline.clients.folders import Folder  # noqa: PLC0415
    from syncline.kinds.backups.stores import BucketStore  # noqa: PLC0415
    from syncline.wiring.buckets import bucket_at  # noqa: PLC0415

    if not to.startswith(_S3):
        return Folder(Path(to).expanduser().absolute())
    bucket, _, prefix = to.removeprefix(_S3).partition("/")
    source = sync.source.model_copy(update={"bucket": bucket})
    return BucketStore(bucket_at(source, parts), f"{prefix.strip('/')}/" if prefix.strip("/") else "")
