"""A client for Quay's API: the repositories of a namespace, and the tags of a repository with their digests.

The API returns 100 tags with their digests in one response, which the registry protocol cannot. It requires an OAuth
token; robot accounts and passwords work for the registry only.

- Repositories are listed 100 per page, by age. ``next_page`` is opaque, never repeated, and absent at the end.
- With anonymous access enabled, Quay treats an unknown token as no token and answers 200 with an empty list.
  It treats an unreadable ``next_page`` (they expire after two days) as absent and returns page one again.
- Tags are listed by page number, newest first. A push or deletion between two pages shifts the rest.

So each page must have new entries, and an empty listing counts only if Quay accepts the token.
Invalid entries are passed to ``on_invalid`` (:mod:`syncline.clients.http.listings`).
https://docs.quay.io/api/ and https://github.com/quay/quay/tree/master/endpoints/api (repository.py, tag.py)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final
from urllib.parse import quote, urlencode

from syncline.clients.http.addresses import Endpoint
from syncline.clients.http.client import Http, Response
from syncline.clients.http.listings import (
    LISTING_START,
    REPOSITORY_LIMITS,
    TAG_LIMITS,
    EntryReader,
    ListingPage,
    ListingPosition,
    OnInvalid,
    field_of,
    mapping,
    non_negative,
    optional,
    refuse,
    text,
)
from syncline.clients.http.rejections import REJECTIONS
from syncline.clients.registry.reference import parse_digest, parse_repository, parse_tag
from syncline.errors import SynclineError

PAGE: Final = 100  # Quay's maximum
_LATEST: Final = 2**40  # in Unix seconds


@dataclass(frozen=True, slots=True)
class QuayRepository:
    """A repository by its full name, ``namespace/name``.

    ``state`` is ``NORMAL``, ``READ_ONLY``, ``MIRROR`` or ``ORG_MIRROR``.
    """

    name: str
    state: str


@dataclass(frozen=True, slots=True)
class QuayTag:
    """The manifest that a tag points to. ``size`` is that of the layers in bytes, None if unknown, as for an index.

    ``changed`` is the time in Unix seconds since which it does, None if unknown.
    """

    digest: str
    size: int | None
    is_list: bool
    changed: int | None = field(default=None, compare=False)


class Quay:
    """The API of one Quay. ``token`` is called for each request (None is anonymous), ``renewed`` after a refusal.

    All methods also raise the errors of :class:`Http`, UNAUTHORIZED, FORBIDDEN, NOT_FOUND and REFUSED by status, and
    BAD_ANSWER for a response that does not have the API's form.
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

    def repositories(self, namespace: str, on_invalid: OnInvalid = refuse) -> Iterator[QuayRepository]:
        """Yield all repositories of a namespace visible to the token; see :meth:`repository_pages`."""
        return (each for page in self.repository_pages(namespace, on_invalid) for each in page.entries)

    def repository_pages(
        self, namespace: str, on_invalid: OnInvalid = refuse, start: ListingPosition | None = None
    ) -> Iterator[ListingPage[list[QuayRepository]]]:
        """Yield the pages of a namespace's repositories, from ``start`` on; without a token, of the public ones.

        Sends one request per 100 repositories. Raises LISTING_TOO_LONG, LISTING_INCOMPLETE if the list repeats itself,
        an announced page is empty or, without ``start``, the list changes between two pages, and UNAUTHORIZED if Quay
        rejects the token. An empty list can also mean that the namespace is misspelt, or that the token's owner is no
        member of it: Quay does not distinguish these.
        """
        query = {"namespace": namespace}
        if self._token() is None:
            query["public"] = "true"  # not with a token: with an invalid one, the public part would seem complete
        listing = f"the repositories of {namespace!r} at {self._endpoint.host}"
        start, strict = start or LISTING_START, start is None

        name_of = partial(_full_name, namespace=namespace)
        entries = EntryReader(listing, on_invalid, name_of, limits=REPOSITORY_LIMITS, start=start, strict=strict)
        page, empty = start.token or None, not start.entries
        while True:
            response = self._page(query if page is None else {**query, "next_page": page})
            answer = response.json_object()
            values = _list(response, answer, "repositories")
            next_page = answer.get("next_page")
            if not isinstance(next_page, str | None):
                raise response.protocol_error("`next_page` is not text")
            _check_page(listing, values, may_be_empty=page is None and next_page is None)
            listed = list(entries.read(values, lambda value: _repository(value, namespace), len(response.body)))
            empty = empty and not values
            if next_page is None:
                yield ListingPage(listed, None)
                break
            yield ListingPage(listed, entries.at(next_page))
            page = next_page
        if empty:
            self._check_token(namespace)

    def tags(self, repository: str, on_invalid: OnInvalid = refuse) -> dict[str, QuayTag]:
        """Return the active tags of ``namespace/name``; see :meth:`tag_pages`."""
        return {name: tag for page in self.tag_pages(repository, on_invalid) for name, tag in page.entries.items()}

    def tag_pages(
        self, repository: str, on_invalid: OnInvalid = refuse, start: ListingPosition | None = None
    ) -> Iterator[ListingPage[dict[str, QuayTag]]]:
        """Yield the pages of the active tags of ``namespace/name``, from ``start`` on, with one request per 100 tags.

        Raises LISTING_TOO_LONG, LISTING_INCOMPLETE if the list repeats itself, an announced page is empty or, without
        ``start``, the list changes between two pages, and NOT_FOUND if the repository does not exist (FORBIDDEN if the
        token's owner is no member of the namespace).
        """
        listing = f"the tags of {repository!r} at {self._endpoint.host}"
        start, strict = start or LISTING_START, start is None
        entries = EntryReader(
            listing, on_invalid, lambda entry: field_of(entry, "name"), limits=TAG_LIMITS, start=start, strict=strict
        )
        page = int(start.token or 1)
        while True:
            response = self._get(f"repository/{quote(repository)}/tag/?limit={PAGE}&page={page}&onlyActiveTags=true")
            answer = response.json_object()
            values = _list(response, answer, "tags")
            more = answer.get("has_additional")
            if not isinstance(more, bool):
                raise response.protocol_error("`has_additional` is not true or false")
            _check_page(listing, values, may_be_empty=page == 1 and not more)
            tags = dict(entries.read(values, _tag, len(response.body)))
            page += 1
            yield ListingPage(tags, entries.at(str(page)) if more else None)
            if not more:
                return

    def delete_tag(self, repository: str, tag: str) -> None:
        """Delete a tag of ``namespace/name`` and nothing else; an absent one is deleted. Needs the scope ``repo:write``."""
        response = self._send("DELETE", f"repository/{quote(repository)}/tag/{quote(tag)}")
        if response.status not in (204, 404):
            raise response.error()

    def _page(self, query: dict[str, str]) -> Response:
        """Return a page of a namespace's repositories. An unknown namespace is listed empty, so 404 means no API."""
        try:
            return self._get(f"repository?{urlencode(query)}")
        except SynclineError as error:
            if error.code.name != "NOT_FOUND":
                raise
            what = f"{error.what}; there is no Quay API at {self._endpoint.url}: correct `api.url` or `registry`"
            raise SynclineError("NOT_FOUND", what) from None

    def _get(self, target: str) -> Response:
        response = self._send("GET", target)
        if response.status != 200:
            raise response.error()
        return response

    def _send(self, method: str, target: str) -> Response:
        def send(token: str | None) -> Response:
            headers = {"Accept": "application/json"}
            if token is not None:
                headers["Authorization"] = f"Bearer {token}"
            return self._http.request(
                method, f"{self._endpoint.url}/api/v1/{target}", headers, route=self._endpoint.route
            )

        return REJECTIONS.send(self._endpoint.host, self._token(), self._renewed, send)

    def _check_token(self, namespace: str) -> None:
        """Raise UNAUTHORIZED if Quay rejects the token. Called after an empty listing.

        The list of starred repositories needs no permission and is answered 400 without a user.
        """
        if self._token() is None:
            return
        try:
            self._get("repository?starred=true")
        except SynclineError as error:
            if not error.is_any("REFUSED", "UNAUTHORIZED", "FORBIDDEN"):
                raise
            what = f"{self._endpoint.host} rejects the API token, so it lists nothing of {namespace!r}"
            raise SynclineError("UNAUTHORIZED", what) from None


def _check_page(listing: str, values: list[Any], *, may_be_empty: bool) -> None:
    """Raise LISTING_INCOMPLETE for an announced page without entries."""
    if not values and not may_be_empty:
        raise SynclineError("LISTING_INCOMPLETE", f"{listing}: a page that the previous one announced is empty")


def _full_name(entry: Any, namespace: str) -> str | None:
    """Return the full name of a repository of the namespace, None for any other entry."""
    name = field_of(entry, "name")
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
    size = None if value.get("size") is None else non_negative(value["size"], "`size`")
    is_list = optional(value.get("is_manifest_list"), bool, "`is_manifest_list`")
    # It only measures a lag: a tag with an odd time is copied like one without.
    start = value.get("start_ts")
    changed = start if isinstance(start, int) and 0 < start < _LATEST else None
    return parse_tag(name), QuayTag(parse_digest(digest), size, bool(is_list), changed)


def _list(response: Response, answer: dict[str, Any], name: str) -> list[Any]:
    value = answer.get(name)
    if not isinstance(value, list):
        raise response.protocol_error(f"`{name}` is not a list")
    return value
