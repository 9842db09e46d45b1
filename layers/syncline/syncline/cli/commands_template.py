"""``syncline template``: write the project to a folder from which `sam` deploys it to AWS."""

from __future__ import annotations

import shlex
from pathlib import Path

from syncline import __version__
from syncline.cli.context import CommandResult, Context
from syncline.cli.project import SETTINGS, own_project, write
from syncline.errors import SynclineError


def template(context: Context, folder: Path, *, overwrite: bool) -> CommandResult:
    """Write the project of this package to a folder. Raises USAGE if it is not empty, unless ``overwrite``."""
    project = own_project()
    try:
        if folder.resolve() == project.resolve():
            raise SynclineError("USAGE", f"{folder} is the checkout that this command runs from; name another folder")
        if folder.exists() and any(folder.iterdir()) and not overwrite:
            what = f"{folder} is not empty; name a new folder, or replace an earlier copy in it with --overwrite"
            raise SynclineError("USAGE", what)
        write(project, folder, keep=SETTINGS)
    except OSError as error:
        raise SynclineError("USAGE", f"cannot write to {folder}: {error.strerror or error}") from error
    context.out.line(f"Syncline {__version__} is in {folder}", "green")
    build = f"cd {shlex.quote(str(folder))} && sam build && sam deploy --guided"
    context.out.hint(build, "to deploy it to AWS")
    return CommandResult({"folder": str(folder.absolute()), "version": __version__})
