"""A client for the HTTP API of the file manager.

Requests are forms, responses are JSON:

- ``POST /saveToDisk`` changes a file by its ``operation``: ``create`` and ``update`` take the content in a multipart
  form, ``rename`` and ``move`` a ``new_path``, ``delete`` and ``get`` only the path.
- ``POST /updatePermissions`` writes permissions, or reads them if only a path is given.
- ``GET /pubSubFullList`` returns recent events. It has no cursor, so events are repeated.
- ``POST /reportResults`` takes the results of a run.
- ``GET /`` is the health check.

Content is streamed chunk by chunk. The gate limits concurrent requests.
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

from syncline.clients.http.addresses import DIRECT, Address, Route, redacted
from syncline.clients.http.client import READ_TIMEOUT, Http, Response
from syncline.clients.http.limits import Body
from syncline.clients.http.listings import IN_MEMORY_LIMITS, EntryReader, OnInvalid, describe, field_of, refuse
from syncline.clients.http.rejections import REJECTIONS
from syncline.errors import SynclineError

_MODE: Final = re.compile(r"[r-][w-][xsS-][r-][w-][xsS-][r-][w-][xtT-]")
_PLAIN: Final = str.maketrans("sStT", "x-x-")
EVENT_TYPES: Final = frozenset({"create", "delete", "rename", "move", "change_permission"})
MAX_EVENTS: Final = 100
"""Maximum number of events in one listing."""
_FAILED: Final = frozenset({"error", "failed", "failure", "rejected"})
_MIN_WRITE_RATE: Final = 20 * 1024 * 1024
"""Bytes a second that a file manager writes at least; the timeout of a response is calculated with it."""
_FORM: Final = "application/x-www-form-urlencoded"


@dataclass(frozen=True, slots=True)
class SavedFile:
    """A file as the file manager reports it. ``size`` is in bytes, None if not reported."""

    internal_id: str
    path: str
    size: int | None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FilePermissions:
    """The permissions of a file; ``mode`` is of the form ``rw-r--r--``."""

    mode: str | None
    owner: str | None = None
    group: str | None = None


@dataclass(frozen=True, slots=True)
class FileEvent:
    """A reported change of a file. ``permissions`` is set for ``change_permission``, ``new_path`` for a rename or move."""

    kind: str
    path: str
    new_path: str | None
    permissions: str | None
    timestamp: str


@dataclass(frozen=True, slots=True)
class FileContent:
    """The content of a file: ``chunks`` with ``size`` bytes in total. Content given as bytes can be sent again."""

    chunks: bytes | Iterable[bytes]
    size: int
    file_type: str
    metadata: Mapping[str, Any]


class FileManager:
    """One file manager. Safe for concurrent use by threads.

    ``token`` returns the bearer token, None for none; ``renewed`` is called for it after a 401. ``gate`` is held during
    each request, which limits their number.
    """

    def __init__(  # noqa: PLR0913 - the properties of a server
        self,
        url: str,
        token: Callable[[], str | None],
        http: Http,
        gate: AbstractContextManager[Any],
        *,
        route: Route = DIRECT,
        renewed: Callable[[], str | None] | None = None,
    ) -> None:
        address = Address.parse(url)
        if address is None:
            raise SynclineError("CONFIG_INVALID", f"{redacted(url)!r} is not an http(s) URL")
        self.url = url.rstrip("/")
        self.host = address.host
        self._token = token
        self._renewed = renewed or token
        self._http = http
        self._gate = gate
        self._route = route

    # -- files ---------------------------------------------------------------------------------------------------

    def get(self, path: str) -> SavedFile | None:
        """Return the file at a path, None if there is none.

        Raises, like every method, UNAUTHORIZED, FORBIDDEN, THROTTLED, REFUSED, BAD_ANSWER for a response that violates
        the contract, and the errors of :meth:`Http.request`.
        """
        response = self._form("/saveToDisk", {"operation": "get", "file_path": path})
        return None if _is_absent(response) else _saved(response, "get", path)

    def save(self, operation: str, path: str, content: FileContent) -> SavedFile:
        """Send the content of a file; ``operation`` is ``create`` or ``update``.

        The returned size is that of the stored bytes, which may be fewer. Raises TOO_LARGE, and FILE_DIFFERS if the file
        exists.
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
        timeout = READ_TIMEOUT + content.size / _MIN_WRITE_RATE
        repeatable = isinstance(content.chunks, bytes)  # writing the same bytes to the same path twice does no harm
        response = self._send("POST", "/saveToDisk", headers, body, repeatable=repeatable, timeout=timeout)
        return _saved(response, operation, path)

    def rename(self, path: str, new_path: str) -> SavedFile:
        """Rename or move a file.

        Raises NOT_FOUND if ``path`` does not exist, FILE_DIFFERS if ``new_path`` exists.
        """
        operation = "rename" if path.rpartition("/")[0] == new_path.rpartition("/")[0] else "move"
        fields = {"operation": operation, "file_path": path, "new_path": new_path}
        # A repeated rename would fail with NOT_FOUND, so the caller checks the result after a lost response.
        return _saved(self._form("/saveToDisk", fields, repeatable=False), operation, path)

    def delete(self, path: str) -> None:
        """Delete a file. Do nothing if it does not exist."""
        response = self._form("/saveToDisk", {"operation": "delete", "file_path": path})
        if not _is_absent(response):
            _saved(response, "delete", path)

    # -- permissions ---------------------------------------------------------------------------------------------

    def permissions(self, path: str) -> FilePermissions | None:
        """Return the permissions of a file, None if it does not exist."""
        response = self._form("/updatePermissions", {"file_path": path})
        return None if _is_absent(response) else _permissions(response, path)

    def set_permissions(self, path: str, wanted: FilePermissions) -> FilePermissions:
        """Write the given permissions of a file and return the resulting ones."""
        fields = {"file_path": path, "permissions": wanted.mode, "owner": wanted.owner, "group": wanted.group}
        given = {name: value for name, value in fields.items() if value}
        return _permissions(self._form("/updatePermissions", given), path)

    # -- the rest ------------------------------------------------------------------------------------------------

    def events(self, count: int = MAX_EVENTS, on_invalid: OnInvalid = refuse) -> list[FileEvent]:
        """Return the recent events, at most ``count``."""
        response = _checked(self._send("GET", f"/pubSubFullList?count={max(1, min(count, MAX_EVENTS))}"))
        listed = response.json_object().get("events")
        if not isinstance(listed, list):
            raise response.protocol_error("`events` is not a list")
        listing = f"the events of {self.host}"
        entries = EntryReader(listing, on_invalid, lambda each: field_of(each, "file_path"), limits=IN_MEMORY_LIMITS)
        return list(entries.read(listed, parse_event))

    def report(self, results: Mapping[str, Any]) -> None:
        """Report the results of a run."""
        body = json.dumps(results, separators=(",", ":")).encode()
        headers = {"Content-Type": "application/json"}
        response = _checked(self._send("POST", "/reportResults", headers, body, repeatable=True))
        if response.json_object().get("status") != "received":
            raise response.protocol_error("the `status` of the response is not 'received'")

    def check(self) -> None:
        """Raise an error if the service is not healthy."""
        _checked(self._send("GET", "/"))

    # -- requests ------------------------------------------------------------------------------------------------

    def _form(self, path: str, fields: Mapping[str, str], *, repeatable: bool = True) -> Response:
        body = urlencode(fields, quote_via=quote).encode()
        return self._send("POST", path, {"Content-Type": _FORM}, body, repeatable=repeatable)

    def _send(  # noqa: PLR0913 - the parts of a request
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
                    method, self.url + path, sent, body, route=self._route, repeatable=repeatable, timeout=timeout
                )

        # A stream cannot be sent twice.
        renewed = self._renewed if body is None or isinstance(body, bytes) else self._token
        return REJECTIONS.send(self.host, self._token(), renewed, send)


def parse_mode(text: str) -> str | None:
    """Return permissions of the form ``rw-r--r--`` without special bits (setuid and the like), or None if invalid."""
    return text.translate(_PLAIN) if _MODE.fullmatch(text) else None


def parse_event(value: Any) -> FileEvent:
    """Return an event from its decoded JSON. Raises MESSAGE_INVALID with the reason."""
    if not isinstance(value, dict):
        raise SynclineError("MESSAGE_INVALID", f"an event of the file manager is {describe(value)}, not an object")
    kind, path, new_path = value.get("event_type"), value.get("file_path"), value.get("new_path")
    metadata = value.get("metadata")
    permissions = metadata.get("new_permissions") if isinstance(metadata, dict) else None
    moves, permits = kind in ("rename", "move"), kind == "change_permission"
    mode = parse_mode(permissions) if isinstance(permissions, str) else None
    wrong = (
        (not isinstance(kind, str) or kind not in EVENT_TYPES, f"of unknown type {str(kind)[:40]!r}"),
        (not isinstance(path, str) or not path, "without a path"),
        (moves and (not isinstance(new_path, str) or not new_path), "without a new path"),
        (permits and not isinstance(permissions, str), "without new permissions"),
        (permits and mode is None, f"with permissions {str(permissions)[:40]!r}, which are not of the form rw-r--r--"),
    )
    for is_so, words in wrong:
        if is_so:
            raise SynclineError("MESSAGE_INVALID", f"an event of the file manager {words}")
    timestamp = str(value.get("timestamp") or "")
    return FileEvent(str(kind), str(path), new_path if moves else None, mode if permits else None, timestamp)


def _around(boundary: str, fields: Mapping[str, str], file_type: str) -> tuple[bytes, bytes]:
    """Return the parts of a multipart form before and after the content of the file."""
    start = f"--{boundary}\r\nContent-Disposition: form-data; name="
    kind = file_type if file_type.isascii() and file_type.isprintable() else "application/octet-stream"
    parts = [f'{start}"{name}"\r\n\r\n{value}\r\n' for name, value in fields.items()]
    parts.append(f'{start}"file"; filename="file"\r\nContent-Type: {kind}\r\n\r\n')
    return "".join(parts).encode(), f"\r\n--{boundary}--\r\n".encode()


def _framed(head: bytes, chunks: Iterable[bytes], size: int, tail: bytes) -> Iterator[bytes]:
    """Yield a multipart form. Raises SOURCE_CHANGED if the chunks do not have ``size`` bytes, before sending too many."""
    yield head
    passed = 0
    for chunk in chunks:
        passed += len(chunk)
        if passed > size:
            break
        yield chunk
    if passed != size:
        raise SynclineError("SOURCE_CHANGED", f"the source did not return the announced {size} bytes")
    yield tail


def _checked(response: Response) -> Response:
    if response.status not in (200, 201):
        raise response.error()
    return response


def _json(text: str | bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _is_absent(response: Response) -> bool:
    """Return True if an answer states that there is no such file. A 404 in HTML is from a proxy, or for a wrong URL."""
    return response.status == 404 and isinstance(_json(response.body), dict)


def _saved(response: Response, operation: str, path: str) -> SavedFile:
    if response.status == 409 and operation not in ("get", "delete"):
        raise SynclineError("FILE_DIFFERS", response.error().what)
    value = _checked(response).json_object()
    if value.get("operation") != operation or value.get("file_path") != path:
        raise response.protocol_error("the response is for another operation or path")
    if value.get("status") in _FAILED:
        raise SynclineError("REFUSED", f"the file manager answered {value['status']!r} to {operation} {path!r}")
    number, size, metadata = value.get("internal_id"), value.get("size"), value.get("metadata")
    if isinstance(number, bool) or not isinstance(number, str | int) or number == "":
        raise response.protocol_error("the response has no valid `internal_id`")
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 0):
        raise response.protocol_error(f"`size` is {describe(size)}, not a number of bytes")
    if isinstance(metadata, str):  # some servers return it as it was sent
        metadata = _json(metadata)
    return SavedFile(str(number), path, size, metadata if isinstance(metadata, dict) else {})


def _permissions(response: Response, path: str) -> FilePermissions:
    value = _checked(response).json_object()
    if value.get("file_path") != path:
        raise response.protocol_error("the response is for another path")
    texts = [value.get(name) for name in ("permissions", "owner", "group")]
    if any(text is not None and not isinstance(text, str) for text in texts):
        raise response.protocol_error("`permissions`, `owner` or `group` is not text")
    return FilePermissions(*texts)
