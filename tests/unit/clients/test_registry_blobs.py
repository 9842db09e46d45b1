"""Reading blobs from a scripted registry."""

from __future__ import annotations

import json
from typing import Any

import pytest

from syncline.clients.http.addresses import Endpoint, Route
from syncline.clients.http.client import Http
from syncline.clients.registry.auth import RegistryCredentials
from syncline.clients.registry.blob_stream import BlobStream
from syncline.clients.registry.client import Registry
from syncline.clients.registry.manifest import Descriptor
from syncline.clients.registry.reference import digest_matches, digest_of
from syncline.errors import SynclineError
from tests.rig.server import Reply, Request, ScriptedServer, errors_reply
from tests.standins.certificates import Authority
from tests.standins.made_up import Person

CONTENT = bytes(range(256)) * 40
DIGEST = digest_of(CONTENT)
BLOB = f"/v2/org/app/blobs/{DIGEST}"
TO_PUSH = "/v2/org/app/blobs/uploads/"


def ranged(request: Request) -> Reply:
    """Answer a request as a server with range support does."""
    start = int(request.headers.get("range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
    if start == 0:
        return Reply(200, CONTENT)
    if start >= len(CONTENT):
        # the body of docker-registry's refusal is shorter than its Content-Length
        return Reply(416, b"out of range", {"Content-Range": f"bytes */{len(CONTENT)}"}, length=len(CONTENT))
    headers = {"Content-Range": f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"}
    return Reply(206, CONTENT[start:], headers)


def read(stream: BlobStream) -> bytes:
    with stream:
        return b"".join(stream)


def refusal(call: Any, *arguments: Any) -> SynclineError:
    with pytest.raises(SynclineError) as caught:
        call(*arguments)
    return caught.value


def test_a_blob_is_read_to_its_end(server: ScriptedServer, registry: Registry) -> None:
    server.on("GET", BLOB, ranged)
    with registry.open_blob("org/app", DIGEST) as stream:
        assert stream.size == len(CONTENT)
        assert stream.read(100) == CONTENT[:100]
        assert stream.offset == 100
        assert b"".join(stream) == CONTENT[100:]
        assert stream.read() == b""
    assert "range" not in server.requests[0].headers


@pytest.mark.parametrize("offset", [1, 100, len(CONTENT) - 1, len(CONTENT)])
def test_a_blob_is_read_from_an_offset(server: ScriptedServer, registry: Registry, offset: int) -> None:
    server.on("GET", BLOB, ranged)
    stream = registry.open_blob("org/app", DIGEST, offset)
    assert (stream.offset, stream.size) == (offset, len(CONTENT))
    assert read(stream) == CONTENT[offset:]
    assert server.requests[0].headers["range"] == f"bytes={offset}-"


def test_the_first_bytes_are_skipped_without_range_support(server: ScriptedServer, registry: Registry) -> None:
    server.on("GET", BLOB, Reply(200, CONTENT), Reply(200, CONTENT[:50]))
    stream = registry.open_blob("org/app", DIGEST, 100)
    assert (stream.offset, stream.size) == (100, len(CONTENT))
    assert read(stream) == CONTENT[100:]
    assert refusal(registry.open_blob, "org/app", DIGEST, 100).code.name == "BAD_ANSWER"


@pytest.mark.parametrize(
    "content_range", ["bytes 0-5/6", "bytes 99-200/201", "", "lines 100-200/201", "bytes 100-x/201"]
)
def test_a_wrong_range_is_refused(server: ScriptedServer, registry: Registry, content_range: str) -> None:
    server.on("GET", BLOB, Reply(206, CONTENT[:6], {"Content-Range": content_range}))
    assert refusal(registry.open_blob, "org/app", DIGEST, 100).code.name == "BAD_ANSWER"


def test_a_range_of_an_unknown_total_is_accepted(server: ScriptedServer, registry: Registry) -> None:
    server.on("GET", BLOB, Reply(206, CONTENT[100:], {"Content-Range": f"bytes 100-{len(CONTENT) - 1}/*"}))
    stream = registry.open_blob("org/app", DIGEST, 100)
    assert stream.size == len(CONTENT)
    assert read(stream) == CONTENT[100:]


def test_a_chunked_blob_has_no_size(server: ScriptedServer, registry: Registry) -> None:
    server.on("GET", BLOB, Reply(200, CONTENT, chunked=True))
    stream = registry.open_blob("org/app", DIGEST)
    assert stream.size is None
    assert read(stream) == CONTENT


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_a_truncated_blob_is_an_error(server: ScriptedServer, registry: Registry, *, chunked: bool) -> None:
    server.on("GET", BLOB, Reply(200, CONTENT[:5000], length=len(CONTENT), chunked=chunked))
    with registry.open_blob("org/app", DIGEST) as stream:
        error = refusal(lambda: b"".join(stream))
    assert error.code.name == "UNREACHABLE"
    assert error.retried


def test_a_range_shorter_than_announced_is_an_error(server: ScriptedServer, registry: Registry) -> None:
    """Content-Length fits the body but not the range."""
    server.on(
        "GET", BLOB, Reply(206, CONTENT[100:200], {"Content-Range": f"bytes 100-{len(CONTENT) - 1}/{len(CONTENT)}"})
    )
    with registry.open_blob("org/app", DIGEST, 100) as stream:
        error = refusal(lambda: b"".join(stream))
    assert error.code.name == "UNREACHABLE"
    assert f"200 of {len(CONTENT)}" in error.what


def test_the_digest_of_a_blob_is_left_to_the_reader(server: ScriptedServer, registry: Registry) -> None:
    server.on("GET", BLOB, Reply(200, b"something else"))
    assert not digest_matches(DIGEST, read(registry.open_blob("org/app", DIGEST)))


def test_a_gzip_blob_is_not_decompressed(server: ScriptedServer, registry: Registry) -> None:
    server.on("GET", BLOB, Reply(200, CONTENT, {"Content-Encoding": "gzip"}))
    assert read(registry.open_blob("org/app", DIGEST)) == CONTENT


def test_an_absent_blob_is_not_found(server: ScriptedServer, registry: Registry) -> None:
    server.on("GET", BLOB, errors_reply(404, "BLOB_UNKNOWN"))
    assert refusal(registry.open_blob, "org/app", DIGEST).code.name == "NOT_FOUND"


def test_a_503_before_the_blob_is_retried(server: ScriptedServer, registry: Registry) -> None:
    server.on("GET", BLOB, Reply(503), Reply(drop=True), Reply(200, CONTENT))
    assert read(registry.open_blob("org/app", DIGEST)) == CONTENT


def test_a_redirect_to_a_store_gets_no_credentials(
    server: ScriptedServer, other_server: ScriptedServer, registry: Registry, person: Person
) -> None:
    person.credentials = RegistryCredentials("ann", "s3cret")
    challenge = Reply(401, headers={"WWW-Authenticate": "Basic"})
    redirect = Reply(307, headers={"Location": f"{other_server.url}/store/1?sig=a%2Fb"})
    server.on("GET", BLOB, lambda r: redirect if "authorization" in r.headers else challenge)
    other_server.on("GET", "/store/1?sig=a%2Fb", ranged)
    assert read(registry.open_blob("org/app", DIGEST)) == CONTENT
    assert read(registry.open_blob("org/app", DIGEST, 100)) == CONTENT[100:]
    assert all("authorization" not in request.headers for request in other_server.requests)
    assert other_server.requests[1].headers["range"] == "bytes=100-"


def test_a_redirect_within_the_registry_keeps_credentials(
    server: ScriptedServer, registry: Registry, person: Person
) -> None:
    person.credentials = RegistryCredentials("ann", "s3cret")
    server.on(
        "GET", BLOB, Reply(401, headers={"WWW-Authenticate": "Basic"}), Reply(302, headers={"Location": "/other"})
    )
    server.on("GET", "/other", Reply(301, headers={"Location": "there?x=y"}))
    server.on("GET", "/there?x=y", Reply(200, CONTENT))
    assert read(registry.open_blob("org/app", DIGEST)) == CONTENT
    assert "authorization" in server.requests[-1].headers


def test_an_error_of_a_store_contains_no_signature(
    server: ScriptedServer, other_server: ScriptedServer, registry: Registry
) -> None:
    server.on("GET", BLOB, Reply(302, headers={"Location": f"{other_server.url}/store?X-Amz-Signature=s3cret"}))
    denied = b"<?xml version='1.0'?><Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"
    other_server.on("GET", "/store", Reply(403, denied))
    error = refusal(registry.open_blob, "org/app", DIGEST)
    assert error.code.name == "FORBIDDEN"
    assert "AccessDenied: Request has expired" in error.what
    assert "s3cret" not in error.what


def test_a_redirect_to_a_server_with_its_own_credentials_is_refused(
    server: ScriptedServer, other_server: ScriptedServer, registry: Registry, person: Person
) -> None:
    """The credentials of the sync are valid, so the error does not advise to renew them."""
    person.credentials = RegistryCredentials("ann", "s3cret")
    server.on("GET", "/v2/org/app/manifests/1.0", Reply(301, headers={"Location": f"{other_server.url}/v2/new/m/1.0"}))
    other_server.on("GET", "/v2/new/m/1.0", Reply(401, headers={"WWW-Authenticate": "Basic"}))
    error = refusal(registry.manifest, "org/app", "1.0")
    assert error.code.name == "REDIRECTED"
    assert server.url.partition("://")[2] in error.what
    assert other_server.url.partition("://")[2] in error.what
    assert all("authorization" not in request.headers for request in other_server.requests)


@pytest.mark.parametrize(
    ("location", "code"),
    [
        (BLOB, "BAD_ANSWER"),  # an endless redirect to itself
        ("http://169.254.169.254/latest/meta-data/", "ADDRESS_REFUSED"),
        ("file:///etc/passwd", "BAD_ANSWER"),
        ("http://[::1/", "BAD_ANSWER"),
        ("", "BAD_ANSWER"),
    ],
)
def test_an_invalid_redirect_has_a_code(server: ScriptedServer, registry: Registry, location: str, code: str) -> None:
    server.on("GET", BLOB, Reply(302, headers={"Location": location}))
    assert refusal(registry.open_blob, "org/app", DIGEST).code.name == code
    assert len(server.requests) <= 6


def test_a_redirect_away_from_tls_is_refused(server: ScriptedServer, http: Http) -> None:
    authority = Authority()
    with ScriptedServer(tls=authority) as secure:
        registry = Registry(Endpoint.parse(secure.url, route=Route(authority.pem)), lambda: None, http)
        secure.on("GET", BLOB, Reply(302, headers={"Location": f"{server.url}/store"}))
        error = refusal(registry.open_blob, "org/app", DIGEST)
    assert error.code.name == "REDIRECTED"
    assert "without TLS" in error.what
    assert server.requests == []


def test_the_authority_of_the_endpoint_is_trusted_for_its_store(http: Http) -> None:
    authority = Authority()
    with ScriptedServer(tls=authority) as secure, ScriptedServer(tls=authority, name="localhost") as store:
        registry = Registry(Endpoint.parse(secure.url, route=Route(authority.pem)), lambda: None, http)
        secure.on("GET", BLOB, Reply(302, headers={"Location": f"{store.url}/store"}))
        store.on("GET", "/store", Reply(200, CONTENT))
        assert read(registry.open_blob("org/app", DIGEST)) == CONTENT


def test_a_blob_is_present_absent_or_forbidden(server: ScriptedServer, registry: Registry) -> None:
    server.on(
        "HEAD",
        BLOB,
        Reply(200, CONTENT),
        Reply(404),
        Reply(307, headers={"Location": "https://store.example.com"}),
        Reply(403),
    )
    assert [registry.has_blob("org/app", DIGEST) for _ in range(3)] == [True, False, True]
    assert refusal(registry.has_blob, "org/app", DIGEST).code.name == "FORBIDDEN"


WHOLE = Descriptor(DIGEST, len(CONTENT), "")


@pytest.mark.parametrize("size", [0, 10, len(CONTENT), len(CONTENT) + 1])
def test_the_size_of_a_blob_is_read(server: ScriptedServer, registry: Registry, size: int) -> None:
    stored = (CONTENT + b"?")[:size]
    server.on("HEAD", BLOB, Reply(200, stored))
    server.on("GET", BLOB, Reply(200, stored))
    assert registry.blob_size("org/app", WHOLE) == size
    assert len(server.asked("GET", BLOB)) == (size != len(CONTENT)), "only an unexpected size is requested twice"


def test_an_absent_blob_has_no_size(server: ScriptedServer, registry: Registry) -> None:
    server.on("HEAD", BLOB, Reply(404), Reply(200, b"short"), Reply(403))
    server.on("GET", BLOB, Reply(404))
    assert registry.blob_size("org/app", WHOLE) is None
    assert registry.blob_size("org/app", WHOLE) is None, "the blob was removed between the two requests"
    assert refusal(registry.blob_size, "org/app", WHOLE).code.name == "FORBIDDEN"


def test_an_unexpected_size_of_head_is_checked_with_get(server: ScriptedServer, registry: Registry) -> None:
    server.on("HEAD", BLOB, Reply(200, b""))
    server.on("GET", BLOB, Reply(200, CONTENT))
    assert registry.blob_size("org/app", WHOLE) == len(CONTENT)


def test_the_size_of_a_blob_in_a_store_is_read(
    server: ScriptedServer, other_server: ScriptedServer, registry: Registry
) -> None:
    server.on("HEAD", BLOB, Reply(307, headers={"Location": f"{other_server.url}/store"}))
    server.on("GET", BLOB, Reply(307, headers={"Location": f"{other_server.url}/store"}))
    other_server.on("HEAD", "/store", Reply(200, CONTENT), Reply(200, b"short"), Reply(403))
    other_server.on("GET", "/store", Reply(200, b"short"))
    sizes = [registry.blob_size("org/app", WHOLE) for _ in range(3)]
    assert sizes == [len(CONTENT), 5, len(CONTENT)], "an address may be valid for GET only"


def test_an_unreachable_store_is_requested_once(server: ScriptedServer, registry: Registry) -> None:
    server.on("HEAD", BLOB, Reply(307, headers={"Location": "http://127.0.0.1:1/store"}))
    assert [registry.blob_size("org/app", WHOLE) for _ in range(3)] == [len(CONTENT)] * 3
    assert len(server.asked("HEAD", BLOB)) == 4


def test_an_invalid_digest_is_not_requested(server: ScriptedServer, registry: Registry) -> None:
    for digest in ("sha256:x", "sha256:" + "A" * 64, "sha256:../../../etc/passwd"):
        assert refusal(registry.has_blob, "org/app", digest).code.name == "REFERENCE_INVALID"
        assert refusal(registry.open_blob, "org/app", digest).code.name == "REFERENCE_INVALID"
        assert refusal(registry.mount_blob, "org/app", digest, "org/other").code.name == "REFERENCE_INVALID"
    assert server.requests == []


def test_a_blob_is_mounted(server: ScriptedServer, registry: Registry) -> None:
    server.on("POST", TO_PUSH, Reply(201))
    assert registry.mount_blob("org/app", DIGEST, "org/other")
    assert server.requests[0].target == f"{TO_PUSH}?mount={DIGEST}&from=org%2Fother"


def test_an_upload_instead_of_a_mount_is_cancelled(server: ScriptedServer, registry: Registry) -> None:
    server.on("POST", TO_PUSH, Reply(202, headers={"Location": f"{TO_PUSH}1?_state=x"}))
    server.on("DELETE", f"{TO_PUSH}1?_state=x", Reply(204), Reply(404), Reply(500))
    for _ in range(3):
        assert not registry.mount_blob("org/app", DIGEST, "org/other")
    assert len(server.asked("DELETE", f"{TO_PUSH}1")) >= 3


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405])
def test_a_refused_mount_returns_false(server: ScriptedServer, registry: Registry, status: int) -> None:
    server.on("POST", TO_PUSH, Reply(status, headers={"WWW-Authenticate": "Basic"}))
    assert not registry.mount_blob("org/app", DIGEST, "org/other")


def test_the_token_of_a_mount_covers_both_repositories(server: ScriptedServer, registry: Registry) -> None:
    challenge = Reply(401, headers={"WWW-Authenticate": f'Bearer realm="{server.url}/token"'})
    server.on("POST", TO_PUSH, challenge, Reply(201))
    server.on("GET", "/token", Reply(200, json.dumps({"token": "t"}).encode()))
    assert registry.mount_blob("org/app", DIGEST, "org/other")
    (token,) = server.asked("GET", "/token")
    assert token.target == "/token?scope=repository%3Aorg%2Fapp%3Apull%2Cpush&scope=repository%3Aorg%2Fother%3Apull"
