"""Upload of one blob. :mod:`syncline.clients.registry.client` describes the protocol."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any, Final

from syncline.clients.http.client import Response
from syncline.clients.http.failures import error_codes
from syncline.clients.http.read_ahead import pieces
from syncline.clients.registry.reference import parse_digest
from syncline.clients.registry.transport import SMALL_CHUNK, RegistryTransport, push_scopes, same_host_target
from syncline.errors import SynclineError

OCTETS: Final = {"Content-Type": "application/octet-stream"}
MAX_REPLAY: Final = 4 * 1024 * 1024  # bytes of a stream kept for a second attempt with another token
FINISH_TIMEOUT: Final = 300.0  # seconds: a registry may read or copy the whole blob before it answers
PUT_ATTEMPTS: Final = 3

_ABSENT: Final = frozenset({"NAME_UNKNOWN", "NOT_FOUND"})
_TOO_LARGE: Final = "REQUESTED_RANGE_NOT_SATISFIABLE"  # GHCR's code for a chunk of more than 4 MiB
_RANGE: Final = re.compile(r"(?:bytes=)?0-(\d{1,18})")


class BlobUpload:
    """An upload session, for one thread at a time. ``offset`` is the number of bytes confirmed by the registry.

    After a failed :meth:`write`, call :meth:`status` for the offset. Some registries (docker-registry 2.8) drop a
    session whose connection broke: it raises UPLOAD_LOST, and the blob starts over.
    """

    def __init__(self, transport: RegistryTransport, repository: str, target: str, offset: int = 0) -> None:
        self._transport = transport
        self._repository = repository
        self._scopes = push_scopes(repository)
        self._send = partial(transport.send, scopes=self._scopes)
        self._target = target
        self.offset = offset

    @classmethod
    def begin(cls, transport: RegistryTransport, repository: str) -> BlobUpload:
        """Begin an upload session. Raises READ_ONLY."""
        upload = cls(transport, repository, f"/v2/{repository}/blobs/uploads/")
        upload._begin()
        return upload

    def write(self, chunks: Iterable[bytes], total: int | None = None, size: int | None = None) -> int:
        """Send ``chunks`` in one PATCH and return the new offset. Without ``size``, chunked encoding is used.

        ``size`` is the number of bytes in ``chunks``, ``total`` that of the complete blob. With either of them, a write
        at an offset has a ``Content-Range``, which Quay requires. It covers exactly ``size`` bytes, since registries
        compare both, and without ``size`` everything up to the end of the blob. For a registry that refuses large
        chunks, several PATCHes are sent. Raises UPLOAD_LOST, and the exceptions of ``chunks``.
        """
        if (limit := self._transport.largest_chunk) is not None and (size is None or size > limit):
            for piece in pieces(chunks, limit):
                self.write((piece,), total, len(piece))
            return self.offset
        headers = OCTETS if size is None else {**OCTETS, "Content-Length": str(size)}
        end = total if size is None else self.offset + size
        if self.offset and end is not None and end > self.offset:
            headers = {**headers, "Content-Range": f"{self.offset}-{end - 1}"}
        stream = _ReplayableChunks(chunks)
        answer = self._stream("PATCH", self._target, headers, stream)
        if answer.status == 413 or _TOO_LARGE in error_codes(answer.body):
            # The session may be lost, so that the blob starts over, in chunks that are small enough.
            self._transport.largest_chunk = SMALL_CHUNK
            raise SynclineError("UPLOAD_LOST", answer.error().what)
        if answer.status not in (202, 204, 201):
            raise self._failure(answer)
        self._follow(answer)
        sent = self.offset + stream.sent
        confirmed = _confirmed(answer, inclusive=True)
        if confirmed is not None and confirmed < sent and sent > 1:  # some count one too many, and 0-0 may be one byte
            raise answer.protocol_error(f"{sent} bytes were sent, but the registry has {confirmed}")
        self.offset = sent
        return sent

    def status(self) -> int:
        """Ask the registry for the offset, continue there, and return it. Raises UPLOAD_LOST."""
        answer = self._send("GET", self._target)
        if answer.status not in (204, 200):
            raise self._failure(answer)
        # Quay's response has no Location and counts one more than the specification.
        inclusive = bool(answer.header("Location"))
        self._follow(answer)
        confirmed = _confirmed(answer, inclusive=inclusive)
        if confirmed is None:
            raise SynclineError("UPLOAD_LOST", f"{self._name} does not report the offset of an upload")
        self.offset = confirmed
        return confirmed

    def finish(self, digest: str) -> None:
        """Complete the upload: the registry verifies ``digest``. Raises DIGEST_MISMATCH, UPLOAD_LOST."""
        answer = self._send("PUT", self._with_digest(digest), headers=OCTETS, timeout=FINISH_TIMEOUT)
        if answer.status == 404 and self._has(digest):
            return  # an earlier attempt succeeded, but its response was lost
        self._finished(answer, digest)

    def put(self, digest: str, content: bytes | Iterable[bytes], size: int) -> None:
        """Send the complete blob in one PUT with ``Content-Length``. Bytes are retried in a new session.

        Raises DIGEST_MISMATCH, UPLOAD_LOST, BAD_ANSWER if ``content`` does not yield ``size`` bytes, and its exceptions.
        """
        if isinstance(content, bytes):
            self._put_bytes(digest, b"".join(_exactly([content], size)))
            return
        headers = {**OCTETS, "Content-Length": str(size)}
        answer = self._stream("PUT", self._with_digest(digest), headers, _ReplayableChunks(_exactly(content, size)))
        self._finished(answer, digest)

    def cancel(self) -> None:
        """Delete the session. A refusal is ignored, since sessions expire."""
        with contextlib.suppress(SynclineError):
            self._send("DELETE", self._target)

    def state(self) -> dict[str, Any]:
        """Return the upload's state as JSON values, for :meth:`syncline.clients.registry.client.Registry.resume_upload`."""
        return {"target": self._target, "offset": self.offset}

    def _put_bytes(self, digest: str, content: bytes) -> None:
        for tries_left in range(PUT_ATTEMPTS - 1, -1, -1):
            try:
                target = self._with_digest(digest)
                answer = self._send(
                    "PUT", target, headers=OCTETS, body=content, timeout=FINISH_TIMEOUT, repeatable=False
                )
                self._finished(answer, digest)
            except SynclineError as error:
                # A second PUT into the same session could be appended to a part of the first.
                if not tries_left or not error.retried_here or error.code.name == "DIGEST_MISMATCH":
                    raise
                if self._has(digest):
                    return
                self._begin()
            else:
                return

    def _stream(self, method: str, target: str, headers: Mapping[str, str], stream: _ReplayableChunks) -> Response:
        """Send a stream, and once more if the registry requires another token and the stream can be repeated."""
        answer = self._send(method, target, headers=headers, body=iter(stream), timeout=FINISH_TIMEOUT)
        if answer.status != 401:
            return answer
        if not stream.can_rewind:
            raise SynclineError("UPLOAD_LOST", f"{self._name} stopped accepting the token during an upload")
        return self._send(method, target, headers=headers, body=iter(stream), timeout=FINISH_TIMEOUT)

    def _begin(self) -> None:
        # Repeatable: a session whose response was lost expires.
        answer = self._send("POST", f"/v2/{self._repository}/blobs/uploads/", repeatable=True)
        if self._transport.create_if_absent(self._repository, answer):
            answer = self._send("POST", f"/v2/{self._repository}/blobs/uploads/", repeatable=True)
        if answer.status == 405:
            raise SynclineError("READ_ONLY", answer.error().what)
        if answer.status == 404 and not _ABSENT.isdisjoint(error_codes(answer.body)):
            raise SynclineError("PROJECT_ABSENT", answer.error().what)
        if answer.status != 202:
            raise answer.error()
        self._target = session_target(self._transport, self._repository, answer)

    def _with_digest(self, digest: str) -> str:
        return f"{self._target}{'&' if '?' in self._target else '?'}digest={parse_digest(digest)}"

    def _has(self, digest: str) -> bool:
        return self._transport.fetch("HEAD", f"/v2/{self._repository}/blobs/{digest}", self._scopes).status == 200

    def _follow(self, answer: Response) -> None:
        location = answer.header("Location")
        if location:
            self._target = same_host_target(self._transport.endpoint, self._target, location)

    def _finished(self, answer: Response, digest: str) -> None:
        if answer.status not in (201, 204, 200):
            raise self._failure(answer)
        stored = answer.header("Docker-Content-Digest")
        if stored and stored != digest:
            raise SynclineError("DIGEST_MISMATCH", f"{self._name} stored {stored[:80]!r} instead of {digest}")

    def _failure(self, answer: Response) -> SynclineError:
        error = answer.error()
        codes = error_codes(answer.body)
        if "DIGEST_INVALID" in codes:
            return SynclineError("DIGEST_MISMATCH", error.what)
        if answer.status in (404, 416) and "NAME_UNKNOWN" not in codes:
            return SynclineError("UPLOAD_LOST", error.what)
        return error

    @property
    def _name(self) -> str:
        return f"{self._transport.endpoint.host}/{self._repository}"


def session_target(transport: RegistryTransport, repository: str, answer: Response) -> str:
    """Return the target of the upload session in a 202 response."""
    location = answer.header("Location")
    if not location:
        raise answer.protocol_error("the response to a new upload has no Location")
    return same_host_target(transport.endpoint, f"/v2/{repository}/blobs/uploads/", location)


def _confirmed(answer: Response, *, inclusive: bool) -> int | None:
    """Return the number of bytes in a ``Range`` header. ``0-0`` is none, as docker-registry writes it."""
    match = _RANGE.fullmatch(answer.header("Range").strip())
    if match is None:
        return None
    end = int(match[1])
    return end + 1 if inclusive and end else end


def _exactly(chunks: Iterable[bytes], size: int) -> Iterator[bytes]:
    left = size
    for chunk in chunks:
        left -= len(chunk)
        if left < 0:
            break
        yield chunk
    if left:
        # Raised inside the request, so the connection is closed and the registry gets no complete blob.
        raise SynclineError("BAD_ANSWER", f"the blob does not have the {size} bytes of its descriptor")


class _ReplayableChunks:
    """Chunks that can be iterated again while at most :data:`MAX_REPLAY` bytes were taken."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._rest = iter(chunks)
        self._kept: list[bytes] | None = []
        self.sent = 0

    def __iter__(self) -> Iterator[bytes]:
        self.sent = 0
        for chunk in self._kept or ():
            self.sent += len(chunk)
            yield chunk
        for chunk in self._rest:
            self.sent += len(chunk)
            if self._kept is not None:
                self._kept = [*self._kept, chunk] if self.sent <= MAX_REPLAY else None
            yield chunk

    @property
    def can_rewind(self) -> bool:
        """Return True if the next iteration begins at the first chunk."""
        return self._kept is not None
