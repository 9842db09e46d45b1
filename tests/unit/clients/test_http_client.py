"""Requests of the HTTP client: statuses, messages of servers, TLS, and addresses."""

from __future__ import annotations

import contextlib
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from syncline.clients.http import transfer as connections
from syncline.clients.http.addresses import Route
from syncline.clients.http.client import Http
from syncline.errors import SynclineError
from tests.rig.server import Reply, ScriptedServer, errors_reply
from tests.standins.certificates import Authority
from tests.standins.made_up import Naps
from tests.unit.clients.http_requests import OK, failed


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
def test_every_other_status_is_returned_at_once(server: ScriptedServer, http: Http, status: int) -> None:
    server.on("GET", "/a", Reply(status))
    assert http.request("GET", f"{server.url}/a").status == status
    assert len(server.requests) == 1


def test_a_502_in_html_is_reported_by_its_title(server: ScriptedServer, http: Http) -> None:
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


def test_an_unfollowed_redirect_is_reported_with_its_location(server: ScriptedServer, http: Http) -> None:
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
def test_a_full_server_has_its_own_code(
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
def test_messages_of_the_server_are_quoted_short_and_without_secrets(
    server: ScriptedServer, http: Http, body: bytes, words: str
) -> None:
    server.on("GET", "/a", Reply(400, body))
    error = http.request("GET", f"{server.url}/a").error()
    assert error.what == f"GET {server.url}/a answered 400" + (f": {words}" if words else "")
    assert "s3cret" not in error.what


def test_a_refused_connection_is_unreachable(http: Http, naps: Naps) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening
        error = failed(http, "GET", f"http://127.0.0.1:{taken.getsockname()[1]}/")
    assert error.code.name == "UNREACHABLE"
    assert "refused" in error.what
    assert len(naps.slept) == 3


def test_a_silent_server_times_out(server: ScriptedServer, http: Http, naps: Naps) -> None:
    server.on("GET", "/a", Reply(delay=1.0))
    error = failed(http, "GET", f"{server.url}/a", timeout=0.05, retry=naps.policy(attempts=1))
    assert error.code.name == "UNREACHABLE"
    assert "no response within" in error.what


def test_redirects_are_not_followed(server: ScriptedServer, http: Http) -> None:
    server.on("GET", "/a", Reply(302, headers={"Location": "/b"}))
    assert http.request("GET", f"{server.url}/a").header("Location") == "/b"
    assert len(server.requests) == 1


def test_the_environment_is_ignored(server: ScriptedServer, http: Http, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    server.on("GET", "/a", OK)
    http.request("GET", f"{server.url}/a")
    assert "authorization" not in server.requests[0].headers


def test_a_server_of_the_given_authority_is_trusted(http: Http) -> None:
    authority = Authority()
    with ScriptedServer(tls=authority) as server:
        server.on("GET", "/a", OK)
        assert http.request("GET", f"{server.url}/a", route=Route(authority.pem)).body == b"fine"
        for ca in (None, Authority("another").pem):
            error = failed(http, "GET", f"{server.url}/a", route=Route(ca))
            assert error.code.name == "TLS_FAILED"
            assert "could not be verified" in error.what
        assert failed(http, "GET", f"{server.url}/a", route=Route("no certificate")).code.name == "CONFIG_INVALID"


def test_a_certificate_for_another_name_is_refused(http: Http) -> None:
    authority = Authority()
    with ScriptedServer(tls=authority) as server:
        error = failed(http, "GET", f"https://127.0.0.2:{server.port}/a", route=Route(authority.pem))
    assert error.code.name in ("TLS_FAILED", "UNREACHABLE")


def test_tls_to_a_server_without_tls_is_reported(http: Http) -> None:
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
def test_an_invalid_header_value_is_not_sent(server: ScriptedServer, http: Http, value: str) -> None:
    error = failed(http, "GET", f"{server.url}/a", headers={"Authorization": value})
    assert error.code.name == "REFUSED"
    assert "s3cr" not in error.what
    assert server.requests == []


def test_the_resolved_address_is_checked_before_a_request_is_sent(
    server: ScriptedServer, other_server: ScriptedServer, http: Http, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loopback stands for the metadata service here. Its address and names that resolve to it are refused."""
    monkeypatch.setattr(connections, "is_refused", lambda name: name == "127.0.0.1")
    for url in (server.url, other_server.url):
        assert failed(http, "GET", f"{url}/a").code.name == "ADDRESS_REFUSED"
    assert server.requests == other_server.requests == []


def test_many_threads_share_connections(server: ScriptedServer, http: Http) -> None:
    server.on("GET", "/a", OK)
    with ThreadPoolExecutor(16) as threads:
        bodies = list(threads.map(lambda _: http.request("GET", f"{server.url}/a").body, range(400)))
    assert set(bodies) == {b"fine"}
    assert http.requests_made == 400
    assert server.connections <= 16
