from __future__ import annotations

import contextlib
import gzip
import itertools
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate

import pytest

from syncline.clients.http import transfer as connections
from syncline.clients.http.addresses import Route
from syncline.clients.http.client import BODY_LIMIT, Http
from syncline.clients.http.retry import RetryPolicy
from syncline.errors import SynclineError
from tests.rig.server import Reply, ScriptedServer, errors_reply, json_reply
from tests.standins.certificates import Authority
from tests.standins.made_up import Naps

OK = Reply(200, b"fine")


def failed(http: Http, method: str, url: str, **options: object) -> SynclineError:
    with pytest.raises(SynclineError) as caught:
        http.request(method, url, **options)  # type: ignore[arg-type]
    return caught.value


def test_connections_are_kept(server: ScriptedServer, http: Http) -> None:
    server.on("GET", "/a", OK)
    server.on("HEAD", "/a", Reply(404))
    server.on("DELETE", "/a", Reply(204))
    for method in ("GET", "HEAD", "DELETE") * 5:
        http.request(method, f"{server.url}/a")
    assert server.connections == 1
    assert http.requests_made == 15
    assert server.requests[0].headers["user-agent"].startswith("syncline/")
    assert server.requests[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("status", [200, 204, 301, 304, 400, 401, 403, 404, 409, 416, 418, 501])
def test_every_other_answer_is_handed_over_at_once(server: ScriptedServer, http: Http, status: int) -> None:
    server.on("GET", "/a", Reply(status))
    assert http.request("GET", f"{server.url}/a").status == status
    assert len(server.requests) == 1


def test_429_without_a_time_waits_longer_each_time(server: ScriptedServer, http: Http, naps: Naps) -> None:
    server.on("GET", "/a", Reply(429), Reply(429), OK)
    assert http.request("GET", f"{server.url}/a").body == b"fine"
    assert naps.slept == [0.25, 0.5]


def test_429_waits_as_long_as_the_server_says(server: ScriptedServer, http: Http, naps: Naps) -> None:
    server.on("GET", "/a", Reply(429, headers={"Retry-After": "7"}), OK)
    assert http.request("GET", f"{server.url}/a").status == 200
    assert sum(naps.slept) == 7.0


def test_429_with_a_date(server: ScriptedServer, http: Http, naps: Naps) -> None:
    server.on("GET", "/a", Reply(429, headers={"Retry-After": formatdate(0, usegmt=True)}), OK)
    assert http.request("GET", f"{server.url}/a").status == 200
    assert naps.slept == []


def test_a_pause_longer_than_patience_is_the_callers(server: ScriptedServer, http: Http, naps: Naps) -> None:
    server.on("GET", "/a", Reply(429, headers={"Retry-After": "3000"}))
    error = failed(http, "GET", f"{server.url}/a")
    assert (error.code.name, error.retry_after, naps.slept) == ("THROTTLED", 3000.0, [])
    # The next request, of any thread, does not even go out.
    error = failed(http, "GET", f"{server.url}/b")
    assert error.code.name == "THROTTLED"
    assert error.retry_after is not None
    assert error.retry_after > 2990
    assert len(server.requests) == 1


LIMITS = ["primary 403", "primary 429", "secondary 403"]


def limited(limit: str, seconds: int) -> Reply:
    """GitHub's answers to too many requests: a primary limit names the Unix time at which it ends."""
    name, status = limit.split()
    if name == "secondary":
        return Reply(int(status), headers={"Retry-After": str(seconds)})
    reset = str(int(time.time()) + seconds)
    return Reply(int(status), headers={"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": reset})


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_rate_limit_is_waited_for_as_a_429_is(
    server: ScriptedServer, http: Http, naps: Naps, limit: str, method: str
) -> None:
    server.on(method, "/a", limited(limit, 5), OK)
    assert http.request(method, f"{server.url}/a").body == b"fine"
    assert 4 < sum(naps.slept) < 7


@pytest.mark.parametrize("limit", LIMITS)
def test_a_long_wait_is_reported_with_its_end(server: ScriptedServer, http: Http, naps: Naps, limit: str) -> None:
    server.on("GET", "/a", limited(limit, 600))
    for path in ("/a", "/b"):
        before = time.time()
        error = failed(http, "GET", f"{server.url}{path}")
        ends = {time.strftime("until %H:%M:%S UTC", time.gmtime(before + after)) for after in range(590, 610)}
        assert error.code.name == "THROTTLED"
        assert any(end in error.what for end in ends), error.what
    assert len(server.requests) == 1
    assert naps.slept == []


@pytest.mark.parametrize("headers", [{}, {"X-RateLimit-Remaining": "4000", "X-RateLimit-Reset": "1795971258"}])
def test_what_is_merely_forbidden_is_not_waited_for(
    server: ScriptedServer, http: Http, naps: Naps, headers: dict[str, str]
) -> None:
    server.on("GET", "/a", Reply(403, headers=headers))
    answer = http.request("GET", f"{server.url}/a")
    assert (answer.status, answer.error().code.name, naps.slept) == (403, "FORBIDDEN", [])


def test_after_a_429_requests_keep_a_gap_that_eases(server: ScriptedServer, http: Http, naps: Naps) -> None:
    server.on("GET", "/a", Reply(429, headers={"Retry-After": "0"}), OK)
    for _ in range(40):
        http.request("GET", f"{server.url}/a")
    gaps = naps.slept
    assert max(gaps) == 0.05
    assert gaps == sorted(gaps, reverse=True)
    assert len(gaps) < 20, "the gap is forgotten in the end"


def test_the_last_429_is_raised(server: ScriptedServer, http: Http) -> None:
    server.on("GET", "/a", errors_reply(429, "TOOMANYREQUESTS"))
    error = failed(http, "GET", f"{server.url}/a")
    assert error.code.name == "THROTTLED"
    assert "said TOOMANYREQUESTS" in error.what
    assert len(server.requests) == 4


def test_500_is_tried_again_with_growing_pauses(server: ScriptedServer, http: Http, naps: Naps) -> None:
    server.on("GET", "/a", Reply(500), Reply(503), OK)
    assert http.request("GET", f"{server.url}/a").status == 200
    assert naps.slept == [0.25, 0.5]
    assert http.requests_made == 3


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_a_server_error_is_raised_after_the_last_attempt(server: ScriptedServer, http: Http, status: int) -> None:
    server.on("GET", "/a", Reply(status))
    assert failed(http, "GET", f"{server.url}/a").code.name == "SERVER_ERROR"
    assert len(server.requests) == 4


@pytest.mark.parametrize("method", ["GET", "PUT", "POST", "DELETE"])
def test_501_is_a_refusal_and_is_not_repeated(server: ScriptedServer, http: Http, naps: Naps, method: str) -> None:
    server.on(method, "/a", Reply(501, b"<Error><Code>NotImplemented</Code><Message>A header</Message></Error>"), OK)
    answer = http.request(method, f"{server.url}/a", body=None if method == "GET" else b"x", repeatable=True)
    assert answer.status == 501
    assert (len(server.requests), naps.slept) == (1, [])
    assert answer.error().code.name == "REFUSED"
    assert answer.error().what == f"{method} {server.url}/a answered 501: NotImplemented: A header"


def test_502_in_html_is_reported_by_its_title(server: ScriptedServer, http: Http) -> None:
    page = b"<html><head><title>502 Bad Gateway</title></head><body><script>x()</script></body></html>"
    server.on("GET", "/a", Reply(502, page, {"Content-Type": "text/html"}))
    error = failed(http, "GET", f"{server.url}/a?token=secret")
    assert error.code.name == "SERVER_ERROR"
    assert error.what == f"GET {server.url}/a?token=… answered 502: 502 Bad Gateway (an HTML page)"


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (302, "REDIRECTED"),
        (400, "REFUSED"),
        (401, "UNAUTHORIZED"),
        (403, "FORBIDDEN"),
        (404, "NOT_FOUND"),
        (410, "NOT_FOUND"),
        (413, "TOO_LARGE"),
        (418, "REFUSED"),
        (501, "REFUSED"),
    ],
)
def test_statuses_have_codes(server: ScriptedServer, http: Http, status: int, code: str) -> None:
    server.on("GET", "/a", errors_reply(status, "WORD"))
    error = http.request("GET", f"{server.url}/a").error()
    assert error.code.name == code
    assert "WORD: said WORD" in error.what


def test_a_redirect_that_nobody_follows_is_named(server: ScriptedServer, http: Http) -> None:
    server.on("PUT", "/a", Reply(308, headers={"Location": "https://new.example/a?sig=s3cret"}))
    error = http.request("PUT", f"{server.url}/a").error()
    assert (error.code.name, error.retried) == ("REDIRECTED", False)
    assert "redirects to https://new.example/a?sig=…" in error.what


FULL = [
    (
        500,
        b'{"errors":[{"code":"UNKNOWN","message":"unknown error","detail":"write /v/data: no space left on device"}]}',
    ),
    (500, b'{"errors":[{"code":"UNKNOWN","message":"unknown error","detail":{"Enclosed":{"Op":"write","Err":28}}}]}'),
    (403, b'{"errors":[{"code":"DENIED","message":"Quota has been exceeded on namespace"}]}'),  # Quay
    (
        412,  # Harbor
        b'{"errors":[{"message":"adding 3.5 MiB of storage resource will exceed the configured upper limit of 10 MiB"}]}',
    ),
    (403, b"<Error><Code>QuotaExceeded</Code></Error>"),  # Ceph
    (400, b"<Error><Code>XMinioAdminBucketQuotaExceeded</Code><Message>Bucket quota exceeded</Message></Error>"),
    (507, b"<Error><Code>XMinioStorageFull</Code></Error>"),
]
"""Responses of full servers. The first two are those of docker-registry 2.8.2 on a full file system."""


@pytest.mark.parametrize(("status", "body"), FULL)
def test_a_full_server_has_a_separate_code(
    server: ScriptedServer, http: Http, naps: Naps, status: int, body: bytes
) -> None:
    server.on("PUT", "/a", Reply(status, body))
    try:
        error = http.request("PUT", f"{server.url}/a", body=b"content").error()
    except SynclineError as raised:
        error = raised
    assert (error.code.name, error.retried) == ("TARGET_FULL", False)
    assert (len(server.requests), naps.slept) == (1, [])


def test_reading_from_a_full_server_has_no_separate_code(server: ScriptedServer, http: Http) -> None:
    server.on("GET", "/a", Reply(403, b'{"message": "Quota exceeded for quota metric"}'))
    assert http.request("GET", f"{server.url}/a").error().code.name == "FORBIDDEN"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (
            b"<Error><Code>Denied</Code><Message>No &amp; no</Message><StringToSign>s3cret</StringToSign></Error>",
            "Denied: No & no",
        ),
        (b'{"message": "no such thing"}', "no such thing"),
        (b'{"error": "invalid", "error_description": "it expired"}', "it expired"),
        (b"plain\r\n  text\x00", "plain text"),
        (b"see https://h/?sig=s3cret and Bearer s3cret0123456", "see https://h/?sig=… and Bearer …"),
        (b"<p>", "an HTML page"),
        (b"{" * 100_000, "{" * 200 + "…"),
        (b"[1]", ""),
        (b"", ""),
    ],
)
def test_the_servers_words_are_short_and_without_secrets(
    server: ScriptedServer, http: Http, body: bytes, words: str
) -> None:
    server.on("GET", "/a", Reply(400, body))
    error = http.request("GET", f"{server.url}/a").error()
    assert error.what == f"GET {server.url}/a answered 400" + (f": {words}" if words else "")
    assert "s3cret" not in error.what


def test_a_connection_that_closes_unanswered_is_tried_again(server: ScriptedServer, http: Http) -> None:
    server.on("GET", "/a", Reply(drop=True), Reply(200, b"short", length=100), OK)
    assert http.request("GET", f"{server.url}/a").body == b"fine"


def test_a_refused_connection_is_unreachable(http: Http, naps: Naps) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening
        error = failed(http, "GET", f"http://127.0.0.1:{taken.getsockname()[1]}/")
    assert error.code.name == "UNREACHABLE"
    assert "refused" in error.what
    assert len(naps.slept) == 3


def test_a_silent_server_is_not_waited_for(server: ScriptedServer, http: Http, naps: Naps) -> None:
    server.on("GET", "/a", Reply(delay=1.0))
    error = failed(http, "GET", f"{server.url}/a", timeout=0.05, retry=naps.policy(attempts=1))
    assert error.code.name == "UNREACHABLE"
    assert "no response within" in error.what


def test_the_deadline_ends_patience(server: ScriptedServer, http: Http, naps: Naps) -> None:
    server.on("GET", "/a", Reply(500))
    failed(http, "GET", f"{server.url}/a", retry=naps.policy(attempts=100, within=2.0))
    assert naps.slept == [0.25, 0.5, 1.0]
    http.policy = naps.policy(within=0.1)
    failed(http, "GET", f"{server.url}/a")
    assert naps.slept == [0.25, 0.5, 1.0]


def test_after_the_deadline_nothing_is_sent(server: ScriptedServer, http: Http, naps: Naps) -> None:
    server.on("GET", "/a", OK)
    http.policy = naps.policy()
    http.set_deadline(5.0)
    assert http.request("GET", f"{server.url}/a").status == 200
    naps.now += 5.0
    assert failed(http, "GET", f"{server.url}/a").code.name == "TIME_SHORT"
    assert len(server.requests) == 1
    http.set_deadline(5.0)
    assert http.request("GET", f"{server.url}/a").status == 200


@pytest.mark.parametrize("body", [None, b"x", [b"one", b"two"]])
def test_no_server_is_waited_for_beyond_the_deadline(server: ScriptedServer, body: bytes | list[bytes] | None) -> None:
    """Also where the deadline comes near only while a body is sent."""
    now = [1000.0]

    def chunks() -> Iterator[bytes]:
        for chunk in body or ():
            now[0] += 30.0
            yield bytes(chunk)

    http = Http(RetryPolicy(clock=lambda: now[0]))
    http.set_deadline(60.05 if isinstance(body, list) else 0.05)
    server.on("PUT", "/a", Reply(201, delay=1.0))
    error = failed(http, "PUT", f"{server.url}/a", body=chunks() if isinstance(body, list) else body, timeout=60.0)
    assert error.code.name == "TIME_SHORT"


def test_a_request_ended_by_the_deadline_is_time_short(server: ScriptedServer) -> None:
    http = Http()
    http.set_deadline(0.05)
    server.on("GET", "/a", Reply(200, delay=1.0))
    assert failed(http, "GET", f"{server.url}/a").code.name == "TIME_SHORT"


def test_bytes_are_put_again_but_posted_once(server: ScriptedServer, http: Http) -> None:
    for method in ("PUT", "POST"):
        server.on(method, "/a", Reply(500), Reply(201))
    assert http.request("PUT", f"{server.url}/a", body=b"x").status == 201
    assert [r.body for r in server.requests] == [b"x", b"x"]
    assert failed(http, "POST", f"{server.url}/a", body=b"x").code.name == "SERVER_ERROR"
    server.on("POST", "/a", Reply(500), Reply(201))
    assert http.request("POST", f"{server.url}/a", body=b"x", repeatable=True).status == 201
    server.on("POST", "/a", Reply(429), Reply(201))  # not carried out, so it may be sent again
    assert http.request("POST", f"{server.url}/a", body=b"x").status == 201


def test_a_stream_is_sent_once_as_it_comes(server: ScriptedServer, http: Http) -> None:
    server.on("PUT", "/a", Reply(500))
    assert failed(http, "PUT", f"{server.url}/a", body=iter([b"one", b"", b"three"])).code.name == "SERVER_ERROR"
    assert [(r.body, r.chunks) for r in server.requests] == [(b"onethree", (3, 5))]
    server.on("PUT", "/b", Reply(201))
    http.request("PUT", f"{server.url}/b", {"Content-Length": "5"}, iter([b"ab", b"cde"]))
    assert server.requests[-1].body == b"abcde"
    assert server.requests[-1].chunks == ()
    http.request("PUT", f"{server.url}/b", body=iter([]))
    assert server.requests[-1].headers["transfer-encoding"] == "chunked"
    assert server.connections == 1


def test_what_a_stream_raises_breaks_the_request_off(server: ScriptedServer, http: Http) -> None:
    server.on("PUT", "/a", Reply(201))
    server.on("GET", "/a", OK)

    def stream() -> Iterator[bytes]:
        yield b"some"
        raise SynclineError("DIGEST_MISMATCH", "not these bytes")

    assert failed(http, "PUT", f"{server.url}/a", body=stream()).code.name == "DIGEST_MISMATCH"
    assert http.request("GET", f"{server.url}/a").body == b"fine"
    assert [(r.body, r.whole) for r in server.wait_for("PUT", "/a")] == [(b"some", False)]


@pytest.mark.parametrize("reply", [Reply(413, read=10), Reply(401, read=0)])
def test_an_early_refusal_of_a_stream_is_read(server: ScriptedServer, http: Http, reply: Reply) -> None:
    server.on("PUT", "/a", reply)
    taken = itertools.count()
    large = (bytes(1 << 20) for _ in range(1000) if next(taken) >= 0)
    with contextlib.suppress(SynclineError):  # the reset that follows may overtake the answer
        assert http.request("PUT", f"{server.url}/a", body=large).status == reply.status
    assert next(taken) < 100, "the rest was not sent"


def test_an_early_success_is_no_success(server: ScriptedServer, http: Http) -> None:
    server.on("PUT", "/a", Reply(201, read=10))
    endless = (bytes(1 << 20) for _ in range(1000))
    assert failed(http, "PUT", f"{server.url}/a", body=endless).code.name in ("BAD_ANSWER", "UNREACHABLE")


def test_a_body_has_a_limit(server: ScriptedServer, http: Http) -> None:
    server.on("GET", "/large", Reply(200, bytes(BODY_LIMIT + 1)))
    server.on("GET", "/fits", Reply(200, bytes(BODY_LIMIT)))
    bomb = gzip.compress(bytes(BODY_LIMIT + 1))
    server.on("GET", "/bomb", Reply(200, bomb, {"Content-Encoding": "gzip"}))
    assert len(http.request("GET", f"{server.url}/fits").body) == BODY_LIMIT
    for path in ("/large", "/bomb"):
        error = failed(http, "GET", server.url + path, retry=http.policy)
        assert error.code.name == "BAD_ANSWER"
        assert "larger than" in error.what


def test_bodies_of_every_framing(server: ScriptedServer, http: Http) -> None:
    server.on("GET", "/chunked", Reply(200, b"abc", chunked=True))
    server.on("GET", "/gzip", Reply(200, gzip.compress(b"abc"), {"Content-Encoding": "gzip"}))
    server.on("GET", "/close", Reply(200, b"abc", close=True))
    for path in ("/chunked", "/gzip", "/close"):
        assert http.request("GET", server.url + path).body == b"abc"
    server.on("GET", "/wrong", Reply(200, b"abc", {"Content-Encoding": "gzip"}))
    assert failed(http, "GET", f"{server.url}/wrong").code.name == "BAD_ANSWER"


def test_json_that_is_none(server: ScriptedServer, http: Http) -> None:
    server.on("GET", "/a", Reply(200, b"<html>"), json_reply({"a": 1}))
    with pytest.raises(SynclineError, match="not JSON"):
        http.request("GET", f"{server.url}/a").json()
    assert http.request("GET", f"{server.url}/a").json() == {"a": 1}


def test_a_stream_is_read_in_pieces_and_its_connection_kept(server: ScriptedServer, http: Http) -> None:
    server.on("GET", "/a", Reply(200, b"abcdefg"))
    for _ in range(2):
        with http.request("GET", f"{server.url}/a", stream=True) as answer:
            assert [answer.read(3), answer.read(3), answer.read(3), answer.read(3)] == [b"abc", b"def", b"g", b""]
    assert server.connections == 1
    server.on("GET", "/large", Reply(200, bytes(BODY_LIMIT)))
    with http.request("GET", f"{server.url}/large", stream=True) as answer:
        answer.read(1)
    http.request("GET", f"{server.url}/a")
    assert server.connections == 2, "a stream left half read takes its connection with it"


@pytest.mark.parametrize("chunked", [True, False])
def test_a_stream_cut_short_is_unreachable(server: ScriptedServer, http: Http, chunked: bool) -> None:
    server.on("GET", "/a", Reply(200, b"abc", length=100, chunked=chunked))
    with http.request("GET", f"{server.url}/a", stream=True) as answer:
        assert answer.read(2) == b"ab"
        with pytest.raises(SynclineError) as caught:
            list(iter(lambda: answer.read(2), b""))
    assert caught.value.code.name == "UNREACHABLE"


def test_redirects_are_not_followed(server: ScriptedServer, http: Http) -> None:
    server.on("GET", "/a", Reply(302, headers={"Location": "/b"}))
    assert http.request("GET", f"{server.url}/a").header("Location") == "/b"
    assert len(server.requests) == 1


def test_nothing_is_taken_from_the_environment(
    server: ScriptedServer, http: Http, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    server.on("GET", "/a", OK)
    http.request("GET", f"{server.url}/a")
    assert "authorization" not in server.requests[0].headers


def test_tls_by_an_authority_of_ones_own(http: Http) -> None:
    authority = Authority()
    with ScriptedServer(tls=authority) as server:
        server.on("GET", "/a", OK)
        assert http.request("GET", f"{server.url}/a", route=Route(authority.pem)).body == b"fine"
        for ca in (None, Authority("another").pem):
            error = failed(http, "GET", f"{server.url}/a", route=Route(ca))
            assert error.code.name == "TLS_FAILED"
            assert "could not be verified" in error.what
        assert failed(http, "GET", f"{server.url}/a", route=Route("no certificate")).code.name == "CONFIG_INVALID"


def test_a_certificate_of_another_name_is_refused(http: Http) -> None:
    authority = Authority()
    with ScriptedServer(tls=authority) as server:
        error = failed(http, "GET", f"https://127.0.0.2:{server.port}/a", route=Route(authority.pem))
    assert error.code.name in ("TLS_FAILED", "UNREACHABLE")


def test_tls_to_a_server_without_it(http: Http) -> None:
    def answer(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with connection, contextlib.suppress(OSError):
            connection.recv(1)
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(4096):
                pass

    with socket.create_server(("127.0.0.1", 0)) as listening, ThreadPoolExecutor(1) as pool:
        answered = pool.submit(answer, listening)
        error = failed(http, "GET", f"https://127.0.0.1:{listening.getsockname()[1]}/a", timeout=5.0)
        answered.result()
    assert error.code.name == "TLS_FAILED"
    assert "`plain_http: true`" in error.what


@pytest.mark.parametrize("value", ["Bearer s3cret\n", "Bearer s3cret\r\nX: y", "Bearer s3cr\u00e9t"])
def test_a_header_that_cannot_be_sent(server: ScriptedServer, http: Http, value: str) -> None:
    error = failed(http, "GET", f"{server.url}/a", headers={"Authorization": value})
    assert error.code.name == "REFUSED"
    assert "s3cr" not in error.what
    assert server.requests == []


def test_who_a_name_leads_to_is_checked_before_anything_is_sent(
    server: ScriptedServer, elsewhere: ScriptedServer, http: Http, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With loopback in the role of the metadata service: its address is refused, and so is a name that leads there."""
    monkeypatch.setattr(connections, "is_refused", lambda name: name == "127.0.0.1")
    for url in (server.url, elsewhere.url):
        assert failed(http, "GET", f"{url}/a").code.name == "ADDRESS_REFUSED"
    assert server.requests == elsewhere.requests == []


def test_many_threads_at_once(server: ScriptedServer, http: Http) -> None:
    server.on("GET", "/a", OK)
    with ThreadPoolExecutor(16) as threads:
        bodies = list(threads.map(lambda _: http.request("GET", f"{server.url}/a").body, range(400)))
    assert set(bodies) == {b"fine"}
    assert http.requests_made == 400
    assert server.connections <= 16
