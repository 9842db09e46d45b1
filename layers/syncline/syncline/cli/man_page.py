"""``syncline man``: the manual page, for man(1), from the declarations of the commands."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

from syncline import __version__
from syncline.cli.command_tree import CommandNode, Parameter, command_tree
from syncline.cli.context import CommandResult, Context

_EXIT_CODES: Final = {
    "0": "Success.",
    "1": "Some items failed, conflict or are untrusted, the run was cancelled or lost, or source and target differ (diff).",
    "2": "The command failed: wrong usage or configuration, no engine, no access.",
    "130": "Interrupted.",
}
_VARIABLES: Final = {
    "SYNCLINE_STACK": "Stack on AWS, as --stack.",
    "SYNCLINE_HOME": "Folder of the engine on this machine, as --home.",
    "SYNCLINE_DEBUG": "If it is set, internal errors are printed with their traceback.",
    "NO_COLOR": "If it is set, output has no colours.",
}
_FILES: Final = {
    "syncs.yaml": "The syncs.",
    ".syncline": "Folder of the engine in a checkout; elsewhere ~/.local/share/syncline.",
    ".syncline/engine.log": "The log of the engine and of its functions.",
}


def man(context: Context, root: Any) -> CommandResult:
    """Print the manual page. ``root`` is the group of all commands."""
    lines = list(page(command_tree(root)))
    context.out.lines(lines)
    return CommandResult({"page": "\n".join(lines) + "\n"})


def page(root: CommandNode) -> Iterator[str]:
    """Yield the lines of the page in the macros of man(7)."""
    yield f'.TH SYNCLINE 1 "" "Syncline {__version__}" "User Commands"'
    yield from (".SH NAME", r"syncline \- sync two places, and verify every copy", ".SH SYNOPSIS")
    yield from (".B syncline", r"\fICOMMAND\fR [\fIARGUMENT\fR]... [\fIOPTION\fR]...")
    yield from (".SH DESCRIPTION", _text(root.help))
    commands = [each for each in root.walk() if each.path and not each.commands]
    shared = _shared([each for each in commands if len(each.path) == 1])
    yield ".SH COMMANDS"
    for node in commands:
        usage = " ".join(each.text for each in node.arguments)
        yield f'.SS "{_text(" ".join((*node.path, usage)).strip())}"'
        yield _text(node.help)
        yield from _parameters([each for each in (*node.arguments, *node.options) if each not in shared])
        if node.examples:
            yield from (".PP", ".EX", *(_text(each) for each in node.examples), ".EE")
    yield ".SH OPTIONS"
    yield "Most commands take these options:"
    yield from _parameters(shared)
    for title, entries in (("EXIT STATUS", _EXIT_CODES), ("ENVIRONMENT", _VARIABLES), ("FILES", _FILES)):
        yield f".SH {title}"
        for name, text in entries.items():
            yield from (".TP", f".B {_text(name)}", _text(text))


def _shared(commands: Sequence[CommandNode]) -> list[Parameter]:
    """Return the options that all commands have."""
    return [each for each in commands[0].options if all(each in node.options for node in commands)]


def _parameters(parameters: Sequence[Parameter]) -> Iterator[str]:
    for each in parameters:
        value = rf"\fI{_text(each.value)}\fR" if each.value else ""
        names = ", ".join(rf"\fB{_text(name)}\fR" for name in each.names)
        yield ".TP"
        yield " ".join(filter(None, (names, value)))
        yield _text(each.help) or r"\&"


def _text(text: str) -> str:
    r"""Return a text for roff: with its special characters escaped, and no line that begins as a request."""
    text = (
        text.replace("\\", "\\e").replace("-", "\\-").replace("~", "\\(ti").replace("`", "\\(ga").replace("^", "\\(ha")
    )
    text = text.replace('"', "\\(dq").replace("\n\n", "\n.PP\n")
    return re.sub(r"^(?=['.](?!PP$))", r"\\&", text, flags=re.MULTILINE)
