"""The declaration of commands: the options that all of them have, and their ends.

A command's function is declared here or in ``kinds/<kind>/cli/main.py``. It imports what it does when it runs, so that
``--help`` imports little.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from syncline.cli import endings
from syncline.cli.context import Answer, Context
from syncline.cli.show import Out

NAME: Final = typer.Argument(metavar="NAME", help="The sync, as syncs.yaml names it.", show_default=False)


def new_app() -> typer.Typer:
    """Return the app of the commands that one kind has."""
    return typer.Typer(add_completion=False, rich_markup_mode=None)


def _shared(
    *,
    stack: Annotated[
        str | None,
        typer.Option(
            envvar="SYNCLINE_STACK",
            metavar="NAME",
            help="A stack on AWS, with boto3's usual configuration; without it the engine on this machine.",
        ),
    ] = None,
    home: Annotated[
        Path | None,
        typer.Option(
            envvar="SYNCLINE_HOME",
            metavar="FOLDER",
            help="Folder with the state of the engine on this machine. Defaults to .syncline in the checkout, or "
            "~/.local/share/syncline outside of one.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> Context:
    """What the options mean that every command takes."""
    return Context(stack or None, home, Out(as_json=as_json))


def command(app: typer.Typer) -> Callable[[Callable[..., Answer]], Callable[..., Answer]]:
    """Add a command to an app: a function whose first parameter is the :class:`Context`, with the shared options added."""
    return partial(_add, app)


def _add(app: typer.Typer, function: Callable[..., Answer]) -> Callable[..., Answer]:
    _, *own = inspect.signature(function, eval_str=True).parameters.values()
    shared = inspect.signature(_shared, eval_str=True).parameters

    def invoke(**given: Any) -> None:
        context = _shared(**{name: given.pop(name) for name in shared})
        with endings.told(context):
            answer = function(context, **given)
            context.out.value(dict(answer.value))
        raise typer.Exit(answer.code)

    invoke.__signature__ = inspect.Signature([*own, *shared.values()])  # type: ignore[attr-defined]
    invoke.__annotations__ = {each.name: each.annotation for each in (*own, *shared.values())}
    app.command(function.__name__, help=function.__doc__)(invoke)
    return function
