"""The context that each command receives, and its result."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from syncline.cli.output import Output
from syncline.cli.project import find, home_folder
from syncline.errors import SynclineError

if TYPE_CHECKING:
    from syncline.cli.deployment import Deployment
    from syncline.model import Run

ALL_WELL: Final = 0
SOME_FAILED: Final = 1
NOT_DONE: Final = 2
INTERRUPTED: Final = 130

APPLIED_FILE: Final = "applied.json"
"""File in the engine's home with the syncs applied last."""


@dataclass(frozen=True, slots=True)
class CommandResult:
    """The object that ``--json`` prints, and the exit code."""

    value: Mapping[str, Any] = field(default_factory=dict)
    code: int = ALL_WELL


class InterruptedWaitError(Exception):
    """Ctrl-C while a run was followed. The run continues unless ``cancelled``."""

    def __init__(self, run: Run, *, cancelled: bool = False) -> None:
        super().__init__(run.id)
        self.run = run
        self.cancelled = cancelled


@dataclass(frozen=True)
class Context:
    """The options that all commands share, and the project, home and deployment that follow from them."""

    stack: str | None
    home_option: Path | None
    out: Output

    @cached_property
    def home(self) -> Path:
        """Folder with the state of the engine on this machine: ``--home``, or the project's default."""
        return self.home_option.absolute() if self.home_option else home_folder(self.project)

    @cached_property
    def project(self) -> Path:
        """The project that `syncline up` deploys."""
        return find(Path.cwd())

    @cached_property
    def deployment(self) -> Deployment:
        """The engine or stack to work on; raises ENGINE_ABSENT, AWS_DENIED or AWS_UNAVAILABLE."""
        from syncline.cli.deployment import local_deployment, stack_deployment  # noqa: PLC0415 - boto3 is slow to import

        return stack_deployment(self.stack) if self.stack else local_deployment(self.home)

    @property
    def deployment_name(self) -> str:
        """Name of the engine or stack in messages, also if it cannot be reached."""
        if "deployment" in self.__dict__:
            return self.deployment.name
        return f"the stack {self.stack}" if self.stack else "the engine on this machine"

    def now(self) -> float:
        """Return the time in Unix seconds."""
        return time.time()

    def refuse_stack(self, command: str) -> None:
        """Raise USAGE if ``--stack`` is given to a command that works on the engine of this machine."""
        if self.stack:
            what = f"`{command}` is for the engine on this machine; a stack on AWS is deployed with `sam deploy`"
            raise SynclineError("USAGE", what)

    def command(self, words: str) -> str:
        """Return a command to type, quoted for a shell, with the options of this call that it needs."""
        given = (("--stack", self.stack, "SYNCLINE_STACK"), ("--home", self.home_option, "SYNCLINE_HOME"))
        options = [
            f" {option} {shlex.quote(str(value))}"
            for option, value, variable in given
            if value and str(value) != os.environ.get(variable)
        ]
        return f"syncline {words}{''.join(options)}"
