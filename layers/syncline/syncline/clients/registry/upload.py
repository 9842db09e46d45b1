"""One blob on its way into a registry; the protocol is told in :mod:`syncline.clients.registry.client`."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from syncline.clients.http.client import READ_TIMEOUT, Response
from syncline.clients.http.failures import error_codes
from syncline.clients.http.limits import Body
from syncline.clients.registry.reference import parse_digest
from syncline.clients.registry.transport import Transport, own_target, push
from syncline.errors import SynclineError

OCTETS: Final = {"Content-Type": "application/octet-stream"}
REPLAYED: Final = 4 * 1024 * 1024  # bytes of a stream kept until the registry is known to take it
FINISH_TIMEOUT: Final = 300.0  # seconds: a registry may read or copy the whole blob before it answers
PUT_ATTEMPTS: Final = 3

_RANGE: Final = re.compile(r"(?:bytes=)?0-(\d{1,18})")


class Upload:
    """An upload session. ``offset`` counts the bytes the registry has confirmed; one thread at a time.

    After a failed :meth:`write` only :meth:`status` knows how far it got, and some registries (docker-registry 2.8)
    drop a session that broke off: then it says UPLOAD_LOST, and the blob starts again.
    """

    def __init__(self, transport: Transport, repository: str, target: str, offset: int = 0, chunk_min: int = 0) -> None:
        self._transport = transport
        self._repository = repository
        self._scopes = push(repository)
        self._target = target
        self.offset = offset
        self.chunk_min = chunk_min  # bytes that each write but the last must have (OCI-Chunk-Min-Length)

    def write(self, chunks: Iterable[bytes], total: int | None = None, size: int | None = None) -> int:
        """Send what ``chunks`` yields in one PATCH; the new offset. It is streamed where ``size`` is not told.

        ``total`` is the size of the whole blob, where known: with it or with ``size``, a write that goes on at an offset
        says so (``Content-Range``), which Quay needs. Without ``size`` the range ends where the blob does, which is the
        most that may come; with it the range is exactly what comes, as registries compare both. Raises UPLOAD_LOST, and
        whatever ``chunks`` raises.
        """
        headers = OCTETS if size is None else {**OCTETS, "Content-Length": str(size)}
        end = total if size is None else self.offset + size
        if self.offset and end is not None and end > self.offset:
            headers = {**headers, "Content-Range": f"{self.offset}-{end - 1}"}
        stream = _Replay(chunks)
        answer = self._stream("PATCH", self._target, headers, stream)
        if answer.status not in (202, 204, 201):
            raise self._failure(answer)
        self._follow(answer)
        sent = self.offset + stream.sent
        confirmed = _confirmed(answer, inclusive=True)
        if confirmed is not None and confirmed < sent and sent > 1:  # some count one too far, and 0-0 may be one byte
            raise answer.bad(f"{sent} bytes were sent, but the registry has {confirmed}")
        self.offset = sent
        return sent

    def status(self) -> int:
        """Ask the registry how far it got, and go on from there; the offset. Raises UPLOAD_LOST."""
        answer = self._send("GET", self._target)
        if answer.status not in (204, 200):
            raise self._failure(answer)
        # Quay's answer has no Location and counts one further than the specification says.
        inclusive = bool(answer.header("Location"))
        self._follow(answer)
        confirmed = _confirmed(answer, inclusive=inclusive)
        if confirmed is None:
            raise SynclineError("UPLOAD_LOST", f"{self._where} does not say how far an upload got")
        self.offset = confirmed
        return confirmed

    def finish(self, digest: str) -> None:
        """Close the session: the registry checks that its bytes have ``digest``. Raises DIGEST_MISMATCH, UPLOAD_LOST."""
        answer = self._send("PUT", self._with_digest(digest), OCTETS, timeout=FINISH_TIMEOUT)
        if answer.status == 404 and self._has(digest):
            return  # an earlier try had arrived, only its answer had not
        self._finished(answer, digest)

    def put(self, digest: str, content: bytes | Iterable[bytes], size: int) -> None:
        """The whole blob in one PUT with ``Content-Length``; bytes are sent again, in a new session, if that fails.

        Raises DIGEST_MISMATCH, UPLOAD_LOST, BAD_ANSWER if ``content`` does not yield ``size`` bytes, and whatever it
        raises.
        """
        if isinstance(content, bytes):
            self._put_bytes(digest, b"".join(_exactly([content], size)))
            return
        headers = {**OCTETS, "Content-Length": str(size)}
        answer = self._stream("PUT", self._with_digest(digest), headers, _Replay(_exactly(content, size)))
        self._finished(answer, digest)

    def cancel(self) -> None:
        """Tell the registry to forget the session. Its refusal is no failure: sessions end by themselves in time."""
        with contextlib.suppress(SynclineError):
            self._send("DELETE", self._target)

    def state(self) -> dict[str, Any]:
        """Where the upload stands, of JSON values, for :meth:`syncline.clients.registry.client.Registry.resume_upload`."""
        return {"target": self._target, "offset": self.offset, "chunk_min": self.chunk_min}

    def _put_bytes(self, digest: str, content: bytes) -> None:
        for tries_left in range(PUT_ATTEMPTS - 1, -1, -1):
            try:
                answer = self._transport.send(
                    "PUT",
                    self._with_digest(digest),
                    self._scopes,
                    OCTETS,
                    content,
                    timeout=FINISH_TIMEOUT,
                    repeatable=False,
                )
                self._finished(answer, digest)
            except SynclineError as error:
                # A second PUT into the same session could be appended to what came of the first.
                if not tries_left or not error.retried_here or error.code.name == "DIGEST_MISMATCH":
                    raise
                if self._has(digest):
                    return
                again = _begun(self._transport, self._repository)
                self._target = session_of(self._transport, self._repository, again)
            else:
                return

    def _stream(self, method: str, target: str, headers: Mapping[str, str], stream: _Replay) -> Response:
        """Send a stream, a second time if the registry wants another token and not much of it has been taken."""
        answer = self._send(method, target, headers, iter(stream), timeout=FINISH_TIMEOUT)
        if answer.status != 401:
            return answer
        if not stream.can_rewind:
            raise SynclineError("UPLOAD_LOST", f"{self._where} stopped accepting the token in the middle of an upload")
        return self._send(method, target, headers, iter(stream), timeout=FINISH_TIMEOUT)

    def _send(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str] | None = None,
        body: Body = None,
        *,
        timeout: float = READ_TIMEOUT,
    ) -> Response:
        return self._transport.send(method, target, self._scopes, headers, body, timeout=timeout)

    def _with_digest(self, digest: str) -> str:
        return f"{self._target}{'&' if '?' in self._target else '?'}digest={parse_digest(digest)}"

    def _has(self, digest: str) -> bool:
        return self._transport.fetch("HEAD", f"/v2/{self._repository}/blobs/{digest}", self._scopes).status == 200

    def _follow(self, answer: Response) -> None:
        location = answer.header("Location")
        if location:
            self._target = own_target(self._transport.endpoint, self._target, location)

    def _finished(self, answer: Response, digest: str) -> None:
        if answer.status not in (201, 204, 200):
            raise self._failure(answer)
        stored = answer.header("Docker-Content-Digest")
        if stored and stored != digest:
            raise SynclineError("DIGEST_MISMATCH", f"{self._where} stored {stored[:80]!r} where {digest} was sent")

    def _failure(self, answer: Response) -> SynclineError:
        error = answer.error()
        codes = error_codes(answer.body)
        if "DIGEST_INVALID" in codes:
            return SynclineError("DIGEST_MISMATCH", error.what)
        if answer.status in (404, 416) and "NAME_UNKNOWN" not in codes:
            return SynclineError("UPLOAD_LOST", error.what)
        return error

    @property
    def _where(self) -> str:
        return f"{self._transport.endpoint.host}/{self._repository}"


def begin(transport: Transport, repository: str) -> Upload:
    """A new upload session. Raises READ_ONLY."""
    answer = _begun(transport, repository)
    chunk_min = answer.header("OCI-Chunk-Min-Length").strip()
    return Upload(
        transport,
        repository,
        session_of(transport, repository, answer),
        chunk_min=int(chunk_min) if chunk_min.isascii() and chunk_min.isdigit() else 0,
    )


def session_of(transport: Transport, repository: str, answer: Response) -> str:
    """The target of the upload session that a 202 announces."""
    location = answer.header("Location")
    if not location:
        raise answer.bad("an upload was begun without saying where (no Location)")
    return own_target(transport.endpoint, f"/v2/{repository}/blobs/uploads/", location)


def _begun(transport: Transport, repository: str) -> Response:
    # A session begun twice, its first answer lost, does no harm: registries forget sessions that nothing comes to.
    target = f"/v2/{repository}/blobs/uploads/"
    answer = transport.send("POST", target, push(repository), repeatable=True)
    if answer.status == 405:
        raise SynclineError("READ_ONLY", answer.error().what)
    if answer.status != 202:
        raise answer.error()
    return answer


def _confirmed(answer: Response, *, inclusive: bool) -> int | None:
    """How many bytes a ``Range`` header says the registry has; ``0-0`` is none, as docker-registry writes it."""
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
        # Raised inside the request, so the connection is closed and the registry sees no whole blob.
        raise SynclineError("BAD_ANSWER", f"the blob does not have the {size} bytes its descriptor says")


class _Replay:
    """Chunks that can be sent once more as long as only a few have been taken."""

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
                self._kept = [*self._kept, chunk] if self.sent <= REPLAYED else None
            yield chunk

    @property
    def can_rewind(self) -> bool:
        """Whether iterating again will begin at the first chunk."""
        return self._kept is not None
