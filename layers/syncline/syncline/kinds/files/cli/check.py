"""``syncline check``: whether everything a sync of files needs answers as it should. It changes nothing."""

from __future__ import annotations

from collections.abc import Callable

from syncline.cli.commands_run import config_of
from syncline.cli.context import SOME_FAILED, Answer, Context
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


def check(context: Context, name: str) -> Answer:
    """Ask source, target and reports of a sync, each by itself; exit 1 where one does not answer.

    Raises NO_SUCH_SYNC, or USAGE for a sync that is not of files.
    """
    stack = context.target
    sync = load_sync(config_of(stack.state, name))
    if not isinstance(sync, FilesSync):
        raise SynclineError("USAGE", f"{name} is a sync of {sync.kind}; `check` is for one of files")
    clients = (lambda: stack.client("secretsmanager"), lambda: stack.client("ssm"))
    secrets = Secrets(*clients, stack.environ or {}, local=stack.local)
    parts, target = Dependencies(secrets, Http(), stack.state, Database(stack.table)), sync.target
    asked: dict[str, Callable[[], object]] = {
        "source": lambda: bucket_at(sync.source, parts).page(sync.source.prefix, limit=1, odd=ignore),
        "target": lambda: (
            manager_at(target, parts).check()
            if isinstance(target, FileManagerTarget)
            else bucket_at(target, parts).page(target.prefix, limit=1, odd=ignore)
        ),
    }
    if (reports := sync.reports) is not None:
        asked["reports"] = lambda: bucket_at(reports, parts).page(reports.prefix, limit=1, odd=ignore)
    told: dict[str, str] = {}
    for what, ask in asked.items():
        try:
            ask()
        except SynclineError as error:
            told[what] = str(error)
            context.out.line(f"{what}: {error}", "red")
            context.out.line(f"→ {error.code.advice('files')}", "dim")
        else:
            told[what] = "answers"
            context.out.line(f"{what}: answers")
    return Answer({"checked": told}, SOME_FAILED if any(each != "answers" for each in told.values()) else 0)
