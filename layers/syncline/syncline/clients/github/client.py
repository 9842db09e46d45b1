"""GitHub's API as far as builds need it: workflow runs, their artifacts and their logs.

1. ``GET /repos/{o}/{r}/actions/workflows/{file}/runs`` lists runs, the youngest first, at most 100 a page and, where it
   is filtered, 1,000 in all; ``Link: rel="next"`` leads on. Runs that begin meanwhile push others to the next page.
2. ``GET .../runs/{id}/artifacts`` lists what a run left; ``digest`` is absent for old ones, ``expired`` says the content
   is gone, and its download then answers 410.
3. Downloads answer 302 with an address that is good for one minute and for everybody who has it. The store behind it
   gives ranges from an offset on, not the last bytes; ``Authorization`` must not go there. Reading goes on for longer.
4. Logs are a zip, too, one file for each job.
5. A token is sent as a bearer. An App signs a JWT (RS256, ten minutes at most) and gets an installation's token for it.
6. Too many requests: 403 or 429, with ``Retry-After`` or with ``X-RateLimit-Remaining: 0`` and the time of its reset.

https://docs.github.com/en/rest/actions and https://github.com/github/rest-api-description
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Protocol, TypeVar
from urllib.parse import quote, urlencode

from syncline.clients.http.addresses import Address, Endpoint
from syncline.clients.http.client import Http, Response
from syncline.clients.http.failures import REDIRECTS
from syncline.clients.http.listings import FEW, Entries, OnOdd, described, mapping, optional, refuse, text, whole
from syncline.clients.http.rejections import REJECTIONS
from syncline.clients.registry.transport import next_link, own_target
from syncline.errors import SynclineError

T = TypeVar("T")

PAGE: Final = 100  # the most that GitHub gives at once
VERSION: Final = "2022-11-28"
CHUNK: Final = 1024 * 1024

_URL_LIFE: Final = 50.0  # seconds of the minute that an address is good for
_BREAKS: Final = 5
_RENEWALS: Final = 2  # of an address that the store rejects
_STALE: Final = frozenset({401, 403, 404, 410})  # what stores say of an address whose time is over
_CONTENT_RANGE: Final = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})")


@dataclass(frozen=True, slots=True)
class WorkflowRun:
    """One run. Times are Unix seconds: when its latest attempt began, and when something last changed."""

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
        """What tells this attempt from all others: number and attempt."""
        return f"{self.id}.{self.attempt}"


@dataclass(frozen=True, slots=True)
class Artifact:
    """What a run left. ``size`` is that of the download in bytes, ``digest`` its sha256 where GitHub knows it."""

    id: int
    name: str
    size: int
    expired: bool
    digest: str | None
    created: str


class Tokens(Protocol):
    """Who we are at GitHub."""

    def token(self) -> str | None:
        """A token that is good now; None is anonymous."""
        ...

    def renew(self) -> bool:
        """GitHub refused the token: whether another one will be given from here on."""
        ...


class GitHub:
    """The API at one place; safe to use from any number of threads. ``prefix`` is ``/api/v3`` at GitHub Enterprise.

    Beside what is said below, all methods raise what :class:`Http` raises, THROTTLED with the time to wait,
    UNAUTHORIZED, FORBIDDEN, NOT_FOUND and REFUSED by the answer's status, and BAD_ANSWER.
    """

    def __init__(self, endpoint: Endpoint, tokens: Tokens, http: Http, prefix: str = "") -> None:
        self.endpoint = endpoint
        self.http = http
        self._tokens = tokens
        self._prefix = prefix

    def runs(self, repository: str, workflow: str, odd: OnOdd = refuse, **filters: str | None) -> Iterator[WorkflowRun]:
        """Yield runs of a workflow (its file's name), the youngest first. ``filters`` as in the API.

        Raises LISTING_INCOMPLETE if the list repeats itself, and LISTING_TOO_LONG.
        """
        query = {key: value for key, value in filters.items() if value}
        file = workflow.rpartition("/")[2]
        path = f"{_repository(repository)}/actions/workflows/{quote(file, safe='')}/runs"
        entries = Entries(f"the runs of {file} at {self.endpoint.host}", odd, _number_of, limits=FEW)
        return self._listed(entries, path, "workflow_runs", query, _run)

    def run(self, repository: str, run_id: int) -> WorkflowRun:
        """One run. Raises BAD_ANSWER if what GitHub says of it cannot be used."""
        response = self.get(f"{_repository(repository)}/actions/runs/{run_id}")
        try:
            return _run(response.json())
        except ValueError as error:
            raise response.bad(str(error)) from None

    def artifacts(self, repository: str, run_id: int, odd: OnOdd = refuse) -> list[Artifact]:
        """Return everything a run left, expired or not. Raises LISTING_INCOMPLETE and LISTING_TOO_LONG."""
        path = f"{_repository(repository)}/actions/runs/{run_id}/artifacts"
        listing = f"the artifacts of run {run_id} at {self.endpoint.host}"
        entries = Entries(listing, odd, _name_of, key_of=_number_of, limits=FEW)
        return list(self._listed(entries, path, "artifacts", {}, _artifact))

    def content(self, repository: str, artifact: Artifact) -> RemoteFile:
        """An artifact's download, as it is stored. Reading it raises ARTIFACT_EXPIRED where that is so."""
        path = f"{_repository(repository)}/actions/artifacts/{artifact.id}/zip"
        return RemoteFile(self, path, f"artifact {artifact.name} ({artifact.id})")

    def logs(self, repository: str, run: WorkflowRun) -> RemoteFile:
        """The zip of a run's logs, of its latest attempt. Reading it raises ARTIFACT_EXPIRED where they are gone."""
        path = f"{_repository(repository)}/actions/runs/{run.id}/attempts/{run.attempt}/logs"
        # Which of the two says that they are gone GitHub's description leaves open; the run itself has just been seen.
        return RemoteFile(self, path, f"logs of run {run.id}", frozenset({404, 410}))

    def get(self, path: str) -> Response:
        response = self.send("GET", f"{self._prefix}{path}")
        if response.status != 200:
            raise response.error()
        return response

    def send(self, method: str, target: str) -> Response:
        """The answer to a request; what says to slow down is raised as THROTTLED, a token refused twice UNAUTHORIZED."""

        def send(token: str | None) -> Response:
            headers = {"Accept": "application/vnd.github+json", "X-GitHub-Api-Version": VERSION}
            if token is not None:
                headers["Authorization"] = f"Bearer {token}"
            return self.http.request(method, f"{self.endpoint.url}{target}", headers, ca=self.endpoint.ca)

        token = self._tokens.token()
        return REJECTIONS.ask(
            self.endpoint.host, token, lambda: self._tokens.token() if self._tokens.renew() else token, send
        )

    def download_target(self, path: str) -> str:
        return f"{self._prefix}{path}"

    def _listed(
        self, entries: Entries, path: str, key: str, query: Mapping[str, str], parse: Callable[[Any], T]
    ) -> Iterator[T]:
        """Yield the entries of the lists under ``key`` of all pages."""
        target = f"{self._prefix}{path}?{urlencode({**query, 'per_page': str(PAGE)})}"
        while True:
            response = self.send("GET", target)
            if response.status != 200:
                raise response.error()
            answer = response.json()
            page = answer.get(key) if isinstance(answer, dict) else None
            if not isinstance(page, list):
                raise response.bad(f"it has no list of {key}")
            yield from entries.read(page, parse, len(response.body))
            link = next_link(response.all_headers("Link"))
            if link is None:
                return
            target = entries.at(own_target(self.endpoint, target, link)).token


class RemoteFile:
    """A download that can be read from anywhere, behind addresses that are renewed as they end; one thread at a time.

    ``gone`` are the statuses by which GitHub says that there is nothing to download any more.
    """

    def __init__(self, github: GitHub, path: str, name: str, gone: frozenset[int] = frozenset({410})) -> None:
        self._github = github
        self._gone = gone
        self._target = github.download_target(path)
        self._url = ""
        self._until = 0.0
        self._size: int | None = None
        self.name = name

    @property
    def size(self) -> int:
        """Bytes in all, as the store says."""
        if self._size is None:
            self._stream(0, 1).close()
        assert self._size is not None, "every answer tells it"
        return self._size

    @contextmanager
    def open(self, start: int, end: int) -> Iterator[Iterator[bytes]]:
        """The bytes from ``start`` up to ``end``, through connections that break. Raises UNREACHABLE at last."""
        opened: list[Response] = []
        try:
            yield self._chunks(start, end, opened)
        finally:
            for response in opened:
                response.close()

    def _chunks(self, at: int, end: int, opened: list[Response]) -> Iterator[bytes]:
        breaks = 0
        while at < end:
            begun = at
            try:
                opened.append(self._stream(at, end))
                while at < end and (chunk := opened[-1].read(min(CHUNK, end - at))):
                    at += len(chunk)
                    yield chunk
            except SynclineError as error:
                if not error.retried_here:
                    raise
                # Where each connection gets further, patience is renewed.
                breaks = 0 if at > begun else breaks + 1
                if breaks >= _BREAKS:
                    raise
            else:
                breaks += at == begun
                if breaks >= _BREAKS:
                    raise SynclineError("UNREACHABLE", f"{self.name} breaks off after {at} bytes")
            if opened:
                opened.pop().close()

    def _stream(self, start: int, end: int) -> Response:
        """Return a response that gives the bytes from ``start`` on.

        An address that the store rejects is renewed, a new one included: stores have clocks of their own.
        """
        headers = {"Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
        for tries_left in range(_RENEWALS, -1, -1):
            self._renew_if_old()
            response = self._github.http.request("GET", self._url, headers, ca=self._github.endpoint.ca, stream=True)
            if response.status in (200, 206):
                return self._at(response, start)
            self._until = 0.0
            if response.status not in _STALE:
                raise response.error()
            if not tries_left:
                what = f"the store rejects each address that GitHub gives for {self.name}: {response.error().what}"
                raise SynclineError("SERVER_ERROR", what)
        raise AssertionError  # the loop has no other end

    def _at(self, response: Response, start: int) -> Response:
        """The response standing at ``start``; notes the size it tells, which must not change."""
        size: int | None
        if response.status == 206:
            match = _CONTENT_RANGE.fullmatch(response.header("Content-Range").strip())
            size = int(match[3]) if match is not None and int(match[1]) == start else None
        else:
            text = response.header("Content-Length")
            size = int(text) if text.isascii() and text.isdigit() else None
        if size is None or (self._size is not None and size != self._size):
            response.close()
            raise response.bad("it gives other bytes than those asked for")
        self._size = size
        left = start if response.status == 200 else 0
        while left and (skipped := response.read(min(CHUNK, left))):  # a store that does not do ranges
            left -= len(skipped)
        return response

    def _renew_if_old(self) -> None:
        """Ask GitHub for an address unless there is one that is still good."""
        clock = self._github.http.policy.clock
        if clock() < self._until:
            return
        asked = clock()
        response = self._github.send("GET", self._target)
        if response.status in self._gone:
            raise SynclineError("ARTIFACT_EXPIRED", f"{self.name} has expired")
        if response.status not in REDIRECTS:
            raise response.error() if response.status != 200 else response.bad("it does not say where the content is")
        there = Address.parse_at(response.url, response.header("Location"))
        if there is None:
            raise response.bad("it redirects to no address")
        if response.url.startswith("https:") and there.scheme != "https":
            raise SynclineError("REDIRECTED", f"{self._github.endpoint.host} redirects to {there.host} without TLS")
        self._url, self._until = there.url, asked + _URL_LIFE


def _repository(name: str) -> str:
    return f"/repos/{quote(name)}"


def _number_of(entry: Any) -> str | None:
    number = entry.get("id") if isinstance(entry, dict) else None
    return str(number) if isinstance(number, int) and not isinstance(number, bool) else None


def _name_of(entry: Any) -> Any:
    return entry.get("name") if isinstance(entry, dict) else None


def _run(entry: Any) -> WorkflowRun:
    value = mapping(entry)

    def words(field: str) -> str:
        return optional(value.get(field), str, f"`{field}`") or ""

    created = value.get("created_at")
    return WorkflowRun(
        id=whole(value.get("id"), "`id`"),
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


def _artifact(entry: Any) -> Artifact:
    value = mapping(entry)
    expired = value.get("expired")
    if not isinstance(expired, bool):
        raise ValueError(f"its `expired` is {described(expired)}, not true or false")  # noqa: TRY004 - as every odd entry
    return Artifact(
        whole(value.get("id"), "`id`"),
        text(value.get("name"), "`name`"),
        whole(value.get("size_in_bytes"), "`size_in_bytes`"),
        expired,
        optional(value.get("digest"), str, "`digest`"),
        optional(value.get("created_at"), str, "`created_at`") or "",
    )


def _time(value: Any, field: str) -> float:
    try:
        return datetime.fromisoformat(text(value, field)).timestamp()
    except (ValueError, OverflowError):
        raise ValueError(f"its {field} is {described(value)}, not a time") from None
