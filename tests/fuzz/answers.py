"""Targets of responses: complete clients whose servers answer with the input.

An input is the body of a response, or a complete response if it begins with ``HTTP/1.``. Three zero bytes separate the
responses to successive requests; the last response answers all further requests.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final, cast
from unittest import mock

import pycurl

from syncline.clients.file_manager.client import FileManager, FilePermissions
from syncline.clients.github.client import GitHub
from syncline.clients.gitlab.client import GitLab
from syncline.clients.http import listings as entries
from syncline.clients.http import transfer
from syncline.clients.http.addresses import DIRECT, Address, Endpoint, Route
from syncline.clients.http.client import Http
from syncline.clients.http.limits import BodyReader
from syncline.clients.http.listings import InvalidEntry, ignore
from syncline.clients.http.rejections import REJECTIONS
from syncline.clients.http.retry import HOST_THROTTLE
from syncline.clients.http.transfer import Channel, ChannelPool, Lines
from syncline.clients.kubernetes.client import PodsSource, ServiceSource, _checked_page, _instances
from syncline.clients.registry.auth import RegistryCredentials
from syncline.clients.registry.client import Registry
from syncline.clients.registry.manifest import MANIFEST_TYPES, Manifest, detect_media_type
from syncline.clients.registry.quay import Quay
from syncline.clients.registry.reference import digest_of
from syncline.clients.replicas.client import MAX_HEAD, ReplicaRequest, _Head
from syncline.clients.s3.client import Bucket
from syncline.clients.s3.sigv4 import AccessKeys
from syncline.clients.s3.xml import NotXmlError, _page, _plain_page, completion, error_code, grants, list_page, parse
from syncline.kinds.tokens.zone_sync import NodeState, causes_of
from tests.fuzz.target import PLANTED, Finding, Target, must, refusals
from tests.standins.made_up import Naps

_MAX_REQUESTS: Final = 400
_HOME: Final = "example.com"
_DIGEST: Final = "sha256:" + "ab" * 32


class _Servers:
    """All servers of a client. Each gives the same responses; only those of `_HOME` may receive credentials."""

    def __init__(self, data: bytes) -> None:
        self._answers = [_framed(each) for each in data.split(b"\0\0\0")]
        self._requests = 0

    def pool(self, address: Address, route: Route) -> ChannelPool:
        del route
        return cast("ChannelPool", _OncePool(lambda: self._connect(address.name)))

    def _connect(self, name: str) -> _Channel:
        self._requests += 1
        if self._requests > _MAX_REQUESTS:
            raise Finding(f"over {_MAX_REQUESTS} requests for one call")
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        return _Channel(name, answer)


class _Channel(Channel):
    """A channel to a server that sends one response and closes."""

    __slots__ = ("_name", "_ours", "_theirs")

    def __init__(self, name: str, answer: bytes) -> None:
        super().__init__("http", DIRECT)
        self._name = name
        self._ours, self._theirs = socket.socketpair()
        self._theirs.setblocking(False)
        with suppress(BlockingIOError):  # a response of hundreds of kilobytes is truncated
            self._theirs.sendall(answer)
        self._theirs.shutdown(socket.SHUT_WR)
        self.easy.setopt(pycurl.CONNECT_TO, ["::192.0.2.1:80"])  # no name is resolved
        self.easy.setopt(pycurl.OPENSOCKETFUNCTION, lambda *_: self._ours)
        self.easy.setopt(pycurl.SOCKOPTFUNCTION, lambda *_: pycurl.SOCKOPT_ALREADY_CONNECTED)

    def start(self, method: str, url: str, fields: list[str], body: bytes | BodyReader | None) -> tuple[Lines, Lines]:
        return super().start(method, url.replace("https://", "http://", 1), fields, body)

    def stop(self) -> None:
        super().stop()
        received = b""
        with suppress(BlockingIOError):
            received = self._theirs.recv(1 << 20)
        self._theirs.close()
        self._ours.close()
        if self._name != _HOME and not self._name.endswith(f".{_HOME}"):
            must(PLANTED.encode() not in received, f"the secret went to {self._name}")
            must(b"authorization" not in received.lower(), f"credentials went to {self._name}")


class _OncePool:
    def __init__(self, make: Callable[[], _Channel]) -> None:
        self.take = make

    def give_back(self, channel: Channel) -> None:
        """Drop the channel: each request gets a new one."""


def _framed(answer: bytes) -> bytes:
    if answer.startswith(b"HTTP/1."):
        return answer
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(answer), answer)


@contextmanager
def _answering(data: bytes) -> Iterator[Http]:
    HOST_THROTTLE._hosts.clear()
    REJECTIONS._identities.clear()
    few = mock.patch.object(entries, "_MAX_EMPTY_PAGES", 20)  # the usual limit takes too long here
    with few, mock.patch.object(transfer, "pool_for", _Servers(data).pool):
        yield Http(Naps().policy(attempts=2))


_Calls = tuple[Callable[[], object], ...]


def _each(data: bytes, made: Callable[[Http], _Calls]) -> None:
    """Make each of the calls with a new client, whose servers begin with the first response."""
    done, number = 0, 1
    while done < number:
        with _answering(data) as http, refusals():
            calls = made(http)
            number = len(calls)
            found = calls[done]()
            if isinstance(found, Iterator):
                for _ in found:
                    pass
        done += 1


def _registry(data: bytes) -> None:
    def calls(http: Http) -> _Calls:
        person = RegistryCredentials("robot", PLANTED)
        registry = Registry(Endpoint.parse(f"https://registry.{_HOME}"), lambda: person, http)
        return (
            lambda: registry.catalog(ignore),
            lambda: registry.tags("team/app", ignore),
            lambda: _consistent(registry.manifest("team/app", "v1")),
            lambda: registry.referrers("team/app", _DIGEST, ignore),
            lambda: _blob(registry),
        )

    _each(data, calls)


def _blob(registry: Registry) -> None:
    registry.begin_upload("team/app")
    with registry.open_blob("team/app", _DIGEST) as stream:
        while stream.read():
            pass


def _consistent(manifest: Manifest) -> None:
    must(manifest.digest == digest_of(manifest.body), "the digest of a manifest is not that of its bytes")


def _manifests(data: bytes) -> None:
    head, _, body = data.partition(b"\n")
    with refusals():
        detect_media_type(head.decode("latin-1"), body, "a manifest")
    for media_type in (*MANIFEST_TYPES, "application/x"):
        manifest = Manifest(digest_of(body), media_type, body)
        for read in (
            manifest.children,
            manifest.needed,
            manifest.layers,
            manifest.blobs,
            manifest.as_entry,
            lambda: manifest.subject,  # noqa: B023 - called at once
        ):
            with refusals():
                read()


def _bucket(data: bytes) -> None:
    keys = AccessKeys("AKIDOFTHEFUZZER", PLANTED)

    def calls(http: Http) -> _Calls:
        bucket = Bucket(Endpoint.parse(f"https://s3.{_HOME}"), "bucket", lambda: keys, http)
        return (
            lambda: bucket.pages("", on_invalid=ignore),
            lambda: bucket.head("a"),
            lambda: bucket.grants("a"),
            lambda: bucket.read("a", 1 << 16),
        )

    _each(data, calls)


def _s3_xml(data: bytes) -> None:
    odd: list[InvalidEntry] = []
    with refusals(NotXmlError):
        list_page(data, odd.append)
    plain = _plain_page(data)
    if plain is not None:
        top, objects = _page(data, odd.append)
        must(objects == plain[1], "the two readers of a page differ")
        for field in ("NextContinuationToken", "IsTruncated"):
            must(top.findtext(field) == plain[0].findtext(field), f"the two readers differ in {field}")
    error_code(data)
    with refusals(NotXmlError):
        grants(data)
    etag = "".join(letter for letter in data.decode("utf-8", "replace") if letter.isprintable())
    read = parse(completion([(1, etag, "")]), "CompleteMultipartUpload").findtext("Part/ETag") or ""
    must(read == etag, "an ETag changes when it is written to XML and read")


def _github(data: bytes) -> None:
    def calls(http: Http) -> _Calls:
        github = GitHub(Endpoint.parse(f"https://api.{_HOME}"), lambda: PLANTED, http)
        return (
            lambda: github.runs("team/builds", "build.yml", ignore),
            lambda: [github.content("team/builds", each).size for each in github.artifacts("team/builds", 1, ignore)],
            lambda: github.logs("team/builds", github.run("team/builds", 1)).size,
        )

    _each(data, calls)


def _gitlab(data: bytes) -> None:
    def calls(http: Http) -> _Calls:
        gitlab = GitLab(Endpoint.parse(f"https://gitlab.{_HOME}"), "team/app", lambda: PLANTED, http)
        return (
            lambda: gitlab.repositories(ignore),
            lambda: gitlab.tags(1, ignore),
            lambda: gitlab.tag(1, "v1"),
        )

    _each(data, calls)


def _quay(data: bytes) -> None:
    def calls(http: Http) -> _Calls:
        quay = Quay(Endpoint.parse(f"https://quay.{_HOME}"), lambda: PLANTED, http)
        return (
            lambda: quay.repositories("org", ignore),
            lambda: quay.tags("org/app", ignore),
        )

    _each(data, calls)


def _file_manager(data: bytes) -> None:
    def calls(http: Http) -> _Calls:
        manager = FileManager(f"https://files.{_HOME}", lambda: PLANTED, http, mock.MagicMock())
        return (
            lambda: manager.get("/a"),
            lambda: manager.events(on_invalid=ignore),
            lambda: manager.permissions("/a"),
            lambda: manager.set_permissions("/a", FilePermissions("rw-r--r--")),
            lambda: manager.rename("/a", "/b"),
            lambda: manager.report({"a": 1}),
        )

    _each(data, calls)


def _probe(data: bytes) -> None:
    """Pass the lines of a response to its head, as libcurl does, until the head refuses one."""
    known: list[_Head] = []
    head = _Head(None, cast("ReplicaRequest", None), known, plain=True)
    taken = b""
    for line in (each + b"\n" for each in data.split(b"\n")):
        refused = head.take(line) is not None
        must(refused == bool(head.garbage), "a line is refused without a reason")
        if refused:
            break
        if head.status is None:
            taken = b"" if line in (b"\r\n", b"\n") else taken + line
        elif known:
            known.clear()
            fields = {name.strip().lower() for name, *_ in (each.split(b":") for each in taken.split(b"\n"))}
            must(200 <= head.status < 600, f"{head.status} is not the status of a final response")
            must(not {b"content-length", b"transfer-encoding"} <= fields, "a response has two lengths")
    must(not known or head.status is not None, "a response without a status is reported")
    must(head.size <= MAX_HEAD or bool(head.garbage), "a head is longer than its limit")
    with suppress(ValueError):
        state = NodeState.parse(data)
        must(
            all(0 <= each < 1 << 63 for each in (state.pending // len(data), state.peers)), "a counter is out of range"
        )
        must(len(causes_of({"a": state}, 2)) <= 2, "an instance has more causes than counters")


def _cluster(data: bytes) -> None:
    for source in (ServiceSource("ns", "gateway"), ServiceSource("ns", "gateway", "http"), PodsSource("ns", "a=b", 80)):
        with refusals():
            page = _checked_page("https://cluster", data)
            for each in _instances(source, page["items"], ignore):
                must(isinstance(each.name, str) and isinstance(each.address, str), "an instance has no name or address")


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


_DESCRIPTOR: Final = {"mediaType": MANIFEST_TYPES[1], "digest": _DIGEST, "size": 2}
_IMAGE: Final = _json(
    {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPES[1],
        "config": {**_DESCRIPTOR, "mediaType": "application/vnd.oci.image.config.v1+json"},
        "layers": [{**_DESCRIPTOR, "urls": ["https://x"]}],
        "subject": _DESCRIPTOR,
        "annotations": {"a": "b"},
    }
)
_INDEX: Final = _json(
    {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPES[0],
        "manifests": [{**_DESCRIPTOR, "platform": {"os": "linux", "architecture": "arm", "variant": "v7"}}],
    }
)
_LISTING: Final = (
    b'<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
    b"<EncodingType>url</EncodingType><Contents><Key>a%2Bb</Key><LastModified>2026-01-02T03:04:05.000Z</LastModified>"
    b"<ETag>&quot;ab&quot;</ETag><Size>3</Size><Owner><ID>x</ID></Owner><StorageClass>STANDARD</StorageClass></Contents>"
    b"<CommonPrefixes><Prefix>f%2F</Prefix></CommonPrefixes><IsTruncated>%b</IsTruncated>%b</ListBucketResult>"
).replace(b"%2", b"%%2")
_PAGES: Final = (_LISTING % (b"false", b""), _LISTING % (b"true", b"<NextContinuationToken>t</NextContinuationToken>"))
_ACL: Final = (
    b"<AccessControlPolicy><Owner><ID>o</ID></Owner><AccessControlList><Grant><Grantee><ID>o</ID></Grantee>"
    b"<Permission>FULL_CONTROL</Permission></Grant></AccessControlList></AccessControlPolicy>"
)
_CHUNKED: Final = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4;x=y\r\nfine\r\n0\r\nTrailer: x\r\n\r\n"
_CHALLENGE: Final = (
    b"HTTP/1.1 401 no\r\nContent-Length: 0\r\nWWW-Authenticate: Bearer "
    b'realm="https://auth.%b/token",service="r"\r\n\r\n\0\0\0{"token":"t","expires_in":300}\0\0\0%b'
)
_MOVED: Final = b"HTTP/1.1 307 on\r\nLocation: https://store.%b/x\r\nContent-Length: 0\r\n\r\n\0\0\0%b"
_RUN: Final = {
    "id": 7,
    "run_attempt": 1,
    "name": "build",
    "path": ".github/workflows/build.yml",
    "head_branch": "main",
    "head_sha": "ab" * 20,
    "status": "completed",
    "conclusion": "success",
    "event": "push",
    "created_at": "2026-01-02T03:04:05Z",
    "updated_at": "2026-01-02T03:04:05Z",
    "run_started_at": "2026-01-02T03:04:05Z",
}
_ARTIFACT: Final = {
    "id": 9,
    "name": "images",
    "size_in_bytes": 12,
    "expired": False,
    "digest": _DIGEST,
    "created_at": "2026-01-02T03:04:05Z",
    "archive_download_url": "https://api.example.com/x",
}
_POD: Final = {
    "metadata": {"name": "a", "deletionTimestamp": None},
    "status": {"podIP": "10.0.0.1", "phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
}
_SLICE: Final = {
    "metadata": {"name": "s"},
    "ports": [{"name": "http", "port": 80}],
    "endpoints": [
        {"addresses": ["10.0.0.1"], "conditions": {"ready": True}, "targetRef": {"kind": "Pod", "name": "a"}}
    ],
}

TARGETS = (
    Target(
        "registry",
        _registry,
        (
            b'{"repositories":["a/b","c"]}',
            b'{"name":"team/app","tags":["v1","v2"]}',
            b'HTTP/1.1 200 OK\r\nLink: </v2/x?n=1>; rel="next"\r\nContent-Length: 24\r\n\r\n{"name":"a","tags":["1"]}',
            _CHALLENGE % (b"example.com", b'{"tags":["a"]}'),
            _CHALLENGE % (b"elsewhere.net", b'{"tags":["a"]}'),
            _MOVED % (b"elsewhere.net", b"blob"),
            b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n%b"
            % (MANIFEST_TYPES[1].encode(), len(_IMAGE), _IMAGE),
            _INDEX,
            _CHUNKED,
            b"HTTP/1.1 202 ok\r\nLocation: /v2/team/app/blobs/uploads/1?a=b\r\nContent-Length: 0\r\n\r\n\0\0\0blob",
        ),
    ),
    Target(
        "manifests",
        _manifests,
        tuple(
            b"\n".join(each)
            for each in (
                (MANIFEST_TYPES[1].encode(), _IMAGE),
                (MANIFEST_TYPES[0].encode(), _INDEX),
                (b"application/vnd.cncf.oras.artifact.manifest.v1+json", _json({"blobs": [_DESCRIPTOR]})),
                (b"", b"[" * 3000),
            )
        ),
    ),
    Target(
        "bucket", _bucket, (*_PAGES, _ACL, _CHUNKED, b"HTTP/1.1 404 no\r\n\r\n<Error><Code>NoSuchKey</Code></Error>")
    ),
    Target(
        "s3-xml",
        _s3_xml,
        (*_PAGES, _ACL, b"<Error><Code>SlowDown</Code></Error>", b"<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>"),
    ),
    Target(
        "github",
        _github,
        (
            _json({"workflow_runs": [_RUN]}),
            _json({"artifacts": [_ARTIFACT]}),
            _json(_RUN),
            _json({"artifacts": [_ARTIFACT]})
            + b"\0\0\0"
            + _MOVED
            % (b"elsewhere.net", b"HTTP/1.1 206 part\r\nContent-Range: bytes 0-0/12\r\nContent-Length: 1\r\n\r\nx"),
        ),
    ),
    Target(
        "gitlab",
        _gitlab,
        (
            _json([{"id": 1, "name": "app", "path": "team/app/app", "location": "x"}]),
            _json([{"name": "v1", "path": "x", "location": "y"}]),
            _json({"name": "v1", "digest": _DIGEST, "total_size": 3, "created_at": "2026-01-02T03:04:05Z"}),
        ),
    ),
    Target(
        "quay",
        _quay,
        (
            _json({"repositories": [{"namespace": "org", "name": "app", "state": "NORMAL"}], "next_page": "t"}),
            _json(
                {"tags": [{"name": "v1", "manifest_digest": _DIGEST, "size": 3}], "has_additional": False, "page": 1}
            ),
        ),
    ),
    Target(
        "file-manager",
        _file_manager,
        (
            _json(
                {"operation": "get", "file_path": "/a", "internal_id": "7", "size": 3, "metadata": "{}", "status": "ok"}
            ),
            _json({"events": [{"event_type": "rename", "file_path": "/a", "new_path": "/b", "timestamp": "1"}]}),
            _json({"file_path": "/a", "permissions": "rw-r--r--", "owner": "o", "group": "g"}),
        ),
    ),
    Target(
        "probe",
        _probe,
        (
            _CHUNKED,
            b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine",
            b"HTTP/1.0 204 no\n\n",
            _json({"zones": {"a": {"records_pending": 7, "records_total": 9}}, "status": {"nodes_online": 1}}),
        ),
    ),
    Target(
        "cluster",
        _cluster,
        (_json({"metadata": {"continue": ""}, "items": [_POD]}), _json({"metadata": {}, "items": [_SLICE]})),
    ),
)
