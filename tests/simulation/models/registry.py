"""The client of a registry in memory in one process; see :mod:`tests.simulation.models.registry_server`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeVar
from urllib.parse import quote, unquote

from syncline.clients.http.listings import (
    IN_MEMORY_LIMITS,
    LISTING_START,
    REPOSITORY_LIMITS,
    TAG_LIMITS,
    EntryReader,
    ListingPage,
    ListingPosition,
    OnInvalid,
    refuse,
)
from syncline.clients.registry.blob_stream import CHUNK, BlobStream
from syncline.clients.registry.client import NO_API, SETTLING_ATTEMPTS, Registry
from syncline.clients.registry.manifest import OCI_INDEX, Descriptor, Manifest, detect_media_type
from syncline.clients.registry.reference import digest_of, parse_digest, parse_reference, parse_repository, parse_tag
from syncline.clients.registry.upload import PUT_ATTEMPTS, BlobUpload
from syncline.errors import SynclineError
from tests.simulation.models.registry_server import RefusalError, RegistryServer
from tests.simulation.network import Network

__all__ = ["RegistryServer", "SimRegistry"]
T = TypeVar("T")
_SETTLING: Final = frozenset({"DIGEST_INVALID", "MANIFEST_BLOB_UNKNOWN"})


class SimRegistry(Registry):
    """The client of one process. ``put_tag``, ``catalog`` and ``tags`` are the real client's."""

    def __init__(self, server: RegistryServer, network: Network) -> None:
        self.server = server
        self.network = network
        self._no_referrers_until = 0.0

    @property
    def host(self) -> str:
        return self.server.host

    def call(self, name: str, function: Callable[[], T], *, writes: bool = False) -> T:
        """Make one request."""
        return self.network.call(self.host, name, function, writes=writes)

    def catalog_pages(
        self, on_invalid: OnInvalid = refuse, start: ListingPosition = LISTING_START
    ) -> Iterator[ListingPage[list[str]]]:
        entries = EntryReader(f"the catalog of {self.host}", on_invalid, limits=REPOSITORY_LIMITS, start=start)
        return self._names(entries, start, "GET catalog", "/v2/_catalog", self.server.catalog_page, parse_repository)

    def tag_pages(
        self, repository: str, on_invalid: OnInvalid = refuse, start: ListingPosition = LISTING_START
    ) -> Iterator[ListingPage[list[str]]]:
        entries = EntryReader(f"the tags of {repository!r} at {self.host}", on_invalid, limits=TAG_LIMITS, start=start)
        page = partial(self.server.tags_page, parse_repository(repository))
        return self._names(entries, start, "GET tags", f"/v2/{repository}/tags/list", page, parse_tag)

    def _names(
        self,
        entries: EntryReader,
        start: ListingPosition,
        call: str,
        path: str,
        page: Callable[[str], tuple[list[str], bool]],
        parse: Callable[[str], str],
    ) -> Iterator[ListingPage[list[str]]]:
        last = unquote(start.token.partition("last=")[2])
        while True:
            try:
                names, more = self.call(call, partial(page, last))
            except RefusalError as refusal:
                if refusal.status != 404:
                    raise
                return  # no such repository
            fresh = list(entries.read(names, parse, sum(map(len, names))))
            if not more:
                yield ListingPage(fresh, None)
                return
            last = names[-1]
            yield ListingPage(fresh, entries.at(f"{path}?n={self.server.page_size}&last={quote(last, safe='')}"))

    def has_repository(self, repository: str) -> bool:
        name = parse_repository(repository)
        return not self._is_absent("GET tags", lambda: self.server.tags_page(name, ""))

    def manifest_digest(self, repository: str, reference: str) -> str | None:
        reference, name = parse_reference(reference), parse_repository(repository)
        return self.call("HEAD manifest", lambda: self.server.tag_digest(name, reference))

    def manifest(self, repository: str, reference: str, media_type: str = "") -> Manifest:  # noqa: ARG002 - all are sent
        reference, name = parse_reference(reference), parse_repository(repository)
        digest, stored = self.call("GET manifest", lambda: self.server.manifest(name, reference))
        named = f"{self.host}/{name}{'@' if ':' in reference else ':'}{reference}"
        return Manifest(digest, detect_media_type(stored.media_type, stored.body, named), stored.body)

    def has_blob(self, repository: str, digest: str) -> bool:
        digest, name = parse_digest(digest), parse_repository(repository)
        return not self._is_absent("HEAD blob", lambda: self.server.blob(name, digest))

    def blob_size(self, repository: str, blob: Descriptor) -> int | None:
        digest, name = parse_digest(blob.digest), parse_repository(repository)
        try:
            size = len(self.call("HEAD blob", lambda: self.server.blob(name, digest)))
            if size == blob.size:
                return size
            with self.open_blob(name, digest) as stream:  # as the real client does
                return stream.size
        except SynclineError as error:
            if error.code.name == "NOT_FOUND":
                return None
            raise

    def open_blob(self, repository: str, digest: str, offset: int = 0) -> BlobStream:
        digest, name = parse_digest(digest), parse_repository(repository)

        def data() -> bytes:
            found = self.server.blob(name, digest)
            if offset > len(found):
                raise RefusalError(self.host, 416, "", f"the blob has {len(found)} bytes")
            return found

        return SimBlobStream(self, self.call("GET blob", data), offset)

    def mount_blob(self, repository: str, digest: str, from_repository: str) -> bool:
        digest, name = parse_digest(digest), parse_repository(repository)
        source = parse_repository(from_repository)
        try:
            session = self.call("POST mount", lambda: self.server.mount(name, digest, source), writes=True)
        except RefusalError:
            return False
        if session is None:
            return True
        SimUpload(self, name, session).cancel()
        return False

    def begin_upload(self, repository: str) -> BlobUpload:
        name = parse_repository(repository)
        return SimUpload(self, name, self.begin_session(name))

    def begin_session(self, name: str) -> str:
        """Begin an upload and return its session. Raises READ_ONLY."""
        try:
            return self.call("POST upload", lambda: self.server.begin(name), writes=True)
        except RefusalError as refusal:
            if refusal.status == 405:
                raise SynclineError("READ_ONLY", refusal.what) from None
            raise

    def resume_upload(self, repository: str, state: Mapping[str, Any]) -> BlobUpload:
        target, offset = state.get("target"), state.get("offset")
        if not isinstance(target, str) or not target.startswith("/") or not isinstance(offset, int):
            raise SynclineError("UPLOAD_LOST", f"the stored state of an upload to {repository!r} cannot be read")
        return SimUpload(self, parse_repository(repository), target.rpartition("/")[2], offset)

    @property
    def lists_referrers_by_tag(self) -> bool:
        return self.network.calls.machine.now < self._no_referrers_until

    def referrers(self, repository: str, digest: str, on_invalid: OnInvalid = refuse) -> tuple[Descriptor, ...]:
        digest, name = parse_digest(digest), parse_repository(repository)
        listing = f"the referrers of {digest[:19]}… in {name!r} at {self.host}"
        entries = EntryReader(listing, on_invalid, lambda entry: entry.get("digest"), limits=IN_MEMORY_LIMITS)
        found: dict[str, Descriptor] = {}
        at: int | None = 0
        now = self.network.calls.machine.now
        while at is not None and now >= self._no_referrers_until:
            try:
                body, at = self.call("GET referrers", partial(self.server.referrers_page, name, digest, at))
            except RefusalError as refusal:
                if refusal.status not in (400, 404) or at != 0:
                    raise
                if not refusal.word:  # the API itself is absent
                    self._no_referrers_until = self.network.calls.machine.now + NO_API
                break
            found |= {each.digest: each for each in Manifest(digest_of(body), OCI_INDEX, body).listed(entries)}
        return tuple(found.values()) if at is None else self._listed_by_tag(name, digest, entries)

    def put_manifest(self, repository: str, reference: str, manifest: Manifest) -> bool:
        reference, name = parse_reference(reference), parse_repository(repository)
        policy, machine = self.network.http.policy, self.network.calls.machine
        put = partial(self.server.put_manifest, name, reference, manifest.media_type, manifest.body)
        for attempt in range(1, SETTLING_ATTEMPTS + 1):
            try:
                listed_for = self.call("PUT manifest", put, writes=True)
            except RefusalError as refusal:
                pause = min(policy.cap, policy.base * 2.0 ** (attempt - 1)) * machine.rng.uniform(0.5, 1.0)
                if refusal.word in _SETTLING and attempt < SETTLING_ATTEMPTS and policy.allows(pause):
                    machine.sleep(pause)
                    continue
                if refusal.status == 405:
                    raise SynclineError("READ_ONLY", refusal.what) from None
                raise
            subject = manifest.subject
            return subject is None or listed_for == subject.digest
        raise AssertionError  # the last attempt returns or raises

    def _is_absent(self, name: str, function: Callable[[], object]) -> bool:
        """Make a request, and return True if the answer is 404."""
        try:
            self.call(name, function)
        except RefusalError as refusal:
            if refusal.status != 404:
                raise
            return True
        return False


class SimUpload(BlobUpload):
    """An upload. Each chunk is a call of its own."""

    def __init__(self, registry: SimRegistry, repository: str, session: str, offset: int = 0) -> None:
        self._registry = registry
        self._server = registry.server
        self._repository = repository
        self._session = session
        self.offset = offset

    def write(self, chunks: Iterable[bytes], total: int | None = None, size: int | None = None) -> int:
        # If neither size is known, there is no Content-Range, and the registry expects the first bytes.
        at = self.offset if size or (total is not None and total > self.offset) else 0
        called, sent = False, self.offset
        try:
            for chunk in chunks:
                self._call("PATCH upload", self._server.append, at, chunk)
                called, at, sent = True, at + len(chunk), sent + len(chunk)
            if not called:
                self._call("PATCH upload", self._server.append, at, b"")
        except BaseException:
            self._server.connection_broke(self._session)
            raise
        self.offset = sent
        return sent

    def status(self) -> int:
        data = self._call("GET upload", self._server.upload, writes=False)
        self.offset = len(data) if len(data) > 1 else 0  # the answer to one byte and to none is ``0-0``
        return self.offset

    def finish(self, digest: str) -> None:
        try:
            self._call("PUT upload", self._server.finish, parse_digest(digest))
        except SynclineError as error:
            # An earlier attempt may have succeeded, although its answer was lost.
            if error.code.name != "UPLOAD_LOST" or not self._has(digest):
                raise

    def put(self, digest: str, content: bytes | Iterable[bytes], size: int) -> None:
        parse_digest(digest)
        whole = isinstance(content, bytes)
        kept = b""
        for chunk in _exactly([content] if isinstance(content, bytes) else content, size):
            kept += chunk
            if len(kept) < size:
                self._call("PUT upload", self._server.upload)
        for tries_left in range(PUT_ATTEMPTS - 1 if whole else 0, -1, -1):
            try:
                self._call("PUT upload", self._server.finish, digest, kept)
            except SynclineError as error:
                if not tries_left or not error.retried_here or error.code.name == "DIGEST_MISMATCH":
                    raise
                if self._has(digest):
                    return
                self._session = self._registry.begin_session(self._repository)
            else:
                return

    def cancel(self) -> None:
        with suppress(SynclineError):
            self._call("DELETE upload", self._server.cancel)

    def state(self) -> dict[str, Any]:
        target = f"/v2/{self._repository}/blobs/uploads/{self._session}"
        return {"target": target, "offset": self.offset}

    def _has(self, digest: str) -> bool:
        return self._registry.has_blob(self._repository, digest)

    def _call(self, name: str, function: Callable[..., T], *arguments: Any, writes: bool = True) -> T:
        try:
            call = partial(function, self._repository, self._session, *arguments)
            return self._registry.call(name, call, writes=writes)
        except RefusalError as refusal:
            if refusal.word == "DIGEST_INVALID":
                raise SynclineError("DIGEST_MISMATCH", refusal.what) from None
            if refusal.status in (404, 416) and refusal.word != "NAME_UNKNOWN":
                raise SynclineError("UPLOAD_LOST", refusal.what) from None
            raise


class SimBlobStream(BlobStream):
    """The bytes of a blob. Each read is a call of its own."""

    def __init__(self, registry: SimRegistry, data: bytes, offset: int) -> None:
        self._registry = registry
        self._data = data
        self.offset = offset
        self.size = len(data)

    def read(self, size: int = CHUNK) -> bytes:
        if self.offset == self.size:
            return b""
        end = self.offset + min(size, self._registry.server.chunk_size)
        data = self._registry.call("GET blob bytes", lambda: self._data[self.offset : end])
        self.offset += len(data)
        return data

    def skip(self, size: int) -> None:
        end = self.offset + size
        while self.offset < end:
            if not self.read(end - self.offset):
                raise SynclineError("BAD_ANSWER", f"the blob ends at {self.offset}, before byte {end}")

    def __exit__(self, *_: object) -> None:
        """Do nothing: there is no connection."""


def _exactly(chunks: Iterable[bytes], size: int) -> Iterator[bytes]:
    """Yield the chunks. Raises BAD_ANSWER if they do not have ``size`` bytes in all."""
    left = size
    for chunk in chunks:
        left -= len(chunk)
        if left < 0:
            break
        yield chunk
    if left:
        raise SynclineError("BAD_ANSWER", f"the blob does not have the {size} bytes of its descriptor")
