"""``syncline doctor``: checks everything that the syncs need, changes nothing, and says what to do."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from syncline.cli.aws import as_syncline_error
from syncline.cli.commands_run import config_of
from syncline.cli.context import SOME_FAILED, CommandResult, Context
from syncline.cli.deployment import Deployment
from syncline.cli.output import Style
from syncline.cli.stack_checks import StackChecks, SyncChecks
from syncline.clients.http.client import Http
from syncline.clients.http.retry import RetryPolicy
from syncline.config.sync import Sync, load_sync
from syncline.errors import SynclineError
from syncline.run_text import source_and_target
from syncline.text import plural
from syncline.wiring.checks import CheckGroup, CheckLine, CheckVerdict, run_checks
from syncline.wiring.doctor import chains_of

_MARKS: Final[Mapping[CheckVerdict, tuple[str, Style]]] = {
    CheckVerdict.OK: ("✓", "green"),
    CheckVerdict.WARNING: ("!", "yellow"),
    CheckVerdict.FAILED: ("✗", "red"),
    CheckVerdict.UNCHECKED: ("\N{EN DASH}", "dim"),
}
_COMMAND: Final = re.compile(r"`syncline ([a-z ]+) NAME((?: [^`]*)?)`")
STACK: Final = "the stack"
"""Name of the group of the checks that do not belong to a sync."""


def doctor(context: Context, name: str | None) -> CommandResult:
    """Check the stack, and one sync or all; exit 1 if a check fails.

    An engine that does not run is a failed check. Raises NO_SUCH_SYNC.
    """
    try:
        deployment = context.deployment
    except SynclineError as error:
        line = CheckLine("engine", "engine", CheckVerdict.FAILED, error.what, error.code.name, error.code.action)
        return _result(context, {STACK: [line]}, {})
    configs, unread = _configs(deployment, name)
    http = Http(RetryPolicy(attempts=1))
    stack = StackChecks(context, deployment, frozenset(_names(deployment)))
    groups = [CheckGroup(STACK, "", stack.chains())]
    parts = deployment.dependencies(http, context.now)
    for sync in configs.values():
        checks = SyncChecks(context, deployment, sync, http, stack.dead)
        chains = [*checks.before(), *chains_of(sync, parts, local=deployment.local), *checks.after()]
        groups.append(CheckGroup(sync.name, sync.kind, chains))
    found = {**run_checks(groups), **unread}
    named = {
        each: lines if each == STACK else [_for_sync(context, each, line) for line in lines]
        for each, lines in found.items()
    }
    return _result(context, named, configs)


def _for_sync(context: Context, name: str, line: CheckLine) -> CheckLine:
    """Return the line with the sync's name in the commands of its advice."""
    action = _COMMAND.sub(lambda match: f"`{context.command(f'{match[1]} {name}{match[2]}')}`", line.action)
    return replace(line, action=action)


def _names(deployment: Deployment) -> list[str]:
    """Return the names of the applied syncs; none if the table cannot be read, which a check reports."""
    try:
        return deployment.state.sync_names()
    except (BotoCoreError, ClientError, SynclineError):
        return []


def _configs(deployment: Deployment, name: str | None) -> tuple[dict[str, Sync], dict[str, list[CheckLine]]]:
    """Return the syncs to check, and a line for each that cannot be read."""
    configs, unread = dict[str, Sync](), dict[str, list[CheckLine]]()
    names = _names(deployment) if name is None else [name]
    for each in names:
        try:
            configs[each] = load_sync(config_of(deployment.state, each))
        except SynclineError as error:
            if error.code.name == "NO_SUCH_SYNC":
                raise
            line = CheckLine(
                "sync", "configuration", CheckVerdict.FAILED, error.what, error.code.name, error.code.action
            )
            unread[each] = [line]
        except (BotoCoreError, ClientError) as error:
            problem = as_syncline_error(error, deployment.name, local=deployment.local)
            what = f"needs the table ({problem.code.name})"
            unread[each] = [CheckLine("sync", "configuration", CheckVerdict.UNCHECKED, what)]
    return configs, unread


def _result(context: Context, found: Mapping[str, Sequence[CheckLine]], configs: Mapping[str, Sync]) -> CommandResult:
    out = context.out
    for name, lines in found.items():
        sync = configs.get(name)
        about = f"{name}: {sync.kind}, {source_and_target(sync.model_dump(mode='json'))}" if sync else name
        out.line(context.deployment_name if name == STACK else about, "bold")
        for line in lines:
            _show(context, line)
    lines = [line for each in found.values() for line in each]
    counts = {verdict: sum(line.verdict is verdict for line in lines) for verdict in CheckVerdict}
    out.line()
    failed, warned = counts[CheckVerdict.FAILED], counts[CheckVerdict.WARNING]
    words = [plural(failed, "problem"), *([plural(warned, "warning")] if warned else [])]
    words.append(f"{counts[CheckVerdict.OK]} in order")
    words += [f"{counts[CheckVerdict.UNCHECKED]} not checked"] if counts[CheckVerdict.UNCHECKED] else []
    out.line(", ".join(words), "red" if failed else "yellow" if warned else "green")
    out.line(_viewpoint(context), "dim")
    value: dict[str, Any] = {"engine": context.deployment_name, "failed": failed, "warnings": warned}
    value["checks"] = [
        {"sync": None if name == STACK else name, **_as_dict(line)} for name, each in found.items() for line in each
    ]
    return CommandResult(value, SOME_FAILED if failed else 0)


def _show(context: Context, line: CheckLine) -> None:
    mark, style = _MARKS[line.verdict]
    code = f"{line.code}: " if line.code else ""
    by = " (by the functions)" if line.by_functions and line.verdict is not CheckVerdict.UNCHECKED else ""
    subject = line.part if line.what in line.part or line.what.startswith("secret ") else f"{line.part} {line.what}"
    context.out.line(f"  {mark} {subject}: {code}{line.text}{by}", style if line.verdict is not CheckVerdict.OK else "")
    if line.action:
        context.out.line(f"    → {line.action}", "dim")


def _as_dict(line: CheckLine) -> dict[str, Any]:
    value = asdict(line)
    value["checked_by"] = "functions" if value.pop("by_functions") else "this machine"
    return value | {"verdict": line.verdict.value, "code": line.code or None, "action": line.action or None}


def _viewpoint(context: Context) -> str:
    if context.stack is None:
        return "checked from this machine, where the functions run as well"
    return "checked from this machine and with your permissions; the network and the role of the functions may differ"
