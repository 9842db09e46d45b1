"""The Kubernetes API for listings of EndpointSlices and pods, on loopback with real TLS.

Written from Kubernetes' OpenAPI description (``/openapi/v3``: ``api/v1``, ``apis/discovery.k8s.io/v1``) and the API
conventions; objects are checked against the models that the kubernetes package generates from that description, and
its responses, in ``tests/integration/test_kubernetes_api.py``, against those of a real kube-apiserver if there is one.
Facts for clients:

- ``limit`` cuts a list into pages; ``metadata.continue`` of one is the ``continue`` of the next request, which must
  have the same selector. An expired one, or one from before a compaction, gets 410 with reason ``Expired``.
- With an unknown bearer token, and without one where anonymous requests are off: 401. With one that may not list the
  resource in the namespace: 403, whether the namespace exists or not. A namespace without such objects has an empty list.
- Errors are ``Status`` objects. 429 has ``Retry-After``.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Self
from urllib.parse import parse_qs, parse_qsl, quote, urlsplit

from kubernetes.client import V1EndpointSlice, V1Pod

from tests.rig.server import Reply, Request, Server, reply
from tests.standins.certificates import Authority

_PATHS: Final = {
    "endpointslices": re.compile(r"/apis/discovery\.k8s\.io/v1/namespaces/([a-z0-9-]+)/endpointslices"),
    "pods": re.compile(r"/api/v1/namespaces/([a-z0-9-]+)/pods"),
}
_KINDS: Final = {
    "endpointslices": ("EndpointSliceList", "discovery.k8s.io/v1"),
    "pods": ("PodList", "v1"),
}
# The parameters of both operations in the OpenAPI description.
_PARAMETERS: Final = frozenset(
    {
        "allowWatchBookmarks",
        "continue",
        "fieldSelector",
        "labelSelector",
        "limit",
        "pretty",
        "resourceVersion",
        "resourceVersionMatch",
        "sendInitialEvents",
        "shardSelector",
        "timeoutSeconds",
        "watch",
    }
)
_REASONS: Final = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    410: "Expired",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
}
_LABEL: Final = r"[A-Za-z0-9](?:[A-Za-z0-9._/-]*[A-Za-z0-9])?"
_SELECTOR: Final = re.compile(rf"({_LABEL})\s*(==|=|!=)\s*((?:{_LABEL})?)")


class KubernetesApi:
    """``grants`` has the (resource, namespace) pairs that each token may list. ``eks`` maps access keys to secrets for EKS."""

    def __init__(
        self,
        grants: Mapping[str, frozenset[tuple[str, str]]],
        *,
        eks: Mapping[str, str] | None = None,
        eks_cluster: str = "",
        host: str = "127.0.0.1",
    ) -> None:
        self.authority = Authority("Authority of the cluster")
        self.grants = dict(grants)
        self.requests: list[str] = []
        self._eks = dict(eks or {})
        self._eks_cluster = eks_cluster
        self._objects: dict[tuple[str, str], list[dict[str, Any]]] = {}
        self._version = 1000
        self._oldest = 0
        self._scripted: deque[Reply] = deque()
        self._after: Callable[[], None] | None = None
        self._lock = threading.Lock()
        self._server = Server(self._answer, host=host, tls=self.authority.server_context(host))
        self._host = host

    @property
    def url(self) -> str:
        return f"https://{self._host}:{self._server.port}"

    @property
    def port(self) -> int:
        return self._server.port

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()

    def put(self, resource: str, namespace: str, *objects: dict[str, Any]) -> None:
        """Replace a namespace's objects of a resource."""
        with self._lock:
            self._version += 1
            self._objects[resource, namespace] = sorted(objects, key=lambda each: str(each["metadata"]["name"]))

    def compact(self) -> None:
        """Expire every ``continue`` token issued so far."""
        with self._lock:
            self._oldest = self._version = self._version + 1

    def after_each_page(self, call: Callable[[], None] | None) -> None:
        """Call a function after each page of a list, to change the cluster between two pages."""
        self._after = call

    def fail(self, status: int, message: str = "said so", times: int = 1, **headers: str) -> None:
        """Answer the next requests with a failure; underscores in header names become dashes."""
        self._scripted.extend([_status(status, message, **headers)] * times)

    def answer_once(self, body: bytes, status: int = 200) -> None:
        """Answer the next request with these bytes."""
        self._scripted.append(reply(status, body))

    def _answer(self, request: Request) -> Reply:
        request.read()
        self.requests.append(request.target)
        if self._scripted:
            return self._scripted.popleft()
        parts = urlsplit(request.target)
        resource, namespace = next(
            ((name, found[1]) for name, path in _PATHS.items() if (found := path.fullmatch(parts.path))), ("", "")
        )
        refusal = self._refusal(request, resource, namespace)
        if refusal is not None:
            return refusal
        query = parse_qs(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
        unknown = set(query) - _PARAMETERS
        if unknown or any(len(values) != 1 for values in query.values()):
            return _status(400, f"not parameters of this operation: {sorted(unknown) or 'one that came twice'}")
        with self._lock:
            answer = self._list(resource, namespace, {name: values[0] for name, values in query.items()})
        if self._after is not None:
            self._after()
        return answer

    def _refusal(self, request: Request, resource: str, namespace: str) -> Reply | None:
        granted = self._granted(request.authorization)
        if granted is None:
            return _status(401, "Unauthorized")
        if not resource:
            return _status(404, "the server could not find the requested resource")
        if (resource, namespace) not in granted:
            return _status(403, f'{resource} is forbidden: User "test" cannot list resource in "{namespace}"')
        if request.method != "GET":
            return _status(405, "the server does not allow this method on the requested resource")
        return None

    def _granted(self, authorization: str) -> frozenset[tuple[str, str]] | None:
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer":
            return None
        if token.startswith("k8s-aws-v1."):
            token = self._eks_identity(token)
        return self.grants.get(token)

    def _list(self, resource: str, namespace: str, query: Mapping[str, str]) -> Reply:
        limit_text = query.get("limit", "0")
        if not limit_text.isdigit():
            return _status(400, "limit is not a number")
        selector = query.get("labelSelector", "")
        matches = _selector(selector)
        if matches is None:
            return _status(400, f"unable to parse requirement: {selector!r}")
        start, version = "", self._version
        if "continue" in query:
            try:
                token = json.loads(base64.urlsafe_b64decode(query["continue"]))
                start, version = str(token["start"]), int(token["rv"])
            except (ValueError, KeyError, TypeError):
                return _status(400, "continue key is not valid")
            if token["query"] != [resource, namespace, selector]:
                return _status(400, "continue key is of another list")
            if version < self._oldest:
                return _status(410, "The provided continue parameter is too old to display a consistent list result.")
        there = [each for each in self._objects.get((resource, namespace), []) if matches(each["metadata"])]
        rest = [each for each in there if str(each["metadata"]["name"]) > start]
        page = rest[: int(limit_text)] if int(limit_text) else rest
        metadata: dict[str, Any] = {"resourceVersion": str(version)}
        if len(page) < len(rest):
            value = {"rv": version, "start": page[-1]["metadata"]["name"], "query": [resource, namespace, selector]}
            metadata["continue"] = base64.urlsafe_b64encode(json.dumps(value).encode()).decode()
            if not selector:  # with one the API does not count
                metadata["remainingItemCount"] = len(rest) - len(page)
        kind, version_of_api = _KINDS[resource]
        content = {"kind": kind, "apiVersion": version_of_api, "metadata": metadata, "items": page or None}
        return reply(200, json.dumps(content).encode())

    def _eks_identity(self, token: str) -> str:
        """Return the access key that signed a token for this cluster; empty if there is none."""
        text = token.removeprefix("k8s-aws-v1.")
        try:
            url = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()
        except ValueError:
            return ""
        parts = urlsplit(url)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        signature = query.pop("X-Amz-Signature", "")
        key, _, scope = query.get("X-Amz-Credential", "").partition("/")
        if key not in self._eks or query.get("Action") != "GetCallerIdentity" or "=" in text:
            return ""
        signed = query.get("X-Amz-SignedHeaders", "")
        if signed != "host;x-k8s-aws-id" or not 0 < int(query.get("X-Amz-Expires", "0")) <= 900:
            return ""
        canonical = "&".join(f"{quote(n, safe='-_.~')}={quote(v, safe='-_.~')}" for n, v in sorted(query.items()))
        headers = f"host:{parts.netloc}\nx-k8s-aws-id:{self._eks_cluster}\n"
        body = hashlib.sha256(b"").hexdigest()
        lines = f"GET\n{parts.path}\n{canonical}\n{headers}\n{signed}\n{body}"
        to_sign = "\n".join(
            ["AWS4-HMAC-SHA256", query["X-Amz-Date"], scope, hashlib.sha256(lines.encode()).hexdigest()]
        )
        secret = b"AWS4" + self._eks[key].encode()
        for part in scope.split("/"):
            secret = hmac.digest(secret, part.encode(), "sha256")
        return key if hmac.compare_digest(hmac.digest(secret, to_sign.encode(), "sha256").hex(), signature) else ""


def endpoint_slice(
    name: str,
    service: str,
    endpoints: Sequence[Mapping[str, Any]],
    ports: Sequence[tuple[str | None, int]] = (("https", 8443),),
    family: str = "IPv4",
    namespace: str = "gateway",
) -> dict[str, Any]:
    """Return an EndpointSlice as the control plane writes it."""
    value = {
        "kind": "EndpointSlice",
        "apiVersion": "discovery.k8s.io/v1",
        "metadata": {"name": name, "namespace": namespace, "labels": {"kubernetes.io/service-name": service}},
        "addressType": family,
        "ports": [{"name": port_name, "port": port, "protocol": "TCP"} for port_name, port in ports],
        "endpoints": [dict(each) for each in endpoints] or None,
    }
    V1EndpointSlice.from_dict({**value, "endpoints": value["endpoints"] or []})
    return value


def endpoint(
    pod: str, address: str, *, ready: bool | None = None, terminating: bool | None = None, namespace: str = "gateway"
) -> dict[str, Any]:
    """Return one endpoint of a slice. ``None`` omits a condition, as the API may."""
    conditions = {"ready": ready, "terminating": terminating}
    return {
        "addresses": [address],
        "conditions": {name: value for name, value in conditions.items() if value is not None},
        "targetRef": {"kind": "Pod", "name": pod, "namespace": namespace},
    }


def pod(
    name: str,
    address: str | None,
    labels: Mapping[str, str],
    *,
    ready: bool = True,
    phase: str = "Running",
    deleted: bool = False,
    namespace: str = "gateway",
) -> dict[str, Any]:
    """Return a pod in the API's form."""
    metadata: dict[str, Any] = {"name": name, "namespace": namespace, "labels": dict(labels)}
    if deleted:
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    status: dict[str, Any] = {"phase": phase, "conditions": [{"type": "Ready", "status": str(ready)}]}
    if address is not None:
        status["podIP"] = address
    value = {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": metadata,
        "spec": {"containers": [{"name": "nginx", "image": "nginx"}]},
        "status": status,
    }
    V1Pod.from_dict(value)
    return value


def _selector(text: str) -> Callable[[Mapping[str, Any]], bool] | None:
    """Return the labels of a selector of equalities; None if it is not one."""
    wanted = []
    for part in filter(None, (each.strip() for each in text.split(","))):
        match = _SELECTOR.fullmatch(part)
        if match is None:
            return None
        wanted.append((match[1], match[2] != "!=", match[3]))

    def matches(metadata: Mapping[str, Any]) -> bool:
        labels = metadata.get("labels") or {}
        return all((labels.get(name) == value) is equal for name, equal, value in wanted)

    return matches


def _status(status: int, message: str, **headers: str) -> Reply:
    body = {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": _REASONS.get(status, "Unknown"),
        "code": status,
    }
    return reply(status, json.dumps(body).encode(), **headers)
