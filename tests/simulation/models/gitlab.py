"""GitLab's API of a project's container registry, in memory, as GitLab documents it, and its client in one process.

:class:`GitLabServer` has no tags of its own: it returns those of the registry behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final, Protocol, TypeVar

from syncline.clients.gitlab.client import PAGE, GitLab, GitLabRepository, GitLabTag
from syncline.clients.http.addresses import Endpoint
from syncline.clients.http.listings import IN_MEMORY_LIMITS, TAG_LIMITS, EntryReader, OnInvalid, refuse
from syncline.clients.registry.reference import parse_repository, parse_tag
from syncline.errors import SynclineError
from tests.simulation.network import Network

API: Final = "gitlab.example"
SIZE: Final = 350_224_384
CREATED: Final = "2026-01-06T16:49:51.272+00:00"
T = TypeVar("T")

_MADE_UP: Final = "zz-made-up-"


class TagSource(Protocol):
    """The registry behind GitLab."""

    def tags(self) -> dict[tuple[str, str], str]:
        """Return the digest of each tag by repository and tag."""
        ...


class GitLabServer:
    """A GitLab with one project. A repository keeps its ID, even while it has no tags.

    Faults: lists end after ``listing_cut`` entries as if these were all, or are empty (``empty_listing``). Lists of tags
    never end (``endless``). Tags have no digest (``digest_null``).
    """

    def __init__(self, registry: TagSource, project: str = "group/project", host: str = API) -> None:
        self.host = host
        self.project = project
        self.behave()
        self._registry = registry
        self._ids: dict[str, int] = {}

    def behave(self) -> None:
        """Turn all faults off."""
        self.listing_cut: int | None = None
        self.empty_listing = False
        self.endless = False
        self.digest_null = False

    def repositories(self, project: str, page: int) -> tuple[tuple[GitLabRepository, ...], int | None]:
        """Return a page of the project's repositories in the order of their names, and the number of the next page."""
        self._check(project)
        found = []
        for path in sorted(self._tags()):
            number = self._ids.setdefault(path, len(self._ids) + 1)
            found.append(GitLabRepository(number, path.removeprefix(self.project).lstrip("/"), path))
        return self._page(found, page)

    def tags(self, project: str, repository: int, page: int) -> tuple[tuple[str, ...], int | None]:
        """Return a page of a repository's tags in order, and the number of the next page."""
        self._check(project)
        names = sorted(self._repository(repository))
        listed, following = self._page(names, page)
        if self.endless:
            first = (page - 1) * PAGE
            listed += tuple(f"{_MADE_UP}{first + number:09}" for number in range(len(listed), PAGE))
            following = page + 1
        return listed, following

    def tag(self, project: str, repository: int, name: str) -> GitLabTag:
        self._check(project)
        digests = self._repository(repository)
        if name not in digests:
            raise SynclineError("NOT_FOUND", f"GET tag {name} of repository {repository} answered 404: Tag Not Found")
        return GitLabTag(None if self.digest_null else digests[name], SIZE, CREATED)

    def _check(self, project: str) -> None:
        if project != self.project:
            raise SynclineError("NOT_FOUND", f"GET project {project} answered 404: Project Not Found")

    def _tags(self) -> dict[str, dict[str, str]]:
        """Return the digests of the project's tags by repository."""
        found: dict[str, dict[str, str]] = {}
        for (path, tag), digest in self._registry.tags().items():
            if path == self.project or path.startswith(f"{self.project}/"):
                found.setdefault(path, {})[tag] = digest
        return found

    def _repository(self, number: int) -> dict[str, str]:
        path = next((path for path, known in self._ids.items() if known == number), None)
        found = None if path is None else self._tags().get(path)
        if found is None:
            raise SynclineError("NOT_FOUND", f"GET repository {number} answered 404: Container Repository Not Found")
        return found

    def _page(self, entries: Sequence[T], page: int) -> tuple[tuple[T, ...], int | None]:
        if self.empty_listing:
            return (), None
        if self.listing_cut is not None:
            entries = entries[: self.listing_cut]
        following = page + 1 if page * PAGE < len(entries) else None
        return tuple(entries[(page - 1) * PAGE : page * PAGE]), following


class SimGitLab(GitLab):
    """The client of one process."""

    def __init__(self, server: GitLabServer, network: Network, project: str | None = None) -> None:
        self.endpoint = Endpoint("https", server.host)
        self.project = server.project if project is None else project
        self.http = network.http
        self.server = server
        self.network = network

    def repositories(self, on_invalid: OnInvalid = refuse) -> Iterator[GitLabRepository]:
        entries = EntryReader(
            f"the repositories of {self.project} at {self.server.host}",
            on_invalid,
            lambda each: each.path,
            limits=IN_MEMORY_LIMITS,
        )
        fetch_page = partial(self.server.repositories, self.project)
        return self._pages(entries, "GET repositories", fetch_page, _usable)

    def tags(self, repository: int, on_invalid: OnInvalid = refuse) -> Iterator[str]:
        entries = EntryReader(
            f"the tags of repository {repository} at {self.server.host}", on_invalid, limits=TAG_LIMITS
        )
        return self._pages(entries, "GET tags", partial(self.server.tags, self.project, repository), parse_tag)

    def tag(self, repository: int, name: str) -> GitLabTag:
        return self.network.call(self.server.host, "GET tag", partial(self.server.tag, self.project, repository, name))

    def _pages(
        self,
        entries: EntryReader,
        name: str,
        fetch_page: Callable[[int], tuple[tuple[T, ...], int | None]],
        parse: Callable[[Any], T],
    ) -> Iterator[T]:
        page = 1
        while True:
            found, following = self.network.call(self.server.host, name, partial(fetch_page, page))
            yield from entries.read(found, parse)
            if following is None:
                return
            entries.at(str(following))
            page = following


def _usable(entry: GitLabRepository) -> GitLabRepository:
    parse_repository(entry.path)
    return entry
