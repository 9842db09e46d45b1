"""GitLab's API for its container registry: the repositories of a project, and their tags.

- ``GET /projects/:id/registry/repositories`` and ``.../repositories/:id/tags`` come 100 a page; ``Link: rel="next"``
  leads on, and counts (``X-Total``) are left out of long lists. Tags are listed without digests.
- ``GET .../tags/:name`` has digest, size and age of one tag.
- Personal, project and group tokens come in ``PRIVATE-TOKEN``, a job's in ``JOB-TOKEN``. Deploy tokens are good for the
  registry itself only: with them, tags are asked of the registry.

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
from syncline.clients.http.listings import FEW, TAGS, Entries, OnOdd, described, mapping, refuse, text, whole
from syncline.clients.http.rejections import REJECTIONS
from syncline.clients.registry.reference import parse_repository, parse_tag
from syncline.clients.registry.transport import next_link, own_target
from syncline.errors import SynclineError

PAGE: Final = 100  # the most that GitLab gives at once
T = TypeVar("T")
TokenKind = Literal["personal", "job", "oauth"]
_HEADERS: Final[dict[str, str]] = {"personal": "PRIVATE-TOKEN", "job": "JOB-TOKEN"}


@dataclass(frozen=True, slots=True)
class RegistryRepository:
    """``path`` is the repository's whole name at the registry; ``name`` what follows the project's own path."""

    id: int
    name: str
    path: str


@dataclass(frozen=True, slots=True)
class TagDetails:
    """``size`` is that of the layers in bytes; None, as the others, where GitLab does not say."""

    digest: str | None
    size: int | None
    created: str | None


class GitLab:
    """The API of one GitLab, for one project (its path or number); safe to use from any number of threads.

    ``token`` is called for each request, ``renewed`` after a refusal. All methods raise what :class:`Http` raises,
    THROTTLED, UNAUTHORIZED, FORBIDDEN, NOT_FOUND and REFUSED by the answer's status, and BAD_ANSWER.
    """

    def __init__(  # noqa: PLR0913 - each is a fact of the place
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

    def repositories(self, odd: OnOdd = refuse) -> Iterator[RegistryRepository]:
        """Yield every repository of the project; one request for 100.

        Raises LISTING_INCOMPLETE if the list repeats itself, and LISTING_TOO_LONG.
        """
        listing = f"the repositories of {self._project} at {self.host}"
        entries = Entries(listing, odd, lambda entry: _of(entry, "path"), limits=FEW)
        return self._listed(entries, self._base, _repository)

    def tags(self, repository: int, odd: OnOdd = refuse) -> Iterator[str]:
        """Yield the names of all tags of a repository, by its number; one request for 100.

        Raises LISTING_INCOMPLETE if the list repeats itself, and LISTING_TOO_LONG.
        """
        entries = Entries(
            f"the tags of repository {repository} at {self.host}", odd, lambda entry: _of(entry, "name"), limits=TAGS
        )
        return self._listed(entries, f"{self._base}/{repository}/tags", _tag_name)

    def tag(self, repository: int, name: str) -> TagDetails:
        """What GitLab knows of one tag."""
        response = self._get(f"{self._base}/{repository}/tags/{quote(name, safe='')}")
        value = response.json()
        if not isinstance(value, dict):
            raise response.bad("a tag is no object")
        digest, size, created = value.get("digest"), value.get("total_size"), value.get("created_at")
        return TagDetails(
            digest if isinstance(digest, str) else None,
            size if isinstance(size, int) else None,
            created if isinstance(created, str) else None,
        )

    def _listed(self, entries: Entries, path: str, parse: Callable[[Any], T]) -> Iterator[T]:
        """Yield the entries of all pages."""
        target = f"{path}?per_page={PAGE}"
        while True:
            response = self._get(target)
            page = response.json()
            if not isinstance(page, list):
                raise response.bad("it is no list")
            yield from entries.read(page, parse, len(response.body))
            link = next_link(response.all_headers("Link"))
            if link is None:
                return
            target = entries.at(own_target(self._endpoint, target, link)).token

    def _get(self, target: str) -> Response:
        def send(token: str | None) -> Response:
            headers = {"Accept": "application/json"}
            if token is not None and self._kind == "oauth":
                headers["Authorization"] = f"Bearer {token}"
            elif token is not None:
                headers[_HEADERS[self._kind]] = token
            return self._http.request("GET", f"{self._endpoint.url}{target}", headers, ca=self._endpoint.ca)

        response = REJECTIONS.ask(self._endpoint.host, self._token(), self._renewed, send)
        if response.status == 403 and (pause := retry_after(response.headers)) is not None:
            raise SynclineError("THROTTLED", response.error().what, retry_after=pause)
        if response.status != 200:
            raise response.error()
        return response


def _tag_name(entry: Any) -> str:
    return parse_tag(text(mapping(entry).get("name"), "`name`"))


def _of(entry: Any, field: str) -> Any:
    return entry.get(field) if isinstance(entry, dict) else None


def _repository(entry: Any) -> RegistryRepository:
    value = mapping(entry)
    name = value.get("name")  # empty for the repository that is named like the project
    if not isinstance(name, str):
        raise ValueError(f"its `name` is {described(name)}, not text")  # noqa: TRY004 - as every odd entry
    path = parse_repository(text(value.get("path"), "`path`"))
    return RegistryRepository(whole(value.get("id"), "`id`"), name, path)
