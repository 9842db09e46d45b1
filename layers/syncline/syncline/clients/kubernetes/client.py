"""A client for the Kubernetes API: the instances of a service, from its EndpointSlices or from pods by labels.

Each page of a listing but the last has ``metadata.continue``, a token for the next request with the same selector and
limit. An expired token is answered 410; then the list is read again from the start. For an endpoint of an
EndpointSlice, a missing ``ready`` means ready and a missing ``terminating`` means not terminating
(discovery.k8s.io/v1). An endpoint may be in two slices for a moment. Endpoints of every address type are listed; one
that cannot be probed, such as a host name (FQDN), counts as unknown.

Requests are sent by the package's `ApiClient` and responses are read as plain JSON. The package's classes for API
groups and objects are not used: they take 0.6 s to import, are ten times slower to read, and are not in the layer
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
from syncline.clients.http.listings import (
    EntryReader,
    InvalidEntry,
    ListingLimits,
    OnInvalid,
    describe,
    field_of,
    ignore,
    mapping,
    optional,
    text,
)
from syncline.clients.http.rejections import REJECTIONS
from syncline.clients.http.retry import RetryPolicy
from syncline.clients.kubernetes.login import ClusterLogin, client_package
from syncline.clients.replicas.instances import Instance, distinct
from syncline.errors import SynclineError

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

PAGE: Final = 500
MAX_PAGE: Final = 32 * 1024 * 1024  # bytes
_MAX_PAGES: Final = 100
LIST_LIMITS: Final = ListingLimits(entries=PAGE * _MAX_PAGES)
_MAX_ATTEMPTS: Final = 3  # reads of a list from the start
_TIMEOUTS: Final = (5.0, 20.0)  # seconds to connect, and to wait for bytes
_CHUNK: Final = 64 * 1024  # bytes


@dataclass(frozen=True, slots=True)
class ServiceSource:
    """The EndpointSlices of a service. ``port`` is a number, the name of a port, or None for the only one."""

    namespace: str
    service: str
    port: int | str | None = None

    path: ClassVar = "/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"

    @property
    def selector(self) -> str:
        return f"kubernetes.io/service-name={self.service}"

    @property
    def name(self) -> str:
        return f"{self.namespace}/{self.service}"


@dataclass(frozen=True, slots=True)
class PodsSource:
    """Pods by a label selector, as ``kubectl -l`` takes it."""

    namespace: str
    selector: str
    port: int

    path: ClassVar = "/api/v1/namespaces/{namespace}/pods"

    @property
    def name(self) -> str:
        return f"{self.namespace}/{self.selector}"


InstanceSource: TypeAlias = ServiceSource | PodsSource


class _ExpiredError(Exception):
    """410: the continuation token has expired."""


class Cluster:
    """The API of one cluster. ``policy`` applies to 429 and 5xx; its deadline limits the complete listing."""

    def __init__(self, login: ClusterLogin, policy: RetryPolicy | None = None) -> None:
        self._login = login
        self._policy = policy or RetryPolicy()
        self._api: ApiClient | None = None

    def instances(self, source: InstanceSource, on_invalid: OnInvalid = ignore) -> tuple[Instance, ...]:
        """Return all instances of a source, serving or not, sorted by name.

        An invalid entry is returned as a serving instance with its label as name and address. It cannot be probed, so
        it never counts as an instance that agrees.

        Raises UNAUTHORIZED, FORBIDDEN, THROTTLED, SERVER_ERROR, UNREACHABLE, TLS_FAILED, BAD_ANSWER,
        LISTING_INCOMPLETE, LISTING_TOO_LONG, CONFIG_INVALID, and SOURCE_ABSENT for a service without an EndpointSlice.
        """
        for _ in range(_MAX_ATTEMPTS):
            try:
                items = list(self._items(source))
            except _ExpiredError:
                continue
            if isinstance(source, ServiceSource) and not items:
                # The cluster creates a slice for each service, an empty one if no pod matches.
                what = f"the service {source.name} has no EndpointSlice: check its name and namespace"
                raise SynclineError("SOURCE_ABSENT", what)
            return _instances(source, items, on_invalid)
        raise SynclineError("LISTING_INCOMPLETE", f"the list of {source.name} expired while it was read")

    def _items(self, source: InstanceSource) -> Iterator[Any]:
        seen: set[str] = set()
        token = ""
        while True:
            page = self._page(source, token)
            yield from page["items"]
            token = page["metadata"].get("continue") or ""
            if not token:
                return
            if token in seen:
                raise SynclineError("LISTING_INCOMPLETE", f"the list of {source.name} repeats itself")
            if len(seen) >= _MAX_PAGES:
                what = f"the list of {source.name} has more than {_MAX_PAGES} pages of {PAGE}"
                raise SynclineError("LISTING_TOO_LONG", what)
            seen.add(token)

    def _page(self, source: InstanceSource, token: str) -> dict[str, Any]:
        """Return one page, retrying as the policy allows."""
        attempt, renew, renewed = 1, False, False
        while True:
            try:
                return self._ask(source, token, renewed=renew)
            except SynclineError as error:
                renew = error.code.name == "UNAUTHORIZED" and not renewed
                if renew:
                    renewed = True  # once: the token may have expired
                    continue
                pause = self._policy.pause(attempt, error.retry_after)
                if not error.retried or attempt >= self._policy.attempts or not self._policy.allows(pause):
                    raise
            self._policy.sleep(pause)
            attempt += 1

    def _ask(self, source: InstanceSource, token: str, *, renewed: bool) -> dict[str, Any]:
        if self._api is None or renewed:
            self._api = client_package().ApiClient(self._login.configuration(renewed=renewed))
        configuration = self._api.configuration
        where = f"{configuration.host} ({source.name})"
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
            failure = failures.error_of_status("GET", where, answer.status, answer.headers, body)
            if answer.status == 401:
                REJECTIONS.refused(*account, failure)
            raise failure
        REJECTIONS.accepted(*account)
        return _checked_page(where, body)

    def _request(self, api: ApiClient, source: InstanceSource, token: str) -> urllib3.BaseHTTPResponse:
        """Request a page; the body of the response is not read yet."""
        query = [("labelSelector", source.selector), ("limit", str(PAGE))]
        if token:
            query.append(("continue", token))
        space, accept = {"namespace": source.namespace}, {"Accept": "application/json"}
        request = api.param_serialize("GET", source.path, space, query, accept, auth_settings=["BearerToken"])
        answer: urllib3.BaseHTTPResponse = api.call_api(*request, _request_timeout=self._timeouts(source)).response
        return answer

    def _timeouts(self, source: InstanceSource) -> tuple[float, float]:
        """Return the seconds to connect and to wait for bytes, limited by the deadline."""
        if self._policy.deadline is None:
            return _TIMEOUTS
        left = self._policy.deadline - self._policy.clock()
        if left <= 0:
            raise SynclineError("UNREACHABLE", f"the list of {source.name} was not complete at its deadline")
        return min(_TIMEOUTS[0], left), min(_TIMEOUTS[1], left)

    def _body(self, where: str, answer: urllib3.BaseHTTPResponse) -> bytes:
        """Read a response in chunks, so that a slow one ends at the deadline."""
        body = bytearray()
        while len(body) <= MAX_PAGE and (chunk := answer.read1(_CHUNK, decode_content=True)):
            body += chunk
            if self._policy.expired:
                raise SynclineError("UNREACHABLE", f"GET {where}: the response was not complete at the deadline")
        return bytes(body)


def _broken(where: str, error: urllib3.exceptions.HTTPError) -> SynclineError:
    """Return the error for a request without a response."""
    cause = error.reason if isinstance(error, urllib3.exceptions.MaxRetryError) and error.reason else error
    if isinstance(cause, urllib3.exceptions.SSLError):
        return SynclineError("TLS_FAILED", f"GET {where}: {cause}")
    if isinstance(cause, urllib3.exceptions.DecodeError):
        return SynclineError("BAD_ANSWER", f"GET {where}: the body does not match its Content-Encoding")
    return SynclineError("UNREACHABLE", f"GET {where}: the connection broke ({type(cause).__name__})")


def _checked_page(where: str, body: bytes) -> dict[str, Any]:
    if len(body) > MAX_PAGE:
        raise SynclineError("BAD_ANSWER", f"GET {where}: the response is larger than {MAX_PAGE} bytes")
    try:
        page = json.loads(body)
    except (ValueError, RecursionError):
        page = None
    match page:
        case {"items": list() | None as items, "metadata": dict(metadata)}:
            if isinstance(metadata.get("continue"), str | None):
                return {**page, "items": items or []}  # Go writes an empty list as null, too
    raise SynclineError("BAD_ANSWER", f"GET {where}: the response is not a list")


def _instances(source: InstanceSource, items: Sequence[Any], on_invalid: OnInvalid) -> tuple[Instance, ...]:
    unusable: list[InvalidEntry] = []

    def note(each: InvalidEntry) -> None:
        unusable.append(each)
        on_invalid(each)

    listed = _endpoints(source, items, note) if isinstance(source, ServiceSource) else _pods(source, items, note)
    found = list(listed)
    return distinct((*found, *(Instance(each.label, each.label, 0, source=source.name) for each in unusable)))


def _endpoints(source: ServiceSource, items: Sequence[Any], on_invalid: OnInvalid) -> Iterator[Instance]:
    slices = EntryReader(f"the EndpointSlices of {source.name}", on_invalid, _name_of, limits=LIST_LIMITS)
    for name, port, endpoints in slices.read(items, partial(_slice, source)):
        entries = EntryReader(
            f"the endpoints of {name} of {source.name}", on_invalid, _name_of_endpoint, limits=LIST_LIMITS
        )
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
    # Further addresses have no defined meaning, and the cluster does not use them (discovery.k8s.io/v1).
    address = _canonical(text(addresses[0], "address"))
    target, conditions = _mapping(endpoint, "targetRef"), _mapping(endpoint, "conditions")
    name = target.get("name") if target.get("kind") == "Pod" else endpoint.get("hostname")
    return Instance(
        optional(name, str, "name") or address,
        address,
        port,
        ready=optional(conditions.get("ready"), bool, "`ready`") is not False,
        terminating=optional(conditions.get("terminating"), bool, "`terminating`") is True,
        source=source.name,
    )


def _list(value: Mapping[str, Any], field: str) -> list[Any]:
    found = value.get(field)
    if found is not None and not isinstance(found, list):
        raise ValueError(f"its {field} are {describe(found)}, not a list")
    return found or []


def _mapping(value: Mapping[str, Any], field: str) -> dict[str, Any]:
    found = value.get(field)
    if found is not None and not isinstance(found, dict):
        raise ValueError(f"its {field} is {describe(found)}, not an object")
    return found or {}


def _name_of(entry: Any) -> Any:
    return field_of(field_of(entry, "metadata"), "name")


def _name_of_endpoint(entry: Any) -> Any:
    return field_of(field_of(entry, "targetRef"), "name")


def _canonical(address: str) -> str:
    """Return an IP address in its canonical form, anything else unchanged."""
    try:
        return str(ipaddress.ip_address(address))
    except ValueError:
        return address


def _port(source: ServiceSource, ports: list[Mapping[str, Any]]) -> int:
    if isinstance(source.port, int):
        return source.port
    matching = [each.get("port") for each in ports if source.port is None or each.get("name") == source.port]
    if len(matching) != 1 or not isinstance(matching[0], int):
        wanted = "exactly one port" if source.port is None else f"a port named {source.port}"
        raise SynclineError("CONFIG_INVALID", f"the service {source.name} does not have {wanted}; set `port`")
    return matching[0]


def _pods(source: PodsSource, items: Sequence[Any], on_invalid: OnInvalid) -> Iterator[Instance]:
    entries = EntryReader(f"the pods of {source.name}", on_invalid, _name_of, limits=LIST_LIMITS)
    return filter(None, entries.read(items, partial(_pod, source)))


def _pod(source: PodsSource, value: Any) -> Instance | None:
    pod = mapping(value)
    metadata, status = _mapping(pod, "metadata"), _mapping(pod, "status")
    name, address = text(metadata.get("name"), "name"), optional(status.get("podIP"), str, "`podIP`")
    if not address or status.get("phase") in ("Succeeded", "Failed"):
        return None  # not started yet, or finished
    conditions = [mapping(each) for each in _list(status, "conditions")]
    ready = any(each.get("type") == "Ready" and each.get("status") == "True" for each in conditions)
    return Instance(
        name,
        _canonical(address),
        source.port,
        ready=ready,
        terminating=metadata.get("deletionTimestamp") is not None,
        source=source.name,
    )
