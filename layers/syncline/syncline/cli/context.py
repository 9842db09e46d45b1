"""What every command is given, and what it gives back."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from syncline.cli.project import find, home_folder
from syncline.cli.show import Out
from syncline.errors import SynclineError

if TYPE_CHECKING:
    from syncline.cli.target import Target
    from syncline.model import Run

ALL_WELL: Final = 0
SOME_FAILED: Final = 1
NOT_DONE: Final = 2
INTERRUPTED: Final = 130

REMEMBERED: Final = "applied.json"
"""In the engine's home: the syncs applied last."""


@dataclass(frozen=True, slots=True)
class Answer:
    """How a command ended: the object that ``--json`` prints, and the exit code."""

    value: Mapping[str, Any] = field(default_factory=dict)
    code: int = ALL_WELL


class InterruptedWaitError(Exception):
    """Ctrl-C while a run was followed; the run goes on unless ``cancelled``."""

    def __init__(self, run: Run, *, cancelled: bool = False) -> None:
        super().__init__(run.id)
        self.run = run
        self.cancelled = cancelled


@dataclass(frozen=True)
class Context:
    """The options that every command takes, and what follows from them."""

    stack: str | None
    home_option: Path | None
    out: Out

    @cached_property
    def home(self) -> Path:
        """The folder in which the engine of this machine keeps its state: ``--home``, or the project's default."""
        return self.home_option.absolute() if self.home_option else home_folder(self.project)

    @cached_property
    def project(self) -> Path:
        """The project that `syncline up` deploys."""
        return find(Path.cwd())

    @cached_property
    def target(self) -> Target:
        """The engine or stack that is meant; raises ENGINE_ABSENT, AWS_DENIED or AWS_UNAVAILABLE."""
        from syncline.cli.target import on_aws, on_this_machine  # noqa: PLC0415 - boto3 is slow to import

        return on_aws(self.stack) if self.stack else on_this_machine(self.home)

    @property
    def where(self) -> str:
        """How messages call what is asked, as far as it is known."""
        if "target" in self.__dict__:
            return self.target.where
        return f"the stack {self.stack}" if self.stack else "the engine on this machine"

    def now(self) -> float:
        """Unix seconds."""
        return time.time()

    def only_here(self, command: str) -> None:
        """Refuse ``--stack`` where a command is about the engine of this machine."""
        if self.stack:
            what = f"`{command}` is for the engine on this machine; a stack on AWS is deployed with `sam deploy`"
            raise SynclineError("USAGE", what)

    def command(self, words: str) -> str:
        """Return a command for people to type, with the options of this one that it needs, quoted for a shell."""
        given = (("--stack", self.stack, "SYNCLINE_STACK"), ("--home", self.home_option, "SYNCLINE_HOME"))
        options = [
            f" {option} {shlex.quote(str(value))}"
            for option, value, variable in given
            if value and str(value) != os.environ.get(variable)
        ]
        return f"syncline {words}{''.join(options)}"
