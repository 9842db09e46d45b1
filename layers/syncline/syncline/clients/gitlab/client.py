"""A client for GitLab's container registry API: the repositories of a project, and their tags.

- ``GET /projects/:id/registry/repositories`` and ``.../repositories/:id/tags`` list 100 entries per page, with
  ``Link: rel="next"``. Long lists have no counts (``X-Total``). Tags are listed without digests.
- ``GET .../tags/:name`` returns digest, size and creation time of one tag.
- Personal, project and group tokens are sent in ``PRIVATE-TOKEN``, job tokens in ``JOB-TOKEN``. Deploy tokens work for
  the registry only: with them, the registry lists the tags.

https://docs.gitlab.com/api/container_registry/ and its OpenAPI description in the project's source (doc/api/openapi)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar
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
from syncline.clients.registry.transport import next_link, same_host_target
from syncline.errors import SynclineError

PAGE: Final = 100  # GitLab's maximum
T = TypeVar("T")
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


class GitLab:
    """The API of one GitLab, for one project (path or number). Safe for concurrent use by threads.

    ``token`` is called for each request, ``renewed`` after a refusal. All methods raise the errors of :class:`Http`,
    THROTTLED, UNAUTHORIZED, FORBIDDEN, NOT_FOUND and REFUSED by status, and BAD_ANSWER.
    """

    def __init__(  # noqa: PLR0913 - the properties of a project
        self,
        endpoint: Endpoint,
        project: str,
        token: Callable[[], str | None],
        http: Http,
        kind: TokenKind = "personal",
        *,
        renewed: Callable[[], str | None] | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._project = project
        self._base = f"/api/v4/projects/{quote(project, safe='')}/registry/repositories"
        self._token = token
        self._renewed = renewed or token
        self._http = http
        self._kind = kind

    @property
    def host(self) -> str:
        return self._endpoint.host

    def repositories(self, on_invalid: OnInvalid = refuse) -> Iterator[GitLabRepository]:
        """Yield every repository of the project, with one request per 100.

        Raises LISTING_INCOMPLETE if the list repeats itself, and LISTING_TOO_LONG.
        """
        listing = f"the repositories of {self._project} at {self.host}"
        entries = EntryReader(listing, on_invalid, lambda entry: field_of(entry, "path"), limits=IN_MEMORY_LIMITS)
        return self._listed(entries, self._base, _repository)

    def tags(self, repository: int, on_invalid: OnInvalid = refuse) -> Iterator[str]:
        """Yield the tags of a repository, given by its ID, with one request per 100.

        Raises LISTING_INCOMPLETE if the list repeats itself, and LISTING_TOO_LONG.
        """
        entries = EntryReader(
            f"the tags of repository {repository} at {self.host}",
            on_invalid,
            lambda entry: field_of(entry, "name"),
            limits=TAG_LIMITS,
        )
        return self._listed(entries, f"{self._base}/{repository}/tags", _tag_name)

    def tag(self, repository: int, name: str) -> GitLabTag:
        """Return the details of one tag."""
        value = self._get(f"{self._base}/{repository}/tags/{quote(name, safe='')}").json_object()
        digest, size, created = value.get("digest"), value.get("total_size"), value.get("created_at")
        return GitLabTag(
            digest if isinstance(digest, str) else None,
            size if isinstance(size, int) else None,
            created if isinstance(created, str) else None,
        )

    def _listed(self, entries: EntryReader, path: str, parse: Callable[[Any], T]) -> Iterator[T]:
        """Yield the entries of all pages."""
        target = f"{path}?per_page={PAGE}"
        while True:
            response = self._get(target)
            page = response.json()
            if not isinstance(page, list):
                raise response.protocol_error("the response is not a list")
            yield from entries.read(page, parse, len(response.body))
            link = next_link(response.all_headers("Link"))
            if link is None:
                return
            target = entries.at(same_host_target(self._endpoint, target, link)).token

    def _get(self, target: str) -> Response:
        def send(token: str | None) -> Response:
            headers = {"Accept": "application/json"}
            if token is not None and self._kind == "oauth":
                headers["Authorization"] = f"Bearer {token}"
            elif token is not None:
                headers[_HEADERS[self._kind]] = token
            return self._http.request("GET", f"{self._endpoint.url}{target}", headers, ca=self._endpoint.ca)

        response = REJECTIONS.send(self._endpoint.host, self._token(), self._renewed, send)
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
