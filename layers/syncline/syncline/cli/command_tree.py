"""The commands as plain data: the source of the completion scripts and of the manual page."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_NAMES: Final = frozenset({"NAME", "NAME|RUN"})
"""The placeholders of arguments that take the name of a sync."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """An option or an argument. ``names`` are those of an option; ``value`` is the placeholder, "" for a flag."""

    names: tuple[str, ...]
    value: str
    help: str
    required: bool = False
    repeated: bool = False
    file: bool = False

    @property
    def choices(self) -> tuple[str, ...]:
        """The literal values that the placeholder lists, such as those of ``bash|zsh|fish``."""
        words = tuple(self.value.split("|"))
        return words if self.value.islower() else ()

    @property
    def is_sync(self) -> bool:
        """True if it takes the name of a sync."""
        return not self.names and self.value in _NAMES

    @property
    def text(self) -> str:
        """An argument as in a usage line: ``[NAME]``."""
        text = f"{self.value}..." if self.repeated else self.value
        return text if self.required else f"[{text}]"


@dataclass(frozen=True, slots=True)
class CommandNode:
    """A command or, if it has ``commands``, a group. ``path`` is empty for `syncline` itself."""

    path: tuple[str, ...]
    help: str
    options: tuple[Parameter, ...]
    arguments: tuple[Parameter, ...]
    examples: tuple[str, ...] = ()
    commands: tuple[CommandNode, ...] = ()

    def walk(self) -> Iterator[CommandNode]:
        """Yield this command and all below it."""
        yield self
        for each in self.commands:
            yield from each.walk()


def command_tree(command: Any, path: tuple[str, ...] = ()) -> CommandNode:
    """Return a typer command or group as data, without what is hidden."""
    shown = [each for each in command.params if not getattr(each, "hidden", False)]
    parameters = [_parameter(each) for each in shown]
    options = (*(each for each in parameters if each.names), Parameter(("-h", "--help"), "", "Show the help and exit."))
    names = command.list_commands(None) if hasattr(command, "commands") else []
    return CommandNode(
        path,
        inspect.cleandoc(command.help or ""),
        options,
        tuple(each for each in parameters if not each.names),
        tuple(each.strip() for each in (command.epilog or "").splitlines() if each.startswith("  syncline ")),
        tuple(command_tree(command.get_command(None, name), (*path, name)) for name in names),
    )


def _parameter(given: Any) -> Parameter:
    is_option = given.opts[0].startswith("-")
    flag = getattr(given, "is_flag", False)
    annotation = given.type_descriptor.annotation
    return Parameter(
        tuple(sorted(given.opts, key=len)) if is_option else (),
        "" if flag else given.metavar or given.name.upper(),
        given.help or "",
        given.required,
        given.nargs == -1 or getattr(given, "multiple", False),
        annotation is Path,
    )
