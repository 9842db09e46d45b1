"""A file manager that follows its contract, on a real HTTP server. It stores files and refuses every invalid request.

    with FileManagerServer(token="t") as server:
        ...
        assert server.files["a/b.txt"].content == b"..."

It is stricter than the contract: it does not create an existing file, does not update or rename an absent one, and
accepts only the fields of an operation in its form.

- ``misbehave`` scripts faults, ``lose`` the responses that are lost after the request was executed.
- ``on_received`` is called with the size of each received piece of a file; it may raise ConnectionAbortedError to close
  the connection.
- ``delay`` is the number of seconds before each response; ``peak`` the largest number of concurrent requests.
- ``strict_modes`` accepts only the permissions of the contract: nine of ``rwx-`` in their positions, no special bits.
- ``port`` 0 selects a free port.
- ``normalise`` maps a path to the name under which its file is stored, like a file system that ignores case
  (``str.lower``) or Unicode forms.

As a program it prints its address: ``python -m tests.standins.file_manager DELAY``; ``GET /_seen`` returns statistics.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import re
import sys
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Self
from urllib.parse import parse_qs, urlsplit

from tests.standins.file_manager_wire import Answer, Connection, Form, Refusal, json_answer

KEPT: Final = 16 * 1024 * 1024
"""Largest content that is kept, in bytes; larger files are reduced to their checksum."""
_STRICT_MODE: Final = re.compile(r"(?:[r-][w-][x-]){3}")
_FIELDS: Final = {
    "create": ({"file", "size", "file_type", "metadata"}, {"file"}),
    "update": ({"file", "size", "file_type", "metadata"}, {"file"}),
    "rename": ({"new_path"}, {"new_path"}),
    "move": ({"new_path"}, {"new_path"}),
    "delete": (set(), set()),
    "get": (set(), set()),
}
"""By operation, the optional fields besides ``operation`` and ``file_path``, and the required ones."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A file. ``content`` is None if it was too large to keep."""

    internal_id: str
    size: int
    sha256: str
    content: bytes | None
    file_type: str
    metadata: str
    permissions: str = "rw-------"
    owner: str = "root"
    group: str = "root"


@dataclass(slots=True)
class _ScriptedFault:
    """A fault: for requests of an operation (and path), a number of times."""

    operation: str
    path: str | None
    answer: Answer
    times: int
    executed: bool = False


@dataclass
class FileManagerServer:
    """Use as a context manager. ``operations`` counts requests by operation, refusals included.

    ``asked`` lists the operation and the path of each request that names a file, in order of arrival.
    """

    token: str | None = None
    delay: float = 0.0
    files: dict[str, Stored] = field(default_factory=dict)
    operations: Counter[str] = field(default_factory=Counter)
    asked: list[tuple[str, str]] = field(default_factory=list)
    normalise: Callable[[str], str] = lambda path: path
    reports: list[dict[str, Any]] = field(default_factory=list)
    events: list[Any] = field(default_factory=list)
    under_way: int = 0
    peak: int = 0
    received: int = 0
    url: str = ""
    connections: set[Connection] = field(default_factory=set)
    on_save: Callable[[str], None] = lambda _path: None
    on_received: Callable[[int], None] = lambda _size: None
    strict_modes: bool = False
    port: int = 0
    _faults: list[_ScriptedFault] = field(default_factory=list)
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def misbehave(self, operation: str, answer: Answer, path: str | None = None, times: int = 1) -> None:
        """Answer requests of ``operation`` (``permissions``, ``events``, ``report``, ``health`` too) with a fault."""
        self._faults.append(_ScriptedFault(operation, path, answer, times))

    def lose(self, operation: str, path: str | None = None, times: int = 1, answer: Answer | None = None) -> None:
        """Execute requests of ``operation``, then close the connection without a response, or send ``answer``."""
        lost = answer or Answer(200, b"", drop=True)
        self._faults.append(_ScriptedFault(operation, path, lost, times, executed=True))

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        starting = self._loop.create_server(lambda: Connection(self), "127.0.0.1", self.port, backlog=512)
        self._server = self._loop.run_until_complete(starting)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        self._thread = threading.Thread(target=self._loop.run_forever, name="file-manager", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        for _turn in range(5):  # a connection that is being accepted must be made while the server is open
            self._loop.run_until_complete(asyncio.sleep(0))
        self._server.close()
        for _turn in range(1000):  # each needs a few turns of the loop to close
            for connection in tuple(self.connections):
                connection.abort()
            self._loop.run_until_complete(asyncio.sleep(0.001))
            if not self.connections:
                break
        self._loop.close()

    # -- called by the connections ---------------------------------------------------------------------------------

    def authorized(self, authorization: str) -> bool:
        return self.token is None or authorization == f"Bearer {self.token}"

    def began(self) -> None:
        self.under_way += 1
        self.peak = max(self.peak, self.under_way)

    def ended(self) -> None:
        self.under_way -= 1

    def answer(self, method: str, target: str, form: Form | None, body: bytes) -> Answer:
        """Return the response to a complete request."""
        parts = urlsplit(target)
        try:
            name, path = self._names(method, parts.path, form)
            self.operations[name] += 1
            if path is not None:
                self.asked.append((name, path))
            for fault in self._faults:
                if fault.operation == name and fault.path in (None, path) and fault.times:
                    fault.times -= 1
                    if fault.executed:
                        self._execute(name, path, form, parts.query, body)  # a refusal is answered as such
                    return fault.answer
            return self._execute(name, path, form, parts.query, body)
        except Refusal as refusal:
            return json_answer({"error": str(refusal)}, refusal.status)

    def _names(self, method: str, path: str, form: Form | None) -> tuple[str, str | None]:
        """Return the requested operation and its file."""
        match method, path:
            case "POST", "/saveToDisk":
                if form is None:
                    raise Refusal(415, "a form is needed")
                return form.one("operation"), form.one("file_path")
            case "POST", "/updatePermissions":
                if form is None:
                    raise Refusal(415, "a form is needed")
                return "permissions", form.one("file_path")
            case "GET", "/pubSubFullList":
                return "events", None
            case "POST", "/reportResults":
                return "report", None
            case "GET", "/":
                return "health", None
            case "GET", "/_seen":
                return "seen", None
        raise Refusal(404, "no such address")

    def _execute(self, name: str, path: str | None, form: Form | None, query: str, body: bytes) -> Answer:
        match name:
            case "events":
                count = parse_qs(query).get("count", ["100"])
                if len(count) != 1 or not count[0].isdigit() or not 1 <= int(count[0]) <= 100:
                    raise Refusal(422, "count must be 1 to 100")
                events = self.events[: int(count[0])]
                return json_answer(
                    {"events": events, "total_count": len(events), "generated_at": "2026-11-25T00:00:00Z"}
                )
            case "report":
                value = json.loads(body)
                if not isinstance(value, dict):
                    raise Refusal(422, "an object is needed")
                self.reports.append(value)
                return json_answer({"status": "received", "count": len(self.reports)})
            case "health":
                return json_answer({"status": "ok"})
            case "seen":
                seen = {"operations": dict(self.operations), "peak": self.peak, "files": len(self.files)}
                return json_answer(seen | {"received": self.received})
        assert form is not None
        assert path is not None
        return self._permissions(path, form) if name == "permissions" else self._operation(name, path, form)

    def _permissions(self, path: str, form: Form) -> Answer:
        form.only({"file_path", "permissions", "owner", "group"}, set())
        stored = self._stored(path)
        given = {name: form.one(name) for name in ("permissions", "owner", "group") if name in form.fields}
        if "permissions" in given and not self._accepts_mode(given["permissions"]):
            raise Refusal(422, "permissions look like rw-r--r--")
        stored = self.files[self.normalise(path)] = replace(
            stored,
            permissions=given.get("permissions", stored.permissions),
            owner=given.get("owner", stored.owner),
            group=given.get("group", stored.group),
        )
        about = {"permissions": stored.permissions, "owner": stored.owner, "group": stored.group}
        return json_answer({"file_path": path, **about, "last_updated": "2026-11-25T00:00:00Z"})

    def _accepts_mode(self, mode: str) -> bool:
        if self.strict_modes:
            return _STRICT_MODE.fullmatch(mode) is not None
        return len(mode) == 9 and not set(mode) - set("rwxst-")

    def _operation(self, operation: str, path: str, form: Form) -> Answer:
        if operation not in _FIELDS:
            raise Refusal(422, f"unknown operation {operation}")
        may, must = _FIELDS[operation]
        form.only({"operation", "file_path", *may}, must)
        answer: dict[str, Any] = {"operation": operation, "file_path": path, "status": "success", "new_path": None}
        match operation:
            case "create" | "update":
                stored = self._save(operation, path, form)
                self.on_save(path)
            case "rename" | "move":
                stored, new_path = self._stored(path), form.one("new_path")
                if self.normalise(new_path) in self.files:
                    raise Refusal(409, "there is a file of that name")
                self.files[self.normalise(new_path)] = self.files.pop(self.normalise(path))
                answer["new_path"] = new_path
            case "delete":
                stored = self._stored(path)
                del self.files[self.normalise(path)]
            case _:
                stored = self._stored(path)
        about = {"internal_id": stored.internal_id, "size": stored.size, "metadata": stored.metadata}
        return json_answer({**answer, **about, "saved_at": "2026-11-25T00:00:00Z"})

    def _save(self, operation: str, path: str, form: Form) -> Stored:
        before = self.files.get(self.normalise(path))
        if before is not None and operation == "create":
            raise Refusal(409, "the file exists")
        if before is None and operation == "update":
            raise Refusal(404, "no such file")
        if "size" in form.fields and form.one("size") != str(form.size):
            raise Refusal(422, "size is not that of the file")
        metadata = form.one("metadata") if "metadata" in form.fields else "{}"
        if not isinstance(json.loads(metadata), dict):
            raise Refusal(422, "metadata is not an object")
        number = before.internal_id if before else f"id-{next(self._numbers)}"
        kind = form.one("file_type") if "file_type" in form.fields else ""
        content = None if form.size > KEPT else bytes(form.content)
        stored = Stored(number, form.size, form.sum, content, kind, metadata)
        if before is not None:
            stored = replace(stored, permissions=before.permissions, owner=before.owner, group=before.group)
        self.files[self.normalise(path)] = stored
        self.received += form.size
        return stored

    def _stored(self, path: str) -> Stored:
        stored = self.files.get(self.normalise(path))
        if stored is None:
            raise Refusal(404, "no such file")
        return stored

    def put(self, path: str, content: bytes, metadata: str = "{}", permissions: str = "rw-r--r--") -> Stored:
        """Store a file as a foreign writer; one that replaces another keeps its number."""
        digest = hashlib.sha256(content).hexdigest()
        before = self.files.get(path)
        number = before.internal_id if before else f"id-{next(self._numbers)}"
        stored = Stored(number, len(content), digest, content, "", metadata, permissions)
        self.files[path] = stored
        return stored


def main(arguments: Sequence[str]) -> None:
    """Serve until standard input ends."""
    with FileManagerServer(delay=float(arguments[0]) if arguments else 0.0) as server:
        print(server.url, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1:])
