"""Events of buckets and file managers as groups of a scope: keys, prefixes of keys, and permissions.

The group of a bucket's event has the event's sequencer, if sequencers order the bucket's events. The group of a
permission has the time that its event states, the time at which it came, and its number among those that came then.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from syncline.clients.file_manager.client import FileEvent, parse_event
from syncline.clients.s3.events import events_in, has_dot_segment, is_no_newer, is_notification
from syncline.clients.s3.xml import unix_time
from syncline.errors import SynclineError
from syncline.kinds.files.config import KEY, PREFIX, FilesSync
from syncline.model import compact_json

_MODE: Final = "mode:"
_EVENT: Final = "event:"
_MILLISECONDS: Final = 1e11
"""Smallest number that is a time in milliseconds: in seconds it would be in the year 5138."""


@dataclass(frozen=True, slots=True)
class EventScope:
    """The parsed groups of a scope.

    ``modes`` has permissions by key, each with the time of its event in Unix seconds, None if it stated none. ``events``
    has sequencers by key. The files of ``keys`` are read in any case, those of ``events`` if one of their events may be
    newer than the record.
    """

    keys: frozenset[str] = frozenset()
    prefixes: tuple[str, ...] = ()
    modes: dict[str, tuple[str, float | None]] = field(default_factory=dict)
    events: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, groups: Iterable[str]) -> EventScope:
        """Parse groups; of the permissions for one key the latest count. Raises MESSAGE_INVALID."""
        keys: set[str] = set()
        prefixes: list[str] = []
        permissions: list[tuple[float, int, str, str, float | None]] = []
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
                key, mode, at, came, number = json.loads(group.removeprefix(_MODE))
                permissions.append((came, number, key, mode, at))
            else:
                raise SynclineError(
                    "MESSAGE_INVALID", f"the scope has {group[:40]!r}, which names no key, prefix, event or permissions"
                )
        modes: dict[str, tuple[str, float | None]] = {}
        for _, _, key, mode, at in sorted(permissions, key=lambda each: each[:2]):
            before = modes.get(key, ("", None))[1]
            if before is None or at is None or at >= before:
                modes[key] = (mode, at)
        return cls(frozenset(keys), tuple(sorted(prefixes)), modes, events)

    def is_known(self, key: str, seq: str) -> bool:
        """Return True if all events of a key are certainly not newer than the one with the sequencer ``seq``."""
        return key not in self.keys and all(is_no_newer(each, seq) for each in self.events[key])

    def newest_sequencer(self, key: str) -> str:
        """Return the newest sequencer of a key's events, "" if there is none."""
        newest = ""
        for each in self.events.get(key, ()):
            if not newest or is_no_newer(newest, each):
                newest = each
        return newest


def groups_in(sync: FilesSync, body: Any, now: float) -> tuple[str, ...]:
    """Return the groups that a notification's decoded body names. Raises MESSAGE_INVALID if it is not one.

    Accepted are a bucket's notifications, and events of the file manager: one, or a list under ``events``. ``now`` is
    the time at which they came, in Unix seconds.
    """
    if not is_notification(body):
        return groups_of(sync, manager_events_in(body), now)
    events = [event for event in events_in(body) if event.bucket == sync.source.bucket and sync.takes(event.key)]
    orders = ((event.key, event.order if sync.source.sequenced else None) for event in events)
    return tuple(sorted({f"{KEY}{key}" if order is None else f"{_EVENT}{order}:{key}" for key, order in orders}))


def sources_in(body: Any) -> tuple[str, ...]:
    """Return the file manager that a decoded body names under ``service`` as the source of its events, if it does.

    Raises MESSAGE_INVALID if none of the events can be read.
    """
    if not (isinstance(body, dict) and isinstance(body.get("service"), str)):
        return ()
    manager_events_in(body)
    return (f"files:{body['service'].rstrip('/')}",)


def manager_events_in(body: Any) -> list[FileEvent]:
    """Return the file manager's events in a decoded body. Raises MESSAGE_INVALID if none of them is readable.

    An unreadable event among others is skipped: the next full scan finds its change.
    """
    if not (isinstance(body, dict) and isinstance(body.get("events"), list)):
        return [parse_event(body)]
    events: list[FileEvent] = []
    wrong: SynclineError | None = None
    for each in body["events"]:
        try:
            events.append(parse_event(each))
        except SynclineError as error:
            wrong = wrong or error
    if wrong is not None and not events:
        raise wrong
    return events


def groups_of(sync: FilesSync, events: Iterable[FileEvent], now: float) -> tuple[str, ...]:
    """Return the groups that events of the file manager name; paths outside this sync are skipped."""
    groups: set[str] = set()
    for number, event in enumerate(events):
        for path in (event.path, event.new_path):
            key = None if path is None else sync.key_of(path)
            if key is None or has_dot_segment(key):
                continue
            groups.add(f"{KEY}{key}")
            if event.permissions is not None:
                groups.add(f"{_MODE}{compact_json([key, event.permissions, instant(event.timestamp), now, number])}")
    return tuple(sorted(groups))


def instant(text: str) -> float | None:
    """Return an event's time in Unix seconds: ISO 8601 (UTC without a zone), or seconds or milliseconds as a number."""
    try:
        number = float(text)
    except ValueError:
        try:
            return unix_time(text) if text else None
        except (ValueError, OverflowError):
            return None
    if not 0 <= number < math.inf:
        return None
    return number / 1000 if number >= _MILLISECONDS else number
