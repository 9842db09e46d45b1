"""``syncline check``: whether everything a sync of files needs answers as it should. It changes nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable

from syncline.cli.commands_run import config_of
from syncline.cli.context import SOME_FAILED, Answer, Context
from syncline.clients.file_manager.client import FileManager
from syncline.clients.http.client import Http
from syncline.clients.http.listings import ignore
from syncline.config.sync import load_sync
from syncline.errors import SynclineError
from syncline.kinds.files.config import FileManagerTarget, FilesSync
from syncline.secrets import Secrets
from syncline.store.table import Database
from syncline.wiring.buckets import bucket_at
from syncline.wiring.parts import Parts


def check(context: Context, name: str) -> Answer:
    """Ask source, target and reports of a sync, each by itself; exit 1 where one does not answer.

    Raises NO_SUCH_SYNC, or USAGE for a sync that is not of files.
    """
    target = context.target
    sync = load_sync(config_of(target.state, name))
    if not isinstance(sync, FilesSync):
        raise SynclineError("USAGE", f"{name} is a sync of {sync.kind}; `check` is for one of files")
    clients = (lambda: target.client("secretsmanager"), lambda: target.client("ssm"))
    secrets = Secrets(*clients, target.environ or {}, local=target.local)
    parts = Parts(secrets, Http(), target.state, Database(target.table))
    asked: dict[str, Callable[[], object]] = {
        "source": lambda: bucket_at(sync.source, parts).page(sync.source.prefix, limit=1, odd=ignore),
        "target": lambda: _target(sync, parts),
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


def _target(sync: FilesSync, parts: Parts) -> None:
    if not isinstance(sync.target, FileManagerTarget):
        bucket_at(sync.target, parts).page(sync.target.prefix, limit=1, odd=ignore)
        return
    target, secrets = sync.target, parts.secrets
    token = target.token
    manager = FileManager(
        target.file_manager,
        lambda: None if token is None else secrets.resolve(token),
        parts.http,
        threading.Lock(),
        ca=parts.authority(target.ca),
    )
    manager.check()
