from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline.clients.http.addresses import Endpoint
from syncline.clients.registry.transport import next_link, same_host_target
from syncline.errors import SynclineError

BASE = "/v2/org/app/blobs/uploads/"


@pytest.mark.parametrize(
    ("header", "target"),
    [
        ('</v2/_catalog?last=b&n=2>; rel="next"', "/v2/_catalog?last=b&n=2"),
        ("</a>; rel=next", "/a"),
        ("</a>;REL=NEXT", "/a"),
        ('</first>; rel="first", </a,b;c>; title="x, y"; rel="prev next"', "/a,b;c"),
        ('</a>; rel="nextish"', None),
        ('</a>; rel="prev"', None),
        ("</a>", None),
        ("rel=next", None),
        ("", None),
    ],
)
def test_the_link_to_the_next_page_is_found(header: str, target: str | None) -> None:
    assert next_link([header]) == target


def test_several_link_headers_are_read() -> None:
    assert next_link(["</a>; rel=prev", "</b>; rel=next", "</c>; rel=next"]) == "/b"


@given(st.lists(st.text(max_size=100), max_size=3))
def test_any_header_is_parsed_without_an_error(headers: list[str]) -> None:
    next_link(headers)


def test_a_hostile_header_is_parsed_quickly() -> None:
    next_link(["<" * 50_000, "<a>;" * 20_000, "<a>" + "; a" * 20_000, '<a>; rel="' * 10_000])


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("/v2/org/app/blobs/uploads/1?_state=a%2Fb", "/v2/org/app/blobs/uploads/1?_state=a%2Fb"),
        ("1?_state=x", f"{BASE}1?_state=x"),
        ("?_state=x", f"{BASE}?_state=x"),
        ("https://registry.example.com/u?a=b&c", "/u?a=b&c"),
        ("https://Registry.Example.com:443/u", "/u"),
        ("http://registry.example.com/u", "/u"),
        ("http://registry.example.com:5000/u", "/u"),
        ("https://registry.example.com", "/"),
        ("//registry.example.com/u", "/u"),
    ],
)
def test_a_location_at_the_registry_is_resolved(location: str, target: str) -> None:
    assert same_host_target(Endpoint.parse("https://registry.example.com"), BASE, location) == target


@pytest.mark.parametrize(
    ("location", "code"),
    [
        ("https://evil.com/u", "REDIRECTED"),
        ("//evil.com/u", "REDIRECTED"),
        ("https://registry.example.com.evil.com/u", "REDIRECTED"),
        ("https://registry.example.com@evil.com/u", "REDIRECTED"),
        ("file:///etc/passwd", "BAD_ANSWER"),
        ("https://[::1/u", "BAD_ANSWER"),
    ],
)
def test_a_location_at_another_host_is_refused(location: str, code: str) -> None:
    with pytest.raises(SynclineError) as caught:
        same_host_target(Endpoint.parse("https://registry.example.com"), BASE, location)
    assert caught.value.code.name == code


@given(st.text(max_size=60))
def test_any_location_stays_at_the_registry_or_is_refused(location: str) -> None:
    endpoint = Endpoint.parse("https://registry.example.com")
    try:
        target = same_host_target(endpoint, BASE, location)
    except SynclineError:
        return
    assert target.startswith("/")
