"""``syncline check``: request source, target and reports of a sync of files, without changing anything."""

from __future__ import annotations

from collections.abc import Callable

from syncline.cli.commands_run import config_of
from syncline.cli.context import SOME_FAILED, CommandResult, Context
from syncline.clients.http.client import Http
from syncline.clients.http.listings import ignore
from syncline.config.sync import load_sync
from syncline.errors import SynclineError
from syncline.kinds.files.config import FileManagerTarget, FilesSync
from syncline.kinds.files.wiring import manager_at
from syncline.secrets import Secrets
from syncline.store.table import Database
from syncline.wiring.buckets import bucket_at
from syncline.wiring.dependencies import Dependencies


def check(context: Context, name: str) -> CommandResult:
    """Request source, target and reports of a sync, one by one; exit 1 if one of them fails.

    Raises NO_SUCH_SYNC, or USAGE for a sync that is not of files.
    """
    stack = context.deployment
    sync = load_sync(config_of(stack.state, name))
    if not isinstance(sync, FilesSync):
        raise SynclineError("USAGE", f"{name} is a sync of {sync.kind}; `check` is for one of files")
    clients = (lambda: stack.client("secretsmanager"), lambda: stack.client("ssm"))
    secrets = Secrets(*clients, stack.environ or {}, local=stack.local)
    parts, target = Dependencies(secrets, Http(), stack.state, Database(stack.table)), sync.target
    requests: dict[str, Callable[[], object]] = {
        "source": lambda: bucket_at(sync.source, parts).page(sync.source.prefix, limit=1, on_invalid=ignore),
        "target": lambda: (
            manager_at(target, parts).check()
            if isinstance(target, FileManagerTarget)
            else bucket_at(target, parts).page(target.prefix, limit=1, on_invalid=ignore)
        ),
    }
    if (reports := sync.reports) is not None:
        requests["reports"] = lambda: bucket_at(reports, parts).page(reports.prefix, limit=1, on_invalid=ignore)
    checked: dict[str, str] = {}
    for what, ask in requests.items():
        try:
            ask()
        except SynclineError as error:
            checked[what] = str(error)
            context.out.line(f"{what}: {error}", "red")
            context.out.line(f"→ {error.code.advice('files')}", "dim")
        else:
            checked[what] = "answers"
            context.out.line(f"{what}: answers")
    return CommandResult(
        {"checked": checked}, SOME_FAILED if any(each != "answers" for each in checked.values()) else 0
    )
