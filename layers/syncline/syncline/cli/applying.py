"""Making a stack hold the syncs of a file, and remembering them for the day its memory is lost."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from syncline.cli.context import REMEMBERED
from syncline.cli.following import begin
from syncline.cli.schedules import Schedules
from syncline.config.sync import Sync, load_sync
from syncline.errors import SynclineError
from syncline.kinds.table import KINDS
from syncline.model import EVERYTHING, Run, Trigger

if TYPE_CHECKING:
    from syncline.cli.target import Target


@dataclass(frozen=True, slots=True)
class Applied:
    """What an apply did with one sync and with its schedule.

    ``sync`` is None for one that is not in the file: it was removed or kept. ``cancelled`` is the run of a removed one. ``under_way`` is the run of a
    sync that was changed, which keeps the configuration that it began with. ``target_changed`` is set if the sync now
    writes to another target, of which its records say nothing.
    """

    name: str
    change: str
    schedule: str
    sync: Sync | None = None
    cancelled: str | None = None
    under_way: str | None = None
    target_changed: bool = False


def stored(target: Target) -> dict[str, str]:
    """The applied syncs by name, each as its JSON."""
    return {name: target.state.sync_config(name) for name in target.state.sync_names()}


def put_syncs(target: Target, syncs: Mapping[str, Sync], *, prune: bool = False) -> list[Applied]:
    """Make the stack hold these syncs, with their schedules. What it holds already is not written again.

    Others that it holds stay as they are, and with ``prune`` are removed.
    """
    before = stored(target)
    others = sorted(set(before) - set(syncs))
    changes = {name: _put(target, sync, before.get(name)) for name, sync in syncs.items()}
    # Schedules go before the syncs they start, so that none starts what is no longer there.
    schedules = Schedules(target).put(syncs.values(), () if prune else others)
    done = [
        Applied(
            name,
            changes[name],
            schedules.get(name, "none"),
            sync,
            under_way=_run_under_way(target, name) if changes[name] == "changed" else None,
            target_changed=changes[name] == "changed" and _is_elsewhere(before[name], sync),
        )
        for name, sync in syncs.items()
    ]
    if not prune:
        return done + [Applied(name, "kept", "unchanged") for name in others]
    for name in others:
        cancelled = _remove(target, name)
        done.append(Applied(name, "removed", schedules.get(name, "none"), cancelled=cancelled))
    return done


def differences(target: Target, syncs: Mapping[str, Sync], *, prune: bool) -> dict[str, tuple[str, list[str]]]:
    """Return by name how applying these syncs would change them, and the lines of the configuration that differ."""
    before = stored(target)
    found = {}
    for name in [*syncs, *sorted(set(before) - set(syncs))]:
        old, sync = before.get(name), syncs.get(name)
        new = None if sync is None else sync.model_dump_json()
        if new is None:
            change = "removed" if prune else "kept"
            new = None if prune else old
        else:
            change = "added" if old is None else "unchanged" if old == new else "changed"
        lines = difflib.unified_diff(_lines(old), _lines(new), lineterm="", n=2)
        found[name] = (change, [line for line in lines if not line.startswith(("---", "+++", "@@"))])
    return found


def _lines(config: str | None) -> list[str]:
    """Return a configuration as lines of its keys that are set."""
    if config is None:
        return []
    return _flat("", json.loads(config))


def _flat(path: str, value: Any) -> list[str]:
    if isinstance(value, dict):
        return [line for key, each in value.items() for line in _flat(f"{path}.{key}" if path else str(key), each)]
    return [] if value is None else [f"{path}: {json.dumps(value, ensure_ascii=False)}"]


def _put(target: Target, sync: Sync, before: str | None) -> str:
    text = sync.model_dump_json()
    if text == before:
        return "unchanged"
    target.event_store.subscribe(sync.name, sync.event_sources())
    target.state.put_sync(sync.name, text)
    return "added" if before is None else "changed"


def _run_under_way(target: Target, name: str) -> str | None:
    current = target.state.current_run(name)
    return None if current is None else current.id


def _is_elsewhere(before: str, sync: Sync) -> bool:
    """Return True if the sync, applied before as the JSON ``before``, now has another target.

    A sync that was of another kind has no records. Of a configuration that this version cannot read, nothing is said:
    records carry their target's identity, so the next run is right either way.
    """
    try:
        old = load_sync(before)
    except SynclineError:
        return False
    return old.kind == sync.kind and old.target_id() != sync.target_id()


def _remove(target: Target, name: str) -> str | None:
    """Remove a sync; the id of its run if one was under way, which is cancelled."""
    current = target.state.current_run(name)
    if current is not None:
        target.state.cancel_run(name, current.id)
    target.event_store.subscribe(name, ())
    target.state.remove_sync(name)
    return None if current is None else current.id


def begin_scans(target: Target, syncs: Iterable[Sync]) -> list[Run]:
    """Begin a run over everything of each sync with a schedule that is on; a run that is under way stays alone."""
    runs = []
    for sync in syncs:
        if sync.enabled and sync.schedule is not None and KINDS[sync.kind].has_runs:
            try:
                runs.append(begin(target, sync.name, Trigger.START, EVERYTHING))
            except SynclineError as error:
                if error.code.name != "ALREADY_RUNNING":
                    raise
    return runs


def remember(home: Path, target: Target) -> None:
    """Keep the applied syncs beside the engine's state, which a crash may leave some seconds behind."""
    from syncline.cli.local_engine import write_durably  # noqa: PLC0415 - a stack on AWS does without it

    text = json.dumps([json.loads(config) for config in stored(target).values()], indent=2)
    write_durably(home / REMEMBERED, text)


def remembered(home: Path) -> dict[str, Sync]:
    """The syncs that were applied last to the engine in ``home``; raises CONFIG_INVALID."""
    path = home / REMEMBERED
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        syncs = [load_sync(json.dumps(entry)) for entry in entries]
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError):
        raise SynclineError("CONFIG_INVALID", f"{path} is damaged; run `syncline apply` again") from None
    return {sync.name: sync for sync in syncs}
