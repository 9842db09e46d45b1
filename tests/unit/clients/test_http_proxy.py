"""Requests through a proxy. Only requests that name a proxy use it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from syncline.clients.http import transfer
from syncline.clients.http.addresses import DIRECT, Route
from syncline.clients.http.client import Http
from syncline.errors import SynclineError
from syncline.secrets import Reference, Secrets, redact
from syncline.wiring.dependencies import route_of
from tests.rig.server import Reply, ScriptedServer
from tests.standins.certificates import Authority
from tests.standins.proxy import Proxy, http_proxy

AUTHORITY = Authority()
CREDENTIALS = {"Authorization": "Bearer of-the-server"}


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with http_proxy() as running:
        yield running


@pytest.fixture
def secure() -> Iterator[ScriptedServer]:
    with ScriptedServer(tls=AUTHORITY) as running:
        running.on("GET", "/a", Reply(200, b"fine"))
        yield running


def failed(http: Http, url: str, route: Route) -> SynclineError:
    with pytest.raises(SynclineError) as caught:
        http.request("GET", url, route=route)
    return caught.value


def test_https_is_tunnelled(secure: ScriptedServer, proxy: Proxy, http: Http) -> None:
    secure.on("PUT", "/b", Reply(201))
    route = Route(AUTHORITY.pem, proxy.url)
    for _ in range(2):
        answer = http.request("GET", f"{secure.url}/a", CREDENTIALS, route=route)
        assert (answer.status, answer.body, answer.header("X-Proxy")) == (200, b"fine", "")
        body = iter([b"x" * 100_000] * 10)
        assert http.request("PUT", f"{secure.url}/b", {"Content-Length": "1000000"}, body, route=route).status == 201
    assert proxy.requests == [f"CONNECT 127.0.0.1:{secure.port}"], "one tunnel is kept for all requests"
    assert "of-the-server" not in "".join(proxy.heads)
    assert [len(request.body) for request in secure.requests] == [0, 1_000_000] * 2
    assert all("proxy-connection" not in request.headers for request in secure.requests)


def test_http_is_forwarded(server: ScriptedServer, proxy: Proxy, http: Http) -> None:
    """A proxy may answer from its cache, so reads request the response of the server."""
    server.on("GET", "/a", Reply(200, b"fine"))
    server.on("PUT", "/b", Reply(201))
    route = Route(proxy=proxy.url)
    assert http.request("GET", f"{server.url}/a?b=c", route=route).body == b"fine"
    assert http.request("PUT", f"{server.url}/b", {}, b"new", route=route).status == 201
    assert proxy.requests == [f"GET {server.url}/a?b=c", f"PUT {server.url}/b"]
    assert [request.headers.get("cache-control") for request in server.requests] == ["no-cache", None]
    assert server.requests[1].body == b"new"


def test_connections_are_not_shared_between_routes(secure: ScriptedServer, proxy: Proxy, http: Http) -> None:
    with http_proxy() as other:
        routes = [Route(AUTHORITY.pem), Route(AUTHORITY.pem, proxy.url), Route(AUTHORITY.pem, other.url)] * 2
        for route in routes:
            http.request("GET", f"{secure.url}/a", route=route)
        assert (secure.connections, len(proxy.heads), len(other.heads)) == (3, 1, 1)


def test_the_variable_no_proxy_is_ignored(
    server: ScriptedServer, proxy: Proxy, http: Http, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "*")
    server.on("GET", "/a", Reply())
    http.request("GET", f"{server.url}/a", route=Route(proxy=proxy.url))
    assert len(proxy.heads) == 1


def test_the_name_is_resolved_by_the_proxy(proxy: Proxy, http: Http) -> None:
    error = failed(http, "https://registry.invalid/a", Route(proxy=proxy.url))
    assert proxy.requests[0] == "CONNECT registry.invalid:443"
    host = proxy.url.removeprefix("http://")
    assert error.code.name == "UNREACHABLE"
    assert error.what == (f"GET https://registry.invalid/a through the proxy {host}: the proxy answered 503 to CONNECT")


@pytest.mark.parametrize("status", ["403 Forbidden", "407 Proxy Authentication Required"])
def test_a_refusal_of_the_proxy_is_reported(proxy: Proxy, http: Http, status: str) -> None:
    proxy.refuse = status
    url = proxy.url.replace("http://", "http://ann:hunter2@")
    error = failed(http, "https://registry.example/a", Route(proxy=url))
    assert error.code.name == "PROXY_REFUSED"
    assert proxy.url.removeprefix("http://") in error.what
    assert f"answered {status[:3]} to CONNECT" in error.what
    assert "hunter2" not in str(error)
    assert len(proxy.heads) == 1, "a refusal of the proxy is not retried"
    assert "Proxy-Authorization: Basic YW5uOmh1bnRlcjI=" in proxy.heads[0]


def test_a_407_of_the_proxy_for_http_is_reported(server: ScriptedServer, proxy: Proxy, http: Http) -> None:
    proxy.refuse = "407 Proxy Authentication Required"
    error = http.request("GET", f"{server.url}/a", CREDENTIALS, route=Route(proxy=proxy.url)).error()
    assert error.code.name == "PROXY_REFUSED"
    assert error.what.endswith(f"through the proxy {proxy.url.removeprefix('http://')} answered 407")


@pytest.mark.parametrize(
    ("status", "code"), [("408 Request Timeout", "UNREACHABLE"), ("429 Too Many Requests", "THROTTLED")]
)
def test_temporary_failures_of_the_proxy_have_a_code(proxy: Proxy, http: Http, status: str, code: str) -> None:
    proxy.refuse = status
    error = failed(http, f"https://status-{status[:3]}.example/a", Route(proxy=proxy.url))
    assert (error.code.name, error.retried) == (code, True)


@pytest.mark.parametrize("host", ["127.0.0.1:1", "proxy.invalid:3128"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_an_absent_proxy_is_unreachable(http: Http, scheme: str, host: str) -> None:
    error = failed(http, f"{scheme}://registry.example/a", Route(proxy=f"http://ann:hunter2@{host}"))
    assert error.code.name == "UNREACHABLE"
    assert f" through the proxy {host}: " in error.what
    assert "hunter2" not in str(error)


@pytest.mark.parametrize("host", ["169.254.169.254", "2852039166", "[::ffff:169.254.169.254]", "metadata.goog"])
def test_a_refused_address_is_not_sent_to_the_proxy(proxy: Proxy, http: Http, host: str) -> None:
    assert failed(http, f"http://{host}/a", Route(proxy=proxy.url)).code.name == "ADDRESS_REFUSED"
    assert proxy.heads == []


def test_the_address_of_the_proxy_is_checked(proxy: Proxy, http: Http, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "is_refused", lambda name: name == "127.0.0.1")
    assert failed(http, "https://registry.example/a", Route(proxy=proxy.url)).code.name == "ADDRESS_REFUSED"
    assert proxy.heads == []


@pytest.mark.parametrize(
    "url",
    [
        *("http://proxy.example", "https://proxy.example:3128", "socks5://h:1080", "http://h:3128/x", "h:3128", ""),
        *("http://h:0", "http://h:99999", "http://ann@h:1", "http://ann:@h:1"),
        # git and libcurl would end the user information at another character.
        *(f"http://ann:hunter{character}2@h:3128" for character in "#?\\/@ü \n"),
        "http://169.254.1.1?@127.0.0.1:9",
    ],
)
def test_an_invalid_url_of_a_proxy_is_refused(url: str) -> None:
    with pytest.raises(SynclineError, match="CONFIG_INVALID"):
        Route(proxy=url)
    assert DIRECT.through == ""


def test_the_password_of_a_proxy_is_redacted() -> None:
    secrets = Secrets(lambda: None, lambda: None, {"PROXY": "http://ann:hunter%2342@proxy.example:3128"})  # type: ignore[arg-type, return-value]
    route = route_of(secrets, None, Reference.parse("env:PROXY"))
    assert route.proxy == "http://ann:hunter%2342@proxy.example:3128"
    assert redact("hunter%2342 is hunter#42") == "*** is ***"
