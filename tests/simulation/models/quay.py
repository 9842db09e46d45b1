"""Quay's API in memory, in front of a registry, and its client in one process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, Literal, TypeVar

from syncline.clients.http.listings import (
    LISTING_START,
    REPOSITORY_LIMITS,
    TAG_LIMITS,
    EntryReader,
    ListingPage,
    ListingPosition,
    OnInvalid,
    refuse,
)
from syncline.clients.registry.quay import Quay, QuayRepository, QuayTag
from syncline.clients.registry.reference import parse_digest, parse_repository, parse_tag
from syncline.errors import CodeName, SynclineError
from tests.simulation.models.registry_server import RegistryServer, Repository
from tests.simulation.network import Network

TOKEN: Final = "quay-api-token"
State = Literal["NORMAL", "READ_ONLY", "MIRROR", "ORG_MIRROR"]
T = TypeVar("T")


class QuayServer:
    """The API of a Quay. It lists the content of its registry. The namespace is the first part of a repository's name.

    ``members`` are the namespaces that ``token`` may read, None for all. Other tokens, and clients without one, may read
    the repositories in ``public``.
    """

    def __init__(self, registry: RegistryServer, token: str = TOKEN) -> None:
        self.registry = registry
        self.host = registry.host
        self.token = token
        self.members: set[str] | None = None
        self.public: set[str] = set()
        self.page_size = 3
        self._states: dict[str, State] = {}
        self._pages: dict[str, int] = {}  # by next_page: the number of repositories before it
        self._pages_issued = 0
        self.behave()

    def behave(self) -> None:
        """Turn all faults off."""
        self.empty_listing = False  # lists of repositories and of tags are empty
        self.listing_cut: int | None = None  # a list of tags ends after so many, as if these were all
        self.repeats_page = False  # every next_page is stale, for which Quay returns page one

    def set_state(self, repository: str, state: State) -> None:
        """Set the state of a repository, which is created if absent. It accepts pushes only in state NORMAL."""
        self.registry.repositories.setdefault(repository, Repository())
        self._states[repository] = state
        if state == "NORMAL":
            self.registry.read_only.discard(repository)
        else:
            self.registry.read_only.add(repository)

    def expire_pages(self) -> None:
        """Make every ``next_page`` that was issued stale."""
        self._pages.clear()

    def knows(self, token: str | None) -> bool:
        return token == self.token

    def repositories_page(
        self, token: str | None, namespace: str, page: str | None
    ) -> tuple[list[QuayRepository], str | None]:
        """Return a page of a namespace's repositories, oldest first, and its ``next_page``."""
        if self.empty_listing:
            return [], None
        found = [
            QuayRepository(name, self._states.get(name, "NORMAL"))
            for name in self.registry.repositories
            if name.startswith(f"{namespace}/") and self._may_list(token, name)
        ]
        start = 0 if page is None or self.repeats_page else self._pages.get(page, 0)
        end = start + self.page_size
        if end >= len(found):
            return found[start:], None
        self._pages_issued += 1
        following = f"page-{self._pages_issued:06d}"
        self._pages[following] = end
        return found[start:end], following

    def tags_page(self, token: str | None, repository: str, page: int) -> tuple[list[tuple[str, QuayTag]], bool]:
        """Return a page of a repository's tags, newest first, and True if there are more."""
        self._check_readable(token, repository)
        found = self.registry.repositories.get(repository)
        if found is None:
            raise SynclineError("NOT_FOUND", f"{self.host} answered 404: no repository {repository}")
        names = sorted(found.tags, key=lambda name: -found.order[name])[: self.listing_cut]
        if self.empty_listing:
            names = []
        start = (page - 1) * self.page_size
        shown = [(name, _tag(found, found.tags[name])) for name in names[start : start + self.page_size]]
        return shown, len(names) > start + self.page_size

    def _is_member(self, token: str | None, repository: str) -> bool:
        return self.knows(token) and (self.members is None or repository.partition("/")[0] in self.members)

    def _may_list(self, token: str | None, repository: str) -> bool:
        """Return True if a list contains the repository. The client asks for public ones only if it has no token."""
        return self._is_member(token, repository) or (token is None and repository in self.public)

    def _check_readable(self, token: str | None, repository: str) -> None:
        if not self._is_member(token, repository) and repository not in self.public:
            code: CodeName = "FORBIDDEN" if self.knows(token) else "UNAUTHORIZED"
            raise SynclineError(code, f"{self.host} does not let this token read {repository}")


def _tag(repository: Repository, digest: str) -> QuayTag:
    stored = repository.manifests.get(digest)
    return QuayTag(digest, stored.size if stored else None, bool(stored and stored.is_index))


class SimQuay(Quay):
    """The client of one process. ``repositories`` and ``tags`` are the real client's."""

    def __init__(self, server: QuayServer, network: Network, token: Callable[[], str | None] = lambda: TOKEN) -> None:
        self.server = server
        self.network = network
        self._token = token

    def repository_pages(
        self, namespace: str, on_invalid: OnInvalid = refuse, start: ListingPosition | None = None
    ) -> Iterator[ListingPage[list[QuayRepository]]]:
        listing = f"the repositories of {namespace!r} at {self.server.host}"
        start, strict = start or LISTING_START, start is None
        entries = EntryReader(
            listing, on_invalid, lambda each: each.name, limits=REPOSITORY_LIMITS, start=start, strict=strict
        )
        page, empty = start.token or None, not start.entries
        while True:
            listed, following = self._list_repositories(namespace, page)
            _check_page(listing, listed, may_be_empty=page is None and following is None)
            fresh = list(entries.read(listed, _repository))
            empty = empty and not listed
            yield ListingPage(fresh, None if following is None else entries.at(following))
            if following is None:
                break
            page = following
        if empty:
            self._check_token(namespace)

    def tag_pages(
        self, repository: str, on_invalid: OnInvalid = refuse, start: ListingPosition | None = None
    ) -> Iterator[ListingPage[dict[str, QuayTag]]]:
        listing = f"the tags of {repository!r} at {self.server.host}"
        start, strict = start or LISTING_START, start is None
        entries = EntryReader(listing, on_invalid, lambda each: each[0], limits=TAG_LIMITS, start=start, strict=strict)
        page = int(start.token or 1)
        while True:
            listed, more = self._list_tags(repository, page)
            _check_page(listing, listed, may_be_empty=page == 1 and not more)
            tags = dict(entries.read(listed, _named_tag))
            page += 1
            yield ListingPage(tags, entries.at(str(page)) if more else None)
            if not more:
                return

    def _list_repositories(self, namespace: str, page: str | None) -> tuple[list[QuayRepository], str | None]:
        token = self._token()
        return self._call("GET repositories", lambda: self.server.repositories_page(token, namespace, page))

    def _list_tags(self, repository: str, page: int) -> tuple[list[tuple[str, QuayTag]], bool]:
        token = self._token()
        return self._call("GET quay tags", lambda: self.server.tags_page(token, repository, page))

    def _check_token(self, namespace: str) -> None:
        token = self._token()
        if token is not None and not self._call("GET starred", lambda: self.server.knows(token)):
            what = f"{self.server.host} rejects the API token, so it lists nothing of {namespace!r}"
            raise SynclineError("UNAUTHORIZED", what)

    def _call(self, name: str, function: Callable[[], T]) -> T:
        return self.network.call(self.server.host, name, function)


def _check_page(listing: str, values: list[T], *, may_be_empty: bool) -> None:
    if not values and not may_be_empty:
        raise SynclineError("LISTING_INCOMPLETE", f"{listing}: a page that the previous one announced is empty")


def _repository(value: QuayRepository) -> QuayRepository:
    parse_repository(value.name)
    return value


def _named_tag(value: tuple[str, QuayTag]) -> tuple[str, QuayTag]:
    parse_tag(value[0])
    parse_digest(value[1].digest)
    return value
