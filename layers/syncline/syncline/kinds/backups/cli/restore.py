"""``syncline restore``: restore a cluster or namespace as of any commit to a folder or a bucket, and verify it."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

from syncline.cli.context import NOT_DONE, SOME_FAILED, CommandResult, Context
from syncline.cli.error_output import error_dict
from syncline.cli.output import Style
from syncline.config.sync import load_sync
from syncline.errors import SynclineError
from syncline.escaping import escape
from syncline.text import plural, size

if TYPE_CHECKING:
    from syncline.kinds.backups.config import BackupsSync
    from syncline.kinds.backups.restore import RestoreResult
    from syncline.kinds.backups.stores import FileStore
    from syncline.wiring.dependencies import Dependencies

_LONGEST: Final = 24 * 3600.0
_S3: Final = "s3://"
_COMMIT: Final = re.compile("[0-9a-f]{4,40}")
_LISTED: Final = 20  # files listed in text output; `--json` lists all


def restore(  # noqa: PLR0913 - each is an option
    context: Context, name: str, part: str, to: str, *, at: str | None, key: str | None, overwrite: bool, unsigned: bool
) -> CommandResult:
    """Restore a part (``<cluster>`` or ``<cluster>/<namespace>``) of a sync of backups, with the user's own rights.

    Everything is checked before anything is written. Raises USAGE for a sync or commit that cannot be restored,
    NOT_FOUND if the part does not exist at that commit, COMMIT_UNSIGNED if the commit lacks a signature of the sync's
    keys and `unsigned` is False, and WOULD_OVERWRITE if files differ and the user does not agree
    to overwrite them.
    """
    from syncline.clients.git.repository import open_branch  # noqa: PLC0415 - only this command needs git
    from syncline.clients.http.client import Http  # noqa: PLC0415
    from syncline.kinds.backups.config import BackupsSync, GitTarget  # noqa: PLC0415
    from syncline.kinds.backups.restore import Restorer  # noqa: PLC0415
    from syncline.kinds.backups.wiring import layout_of, repository_of, signers_of  # noqa: PLC0415
    from syncline.store.table import Database  # noqa: PLC0415
    from syncline.wiring.dependencies import Dependencies  # noqa: PLC0415

    deployment = context.deployment
    sync = load_sync(deployment.state.sync_config(name))
    if not isinstance(sync, BackupsSync) or not isinstance(sync.target, GitTarget):
        raise SynclineError("USAGE", f"{name} is not a sync of backups into git, so there is nothing to restore from")
    if at is not None and not _COMMIT.fullmatch(at.lower()):
        raise SynclineError("USAGE", f"--at {at!r} is not a commit ID; write at least its first four digits")
    decryption_key = _key(context, sync, key)
    parts = Dependencies(deployment.secrets, Http(), deployment.state, Database(deployment.table))
    layout = layout_of(sync)
    branch = layout.branch_of(part.partition("/")[0])
    store = _store(sync, to, parts)
    with open_branch(repository_of(sync, parts), branch, depth=layout.depth, left=lambda: _LONGEST) as opened:
        signers = signers_of(sync, deployment.secrets)
        restorer = Restorer(opened, layout, store, decryption_key, signers, unsigned)
        plan = restorer.plan(part, at and at.lower())
        if plan.overwritten and not overwrite:
            answer = _confirm_overwrite(context, plan.overwritten, str(store))
            if answer is not None:
                return answer
        restored = restorer.write(plan)
    _print_result(context, part, str(store), restored)
    if plan.signed is not None:
        text = "the commit is signed" if plan.signed else "the commit has no valid signature of the sync's keys"
        context.out.line(text, "green" if plan.signed else "yellow")
    if plan.unsigned_ancestor is not None:
        below = (
            f"{plan.unsigned_ancestor} below it is not: check that its changes, which may be restored too, are yours"
        )
        context.out.line(below, "yellow")
    signatures = {"signed": plan.signed, "unsigned_ancestor": plan.unsigned_ancestor}
    value = {"restored": {"part": part, "to": str(store), **asdict(restored), **signatures}}
    return CommandResult(value, SOME_FAILED if restored.refused else 0)


def _confirm_overwrite(context: Context, paths: list[str], store: str) -> CommandResult | None:
    """List the files that would be overwritten and ask. Return None if the user agrees, else the answer to exit with."""
    out = context.out
    _print_lines(context, [f"would overwrite  {escape(path)}" for path in paths], "yellow")
    files = plural(len(paths), "file", "files")
    if out.interactive:
        if out.confirm(f"Overwrite {files} in {store}?"):
            return None
        out.line("nothing was written")
        return CommandResult(code=NOT_DONE)
    error = SynclineError("WOULD_OVERWRITE", f"{files} in {store} differ from the commit; nothing was written")
    if not out.as_json:
        raise error
    return CommandResult({"error": error_dict(error), "would_overwrite": paths}, NOT_DONE)


def _print_result(context: Context, part: str, store: str, restored: RestoreResult) -> None:
    out = context.out
    refused = [f"not restored  {escape(each.path)}  {each.code}: {each.reason}" for each in restored.refused]
    _print_lines(context, refused, "red")
    files = plural(restored.files, "file", "files")
    more = f", {restored.unchanged} were unchanged" if restored.unchanged else ""
    more += f", {restored.overwritten} of them overwritten" if restored.overwritten else ""
    more += f", {len(refused)} not restored" if refused else ""
    style: Style = "yellow" if refused else "green"
    out.line(f"restored {files}, {size(restored.bytes)}, of {part} at {restored.commit} to {store}{more}", style)
    if restored.files:
        out.line("verified: each file was read back and matches git")


def _print_lines(context: Context, lines: list[str], style: Style) -> None:
    for line in lines[:_LISTED]:
        context.out.line(line, style)
    if len(lines) > _LISTED:
        context.out.line(f"… and {len(lines) - _LISTED} more; --json lists all", style)


def _key(context: Context, sync: BackupsSync, named: str | None) -> str | None:
    """Return the key for encrypted files: that of the reference `named`, or the sync's."""
    from syncline.kinds.backups.config import Encrypt  # noqa: PLC0415
    from syncline.secrets import Reference  # noqa: PLC0415

    if named is None:
        return context.deployment.secrets.resolve(sync.secrets.encrypt) if isinstance(sync.secrets, Encrypt) else None
    try:
        return context.deployment.secrets.resolve(Reference.parse(named))
    except ValueError as error:
        raise SynclineError("USAGE", f"--key {error}") from None


def _store(sync: BackupsSync, to: str, parts: Dependencies) -> FileStore:
    """Return the folder or bucket to restore to. A bucket is at the service of the source."""
    from syncline.clients.folder.target import FolderTarget  # noqa: PLC0415
    from syncline.config.buckets import is_bucket  # noqa: PLC0415
    from syncline.kinds.backups.stores import BucketStore  # noqa: PLC0415
    from syncline.wiring.buckets import bucket_at  # noqa: PLC0415

    if not to.startswith(_S3):
        return FolderTarget(Path(to).expanduser().absolute(), replaces=True)
    bucket, _, prefix = to.removeprefix(_S3).partition("/")
    if not is_bucket(bucket):
        raise SynclineError("USAGE", f"--to {to!r} is not a bucket; write s3://BUCKET or s3://BUCKET/PREFIX")
    source = sync.source.model_copy(update={"bucket": bucket})
    return BucketStore(bucket_at(source, parts), f"{prefix.strip('/')}/" if prefix.strip("/") else "")
