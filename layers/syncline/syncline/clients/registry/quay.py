"""Quay's API: the repositories of a namespace, and the tags of a repository with their digests.

A listing is used instead of asking the registry because 100 tags come with their digests in one answer. The API
wants an OAuth token; robots and passwords are for the registry alone.

- Repositories come 100 at a time, by age. ``next_page`` is opaque, never the same twice and absent at the end.
- Quay takes a token it does not know for no token, where anonymous access is on: the list is then empty, with 200.
  It takes a ``next_page`` it cannot read (it lives two days) for none: page one comes again.
- Tags come by page number, youngest first. A push or a deletion between two pages shifts the rest.

So a listing is believed only if each page brings something new, and an empty one only if Quay knows the token.
An entry that cannot be used is handed to ``odd`` (:mod:`syncline.clients.http.listings`).
https://docs.quay.io/api/ and https://github.com/quay/quay/tree/master/endpoints/api (repository.py, tag.py)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, urlencode

from syncline.clients.http.addresses import Endpoint
from syncline.clients.http.client import Http, Response
from syncline.clients.http.listings import (
    BEGINNING,
    REPOSITORIES,
    TAGS,
    Entries,
    OnOdd,
    Position,
    mapping,
    optional,
    refuse,
    text,
    whole,
)
from syncline.clients.http.rejections import REJECTIONS
from syncline.clients.registry.reference import parse_digest, parse_repository, parse_tag
from syncline.errors import SynclineError

PAGE: Final = 100  # the most that Quay gives at once


@dataclass(frozen=True, slots=True)
class QuayRepository:
    """A repository by its whole name, ``namespace/name``.

    ``state`` is ``NORMAL``, ``READ_ONLY``, ``MIRROR`` or ``ORG_MIRROR``.
    """

    name: str
    state: str

    @property
    def takes_pushes(self) -> bool:
        """Whether clients may push to it."""
        return self.state == "NORMAL"


@dataclass(frozen=True, slots=True)
class QuayTag:
    """What a tag points at. ``size`` is that of the layers in bytes, None where Quay keeps none (as for an index)."""

    digest: str
    size: int | None
    is_list: bool


@dataclass(frozen=True, slots=True)
class RepositoriesPage:
    """A page of a namespace's repositories, and the position of the next page, None at the end."""

    repositories: list[QuayRepository]
    following: Position | None


@dataclass(frozen=True, slots=True)
class TagsPage:
    """A page of a repository's tags by name, and the position of the next page, None at the end."""

    tags: dict[str, QuayTag]
    following: Position | None


class Quay:
    """The API of one Quay. ``token`` is called for each request; None is anonymous. ``renewed`` is called after a refusal.

    Beside what is said below, all methods raise what :class:`Http` raises, UNAUTHORIZED, FORBIDDEN, NOT_FOUND and
    REFUSED by the answer's status, and BAD_ANSWER for an answer that is not of the API's form.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        token: Callable[[], str | None],
        http: Http,
        renewed: Callable[[], str | None] | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._token = token
        self._renewed = renewed or token
        self._http = http

    def repositories(self, namespace: str, odd: OnOdd = refuse) -> Iterator[QuayRepository]:
        """Yield all repositories of a namespace that the token may see; see :meth:`repository_pages`."""
        return (each for page in self.repository_pages(namespace, odd) for each in page.repositories)

    def repository_pages(
        self, namespace: str, odd: OnOdd = refuse, start: Position | None = None
    ) -> Iterator[RepositoriesPage]:
        """Yield the pages of a namespace's repositories, from ``start`` on; without a token, of the public ones.

        One request for 100. Raises LISTING_TOO_LONG, LISTING_INCOMPLETE if the list repeats itself or an announced page
        is empty, and UNAUTHORIZED if Quay does not know the token. Without ``start``, LISTING_INCOMPLETE is raised also if
        the list changes between two pages. No repository at all can mean that the namespace is
        empty, is misspelt, or that the token's owner is no member of it: the caller has to know which of them can be.
        """
        query = {"namespace": namespace}
        if self._token() is None:
            query["public"] = "true"  # never with a token: if that is a bad one, a part would look like the whole
        listing = f"the repositories of {namespace!r} at {self._endpoint.host}"
        start, strict = start or BEGINNING, start is None

        def name_of(entry: Any) -> str | None:
            return _whole_name(entry, namespace)

        entries = Entries(listing, odd, name_of, limits=REPOSITORIES, start=start, strict=strict)
        page, empty = start.token or None, not start.entries
        while True:
            response = self._page(query if page is None else {**query, "next_page": page})
            answer = _dict(response, response.json())
            values = _list(response, answer, "repositories")
            following = answer.get("next_page")
            if not isinstance(following, str | None):
                raise response.bad("`next_page` is not text")
            _check_page(listing, values, may_be_empty=page is None and following is None)
            listed = list(entries.read(values, lambda value: _repository(value, namespace), len(response.body)))
            empty = empty and not values
            if following is None:
                yield RepositoriesPage(listed, None)
                break
            yield RepositoriesPage(listed, entries.at(following))
            page = following
        if empty:
            self._check_token(namespace)

    def tags(self, repository: str, odd: OnOdd = refuse) -> dict[str, QuayTag]:
        """Return the tags of ``namespace/name`` that are alive; see :meth:`tag_pages`."""
        return {name: tag for page in self.tag_pages(repository, odd) for name, tag in page.tags.items()}

    def tag_pages(self, repository: str, odd: OnOdd = refuse, start: Position | None = None) -> Iterator[TagsPage]:
        """Yield the pages of the tags of ``namespace/name`` that are alive, from ``start`` on. One request for 100.

        Raises LISTING_TOO_LONG, LISTING_INCOMPLETE if the list repeats itself or an announced page is empty or, without
        ``start``, the list changes between two pages, and NOT_FOUND if there is no such repository, which Quay says only to members of the namespace (others: FORBIDDEN).
        """
        listing = f"the tags of {repository!r} at {self._endpoint.host}"
        start, strict = start or BEGINNING, start is None
        entries = Entries(listing, odd, _own_name, limits=TAGS, start=start, strict=strict)
        page = int(start.token or 1)
        while True:
            response = self._get(f"repository/{quote(repository)}/tag/?limit={PAGE}&page={page}&onlyActiveTags=true")
            answer = _dict(response, response.json())
            values = _list(response, answer, "tags")
            more = answer.get("has_additional")
            if not isinstance(more, bool):
                raise response.bad("`has_additional` is not true or false")
            _check_page(listing, values, may_be_empty=page == 1 and not more)
            tags = dict(entries.read(values, _tag, len(response.body)))
            page += 1
            yield TagsPage(tags, entries.at(str(page)) if more else None)
            if not more:
                return

    def _page(self, query: dict[str, str]) -> Response:
        """A page of a namespace's repositories. A namespace that is not there is listed empty, so 404 means no API."""
        try:
            return self._get(f"repository?{urlencode(query)}")
        except SynclineError as error:
            if error.code.name != "NOT_FOUND":
                raise
            what = f"{error.what}; Quay's API is not at {self._endpoint.url}: correct `api.url` or `registry`"
            raise SynclineError("NOT_FOUND", what) from None

    def _get(self, target: str) -> Response:
        def send(token: str | None) -> Response:
            headers = {"Accept": "application/json"}
            if token is not None:
                headers["Authorization"] = f"Bearer {token}"
            return self._http.request("GET", f"{self._endpoint.url}/api/v1/{target}", headers, ca=self._endpoint.ca)

        response = REJECTIONS.ask(self._endpoint.host, self._token(), self._renewed, send)
        if response.status != 200:
            raise response.error()
        return response

    def _check_token(self, namespace: str) -> None:
        """UNAUTHORIZED if Quay does not know the token; asked only about an empty listing.

        The listing of the caller's stars is answered 400 where there is no caller, and needs no right otherwise.
        """
        if self._token() is None:
            return
        try:
            self._get("repository?starred=true")
        except SynclineError as error:
            if not error.is_any("REFUSED", "UNAUTHORIZED", "FORBIDDEN"):
                raise
            what = f"{self._endpoint.host} does not know the API token, and so lists nothing of {namespace!r}"
            raise SynclineError("UNAUTHORIZED", what) from None


def _check_page(listing: str, values: list[Any], *, may_be_empty: bool) -> None:
    """Raise LISTING_INCOMPLETE if a page brings nothing although it was announced."""
    if not values and not may_be_empty:
        raise SynclineError("LISTING_INCOMPLETE", f"{listing}: an announced page was empty")


def _own_name(entry: Any) -> Any:
    return entry.get("name") if isinstance(entry, dict) else None


def _whole_name(entry: Any, namespace: str) -> str | None:
    """Return the name of an entry that is a repository of the namespace, as far as it says so."""
    name = _own_name(entry)
    ours = isinstance(name, str) and bool(name) and entry.get("namespace") == namespace
    return f"{namespace}/{name}" if ours else None


def _repository(entry: Any, namespace: str) -> QuayRepository:
    value = mapping(entry)
    name, state = text(value.get("name"), "`name`"), optional(value.get("state"), str, "`state`")
    if text(value.get("namespace"), "`namespace`") != namespace:
        raise ValueError(f"it is not a repository of {namespace!r}")
    return QuayRepository(parse_repository(f"{namespace}/{name}"), state or "NORMAL")


def _tag(entry: Any) -> tuple[str, QuayTag]:
    value = mapping(entry)
    name, digest = text(value.get("name"), "`name`"), text(value.get("manifest_digest"), "`manifest_digest`")
    size = None if value.get("size") is None else whole(value["size"], "`size`")
    is_list = optional(value.get("is_manifest_list"), bool, "`is_manifest_list`")
    return parse_tag(name), QuayTag(parse_digest(digest), size, bool(is_list))


def _dict(response: Response, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise response.bad("something that should be an object is not")
    return value


def _list(response: Response, answer: dict[str, Any], name: str) -> list[Any]:
    value = answer.get(name)
    if not isinstance(value, list):
        raise response.bad(f"`{name}` is not a list")
    return value
