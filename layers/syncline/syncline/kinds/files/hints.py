"""What events say is to be looked at, as groups of a scope: keys, beginnings of keys, and permissions that were told.

A key that an event of a bucket names goes with the event's sequencer, where that tells the order of its events.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from syncline.clients.bucket_events import ObjectEvent, events_in, is_notification, surely_older
from syncline.clients.file_manager import FileEvent, event_of
from syncline.config.files import KEY, PREFIX, FilesSync
from syncline.errors import SynclineError
from syncline.model import compact_json

_MODE: Final = "mode:"
_EVENT: Final = "event:"


@dataclass(frozen=True, slots=True)
class Hints:
    """A scope, taken apart. ``modes`` are permissions by key, each with the time of its event.

    ``keys`` are to be looked at in any case, those of ``events`` if one of their sequencers is not known yet.
    """

    keys: frozenset[str] = frozenset()
    prefixes: tuple[str, ...] = ()
    modes: dict[str, tuple[str, str]] = field(default_factory=dict)
    events: dict[str, list[str]] = field(default_factory=dict)

    def all_keys(self) -> set[str]:
        return {*self.keys, *self.events}

    def are_known(self, key: str, seq: str) -> bool:
        """Whether all that is told of a key is surely older than, or is, what was looked at with ``seq``."""
        return key not in self.keys and all(surely_older(each, seq) for each in self.events[key])

    def latest(self, key: str) -> str:
        """The newest sequencer told of a key, "" if there is none; whichever is in doubt, all of them lie behind us."""
        newest = ""
        for each in self.events.get(key, ()):
            if not newest or surely_older(newest, each):
                newest = each
        return newest


def groups_in(sync: FilesSync, body: Any) -> tuple[str, ...]:
    """The groups that a notification's decoded body speaks of; MESSAGE_INVALID if it is none.

    Taken are a bucket's notifications, and events of the file manager: one, or a list under ``events``.
    """
    if is_notification(body):
        return tuple(
            sorted(
                {
                    f"{KEY}{event.key}" if (order := _order(sync, event)) is None else f"{_EVENT}{order}:{event.key}"
                    for event in events_in(body)
                    if event.bucket == sync.source.bucket and sync.takes(event.key)
                }
            )
        )
    return groups_of(sync, manager_events_in(body))


def _order(sync: FilesSync, event: ObjectEvent) -> str | None:
    return event.order if sync.source.sequenced else None


def manager_events_in(body: Any) -> list[FileEvent]:
    """The file manager's events in a decoded body; MESSAGE_INVALID if it holds none."""
    if isinstance(body, dict) and isinstance(body.get("events"), list):
        return [event_of(each) for each in body["events"]]
    return [event_of(body)]


def groups_of(sync: FilesSync, events: Iterable[FileEvent]) -> tuple[str, ...]:
    """The groups that events of the file manager speak of; paths that are none of this sync's are passed over."""
    return tuple(sorted(set(_groups(sync, events))))


def _groups(sync: FilesSync, events: Iterable[FileEvent]) -> Iterator[str]:
    for event in events:
        for path in (event.path, event.new_path):
            key = None if path is None else sync.key_of(path)
            if key is None:
                continue
            yield f"{KEY}{key}"
            if event.permissions is not None:
                yield f"{_MODE}{compact_json([key, event.permissions, event.timestamp])}"


def hints_of(groups: Iterable[str]) -> Hints:
    """A scope's groups taken apart; of permissions told for one key the latest. MESSAGE_INVALID for what is no group."""
    keys: set[str] = set()
    prefixes: list[str] = []
    modes: dict[str, tuple[str, str]] = {}
    events: dict[str, list[str]] = {}
    for group in groups:
        if group.startswith(KEY):
            keys.add(group.removeprefix(KEY))
        elif group.startswith(PREFIX):
            prefixes.append(group.removeprefix(PREFIX))
        elif group.startswith(_EVENT):
            order, _, key = group.removeprefix(_EVENT).partition(":")
            events.setdefault(key, []).append(order)
        elif group.startswith(_MODE):
            key, mode, told = json.loads(group.removeprefix(_MODE))
            modes[key] = max(modes.get(key, ("", "")), (told, mode))
        else:
            raise SynclineError("MESSAGE_INVALID", "a scope of files names keys, prefixes or permissions")
    latest = {key: (mode, told) for key, (told, mode) in modes.items()}
    return Hints(frozenset(keys), tuple(sorted(prefixes)), latest, events)
