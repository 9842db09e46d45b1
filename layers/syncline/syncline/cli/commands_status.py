"""``syncline status``: the state of the syncs."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from typing import Any, Final, NoReturn

from syncline.cli.commands_report import failure_row, latest_run
from syncline.cli.commands_run import config_of, config_with_runs, show_ending
from syncline.cli.context import CommandResult, Context
from syncline.cli.deployment import Deployment
from syncline.cli.output import Cell, Row, Style
from syncline.cli.run_progress import follow_run, progress_words, state_words
from syncline.cli.schedules import list_schedules
from syncline.cli.summary import OUTPUT_VERSION, exit_code, lag_dict, run_dict
from syncline.errors import SynclineError
from syncline.escaping import escape
from syncline.kinds.table import KindInfo, kind_info
from syncline.model import Lags, Run, RunStatus, Step, Trigger
from syncline.operations import delete_verified, letters_by_sync
from syncline.progress import Throughput, waiting_reason
from syncline.run_text import (
    TRIGGERS,
    audit_text,
    counts_text,
    known_words,
    lag_text,
    source_and_target,
    with_display_groups,
)
from syncline.schedule import next_time, seconds_of
from syncline.store.audits import PERIOD, AuditRecord
from syncline.store.drills import Drill
from syncline.store.health import Health
from syncline.store.table import Database
from syncline.store.tokens import InstanceList, InstanceLists
from syncline.text import number, plural, relative_time, rough_duration

_AT_ONCE: Final = 8
_LETTERS_READ: Final = 500
"""Largest number of dead letters that are read to count them per sync."""
_HISTORY: Final = 10
_WATCH_SECONDS: Final = 2.0
_SHOWN: Final = 20
"""Known failures shown for one sync."""


@dataclass(frozen=True, slots=True)
class SyncStatus:
    """The state of one sync; ``next_start`` is in Unix seconds, None without an active schedule.

    ``known`` and ``acknowledged`` count its known failures. ``lags`` are those of the latest runs.
    ``instances`` is set for a kind without runs. ``notes`` describe the run in progress, such as the reason why it waits.
    """

    name: str
    config: Mapping[str, Any]
    current: Run | None
    last: Run | None
    next_start: float | None
    known: int = 0
    acknowledged: int = 0
    health: Health = field(default_factory=Health)
    stale: bool = False
    lags: Lags = field(default_factory=Lags)
    instances: InstanceList | None = None
    notes: Sequence[str] = ()
    audits: AuditRecord = field(default_factory=AuditRecord)
    audit_stale: bool = False
    now: float = 0.0
    drill: Drill | None = None

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
            "next": self.next_start,
            "in_sync": self.health.in_sync,
            "in_sync_since": self.health.since if self.health.in_sync else None,
            "verified": self.health.verified or None,
            "fresh_within": self.config.get("fresh_within"),
            "stale": self.stale,
            "drill": self.drill and asdict(self.drill) | {"succeeded": self.drill.succeeded},
            "paused": self.health.paused or None,
            "audit": self._audit(),
            "lag": lag_dict(self.lags),
            "known": self.known,
            "acknowledged": self.acknowledged,
            "current": None if self.current is None else run_dict(self.current),
            "last": None if self.last is None else run_dict(self.last),
        }

    def _audit(self) -> dict[str, Any] | None:
        audits, limits = self.audits, self.config.get("audit") or {}
        if not audits.run and not limits:
            return None
        return {
            "run": audits.run or None,
            "started": audits.at or None,
            "equal": audits.equal,
            "equal_at": audits.equal_at or None,
            "read": audits.read_since(self.now - PERIOD) if audits.last else None,
            "within": limits.get("within"),
            "stale": self.audit_stale,
        }


def status(context: Context, name: str | None, *, wait: bool) -> CommandResult:
    """Show all syncs, or one with its latest runs; with ``wait`` follow the run in progress of one."""
    deployment = context.deployment
    if wait:
        return _wait(context, name)
    if name is not None:
        config_of(deployment.state, name)
    names = [name] if name is not None else deployment.state.sync_names()
    # The time of the last change of each schedule: a rate counts from there.
    modified = {each["Name"]: each["LastModificationDate"].timestamp() for each in list_schedules(deployment)}
    for each in names:
        delete_verified(deployment, each)
    lists = InstanceLists(Database(deployment.table), context.now).all()
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        statuses = [
            replace(each, instances=None if each.kind.has_runs else lists.get(each.name, InstanceList()))
            for each in pool.map(lambda each: _sync_status(context, each, modified.get(each)), names)
        ]
        dead = dict(zip(Step, pool.map(deployment.queues.count_dead_letters, Step), strict=True))
    if name is None:
        _show_all(context, statuses)
    else:
        _show_one(context, statuses[0])
    others = _dead_of_others(deployment, dead) if name is None else {}
    _show_dead(context, "dead letters" if name is None else "dead letters of all syncs", dead, others)
    _follow_up(context, statuses)
    value: dict[str, Any] = {"version": OUTPUT_VERSION, "engine": deployment.name}
    value["console"] = deployment.outputs.get("ConsoleUrl")
    value["syncs"] = [each.as_dict() for each in statuses]
    value["dead_letters"] = {step.value: count for step, count in dead.items()}
    if name is None:
        value["dead_letters_of_others"] = others
    else:
        value["runs"] = [run_dict(run) for run in deployment.state.runs(name, _HISTORY)]
    return CommandResult(value)


def watch(context: Context, name: str | None) -> NoReturn:
    """Show the state again and again, on a cleared screen at a terminal. Raises USAGE with --json."""
    if context.out.as_json:
        raise SynclineError("USAGE", "--watch repeats its output; leave out --json")
    while True:
        context.out.clear()
        status(context, name, wait=False)
        time.sleep(_WATCH_SECONDS)


def history(context: Context, name: str, limit: int) -> CommandResult:
    """List the latest runs and plans of a sync."""
    state, out = context.deployment.state, context.out
    config_with_runs(state, name)
    runs = state.runs(name, limit)
    out.table([_run_row(context, run) for run in runs])
    if not runs:
        out.line(f"{name} has not run yet")
        out.hint(context.command(f"run {name}"), "to start a run")
    elif len(runs) == limit:
        out.line(f"the latest {number(limit)} runs; --limit shows more", "dim")
    return CommandResult({"version": OUTPUT_VERSION, "name": name, "runs": [run_dict(run) for run in runs]})


def _wait(context: Context, name: str | None) -> CommandResult:
    """Follow the run in progress; if there is none, show the result of the latest."""
    state = context.deployment.state
    if name is None:
        raise SynclineError("USAGE", "--wait needs the name of a sync")
    config_with_runs(state, name)
    current = state.current_run(name)
    if current is not None and not current.over:
        return show_ending(context, follow_run(context, current), started=False)
    last = latest_run(state, name)
    if last is None:
        raise SynclineError("NO_SUCH_RUN", f"{name} has not run yet; start a run with `syncline run {name}`")
    context.out.line(
        f"no run of {name} is in progress; the latest started {relative_time(last.started, context.now())}:"
    )
    return show_ending(context, last, started=False)


def _sync_status(context: Context, name: str, modified: float | None) -> SyncStatus:
    state = context.deployment.state
    text, health = state.sync_config(name), state.health(name)
    config = json.loads(text)
    current = state.current_run(name)
    notes: list[str] = []
    if current is not None:
        progress = state.progress(current.id)
        notes = state_words(current, progress, context.now())
        waiting = waiting_reason(current, progress, context.now())
        current = replace(current, counts=progress.counts, waiting=waiting)
    runs = [run for run in state.runs(name, _HISTORY) if run.over and not run.plan]
    fresh = config.get("fresh_within") if config.get("enabled", True) else None
    audits = state.audits(name)
    within = (config.get("audit") or {}).get("within") if config.get("enabled", True) else None
    marks = [each.acknowledged for each in state.failures.all(name)] if state.failures.any(name) else []
    acknowledged = sum(marks)
    return SyncStatus(
        name,
        config,
        current,
        next(iter(runs), None),
        _next_start(context, config, runs, modified, health),
        len(marks) - acknowledged,
        acknowledged,
        health,
        health.is_stale(seconds_of(fresh) if fresh else None, context.now()),
        Lags.total(run.lags for run in runs),
        notes=notes,
        audits=audits,
        now=context.now(),
        audit_stale=audits.is_stale(seconds_of(within) if within else None, health, context.now()),
        drill=state.drill(name),
    )


def _next_start(
    context: Context, config: Mapping[str, Any], runs: Sequence[Run], modified: float | None, health: Health
) -> float | None:
    """Return the next start by schedule; None without an active schedule."""
    schedule = config.get("schedule")
    if not schedule or not config.get("enabled", True) or health.paused or modified is None:
        return None
    scheduled = [run.started for run in runs if run.trigger is Trigger.SCHEDULE]
    since = max([modified, *scheduled])
    return next_time(schedule, config.get("timezone"), context.now(), since)


def _show_all(context: Context, statuses: Sequence[SyncStatus]) -> None:
    out = context.out
    out.line(context.deployment.name, "dim")
    if console := context.deployment.outputs.get("ConsoleUrl"):
        out.line(f"the status page: {console}", "dim")
    if not statuses:
        out.line("no syncs have been applied")
    out.table([_row(context, each) for each in statuses], head=("SYNC", "NOW", "NEXT", "LAST RUN"))


def _row(context: Context, each: SyncStatus) -> Row:
    if each.instances is not None:
        found = each.instances
        style: Style = "red" if found.failed else "yellow" if found.seen is None else "green"
        now, last = Cell(plural(len(found.instances), "instance")), Cell(_listed(context, found), style)
    else:
        now, last = _now(context, each), _last(context, each)
    return (Cell(each.name, "bold"), now, _next(context, each), last)


def _listed(context: Context, found: InstanceList) -> str:
    """Return when the instances of a sync were listed, and why the latest scrape failed."""
    text = "never listed" if found.seen is None else f"listed {relative_time(found.seen, context.now())}"
    return text + (f"; the latest scrape failed: {found.failed}" if found.failed else "")


def _activity(each: SyncStatus) -> tuple[str, Style]:
    """Return what a sync is doing."""
    current = each.current
    if current is None:
        if each.health.paused:
            return "paused", "yellow"
        return ("idle", "") if each.config.get("enabled", True) else ("disabled", "yellow")
    begun = [] if current.status is RunStatus.CANCELLING else ["running"]
    words = [*begun, *each.notes, *progress_words(current.counts, Throughput())]
    return ", ".join(words), "yellow" if current.waiting else "cyan"


def _now(context: Context, each: SyncStatus) -> Cell:
    """Return the present state of a sync: stale or not, and what it is doing or, if nothing, whether it is in sync."""
    text, style = _activity(each)
    if text == "idle" and each.health.in_sync is not None:
        state, style = ("in sync", "green") if each.health.in_sync else ("not in sync", "yellow")
        text = f"{state} for {rough_duration(context.now() - each.health.since)}"
    return Cell(f"stale, {text}", "red") if each.stale or each.audit_stale else Cell(text, style)


def _next(context: Context, each: SyncStatus) -> str:
    if each.next_start is not None:
        return relative_time(each.next_start, context.now())
    if each.config.get("schedule") and each.config.get("enabled", True) and not each.health.paused:
        return "schedule missing"
    return "-"


def _last(context: Context, each: SyncStatus) -> Cell:
    run = each.last
    if run is None:
        return Cell("never", "dim")
    mark, style = _symbol(run)
    begun = f"{relative_time(run.started, context.now())}, {TRIGGERS[run.trigger]}"
    return Cell(f"{mark} {begun}: {counts_text(run.counts)}", style)


def _symbol(run: Run) -> tuple[str, Style]:
    if not run.over:
        return "…", "cyan"
    if run.status is RunStatus.CANCELLED:
        return "○", "yellow"
    return ("✗", "red") if exit_code(run) else ("✓", "green")


def _show_one(context: Context, each: SyncStatus) -> None:
    out = context.out
    out.line(f"{each.name}: {each.kind.name}, {source_and_target(each.config)}", "bold")
    schedule = each.config.get("schedule") or "none"
    zone = f" {each.config['timezone']}" if each.config.get("timezone") else ""
    next_start = f", next {_next(context, each)}" if each.next_start is not None else ""
    out.line(f"schedule: {schedule}{zone}{next_start}" + ("" if each.config.get("enabled", True) else ", disabled"))
    if each.instances is not None:
        _show_instances(context, each.instances)
        return
    now, style = _activity(each)
    out.line(f"now: {now}", style)
    out.table([_run_row(context, run) for run in context.deployment.state.runs(each.name, _HISTORY)])
    _show_health(context, each)


def _show_instances(context: Context, found: InstanceList) -> None:
    """Show the instances of a sync without runs, and the URL of the probe."""
    out = context.out
    count = "" if found.seen is None else f"{number(len(found.instances))}, "
    out.line(f"instances: {count}{_listed(context, found)}", "yellow" if found.failed or found.seen is None else "")
    if found.reason:
        out.line(f"  {escape(found.reason)}", "yellow")
    out.table([_instance_row(each) for each in found.instances], indent=2)
    probe = context.deployment.outputs.get("ProbeUrl")
    if probe:
        out.line(f"probe: {probe.rstrip('/')}/v1/synced")


def _instance_row(each: Mapping[str, Any]) -> Row:
    state = "terminating" if each.get("terminating") else "" if each.get("ready", True) else "not ready"
    address = f"{each.get('address', '?')}:{each.get('port', '?')}"
    return (str(each.get("place", "")), str(each.get("name", "?")), address, Cell(state, "yellow"))


def _show_health(context: Context, each: SyncStatus) -> None:
    """Show if a sync is in sync and fresh, how far it lags behind, and its known failures."""
    out, health, now = context.out, each.health, context.now()
    count = each.known + each.acknowledged
    if health.paused:
        out.line(
            f"paused for {rough_duration(now - health.paused)}; `{context.command(f'resume {each.name}')}` resumes it",
            "yellow",
        )
    if health.in_sync:
        out.line(f"in sync for {rough_duration(now - health.since)}", "green")
    elif health.in_sync is False:
        why = ", ".join(known_words(each.known, each.acknowledged)) or "see the latest runs"
        out.line(f"not in sync for {rough_duration(now - health.since)}: {why}", "yellow")
    verified = relative_time(health.verified, now) if health.verified else "never"
    limit = f", fresh_within is {each.config['fresh_within']}" if each.config.get("fresh_within") else ""
    if each.stale:
        out.line(f"stale: last verified {verified}{limit}", "red")
    elif health.verified or limit:
        out.line(f"last verified {verified}{limit}")
    _show_audits(context, each)
    _show_drill(context, each)
    if each.lags.count:
        half, most = (lag_text(each.lags, share) for share in (0.5, 0.95))
        out.line(f"lag of the {plural(each.lags.count, 'item')} of the latest runs: half {half}, 95 % {most}")
    found = islice(context.deployment.state.failures.all(each.name), _SHOWN) if count else ()
    shown = sorted(found, key=lambda failure: failure.key)
    out.table([failure_row(failure) for failure in with_display_groups(each.kind, shown)], indent=2)
    if count > len(shown):
        out.line(
            f"  and {plural(count - len(shown), 'other')}; `{context.command(f'acknowledge {each.name}')}` lists all"
        )


def _show_audits(context: Context, each: SyncStatus) -> None:
    """Show the latest audit, and how much of the target audits have read."""
    out, audits, now = context.out, each.audits, context.now()
    if audits.run:
        verdict = "equal" if audits.equal else "not equal"
        when = relative_time(audits.at, now)
        text = f"audited {when} ({audit_text(audits.audit)}) and found {verdict}: {counts_text(audits.counts)}"
        out.line(text, "green" if audits.equal else "yellow")
    if audits.last:
        share = audits.read_since(now - PERIOD)
        out.line(f"{100 * share:.0f} % of the target read by audits within {PERIOD // 86_400} days")
    if each.audit_stale:
        seen = relative_time(audits.equal_at, now) if audits.equal_at else "never"
        within = each.config["audit"]["within"]
        out.line(f"stale: last found equal by an audit {seen}, audit.within is {within}", "red")


def _show_drill(context: Context, each: SyncStatus) -> None:
    """Show the latest restore drill, and that none has ended although the sync has a schedule for them."""
    drill, now = each.drill, context.now()
    if drill is None:
        if (each.config.get("drill") or {}).get("schedule"):
            context.out.line("no restore drill has ended yet", "yellow")
        return
    counts = f"{plural(drill.compared, 'item')} equal" + (f", {drill.failed} failed" if drill.failed else "")
    if drill.succeeded:
        context.out.line(f"restore drill succeeded {relative_time(drill.started, now)}: {counts}", "green")
        return
    last = (
        f"the last one without a failure was {relative_time(drill.verified, now)}"
        if drill.verified
        else "none ever succeeded"
    )
    context.out.line(f"restore drill failed {relative_time(drill.started, now)}: {counts}; {last}", "red")
    context.out.hint(context.command(f"report {drill.run}"), "to see what failed")


def _run_row(context: Context, run: Run) -> Row:
    mark, style = _symbol(run)
    text = "in progress" if not run.over else counts_text(run.counts)
    kind = TRIGGERS[run.trigger]
    if run.plan:
        kind = "drill" if run.drill is not None else "audit" if run.audit is not None else "plan"
    return (Cell(mark, style), run.id, relative_time(run.started, context.now()), kind, text)


def _dead_of_others(deployment: Deployment, dead: Mapping[Step, int]) -> dict[str, int]:
    """Return the number of dead letters per sync that is not applied; empty if there are too many to read."""
    if not 0 < sum(dead.values()) <= _LETTERS_READ:
        return {}
    applied = set(deployment.state.sync_names())
    counts = letters_by_sync(deployment.queues, [step for step, count in dead.items() if count])
    return {name: count for name, count in sorted(counts.items()) if name not in applied}


def _show_dead(context: Context, what: str, dead: Mapping[Step, int], others: Mapping[str, int]) -> None:
    if where := ", ".join(f"{step.value} {number(count)}" for step, count in dead.items() if count):
        context.out.line(f"{what}: {where}", "yellow")
    for name, count in others.items():
        context.out.line(f"dead letters of {name}, which is not applied: {number(count)}", "yellow")
        context.out.hint(context.command(f"retry {name} --drop '*'"), "to delete them")


def _follow_up(context: Context, statuses: Sequence[SyncStatus]) -> None:
    """Suggest the next command."""
    out = context.out
    if not statuses:
        out.hint(context.command("apply"), "to apply syncs.yaml")
        return
    statuses = [each for each in statuses if each.kind.has_runs]
    if not statuses:  # instances are queried through the probe
        return
    running = next((each.name for each in statuses if each.current is not None), None)
    troubled = next((each.last for each in statuses if each.last is not None and exit_code(each.last)), None)
    if running:
        out.hint(context.command(f"status {running} --wait"), "to follow the run")
    elif troubled:
        out.hint(context.command(f"report {troubled.id}"), "to see each item and what to do about it")
    elif all(each.last is None for each in statuses):
        out.hint(context.command(f"plan {statuses[0].name}"), "to see what a run would move")
    else:
        out.hint(context.command(f"run {statuses[0].name} --wait"), "to scan again now")
