"""One registry's requests: authorized, and renewed once when a token is not accepted any more."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Final

from syncline.clients.http.addresses import Address, Endpoint, host_name
from syncline.clients.http.client import READ_TIMEOUT, Http, Response
from syncline.clients.http.failures import REDIRECTS
from syncline.clients.http.limits import Body
from syncline.clients.http.rejections import REJECTIONS, KeptRefusalError
from syncline.clients.registry.auth import Auth, Credentials, Scopes
from syncline.clients.registry.reference import parse_repository
from syncline.errors import SynclineError

# ``Location`` and ``Link``: where a registry says to go on, kept to the registry itself.

_LINK: Final = re.compile(r"<([^<>]*)>((?:\s*;\s*[\w!#$&+.^`|~*-]+(?:\s*=\s*(?:\"(?:[^\"\\]|\\.)*\"|[^\s;,\"]+))?)*)")
_RELATION: Final = re.compile(r";\s*rel\s*=\s*(?:\"([^\"]*)\"|([^\s;,\"]+))", re.IGNORECASE)


def next_link(values: Iterable[str]) -> str | None:
    """The target of the ``rel="next"`` link among ``Link`` headers (RFC 8288), as it is written there."""
    for value in values:
        for target, parameters in _LINK.findall(value):
            relation = _RELATION.search(parameters)
            if relation is not None and "next" in (relation[1] or relation[2] or "").lower().split():
                return str(target)
    return None


def own_target(endpoint: Endpoint, base: str, location: str) -> str:
    """Path and query of a ``Location`` or ``Link`` of the registry's, relative or absolute, the query kept.

    A registry behind a proxy often knows neither its public scheme nor its port: the configured ones count. REDIRECTED if
    it names another host: a token, or the bytes of an image, would go to somebody the configuration does not know.
    """
    address = Address.parse_at(f"{endpoint.url}{base}", location)
    if address is None:
        raise SynclineError("BAD_ANSWER", f"{endpoint.host} says to go on at {location[:80]!r}, which is no address")
    if address.name != host_name(endpoint.host).lower():
        raise SynclineError(
            "REDIRECTED",
            f"{endpoint.host} says to go on at {address.host}; set its public address in its own configuration, "
            f"or use {address.host} in syncs.yaml",
        )
    return address.target or "/"


LONGEST_REDIRECTION: Final = 5


def pull(repository: str) -> Scopes:
    """What reading needs. Raises REFERENCE_INVALID: no request is made for what is not a repository's name."""
    return (f"repository:{parse_repository(repository)}:pull",)


def push(repository: str) -> Scopes:
    """What writing needs. Raises REFERENCE_INVALID."""
    return (f"repository:{parse_repository(repository)}:pull,push",)


class Transport:
    """Sends a registry's requests; safe to use from any number of threads."""

    def __init__(
        self,
        endpoint: Endpoint,
        credentials: Callable[[], Credentials | None],
        http: Http,
        renewed: Callable[[], Credentials | None] | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.http = http
        self._auth = Auth(endpoint, credentials, http, renewed=renewed)

    def send(  # noqa: PLR0913 - each is a fact of the request
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
        """The answer to a request for ``target`` (path and query), with 401 raised as UNAUTHORIZED or FORBIDDEN.

        A streamed body cannot be sent again, so a 401 to one renews the token and is returned.
        """
        url = f"{self.endpoint.url}{target}"
        replayable = body is None or isinstance(body, bytes)
        for tries_left in (2, 1, 0):  # to learn what is wanted, and to renew what was refused
            authorization = self._auth.header(scopes)
            sent = dict(headers or ())
            if authorization is not None:
                sent["Authorization"] = authorization
            own, host = self._auth.own(authorization), self.endpoint.host
            try:
                with REJECTIONS.trial(host, own):
                    answer = self.http.request(
                        method,
                        url,
                        sent,
                        body,
                        ca=self.endpoint.ca,
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
                if not tries_left or not self._auth.other_than(authorization):
                    raise
                continue
            if not replayable:
                return answer
        raise AssertionError  # the loop has no other end

    def _accepts(self, authorization: str) -> bool:
        """Return True if the registry accepts an ``Authorization`` header, whatever it says of one repository."""
        headers = {"Authorization": authorization}
        return self.http.request("GET", f"{self.endpoint.url}/v2/", headers, ca=self.endpoint.ca).status != 401

    def fetch(
        self,
        method: str,
        target: str,
        scopes: Scopes,
        headers: Mapping[str, str] | None = None,
        *,
        stream: bool = False,
    ) -> Response:
        """A GET or HEAD that follows redirects, without ``Authorization`` as soon as they leave the registry."""
        answer = self.send(method, target, scopes, headers, stream=stream)
        host = self.endpoint.host
        for _ in range(LONGEST_REDIRECTION):
            if answer.status == 401:  # the registry's own never gets here
                what = f"{self.endpoint.host} redirects to {host}, which asks for credentials of its own"
                raise SynclineError("REDIRECTED", what)
            if answer.status not in REDIRECTS:
                return answer
            there = self._redirection(answer)
            host = there.host
            if there.scheme == self.endpoint.scheme and host.lower() == self.endpoint.host.lower():
                answer = self.send(method, there.target or "/", scopes, headers, stream=stream)
            else:
                answer = self.http.request(method, there.url, headers, ca=self.endpoint.ca, stream=stream)
        if answer.status not in REDIRECTS:
            return answer
        raise answer.bad(f"more than {LONGEST_REDIRECTION} redirects")

    def _redirection(self, answer: Response) -> Address:
        there = Address.parse_at(answer.url, answer.header("Location"))
        if there is None:
            raise answer.bad("it redirects to no address")
        if answer.url.startswith("https:") and there.scheme != "https":
            raise SynclineError("REDIRECTED", f"{self.endpoint.host} redirects to {there.host} without TLS")
        return there
