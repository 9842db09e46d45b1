"""``syncline completion``: scripts that complete commands, options and names in bash, zsh and fish.

A script contains all commands and options. Only for the names of syncs it calls `syncline completion names`, which reads
one file of the engine on this machine and prints no errors.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, Final

from syncline.cli.command_tree import CommandNode, Parameter, command_tree
from syncline.cli.context import APPLIED_FILE, CommandResult, Context
from syncline.errors import CODES, SynclineError
from syncline.kinds.table import KINDS

NAMES: Final = "names"
"""Prints the names of the syncs in place of a script."""
_LISTED: Final = {"CODE": tuple(CODES), "KIND": tuple(KINDS)}
"""The values of placeholders that do not list them."""


def completion(context: Context, shell: str, root: Any) -> CommandResult:
    """Print the completion script for a shell; raises USAGE for an unknown shell. ``root`` is the group of all commands."""
    if shell == NAMES:
        names = _sync_names(context)
        context.out.lines(names)
        return CommandResult({"names": names})
    if shell not in _SCRIPTS:
        raise SynclineError("USAGE", f"there is no completion for {shell!r}; the shells are {', '.join(_SCRIPTS)}")
    lines = list(_SCRIPTS[shell](command_tree(root)))
    context.out.lines(lines)
    return CommandResult({"shell": shell, "script": "\n".join(lines) + "\n"})


def _sync_names(context: Context) -> list[str]:
    """Return the names of the syncs applied to the engine on this machine, none for a stack or without an engine."""
    with suppress(SynclineError, OSError, ValueError, TypeError, KeyError):
        if not context.stack:
            applied = json.loads((context.home / APPLIED_FILE).read_text(encoding="utf-8"))
            return sorted(each["name"] for each in applied)
    return []


def _words(node: CommandNode) -> list[str]:
    """Return the literal words that may follow a command: its subcommands and the choices of its arguments."""
    choices = [choice for each in node.arguments for choice in _choices(each)]
    return [*(each.path[-1] for each in node.commands), *choices]


def _choices(parameter: Parameter) -> tuple[str, ...]:
    return _LISTED.get(parameter.value) or parameter.choices


def _paths(root: CommandNode) -> list[str]:
    """Return the paths of all commands below `syncline`, as texts that begin with a space for the first level."""
    return [f"{' '.join(each.path[:-1])} {each.path[-1]}" for each in root.walk() if each.path]


def _takes(node: CommandNode, wanted: Callable[[Parameter], bool]) -> list[str]:
    """Return the names of the options with a value that are `wanted`."""
    return [name for each in node.options if each.value and wanted(each) for name in each.names]


def _bash(root: CommandNode) -> Iterator[str]:
    yield "# bash completion of syncline; written by `syncline completion bash`"
    yield "_syncline() {"
    yield "    local at='' words='' options='' files='' values='' choices='' names='' i"
    yield '    local cur="${COMP_WORDS[COMP_CWORD]}" prev="${COMP_WORDS[COMP_CWORD-1]}"'
    yield "    COMPREPLY=()"
    yield "    for ((i = 1; i < COMP_CWORD; i++)); do"
    yield '        case "$at ${COMP_WORDS[i]}" in'
    yield f'            {_alternatives(_paths(root))}) at="${{at:+$at }}${{COMP_WORDS[i]}}" ;;'
    yield "        esac"
    yield "    done"
    yield '    case "$at" in'
    for node in root.walk():
        chosen = {name: each.choices for each in node.options if each.choices for name in each.names}
        yield f"        {_quote(' '.join(node.path))})"
        yield f"            words={_quote(' '.join(_words(node)))}"
        yield f"            options={_quote(' '.join(name for each in node.options for name in each.names))}"
        if values := _takes(node, lambda each: not each.file):
            yield f"            values={_quote(_spaced(values))}"
        if files := _takes(node, lambda each: each.file):
            yield f"            files={_quote(_spaced(files))}"
        for name, words in chosen.items():
            yield f"            [[ $prev == {name} ]] && choices={_quote(' '.join(words))}"
        if any(each.is_sync for each in node.arguments):
            yield "            names=1"
        if any(each.file for each in node.arguments):
            yield "            words+=' <file>'"
        yield "            ;;"
    yield "    esac"
    yield '    if [[ -n $choices ]]; then COMPREPLY=($(compgen -W "$choices" -- "$cur"))'
    yield '    elif [[ $files == *" $prev "* ]]; then compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -f -- "$cur"))'
    yield '    elif [[ $values == *" $prev "* ]]; then return'
    yield '    elif [[ $cur == -* ]]; then COMPREPLY=($(compgen -W "$options" -- "$cur"))'
    yield "    else"
    yield '        [[ -n $names ]] && words+=" $(syncline completion names 2>/dev/null </dev/null)"'
    yield "        if [[ $words == *' <file>'* ]]; then"
    yield "            words=${words/ <file>/}; compopt -o filenames 2>/dev/null"
    yield '            COMPREPLY=($(compgen -W "$words" -- "$cur") $(compgen -f -- "$cur"))'
    yield '        else COMPREPLY=($(compgen -W "$words" -- "$cur")); fi'
    yield "    fi"
    yield "}"
    yield "complete -F _syncline syncline"


def _zsh(root: CommandNode) -> Iterator[str]:
    yield "#compdef syncline"
    yield "# zsh completion of syncline; written by `syncline completion zsh`"
    yield "_syncline() {"
    yield "    local at='' previous=\"${words[CURRENT-1]}\" i"
    yield "    local -a commands options choices"
    yield "    local -A values"
    yield "    local names='' files=''"
    yield "    for ((i = 2; i < CURRENT; i++)); do"
    yield '        case "$at ${words[i]}" in'
    yield f'            ({_alternatives(_paths(root))}) at="${{at:+$at }}${{words[i]}}" ;;'
    yield "        esac"
    yield "    done"
    yield '    case "$at" in'
    for node in root.walk():
        below = [f"{_colons(each.path[-1])}:{_colons(_first_line(each.help))}" for each in node.commands]
        below += [_colons(choice) for each in node.arguments for choice in _choices(each)]
        options = [f"{name}:{_colons(each.help)}" for each in node.options for name in each.names]
        values = [
            word
            for each in node.options
            if each.value
            for name in each.names
            for word in (name, "<file>" if each.file else " ".join(each.choices) or "<any>")
        ]
        yield f"        ({_quote(' '.join(node.path))})"
        yield f"            commands=({' '.join(map(_quote, below))})"
        yield f"            options=({' '.join(map(_quote, options))})"
        yield f"            values=({' '.join(map(_quote, values))})"
        if any(each.is_sync for each in node.arguments):
            yield "            names=1"
        if any(each.file for each in node.arguments):
            yield "            files=1"
        yield "            ;;"
    yield "    esac"
    yield '    case "${values[$previous]}" in'
    yield "        ('') ;;"
    yield "        ('<file>') _files; return ;;"
    yield "        ('<any>') return ;;"
    yield "        (*) choices=(${=values[$previous]}); _describe value choices; return ;;"
    yield "    esac"
    yield "    if [[ ${words[CURRENT]} == -* ]]; then _describe -o option options; return; fi"
    yield "    if [[ -n $names ]]; then"
    yield '        commands+=(${(f)"$(syncline completion names 2>/dev/null </dev/null)"})'
    yield "    fi"
    yield "    local found=1"
    yield "    (( ${#commands} )) && _describe argument commands && found=0"
    yield "    [[ -n $files ]] && _files && found=0"
    yield "    return found"
    yield "}"
    yield 'if [[ $funcstack[1] == _syncline ]]; then _syncline "$@"; else compdef _syncline syncline; fi'


def _fish(root: CommandNode) -> Iterator[str]:
    yield "# fish completion of syncline; written by `syncline completion fish`"
    yield "function __syncline_at"
    yield "    set -l at ''"
    yield "    for word in (commandline -opc)[2..-1]"
    yield '        switch "$at $word"'
    yield f"            case {' '.join(map(_quote, _paths(root)))}"
    yield '                set at (string trim "$at $word")'
    yield "        end"
    yield "    end"
    yield '    test "$at" = "$argv[1]"'
    yield "end"
    yield "complete -c syncline -f"
    for node in root.walk():
        at = " ".join(node.path)
        here = f'complete -c syncline -n "__syncline_at {_quote(at)}"'
        for each in node.commands:
            yield f"{here} -a {each.path[-1]} -d {_quote(_first_line(each.help))}"
        for argument in node.arguments:
            if choices := _choices(argument):
                yield f"{here} -a {_quote(' '.join(choices))}"
            if argument.is_sync:
                yield f"{here} -a '(syncline completion names 2>/dev/null </dev/null)'"
            if argument.file:
                yield f"{here} -F"
        for option in node.options:
            yield f"{here} {_fish_option(option)} -d {_quote(option.help)}"


def _fish_option(option: Parameter) -> str:
    parts = [f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in option.names]
    if option.value:
        parts.append("-r -F" if option.file else "-x")
    if option.choices:
        parts.append(f"-a {_quote(' '.join(option.choices))}")
    return " ".join(parts)


def _spaced(words: Iterable[str]) -> str:
    """Return words between spaces, so that each can be found with a space on both sides."""
    return f" {' '.join(words)} "


def _alternatives(texts: Iterable[str]) -> str:
    return "|".join(f'"{text}"' for text in texts)


def _first_line(text: str) -> str:
    return text.partition("\n")[0]


def _colons(text: str) -> str:
    """Return a text for zsh's `_describe`, which separates by a colon."""
    return text.replace("\\", "\\\\").replace(":", "\\:")


def _quote(text: str) -> str:
    """Quote a text for all three shells; fish does not join quoted parts in the way that shlex closes an apostrophe."""
    return shlex.quote(text) if "'" not in text else '"' + _escaped(text) + '"'


def _escaped(text: str) -> str:
    for character in '\\"$`':
        text = text.replace(character, f"\\{character}")
    return text


_SCRIPTS: Final = {"bash": _bash, "zsh": _zsh, "fish": _fish}
