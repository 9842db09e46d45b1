from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline.clients.http.addresses import DIRECT, Address, Endpoint, is_refused, redacted
from syncline.clients.http.client import Http
from syncline.clients.http.transfer import pool_for
from syncline.clients.replicas.instances import is_probed
from syncline.errors import SynclineError
from tests.rig.server import ScriptedServer


@pytest.mark.parametrize(
    ("url", "scheme", "host"),
    [
        ("https://registry.example.com", "https", "registry.example.com"),
        ("https://Registry.Example.com:443/", "https", "registry.example.com"),
        ("http://127.0.0.1:5000", "http", "127.0.0.1:5000"),
        ("http://[::1]:5000", "http", "[::1]:5000"),
    ],
)
def test_an_endpoint_has_a_scheme_and_a_host(url: str, scheme: str, host: str) -> None:
    endpoint = Endpoint.parse(url)
    assert (endpoint.scheme, endpoint.host) == (scheme, host)
    assert endpoint.url == f"{scheme}://{host}"


@pytest.mark.parametrize(
    "url",
    [
        "registry.example.com",
        "ftp://registry.example.com",
        "https://",
        "https://registry.example.com/v2",
        "https://ann:secret@registry.example.com",
        "https://registry.example.com:port",
        "https://registry.example.com:99999",
        "https://[::1",
        "https://a b",
        "https://a\\b",
    ],
)
def test_an_invalid_endpoint_is_refused(url: str) -> None:
    with pytest.raises(SynclineError) as caught:
        Endpoint.parse(url)
    assert caught.value.code.name == "CONFIG_INVALID"
    assert "secret" not in str(caught.value)


@given(st.text())
def test_any_text_is_parsed_or_refused(text: str) -> None:
    for url in (text, f"https://{text}", f"http://h/{text}"):
        address = Address.parse(url)
        assert address is None or (address.scheme in ("http", "https") and address.host)


def test_secrets_in_a_url_are_not_shown() -> None:
    shown = redacted("GET https://ann:secret@h/v2/?X-Amz-Signature=secret&n=2 then https://h/?token=secret'")
    assert "secret" not in shown
    assert "X-Amz-Signature=…" in shown


@pytest.mark.parametrize(
    "name",
    [
        "169.254.169.254",
        "169.254.0.1",
        "fe80::1",
        "fe80::1%eth0",
        "FD00:EC2::254",
        "::ffff:169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "2002:a9fe:a9fe::1",
        "100.100.100.200",
        "metadata.google.internal",
        "Metadata.Google.Internal.",
        "metadata",
        "2852039166",
        "0xa9.0xfe.0xa9.0xfe",
        "169.16689662",
        "0251.0376.0251.0376",
    ],
)
def test_metadata_services_are_refused(name: str) -> None:
    assert is_refused(name)
    host = f"[{name}]" if ":" in name else name
    with pytest.raises(SynclineError) as caught:
        pool_for(Address("http", host, "/"), DIRECT)
    assert caught.value.code.name == "ADDRESS_REFUSED"


@pytest.mark.parametrize("name", ["127.0.0.1", "::1", "10.0.0.1", "192.168.1.1", "fd00::1", "registry.example.com", ""])
def test_private_addresses_are_not_refused(name: str) -> None:
    assert not is_refused(name)


@pytest.mark.parametrize(
    "name", ["127.0.0.1", "127.8.0.1", "::1", "::ffff:127.0.0.1", "0.0.0.0", "::", "localhost", "a.localhost."]
)
def test_loopback_is_refused_only_on_aws(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On AWS, only the Runtime API of Lambda listens on loopback. On one machine, servers may run there."""
    monkeypatch.setenv("AWS_LAMBDA_RUNTIME_API", "127.0.0.1:9001")
    assert is_refused(name)
    assert not is_probed(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:4566")
    assert not is_refused(name)


def test_the_runtime_api_of_lambda_gets_no_request(
    server: ScriptedServer, other_server: ScriptedServer, http: Http, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_LAMBDA_RUNTIME_API", server.host)
    for url in (server.url, other_server.url):
        with pytest.raises(SynclineError, match="ADDRESS_REFUSED"):
            http.request("GET", f"{url}/2018-06-01/runtime/invocation/next")
    assert server.requests == other_server.requests == []


def test_a_metadata_address_gets_no_request(http: Http) -> None:
    with pytest.raises(SynclineError) as caught:
        http.request("GET", "http://169.254.169.254/latest/meta-data/?secret=x")
    assert caught.value.code.name == "ADDRESS_REFUSED"
    assert not caught.value.retried


def test_invalid_addresses_get_no_request(http: Http) -> None:
    with pytest.raises(SynclineError) as caught:
        http.request("GET", "file:///etc/passwd")
    assert caught.value.code.name == "REFUSED"
    assert http.requests_made == 0


def test_a_slash_in_a_query_does_not_begin_a_path() -> None:
    address = Address.parse("https://host.example:8443?/a")
    assert address is not None
    assert (address.host, address.target) == ("host.example:8443", "?/a")
    assert Address.parse(address.url) == address
