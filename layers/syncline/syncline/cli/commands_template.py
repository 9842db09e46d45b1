"""``syncline template`` and ``syncline init``: write the project for `sam`, and a first syncs.yaml."""

from __future__ import annotations

import shlex
from pathlib import Path

from syncline import __version__
from syncline.cli.context import CommandResult, Context
from syncline.cli.project import SETTINGS, own_project, write
from syncline.errors import SynclineError
from syncline.kinds.table import KINDS


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


def init(context: Context, kind: str, file: Path, example: str | None) -> CommandResult:
    """Write the commented example of a kind to a new file. Raises USAGE if there is none, or the file exists."""
    if kind not in KINDS:
        raise SynclineError("USAGE", f"there is no kind {kind!r}; the kinds are {', '.join(KINDS)}")
    found = {path.stem.removeprefix(f"{kind}-"): path for path in (own_project() / "examples").glob(f"{kind}-*.yaml")}
    names = sorted(found)
    if example is not None and example not in found:
        raise SynclineError("USAGE", f"there is no example {example!r} of {kind}; the examples are {', '.join(names)}")
    lines = found[example or names[0]].read_text(encoding="utf-8").splitlines(keepends=True)
    text = "".join(line for line in lines if not line.startswith("# yaml-language-server:")).removeprefix("#\n")
    try:
        with file.open("x", encoding="utf-8") as new:
            new.write(text)
    except FileExistsError:
        raise SynclineError(
            "USAGE", f"{file} exists and is not changed; name another file: syncline init {kind} FILE"
        ) from None
    except OSError as error:
        raise SynclineError("USAGE", f"cannot write {file}: {error.strerror or error}") from error
    context.out.line(f"{file} is written: the example {example or names[0]} of {kind}", "green")
    if others := [name for name in names if name != (example or names[0])]:
        context.out.line(f"other examples, for --example: {', '.join(others)}")
    context.out.hint(f"syncline validate {shlex.quote(str(file))}", "to check it after you have edited it")
    return CommandResult({"file": str(file), "kind": kind, "example": example or names[0], "examples": names})
