"""The file manager's HTTP API, as the service that Syncline replaces speaks it.

``POST /saveToDisk`` does all that is done to a file, by its ``operation``: ``create`` and ``update`` take the bytes in
a multipart form, ``rename`` and ``move`` a ``new_path``, ``delete`` and ``get`` the path alone. ``POST
/updatePermissions`` writes permissions, and with a path alone reads them. ``GET /pubSubFullList`` tells what happened
lately: it has no cursor, so the same events come again and again. ``POST /reportResults`` takes a run's results, and
``GET /`` says that the service lives. Forms go in, JSON comes back.

Bytes pass through: of a file nothing is held but the chunk in hand. Never are more requests under way than the gate
allows.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote, urlencode

from syncline.clients.http.addresses import Address, redacted
from syncline.clients.http.client import READ_TIMEOUT, Http, Response
from syncline.clients.http.limits import Body
from syncline.clients.http.listings import FEW, Entries, OnOdd, described, refuse
from syncline.clients.http.rejections import REJECTIONS
from syncline.errors import SynclineError

_MODE: Final = re.compile(r"[r-][w-][xsS-][r-][w-][xsS-][r-][w-][xtT-]")
_PLAIN: Final = str.maketrans("sStT", "x-x-")
EVENT_TYPES: Final = frozenset({"create", "delete", "rename", "move", "change_permission"})
MOST_EVENTS: Final = 100
"""Events that one listing gives at most."""
_FAILED: Final = frozenset({"error", "failed", "failure", "rejected"})
_SLOWEST: Final = 20 * 1024 * 1024
"""Bytes a second at which a file manager may write what it was given, before we take it for dead."""
_FORM: Final = "application/x-www-form-urlencoded"


@dataclass(frozen=True, slots=True)
class Saved:
    """What the file manager says of a file. ``size`` is in bytes, None if it is not said."""

    internal_id: str
    path: str
    size: int | None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Permissions:
    """Who may do what with a file; ``mode`` like ``rw-r--r--``."""

    mode: str | None
    owner: str | None = None
    group: str | None = None


@dataclass(frozen=True, slots=True)
class FileEvent:
    """Something happened to a file, the service says. ``permissions`` comes with ``change_permission``."""

    kind: str
    path: str
    new_path: str | None
    permissions: str | None
    timestamp: str


@dataclass(frozen=True, slots=True)
class Content:
    """What is sent: ``chunks`` of ``size`` bytes together. Bytes in one piece can be sent again after a failure."""

    chunks: bytes | Iterable[bytes]
    size: int
    file_type: str
    metadata: Mapping[str, Any]


class FileManager:
    """One file manager. Safe to use from any number of threads.

    ``token`` gives the bearer token, None for none; ``renewed`` fetches it anew after a 401. ``gate`` is held during
    each request, so it bounds how many are under way.
    """

    def __init__(  # noqa: PLR0913 - each is a fact of the place
        self,
        url: str,
        token: Callable[[], str | None],
        http: Http,
        gate: AbstractContextManager[Any],
        *,
        ca: str | None = None,
        renewed: Callable[[], str | None] | None = None,
    ) -> None:
        address = Address.parse(url)
        if address is None:
            raise SynclineError("CONFIG_INVALID", f"{redacted(url)!r} is not an address")
        self.url = url.rstrip("/")
        self.host = address.host
        self._token = token
        self._renewed = renewed or token
        self._http = http
        self._gate = gate
        self._ca = ca

    # -- files ---------------------------------------------------------------------------------------------------

    def get(self, path: str) -> Saved | None:
        """What the file manager has under a path, None if nothing.

        Raises, as every method here, UNAUTHORIZED, FORBIDDEN, THROTTLED, REFUSED, BAD_ANSWER (what came is not what
        the contract promises), and what :meth:`Http.request` raises.
        """
        response = self._form("/saveToDisk", {"operation": "get", "file_path": path}, absent=True)
        return None if response is None else _saved(response, "get", path)

    def save(self, operation: str, path: str, content: Content) -> Saved:
        """Send a file's bytes; ``operation`` is ``create`` or ``update``.

        The size in the answer is that of the bytes that were kept, which may be fewer. Raises TOO_LARGE, or FILE_DIFFERS
        where there is a file.
        """
        fields = {
            "operation": operation,
            "file_path": path,
            "size": str(content.size),
            "file_type": content.file_type,
            "metadata": json.dumps(content.metadata, separators=(",", ":")),
        }
        boundary = f"syncline-{secrets.token_hex(16)}"
        head, tail = _around(boundary, fields, content.file_type)
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        if isinstance(content.chunks, bytes):
            body: Body = b"".join((head, content.chunks, tail))
        else:
            headers["Content-Length"] = str(len(head) + content.size + len(tail))
            body = _framed(head, content.chunks, content.size, tail)
        patience = READ_TIMEOUT + content.size / _SLOWEST
        again = isinstance(content.chunks, bytes)  # the same bytes under the same path: once or twice is the same
        response = self._send("POST", "/saveToDisk", headers, body, repeatable=again, timeout=patience)
        if response.status == 409:
            raise SynclineError("FILE_DIFFERS", response.error().what)
        return _saved(_good(response), operation, path)

    def rename(self, path: str, new_path: str) -> Saved:
        """Give a file another name, or another folder.

        NOT_FOUND if there is none under ``path``, FILE_DIFFERS if there is one under ``new_path``.
        """
        operation = "rename" if path.rpartition("/")[0] == new_path.rpartition("/")[0] else "move"
        fields = {"operation": operation, "file_path": path, "new_path": new_path}
        # Done twice it would find nothing to rename, so a lost answer is for the caller, who looks.
        response = self._send(
            "POST",
            "/saveToDisk",
            {"Content-Type": _FORM},
            urlencode(fields, quote_via=quote).encode(),
            repeatable=False,
        )
        if response.status == 409:
            raise SynclineError("FILE_DIFFERS", response.error().what)
        return _saved(_good(response), operation, path)

    def delete(self, path: str) -> None:
        """Delete a file; one that is not there is no failure."""
        response = self._form("/saveToDisk", {"operation": "delete", "file_path": path}, absent=True)
        if response is not None:
            _saved(response, "delete", path)

    # -- permissions ---------------------------------------------------------------------------------------------

    def permissions(self, path: str) -> Permissions | None:
        """A file's permissions, None if there is no such file."""
        response = self._form("/updatePermissions", {"file_path": path}, absent=True)
        return None if response is None else _permissions(response, path)

    def set_permissions(self, path: str, wanted: Permissions) -> Permissions:
        """Write a file's permissions, those that are given; what the file manager says they are now."""
        fields = {"file_path": path, "permissions": wanted.mode, "owner": wanted.owner, "group": wanted.group}
        response = self._form("/updatePermissions", {name: value for name, value in fields.items() if value})
        assert response is not None
        return _permissions(response, path)

    # -- the rest ------------------------------------------------------------------------------------------------

    def events(self, count: int = MOST_EVENTS, odd: OnOdd = refuse) -> list[FileEvent]:
        """What happened lately."""
        response = _good(self._send("GET", f"/pubSubFullList?count={max(1, min(count, MOST_EVENTS))}"))
        listed = _object(response).get("events")
        if not isinstance(listed, list):
            raise response.bad("`events` is not a list")
        entries = Entries(f"the events of {self.host}", odd, _path_of, limits=FEW)
        return list(entries.read(listed, event_of))

    def report(self, results: Mapping[str, Any]) -> None:
        """Tell the results of a run."""
        body = json.dumps(results, separators=(",", ":")).encode()
        headers = {"Content-Type": "application/json"}
        response = _good(self._send("POST", "/reportResults", headers, body, repeatable=True))
        if _object(response).get("status") != "received":
            raise response.bad("the report was not received")

    def check(self) -> None:
        """Raises where the service does not live."""
        _good(self._send("GET", "/"))

    # -- requests ------------------------------------------------------------------------------------------------

    def _form(self, path: str, fields: Mapping[str, str], *, absent: bool = False) -> Response | None:
        """The good answer to a form; None for a 404 where ``absent`` says that this is one, too."""
        body = urlencode(fields, quote_via=quote).encode()
        response = self._send("POST", path, {"Content-Type": _FORM}, body, repeatable=True)
        # A 404 in HTML is a proxy's, or a wrong address, and says nothing of the file.
        if absent and response.status == 404 and isinstance(_json(response), dict):
            return None
        return _good(response)

    def _send(  # noqa: PLR0913 - as the request has it
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        body: Body = None,
        *,
        repeatable: bool | None = None,
        timeout: float = READ_TIMEOUT,
    ) -> Response:
        def send(token: str | None) -> Response:
            sent = {"Accept": "application/json", **(headers or {})}
            if token is not None:
                sent["Authorization"] = f"Bearer {token}"
            with self._gate:
                return self._http.request(
                    method, self.url + path, sent, body, ca=self._ca, repeatable=repeatable, timeout=timeout
                )

        # A stream cannot be sent twice.
        renewed = self._renewed if body is None or isinstance(body, bytes) else self._token
        return REJECTIONS.ask(self.host, self._token(), renewed, send)


def checked_mode(text: str) -> str | None:
    """Return permissions of the form ``rw-r--r--`` without special bits (setuid and the like), or None if invalid."""
    return text.translate(_PLAIN) if _MODE.fullmatch(text) else None


def event_of(value: Any) -> FileEvent:
    """An event from its decoded JSON; raises MESSAGE_INVALID, naming what is wrong."""
    if not isinstance(value, dict):
        raise SynclineError("MESSAGE_INVALID", "an event of the file manager is no object")
    kind, path, new_path = value.get("event_type"), value.get("file_path"), value.get("new_path")
    metadata = value.get("metadata")
    permissions = metadata.get("new_permissions") if isinstance(metadata, dict) else None
    wrong = (
        (not isinstance(kind, str) or kind not in EVENT_TYPES, f"of unknown type {str(kind)[:40]!r}"),
        (not isinstance(path, str) or not path, "without a path"),
        (kind in ("rename", "move") and (not isinstance(new_path, str) or not new_path), "without a new path"),
        (kind == "change_permission" and not isinstance(permissions, str), "without new permissions"),
        (
            kind == "change_permission" and checked_mode(str(permissions)) is None,
            f"with permissions {str(permissions)[:40]!r}, which are not of the form rw-r--r--",
        ),
    )
    for is_so, words in wrong:
        if is_so:
            raise SynclineError("MESSAGE_INVALID", f"an event of the file manager {words}")
    moves = kind in ("rename", "move")
    return FileEvent(
        str(kind),
        str(path),
        str(new_path) if moves else None,
        checked_mode(str(permissions)) if kind == "change_permission" else None,
        str(value.get("timestamp") or ""),
    )


def _path_of(entry: Any) -> Any:
    return entry.get("file_path") if isinstance(entry, dict) else None


def _around(boundary: str, fields: Mapping[str, str], file_type: str) -> tuple[bytes, bytes]:
    """What stands before and after a file's bytes in a multipart form."""
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    ]
    kind = file_type if file_type.isascii() and file_type.isprintable() else "application/octet-stream"
    parts.append(
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="file"\r\nContent-Type: {kind}\r\n\r\n'
    )
    return "".join(parts).encode(), f"\r\n--{boundary}--\r\n".encode()


def _framed(head: bytes, chunks: Iterable[bytes], size: int, tail: bytes) -> Iterator[bytes]:
    """The form as it goes out; SOURCE_CHANGED where the chunks are not ``size`` bytes, before too many are sent."""
    yield head
    passed = 0
    for chunk in chunks:
        passed += len(chunk)
        if passed > size:
            break
        yield chunk
    if passed != size:
        raise SynclineError("SOURCE_CHANGED", f"the source gave other than the {size} bytes it had promised")
    yield tail


def _good(response: Response) -> Response:
    if response.status not in (200, 201):
        raise response.error()
    return response


def _json(response: Response) -> Any:
    try:
        return json.loads(response.body)
    except (ValueError, RecursionError):
        return None


def _object(response: Response) -> dict[str, Any]:
    value = response.json()
    if not isinstance(value, dict):
        raise response.bad("the answer should be an object")
    return value


def _saved(response: Response, operation: str, path: str) -> Saved:
    value = _object(response)
    if value.get("operation") != operation or value.get("file_path") != path:
        raise response.bad("the answer is to another operation or path")
    if value.get("status") in _FAILED:
        raise SynclineError("REFUSED", f"the file manager says {value['status']!r} to {operation} {path!r}")
    number, size, metadata = value.get("internal_id"), value.get("size"), value.get("metadata")
    if isinstance(number, bool) or not isinstance(number, str | int) or number == "":
        raise response.bad("the answer has no `internal_id`")
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 0):
        raise response.bad(f"`size` is {described(size)}, not a number of bytes")
    if isinstance(metadata, str):  # as it was sent
        try:
            metadata = json.loads(metadata)
        except (ValueError, RecursionError):
            metadata = None
    return Saved(str(number), path, size, metadata if isinstance(metadata, dict) else {})


def _permissions(response: Response, path: str) -> Permissions:
    value = _object(response)
    if value.get("file_path") != path:
        raise response.bad("the answer is about another path")
    texts = [value.get(name) for name in ("permissions", "owner", "group")]
    if any(text is not None and not isinstance(text, str) for text in texts):
        raise response.bad("permissions, owner or group is no text")
    return Permissions(*texts)
