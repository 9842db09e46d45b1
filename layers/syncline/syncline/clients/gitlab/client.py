"""A client for GitLab's container registry API: the repositories of a project, and their tags.

- ``GET /projects/:id/registry/repositories`` and ``.../repositories/:id/tags`` list 100 entries per page, with
  ``Link: rel="next"``. Long lists have no counts (``X-Total``). Tags are listed without digests.
- ``GET /personal_access_tokens/self`` describes a personal, project or group token: its scopes and day of expiry.
- ``GET .../tags/:name`` returns digest, size and creation time of one tag.
- Personal, project and group tokens are sent in ``PRIVATE-TOKEN``, job tokens in ``JOB-TOKEN``. Deploy tokens work for
  the registry only: with them, the registry lists the tags.

https://docs.gitlab.com/api/container_registry/ and its OpenAPI description in the project's source (doc/api/openapi)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal
from urllib.parse import quote

from syncline.clients.http.addresses import Endpoint
from syncline.clients.http.client import Http, Response
from syncline.clients.http.failures import retry_after
from syncline.clients.http.listings import (
    IN_MEMORY_LIMITS,
    TAG_LIMITS,
    EntryReader,
    OnInvalid,
    describe,
    field_of,
    mapping,
    non_negative,
    refuse,
    text,
)
from syncline.clients.http.rejections import REJECTIONS
from syncline.clients.registry.reference import parse_repository, parse_tag
from syncline.clients.registry.transport import read_linked_pages
from syncline.errors import SynclineError

PAGE: Final = 100  # GitLab's maximum
TokenKind = Literal["personal", "job", "oauth"]
_HEADERS: Final[dict[str, str]] = {"personal": "PRIVATE-TOKEN", "job": "JOB-TOKEN"}


@dataclass(frozen=True, slots=True)
class GitLabRepository:
    """A repository. ``path`` is its full name at the registry, ``name`` the part after the project's path."""

    id: int
    name: str
    path: str


@dataclass(frozen=True, slots=True)
class GitLabTag:
    """Details of a tag, None if unknown. ``size`` is that of the layers in bytes."""

    digest: str | None
    size: int | None
    created: str | None


@dataclass(frozen=True, slots=True)
class TokenDetails:
    """The scopes of a token, and the day at whose beginning (UTC) it expires, None if it does not."""

    scopes: frozenset[str]
    expires: str | None


@dataclass(eq=False, repr=False)
class GitLab:
    """The API of one GitLab, for one project (path or number). Safe for concurrent use by threads.

    ``token`` is called for each request, ``renewed`` after a refusal. All methods raise the errors of :class:`Http`,
    THROTTLED, UNAUTHORIZED, FORBIDDEN, NOT_FOUND and REFUSED by status, and BAD_ANSWER.
    """

    endpoint: Endpoint
    project: str
    token: Callable[[], str | None]
    http: Http
    kind: TokenKind = "personal"
    renewed: Callable[[], str | None] | None = None

    def repositories(self, on_invalid: OnInvalid = refuse) -> Iterator[GitLabRepository]:
        """Yield every repository of the project. Raises LISTING_INCOMPLETE if the list repeats itself, LISTING_TOO_LONG."""
        listing = f"the repositories of {self.project} at {self.endpoint.host}"
        entries = EntryReader(listing, on_invalid, lambda entry: field_of(entry, "path"), limits=IN_MEMORY_LIMITS)
        target = self._path(f"?per_page={PAGE}")
        return read_linked_pages(self.endpoint, target, self._get, entries, _repository)

    def tags(self, repository: int, on_invalid: OnInvalid = refuse) -> Iterator[str]:
        """Yield the tags of a repository, given by its ID. Raises as :meth:`repositories`."""
        listing = f"the tags of repository {repository} at {self.endpoint.host}"
        entries = EntryReader(listing, on_invalid, lambda entry: field_of(entry, "name"), limits=TAG_LIMITS)
        target = self._path(f"/{repository}/tags?per_page={PAGE}")
        return read_linked_pages(self.endpoint, target, self._get, entries, _tag_name)

    def tag(self, repository: int, name: str) -> GitLabTag:
        """Return the details of one tag."""
        value = self._get(self._path(f"/{repository}/tags/{quote(name, safe='')}")).json_object()
        digest, size, created = value.get("digest"), value.get("total_size"), value.get("created_at")
        return GitLabTag(
            digest if isinstance(digest, str) else None,
            size if isinstance(size, int) else None,
            created if isinstance(created, str) else None,
        )

    def own_token(self) -> TokenDetails | None:
        """Return the details of the token in use, None for a kind of token of which GitLab has none."""
        if self.kind != "personal":
            return None
        value = self._get("/api/v4/personal_access_tokens/self").json_object()
        scopes, expires = value.get("scopes"), value.get("expires_at")
        listed = scopes if isinstance(scopes, list) else ()
        return TokenDetails(frozenset(map(str, listed)), expires if isinstance(expires, str) else None)

    def _path(self, rest: str = "") -> str:
        return f"/api/v4/projects/{quote(self.project, safe='')}/registry/repositories{rest}"

    def _get(self, target: str) -> Response:
        def send(token: str | None) -> Response:
            headers = {"Accept": "application/json"}
            if token is not None and self.kind == "oauth":
                headers["Authorization"] = f"Bearer {token}"
            elif token is not None:
                headers[_HEADERS[self.kind]] = token
            return self.http.request("GET", f"{self.endpoint.url}{target}", headers, route=self.endpoint.route)

        response = REJECTIONS.send(self.endpoint.host, self.token(), self.renewed or self.token, send)
        if response.status == 403 and (pause := retry_after(response.headers)) is not None:
            raise SynclineError("THROTTLED", response.error().what, retry_after=pause)
        if response.status != 200:
            raise response.error()
        return response


def _tag_name(entry: Any) -> str:
    return parse_tag(text(mapping(entry).get("name"), "`name`"))


def _repository(entry: Any) -> GitLabRepository:
    value = mapping(entry)
    name = value.get("name")  # empty for the repository with the project's own path
    if not isinstance(name, str):
        raise ValueError(f"its `name` is {describe(name)}, not text")  # noqa: TRY004 - invalid values are ValueErrors
    path = parse_repository(text(value.get("path"), "`path`"))
    return GitLabRepository(non_negative(value.get("id"), "`id`"), name, path)
