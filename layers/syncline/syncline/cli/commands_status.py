"""``syncline status``: where the syncs stand."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Final

from syncline.cli.commands_acknowledge import known_row
from syncline.cli.commands_report import latest_run
from syncline.cli.commands_retry import letters_by_sync, take_away_verified
from syncline.cli.commands_run import config_of, config_with_runs, ended
from syncline.cli.context import Answer, Context
from syncline.cli.following import follow
from syncline.cli.next_time import next_time
from syncline.cli.progress import Rate, words
from syncline.cli.show import Cell, Row, Style, ago, many, number
from syncline.cli.summary import TRIGGERS, as_called, as_dict, counted, exit_code, known_words
from syncline.cli.target import Target
from syncline.cli.waiting import state_words, waiting_of
from syncline.errors import SynclineError
from syncline.kinds.table import KindInfo, kind_info
from syncline.model import Run, RunStatus, Step, Trigger
from syncline.store.instances import InstanceList, InstanceLists
from syncline.store.state import State
from syncline.store.table import Database
from syncline.visible import visible

_AT_ONCE: Final = 8
_LETTERS_READ: Final = 500
"""Dead letters that are read to tell whose they are."""
_HISTORY: Final = 10
_MANY: Final = 1000
"""Runs among which the latest complete scan is looked for: each event may have begun one since."""
_SHOWN: Final = 20
"""Known failures that are shown of one sync."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Where one sync stands; ``config`` is what was applied, ``coming`` the next start by schedule (Unix seconds).

    ``known`` and ``acknowledged`` count its known failures. ``in_sync`` is None if no full run has ended well yet.
    ``instances`` are those of a sync whose kind has no runs. ``said`` are words on the state of the run in progress, such as why it
    waits.
    """

    name: str
    config: Mapping[str, Any]
    current: Run | None
    last: Run | None
    coming: float | None
    known: int = 0
    acknowledged: int = 0
    in_sync: bool | None = None
    instances: InstanceList | None = None
    said: Sequence[str] = ()

    @property
    def kind(self) -> KindInfo:
        return kind_info(str(self.config.get("kind")))

    def as_dict(self) -> dict[str, Any]:
        listed: dict[str, Any] = {}
        if self.instances is not None:
            found = self.instances
            listed = {"instances": len(found.instances), "listed": found.seen}
            listed |= {"scrape_failed": found.failed, "scrape_reason": found.reason}
        return listed | {
            "name": self.name,
            "kind": self.kind.name,
            "enabled": self.config.get("enabled", True),
            "schedule": self.config.get("schedule"),
            "timezone": self.config.get("timezone"),
            "next": self.coming,
            "in_sync": self.in_sync,
            "known": self.known,
            "acknowledged": self.acknowledged,
            "current": None if self.current is None else as_dict(self.current),
            "last": None if self.last is None else as_dict(self.last),
        }


def status(context: Context, name: str | None, *, wait: bool) -> Answer:
    """Show all syncs, or one with its latest runs; with ``wait`` follow the run under way of one."""
    target = context.target
    if wait:
        return _wait(context, name)
    if name is not None:
        config_of(target.state, name)
    names = [name] if name is not None else target.state.sync_names()
    modified = _modified(target)
    for each in names:
        take_away_verified(target, each)
    lists = InstanceLists(Database(target.table), context.now).all()
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        standings = [
            replace(each, instances=None if each.kind.has_runs else lists.get(each.name, InstanceList()))
            for each in pool.map(lambda each: _standing(context, each, modified.get(each)), names)
        ]
        dead = dict(zip(Step, pool.map(target.queues.count_dead_letters, Step), strict=True))
    if name is None:
        _show_all(context, standings)
    else:
        _show_one(context, standings[0])
    others = _dead_of_others(target, dead) if name is None else {}
    _show_dead(context, "dead letters" if name is None else "dead letters of all syncs", dead, others)
    _follow_up(context, standings)
    value: dict[str, Any] = {"engine": target.where, "console": target.outputs.get("ConsoleUrl")}
    value["syncs"] = [each.as_dict() for each in standings]
    value["dead_letters"] = {step.value: count for step, count in dead.items()}
    if name is None:
        value["dead_letters_of_others"] = others
    else:
        value["runs"] = [as_dict(run) for run in target.state.runs(name, _HISTORY)]
    return Answer(value)


def _wait(context: Context, name: str | None) -> Answer:
    """Follow the run under way; where there is none any more, tell how the latest one ended."""
    state = context.target.state
    if name is None:
        raise SynclineError("USAGE", "--wait needs the name of a sync")
    config_with_runs(state, name)
    current = state.current_run(name)
    if current is not None and not current.over:
        return ended(context, follow(context, current), started=False)
    last = latest_run(state, name)
    if last is None:
        raise SynclineError("NO_SUCH_RUN", f"{name} has not run yet; `syncline run {name}` starts a run")
    context.out.line(f"no run of {name} is under way; the latest one, {ago(last.started, context.now())}:")
    return ended(context, last, started=False)


def _modified(target: Target) -> dict[str, float]:
    """When each schedule was last changed: a rate counts from then on."""
    pages = target.scheduler.get_paginator("list_schedules").paginate(GroupName=target.output("ScheduleGroupName"))
    found = (each for page in pages for each in page["Schedules"])
    return {each["Name"]: each["LastModificationDate"].timestamp() for each in found}


def _standing(context: Context, name: str, modified: float | None) -> Standing:
    state = context.target.state
    config = json.loads(state.sync_config(name))
    current = state.current_run(name)
    said: list[str] = []
    if current is not None:
        progress = state.progress(current.id)
        said = state_words(current, progress, context.now())
        waiting = waiting_of(current, progress, context.now())
        current = replace(current, counts=progress.counts, waiting=waiting)
    runs = _ended_runs(state, name)
    marks = [each.acknowledged for each in state.failures.all(name)] if state.failures.any(name) else []
    acknowledged = sum(marks)
    return Standing(
        name,
        config,
        current,
        next(iter(runs), None),
        _coming(context, config, runs, modified),
        len(marks) - acknowledged,
        acknowledged,
        _in_sync(runs, failing=bool(marks)),
        said=said,
    )


def _ended_runs(state: State, name: str) -> list[Run]:
    """Return the latest runs that are over, the newest first: as many as it takes to have a complete scan among them."""
    runs: list[Run] = []
    for limit in (_HISTORY, _MANY):
        found = state.runs(name, limit)
        runs = [run for run in found if run.over and not run.plan]
        if len(found) < limit or any(map(_is_complete, runs)):
            break
    return runs


def _is_complete(run: Run) -> bool:
    return run.scope.everything and run.status is RunStatus.DONE


def _in_sync(runs: Sequence[Run], *, failing: bool) -> bool | None:
    """Return True if the last complete scan, and each run since, left no difference, and nothing is known to fail.

    ``runs`` are over, the newest first. Return None if none of them was a complete scan.
    """
    for at, run in enumerate(runs):
        if _is_complete(run):
            return not failing and not any(exit_code(each) for each in runs[: at + 1])
    return None


def _coming(context: Context, config: Mapping[str, Any], runs: Sequence[Run], modified: float | None) -> float | None:
    """When the schedule comes next; None without one, or where it is off or missing."""
    schedule = config.get("schedule")
    if not schedule or not config.get("enabled", True) or modified is None:
        return None
    scheduled = [run.started for run in runs if run.trigger is Trigger.SCHEDULE]
    since = max([modified, *scheduled])
    return next_time(schedule, config.get("timezone"), context.now(), since)


def _show_all(context: Context, standings: Sequence[Standing]) -> None:
    out = context.out
    out.line(context.target.where, "dim")
    if console := context.target.outputs.get("ConsoleUrl"):
        out.line(f"console: {console}", "dim")
    if not standings:
        out.line("no syncs have been applied")
    out.table([_row(context, each) for each in standings], head=("SYNC", "NOW", "NEXT", "LAST RUN"))


def _row(context: Context, each: Standing) -> Row:
    if each.instances is not None:
        found = each.instances
        listed = "never listed" if found.seen is None else f"listed {ago(found.seen, context.now())}"
        style: Style = "red" if found.failed else "yellow" if found.seen is None else "green"
        said = listed + (f"; the latest scrape failed: {found.failed}" if found.failed else "")
        return (
            Cell(each.name, "bold"),
            many(len(found.instances), "instance"),
            _next(context, each),
            Cell(said, style),
        )
    now, style = _now(each)
    return (Cell(each.name, "bold"), Cell(now, style), _next(context, each), *_last(context, each))


def _now(each: Standing) -> tuple[str, Style]:
    current = each.current
    if current is None:
        return ("idle", "") if each.config.get("enabled", True) else ("disabled", "yellow")
    begun = [] if current.status is RunStatus.CANCELLING else ["running"]
    return ", ".join([*begun, *each.said, *words(current.counts, Rate())]), "yellow" if current.waiting else "cyan"


def _next(context: Context, each: Standing) -> str:
    if each.coming is not None:
        return ago(each.coming, context.now())
    if each.config.get("schedule") and each.config.get("enabled", True):
        return "schedule missing"
    return "-"


def _last(context: Context, each: Standing) -> tuple[Cell, ...]:
    run = each.last
    if run is None:
        return (Cell("never", "dim"),)
    mark, style = _mark(run)
    return (Cell(f"{mark} {ago(run.started, context.now())}, {TRIGGERS[run.trigger]}: {counted(run.counts)}", style),)


def _mark(run: Run) -> tuple[str, Style]:
    if not run.over:
        return "…", "cyan"
    if run.status is RunStatus.CANCELLED:
        return "○", "yellow"
    return ("✗", "red") if exit_code(run) else ("✓", "green")


def _show_one(context: Context, each: Standing) -> None:
    out = context.out
    out.line(f"{each.name}: {each.kind.name}, {ends_of(each.config)}", "bold")
    schedule = each.config.get("schedule") or "none"
    zone = f" {each.config['timezone']}" if each.config.get("timezone") else ""
    coming = f", next {_next(context, each)}" if each.coming is not None else ""
    out.line(f"schedule: {schedule}{zone}{coming}" + ("" if each.config.get("enabled", True) else ", disabled"))
    if each.instances is not None:
        _show_instances(context, each.instances)
        return
    now, style = _now(each)
    out.line(f"now: {now}", style)
    out.table([_run_row(context, run) for run in context.target.state.runs(each.name, _HISTORY)])
    _show_agreement(context, each)


def ends_of(config: Mapping[str, Any]) -> str:
    """Return the source and the target of a configuration in words."""
    kind = kind_info(str(config.get("kind")))
    return f"{_endpoint(config, kind.source)} → {_endpoint(config, kind.target)}"


def _endpoint(config: Mapping[str, Any], keys: Sequence[str]) -> str:
    """Return the value of the first of `keys` that is set, with the address of its server; "?" if none is."""
    for part, _, key in (key.rpartition(".") for key in keys):
        side = config.get(part) or {} if part else config
        if not (value := side.get(key)):
            continue
        if key == "bucket":
            value = f"s3://{value}/{side.get('prefix') or ''}"
        address = side.get("endpoint") or side.get("url")
        return (value if isinstance(value, str) else ", ".join(value)) + (f" at {address}" if address else "")
    return "?"


def _show_instances(context: Context, found: InstanceList) -> None:
    """Show the instances of a sync without runs, and where to ask about them."""
    out = context.out
    said = "never listed"
    if found.seen is not None:
        said = f"{number(len(found.instances))}, listed {ago(found.seen, context.now())}"
    failed = f"; the latest scrape failed: {found.failed}" if found.failed else ""
    out.line(f"instances: {said}{failed}", "yellow" if failed or found.seen is None else "")
    if found.reason:
        out.line(f"  {visible(found.reason)}", "yellow")
    out.table([_instance_row(each) for each in found.instances], indent=2)
    probe = context.target.outputs.get("ProbeUrl")
    if probe:
        out.line(f"probe: {probe.rstrip('/')}/v1/synced")


def _instance_row(each: Mapping[str, Any]) -> Row:
    state = "terminating" if each.get("terminating") else "" if each.get("ready", True) else "not ready"
    address = f"{each.get('address', '?')}:{each.get('port', '?')}"
    return (str(each.get("place", "")), str(each.get("name", "?")), address, Cell(state, "yellow"))


def _show_agreement(context: Context, each: Standing) -> None:
    """Show whether a sync is in sync, and what is known to fail."""
    out = context.out
    if each.in_sync is None and not (each.known or each.acknowledged):
        return
    why = ", ".join(known_words(each.known, each.acknowledged)) or "see the latest runs"
    out.line(*(("in sync", "green") if each.in_sync else (f"not in sync: {why}", "yellow")))
    shown = (
        list(islice(context.target.state.failures.all(each.name), _SHOWN)) if each.known or each.acknowledged else []
    )
    shown.sort(key=lambda failure: failure.key)
    out.table([known_row(failure) for failure in as_called(each.kind, shown)], indent=2)
    more = each.known + each.acknowledged - len(shown)
    if more > 0:
        out.line(f"  and {many(more, 'other')}; `{context.command(f'acknowledge {each.name}')}` lists all")


def _run_row(context: Context, run: Run) -> Row:
    mark, style = _mark(run)
    said = "under way" if not run.over else counted(run.counts)
    kind = "plan" if run.plan else TRIGGERS[run.trigger]
    return (Cell(mark, style), run.id, ago(run.started, context.now()), kind, said)


def _dead_of_others(target: Target, dead: Mapping[Step, int]) -> dict[str, int]:
    """Return the number of dead letters of syncs that are not applied; nothing if there are too many to read."""
    if not 0 < sum(dead.values()) <= _LETTERS_READ:
        return {}
    applied = set(target.state.sync_names())
    counts = letters_by_sync(target.queues, [step for step, count in dead.items() if count])
    return {name: count for name, count in sorted(counts.items()) if name not in applied}


def _show_dead(context: Context, what: str, dead: Mapping[Step, int], others: Mapping[str, int]) -> None:
    if any(dead.values()):
        where = ", ".join(f"{step.value} {number(count)}" for step, count in dead.items() if count)
        context.out.line(f"{what}: {where}", "yellow")
    for name, count in others.items():
        context.out.line(f"dead letters of {name}, which is not applied: {number(count)}", "yellow")
        context.out.follow_up(context.command(f"retry {name} --drop '*'"), "deletes them")


def _follow_up(context: Context, standings: Sequence[Standing]) -> None:
    """The one command that is worth typing now."""
    out = context.out
    if not standings:
        out.follow_up(context.command("apply"), "makes the syncs what syncs.yaml says")
        return
    with_runs = [each for each in standings if each.kind.has_runs]
    if not with_runs:  # what instances have is asked at the probe
        return
    standings = with_runs
    running = next((each.name for each in standings if each.current is not None), None)
    troubled = next((each.last for each in standings if each.last is not None and exit_code(each.last)), None)
    if running:
        out.follow_up(context.command(f"status {running} --wait"), "follows the run")
    elif troubled:
        out.follow_up(context.command(f"report {troubled.id}"), "shows each item and what to do about it")
    elif all(each.last is None for each in standings):
        out.follow_up(context.command(f"plan {standings[0].name}"), "shows what a run would move")
    else:
        out.follow_up(context.command(f"run {standings[0].name} --wait"), "looks again now")
