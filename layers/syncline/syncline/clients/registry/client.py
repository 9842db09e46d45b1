"""A registry by the OCI distribution specification 1.1, and what real registries make of it.

1. Everything lives below ``/v2/<repository>/``; a 401 says how to authenticate (:mod:`syncline.clients.registry.auth`).
2. ``HEAD manifests/<tag>`` tells a tag's digest; where the header is missing, GET and hash. GET names every manifest
   type in ``Accept``, else registries convert; the bytes are kept exactly, for their hash is the name.
3. An image is pushed from the leaves up: blobs, then the manifests that name them, then the index, then the tag.
   A registry refuses a manifest whose blobs it does not have, so a tag never points at half an image.
4. A blob that another repository has is mounted: ``POST blobs/uploads/?mount=<digest>&from=<repository>`` answers 201,
   or 202 when it would rather have the bytes: that began an upload session, which is ended here.
5. Else ``POST blobs/uploads/`` answers 202 and a ``Location``, relative or absolute, whose query must be kept.
6. A small blob: one ``PUT <location>?digest=`` with the bytes. A large one: ``PATCH <location>`` with a stream, as
   often as it takes; each answer has a new ``Location`` and a ``Range``; then an empty ``PUT <location>?digest=``.
7. ``GET <location>`` tells how far a broken upload got. The registry checks the digest at the end: wrong bytes are 400.
8. Lists come in pages: ``Link: <...>; rel="next"`` leads on, and fewer entries than asked for are not the end.
9. A blob may be elsewhere (302 to a store with a signed address): ``Authorization`` never goes along.
10. What refers to a manifest is listed by an API of its own or under a tag (:mod:`syncline.clients.registry.referrers`).
11. docker-registry 2.8 refuses a manifest with 400 while one of its layers settles: the same PUT succeeds soon after.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote

from syncline.clients.http.addresses import Endpoint
from syncline.clients.http.client import Http, OversizeError, Response
from syncline.clients.http.failures import REDIRECTS, error_codes, speaks_distribution
from syncline.clients.http.listings import (
    BEGINNING,
    FEW,
    REPOSITORIES,
    TAGS,
    Entries,
    OnOdd,
    Position,
    described,
    refuse,
)
from syncline.clients.registry.auth import Credentials
from syncline.clients.registry.manifest import (
    ARTIFACT_TYPES,
    MANIFEST_TYPES,
    OCI_INDEX,
    Descriptor,
    Manifest,
    is_type,
    media_type_of,
)
from syncline.clients.registry.reference import (
    digest_of,
    is_digest,
    matches,
    parse_digest,
    parse_reference,
    parse_repository,
    parse_tag,
)
from syncline.clients.registry.referrers import ABSENT, list_tag, listed
from syncline.clients.registry.transport import Transport, next_link, own_target, pull, push
from syncline.clients.registry.upload import Upload, begin, session_of
from syncline.errors import CodeName, SynclineError

CHUNK: Final = 1024 * 1024
SETTLING_ATTEMPTS: Final = 4  # a manifest PUT and three more
NO_API: Final = 60.0
"""Seconds for which a registry that has no referrers API is not asked for it again."""

_ACCEPTED: Final = (*MANIFEST_TYPES, *ARTIFACT_TYPES)
_ACCEPT: Final = {"Accept": ", ".join(_ACCEPTED)}
_CATALOG: Final = ("registry:catalog:*",)
_SETTLING: Final = frozenset({"DIGEST_INVALID", "MANIFEST_BLOB_UNKNOWN"})
_CONTENT_RANGE: Final = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")


@dataclass(frozen=True, slots=True)
class NamesPage:
    """A page of a list of names, and the position of the next page, None at the end."""

    names: list[str]
    following: Position | None


class TagTakenError(SynclineError):
    """TAG_DIFFERS: somebody else put another manifest under a tag while we were about to; `digest` is theirs."""

    def __init__(self, digest: str, what: str) -> None:
        super().__init__("TAG_DIFFERS", what)
        self.digest = digest

    def __reduce__(self) -> tuple[type[SynclineError], tuple[Any, ...]]:
        return (TagTakenError, (self.digest, self.what))


class Registry:
    """One registry; safe to use from any number of threads.

    Beside the codes each method names, all raise those of :meth:`syncline.clients.http.client.Http.request`, UNAUTHORIZED,
    FORBIDDEN, REFUSED, and REFERENCE_INVALID before anything is asked for a name that is none.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        credentials: Callable[[], Credentials | None],
        http: Http,
        page_size: int = 100,
        *,
        renewed: Callable[[], Credentials | None] | None = None,
    ) -> None:
        self._transport = Transport(endpoint, credentials, http, renewed)
        self._page_size = page_size
        self._no_referrers_until = 0.0
        self._asks_store = True

    @property
    def host(self) -> str:
        return self._transport.endpoint.host

    def catalog(self, odd: OnOdd = refuse) -> Iterator[str]:
        """Yield every repository that the credentials may see; see :meth:`catalog_pages`."""
        return (name for page in self.catalog_pages(odd) for name in page.names)

    def catalog_pages(self, odd: OnOdd = refuse, start: Position = BEGINNING) -> Iterator[NamesPage]:
        """Yield the pages of all repositories that the credentials may see, from ``start`` on.

        Raises LISTING_INCOMPLETE if the list repeats itself, and LISTING_TOO_LONG.
        """
        entries = Entries(f"the catalog of {self.host}", odd, limits=REPOSITORIES, start=start)
        first = f"/v2/_catalog?n={self._page_size}"
        try:
            yield from self._pages(entries, start.token or first, _CATALOG, "repositories", parse_repository)
        except SynclineError as error:
            if not error.is_any("UNAUTHORIZED", "FORBIDDEN", "NOT_FOUND", "REFUSED"):
                raise
            code: CodeName = "UNAUTHORIZED" if error.code.name == "UNAUTHORIZED" else "REFUSED"
            hint = "many registries do not list their repositories; name them in syncs.yaml"
            raise SynclineError(code, f"{error.what} ({hint})") from error

    def tags(self, repository: str, odd: OnOdd = refuse) -> Iterator[str]:
        """Yield every tag of a repository, none if there is no such repository; see :meth:`tag_pages`."""
        return (tag for page in self.tag_pages(repository, odd) for tag in page.names)

    def tag_pages(self, repository: str, odd: OnOdd = refuse, start: Position = BEGINNING) -> Iterator[NamesPage]:
        """Yield the pages of a repository's tags in the registry's order, from ``start`` on.

        Raises LISTING_INCOMPLETE if the list repeats itself, and LISTING_TOO_LONG.
        """
        entries = Entries(f"the tags of {repository!r} at {self.host}", odd, limits=TAGS, start=start)
        first = f"/v2/{repository}/tags/list?n={self._page_size}"
        return self._pages(entries, start.token or first, pull(repository), "tags", parse_tag)

    def knows(self, repository: str) -> bool:
        """Return False if the registry says that there is no such repository."""
        answer = self._transport.fetch("GET", f"/v2/{repository}/tags/list?n=1", pull(repository))
        if answer.status not in (200, 404):
            raise answer.error()
        return answer.status == 200

    def manifest_digest(self, repository: str, reference: str) -> str | None:
        """The digest behind a tag, or None if there is no such tag. Asks by HEAD, and by GET where that fails to tell."""
        target = f"/v2/{repository}/manifests/{parse_reference(reference)}"
        answer = self._transport.fetch("HEAD", target, pull(repository), _ACCEPT)
        if answer.status == 404:
            return None
        digest = answer.header("Docker-Content-Digest")
        if answer.status == 200 and is_digest(digest) and (digest == reference or not is_digest(reference)):
            return digest
        if answer.status not in (200, 405):
            raise answer.error()
        answer = self._transport.fetch("GET", target, pull(repository), _ACCEPT)
        if answer.status == 404:
            return None
        if answer.status != 200:
            raise answer.error()
        return self._proved_digest(answer, reference, f"{self.host}/{repository}")

    def manifest(self, repository: str, reference: str, media_type: str = "") -> Manifest:
        """Return a manifest by tag or digest, its bytes checked. ``media_type`` is its type as an index names it.

        Raises NOT_FOUND, DIGEST_MISMATCH, MANIFEST_UNSUPPORTED (schema 1, or no type at all), MANIFEST_INVALID.
        """
        target = f"/v2/{repository}/manifests/{parse_reference(reference)}"
        known = media_type in _ACCEPTED or not is_type(media_type)
        accept = _ACCEPT if known else {"Accept": ", ".join((*_ACCEPTED, media_type))}
        answer = self._transport.fetch("GET", target, pull(repository), accept)
        if answer.status != 200:
            raise answer.error()
        where = f"{self.host}/{repository}"
        named = f"{where}{'@' if is_digest(reference) else ':'}{reference}"
        try:
            told = media_type_of(answer.header("Content-Type"), answer.body, named)
        except SynclineError as error:
            if error.code.name == "MANIFEST_INVALID":
                self._proved_digest(answer, reference, where)  # other bytes than those asked for say nothing of these
            raise
        return Manifest(self._proved_digest(answer, reference, where), told, answer.body)

    def has_blob(self, repository: str, digest: str) -> bool:
        """Whether the repository has a blob."""
        answer = self._transport.send("HEAD", self._blob(repository, digest), pull(repository))
        if answer.status == 404:
            return False
        # A redirect says that it is there, and its signed address may be good for GET only.
        if answer.status == 200 or answer.status in REDIRECTS:
            return True
        raise answer.error()

    def blob_size(self, repository: str, blob: Descriptor) -> int | None:
        """Return the size in bytes of the blob that the repository has, or None if it has none.

        A registry that does not tell the size is taken to have all of the blob.
        """
        answer = self._transport.send("HEAD", self._blob(repository, blob.digest), pull(repository))
        if answer.status == 404:
            return None
        if answer.status == 200:
            told = _length(answer)
        elif answer.status in REDIRECTS:
            told = self._size_elsewhere(repository, blob.digest)
        else:
            raise answer.error()
        if told in (None, blob.size):
            return blob.size
        # Some registries and proxies answer HEAD with the length of an empty body, so GET decides.
        try:
            with self.open_blob(repository, blob.digest) as stream:
                return blob.size if stream.size is None else stream.size
        except SynclineError as error:
            if error.code.name == "NOT_FOUND":
                return None
            raise

    def _size_elsewhere(self, repository: str, digest: str) -> int | None:
        """Return the size that the store behind the registry tells, or None if it tells none or cannot be reached."""
        if self._asks_store:
            try:
                answer = self._transport.fetch("HEAD", self._blob(repository, digest), pull(repository))
            except SynclineError:
                self._asks_store = False  # a function may reach the registry alone
            else:
                return _length(answer) if answer.status == 200 else None
        return None

    def open_blob(self, repository: str, digest: str, offset: int = 0) -> BlobStream:
        """A blob's bytes from ``offset`` on, none if that is its end; unproved: whoever reads them hashes them.

        Raises NOT_FOUND.
        """
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        answer = self._transport.fetch("GET", self._blob(repository, digest), pull(repository), headers, stream=True)
        if answer.status == 200:
            stream = BlobStream(answer, 0, _length(answer))
            stream.skip(offset)  # the server does not do ranges
            return stream
        if answer.status == 416 and answer.header("Content-Range").strip() == f"bytes */{offset}":
            return BlobStream(answer, offset, offset)
        if answer.status != 206:
            raise answer.error()
        match = _CONTENT_RANGE.fullmatch(answer.header("Content-Range").strip())
        if match is None or int(match[1]) != offset:
            answer.close()
            raise answer.bad(f"the bytes from {offset} on were asked for, others came")
        return BlobStream(answer, offset, int(match[2]) + 1 if match[3] == "*" else int(match[3]))

    def mount_blob(self, repository: str, digest: str, from_repository: str) -> bool:
        """Make a blob of another repository of this registry available here; False if the registry would not."""
        place = f"mount={parse_digest(digest)}&from={quote(from_repository, safe='')}"
        target = f"/v2/{repository}/blobs/uploads/?{place}"
        scopes = (*push(repository), *pull(from_repository))
        try:
            answer = self._transport.send("POST", target, scopes, repeatable=True)
        except SynclineError as error:
            if error.is_any("UNAUTHORIZED", "FORBIDDEN"):
                return False  # no right to read there, perhaps; the upload will tell what is really wrong
            raise
        if answer.status == 202:
            Upload(self._transport, repository, session_of(self._transport, repository, answer)).cancel()
        return answer.status == 201

    def begin_upload(self, repository: str) -> Upload:
        """A new upload session."""
        return begin(self._transport, repository)

    def resume_upload(self, repository: str, state: Mapping[str, Any]) -> Upload:
        """The upload that :meth:`Upload.state` described; nothing is asked yet. Raises UPLOAD_LOST if it is no state."""
        target, offset, chunk_min = state.get("target"), state.get("offset"), state.get("chunk_min", 0)
        if not isinstance(target, str) or not target.startswith("/") or not isinstance(offset, int):
            raise SynclineError("UPLOAD_LOST", "what was remembered of an upload cannot be read")
        return Upload(self._transport, repository, target, offset, chunk_min if isinstance(chunk_min, int) else 0)

    def referrers(self, repository: str, digest: str, odd: OnOdd = refuse) -> tuple[Descriptor, ...]:
        """What the repository has that names a manifest as its subject, by the API or by the tag that lists it.

        Raises LISTING_INCOMPLETE, LISTING_TOO_LONG, and BAD_ANSWER where that is no list.
        """
        listing = f"the referrers of {digest[:19]}… in {repository!r} at {self.host}"
        entries = Entries(listing, odd, _digest_in, limits=FEW)
        found: dict[str, Descriptor] = {}
        target = f"/v2/{repository}/referrers/{parse_digest(digest)}"
        first = target
        while time.monotonic() >= self._no_referrers_until:
            answer = self._transport.fetch("GET", target, pull(repository), {"Accept": OCI_INDEX})
            if answer.status in ABSENT and target == first:
                if not speaks_distribution(answer.body):  # else it may be the repository that it does not know
                    self._no_referrers_until = time.monotonic() + NO_API
                break
            if answer.status != 200:
                raise answer.error()
            try:
                found |= {each.digest: each for each in listed(answer.body, entries)}
            except SynclineError as error:
                if error.code.name != "MANIFEST_INVALID":
                    raise
                raise answer.bad(f"it is no list of referrers ({error.what})") from None
            link = next_link(answer.all_headers("Link"))
            if link is None:
                return tuple(found.values())
            target = entries.at(own_target(self._transport.endpoint, target, link)).token
        return self._listed_by_tag(repository, digest, entries)

    def _listed_by_tag(self, repository: str, digest: str, entries: Entries) -> tuple[Descriptor, ...]:
        try:
            manifest = self.manifest(repository, list_tag(digest))
            return manifest.listed(entries) if manifest.is_index else ()
        except SynclineError as error:
            if error.code.name == "NOT_FOUND":
                return ()
            raise

    def put_manifest(self, repository: str, reference: str, manifest: Manifest) -> bool:
        """Store a manifest's exact bytes under a tag or its digest. Raises DIGEST_MISMATCH, READ_ONLY.

        False if it has a subject and the registry does not say that it lists it there.
        """
        target = f"/v2/{repository}/manifests/{parse_reference(reference)}"
        headers = {"Content-Type": manifest.media_type}
        policy = self._transport.http.policy
        for attempt in range(1, SETTLING_ATTEMPTS + 1):
            answer = self._transport.send("PUT", target, push(repository), headers, manifest.body)
            settling = answer.status == 400 and not _SETTLING.isdisjoint(error_codes(answer.body))
            pause = policy.pause(attempt)
            if not settling or attempt == SETTLING_ATTEMPTS or not policy.bears(pause):
                break
            policy.sleep(pause)
        if answer.status == 405:
            raise SynclineError("READ_ONLY", answer.error().what)
        if answer.status not in (200, 201, 202, 204):
            raise answer.error()
        stored = answer.header("Docker-Content-Digest")
        if stored and not manifest.has_digest(stored):
            raise SynclineError(
                "DIGEST_MISMATCH", f"{self.host}/{repository} stored {stored[:80]!r} where {manifest.digest} was sent"
            )
        subject = manifest.subject
        return subject is None or answer.header("OCI-Subject") == subject.digest

    def put_tag(
        self, repository: str, tag: str, manifest: Manifest, seen: str | Manifest | None, *, overwrite: bool = False
    ) -> str | None:
        """Put a manifest under a tag that was `seen` before, None for no such tag, and return the digest it replaced.

        A tag is not replaced if it is no longer what was `seen`, except with `overwrite`. Registries have no conditional
        PUT, so the tag is asked for directly before it and after it. Raises TagTakenError if somebody else's manifest is
        there at one of these times, and what :meth:`put_manifest` raises.
        """
        before = self.manifest_digest(repository, tag)
        if before is not None and manifest.has_digest(before):
            return None
        named = f"{self.host}/{repository}:{tag}"
        if before is not None and not overwrite and not _is(seen, before):
            what = f"{named} became {before} while {manifest.digest} was copied, and is left as it is"
            raise TagTakenError(before, what)
        self.put_manifest(repository, tag, manifest)
        after = self.manifest_digest(repository, tag)
        # A registry may show the old tag for a moment. The verification that follows asks again.
        if after is not None and after != before and not manifest.has_digest(after):
            raise TagTakenError(after, f"{named} became {after} directly after {manifest.digest} was put there")
        return before

    def _blob(self, repository: str, digest: str) -> str:
        return f"/v2/{repository}/blobs/{parse_digest(digest)}"

    def _proved_digest(self, answer: Response, reference: str, where: str) -> str:
        """The digest of a manifest's bytes, after they have been held against every digest that was named for them."""
        named = {reference, answer.header("Docker-Content-Digest")}
        for digest in filter(is_digest, named):
            if not matches(digest, answer.body):
                raise SynclineError("DIGEST_MISMATCH", f"{where} sent other bytes than those of {digest}")
        return reference if is_digest(reference) else digest_of(answer.body)

    def _pages(
        self, entries: Entries, target: str, scopes: tuple[str, ...], key: str, parse: Callable[[str], str]
    ) -> Iterator[NamesPage]:
        """Yield the pages of the list under ``key``, without names that the page before had."""
        while True:
            try:
                answer = self._transport.fetch("GET", target, scopes, {"Accept": "application/json"})
            except OversizeError as error:
                raise SynclineError("LISTING_TOO_LONG", f"{entries.listing}: {error.what}") from error
            if answer.status == 404 and key == "tags" and speaks_distribution(answer.body):
                return  # no such repository (NAME_UNKNOWN; some say it otherwise)
            if answer.status != 200:
                raise answer.error()
            value = answer.json()
            names = (value.get(key) or []) if isinstance(value, dict) else None
            if not isinstance(names, list):
                raise answer.bad(f"it has no list of {key}")
            fresh = list(entries.read(names, lambda name: parse(_name(name)), len(answer.body)))
            link = next_link(answer.all_headers("Link"))
            if link is None:
                yield NamesPage(fresh, None)
                return
            following = entries.at(own_target(self._transport.endpoint, target, link))
            yield NamesPage(fresh, following)
            target = following.token


class BlobStream:
    """The bytes of a blob as they come. ``size`` is that of the whole blob, None if unknown; ``offset`` the next byte.

    Use it in a ``with`` block.
    """

    def __init__(self, answer: Response, offset: int, size: int | None) -> None:
        self._answer = answer
        self.offset = offset
        self.size = size

    def read(self, size: int = CHUNK) -> bytes:
        """Up to ``size`` bytes, empty at the end. Raises UNREACHABLE if the stream ends before the blob does."""
        if self.offset == self.size:
            return b""
        data = self._answer.read(size)
        self.offset += len(data)
        if not data and self.size is not None:
            raise SynclineError(
                "UNREACHABLE", f"the connection broke after {self.offset} of {self.size} bytes of a blob"
            )
        return data

    def skip(self, size: int) -> None:
        """Read and forget ``size`` bytes. Raises BAD_ANSWER if there are fewer."""
        end = self.offset + size
        while self.offset < end:
            if not self.read(min(CHUNK, end - self.offset)):
                raise self._answer.bad(f"the blob ends at {self.offset}, before byte {end}")

    def __iter__(self) -> Iterator[bytes]:
        while data := self.read(CHUNK):
            yield data

    def close(self) -> None:
        self._answer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _digest_in(entry: Any) -> Any:
    return entry.get("digest") if isinstance(entry, dict) else None


def _name(entry: Any) -> str:
    if not isinstance(entry, str):
        raise ValueError(f"it is {described(entry)}, not a name")  # noqa: TRY004 - as every odd entry
    return entry


def _is(seen: str | Manifest | None, digest: str) -> bool:
    return seen.has_digest(digest) if isinstance(seen, Manifest) else seen == digest


def _length(answer: Response) -> int | None:
    text = answer.header("Content-Length").strip()
    return int(text) if text.isascii() and text.isdigit() else None
