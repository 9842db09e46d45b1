"""The decorator that declares a command and adds the options that all commands share.

Commands are declared in ``main.py`` and in ``kinds/<kind>/cli/main.py``. Each imports its implementation when it runs, so
that ``--help`` imports little.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from syncline.cli import error_output
from syncline.cli.context import CommandResult, Context
from syncline.cli.output import Output

NAME: Final = typer.Argument(metavar="NAME", help="Name of the sync in syncs.yaml.", show_default=False)


def new_app() -> typer.Typer:
    """Return an app for the commands of one kind."""
    return typer.Typer(add_completion=False, rich_markup_mode=None)


def _shared(
    *,
    stack: Annotated[
        str | None,
        typer.Option(
            envvar="SYNCLINE_STACK",
            metavar="NAME",
            help="Stack on AWS, found with boto3's configuration. Defaults to the engine on this machine.",
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
    """Return the context that the shared options describe."""
    return Context(stack or None, home, Output(as_json=as_json))


def command(app: typer.Typer, *examples: str) -> Callable[[Callable[..., CommandResult]], Callable[..., CommandResult]]:
    """Return a decorator that adds a function as a command to an app, with the shared options.

    The first parameter of the function is the :class:`Context`. An example is a line for a shell without `syncline`; it
    may end with a comment.
    """
    return partial(_add, app, examples)


def with_examples(examples: Sequence[str]) -> str | None:
    """Return the end of a command's help: its examples, with aligned comments."""
    parts = [each.partition("  # ")[::2] for each in examples]
    width = max((len(line) for line, _ in parts), default=0)
    lines = [f"  syncline {f'{line:{width}}  # {what}' if what else line}" for line, what in parts]
    # click does not wrap a paragraph that begins with a backspace.
    return "\n".join(["\b", "Examples:", *lines]) if lines else None


def _add(
    app: typer.Typer, examples: Sequence[str], function: Callable[..., CommandResult]
) -> Callable[..., CommandResult]:
    _, *own = inspect.signature(function, eval_str=True).parameters.values()
    shared = inspect.signature(_shared, eval_str=True).parameters

    def invoke(**given: Any) -> None:
        context = _shared(**{name: given.pop(name) for name in shared})
        with error_output.exit_on_error(context):
            answer = function(context, **given)
            context.out.json(dict(answer.value))
        raise typer.Exit(answer.code)

    invoke.__signature__ = inspect.Signature([*own, *shared.values()])  # type: ignore[attr-defined]
    invoke.__annotations__ = {each.name: each.annotation for each in (*own, *shared.values())}
    app.command(function.__name__.rstrip("_"), help=function.__doc__, epilog=with_examples(examples))(invoke)
    return function
