"""Run programs (pip, sam) with output to a log; an error has the last lines of it."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Final

from syncline.errors import SynclineError
from syncline.escaping import escape

_SECONDS: Final = 900
_LINES: Final = 5
_WIDTH: Final = 240  # characters of a line
_TAIL: Final = 1 << 20  # bytes of a log that are read for its last lines
_STYLES: Final = re.compile(r"\x1b\[[0-9;:?]*[ -/]*[@-~]")
_SECRET_NAME: Final = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|PRIVATE|API_?KEY|ACCESS_?KEY", re.IGNORECASE)
_SHORTEST_SECRET: Final = 8  # characters; a shorter value is likely to be an ordinary word


class ProgramError(SynclineError):
    """ENGINE_FAILED because of a program. ``output`` has its last lines of output, without secrets."""

    def __init__(self, what: str, output: Sequence[str]) -> None:
        super().__init__("ENGINE_FAILED", what)
        self.output = tuple(output)

    def __str__(self) -> str:
        return "\n".join([super().__str__(), *(f"  {line}" for line in self.output)])


def run(
    command: list[str], folder: Path, log: Path, environ: Mapping[str, str] | None = None, *, seconds: float = _SECONDS
) -> None:
    """Run a program and append its output to ``log``; raises ENGINE_FAILED with the last lines if it fails."""
    with log.open("a") as output:
        output.write(f"$ {shlex.join(command)}\n")
        output.flush()
        begin = output.tell()
        try:
            subprocess.run(  # noqa: S603 - a fixed program, no shell
                command,
                cwd=folder,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=True,
                timeout=seconds,
            )
        except (OSError, subprocess.SubprocessError) as error:
            what = f"`{_name(command)}` failed ({reason(error)}); its output is in {log}"
            raise ProgramError(what, last_lines(log, begin)) from error


def reason(error: Exception) -> str:
    """Return the reason why a program failed, without the command line."""
    if isinstance(error, subprocess.CalledProcessError):
        return f"exit status {error.returncode}"
    if isinstance(error, subprocess.TimeoutExpired):
        return f"timed out after {error.timeout:.0f} s"
    return str(error)


def last_lines(log: Path, begin: int = 0) -> list[str]:
    """Return the last lines of ``log`` after ``begin`` bytes, shortened, without blank lines, styles and secrets."""
    from syncline.clients.http.addresses import redacted  # noqa: PLC0415 - only a failure needs them
    from syncline.secrets import redact, register  # noqa: PLC0415

    with log.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(begin, size - _TAIL))
        if size - begin > _TAIL:
            file.readline()  # a partial line could contain part of a secret
        text = file.read().decode(errors="replace")
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST_SECRET and _SECRET_NAME.search(name):
            register(value)
    lines = [line.expandtabs(2).rstrip() for line in _STYLES.sub("", text).splitlines() if line.strip()]
    clean = [escape(redact(redacted(line))) for line in lines[-_LINES:]]  # a part of a secret would not be recognized
    return [line if len(line) <= _WIDTH else f"{line[:_WIDTH]}…" for line in clean]


def _name(command: Sequence[str]) -> str:
    """Return the words of a command before its options: ``python3 -m pip install``."""
    words = takewhile(lambda word: word == "-m" or not word.startswith("-"), command[1:])
    return " ".join([Path(command[0]).name, *words])
