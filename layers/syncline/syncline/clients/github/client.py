"""A client for GitHub's API: workflow runs, their artifacts and their logs.

1. ``GET /repos/{o}/{r}/actions/workflows/{file}/runs`` lists runs, newest first, 100 per page and, if filtered, at most
   1,000; ``Link: rel="next"`` is the next page. New runs shift others to the next page.
2. ``GET .../runs/{id}/artifacts`` lists a run's artifacts. Old ones have no ``digest``. ``expired`` means that the
   content was deleted; its download answers 410.
3. Downloads answer 302 with a URL that is valid for one minute and needs no authorization. ``Authorization`` must not
   be sent there. The store supports ranges from an offset, but no suffix ranges. A started read may take longer.
4. Logs are a zip file with one file per job.
5. A token is sent as a bearer token. An App exchanges a JWT (RS256, at most ten minutes) for an installation's token.
6. ``GET /repos/{o}/{r}/attestations/{digest}`` lists the attestations of a digest, at most 100 per page; 404 means
   that there are none. Version 2026-03-10 of the API no longer includes the bundles, so an older one is requested.
7. Throttling: 403 or 429, with ``Retry-After``, or with ``X-RateLimit-Remaining: 0`` and the time of the reset.

https://docs.github.com/en/rest/actions, https://docs.github.com/en/rest/repos/attestations and
https://github.com/github/rest-api-description
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from urllib.parse import quote, urlencode

from syncline.clients.http.addresses import Endpoint
from syncline.clients.http.client import Http, Response
from syncline.clients.http.failures import REDIRECTS
from syncline.clients.http.listings import (
    IN_MEMORY_LIMITS,
    EntryReader,
    ListingLimits,
    OnInvalid,
    describe,
    field_of,
    mapping,
    non_negative,
    optional,
    refuse,
    text,
)
from syncline.clients.http.rejections import REJECTIONS
from syncline.clients.registry.transport import read_linked_pages, redirect_target
from syncline.errors import SynclineError

PAGE: Final = 100  # GitHub's maximum
VERSION: Final = "2022-11-28"
CHUNK: Final = 1024 * 1024

_ATTESTATIONS: Final = 10  # per page, as one may have megabytes
_URL_LIFETIME: Final = 50.0  # seconds; a download URL expires after a minute
_MAX_BREAKS: Final = 5  # consecutive connections that break without progress
_RENEWALS: Final = 2  # of a URL that the store rejects
_EXPIRED: Final = frozenset({401, 403, 404, 410})  # statuses of stores for an expired URL
_CONTENT_RANGE: Final = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})")


@dataclass(frozen=True, slots=True)
class WorkflowRun:
    """A workflow run. Times are Unix seconds; ``started`` is that of the latest attempt, ``updated`` of any change."""

    id: int
    attempt: int
    number: int
    branch: str
    sha: str
    event: str
    status: str
    conclusion: str
    path: str
    created: float
    started: float
    updated: float
    url: str

    @property
    def mark(self) -> str:
        """The unique ID of this attempt: run and attempt."""
        return f"{self.id}.{self.attempt}"


@dataclass(frozen=True, slots=True)
class Artifact:
    """An artifact of a run. ``size`` is that of the download in bytes, ``digest`` its sha256, None if unknown."""

    id: int
    name: str
    size: int
    expired: bool
    digest: str | None
    created: str


@dataclass(frozen=True, slots=True)
class GitHubLimits:
    """The rate limit and the expiry of a token (Unix seconds), as a response states them; None if it does not."""

    remaining: int | None = None
    limit: int | None = None
    expires: float | None = None

    @classmethod
    def of(cls, response: Response) -> GitHubLimits:
        expires = None
        with suppress(ValueError):  # "2026-12-31 23:59:59 UTC" or "2026-12-31 23:59:59 +0100"
            day, moment, zone = response.header("GitHub-Authentication-Token-Expiration").split()
            expires = datetime.fromisoformat(f"{day}T{moment}{'+00:00' if zone == 'UTC' else zone}").timestamp()
        return cls(_count(response, "X-RateLimit-Remaining"), _count(response, "X-RateLimit-Limit"), expires)


def _count(response: Response, header: str) -> int | None:
    text = response.header(header).strip()
    return int(text[:12]) if text.isascii() and text.isdigit() else None


@dataclass(eq=False, repr=False)
class GitHub:
    """The API of one GitHub server. Safe for concurrent use by threads. ``prefix`` is ``/api/v3`` at GitHub Enterprise.

    ``token`` is called for each request, ``renewed`` after a refusal. All methods also raise the errors of :class:`Http`,
    THROTTLED with the time to wait, UNAUTHORIZED, FORBIDDEN, NOT_FOUND and REFUSED by status, and BAD_ANSWER.
    """

    endpoint: Endpoint
    token: Callable[[], str | None]
    http: Http
    prefix: str = ""
    renewed: Callable[[], str | None] | None = None

    def runs(
        self, repository: str, workflow: str, on_invalid: OnInvalid = refuse, **filters: str | None
    ) -> Iterator[WorkflowRun]:
        """Yield the runs of a workflow (its file name), newest first. ``filters`` are parameters of the API.

        Raises LISTING_INCOMPLETE if the list repeats itself, and LISTING_TOO_LONG.
        """
        file = workflow.rpartition("/")[2]
        query = urlencode({**{key: value for key, value in filters.items() if value}, "per_page": PAGE})
        target = f"{self._repository(repository)}/actions/workflows/{quote(file, safe='')}/runs?{query}"
        listing = f"the runs of {file} at {self.endpoint.host}"
        entries = EntryReader(listing, on_invalid, _number_of, limits=IN_MEMORY_LIMITS)
        return read_linked_pages(self.endpoint, target, self._get, entries, _run, "workflow_runs")

    def check_runs(self, repository: str, workflow: str) -> GitHubLimits:
        """Request one run of a workflow, and return the limits of the token.

        Raises NOT_FOUND for an unknown repository or workflow, THROTTLED for an exhausted rate limit.
        """
        file = quote(workflow.rpartition("/")[2], safe="")
        target = f"{self._repository(repository)}/actions/workflows/{file}/runs?per_page=1"
        return GitHubLimits.of(self._get(target))

    def run(self, repository: str, run_id: int) -> WorkflowRun:
        """Return one run. Raises BAD_ANSWER if its entry is invalid."""
        response = self._get(f"{self._repository(repository)}/actions/runs/{run_id}")
        try:
            return _run(response.json())
        except ValueError as error:
            raise response.protocol_error(str(error)) from None

    def artifacts(self, repository: str, run_id: int, on_invalid: OnInvalid = refuse) -> list[Artifact]:
        """Return all artifacts of a run, expired ones included. Raises LISTING_INCOMPLETE and LISTING_TOO_LONG."""
        target = f"{self._repository(repository)}/actions/runs/{run_id}/artifacts?per_page={PAGE}"
        listing = f"the artifacts of run {run_id} at {self.endpoint.host}"
        entries = EntryReader(
            listing, on_invalid, lambda entry: field_of(entry, "name"), key_of=_number_of, limits=IN_MEMORY_LIMITS
        )
        return list(read_linked_pages(self.endpoint, target, self._get, entries, _artifact, "artifacts"))

    def attestations(
        self, repository: str, digest: str, most: int, on_invalid: OnInvalid = refuse
    ) -> Iterator[dict[str, Any]]:
        """Yield the bundles of Sigstore about a digest, none if there are none. Raises LISTING_TOO_LONG beyond ``most``.

        Also raises LISTING_INCOMPLETE. The bundles are unchecked.
        """
        target = f"{self._repository(repository)}/attestations/{quote(digest, safe=':')}?per_page={_ATTESTATIONS}"
        listing = f"the attestations of {digest} at {self.endpoint.host}"
        entries = EntryReader(listing, on_invalid, lambda _: None, limits=ListingLimits(entries=most, pages=most))
        try:
            yield from read_linked_pages(self.endpoint, target, self._get, entries, _bundle, "attestations")
        except SynclineError as error:
            if error.code.name != "NOT_FOUND":
                raise

    def content(self, repository: str, artifact: Artifact) -> RemoteFile:
        """Return the download of an artifact. Reading it raises ARTIFACT_EXPIRED if the content was deleted."""
        path = f"{self._repository(repository)}/actions/artifacts/{artifact.id}/zip"
        return RemoteFile(self, path, f"artifact {artifact.name} ({artifact.id})")

    def logs(self, repository: str, run: WorkflowRun) -> RemoteFile:
        """Return the zip of the logs of a run's attempt. Reading it raises ARTIFACT_EXPIRED if they were deleted."""
        path = f"{self._repository(repository)}/actions/runs/{run.id}/attempts/{run.attempt}/logs"
        # GitHub's description leaves open which of the two means deleted logs. The run itself exists.
        return RemoteFile(self, path, f"logs of run {run.id}", frozenset({404, 410}))

    def send(self, method: str, target: str) -> Response:
        """Send a request and return the response. Raises THROTTLED, and UNAUTHORIZED for a token refused twice."""

        def send(token: str | None) -> Response:
            headers = {"Accept": "application/vnd.github+json", "X-GitHub-Api-Version": VERSION}
            if token is not None:
                headers["Authorization"] = f"Bearer {token}"
            return self.http.request(method, f"{self.endpoint.url}{target}", headers, route=self.endpoint.route)

        return REJECTIONS.send(self.endpoint.host, self.token(), self.renewed or self.token, send)

    def _repository(self, name: str) -> str:
        return f"{self.prefix}/repos/{quote(name)}"

    def _get(self, target: str) -> Response:
        response = self.send("GET", target)
        if response.status != 200:
            raise response.error()
        return response


@dataclass(eq=False, repr=False)
class RemoteFile:
    """A download with random access, for one thread at a time. ``gone`` are GitHub's statuses for a deleted download."""

    github: GitHub
    path: str
    name: str
    gone: frozenset[int] = frozenset({410})
    _url: str = ""
    _expires: float = 0.0
    _size: int | None = None

    @property
    def size(self) -> int:
        """The size in bytes that the store reports."""
        if self._size is None:
            self._stream(0, 1).close()
        assert self._size is not None, "set by every response"
        return self._size

    @contextmanager
    def open(self, start: int, end: int) -> Iterator[Iterator[bytes]]:
        """Open the bytes from ``start`` to before ``end``, reconnecting if needed. Raises UNREACHABLE without progress."""
        opened: list[Response] = []
        try:
            yield self._chunks(start, end, opened)
        finally:
            for response in opened:
                response.close()

    def _chunks(self, at: int, end: int, opened: list[Response]) -> Iterator[bytes]:
        breaks = 0
        while at < end:
            start = at
            try:
                opened.append(self._stream(at, end))
                while at < end and (chunk := opened[-1].read(min(CHUNK, end - at))):
                    at += len(chunk)
                    yield chunk
            except SynclineError as error:
                if not error.retried_here:
                    raise
                # Only consecutive connections without progress count.
                breaks = 0 if at > start else breaks + 1
                if breaks >= _MAX_BREAKS:
                    raise
            else:
                breaks += at == start
                if breaks >= _MAX_BREAKS:
                    raise SynclineError(
                        "UNREACHABLE", f"{self.name}: {breaks} connections in a row broke after {at} bytes"
                    )
            if opened:
                opened.pop().close()

    def _stream(self, start: int, end: int) -> Response:
        """Return a response whose body begins at ``start``."""
        headers = {"Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
        for tries_left in range(_RENEWALS, -1, -1):
            self._renew_if_old()
            response = self.github.http.request(
                "GET", self._url, headers, route=self.github.endpoint.route, stream=True
            )
            if response.status in (200, 206):
                return self._at(response, start)
            self._expires = 0.0  # even a new URL is renewed, as the store's clock may differ
            if response.status not in _EXPIRED:
                raise response.error()
            if not tries_left:
                what = f"the store rejects each download URL for {self.name}: {response.error().what}"
                raise SynclineError("SERVER_ERROR", what)
        raise AssertionError  # the loop has no other end

    def _at(self, response: Response, start: int) -> Response:
        """Return the response, advanced to ``start``. Stores the size in it, which must not change."""
        size: int | None
        if response.status == 206:
            match = _CONTENT_RANGE.fullmatch(response.header("Content-Range").strip())
            size = int(match[3]) if match is not None and int(match[1]) == start else None
        else:
            text = response.header("Content-Length")
            size = int(text) if text.isascii() and text.isdigit() else None
        if size is None or (self._size is not None and size != self._size):
            response.close()
            raise response.protocol_error("the response has another range or size than requested")
        self._size = size
        left = start if response.status == 200 else 0
        while left and (skipped := response.read(min(CHUNK, left))):  # the store does not support ranges
            left -= len(skipped)
        return response

    def _renew_if_old(self) -> None:
        """Request a download URL from GitHub unless the current one is still valid."""
        requested_at = self.github.http.policy.clock()
        if requested_at < self._expires:
            return
        response = self.github.send("GET", self.path)
        if response.status in self.gone:
            raise SynclineError("ARTIFACT_EXPIRED", f"{self.name} has expired")
        if response.status not in REDIRECTS:
            raise response.error() if response.status != 200 else response.protocol_error("a redirect was expected")
        self._url = redirect_target(response, self.github.endpoint.host).url
        self._expires = requested_at + _URL_LIFETIME


def _number_of(entry: Any) -> str | None:
    number = field_of(entry, "id")
    return str(number) if isinstance(number, int) and not isinstance(number, bool) else None


def _run(entry: Any) -> WorkflowRun:
    value = mapping(entry)

    def words(field: str) -> str:
        return optional(value.get(field), str, f"`{field}`") or ""

    created = value.get("created_at")
    return WorkflowRun(
        id=non_negative(value.get("id"), "`id`"),
        attempt=optional(value.get("run_attempt"), int, "`run_attempt`") or 1,
        number=optional(value.get("run_number"), int, "`run_number`") or 0,
        branch=words("head_branch"),
        sha=words("head_sha"),
        event=words("event"),
        status=words("status"),
        conclusion=words("conclusion"),
        path=words("path").partition("@")[0],
        created=_time(created, "`created_at`"),
        started=_time(value.get("run_started_at") or created, "`run_started_at`"),
        updated=_time(value.get("updated_at"), "`updated_at`"),
        url=words("html_url"),
    )


def _bundle(entry: Any) -> dict[str, Any]:
    bundle = mapping(entry).get("bundle")
    if not isinstance(bundle, dict):
        raise ValueError(f"its `bundle` is {describe(bundle)}, not an object")  # noqa: TRY004 - invalid values are ValueErrors
    return bundle


def _artifact(entry: Any) -> Artifact:
    value = mapping(entry)
    expired = value.get("expired")
    if not isinstance(expired, bool):
        raise ValueError(f"its `expired` is {describe(expired)}, not true or false")  # noqa: TRY004 - invalid values are ValueErrors
    return Artifact(
        non_negative(value.get("id"), "`id`"),
        text(value.get("name"), "`name`"),
        non_negative(value.get("size_in_bytes"), "`size_in_bytes`"),
        expired,
        optional(value.get("digest"), str, "`digest`"),
        optional(value.get("created_at"), str, "`created_at`") or "",
    )


def _time(value: Any, field: str) -> float:
    try:
        return datetime.fromisoformat(text(value, field)).timestamp()
    except (ValueError, OverflowError):
        raise ValueError(f"its {field} is {describe(value)}, not a time") from None
