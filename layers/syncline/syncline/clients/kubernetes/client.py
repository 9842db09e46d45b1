"""The instances of a service in a Kubernetes cluster, by its EndpointSlices or by the labels of its pods.

A listing comes in pages: each but the last has ``metadata.continue``, which the next request brings back with the
same selector and limit. A page asked for too late is answered 410; then the whole list is read again. Of an EndpointSlice's endpoint, ``ready`` absent means ready and ``terminating``
absent means not (Kubernetes API, discovery.k8s.io/v1). One endpoint may be in two slices for a moment. Endpoints of
every address type are listed: one that cannot be asked, such as a host name (FQDN), counts as unknown.

Requests go through the package's `ApiClient` and answers are read as plain JSON. The package's classes for API groups
and objects are not imported: they take 0.6 s to import, ten times as long to read, and are not in the layer
(`layers/kubernetes/prune`).
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeAlias

import urllib3

from syncline.clients.http import failures
from syncline.clients.http.listings import Entries, Limits, Odd, OnOdd, described, ignore, mapping, optional, text
from syncline.clients.http.pacing import Policy
from syncline.clients.http.rejections import REJECTIONS
from syncline.clients.kubernetes.login import Login, client_package
from syncline.clients.replicas.instances import Instance, distinct
from syncline.errors import SynclineError

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

PAGE: Final = 500
LARGEST_PAGE: Final = 32 * 1024 * 1024  # bytes
_MOST_PAGES: Final = 100
WHOLE: Final = Limits(entries=PAGE * _MOST_PAGES)
_MOST_BEGINNINGS: Final = 3  # times a list is read from its start
_TIMEOUTS: Final = (5.0, 20.0)  # seconds to connect, and to wait for bytes
_PIECE: Final = 64 * 1024  # bytes


@dataclass(frozen=True, slots=True)
class ServiceSource:
    """The EndpointSlices of a service. ``port`` is a number, one of their names, or None where they have just one."""

    namespace: str
    service: str
    port: int | str | None = None

    path: ClassVar = "/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"

    @property
    def selector(self) -> str:
        return f"kubernetes.io/service-name={self.service}"

    @property
    def place(self) -> str:
        return f"{self.namespace}/{self.service}"


@dataclass(frozen=True, slots=True)
class PodsSource:
    """Pods by a label selector, as ``kubectl -l`` takes it."""

    namespace: str
    labels: str
    port: int

    path: ClassVar = "/api/v1/namespaces/{namespace}/pods"

    @property
    def selector(self) -> str:
        return self.labels

    @property
    def place(self) -> str:
        return f"{self.namespace}/{self.labels}"


Source: TypeAlias = ServiceSource | PodsSource


class _ExpiredError(Exception):
    """410: the continuation is too old."""


class Cluster:
    """One cluster's API. ``policy`` is for answers of 429 and 5xx; its deadline bounds the whole list."""

    def __init__(self, login: Login, policy: Policy | None = None) -> None:
        self._login = login
        self._policy = policy or Policy()
        self._api: ApiClient | None = None

    def instances(self, source: Source, odd: OnOdd = ignore) -> tuple[Instance, ...]:
        """Return every instance of a source, sorted by name, whether it serves or not: the whole list or an error.

        An odd entry stands for an instance that serves and cannot be asked; its label is its name and address. So a
        missing instance never counts as one that agreed.

        Raises UNAUTHORIZED, FORBIDDEN, THROTTLED, SERVER_ERROR, UNREACHABLE, TLS_FAILED, BAD_ANSWER,
        LISTING_INCOMPLETE, LISTING_TOO_LONG, CONFIG_INVALID, and SOURCE_ABSENT for a service without an EndpointSlice.
        """
        for _ in range(_MOST_BEGINNINGS):
            try:
                items = list(self._items(source))
            except _ExpiredError:
                continue
            if isinstance(source, ServiceSource) and not items:
                # The cluster makes a slice for each service, an empty one if no pod matches.
                what = f"there is no EndpointSlice of the service {source.place}: no such service or namespace"
                raise SynclineError("SOURCE_ABSENT", what)
            return _instances(source, items, odd)
        raise SynclineError("LISTING_INCOMPLETE", f"the list of {source.place} expired while it was read")

    def _items(self, source: Source) -> Iterator[Any]:
        seen: set[str] = set()
        token = ""
        while True:
            page = self._page(source, token)
            yield from page["items"]
            token = page["metadata"].get("continue") or ""
            if not token:
                return
            if token in seen:
                raise SynclineError("LISTING_INCOMPLETE", f"the list of {source.place} repeats itself")
            if len(seen) >= _MOST_PAGES:
                what = f"the list of {source.place}: over {_MOST_PAGES} pages of {PAGE}, and no end"
                raise SynclineError("LISTING_TOO_LONG", what)
            seen.add(token)

    def _page(self, source: Source, token: str) -> dict[str, Any]:
        """Return one page, retrying as the policy allows."""
        attempt, renew, renewed = 1, False, False
        while True:
            try:
                return self._ask(source, token, renewed=renew)
            except SynclineError as error:
                renew = error.code.name == "UNAUTHORIZED" and not renewed
                if renew:
                    renewed = True  # once: the token may have run out meanwhile
                    continue
                pause = self._policy.pause(attempt, error.retry_after)
                if not error.retried or attempt >= self._policy.attempts or not self._policy.bears(pause):
                    raise
            self._policy.sleep(pause)
            attempt += 1

    def _ask(self, source: Source, token: str, *, renewed: bool) -> dict[str, Any]:
        if self._api is None or renewed:
            self._api = client_package().ApiClient(self._login.configuration(renewed=renewed))
        configuration = self._api.configuration
        where = f"{configuration.host} ({source.place})"
        account = configuration.host, tuple(sorted(configuration.api_key.items())) or None
        REJECTIONS.check(*account)
        try:
            answer = self._request(self._api, source, token)
            body = self._body(where, answer)
        except urllib3.exceptions.HTTPError as error:
            raise _broken(where, error) from None
        if answer.status == 410:
            raise _ExpiredError
        if answer.status != 200:
            failure = failures.of_status("GET", where, answer.status, answer.headers, body)
            if answer.status == 401:
                REJECTIONS.refused(*account, failure)
            raise failure
        REJECTIONS.accepted(*account)
        return _checked_page(where, body)

    def _request(self, api: ApiClient, source: Source, token: str) -> urllib3.BaseHTTPResponse:
        """Ask for a page; the answer's body is not read yet."""
        query = [("labelSelector", source.selector), ("limit", str(PAGE))]
        if token:
            query.append(("continue", token))
        request = api.param_serialize(
            "GET",
            source.path,
            {"namespace": source.namespace},
            query,
            {"Accept": "application/json"},
            auth_settings=["BearerToken"],
        )
        answer: urllib3.BaseHTTPResponse = api.call_api(*request, _request_timeout=self._timeouts(source)).response
        return answer

    def _timeouts(self, source: Source) -> tuple[float, float]:
        """Return the seconds to connect and to wait for bytes, none of them beyond the deadline."""
        if self._policy.deadline is None:
            return _TIMEOUTS
        left = self._policy.deadline - self._policy.clock()
        if left <= 0:
            raise SynclineError("UNREACHABLE", f"the list of {source.place} was not complete at its deadline")
        return min(_TIMEOUTS[0], left), min(_TIMEOUTS[1], left)

    def _body(self, where: str, answer: urllib3.BaseHTTPResponse) -> bytes:
        """Read an answer in pieces, so that one that trickles in ends at the deadline."""
        body = bytearray()
        while len(body) <= LARGEST_PAGE and (piece := answer.read1(_PIECE, decode_content=True)):
            body += piece
            if self._policy.over:
                raise SynclineError("UNREACHABLE", f"GET {where}: the answer was not complete at the deadline")
        return bytes(body)


def _broken(where: str, error: urllib3.exceptions.HTTPError) -> SynclineError:
    """Return the failure of a request that has no answer."""
    cause = error.reason if isinstance(error, urllib3.exceptions.MaxRetryError) and error.reason else error
    if isinstance(cause, urllib3.exceptions.SSLError):
        return SynclineError("TLS_FAILED", f"GET {where}: {cause}")
    if isinstance(cause, urllib3.exceptions.DecodeError):
        return SynclineError("BAD_ANSWER", f"GET {where}: the body is not what its Content-Encoding says")
    return SynclineError("UNREACHABLE", f"GET {where}: the connection broke ({type(cause).__name__})")


def _checked_page(where: str, body: bytes) -> dict[str, Any]:
    if len(body) > LARGEST_PAGE:
        raise SynclineError("BAD_ANSWER", f"GET {where}: the answer is larger than {LARGEST_PAGE} bytes")
    try:
        page = json.loads(body)
    except (ValueError, RecursionError):
        page = None
    if not isinstance(page, dict) or not isinstance(page.get("metadata"), dict) or "items" not in page:
        raise SynclineError("BAD_ANSWER", f"GET {where}: the answer is no list")
    token = page["metadata"].get("continue")
    if not isinstance(page["items"], list | None) or not isinstance(token, str | None):
        raise SynclineError("BAD_ANSWER", f"GET {where}: the answer is no list")
    page["items"] = page["items"] or []  # Go writes an empty list as null, too
    return page


def _instances(source: Source, items: Sequence[Any], odd: OnOdd) -> tuple[Instance, ...]:
    unusable: list[Odd] = []

    def note(each: Odd) -> None:
        unusable.append(each)
        odd(each)

    listed = _endpoints(source, items, note) if isinstance(source, ServiceSource) else _pods(source, items, note)
    found = list(listed)
    return distinct((*found, *(Instance(each.label, each.label, 0, place=source.place) for each in unusable)))


def _endpoints(source: ServiceSource, items: Sequence[Any], odd: OnOdd) -> Iterator[Instance]:
    slices = Entries(f"the EndpointSlices of {source.place}", odd, _name_of, limits=WHOLE)
    for name, port, endpoints in slices.read(items, partial(_slice, source)):
        entries = Entries(f"the endpoints of {name} of {source.place}", odd, _name_of_endpoint, limits=WHOLE)
        yield from entries.read(endpoints, partial(_endpoint, source, port))


def _slice(source: ServiceSource, value: Any) -> tuple[str, int, list[Any]]:
    """Return the name of a slice, its port and its endpoints."""
    each, name = mapping(value), str(_name_of(value))
    if "endpoints" not in each:
        raise ValueError("it has no endpoints")
    endpoints = _list(each, "endpoints")
    if not endpoints:
        return name, 0, []
    return name, _port(source, [mapping(port) for port in _list(each, "ports")]), endpoints


def _endpoint(source: ServiceSource, port: int, value: Any) -> Instance:
    endpoint = mapping(value)
    addresses = _list(endpoint, "addresses")
    if not addresses:
        raise ValueError("it has no addresses")
    # The others have no defined meaning, and the cluster sends no requests to them (discovery.k8s.io/v1).
    address = _canonical(text(addresses[0], "address"))
    target, conditions = _mapping(endpoint, "targetRef"), _mapping(endpoint, "conditions")
    name = target.get("name") if target.get("kind") == "Pod" else endpoint.get("hostname")
    return Instance(
        optional(name, str, "name") or address,
        address,
        port,
        ready=optional(conditions.get("ready"), bool, "`ready`") is not False,
        terminating=optional(conditions.get("terminating"), bool, "`terminating`") is True,
        place=source.place,
    )


def _list(value: Mapping[str, Any], field: str) -> list[Any]:
    found = value.get(field)
    if found is not None and not isinstance(found, list):
        raise ValueError(f"its {field} are {described(found)}, not a list")
    return found or []


def _mapping(value: Mapping[str, Any], field: str) -> dict[str, Any]:
    found = value.get(field)
    if found is not None and not isinstance(found, dict):
        raise ValueError(f"its {field} is {described(found)}, not an object")
    return found or {}


def _name_of(entry: Any) -> Any:
    metadata = entry.get("metadata") if isinstance(entry, dict) else None
    return metadata.get("name") if isinstance(metadata, dict) else None


def _name_of_endpoint(entry: Any) -> Any:
    target = entry.get("targetRef") if isinstance(entry, dict) else None
    return target.get("name") if isinstance(target, dict) else None


def _canonical(address: str) -> str:
    """Return an IP address in the one spelling that addresses are compared in; anything else as it is."""
    try:
        return str(ipaddress.ip_address(address))
    except ValueError:
        return address


def _port(source: ServiceSource, ports: list[Mapping[str, Any]]) -> int:
    if isinstance(source.port, int):
        return source.port
    matching = [each.get("port") for each in ports if source.port is None or each.get("name") == source.port]
    if len(matching) != 1 or not isinstance(matching[0], int):
        wanted = "just one port" if source.port is None else f"a port named {source.port}"
        raise SynclineError("CONFIG_INVALID", f"the service {source.place} does not have {wanted}; name one in `port`")
    return matching[0]


def _pods(source: PodsSource, items: Sequence[Any], odd: OnOdd) -> Iterator[Instance]:
    entries = Entries(f"the pods of {source.place}", odd, _name_of, limits=WHOLE)
    return filter(None, entries.read(items, partial(_pod, source)))


def _pod(source: PodsSource, value: Any) -> Instance | None:
    pod = mapping(value)
    metadata, status = _mapping(pod, "metadata"), _mapping(pod, "status")
    name, address = text(metadata.get("name"), "name"), optional(status.get("podIP"), str, "`podIP`")
    if not address or status.get("phase") in ("Succeeded", "Failed"):
        return None  # not started yet, or over: no longer an instance of anything
    conditions = [mapping(each) for each in _list(status, "conditions")]
    ready = any(each.get("type") == "Ready" and each.get("status") == "True" for each in conditions)
    return Instance(
        name,
        _canonical(address),
        source.port,
        ready=ready,
        terminating=metadata.get("deletionTimestamp") is not None,
        place=source.place,
    )
