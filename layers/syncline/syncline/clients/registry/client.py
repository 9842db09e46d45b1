"""A client for registries of the OCI distribution specification 1.1, including the deviations of common servers.

1. All paths are below ``/v2/<repository>/``. A 401 names the authentication (:mod:`syncline.clients.registry.auth`).
2. ``HEAD manifests/<tag>`` returns a tag's digest; without the header, GET and hash. ``Accept`` of a GET lists every
   manifest type, otherwise registries convert. The bytes are kept unchanged, since their hash is the digest.
3. An image is pushed bottom-up: blobs, then the manifests that reference them, then the index, then the tag.
   A registry refuses a manifest with missing blobs, so a tag never points to an incomplete image.
4. A blob of another repository is mounted: ``POST blobs/uploads/?mount=<digest>&from=<repository>`` answers 201, or
   202 if the registry wants the bytes instead. That has begun an upload session, which is cancelled here.
5. Otherwise ``POST blobs/uploads/`` answers 202 with a ``Location``, relative or absolute, whose query must be kept.
6. A small blob is sent by one ``PUT <location>?digest=``. A large one is streamed by one or more ``PATCH <location>``;
   each response has a new ``Location`` and a ``Range``. An empty ``PUT <location>?digest=`` completes it.
7. ``GET <location>`` returns the offset of a broken upload. A wrong digest at the end is answered 400.
8. Lists are paged by ``Link: <...>; rel="next"``. A page may have fewer entries than requested before the end.
9. A blob may be redirected to a store (302, signed URL). ``Authorization`` is never sent there.
10. Referrers are listed by an API or under a tag (:mod:`syncline.clients.registry.manifest`).
11. docker-registry 2.8 answers 400 to a manifest while one of its layers settles; the same PUT succeeds soon after.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import quote

from syncline.clients.http.addresses import Endpoint
from syncline.clients.http.client import Http, OversizeError, Response
from syncline.clients.http.failures import REDIRECTS, error_codes, is_distribution_error
from syncline.clients.http.listings import (
    IN_MEMORY_LIMITS,
    LISTING_START,
    REPOSITORY_LIMITS,
    TAG_LIMITS,
    EntryReader,
    ListingPage,
    ListingPosition,
    OnInvalid,
    describe,
    field_of,
    refuse,
)
from syncline.clients.registry.auth import RegistryCredentials
from syncline.clients.registry.blob_stream import BlobStream, content_length
from syncline.clients.registry.manifest import (
    ARTIFACT_TYPES,
    MANIFEST_TYPES,
    NO_REFERRERS_API,
    OCI_INDEX,
    Descriptor,
    Manifest,
    detect_media_type,
    is_manifest_type,
    referrers_tag,
)
from syncline.clients.registry.reference import (
    digest_matches,
    digest_of,
    is_digest,
    parse_digest,
    parse_reference,
    parse_repository,
    parse_tag,
)
from syncline.clients.registry.transport import (
    RegistryTransport,
    delete_scopes,
    next_link,
    next_page_target,
    pull_scopes,
    push_scopes,
)
from syncline.clients.registry.upload import BlobUpload, session_target
from syncline.errors import CodeName, SynclineError

SETTLING_ATTEMPTS: Final = 4  # a manifest PUT and three more
NO_API: Final = 60.0
"""Seconds before the referrers API is tried again at a registry without it."""

_ACCEPTED: Final = (*MANIFEST_TYPES, *ARTIFACT_TYPES)
_ACCEPT: Final = {"Accept": ", ".join(_ACCEPTED)}
_NO_UPLOAD: Final = "00000000-0000-4000-8000-000000000000"
_NO_DIGEST: Final = f"sha256:{'0' * 64}"
_CATALOG: Final = ("registry:catalog:*",)
_SETTLING: Final = frozenset({"DIGEST_INVALID", "MANIFEST_BLOB_UNKNOWN"})
_CONTENT_RANGE: Final = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")


class TagTakenError(SynclineError):
    """TAG_DIFFERS for a tag that changed during the copy; `digest` is its new digest."""

    def __init__(self, digest: str, what: str) -> None:
        super().__init__("TAG_DIFFERS", what)
        self.digest = digest

    def __reduce__(self) -> tuple[type[SynclineError], tuple[Any, ...]]:
        return (TagTakenError, (self.digest, self.what))


class Registry:
    """One registry. Safe for concurrent use by threads. ``create`` creates a repository that does not exist at a push.

    All methods also raise the codes of :meth:`syncline.clients.http.client.Http.request`, UNAUTHORIZED, FORBIDDEN,
    REFUSED, and REFERENCE_INVALID for an invalid name, before any request.
    """

    def __init__(  # noqa: PLR0913 - what a registry needs; all but three have defaults
        self,
        endpoint: Endpoint,
        credentials: Callable[[], RegistryCredentials | None],
        http: Http,
        page_size: int = 100,
        *,
        renewed: Callable[[], RegistryCredentials | None] | None = None,
        create: Callable[[str], None] | None = None,
    ) -> None:
        self._transport = RegistryTransport(endpoint, credentials, http, renewed, create)
        self._page_size = page_size
        self._no_referrers_until = 0.0
        self._asks_store = True

    @property
    def host(self) -> str:
        return self._transport.endpoint.host

    def catalog(self, on_invalid: OnInvalid = refuse) -> Iterator[str]:
        """Yield every repository visible to the credentials; see :meth:`catalog_pages`."""
        return (name for page in self.catalog_pages(on_invalid) for name in page.entries)

    def catalog_pages(
        self, on_invalid: OnInvalid = refuse, start: ListingPosition = LISTING_START
    ) -> Iterator[ListingPage[list[str]]]:
        """Yield the pages of all repositories visible to the credentials, from ``start`` on.

        Raises LISTING_INCOMPLETE if the list repeats itself, and LISTING_TOO_LONG.
        """
        entries = EntryReader(f"the catalog of {self.host}", on_invalid, limits=REPOSITORY_LIMITS, start=start)
        first = f"/v2/_catalog?n={self._page_size}"
        try:
            yield from self._pages(entries, start.token or first, _CATALOG, "repositories", parse_repository)
        except SynclineError as error:
            if not error.is_any("UNAUTHORIZED", "FORBIDDEN", "NOT_FOUND", "REFUSED"):
                raise
            code: CodeName = "UNAUTHORIZED" if error.code.name == "UNAUTHORIZED" else "REFUSED"
            hint = "many registries do not list their repositories: name them in syncs.yaml"
            raise SynclineError(code, f"{error.what} ({hint})") from error

    def tags(self, repository: str, on_invalid: OnInvalid = refuse) -> Iterator[str]:
        """Yield every tag of a repository, none if it does not exist; see :meth:`tag_pages`."""
        return (tag for page in self.tag_pages(repository, on_invalid) for tag in page.entries)

    def tag_pages(
        self, repository: str, on_invalid: OnInvalid = refuse, start: ListingPosition = LISTING_START
    ) -> Iterator[ListingPage[list[str]]]:
        """Yield the pages of a repository's tags in the registry's order, from ``start`` on.

        Raises LISTING_INCOMPLETE if the list repeats itself, and LISTING_TOO_LONG.
        """
        entries = EntryReader(f"the tags of {repository!r} at {self.host}", on_invalid, limits=TAG_LIMITS, start=start)
        first = f"/v2/{repository}/tags/list?n={self._page_size}"
        return self._pages(entries, start.token or first, pull_scopes(repository), "tags", parse_tag)

    def has_repository(self, repository: str) -> bool:
        """Return False if the registry answers that the repository does not exist."""
        answer = self._transport.fetch("GET", f"/v2/{repository}/tags/list?n=1", pull_scopes(repository))
        if answer.status not in (200, 404):
            raise answer.error()
        return answer.status == 200

    def check_credentials(self) -> None:
        """Raise UNAUTHORIZED if the registry rejects the credentials, NOT_FOUND if it is no registry."""
        answer = self._transport.fetch("GET", "/v2/", ())
        if answer.status != 200:
            raise answer.error()

    @property
    def creates_on_request(self) -> bool:
        """True if the request for the permission to push may create a repository: token servers of Quay and GitLab do."""
        return self._transport.uses_tokens

    def check_push(self, repository: str) -> None:
        """Raise FORBIDDEN, READ_ONLY or another error if the credentials may not push. Leave nothing at the registry.

        The permissions listed in the token decide. If there is no list, an upload that does not exist is completed:
        registries check the permission before they answer 404 or 400. A new upload would leave files even if it is
        cancelled (docker-registry 2.8).
        """
        granted = self._transport.granted(push_scopes(repository))
        if granted is not None and not granted & {"push", "*"}:
            what = (
                f"the token that {self.host} issued for {repository} grants no push, only {', '.join(sorted(granted))}"
            )
            raise SynclineError("FORBIDDEN", what.removesuffix(", only "))
        target = f"/v2/{repository}/blobs/uploads/{_NO_UPLOAD}?digest={_NO_DIGEST}"
        answer = self._transport.send("PUT", target, push_scopes(repository), body=b"")
        if answer.status == 405:
            raise SynclineError("READ_ONLY", answer.error().what)
        if answer.status not in (400, 404) or "NAME_UNKNOWN" in error_codes(answer.body):
            raise answer.error()

    def manifest_digest(self, repository: str, reference: str) -> str | None:
        """Return the digest of a tag, None if the tag does not exist. Sends HEAD, then GET if HEAD returns no digest."""
        target = f"/v2/{repository}/manifests/{parse_reference(reference)}"
        answer = self._transport.fetch("HEAD", target, pull_scopes(repository), _ACCEPT)
        if answer.status == 404:
            return None
        digest = answer.header("Docker-Content-Digest")
        if answer.status == 200 and is_digest(digest) and (digest == reference or not is_digest(reference)):
            return digest
        if answer.status not in (200, 405):
            raise answer.error()
        answer = self._transport.fetch("GET", target, pull_scopes(repository), _ACCEPT)
        if answer.status == 404:
            return None
        if answer.status != 200:
            raise answer.error()
        return self._verified_digest(answer, reference, f"{self.host}/{repository}")

    def manifest(self, repository: str, reference: str, media_type: str = "") -> Manifest:
        """Return a manifest by tag or digest and check its bytes. ``media_type`` is its type in the index, if known.

        Raises NOT_FOUND, DIGEST_MISMATCH, MANIFEST_UNSUPPORTED (schema 1, or no type), MANIFEST_INVALID.
        """
        target = f"/v2/{repository}/manifests/{parse_reference(reference)}"
        known = media_type in _ACCEPTED or not is_manifest_type(media_type)
        accept = _ACCEPT if known else {"Accept": ", ".join((*_ACCEPTED, media_type))}
        answer = self._transport.fetch("GET", target, pull_scopes(repository), accept)
        if answer.status != 200:
            raise answer.error()
        name = f"{self.host}/{repository}"
        try:
            detected = detect_media_type(
                answer.header("Content-Type"), answer.body, f"{name}{'@' if is_digest(reference) else ':'}{reference}"
            )
        except SynclineError as error:
            if error.code.name == "MANIFEST_INVALID":
                self._verified_digest(answer, reference, name)  # a wrong body is reported as DIGEST_MISMATCH
            raise
        return Manifest(self._verified_digest(answer, reference, name), detected, answer.body)

    def has_blob(self, repository: str, digest: str) -> bool:
        """Return True if the repository has a blob."""
        answer = self._transport.send("HEAD", self._blob(repository, digest), pull_scopes(repository))
        if answer.status == 404:
            return False
        # A redirect means that the blob exists. Its signed URL may be valid for GET only.
        if answer.status == 200 or answer.status in REDIRECTS:
            return True
        raise answer.error()

    def blob_size(self, repository: str, blob: Descriptor) -> int | None:
        """Return the size in bytes of a blob in the repository, None if it does not exist.

        If the registry does not report the size, the blob is assumed to be complete.
        """
        answer = self._transport.send("HEAD", self._blob(repository, blob.digest), pull_scopes(repository))
        if answer.status == 404:
            return None
        if answer.status == 200:
            size = content_length(answer)
        elif answer.status in REDIRECTS:
            size = self._redirected_size(repository, blob.digest)
        else:
            raise answer.error()
        if size in (None, blob.size):
            return blob.size
        # Some registries and proxies answer HEAD with the length of an empty body, so GET decides.
        try:
            with self.open_blob(repository, blob.digest) as stream:
                return blob.size if stream.size is None else stream.size
        except SynclineError as error:
            if error.code.name == "NOT_FOUND":
                return None
            raise

    def _redirected_size(self, repository: str, digest: str) -> int | None:
        """Return the size that the store behind the registry reports, None if it reports none or is unreachable."""
        if self._asks_store:
            try:
                answer = self._transport.fetch("HEAD", self._blob(repository, digest), pull_scopes(repository))
            except SynclineError:
                self._asks_store = False  # the network may allow the registry only
            else:
                return content_length(answer) if answer.status == 200 else None
        return None

    def open_blob(self, repository: str, digest: str, offset: int = 0) -> BlobStream:
        """Open a blob from ``offset`` on, which may be its end. The reader verifies the bytes. Raises NOT_FOUND."""
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        answer = self._transport.fetch(
            "GET", self._blob(repository, digest), pull_scopes(repository), headers, stream=True
        )
        if answer.status == 200:
            stream = BlobStream(answer, 0, content_length(answer))
            stream.skip(offset)  # the server does not support ranges
            return stream
        if answer.status == 416 and answer.header("Content-Range").strip() == f"bytes */{offset}":
            return BlobStream(answer, offset, offset)
        if answer.status != 206:
            raise answer.error()
        match = _CONTENT_RANGE.fullmatch(answer.header("Content-Range").strip())
        if match is None or int(match[1]) != offset:
            answer.close()
            raise answer.protocol_error(f"the response has another range than the requested bytes from {offset} on")
        return BlobStream(answer, offset, int(match[2]) + 1 if match[3] == "*" else int(match[3]))

    def mount_blob(self, repository: str, digest: str, from_repository: str) -> bool:
        """Mount a blob of another repository of this registry. Return False if the registry refuses."""
        query = f"mount={parse_digest(digest)}&from={quote(from_repository, safe='')}"
        target = f"/v2/{repository}/blobs/uploads/?{query}"
        scopes = (*push_scopes(repository), *pull_scopes(from_repository))
        try:
            answer = self._transport.send("POST", target, scopes, repeatable=True)
        except SynclineError as error:
            if error.is_any("UNAUTHORIZED", "FORBIDDEN"):
                return False  # perhaps no right to read there; the upload finds any other cause
            raise
        if answer.status == 202:
            BlobUpload(self._transport, repository, session_target(self._transport, repository, answer)).cancel()
        return answer.status == 201

    def begin_upload(self, repository: str) -> BlobUpload:
        """Begin an upload session. Raises READ_ONLY."""
        return BlobUpload.begin(self._transport, repository)

    def resume_upload(self, repository: str, state: Mapping[str, Any]) -> BlobUpload:
        """Return the upload of a :meth:`BlobUpload.state`, without a request. Raises UPLOAD_LOST for an invalid state."""
        target, offset = state.get("target"), state.get("offset")
        if not isinstance(target, str) or not target.startswith("/") or not isinstance(offset, int):
            raise SynclineError("UPLOAD_LOST", f"the stored state of an upload to {repository!r} cannot be read")
        return BlobUpload(self._transport, repository, target, offset)

    @property
    def lists_referrers_by_tag(self) -> bool:
        """True if the registry is known to have no API for referrers; false before :meth:`referrers` was called."""
        return time.monotonic() < self._no_referrers_until

    def referrers(self, repository: str, digest: str, on_invalid: OnInvalid = refuse) -> tuple[Descriptor, ...]:
        """Return the manifests that name a manifest as their subject, from the API or from the referrers tag.

        Raises LISTING_INCOMPLETE, LISTING_TOO_LONG, and BAD_ANSWER for a response that is no list.
        """
        listing = f"the referrers of {digest[:19]}… in {repository!r} at {self.host}"
        entries = EntryReader(listing, on_invalid, lambda entry: field_of(entry, "digest"), limits=IN_MEMORY_LIMITS)
        found: dict[str, Descriptor] = {}
        target = f"/v2/{repository}/referrers/{parse_digest(digest)}"
        first = target
        while not self.lists_referrers_by_tag:
            answer = self._transport.fetch("GET", target, pull_scopes(repository), {"Accept": OCI_INDEX})
            if answer.status in NO_REFERRERS_API and target == first:
                if not is_distribution_error(answer.body):  # otherwise the repository may not exist
                    self._no_referrers_until = time.monotonic() + NO_API
                break
            if answer.status != 200:
                raise answer.error()
            try:
                page = Manifest(digest_of(answer.body), OCI_INDEX, answer.body).listed(entries)
                found |= {each.digest: each for each in page}
            except SynclineError as error:
                if error.code.name != "MANIFEST_INVALID":
                    raise
                raise answer.protocol_error(f"the response is not a list of referrers ({error.what})") from None
            link = next_link(answer.all_headers("Link"))
            if link is None:
                return tuple(found.values())
            target = entries.at(next_page_target(self._transport.endpoint, target, link)).token
        return self._listed_by_tag(repository, digest, entries)

    def _listed_by_tag(self, repository: str, digest: str, entries: EntryReader) -> tuple[Descriptor, ...]:
        try:
            manifest = self.manifest(repository, referrers_tag(digest))
            return manifest.listed(entries) if manifest.is_index else ()
        except SynclineError as error:
            if error.code.name == "NOT_FOUND":
                return ()
            raise

    def put_manifest(self, repository: str, reference: str, manifest: Manifest) -> bool:
        """Store a manifest's exact bytes under a tag or its digest. Raises DIGEST_MISMATCH, READ_ONLY.

        Return False if it has a subject and the registry does not confirm that it lists the manifest as a referrer.
        """
        target = f"/v2/{repository}/manifests/{parse_reference(reference)}"
        headers = {"Content-Type": manifest.media_type}
        policy = self._transport.http.policy
        for attempt in range(1, SETTLING_ATTEMPTS + 1):
            answer = self._transport.send("PUT", target, push_scopes(repository), headers, manifest.body)
            if self._transport.create_if_absent(repository, answer):
                continue
            settling = answer.status == 400 and not _SETTLING.isdisjoint(error_codes(answer.body))
            pause = policy.pause(attempt)
            if not settling or attempt == SETTLING_ATTEMPTS or not policy.allows(pause):
                break
            policy.sleep(pause)
        if answer.status not in (200, 201, 202, 204):
            raise self._manifest_refusal(answer, manifest)
        stored = answer.header("Docker-Content-Digest")
        if stored and not manifest.has_digest(stored):
            raise SynclineError(
                "DIGEST_MISMATCH", f"{self.host}/{repository} stored {stored[:80]!r} instead of {manifest.digest}"
            )
        subject = manifest.subject
        return subject is None or answer.header("OCI-Subject") == subject.digest

    def delete(self, repository: str, reference: str) -> bool:
        """Delete a tag, or a digest with all tags that point to it. Return False if the registry does not support that.

        A registry of the specification 1.1 deletes only the tag; docker-registry 2.8 and others accept only a digest, and
        some delete the digest of the tag. An absent digest counts as deleted.
        """
        target = f"/v2/{repository}/manifests/{parse_reference(reference)}"
        answer = self._transport.send("DELETE", target, delete_scopes(repository))
        if answer.status in (400, 405) or (answer.status == 404 and not is_digest(reference)):
            return False
        if answer.status not in (200, 202, 204, 404):
            raise answer.error()
        return True

    def put_tag(
        self, repository: str, tag: str, manifest: Manifest, expected: str | Manifest | None, *, overwrite: bool = False
    ) -> str | None:
        """Put a manifest under a tag and return the digest it replaced, None if the tag was absent or equal.

        `expected` is the tag's current digest or manifest, None for an absent tag. A tag with another digest is not
        replaced, except with `overwrite`. Registries have no conditional PUT, so the tag is read directly before and
        after it. Raises TagTakenError if it differs at either time, and the errors of :meth:`put_manifest`.
        """
        before = self.manifest_digest(repository, tag)
        if before is not None and manifest.has_digest(before):
            return None
        named = f"{self.host}/{repository}:{tag}"
        if before is not None and not overwrite and not _is(expected, before):
            what = f"{named} changed to {before} while {manifest.digest} was copied, and is left unchanged"
            raise TagTakenError(before, what)
        self.put_manifest(repository, tag, manifest)
        after = self.manifest_digest(repository, tag)
        # A registry may return the old digest for a moment. The verify step reads the tag again.
        if after is not None and after != before and not manifest.has_digest(after):
            raise TagTakenError(after, f"{named} changed to {after} directly after {manifest.digest} was put there")
        return before

    @staticmethod
    def _manifest_refusal(answer: Response, manifest: Manifest) -> SynclineError:
        """Return the error of a registry that refuses a manifest."""
        error = answer.error()
        if answer.status == 405:
            return SynclineError("READ_ONLY", error.what)
        is_docker = manifest.media_type.startswith("application/vnd.docker.")
        if answer.status == 415 or (is_docker and "MANIFEST_INVALID" in error_codes(answer.body)):
            hint = "; it may accept the types of OCI only (Zot: set `http.compat` to [docker2s2])" if is_docker else ""
            return SynclineError(
                "MANIFEST_UNSUPPORTED", f"the target refuses {manifest.media_type}: {error.what}{hint}"
            )
        return error

    def _blob(self, repository: str, digest: str) -> str:
        return f"/v2/{repository}/blobs/{parse_digest(digest)}"

    @staticmethod
    def _verified_digest(answer: Response, reference: str, name: str) -> str:
        """Return the digest of a manifest's bytes, verified against the reference and the header."""
        for digest in filter(is_digest, (reference, answer.header("Docker-Content-Digest"))):
            if not digest_matches(digest, answer.body):
                raise SynclineError("DIGEST_MISMATCH", f"{name} sent other bytes than those of {digest}")
        return reference if is_digest(reference) else digest_of(answer.body)

    def _pages(
        self, entries: EntryReader, target: str, scopes: tuple[str, ...], key: str, parse: Callable[[str], str]
    ) -> Iterator[ListingPage[list[str]]]:
        """Yield the pages of the list under ``key``, without names that the previous page had."""
        while True:
            try:
                answer = self._transport.fetch("GET", target, scopes, {"Accept": "application/json"})
            except OversizeError as error:
                raise SynclineError("LISTING_TOO_LONG", f"{entries.listing}: {error.what}") from error
            if answer.status == 404 and key == "tags" and is_distribution_error(answer.body):
                return  # no such repository (NAME_UNKNOWN, or another code of some registries)
            if answer.status != 200:
                raise answer.error()
            value = answer.json()
            names = (value.get(key) or []) if isinstance(value, dict) else None
            if not isinstance(names, list):
                raise answer.protocol_error(f"the response has no list of {key}")
            fresh = list(entries.read(names, lambda name: parse(_name(name)), len(answer.body)))
            link = next_link(answer.all_headers("Link"))
            if link is None:
                yield ListingPage(fresh, None)
                return
            next_position = entries.at(next_page_target(self._transport.endpoint, target, link))
            yield ListingPage(fresh, next_position)
            target = next_position.token


def _name(entry: Any) -> str:
    if not isinstance(entry, str):
        raise ValueError(f"it is {describe(entry)}, not a name")  # noqa: TRY004 - invalid values are ValueErrors
    return entry


def _is(expected: str | Manifest | None, digest: str) -> bool:
    return expected.has_digest(digest) if isinstance(expected, Manifest) else expected == digest
