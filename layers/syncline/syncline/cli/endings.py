"""How a command ends when it does not end well: one clear message and an exit code, never a traceback."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import traceback
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, Final

import typer

from syncline.cli.context import INTERRUPTED, NOT_DONE, Context, InterruptedWaitError
from syncline.cli.show import painted, write, write_json
from syncline.errors import SynclineError
from syncline.model import RunStatus
from syncline.visible import visible

_PIPE_CLOSED: Final = 141  # what a shell reports of a program that SIGPIPE ended


def prepare() -> None:
    """Let no locale make a message impossible to print."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def ask_for_command(context: typer.Context) -> None:
    """Show the help of a group that is called without one of its commands, and exit."""
    if context.invoked_subcommand is None:
        write(context.get_help(), sys.stderr)
        raise typer.Exit(NOT_DONE)


@contextlib.contextmanager
def told(context: Context, *, kind: str = "") -> Iterator[None]:
    """Print whatever goes wrong within, and exit with its code. ``kind`` is that of a command that needs no engine."""
    try:
        yield
    except InterruptedWaitError as interrupted:
        _tell_of_interruption(context, interrupted)
        raise typer.Exit(INTERRUPTED) from None
    except KeyboardInterrupt:
        _say(context, {"interrupted": True}, ["interrupted"])
        raise typer.Exit(INTERRUPTED) from None
    except BrokenPipeError:
        # Whoever read the output has seen enough. Nothing must be flushed into the closed pipe on the way out.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(_PIPE_CLOSED) from None
    except (typer.Exit, typer.TyperException):
        raise
    except Exception as error:  # noqa: BLE001 - nobody else is there to tell of it
        if os.environ.get("SYNCLINE_DEBUG"):
            traceback.print_exc()
        tell(_coded(error, context), as_json=context.out.as_json, kind=kind)
        raise typer.Exit(NOT_DONE) from None


@contextlib.contextmanager
def usage_told(*, as_json: bool) -> Iterator[None]:
    """Tell of arguments that make no sense, and exit."""
    try:
        yield
    except typer.TyperException as error:
        words = error.format_message() if hasattr(error, "format_message") else str(error)
        tell(SynclineError("USAGE", words.rstrip(".")), as_json=as_json)
        sys.exit(NOT_DONE)
    except typer.Abort:
        sys.exit(INTERRUPTED)


def tell(error: SynclineError, *, as_json: bool, kind: str = "") -> None:
    """Print an error: for people on stderr, as JSON on stdout."""
    problems, output = getattr(error, "problems", ()), getattr(error, "output", ())
    if as_json:
        value = as_value(error, kind=kind)
        if output:
            value["output"] = list(output)
        if problems:
            value["problems"] = [asdict(problem) for problem in problems]
        write_json({"error": value})
        return
    # Several problems have a line each below the code, and so has a program's output. Anything else is one line,
    # whatever names are in it.
    first, *more = map(visible, error.what.split("\n") if problems else [error.what, *output])
    if problems and more:
        first, more = f"{len(more) + 1} problems", [first, *more]
    head = painted(f"error {error.code.name}:", "red", sys.stderr)
    action = painted(f"→ {_advice(error, kind)}", "dim", sys.stderr)
    write("\n".join([f"{head} {first}", *(f"  {line}" for line in more), action]), sys.stderr)


def _advice(error: SynclineError, kind: str) -> str:
    """Return what to do; ``kind`` is that of a command that needs no engine, "" for all others."""
    return error.code.advice(kind, engine=not kind)


def as_value(error: SynclineError, *, kind: str = "") -> dict[str, Any]:
    """Return an error as a part of a JSON object."""
    return {"code": error.code.name, "what": error.what, "action": _advice(error, kind)}


def _tell_of_interruption(context: Context, interrupted: InterruptedWaitError) -> None:
    run = interrupted.run
    value = {"interrupted": True, "cancelled": interrupted.cancelled, "run": run.as_dict()}
    if interrupted.cancelled:
        _say(context, value, [f"interrupted: the plan {run.id} was cancelled; it had moved nothing"])
        return
    if run.status is RunStatus.CANCELLING:
        again = context.command(f"cancel {run.sync}")
        _say(
            context,
            value,
            [f"interrupted: run {run.id} of {run.sync} is being cancelled", f"→ {again}  waits for its end"],
        )
        return
    follow, end = context.command(f"status {run.sync} --wait"), context.command(f"cancel {run.sync}")
    lines = [f"interrupted: run {run.id} of {run.sync} goes on", f"→ {follow}  follows it", f"→ {end}  ends it"]
    _say(context, value, lines)


def _say(context: Context, value: dict[str, Any], lines: list[str]) -> None:
    if context.out.as_json:
        write_json(value)
    else:
        write("\n".join(lines), sys.stderr)


def _coded(error: Exception, context: Context) -> SynclineError:
    """Any exception as one with a code."""
    if isinstance(error, SynclineError):
        return error
    if "botocore.exceptions" in sys.modules:
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415 - is imported already

        from syncline.cli.aws_errors import as_syncline_error  # noqa: PLC0415 - needs botocore

        if isinstance(error, BotoCoreError | ClientError):
            return as_syncline_error(error, context.where, local=not context.stack)
    return SynclineError("INTERNAL", f"{type(error).__name__}: {error}; SYNCLINE_DEBUG=1 shows where")
