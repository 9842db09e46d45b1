"""A file manager in memory, and its client in one process.

It behaves as the HTTP API: requests are atomic, ``create`` needs an absent file, ``update`` and ``rename`` an existing one,
and both of these keep the internal ID and the permissions.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import count
from time import gmtime, strftime
from typing import Any, Final, NamedTuple, TypeVar

from syncline.clients.file_manager.client import (
    MAX_EVENTS,
    FileContent,
    FileEvent,
    FileManager,
    FilePermissions,
    SavedFile,
    parse_event,
)
from syncline.clients.http.listings import IN_MEMORY_LIMITS, EntryReader, OnInvalid, refuse
from syncline.errors import SynclineError
from tests.simulation.machine import Machine
from tests.simulation.network import Network

_MODE: Final = re.compile(r"[rwxst-]{9}")
T = TypeVar("T")


class FileWrite(NamedTuple):
    """A change of a file. ``old`` and ``new`` are the SHA-256 of its content, None for no file.

    ``op`` is ``create``, ``update``, ``rename``, ``move``, ``delete`` or ``permissions``. The ``new`` of a rename is the
    content at ``new_path``. For ``permissions``, they are texts like ``rw-r--r-- me:us``.
    """

    op: str
    path: str
    old: str | None
    new: str | None
    by: str
    new_path: str | None = None


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file and its attributes."""

    internal_id: str
    content: bytes
    file_type: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    permissions: str = "rw-------"
    owner: str = "root"
    group: str = "root"

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def rights(self) -> FilePermissions:
        return FilePermissions(self.permissions, self.owner, self.group)


class FileManagerServer:
    """A file manager that all processes share.

    ``events`` are in the order of time; ``on_event`` is called for each. ``reports`` are those received. Faults and
    variants, off by default:

    - ``put_and_forget``: files are acknowledged and discarded.
    - ``wrong_bytes``: files are stored without their last byte. The answer has the full size, that of ``get`` the real one.
    - ``reports_kept_size``: the answer has the stored size.
    - ``ignores_permissions``: permissions are acknowledged and discarded.
    - ``overwrites``: ``create`` replaces a file, ``update`` creates one, and a rename replaces another file.
    - ``publishes``: every change makes an event. Otherwise only :meth:`add_event` does.

    ``on_write`` is called for each change, with the file before and after it.
    """

    def __init__(self, machine: Machine, *, host: str = "files.sim") -> None:
        self.machine, self.host = machine, host
        self.put_and_forget = self.wrong_bytes = self.reports_kept_size = False
        self.ignores_permissions = self.overwrites = self.publishes = False
        self.on_event: Callable[[dict[str, Any]], None] | None = None
        self.on_write: Callable[[FileWrite, StoredFile | None, StoredFile | None], None] | None = None
        self.events: list[dict[str, Any]] = []
        self.reports: list[dict[str, Any]] = []
        self.writes: list[FileWrite] = []
        self._files: dict[str, StoredFile] = {}
        self._numbers = count(1)

    # -- foreign writers

    def set(self, path: str, content: bytes) -> StoredFile:
        """Save a file as a foreign writer. An existing one keeps its ID, metadata and permissions."""
        before = self._files.get(path)
        stored = StoredFile(self._id(), content) if before is None else replace(before, content=content)
        self._change("create" if before is None else "update", path, stored, "outside")
        return stored

    def remove(self, path: str) -> None:
        """Delete a file as a foreign writer, if it exists."""
        if path in self._files:
            self._change("delete", path, None, "outside")

    def set_mode(self, path: str, mode: str) -> None:
        """Change the permissions of a file as a foreign writer."""
        self._set_rights(path, replace(self._stored(path), permissions=mode), "outside")

    def files(self) -> dict[str, StoredFile]:
        """Return the files in the order of their paths."""
        return dict(sorted(self._files.items()))

    def add_event(self, kind: str, path: str, new_path: str | None = None, permissions: str | None = None) -> None:
        """Add an event, which need not be true."""
        event: dict[str, Any] = {
            "event_type": kind,
            "file_path": path,
            "new_path": new_path,
            "metadata": {} if permissions is None else {"new_permissions": permissions},
            "timestamp": self._time(),
        }
        self.events.append(event)
        if self.on_event is not None:
            self.on_event(dict(event))

    # -- operations

    def get(self, path: str) -> SavedFile | None:
        """Return the attributes of a file, None for no file."""
        stored = self._files.get(_named(path))
        return None if stored is None else _saved(stored, path)

    def save(
        self, operation: str, path: str, content: bytes, size: int, about: tuple[str, Mapping[str, Any]]
    ) -> SavedFile:
        """Create or update a file. ``about`` is its type and its metadata."""
        before = self._files.get(_named(path))
        if operation not in ("create", "update"):
            raise SynclineError("REFUSED", f"422: fields that do not belong to {operation!r}")
        if before is not None and operation == "create" and not self.overwrites:
            raise SynclineError("FILE_DIFFERS", f"409: {path!r} exists")
        if before is None and operation == "update" and not self.overwrites:
            raise _no_file(path)
        if size != len(content):
            raise SynclineError("REFUSED", f"422: the size is not that of {path!r}")
        kept = content[:-1] if self.wrong_bytes else content
        file_type, metadata = about[0], json.loads(json.dumps(about[1]))
        stored = replace(before or StoredFile(self._id(), b""), content=kept, file_type=file_type, metadata=metadata)
        if not self.put_and_forget:
            self._change(operation, path, stored, "client")
        return replace(_saved(stored, path), size=len(kept) if self.reports_kept_size else size)

    def rename(self, operation: str, path: str, new_path: str) -> SavedFile:
        """Change the path of a file, and nothing else."""
        stored = self._stored(path)
        if _named(new_path) in self._files and (path == new_path or not self.overwrites):
            raise SynclineError("FILE_DIFFERS", f"409: there is a file {new_path!r}")
        self._change(operation, path, stored, "client", new_path)
        return _saved(stored, path)

    def delete(self, path: str) -> None:
        """Delete a file if it exists. The client takes the 404 for success."""
        if _named(path) in self._files:
            self._change("delete", path, None, "client")

    def permissions(self, path: str) -> FilePermissions | None:
        """Return the permissions of a file, None for no file."""
        stored = self._files.get(_named(path))
        return None if stored is None else stored.rights

    def set_permissions(self, path: str, wanted: FilePermissions) -> FilePermissions:
        """Set the permissions that are given, and return all of them."""
        stored = self._stored(path)
        if wanted.mode and not _MODE.fullmatch(wanted.mode):
            raise SynclineError("REFUSED", f"422: permissions look like rw-r--r--, not {wanted.mode!r}")
        stored = replace(
            stored,
            permissions=wanted.mode or stored.permissions,
            owner=wanted.owner or stored.owner,
            group=wanted.group or stored.group,
        )
        if not self.ignores_permissions:
            self._set_rights(path, stored, "client")
        return stored.rights

    def latest(self, most: int) -> list[dict[str, Any]]:
        """Return the last events, oldest first."""
        return [dict(each) for each in self.events[-most:]]

    def report(self, results: Mapping[str, Any]) -> None:
        """Receive the results of a run."""
        self.reports.append(json.loads(json.dumps(results)))

    # -- changes

    def _id(self) -> str:
        return f"id-{next(self._numbers)}"

    def _time(self) -> str:
        return strftime("%Y-%m-%dT%H:%M:%SZ", gmtime(self.machine.now))

    def _stored(self, path: str) -> StoredFile:
        stored = self._files.get(_named(path))
        if stored is None:
            raise _no_file(path)
        return stored

    def _change(self, op: str, path: str, stored: StoredFile | None, by: str, new_path: str | None = None) -> None:
        """Carry out a change of a file, and record it."""
        old = self._files.pop(path, None)
        if stored is not None:
            self._files[path if new_path is None else new_path] = stored
        done = FileWrite(op, path, old.digest if old else None, stored.digest if stored else None, by, new_path)
        self._note(done, old, stored, "create" if op == "update" else op)

    def _set_rights(self, path: str, stored: StoredFile, by: str) -> None:
        old, self._files[path] = self._files[path], stored
        if old != stored:
            before, after = (f"{each.permissions} {each.owner}:{each.group}" for each in (old, stored))
            changed = stored.permissions if old.permissions != stored.permissions else None
            done = FileWrite("permissions", path, before, after, by)
            self._note(done, old, stored, "change_permission" if changed else "", changed)

    def _note(
        self,
        done: FileWrite,
        old: StoredFile | None,
        new: StoredFile | None,
        kind: str,
        permissions: str | None = None,
    ) -> None:
        self.writes.append(done)
        where = repr(done.path) if done.new_path is None else f"{done.path!r} to {done.new_path!r}"
        self.machine.note(f"{self.host}: {done.by} {done.op} {where}")
        if self.on_write is not None:
            self.on_write(done, old, new)
        if self.publishes and kind:
            self.add_event(kind, done.path, done.new_path, permissions)


class SimFileManager(FileManager):
    """The client of one process. It holds ``gate`` during each request, as the real client does."""

    def __init__(
        self, server: FileManagerServer, network: Network, gate: AbstractContextManager[Any] | None = None
    ) -> None:
        self.url = f"https://{server.host}"
        self.host = server.host
        self.server = server
        self.network = network
        self._gate = nullcontext() if gate is None else gate

    def call(self, name: str, function: Callable[[], T]) -> T:
        """Make one request that reads."""
        with self._gate:
            return self.network.call(self.host, name, function)

    def write(self, name: str, function: Callable[[], T], *, repeatable: bool = True) -> T:
        """Make one request that writes."""
        with self._gate:
            return self.network.call(self.host, name, function, writes=True, repeatable=repeatable)

    def get(self, path: str) -> SavedFile | None:
        return self.call("POST get", lambda: self.server.get(path))

    def save(self, operation: str, path: str, content: FileContent) -> SavedFile:
        about = (content.file_type, content.metadata)
        if isinstance(content.chunks, bytes):
            whole = content.chunks
            saved = self.write(
                f"POST {operation}", lambda: self.server.save(operation, path, whole, content.size, about)
            )
        else:
            with self._gate:  # one request for all chunks
                received = self._stream(operation, content)
                saved = self.network.call(
                    self.host,
                    f"POST {operation}",
                    lambda: self.server.save(operation, path, received, content.size, about),
                    writes=True,
                )
        return saved

    def _stream(self, operation: str, content: FileContent) -> bytes:
        """Send the chunks of a file, and return the bytes that the server received."""
        received = bytearray()
        for chunk in content.chunks:
            received += chunk  # type: ignore[arg-type]  # chunks, not one piece
            if len(received) > content.size:
                break
            self.network.call(self.host, f"POST {operation} chunk", lambda: None, counted=False)
        if len(received) != content.size:
            raise SynclineError("SOURCE_CHANGED", f"the source did not return the announced {content.size} bytes")
        return bytes(received)

    def rename(self, path: str, new_path: str) -> SavedFile:
        operation = "rename" if path.rpartition("/")[0] == new_path.rpartition("/")[0] else "move"
        return self.write(f"POST {operation}", lambda: self.server.rename(operation, path, new_path), repeatable=False)

    def delete(self, path: str) -> None:
        self.write("POST delete", lambda: self.server.delete(path))

    def permissions(self, path: str) -> FilePermissions | None:
        return self.call("POST permissions", lambda: self.server.permissions(path))

    def set_permissions(self, path: str, wanted: FilePermissions) -> FilePermissions:
        return self.write("POST set permissions", lambda: self.server.set_permissions(path, wanted))

    def events(self, count: int = MAX_EVENTS, on_invalid: OnInvalid = refuse) -> list[FileEvent]:
        listed = self.call("GET events", lambda: self.server.latest(max(1, min(count, MAX_EVENTS))))
        entries = EntryReader(
            f"the events of {self.host}", on_invalid, lambda each: each["file_path"], limits=IN_MEMORY_LIMITS
        )
        return list(entries.read(listed, parse_event))

    def report(self, results: Mapping[str, Any]) -> None:
        self.write("POST report", lambda: self.server.report(results))

    def check(self) -> None:
        self.call("GET health", lambda: None)


def _saved(stored: StoredFile, path: str) -> SavedFile:
    return SavedFile(stored.internal_id, path, len(stored.content), dict(stored.metadata))


def _named(path: str) -> str:
    """Return a path. It must not be empty."""
    if not path:
        raise SynclineError("REFUSED", "422: the field file_path or new_path is needed once")
    return path


def _no_file(path: str) -> SynclineError:
    return SynclineError("NOT_FOUND", f"404: no such file {path!r}")
