"""The state of the engine on this machine, kept in one SQLite file while the engine runs.

ministack holds everything in memory and writes it only at a clean stop. :class:`Keeper` takes the place of that: it
writes what changed since the last time, about once a second, in one transaction. A crash or a power cut loses what
happened since the last save and nothing else, and the file is whole at any moment. The engine handles no request while
the changes are collected, so table and queues always fit together: a message that is gone from its queue has left its
result in the table.

============  ====================================================================================================
``services``  the state of each of ministack's services as JSON
``records``   items of tables and messages of queues, one row each, in the order they came
``engine``    the address that the engine had
============  ====================================================================================================

This file runs in the engine's own Python, which has ministack and nothing of Syncline.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import logging
import os
import sqlite3
import sys
import threading
import time
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

FILE: Final = "engine.db"
REQUEST: Final = "save"
"""In the engine's home: a file that asks for a save, and is removed when that is done."""

_LOG: Final = logging.getLogger("syncline.store.state")
_SECONDS: Final = 1.0
_MOST_SECONDS: Final = 6.0
_SHARE: Final = 20
"""After a save that took t seconds the next begins 20 t later at the earliest: saving takes at most 5 % of the time."""
_LOOK_SECONDS: Final = 0.1
_CHANGING_SECONDS: Final = 300.0
_SCHEMA: Final = """
    CREATE TABLE IF NOT EXISTS services (name TEXT PRIMARY KEY, state TEXT NOT NULL);
    CREATE TABLE IF NOT EXISTS records (
        number INTEGER PRIMARY KEY, service TEXT, resource TEXT, key TEXT, value TEXT NOT NULL,
        UNIQUE (service, resource, key)
    );
    CREATE TABLE IF NOT EXISTS engine (endpoint TEXT);
"""
_ROWS: Final = 1000
_NOTHING: Final[Mapping[str, Any]] = {}
_CHANGING: Final = ("CREATE_IN_PROGRESS", "UPDATE_IN_PROGRESS", "ROLLBACK_IN_PROGRESS", "DELETE_IN_PROGRESS")
_RECORDS: Final = ("items", "messages", "_index_members")  # of a table, of a queue, and what is made anew from items
STORES: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    # The services with records: the store whose resources have them, and the other stores of the service.
    "dynamodb": (
        "tables",
        (
            "tags",
            "ttl_settings",
            "pitr_settings",
            "kinesis_destinations",
            "contributor_insights",
            "backups",
            "resource_policies",
            "exports",
            "imports",
        ),
    ),
    "sqs": ("queues", ("queue_name_to_url",)),
}

_HELD: Final = ("LEASE#", "SLOT#", "HEARD#")
"""Items under these keys are held by a function ``until`` a time. When the engine starts, no function is at work."""
_ALONE: Final = Path("/proc/self").exists()
"""Elsewhere functions of an engine that was killed cannot be found, and may be at work until their time is over."""

Resource = tuple[str, str]
"""A service, and the key of one of its resources as JSON: account, region, name."""


@dataclass(slots=True)
class Changes:
    """What a save writes. A record is (service, resource, key, value), with None as the value of one that is gone.

    All earlier records of the resources in ``renewed`` are removed first.
    """

    services: dict[str, str] = field(default_factory=dict)
    renewed: list[Resource] = field(default_factory=list)
    records: list[tuple[str, str, object, Any]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.services or self.renewed or self.records)


class Store:
    """The SQLite file. Each write is one transaction that is on the disk when it returns."""

    def __init__(self, file: Path) -> None:
        self._db = sqlite3.connect(file, check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.executescript(_SCHEMA)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def services(self) -> dict[str, str]:
        """Return the state of each service as JSON."""
        return dict(self._db.execute("SELECT name, state FROM services"))

    def records(self, service: str) -> Iterator[tuple[str, Any, Any]]:
        """Yield (resource, key, value) of each record of a service, in the order they came."""
        rows = self._db.execute(
            "SELECT resource, key, value FROM records WHERE service = ? ORDER BY number", (service,)
        )
        while chunk := list(itertools.islice(rows, _ROWS)):
            resources, keys, values = zip(*chunk, strict=True)
            # One call of the decoder for many rows is several times as fast as one for each.
            yield from zip(resources, *(json.loads(f"[{','.join(each)}]") for each in (keys, values)), strict=True)

    def move_to(self, endpoint: str) -> None:
        """Replace the address that the engine had before: names of queues hold it."""
        before = self._db.execute("SELECT endpoint FROM engine").fetchone()
        if before == (endpoint,):
            return
        with _transaction(self._db):
            if before:
                old, new = f"{before[0]}/", f"{endpoint}/"
                self._db.execute("UPDATE services SET state = replace(state, ?, ?)", (old, new))
                self._db.execute(
                    "UPDATE records SET resource = replace(resource, ?, ?), value = replace(value, ?, ?)",
                    (old, new, old, new),
                )
            self._db.execute("DELETE FROM engine")
            self._db.execute("INSERT INTO engine VALUES (?)", (endpoint,))

    def write(self, changes: Changes, default: Callable[[object], object]) -> None:
        """Write all changes or, if it raises, none. ``default`` encodes values that JSON does not know."""
        with _transaction(self._db):
            self._db.executemany("INSERT OR REPLACE INTO services VALUES (?, ?)", changes.services.items())
            self._db.executemany("DELETE FROM records WHERE service = ? AND resource = ?", changes.renewed)
            for service, resource, key, value in changes.records:
                place = (service, resource, json.dumps(key))
                if value is None:
                    self._db.execute("DELETE FROM records WHERE service = ? AND resource = ? AND key = ?", place)
                else:
                    self._db.execute(
                        "INSERT INTO records (service, resource, key, value) VALUES (?, ?, ?, ?)"
                        " ON CONFLICT (service, resource, key) DO UPDATE SET value = excluded.value",
                        (*place, json.dumps(value, default=default)),
                    )


@contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


class Keeper:
    """Loads the state when the engine starts, and saves it while the engine runs and when it ends.

    ``app`` is the module ``ministack.app``. :attr:`saved` is True once the save of a clean stop has succeeded.
    """

    def __init__(self, app: Any, home: Path, endpoint: str) -> None:
        from ministack.core import persistence  # type: ignore[import-not-found]  # noqa: PLC0415 - engine's own Python

        self.saved = False
        self._app = app
        self._json: Any = persistence
        self._folder = home / "state"
        self._request = home / REQUEST
        self._store = Store(self._folder / FILE)
        self._store.move_to(endpoint)
        self._services = self._store.services()
        self._older = [] if self._services else list(self._folder.glob("*.json"))
        self._modules = {name: app._get_module(name) for name in STORES}
        self._items: dict[Resource, dict[str, Any]] = {}  # of each table: what the file holds the items of
        self._messages: dict[Resource, dict[str, Any]] = {}  # of each queue: what the file holds
        self._written: dict[int, set[tuple[str, str]]] = defaultdict(set)  # keys, by the id() of a table's items
        self._asked = {"cloudformation"}  # services that may have changed since the last save
        self._changing_since: float | None = None
        self._waiting: deque[Changes] = deque()
        self._writing = threading.Lock()
        self._ended = False
        self._trouble = ""
        self._note_changes()

    def _note_changes(self) -> None:
        """Have ministack tell of each item that it writes or removes, and of each request."""
        tables = self._modules["dynamodb"]
        for name in ("_set_item", "_remove_item"):
            setattr(tables, name, self._noting_items(getattr(tables, name)))
        for name, handler in self._app.SERVICE_HANDLERS.items():
            if name not in STORES:
                self._app.SERVICE_HANDLERS[name] = self._noting_requests(name, handler)

    def _noting_items(self, change: Callable[..., Any]) -> Callable[..., Any]:
        def noted(table: dict[str, Any], partition: str, sort: str, *item: Any) -> Any:
            self._written[id(table["items"])].add((partition, sort))
            return change(table, partition, sort, *item)

        return noted

    def _noting_requests(self, name: str, handler: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def noted(*arguments: Any) -> Any:
            try:
                return await handler(*arguments)
            finally:
                self._asked.add(name)

        return noted

    # -- loading -----------------------------------------------------------------------------------------------------

    def load(self) -> None:
        """Give each service its state, then begin to save. Runs in the engine's event loop."""
        gc.disable()  # it would look through all that is loaded, again and again
        for name, module in self._app._state_map.items():
            if name in self._services:
                state = json.loads(self._services[name], object_hook=self._json._json_object_hook)
                self._add_records(name, state)
            elif self._services:
                continue
            else:
                state = self._json.load_state(name)  # from the files of an engine of an older version
            if state:
                if name == "sqs":
                    _show_again(state)
                self._app._get_module(module).load_persisted_state(state)
        gc.freeze()
        gc.enable()
        if self._services:
            self._items = {resource: table["items"] for resource, table in self._resources("dynamodb")}
            self._messages = {resource: _copied(queue) for resource, queue in self._resources("sqs")}
        threading.Thread(target=self._run, args=(asyncio.get_running_loop(),), daemon=True, name="state").start()

    def _add_records(self, name: str, state: Any) -> None:
        if name not in STORES:
            return
        part: Any = {"dynamodb": dict, "sqs": list}[name]
        field_name = {"dynamodb": "items", "sqs": "messages"}[name]
        resources = {json.dumps(key): resource for key, resource in state[STORES[name][0]]._data.items()}
        for resource in resources.values():
            resource[field_name] = part()
        for place, key, value in self._store.records(name):
            records = resources[place][field_name]
            if name == "sqs":
                records.append(value)
                continue
            if key[0].startswith(_HELD) and "until" in value and _ALONE:
                value["until"] = {"N": "0"}
            records.setdefault(key[0], {})[key[1]] = value

    # -- saving ------------------------------------------------------------------------------------------------------

    def save_last(self, _: object = None) -> None:
        """Save at a clean stop, in the place of ministack's own way. Runs in the event loop."""
        self._ended = True
        self._asked.add("cloudformation")
        self._collect()
        self.saved = self._write()

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        """Save again and again until the engine ends."""
        due = 0.0
        while not self._ended:
            requested = self._request.exists()
            if not requested and time.monotonic() < due:
                time.sleep(_LOOK_SECONDS)
                continue
            began = time.monotonic()
            # Changes that could not be written wait in memory; until they are, no others are collected.
            complete = not self._waiting and asyncio.run_coroutine_threadsafe(self._between_requests(), loop).result()
            if self._write() and complete and requested:
                self._request.unlink(missing_ok=True)
            due = time.monotonic() + min(max(_SECONDS, _SHARE * (time.monotonic() - began)), _MOST_SECONDS)

    async def _between_requests(self) -> bool:
        """Collect what changed; do nothing and return False while a stack changes.

        A crash in the middle of a deployment then leaves the stack as it was before, and the next start deploys again.
        """
        if not self._stack_changes():
            self._changing_since = None
        elif self._changing_since is None or time.monotonic() < self._changing_since + _CHANGING_SECONDS:
            self._changing_since = self._changing_since or time.monotonic()
            return False
        self._collect()
        return True

    def _stack_changes(self) -> bool:
        stacks = self._app._get_module("cloudformation")._stacks._data.values()
        return any(each.get("StackStatus", "").endswith(_CHANGING) for each in stacks)

    def _collect(self) -> None:
        """Put what changed since the last time into the list of what is to be written."""
        changes = Changes()
        _drop_log_lines()
        with self._modules["dynamodb"]._lock:  # a thread of ministack removes items whose time is over
            self._collect_items(changes)
        self._collect_messages(changes)
        self._collect_services(changes)
        if changes:
            self._waiting.append(changes)

    def _collect_items(self, changes: Changes) -> None:
        written, self._written = self._written, defaultdict(set)
        tables = {resource: table["items"] for resource, table in self._resources("dynamodb")}
        changes.renewed += [resource for resource, items in self._items.items() if tables.get(resource) is not items]
        for resource, items in tables.items():
            if self._items.get(resource) is items:
                keys: Iterable[tuple[str, str]] = written.get(id(items), ())
            else:
                keys = [(partition, sort) for partition, sorts in items.items() for sort in sorts]
            # An item need not be copied: a write replaces it and never changes it.
            changes.records += [(*resource, (pk, sk), items.get(pk, _NOTHING).get(sk)) for pk, sk in keys]
        self._items = tables

    def _collect_messages(self, changes: Changes) -> None:
        queues = {resource: _copied(queue) for resource, queue in self._resources("sqs")}
        changes.renewed += [resource for resource in self._messages if resource not in queues]
        for resource, messages in queues.items():
            before = self._messages.get(resource, _NOTHING)
            changes.records += [(*resource, key, None) for key in before if key not in messages]
            changes.records += [(*resource, key, new) for key, new in messages.items() if before.get(key) != new]
        self._messages = queues

    def _collect_services(self, changes: Changes) -> None:
        """Collect the services' other state. Reading all of it is slow, so some is read only after a request."""
        asked, self._asked = self._asked, set()
        for name, get_state in self._app._build_persistence_save_dict().items():
            if name in STORES:
                state = self._bare(name)
            elif "cloudformation" in asked or (asked and name != "cloudformation"):
                state = get_state()
            else:
                continue
            # None is the answer of a service that could not be imported.
            text = "" if state is None else json.dumps(state, default=self._json._json_default)
            if text and self._services.get(name) != text:
                changes.services[name] = self._services[name] = text

    def _bare(self, name: str) -> dict[str, Any]:
        """Return the state of a service without its records. ministack's own way copies each record."""
        store, others = STORES[name]
        module = self._modules[name]
        kept = getattr(module, f"_{store}")
        bare = type(kept)()
        for key, resource in list(kept._data.items()):
            bare._data[key] = {each: value for each, value in resource.items() if each not in _RECORDS}
        return {store: bare} | {other: getattr(module, f"_{other}") for other in others}

    def _resources(self, name: str) -> list[tuple[Resource, dict[str, Any]]]:
        store = getattr(self._modules[name], f"_{STORES[name][0]}")
        return [((name, json.dumps(key)), resource) for key, resource in list(store._data.items())]

    def _write(self) -> bool:
        """Write what waits for it, in order; return False if that fails."""
        with self._writing:
            try:
                while self._waiting:
                    if "lambda" in self._waiting[0].services:
                        _to_disk(self._folder / "lambda-blobs")  # the functions' code, which ministack keeps in files
                    self._store.write(self._waiting[0], self._json._json_default)
                    self._waiting.popleft()
            except (sqlite3.Error, OSError) as error:
                if str(error) != self._trouble:
                    _LOG.error("cannot save to %s: %s; a crash now loses what happened since", self._folder, error)
                self._trouble = str(error)
                return False
            while self._older:
                self._older.pop().unlink(missing_ok=True)
            if self._trouble:
                _LOG.info("the state is saved again")
                self._trouble = ""
            return True


def _copied(queue: Mapping[str, Any]) -> dict[str, Any]:
    """Return copies of a queue's messages by ID: receiving a message changes it."""
    return {message["id"]: dict(message) for message in list(queue["messages"])}


def _drop_log_lines() -> None:
    """Forget the functions' log lines: ministack would hold all of them in memory, and they are in the log file."""
    logs: Any = sys.modules.get("ministack.services.cloudwatch_logs")
    if logs is not None:
        with logs._log_events_lock:
            for group in list(logs._log_groups._data.values()):
                group["streams"] = {}


def _show_again(state: Mapping[str, Any]) -> None:
    """Let messages that were in flight be received at once: no function is at work any more."""
    now = time.time()
    for queue in state["queues"]._data.values():
        for message in queue["messages"]:
            if message["receive_count"] and message["visible_at"] > now:
                message["visible_at"] = now
                message["receive_count"] -= 1  # a stop of the engine is no failure of the message


def _to_disk(folder: Path) -> None:
    """Have the disk hold a folder's files."""
    for path in [*folder.glob("*"), folder] if folder.is_dir() else []:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
