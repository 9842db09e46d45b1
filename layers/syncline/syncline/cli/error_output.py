"""Errors as one message and an exit code, never a traceback."""

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
from syncline.cli.output import styled, write, write_json
from syncline.errors import SynclineError
from syncline.escaping import escape
from syncline.model import RunStatus

_PIPE_CLOSED: Final = 141  # the exit code that a shell reports for SIGPIPE


def replace_unencodable() -> None:
    """Replace characters that the locale cannot encode, instead of failing to print them."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def require_command(context: typer.Context) -> None:
    """Print the help and exit if a group is called without a command."""
    if context.invoked_subcommand is None:
        write(context.get_help(), sys.stderr)
        raise typer.Exit(NOT_DONE)


@contextlib.contextmanager
def exit_on_error(context: Context, *, kind: str = "") -> Iterator[None]:
    """Print an exception raised in the block and exit with its code.

    ``kind`` is set for a command that needs no engine: advice then does not mention the engine.
    """
    try:
        yield
    except InterruptedWaitError as interrupted:
        _print_interruption(context, interrupted)
        raise typer.Exit(INTERRUPTED) from None
    except KeyboardInterrupt:
        _print_lines(context, {"interrupted": True}, ["interrupted"])
        raise typer.Exit(INTERRUPTED) from None
    except BrokenPipeError:
        # The reader closed the pipe. Nothing may be flushed into it on exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(_PIPE_CLOSED) from None
    except (typer.Exit, typer.TyperException):
        raise
    except Exception as error:  # noqa: BLE001 - the last resort
        if os.environ.get("SYNCLINE_DEBUG"):
            traceback.print_exc()
        print_error(_with_code(error, context), as_json=context.out.as_json, kind=kind)
        raise typer.Exit(NOT_DONE) from None


@contextlib.contextmanager
def exit_on_usage_error(*, as_json: bool) -> Iterator[None]:
    """Print a usage error raised in the block and exit."""
    try:
        yield
    except typer.TyperException as error:
        words = error.format_message() if hasattr(error, "format_message") else str(error)
        print_error(SynclineError("USAGE", words.rstrip(".")), as_json=as_json)
        sys.exit(NOT_DONE)
    except typer.Abort:
        sys.exit(INTERRUPTED)


def print_error(error: SynclineError, *, as_json: bool, kind: str = "") -> None:
    """Print an error, as text on stderr or as JSON on stdout."""
    problems, output = getattr(error, "problems", ()), getattr(error, "output", ())
    if as_json:
        value = error_dict(error, kind=kind)
        if output:
            value["output"] = list(output)
        if problems:
            value["problems"] = [asdict(problem) for problem in problems]
        write_json({"error": value})
        return
    # Problems and the output of a program have one line each below the code. Anything else is one line.
    first, *more = map(escape, error.what.split("\n") if problems else [error.what, *output])
    if problems and more:
        first, more = f"{len(more) + 1} problems", [first, *more]
    head = styled(f"error {error.code.name}:", "red", sys.stderr)
    action = styled(f"→ {_advice(error, kind)}", "dim", sys.stderr)
    write("\n".join([f"{head} {first}", *(f"  {line}" for line in more), action]), sys.stderr)


def _advice(error: SynclineError, kind: str) -> str:
    """Return the advice for an error; ``kind`` is "" for commands that need an engine."""
    return error.code.advice(kind, engine=not kind)


def error_dict(error: SynclineError, *, kind: str = "") -> dict[str, Any]:
    """Return an error for JSON."""
    return {"code": error.code.name, "what": error.what, "action": _advice(error, kind)}


def _print_interruption(context: Context, interrupted: InterruptedWaitError) -> None:
    run = interrupted.run
    begin, cancel = f"interrupted: run {run.id} of {run.sync}", context.command(f"cancel {run.sync}")
    if interrupted.cancelled:
        lines = [f"interrupted: plan {run.id} was cancelled; plans move nothing"]
    elif run.status is RunStatus.CANCELLING:
        lines = [f"{begin} is being cancelled", f"→ {cancel}  to wait for its end"]
    else:
        follow = context.command(f"status {run.sync} --wait")
        lines = [f"{begin} continues", f"→ {follow}  to follow it", f"→ {cancel}  to cancel it"]
    _print_lines(context, {"interrupted": True, "cancelled": interrupted.cancelled, "run": run.as_dict()}, lines)


def _print_lines(context: Context, value: dict[str, Any], lines: list[str]) -> None:
    if context.out.as_json:
        write_json(value)
    else:
        write("\n".join(lines), sys.stderr)


def _with_code(error: Exception, context: Context) -> SynclineError:
    """Return an exception as an error with a code."""
    if isinstance(error, SynclineError):
        return error
    if "botocore.exceptions" in sys.modules:
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415 - is imported already

        from syncline.cli.aws import as_syncline_error  # noqa: PLC0415 - needs botocore

        if isinstance(error, BotoCoreError | ClientError):
            return as_syncline_error(error, context.deployment_name, local=not context.stack)
    return SynclineError("INTERNAL", f"{type(error).__name__}: {error}; set SYNCLINE_DEBUG=1 for the traceback")
