"""A registry in memory on a real loopback port: strict by the OCI distribution specification 1.1, with scripted faults.

    with OciRegistry() as registry:
        registry.store.add_image("team/app", "1.0", b"a layer")
        registry.fault("GET", "/blobs/", Fault(cut=3))               # the next one, once
        registry.fault("PUT", "/manifests/", throttled(), first=2, times=None)   # from the second one on, for ever

It refuses requests that real registries accept: a manifest before its blobs and children, a location without its query,
a further chunk without a ``Content-Range``, wrong bytes for a digest. Every request is in ``requests``.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self
from urllib.parse import parse_qs, quote, urlsplit

from tests.rig.server import ALL, Reply, Request, Server
from tests.standins.oci_store import OCI_INDEX, TYPES, RefusalError, Session, Store, named_by, subject_of

_UPLOAD: Final = re.compile(r"/v2/(?P<name>.+)/blobs/uploads/(?P<session>[^/]+)?")
_BLOB: Final = re.compile(r"/v2/(?P<name>.+)/blobs/(?P<digest>[^/]+)")
_MANIFEST: Final = re.compile(r"/v2/(?P<name>.+)/manifests/(?P<reference>[^/]+)")
_TAGS: Final = re.compile(r"/v2/(?P<name>.+)/tags/list")
_REFERRERS: Final = re.compile(r"/v2/(?P<name>.+)/referrers/(?P<digest>[^/]+)")
_BYTES: Final = re.compile(r"bytes=(\d+)-")
_PAGE: Final = 1000


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault of a request.

    ``status``: the response, without executing the request. ``take``: the number of bytes of its body that are read
    before the connection closes without a response; these bytes of a chunk are kept, as registries do. ``lose_answer``:
    the request is executed, but the connection closes without a response. ``cut``: the number of bytes of the
    response's body that are sent. ``wrong``: the response's body has other bytes of the same number. ``sizeless``: the
    response is chunked, without a size. ``expire_tokens``, ``forget_uploads``: done before the request is executed.
    ``delay`` is in seconds.
    """

    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    take: int | None = None
    lose_answer: bool = False
    cut: int | None = None
    wrong: bool = False
    sizeless: bool = False
    expire_tokens: bool = False
    forget_uploads: bool = False
    delay: float = 0.0


def throttled(retry_after: float | None = None) -> Fault:
    """Return 429 in Quay's form (without a time) or in that of others."""
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    return Fault(429, headers, b'{"errors": [{"code": "TOOMANYREQUESTS", "message": "slow down"}]}')


def bad_gateway() -> Fault:
    """Return 502 from a proxy that does not send JSON."""
    page = b"<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>"
    return Fault(502, {"Content-Type": "text/html"}, page)


@dataclass(slots=True)
class _Order:
    """A scheduled fault: at the ``first``-th matching request and, of those that follow, ``left`` in total."""

    method: str
    pattern: re.Pattern[str]
    fault: Fault
    first: int
    left: int | None


class OciRegistry:
    """The registry. ``users`` (name to password) makes it require bearer tokens, which it issues at ``/token``.

    ``before`` is called with each request's method and target before it is processed; ``forgets_broken``
    makes it forget an upload whose connection broke, as docker-registry 2.8 does, and ``broken`` is released once for each
    such connection. ``lists_referrers`` set to False disables
    the referrers API; ``referrers_page`` is the page size of that API. ``deletes`` is ``tags`` (as the specification
    1.1 requires), ``digests`` (only these, as docker-registry 2.8), ``images`` (all tags of the digest of a tag), or
    ``nothing``.
    """

    def __init__(self, users: Mapping[str, str] | None = None, *, forgets_broken: bool = False) -> None:
        self.store = Store()
        self.users = users
        self.requests: list[Request] = []
        self.before: Callable[[str, str], None] = lambda _method, _target: None
        self.forgets_broken = forgets_broken
        self.broken = threading.Semaphore(0)
        self.lists_referrers = True
        self.referrers_page = _PAGE
        self.deletes = "tags"
        self._orders: list[_Order] = []
        self._tokens: dict[str, tuple[str, ...]] = {}
        self._lock = threading.Lock()
        self._server = Server(self._handle)
        self.host = f"127.0.0.1:{self._server.port}"
        self.url = f"http://{self.host}"

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()

    def clear(self) -> None:
        """Reset everything: content, faults, requests and tokens."""
        with self._lock:
            self.store = Store()
            self.lists_referrers, self.referrers_page, self.deletes = True, _PAGE, "tags"
            self.requests.clear()
            self._orders.clear()
            self._tokens.clear()

    def fault(self, method: str, pattern: str, fault: Fault, *, first: int = 1, times: int | None = 1) -> None:
        """Script a fault for requests of a method (``*`` for any) whose target matches ``pattern`` (a regex)."""
        with self._lock:
            self._orders.append(_Order(method, re.compile(pattern), fault, first, times))

    def heal(self) -> None:
        """Remove all faults."""
        with self._lock:
            self._orders.clear()

    def asked(self, method: str, pattern: str = "") -> list[Request]:
        """Return the requests of a method (``*`` for any) whose target matches ``pattern`` (a regex)."""
        return [each for each in self.requests if method in ("*", each.method) and re.search(pattern, each.target)]

    # -- one request ------------------------------------------------------------------------------------------------

    def _handle(self, request: Request) -> Reply | None:
        self.before(request.method, request.target)
        fault = self._fault_for(request.method, request.target)
        time.sleep(fault.delay)
        request.read(ALL if fault.take is None else fault.take)
        if not request.whole or fault.take is not None:
            request.body, request.whole = request.body[: fault.take], False
            self._handle_broken_upload(request)
            self.requests.append(request)
            return None
        reply = self._execute(request, fault)
        request.status = reply.status
        self.requests.append(request)
        assert isinstance(reply.body, bytes)
        body = bytes(255 - byte for byte in reply.body) if fault.wrong else reply.body
        return Reply(reply.status, body, reply.headers, chunked=fault.sizeless, drop=fault.lose_answer, cut=fault.cut)

    def _fault_for(self, method: str, target: str) -> Fault:
        with self._lock:
            for order in self._orders:
                if order.method in ("*", method) and order.pattern.search(target):
                    order.first -= 1
                    if order.first <= 0 and order.left != 0:
                        order.left = None if order.left is None else order.left - 1
                        return order.fault
        return Fault()

    def _execute(self, asked: Request, fault: Fault) -> Reply:
        """Return the response to a request."""
        if fault.expire_tokens:
            self._tokens.clear()
        if fault.forget_uploads:
            self.store.sessions.clear()
        if fault.status:
            return Reply(fault.status, fault.body, fault.headers)
        try:
            if asked.path == "/token":
                return self._token(asked)
            self._authorize(asked)
            with self.store.lock:
                return self._do(asked)
        except RefusalError as error:
            body = json.dumps({"errors": [{"code": error.code, "message": error.message}]}).encode()
            return Reply(error.status, body, {"Content-Type": "application/json", **error.headers})

    def _handle_broken_upload(self, asked: Request) -> None:
        """Handle a request whose body was incomplete."""
        match = _UPLOAD.fullmatch(asked.path)
        with self.store.lock, contextlib.suppress(RefusalError):
            if asked.method == "PATCH" and match is not None:
                session = self._session(asked, match)
                if self.forgets_broken:
                    del self.store.sessions[match["session"]]
                else:
                    self.store.append(session, asked.headers.get("content-range", ""), None, asked.body)
        self.broken.release()

    def _do(self, asked: Request) -> Reply:
        if asked.path == "/v2/":
            return Reply(200, b"{}")
        if asked.path == "/v2/_catalog":
            return self._list(asked, sorted(self.store.repositories), "repositories", {})
        places = [(_TAGS, self._tags), (_UPLOAD, self._upload), (_BLOB, self._blob), (_MANIFEST, self._manifest)]
        if self.lists_referrers:
            places.append((_REFERRERS, self._referrers))
        for pattern, does in places:
            if match := pattern.fullmatch(asked.path):
                return does(asked, match)
        return Reply(404, b"404 page not found\n", {"Content-Type": "text/plain"})

    def _tags(self, asked: Request, match: re.Match[str]) -> Reply:
        name = match["name"]
        return self._list(asked, sorted(self.store.repository(name).tags), "tags", {"name": name})

    def _list(self, asked: Request, names: list[str], key: str, more: dict[str, Any]) -> Reply:
        _only(asked, "GET")
        size, last = int(asked.query("n") or _PAGE), asked.query("last")
        rest = [name for name in names if name > last]
        headers = {"Content-Type": "application/json"}
        if len(rest) > size:
            link = f"{asked.path}?n={size}&last={quote(rest[size - 1], safe='')}"
            headers["Link"] = f'<{link}>; rel="next"'
        return Reply(200, json.dumps({**more, key: rest[:size]}).encode(), headers)

    def _referrers(self, asked: Request, match: re.Match[str]) -> Reply:
        """List the referrers of a digest. As the specification requires, an absent one has an empty list."""
        _only(asked, "GET")
        entries = self.store.referrers(match["name"], match["digest"])
        at = int(asked.query("at") or 0)
        headers = {"Content-Type": OCI_INDEX}
        if len(entries) > at + self.referrers_page:
            headers["Link"] = f'<{asked.path}?at={at + self.referrers_page}>; rel="next"'
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries[at : at + self.referrers_page]}
        return Reply(200, json.dumps(index).encode(), headers)

    def _blob(self, asked: Request, match: re.Match[str]) -> Reply:
        _only(asked, "GET", "HEAD")
        data = self.store.blob(match["name"], match["digest"])
        headers = {"Content-Type": "application/octet-stream", "Docker-Content-Digest": match["digest"]}
        wanted = _BYTES.fullmatch(asked.headers.get("range", ""))
        if wanted is None:
            return Reply(200, data, headers)
        first = int(wanted[1])
        if first >= len(data):
            return Reply(416, b"", {"Content-Range": f"bytes */{len(data)}"})
        return Reply(206, data[first:], {**headers, "Content-Range": f"bytes {first}-{len(data) - 1}/{len(data)}"})

    def _manifest(self, asked: Request, match: re.Match[str]) -> Reply:
        _only(asked, "GET", "HEAD", "PUT", "DELETE")
        name, reference = match["name"], match["reference"]
        if asked.method == "DELETE":
            return self._delete(name, reference)
        if asked.method == "PUT":
            media_type = asked.headers.get("content-type", "")
            digest = self.store.put_manifest(name, reference, media_type, asked.body)
            location = f"/v2/{name}/manifests/{digest}"
            subject = subject_of(asked.body)
            listed = {"OCI-Subject": subject} if subject and self.lists_referrers else {}
            return Reply(201, b"", {"Location": location, "Docker-Content-Digest": digest, **listed})
        digest, stored = self.store.manifest(name, reference)
        if stored.media_type in TYPES and stored.media_type not in asked.headers.get("accept", ""):
            raise RefusalError(404, "MANIFEST_UNKNOWN", f"it is of type {stored.media_type}, which is not accepted")
        other = self.store.algorithm != "sha256" and ":" not in reference
        told = named_by(self.store.algorithm, stored.body) if other else digest
        return Reply(200, stored.body, {"Content-Type": stored.media_type, "Docker-Content-Digest": told})

    def _delete(self, name: str, reference: str) -> Reply:
        """Delete a tag, or a digest with all its tags, as far as :attr:`deletes` allows."""
        is_tag = ":" not in reference
        if self.deletes == "nothing" or (is_tag and self.deletes == "digests"):
            raise RefusalError(405, "UNSUPPORTED", "The operation is unsupported.")
        digest, _ = self.store.manifest(name, reference)
        repository = self.store.repository(name)
        if is_tag and self.deletes == "tags":
            del repository.tags[reference]
        else:
            for tag in [tag for tag, has in repository.tags.items() if has == digest]:
                del repository.tags[tag]
            del repository.manifests[digest]
        return Reply(202)

    def _upload(self, asked: Request, match: re.Match[str]) -> Reply:
        name, session = match["name"], match["session"]
        if session is None:
            _only(asked, "POST")
            digest = asked.query("mount")
            if digest and self.store.mount(name, digest, asked.query("from")):
                return _created(name, digest)
            return self._upload_accepted(202, self.store.begin(name))
        _only(asked, "GET", "PATCH", "PUT", "DELETE")
        found = self._session(asked, match)
        if asked.method == "GET":
            return self._upload_accepted(204, session)
        if asked.method == "DELETE":
            del self.store.sessions[session]
            return Reply(204)
        length = asked.headers.get("content-length")
        if asked.method == "PATCH":
            wanted = asked.headers.get("content-range", "")
            try:
                self.store.append(found, wanted, None if length is None else int(length), asked.body)
            except RefusalError as error:
                error.headers.update(self._upload_accepted(0, session).headers)
                raise
            return self._upload_accepted(202, session)
        self.store.finish(name, session, asked.query("digest"), asked.body)
        return _created(name, asked.query("digest"))

    def _session(self, asked: Request, match: re.Match[str]) -> Session:
        return self.store.session(match["name"], match["session"], asked.query("_state"))

    def _upload_accepted(self, status: int, session: str) -> Reply:
        size = len(self.store.sessions[session].data)
        return Reply(status, b"", {"Location": self.store.location(session), "Range": f"0-{max(0, size - 1)}"})

    # -- tokens -----------------------------------------------------------------------------------------------------

    def _token(self, asked: Request) -> Reply:
        assert self.users is not None
        given = asked.headers.get("authorization", "").removeprefix("Basic ")
        name, _, password = base64.b64decode(given).decode().partition(":")
        if self.users.get(name) != password:
            raise RefusalError(401, "UNAUTHORIZED")
        token = secrets.token_hex(12)
        self._tokens[token] = tuple(parse_qs(urlsplit(asked.target).query).get("scope", []))
        return Reply(200, json.dumps({"token": token}).encode(), {"Content-Type": "application/json"})

    def _authorize(self, asked: Request) -> None:
        if self.users is None:
            return
        granted = self._tokens.get(asked.headers.get("authorization", "").removeprefix("Bearer "))
        wanted = _wanted(asked)
        if granted is None or not all(_grants(granted, *each) for each in wanted):
            scopes = " ".join(f"{resource}:{action}" for resource, action in wanted)
            challenge = f'Bearer realm="{self.url}/token",service="{self.host}",scope="{scopes}"'
            raise RefusalError(401, "UNAUTHORIZED", headers={"WWW-Authenticate": challenge})


def _wanted(asked: Request) -> list[tuple[str, str]]:
    """Return the pairs of a resource and an action that a request needs."""
    if asked.path == "/v2/_catalog":
        return [("registry:catalog", "*")]
    match = re.fullmatch(r"/v2/(.+)/(?:blobs|manifests|tags|referrers)/.*", asked.path)
    if match is None:
        return []
    wanted = [(f"repository:{match[1]}", "pull" if asked.method in ("GET", "HEAD") else "push")]
    mounted_from = asked.query("from")
    return [*wanted, (f"repository:{mounted_from}", "pull")] if mounted_from else wanted


def _grants(scopes: tuple[str, ...], resource: str, action: str) -> bool:
    return any(s.rpartition(":")[0] == resource and action in s.rpartition(":")[2].split(",") for s in scopes)


def _only(asked: Request, *methods: str) -> None:
    if asked.method not in methods:
        raise RefusalError(405, "UNSUPPORTED", f"{asked.method} here", {"Allow": ", ".join(methods)})


def _created(name: str, digest: str) -> Reply:
    return Reply(201, b"", {"Location": f"/v2/{name}/blobs/{digest}", "Docker-Content-Digest": digest})
