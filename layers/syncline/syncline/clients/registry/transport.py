"""Requests to one registry: authorization, redirects, and the ``Location`` and ``Link`` headers of its responses."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, Final, TypeVar

from syncline.clients.http.addresses import Address, Endpoint, host_name
from syncline.clients.http.client import READ_TIMEOUT, Http, Response
from syncline.clients.http.failures import REDIRECTS, error_codes
from syncline.clients.http.limits import Body
from syncline.clients.http.listings import EntryReader, field_of
from syncline.clients.http.rejections import REJECTIONS, KeptRefusalError
from syncline.clients.registry.auth import RegistryAuth, RegistryCredentials, Scopes
from syncline.clients.registry.reference import parse_repository
from syncline.errors import SynclineError

T = TypeVar("T")

MAX_REDIRECTS: Final = 5
SMALL_CHUNK: Final = 4 * 1024 * 1024
"""Bytes of a chunk for registries that refuse large ones."""
LARGEST_CHUNKS: Final = {"ghcr.io": SMALL_CHUNK}

_LINK: Final = re.compile(r"<([^<>]*)>((?:\s*;\s*[\w!#$&+.^`|~*-]+(?:\s*=\s*(?:\"(?:[^\"\\]|\\.)*\"|[^\s;,\"]+))?)*)")
_RELATION: Final = re.compile(r";\s*rel\s*=\s*(?:\"([^\"]*)\"|([^\s;,\"]+))", re.IGNORECASE)


def next_link(values: Iterable[str]) -> str | None:
    """Return the target of the ``rel="next"`` link in ``Link`` headers (RFC 8288), None if there is none."""
    for value in values:
        for target, parameters in _LINK.findall(value):
            relation = _RELATION.search(parameters)
            if relation is not None and "next" in (relation[1] or relation[2] or "").lower().split():
                return str(target)
    return None


def read_linked_pages(  # noqa: PLR0913, PLR0917 - the parts of a listing
    endpoint: Endpoint,
    target: str,
    get: Callable[[str], Response],
    entries: EntryReader,
    parse: Callable[[Any], T],
    key: str | None = None,
) -> Iterator[T]:
    """Yield the entries of all pages, which ``Link`` headers connect. A page is a JSON list, or has it under ``key``."""
    while True:
        response = get(target)
        page = response.json() if key is None else field_of(response.json(), key)
        if not isinstance(page, list):
            what = "the response is not a list" if key is None else f"the response has no list of {key}"
            raise response.protocol_error(what)
        yield from entries.read(page, parse, len(response.body))
        link = next_link(response.all_headers("Link"))
        if link is None:
            return
        target = entries.at(same_host_target(endpoint, target, link)).token


def same_host_target(endpoint: Endpoint, base: str, location: str) -> str:
    """Return path and query of a registry's ``Location`` or ``Link``, which is relative or absolute.

    A registry behind a proxy often knows neither its public scheme nor its port, so the configured ones are used.
    Raises REDIRECTED for another host: tokens and content must not go to a host that is not configured.
    """
    address = Address.parse_at(f"{endpoint.url}{base}", location)
    if address is None:
        raise SynclineError(
            "BAD_ANSWER", f"{endpoint.host} sent a Location or Link to an invalid URL: {location[:80]!r}"
        )
    if address.name != host_name(endpoint.host).lower():
        raise SynclineError(
            "REDIRECTED",
            f"{endpoint.host} sent a Location or Link to {address.host}; set the public URL in the configuration of the "
            f"registry, or use {address.host} in syncs.yaml",
        )
    return address.target or "/"


def next_page_target(endpoint: Endpoint, base: str, link: str) -> str:
    """Return path and query of the next page of a list: the path of this page, and the query of the ``Link``.

    Artifactory omits the name of a virtual repository in the path of a link, and Nexus adds the path of its own port.
    Raises as :func:`same_host_target`.
    """
    query = same_host_target(endpoint, base, link).partition("?")[2]
    path = base.partition("?")[0]
    return f"{path}?{query}" if query else path


def redirect_target(answer: Response, host: str) -> Address:
    """Return the URL that a redirect of ``host`` leads to. Raises REDIRECTED if it drops TLS, BAD_ANSWER if invalid."""
    target = Address.parse_at(answer.url, answer.header("Location"))
    if target is None:
        raise answer.protocol_error("it redirects to an invalid URL")
    if answer.url.startswith("https:") and target.scheme != "https":
        raise SynclineError("REDIRECTED", f"{host} redirects to {target.host} without TLS")
    return target


def pull_scopes(repository: str) -> Scopes:
    """Return the scopes for reading a repository. Raises REFERENCE_INVALID for an invalid name."""
    return (f"repository:{parse_repository(repository)}:pull",)


def push_scopes(repository: str) -> Scopes:
    """Return the scopes for writing to a repository. Raises REFERENCE_INVALID."""
    return (f"repository:{parse_repository(repository)}:pull,push",)


def delete_scopes(repository: str) -> Scopes:
    """Return the scopes for deleting from a repository. Raises REFERENCE_INVALID."""
    return (f"repository:{parse_repository(repository)}:pull,push,delete",)


class RegistryTransport:
    """Sends authorized requests to one registry. Safe for concurrent use by threads."""

    def __init__(
        self,
        endpoint: Endpoint,
        credentials: Callable[[], RegistryCredentials | None],
        http: Http,
        renewed: Callable[[], RegistryCredentials | None] | None = None,
        create: Callable[[str], None] | None = None,
    ) -> None:
        self.endpoint = endpoint
        self._create = create
        self.http = http
        self._auth = RegistryAuth(endpoint, credentials, http, renewed=renewed)
        self.largest_chunk = LARGEST_CHUNKS.get(host_name(endpoint.host).lower())
        """The largest body of a PATCH in bytes that the registry accepts, None if no limit is known."""

    def create_if_absent(self, repository: str, answer: Response) -> bool:
        """Create the repository of a push that was answered with its absence; return False if that is not the reason."""
        if self._create is None or answer.status != 404 or "NAME_UNKNOWN" not in error_codes(answer.body):
            return False
        self._create(repository)
        return True

    def send(  # noqa: PLR0913 - the parts of a request
        self,
        method: str,
        target: str,
        scopes: Scopes,
        headers: Mapping[str, str] | None = None,
        body: Body = None,
        *,
        stream: bool = False,
        timeout: float = READ_TIMEOUT,
        repeatable: bool | None = None,
    ) -> Response:
        """Send a request for ``target`` (path and query). Raises UNAUTHORIZED or FORBIDDEN for a final 401.

        A streamed body cannot be sent again: then a 401 renews the token and is returned.
        """
        url = f"{self.endpoint.url}{target}"
        replayable = body is None or isinstance(body, bytes)
        for tries_left in (2, 1, 0):  # one to get the challenge, one to renew a refused token
            authorization = self._auth.header(scopes)
            sent = dict(headers or ())
            if authorization is not None:
                sent["Authorization"] = authorization
            host, own = self.endpoint.host, authorization if self._auth.is_credentials(authorization) else None
            try:
                with REJECTIONS.trial(host, own):
                    answer = self.http.request(
                        method,
                        url,
                        sent,
                        body,
                        route=self.endpoint.route,
                        stream=stream,
                        timeout=timeout,
                        repeatable=repeatable,
                    )
                    if answer.status != 401:
                        REJECTIONS.accepted(host, own)
                        return answer
                    refusal = None if own is None else self._auth.refusal(answer, scopes)
                    if own is not None and refusal is not None and refusal.code.name == "UNAUTHORIZED":
                        REJECTIONS.refused(host, own, refusal, partial(self._accepts, own))
                    if not tries_left or not self._auth.renew(answer, authorization, scopes):
                        raise refusal or self._auth.refusal(answer, scopes)
            except KeptRefusalError:
                if not tries_left or not self._auth.renew_credentials(authorization):
                    raise
                continue
            if not replayable:
                return answer
        raise AssertionError  # the loop has no other end

    @property
    def uses_tokens(self) -> bool:
        """True if the registry has asked for a token of a token server."""
        return self._auth.uses_tokens

    def granted(self, scopes: Scopes) -> frozenset[str] | None:
        """Return the actions that a token for ``scopes`` lists, None if it lists none or no token is used."""
        return self._auth.granted(scopes)

    def _accepts(self, authorization: str) -> bool:
        """Return True if the registry accepts an ``Authorization`` header, independent of any repository."""
        headers = {"Authorization": authorization}
        return self.http.request("GET", f"{self.endpoint.url}/v2/", headers, route=self.endpoint.route).status != 401

    def fetch(
        self,
        method: str,
        target: str,
        scopes: Scopes,
        headers: Mapping[str, str] | None = None,
        *,
        stream: bool = False,
    ) -> Response:
        """Send a GET or HEAD and follow redirects, without ``Authorization`` to other hosts."""
        answer = self.send(method, target, scopes, headers, stream=stream)
        host = self.endpoint.host
        for _ in range(MAX_REDIRECTS):
            if answer.status == 401:  # of another host; send() handles those of the registry
                what = f"{self.endpoint.host} redirects to {host}, which requires credentials of its own"
                raise SynclineError("REDIRECTED", what)
            if answer.status not in REDIRECTS:
                return answer
            location = redirect_target(answer, self.endpoint.host)
            host = location.host
            if location.scheme == self.endpoint.scheme and host.lower() == self.endpoint.host.lower():
                answer = self.send(method, location.target or "/", scopes, headers, stream=stream)
            else:
                answer = self.http.request(method, location.url, headers, route=self.endpoint.route, stream=stream)
        if answer.status not in REDIRECTS:
            return answer
        raise answer.protocol_error(f"more than {MAX_REDIRECTS} redirects")
