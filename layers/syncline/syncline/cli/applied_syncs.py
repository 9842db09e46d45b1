"""Write syncs to a stack, and keep a copy of those applied to the engine on this machine in case it loses its state."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from syncline.cli.context import APPLIED_FILE
from syncline.cli.schedules import delete_schedule, put_schedules
from syncline.config.sync import Sync, load_sync
from syncline.errors import SynclineError
from syncline.kinds.table import KINDS
from syncline.model import EVERYTHING, Run, Trigger
from syncline.operations import start_run

if TYPE_CHECKING:
    from syncline.cli.deployment import Deployment


@dataclass(frozen=True, slots=True)
class AppliedSync:
    """The change that an apply made to one sync and its schedule.

    ``sync`` is None for a sync that is not in the file: it was removed or kept. ``cancelled`` is the run of a removed
    sync. ``under_way`` is the run of a changed sync, which keeps its old configuration. ``target_changed`` is set if the
    sync now writes to another target, for which it has no records.
    """

    name: str
    change: str
    schedule: str
    sync: Sync | None = None
    cancelled: str | None = None
    under_way: str | None = None
    target_changed: bool = False


def applied_configs(deployment: Deployment) -> dict[str, str]:
    """Return the applied syncs by name, as JSON."""
    return {name: deployment.state.sync_config(name) for name in deployment.state.sync_names()}


def put_syncs(deployment: Deployment, syncs: Mapping[str, Sync], *, prune: bool = False) -> list[AppliedSync]:
    """Write syncs and their schedules to the stack, if they differ. ``prune`` removes all other syncs."""
    before = applied_configs(deployment)
    others = sorted(set(before) - set(syncs))
    changes = {name: _put(deployment, sync, before.get(name)) for name, sync in syncs.items()}
    # Schedules are removed before their syncs, so that none starts a sync that does not exist.
    schedules = put_schedules(deployment, syncs.values(), () if prune else others)
    done = []
    for name, sync in syncs.items():
        applied = AppliedSync(name, changes[name], schedules.get(name, "none"), sync)
        if applied.change == "changed":
            current = deployment.state.current_run(name)
            other = _has_other_target(before[name], sync)
            applied = replace(applied, under_way=current.id if current else None, target_changed=other)
        done.append(applied)
    if not prune:
        return done + [AppliedSync(name, "kept", "unchanged") for name in others]
    for name in others:
        cancelled = _remove(deployment, name)
        done.append(AppliedSync(name, "removed", schedules.get(name, "none"), cancelled=cancelled))
    return done


def config_changes(
    deployment: Deployment, syncs: Mapping[str, Sync], *, prune: bool
) -> dict[str, tuple[str, list[str]]]:
    """Return for each sync the change that applying would make, and the differing lines of its configuration."""
    before = applied_configs(deployment)
    found = {}
    for name in [*syncs, *sorted(set(before) - set(syncs))]:
        old, sync = before.get(name), syncs.get(name)
        if sync is None:
            change, new = ("removed", None) if prune else ("kept", old)
        else:
            new = sync.model_dump_json()
            change = "added" if old is None else "unchanged" if old == new else "changed"
        lines = difflib.unified_diff(_lines(old), _lines(new), lineterm="", n=2)
        found[name] = (change, [line for line in lines if not line.startswith(("---", "+++", "@@"))])
    return found


def _lines(config: str | None) -> list[str]:
    """Return a configuration as one line per key that is set."""
    return [] if config is None else _flat("", json.loads(config))


def _flat(path: str, value: Any) -> list[str]:
    if isinstance(value, dict):
        return [line for key, each in value.items() for line in _flat(f"{path}.{key}" if path else str(key), each)]
    return [] if value is None else [f"{path}: {json.dumps(value, ensure_ascii=False)}"]


def _put(deployment: Deployment, sync: Sync, before: str | None) -> str:
    text = sync.model_dump_json()
    if text == before:
        return "unchanged"
    deployment.event_store.subscribe(sync.name, sync.event_sources())
    deployment.state.put_sync(sync.name, text, unverified=before is not None and _needs_scan(before, text))
    return "added" if before is None else "changed"


def _needs_scan(before: str, text: str) -> bool:
    """Return True if earlier scans say nothing about a changed configuration (JSON).

    That is so if its source, its target or what it selects differs, or if it was disabled before.
    """
    old, new = json.loads(before), json.loads(text)
    is_enabled = new.get("enabled", True) and not old.get("enabled", True)
    return is_enabled or any(old.get(key) != new.get(key) for key in ("kind", "source", "target", "select", "build"))


def _has_other_target(before: str, sync: Sync) -> bool:
    """Return True if the target differs from that of the configuration applied before (JSON).

    Return False if the kind differs, as there are no records then, and if this version cannot read the old
    configuration: records carry the ID of their target, so the next run is correct in any case.
    """
    try:
        old = load_sync(before)
    except SynclineError:
        return False
    return old.kind == sync.kind and old.target_id() != sync.target_id()


def _remove(deployment: Deployment, name: str) -> str | None:
    """Remove a sync and cancel its run; return the ID of that run, None if there was none."""
    current = deployment.state.current_run(name)
    if current is not None:
        deployment.state.cancel_run(name, current.id)
    deployment.event_store.subscribe(name, ())
    deployment.state.remove_sync(name)
    return None if current is None else current.id


def delete_sync(deployment: Deployment, name: str) -> str | None:
    """Delete one sync and its schedule, and cancel its run; return the ID of that run, None if there was none."""
    delete_schedule(deployment, name)
    return _remove(deployment, name)


def start_runs(deployment: Deployment, syncs: Iterable[Sync]) -> list[Run]:
    """Start a run over everything for each enabled sync with a schedule, unless it is paused or has a run in progress."""
    runs = []
    for sync in syncs:
        starts = sync.enabled and sync.schedule is not None and KINDS[sync.kind].has_runs
        if starts and not deployment.state.health(sync.name).paused:
            try:
                runs.append(start_run(deployment, sync.name, Trigger.START, EVERYTHING))
            except SynclineError as error:
                if error.code.name != "ALREADY_RUNNING":
                    raise
    return runs


def save_applied(home: Path, deployment: Deployment) -> None:
    """Save the applied syncs in the engine's home: after a crash the engine's state may be some seconds old."""
    from syncline.cli.local_engine import write_durably  # noqa: PLC0415 - not needed for a stack on AWS

    text = json.dumps([json.loads(config) for config in applied_configs(deployment).values()], indent=2)
    write_durably(home / APPLIED_FILE, text)


def load_applied(home: Path) -> dict[str, Sync]:
    """Return the syncs that were last applied to the engine in ``home``; raises CONFIG_INVALID."""
    path = home / APPLIED_FILE
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        syncs = [load_sync(json.dumps(entry)) for entry in entries]
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError):
        raise SynclineError("CONFIG_INVALID", f"{path} is damaged; run `syncline apply` again") from None
    return {sync.name: sync for sync in syncs}
