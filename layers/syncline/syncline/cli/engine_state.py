"""The state of the engine on this machine, saved to one SQLite file while the engine runs.

ministack keeps its state in memory and writes it only at a clean stop. :class:`StateSaver` replaces that: about once a
second it writes the changes since the last save in one transaction. A crash or a power cut loses only the changes since
the last save, and the file is always consistent. The engine handles no request while changes are collected, so table
and queues match: the result of a message that was removed from its queue is in the table.

============  ====================================================================================================
``services``  the state of each of ministack's services as JSON
``records``   items of tables and messages of queues, one row each, in order of arrival
``engine``    the address that the engine had
============  ====================================================================================================

This file runs in the engine's Python, which has ministack but not the syncline package.
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
"""File in the engine's home that requests a save; removed when the state is saved."""

_LOG: Final = logging.getLogger("syncline.store.state")
_SECONDS: Final = 1.0
_MOST_SECONDS: Final = 6.0
_SHARE: Final = 20
"""A save that took t seconds is followed by a pause of at least 20 t: saving takes at most 5 % of the time."""
_POLL_SECONDS: Final = 0.1
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
_RECORDS: Final = ("items", "messages", "_index_members")  # of a table, of a queue, and an index rebuilt from items
STORES: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    # Services with records: the store whose resources have records, and the other stores of the service.
    "dynamodb": ("tables", (
        "tags", "ttl_settings", "pitr_settings", "kinesis_destinations", "contributor_insights", "backups",
        "resource_policies", "exports", "imports",
    )),
    "sqs": ("queues", ("queue_name_to_url",)),
}  # fmt: skip

_LEASES: Final = ("LEASE#", "SLOT#", "HEARD#")
"""Prefixes of items that a function holds ``until`` a time. When the engine starts, no function runs."""
_NO_ORPHANS: Final = Path("/proc/self").exists()
"""Without /proc the functions of a killed engine cannot be found and may still run."""

Resource = tuple[str, str]
"""A service and the key of one of its resources as JSON: account, region, name."""


@dataclass(slots=True)
class Changes:
    """The content of one save. A record is (service, resource, key, value); value None removes it.

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
        """Yield (resource, key, value) of each record of a service, in order of arrival."""
        rows = self._db.execute(
            "SELECT resource, key, value FROM records WHERE service = ? ORDER BY number", (service,)
        )
        while chunk := list(itertools.islice(rows, _ROWS)):
            resources, keys, values = zip(*chunk, strict=True)
            # Decoding many rows in one call is several times as fast.
            yield from zip(resources, *(json.loads(f"[{','.join(each)}]") for each in (keys, values)), strict=True)

    def move_to(self, endpoint: str) -> None:
        """Replace the previous address of the engine, which is part of queue URLs."""
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
        """Write all changes or, on an exception, none. ``default`` encodes values that JSON does not support."""
        with _transaction(self._db):
            self._db.executemany("INSERT OR REPLACE INTO services VALUES (?, ?)", changes.services.items())
            self._db.executemany("DELETE FROM records WHERE service = ? AND resource = ?", changes.renewed)
            for service, resource, key, value in changes.records:
                row = (service, resource, json.dumps(key))
                if value is None:
                    self._db.execute("DELETE FROM records WHERE service = ? AND resource = ? AND key = ?", row)
                else:
                    self._db.execute(
                        "INSERT INTO records (service, resource, key, value) VALUES (?, ?, ?, ?)"
                        " ON CONFLICT (service, resource, key) DO UPDATE SET value = excluded.value",
                        (*row, json.dumps(value, default=default)),
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


class StateSaver:
    """Loads the state when the engine starts, and saves it while the engine runs and when it stops.

    ``app`` is the module ``ministack.app``. :attr:`saved` is True after the save of a clean stop.
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
        self._modules = {name: app._get_module(name) for name in STORES}
        self._items: dict[Resource, dict[str, Any]] = {}  # items of each table as saved
        self._messages: dict[Resource, dict[str, Any]] = {}  # messages of each queue as saved
        self._written: dict[int, set[tuple[str, str]]] = defaultdict(set)  # keys, by the id() of a table's items
        self._requested = {"cloudformation"}  # services with requests since the last save
        self._changing_since: float | None = None
        self._waiting: deque[Changes] = deque()
        self._writing = threading.Lock()
        self._ended = False
        self._error = ""
        self._track_changes()

    def _track_changes(self) -> None:
        """Track the items that ministack writes or removes, and its requests."""
        tables = self._modules["dynamodb"]
        for name in ("_set_item", "_remove_item"):
            setattr(tables, name, self._tracking_items(getattr(tables, name)))
        for name, handler in self._app.SERVICE_HANDLERS.items():
            if name not in STORES:
                self._app.SERVICE_HANDLERS[name] = self._tracking_requests(name, handler)

    def _tracking_items(self, change: Callable[..., Any]) -> Callable[..., Any]:
        def tracked(table: dict[str, Any], partition: str, sort: str, *item: Any) -> Any:
            self._written[id(table["items"])].add((partition, sort))
            return change(table, partition, sort, *item)

        return tracked

    def _tracking_requests(self, name: str, handler: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def tracked(*arguments: Any) -> Any:
            try:
                return await handler(*arguments)
            finally:
                self._requested.add(name)

        return tracked

    # -- loading -----------------------------------------------------------------------------------------------------

    def load(self) -> None:
        """Load the state of each service, then start saving. Runs in the engine's event loop."""
        gc.disable()  # it would scan the loaded state repeatedly
        for name, module in self._app._state_map.items():
            if name not in self._services:
                continue
            state = json.loads(self._services[name], object_hook=self._json._json_object_hook)
            self._add_records(name, state)
            if name == "sqs":
                _make_visible(state)
            if state:
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
        field_name, part = ("messages", list[Any]) if name == "sqs" else ("items", dict[str, Any])
        resources = {json.dumps(key): resource for key, resource in state[STORES[name][0]]._data.items()}
        for resource in resources.values():
            resource[field_name] = part()
        for resource, key, value in self._store.records(name):
            records = resources[resource][field_name]
            if name == "sqs":
                records.append(value)
                continue
            if key[0].startswith(_LEASES) and "until" in value and _NO_ORPHANS:
                value["until"] = {"N": "0"}
            records.setdefault(key[0], {})[key[1]] = value

    # -- saving ------------------------------------------------------------------------------------------------------

    def save_last(self, _: object = None) -> None:
        """Save at a clean stop, in place of ministack's save. Runs in the event loop."""
        self._ended = True
        self._requested.add("cloudformation")
        self._collect()
        self.saved = self._write()

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        """Save periodically until the engine stops."""
        due = 0.0
        while not self._ended:
            requested = self._request.exists()
            if not requested and time.monotonic() < due:
                time.sleep(_POLL_SECONDS)
                continue
            began = time.monotonic()
            # While changes wait in memory to be written, no others are collected.
            complete = not self._waiting and asyncio.run_coroutine_threadsafe(self._between_requests(), loop).result()
            if self._write() and complete and requested:
                self._request.unlink(missing_ok=True)
            due = time.monotonic() + min(max(_SECONDS, _SHARE * (time.monotonic() - began)), _MOST_SECONDS)

    async def _between_requests(self) -> bool:
        """Collect changes; return False without collecting while a stack is being deployed.

        After a crash during a deployment the saved stack is the previous one, and the next start deploys again.
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
        """Add the changes since the last time to those waiting to be written."""
        changes = Changes()
        _drop_log_lines()
        with self._modules["dynamodb"]._lock:  # a thread of ministack removes expired items
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
            # Items are not copied: a write replaces an item and never modifies it.
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
        """Collect the other state of the services. It is slow to read, so some is read only after a request."""
        requested, self._requested = self._requested, set()
        for name, get_state in self._app._build_persistence_save_dict().items():
            if name in STORES:
                state = self._bare(name)
            elif "cloudformation" in requested or (requested and name != "cloudformation"):
                state = get_state()
            else:
                continue
            # None: the service could not be imported.
            text = "" if state is None else json.dumps(state, default=self._json._json_default)
            if text and self._services.get(name) != text:
                changes.services[name] = self._services[name] = text

    def _bare(self, name: str) -> dict[str, Any]:
        """Return the state of a service without its records, which ministack would copy."""
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
        """Write the waiting changes in order; return False on failure."""
        with self._writing:
            try:
                while self._waiting:
                    if "lambda" in self._waiting[0].services:
                        _to_disk(self._folder / "lambda-blobs")  # the functions' code, which ministack keeps in files
                    self._store.write(self._waiting[0], self._json._json_default)
                    self._waiting.popleft()
            except (sqlite3.Error, OSError) as error:
                if str(error) != self._error:
                    _LOG.error("cannot save to %s: %s; a crash loses the changes since", self._folder, error)
                self._error = str(error)
                return False
            if self._error:
                _LOG.info("saving works again")
                self._error = ""
            return True


def _copied(queue: Mapping[str, Any]) -> dict[str, Any]:
    """Return copies of a queue's messages by ID: receiving a message changes it."""
    return {message["id"]: dict(message) for message in list(queue["messages"])}


def _drop_log_lines() -> None:
    """Drop the functions' log lines, which ministack keeps in memory; they are in the log file."""
    logs: Any = sys.modules.get("ministack.services.cloudwatch_logs")
    if logs is not None:
        with logs._log_events_lock:
            for group in list(logs._log_groups._data.values()):
                group["streams"] = {}


def _make_visible(state: Mapping[str, Any]) -> None:
    """Make messages that were in flight visible: no function is running."""
    now = time.time()
    for queue in state["queues"]._data.values():
        for message in queue["messages"]:
            if message["receive_count"] and message["visible_at"] > now:
                message["visible_at"] = now
                message["receive_count"] -= 1  # stopping the engine does not count as a failed delivery


def _to_disk(folder: Path) -> None:
    """Flush the files of a folder to disk."""
    for path in [*folder.glob("*"), folder] if folder.is_dir() else []:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
