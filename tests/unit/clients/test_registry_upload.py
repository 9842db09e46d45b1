"""Writing blobs to a scripted registry."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest

from syncline.clients.registry.client import Registry
from syncline.clients.registry.reference import digest_of
from syncline.clients.registry.upload import MAX_REPLAY, BlobUpload
from syncline.errors import SynclineError
from tests.rig.server import Reply, Request, ScriptedServer, errors_reply, json_reply

CONTENT = b"0123456789" * 100
DIGEST = digest_of(CONTENT)
BEGIN = "/v2/org/app/blobs/uploads/"
BLOB = f"/v2/org/app/blobs/{DIGEST}"
DONE = Reply(201, headers={"Docker-Content-Digest": DIGEST})


def at(location: str, end: int | None = None, status: int = 202) -> Reply:
    """Return the response that continues an upload at ``location``, with the bytes up to ``end`` stored."""
    return Reply(status, headers={"Location": location, **({} if end is None else {"Range": f"0-{end}"})})


def begun(server: ScriptedServer, registry: Registry, location: str = f"{BEGIN}1?_state=a%2Fb") -> BlobUpload:
    server.on("POST", BEGIN, at(location))
    return registry.begin_upload("org/app")


def refusal(call: Any, *arguments: Any) -> SynclineError:
    with pytest.raises(SynclineError) as caught:
        call(*arguments)
    return caught.value


@pytest.mark.parametrize(
    ("location", "put"),
    [
        (f"{BEGIN}1", f"{BEGIN}1?digest={DIGEST}"),
        (f"{BEGIN}1?_state=a%2Fb", f"{BEGIN}1?_state=a%2Fb&digest={DIGEST}"),
        ("1?x", f"{BEGIN}1?x&digest={DIGEST}"),
        ("ABSOLUTE/up/1?_state=x", f"/up/1?_state=x&digest={DIGEST}"),
    ],
)
def test_one_put_is_sent_to_the_location_of_the_upload(
    server: ScriptedServer, registry: Registry, location: str, put: str
) -> None:
    upload = begun(server, registry, location.replace("ABSOLUTE", server.url))
    server.on("PUT", put, DONE)
    upload.put(DIGEST, CONTENT, len(CONTENT))
    assert server.requests[-1].body == CONTENT
    assert server.requests[-1].headers["content-type"] == "application/octet-stream"
    assert server.requests[-1].headers["content-length"] == "1000"


def test_a_location_at_another_host_gets_no_bytes(
    server: ScriptedServer, other_server: ScriptedServer, registry: Registry
) -> None:
    server.on("POST", BEGIN, at(f"{other_server.url}/up"))
    error = refusal(registry.begin_upload, "org/app")
    assert error.code.name == "REDIRECTED"
    assert other_server.url.partition("://")[2] in error.what
    assert other_server.requests == []


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (Reply(202), "BAD_ANSWER"),
        (errors_reply(403, "DENIED"), "FORBIDDEN"),
        (errors_reply(404, "NAME_UNKNOWN"), "PROJECT_ABSENT"),
        (errors_reply(405, "UNSUPPORTED"), "READ_ONLY"),
        (Reply(200), "BAD_ANSWER"),
    ],
)
def test_a_refused_start_of_an_upload_has_a_code(
    server: ScriptedServer, registry: Registry, answer: Reply, code: str
) -> None:
    server.on("POST", BEGIN, answer)
    assert refusal(registry.begin_upload, "org/app").code.name == code


def test_the_start_of_an_upload_is_retried(server: ScriptedServer, registry: Registry) -> None:
    server.on("POST", BEGIN, Reply(500), Reply(drop=True), Reply(429), at("/up"))
    registry.begin_upload("org/app")
    assert len(server.requests) == 4


@pytest.mark.parametrize("status", [200, 201, 204])
def test_a_stream_is_put_with_its_length(server: ScriptedServer, registry: Registry, status: int) -> None:
    upload = begun(server, registry, "/up")
    server.on("PUT", "/up", Reply(status))
    upload.put(DIGEST, iter([CONTENT[:300], CONTENT[300:]]), len(CONTENT))
    assert (server.requests[-1].body, server.requests[-1].chunks) == (CONTENT, ())


@pytest.mark.parametrize("size", [len(CONTENT) - 1, len(CONTENT) + 1])
def test_a_put_of_another_size_than_announced_is_refused(server: ScriptedServer, registry: Registry, size: int) -> None:
    upload = begun(server, registry, "/up")
    server.on("PUT", "/up", DONE)
    error = refusal(upload.put, DIGEST, iter([CONTENT[:300], CONTENT[300:]]), size)
    assert error.code.name == "BAD_ANSWER"
    assert not any(request.whole for request in server.wait_for("PUT", "/up")), "no complete blob reached the registry"
    assert refusal(upload.put, DIGEST, CONTENT, size).code.name == "BAD_ANSWER"


def test_a_failed_put_of_bytes_is_retried_in_a_new_session(server: ScriptedServer, registry: Registry) -> None:
    server.on("POST", BEGIN, at("/up1"), at("/up2"), at("/up3"))
    server.on("PUT", "/up1", Reply(500))
    server.on("PUT", "/up2", Reply(drop=True, read=100))
    server.on("PUT", "/up3", DONE)
    server.on("HEAD", BLOB, Reply(404))
    registry.begin_upload("org/app").put(DIGEST, CONTENT, len(CONTENT))
    assert len(server.asked("POST", BEGIN)) == 3


def test_a_put_with_a_lost_response_succeeds(server: ScriptedServer, registry: Registry) -> None:
    upload = begun(server, registry, "/up")
    server.on("PUT", "/up", Reply(drop=True))
    server.on("HEAD", BLOB, Reply(200))
    upload.put(DIGEST, CONTENT, len(CONTENT))
    assert len(server.asked("PUT", "/up")) == 1


def test_a_put_that_always_fails_is_an_error(server: ScriptedServer, registry: Registry) -> None:
    upload = begun(server, registry, "/up")
    server.on("PUT", "/up", Reply(502, b"<html><title>Bad Gateway</title>"))
    server.on("HEAD", BLOB, Reply(404))
    assert refusal(upload.put, DIGEST, CONTENT, len(CONTENT)).code.name == "SERVER_ERROR"
    assert len(server.asked("PUT", "/up")) == 3


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (errors_reply(400, "DIGEST_INVALID"), "DIGEST_MISMATCH"),
        (Reply(201, headers={"Docker-Content-Digest": "sha256:" + "0" * 64}), "DIGEST_MISMATCH"),
        (Reply(413, b"<html><title>413 Request Entity Too Large</title></html>"), "TOO_LARGE"),
        (errors_reply(403, "DENIED"), "FORBIDDEN"),
        (errors_reply(400, "NAME_INVALID"), "REFUSED"),
    ],
)
def test_refused_bytes_have_a_code(server: ScriptedServer, registry: Registry, answer: Reply, code: str) -> None:
    upload = begun(server, registry, "/up")
    server.on("PUT", "/up", answer)
    assert refusal(upload.put, DIGEST, CONTENT, len(CONTENT)).code.name == code
    assert refusal(upload.put, DIGEST, iter([CONTENT]), len(CONTENT)).code.name == code
    assert len(server.asked("PUT", "/up")) == 2


def test_a_large_blob_is_written_in_several_streams(server: ScriptedServer, registry: Registry) -> None:
    upload = begun(server, registry, "/up?s=0")
    server.on("PATCH", "/up?s=0", at("/up?s=1", 599))
    server.on("PATCH", "/up?s=1", at("?s=2", 999))
    server.on("PUT", f"/up?s=2&digest={DIGEST}", DONE)
    assert upload.write([CONTENT[:500], CONTENT[500:600]]) == 600
    assert upload.write(iter([CONTENT[600:]]), total=1000) == upload.offset == 1000
    upload.finish(DIGEST)
    first, second = server.asked("PATCH", "/up")
    assert (first.chunks, first.headers.get("content-range")) == ((500, 100), None)
    assert (second.chunks, second.headers.get("content-range")) == ((400,), "600-999")
    assert server.requests[-1].headers["content-length"] == "0"


def test_an_empty_stream_is_written(server: ScriptedServer, registry: Registry) -> None:
    upload = begun(server, registry, "/up")
    server.on("PATCH", "/up", at("/up", 0))
    assert upload.write([]) == 0
    assert upload.write([b""], total=5) == 0


def test_an_error_of_the_source_is_raised(server: ScriptedServer, registry: Registry) -> None:
    upload = begun(server, registry, "/up")
    server.on("PATCH", "/up", at("/up", 999))

    def broken() -> Iterator[bytes]:
        yield CONTENT
        raise SynclineError("THROTTLED", "the source is tired", retry_after=5)

    assert refusal(upload.write, broken()).what == "the source is tired"
    assert upload.offset == 0
    assert [request.whole for request in server.wait_for("PATCH", "/up")] == [False]


def test_a_registry_that_stores_less_than_was_sent_is_an_error(server: ScriptedServer, registry: Registry) -> None:
    upload = begun(server, registry, "/up")
    server.on("PATCH", "/up", at("/up", 499))
    assert refusal(upload.write, [CONTENT]).code.name == "BAD_ANSWER"
    assert upload.offset == 0


@pytest.mark.parametrize("range_header", [None, "0-999", "bytes=0-999", "0-1000", "nonsense"])
def test_other_forms_of_the_range_header_are_accepted(
    server: ScriptedServer, registry: Registry, range_header: str | None
) -> None:
    upload = begun(server, registry, "/up")
    server.on("PATCH", "/up", Reply(202, headers={} if range_header is None else {"Range": range_header}))
    assert upload.write([CONTENT]) == 1000


@pytest.mark.parametrize(
    ("answer", "offset"),
    [
        (at("/up?s=9", 599, 204), 600),
        (at("/up?s=9", 0, 204), 0),
        (Reply(204, headers={"Range": "bytes=0-600"}), 600),  # Quay sends no Location, and the end is exclusive
        (Reply(204, headers={"Range": "bytes=0-0"}), 0),
        (Reply(204, headers={"Range": "0-600"}), 600),
    ],
)
def test_the_status_of_an_upload_is_its_offset(
    server: ScriptedServer, registry: Registry, answer: Reply, offset: int
) -> None:
    upload = begun(server, registry, "/up")
    server.on("GET", "/up", answer)
    assert upload.status() == upload.offset == offset
    assert upload.state()["target"] == ("/up?s=9" if dict(answer.headers).get("Location") else "/up")


@pytest.mark.parametrize(
    "answer",
    [errors_reply(404, "BLOB_UPLOAD_UNKNOWN"), Reply(404), Reply(416), Reply(204), Reply(204, headers={"Range": "x"})],
)
def test_a_forgotten_upload_is_lost(server: ScriptedServer, registry: Registry, answer: Reply) -> None:
    upload = begun(server, registry, "/up")
    for method in ("GET", "PATCH", "PUT"):
        server.on(method, "/up", answer)
    server.on("HEAD", BLOB, Reply(404))
    error = refusal(upload.status)
    assert error.code.name == "UPLOAD_LOST"
    assert error.retried
    if answer.status >= 400:
        assert refusal(upload.write, [CONTENT]).code.name == "UPLOAD_LOST"
        assert refusal(upload.finish, DIGEST).code.name == "UPLOAD_LOST"


def test_an_upload_is_resumed_by_another_process(server: ScriptedServer, registry: Registry) -> None:
    server.on("POST", BEGIN, Reply(202, headers={"Location": "/up?s=0"}))
    upload = registry.begin_upload("org/app")
    server.on("PATCH", "/up?s=0", at("/up?s=1", 599))
    upload.write([CONTENT[:600]])
    state = json.loads(json.dumps(upload.state()))
    again = registry.resume_upload("org/app", state)
    assert (again.offset, again.state()) == (600, state)
    server.on("PATCH", "/up?s=1", at("/up?s=2", 999))
    server.on("PUT", "/up", DONE)
    assert again.write([CONTENT[600:]]) == 1000
    again.finish(DIGEST)


@pytest.mark.parametrize(
    "state", [{}, {"target": 1, "offset": 0}, {"target": "https://evil.com", "offset": 0}, {"target": "/up"}]
)
def test_an_invalid_state_is_a_lost_upload(registry: Registry, state: dict[str, Any]) -> None:
    assert refusal(registry.resume_upload, "org/app", state).code.name == "UPLOAD_LOST"


def test_a_finish_with_a_lost_response_succeeds(server: ScriptedServer, registry: Registry) -> None:
    upload = begun(server, registry, "/up")
    server.on("PUT", "/up", Reply(drop=True), errors_reply(404, "BLOB_UPLOAD_UNKNOWN"))
    server.on("HEAD", BLOB, Reply(200))
    upload.finish(DIGEST)


def test_a_finish_with_other_bytes_is_a_digest_mismatch(server: ScriptedServer, registry: Registry) -> None:
    upload = begun(server, registry, "/up")
    server.on("PUT", "/up", errors_reply(400, "DIGEST_INVALID"))
    assert refusal(upload.finish, DIGEST).code.name == "DIGEST_MISMATCH"


def test_a_cancel_never_fails(server: ScriptedServer, registry: Registry) -> None:
    upload = begun(server, registry, "/up")
    server.on("DELETE", "/up", Reply(204), Reply(404), Reply(500))
    for _ in range(3):
        upload.cancel()


class Guarded:
    """A registry whose tokens can expire at any time."""

    def __init__(self, server: ScriptedServer) -> None:
        self.server = server
        self.made = itertools.count(1)
        self.good = ""
        server.on("GET", "/token", self.give)
        server.on("POST", BEGIN, self.guard(at("/up")))
        server.on("PATCH", "/up", self.guard(at("/up")))
        server.on("GET", "/up", self.guard(at("/up", 499, 204)))
        server.on("PUT", "/up", self.guard(DONE))

    def give(self, _: Request) -> Reply:
        self.good = f"token-{next(self.made)}"
        return json_reply({"token": self.good, "expires_in": 300})

    def guard(self, answer: Reply) -> Any:
        refused = errors_reply(401, "UNAUTHORIZED", WWW_Authenticate=f'Bearer realm="{self.server.url}/token"')
        return lambda r: answer if r.headers.get("authorization") == f"Bearer {self.good}" else refused


def test_a_token_that_expires_within_a_layer_is_renewed(server: ScriptedServer, registry: Registry) -> None:
    guarded = Guarded(server)
    upload = registry.begin_upload("org/app")
    upload.write([CONTENT[:500]])
    guarded.good = "ended"
    assert upload.write(iter([CONTENT[500:700], CONTENT[700:]])) == 1000
    guarded.good = "ended"
    upload.finish(DIGEST)
    guarded.good = "ended"
    upload.put(DIGEST, iter([CONTENT]), 1000)
    guarded.good = "ended"
    upload.put(DIGEST, CONTENT, 1000)
    patches = server.asked("PATCH", "/up")
    assert [p.body for p in patches] == [CONTENT[:500], CONTENT[500:], CONTENT[500:]]
    assert len(server.asked("GET", "/token")) == 5


def test_a_token_that_expires_after_too_many_bytes_loses_the_upload(server: ScriptedServer, registry: Registry) -> None:
    guarded = Guarded(server)
    upload = registry.begin_upload("org/app")
    guarded.good = "ended"
    chunk = bytes(MAX_REPLAY // 2)
    assert refusal(upload.write, iter([chunk, chunk, b"x"])).code.name == "UPLOAD_LOST"
    # The next attempt has a new token and continues at the offset of the registry.
    assert upload.status() == 500
    assert upload.write(iter([CONTENT[500:]])) == 1000


def test_a_token_without_push_access_is_forbidden(server: ScriptedServer, registry: Registry) -> None:
    guarded = Guarded(server)
    upload = registry.begin_upload("org/app")
    answer = f'Bearer realm="{server.url}/token",error="insufficient_scope"'
    server.on("PATCH", "/up", errors_reply(401, "DENIED", WWW_Authenticate=answer))
    assert refusal(upload.write, [CONTENT]).code.name == "FORBIDDEN"
    assert guarded.good == "token-1"


@pytest.mark.parametrize("read", [0, 100])
def test_an_upload_continues_after_a_closed_connection(server: ScriptedServer, registry: Registry, read: int) -> None:
    upload = begun(server, registry, "/up")
    server.on("PATCH", "/up", Reply(drop=True, read=read), at("/up", 999))
    server.on("GET", "/up", at("/up", 499, 204))
    large = (bytes(1 << 20) for _ in range(64))
    error = refusal(upload.write, large)
    assert error.code.name == "UNREACHABLE"
    assert error.retried
    assert upload.status() == 500
    assert upload.write([CONTENT[500:]]) == 1000


def test_a_throttled_upload_is_not_retried_automatically(server: ScriptedServer, registry: Registry) -> None:
    upload = begun(server, registry, "/up")
    server.on("PATCH", "/up", Reply(429, headers={"Retry-After": "3"}))
    error = refusal(upload.write, [CONTENT])
    assert (error.code.name, error.retry_after) == ("THROTTLED", 3.0)
    assert len(server.asked("PATCH", "/up")) == 1


@pytest.mark.parametrize("total", [None, len(CONTENT)])
def test_a_piece_of_known_size_has_a_content_range(
    server: ScriptedServer, registry: Registry, total: int | None
) -> None:
    upload = begun(server, registry, "/up1")
    server.on("PATCH", "/up1", at("/up2", 599))
    server.on("PATCH", "/up2", at("/up3", 799))
    upload.write([CONTENT[:600]], total, 600)
    upload.write([CONTENT[600:800]], total, 200)
    (second,) = server.asked("PATCH", "/up2")
    assert (second.headers["content-range"], second.headers["content-length"]) == ("600-799", "200")


def test_a_refused_size_is_not_a_wrong_digest(server: ScriptedServer, registry: Registry) -> None:
    upload = begun(server, registry, "/up1")
    server.on("PATCH", "/up1", errors_reply(400, "SIZE_INVALID"))
    error = refusal(upload.write, [CONTENT], None, len(CONTENT))
    assert error.code.name == "REFUSED"
    assert "SIZE_INVALID" in error.what
