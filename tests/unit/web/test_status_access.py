"""Access to the status page: token, session, forms of other sites, headers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from syncline.web.access import SESSION_SECONDS
from tests.rig.stack import new_table
from tests.unit.web.status_site import TOKEN, Site

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.service_resource import Table


@pytest.fixture
def table() -> Iterator[Table]:
    with new_table() as table:
        yield table


@pytest.fixture
def site(table: Table) -> Site:
    """A page on AWS that requires a token."""
    site = Site(table, "env:CONSOLE", local=False)
    site.apply()
    return site


def test_a_page_without_a_session_leads_to_the_login(site: Site) -> None:
    for path, login in (("/", "./login"), ("/syncs/prod", "../login"), ("/runs/prod/x", "../../login")):
        answer = site.ask(path)
        assert (answer.status, answer.headers["location"], answer.text) == (303, login, "")


def test_an_update_without_a_session_leads_to_the_login(site: Site) -> None:
    answer = site.ask("/syncs/prod", "live=1")
    assert (answer.status, answer.headers["hx-redirect"]) == (401, "../login")


def test_the_token_opens_a_session_whose_cookie_does_not_hold_it(site: Site) -> None:
    answer = site.post("/login", {"token": TOKEN})
    (cookie,) = answer.cookies
    assert (answer.status, answer.headers["location"]) == (303, "./")
    assert cookie.startswith("__Host-syncline=")
    assert {"Path=/", "HttpOnly", "Secure", "SameSite=Strict"} <= set(cookie.split("; "))
    assert TOKEN not in cookie
    assert site.ask("/").status == 200
    assert site.ask("/login").status == 303


def test_a_wrong_token_opens_no_session(site: Site) -> None:
    answer = site.post("/login", {"token": f"{TOKEN}x"})
    assert (answer.status, answer.cookies) == (403, ())
    assert answer.has('id="login-error" class="banner" role="alert"')
    assert f"{TOKEN}x" not in answer.text


def test_a_session_ends(site: Site) -> None:
    site.post("/login", {"token": TOKEN})
    site.clock.now += SESSION_SECONDS - 1
    assert site.ask("/").status == 200
    site.clock.now += 2
    assert site.ask("/").status == 303


def test_a_changed_session_is_refused(site: Site) -> None:
    site.post("/login", {"token": TOKEN})
    (name, value), *_ = site.cookies.items()
    expiry, nonce, signature = value.split(".")
    for wrong in (
        f"{int(expiry) + 1}.{nonce}.{signature}",
        f"{expiry}.{nonce}.{'0' * 64}",
        "",
        "..",
        f"{expiry}.{nonce}.",
    ):
        site.cookies[name] = wrong
        assert site.ask("/").status == 303, wrong


def test_a_new_token_ends_all_sessions(site: Site, table: Table) -> None:
    site.post("/login", {"token": TOKEN})
    other = Site(table, "env:CONSOLE", local=False, cookies=site.cookies)
    assert other.ask("/").status == 200
    assert other.console.pages is not None
    object.__setattr__(other.console.pages().access, "token", lambda: "another-token")
    assert other.ask("/").status == 303


def test_a_logout_removes_the_cookie(site: Site) -> None:
    site.post("/login", {"token": TOKEN})
    (_, csrf) = site.ask("/").text.split('name="csrf" value="')
    answer = site.post("/logout", {"csrf": csrf[:64]})
    assert "Max-Age=0" in answer.cookies[0]
    assert site.ask("/").status == 303


def test_a_client_sends_the_token_in_a_header(site: Site) -> None:
    assert site.ask("/", authorization=f"Bearer {TOKEN}").status == 200
    assert site.ask("/", authorization=f"bearer {TOKEN}").status == 200
    assert site.ask("/", authorization="Bearer wrong").status == 401
    assert site.ask("/", authorization=f"Basic {TOKEN}").status == 303
    assert site.ask("/", accept="application/json").text == '{"error": "the bearer token is missing", "code": null}'


@pytest.mark.parametrize("query", ["token=x", "Access_Token=", f"page={TOKEN}", f"a=1&q={TOKEN}", "api_key=1", TOKEN])
@pytest.mark.parametrize("path", ["/", "/login", "/syncs/prod", "/metrics"])
def test_a_token_in_the_address_is_refused_with_advice(site: Site, path: str, query: str) -> None:
    answer = site.ask(path, query)
    assert answer.status == 400
    assert "Authorization: Bearer" in answer.text
    assert TOKEN not in answer.text


def test_without_a_token_nobody_on_aws_sees_the_page(table: Table) -> None:
    answer = Site(table, local=False).ask("/")
    assert answer.status == 403
    assert "ConsoleToken" in answer.text
    assert "ConsoleAuth" in answer.text
    assert Site(table, local=False).ask("/health").status == 200


def test_signed_requests_need_no_token_unless_one_is_set(table: Table) -> None:
    assert Site(table, signed=True, local=False).ask("/").status == 200
    assert Site(table, "env:CONSOLE", signed=True, local=False).ask("/").status == 303


@pytest.mark.parametrize(
    "host", ["127.0.0.1:4577", "localhost", "LOCALHOST:80", "[::1]:4577", "abc.lambda-url.us-east-1.localhost"]
)
def test_one_machine_serves_its_own_names(table: Table, host: str) -> None:
    assert Site(table).ask("/", x_syncline_host=host).status == 200


@pytest.mark.parametrize(
    "host", ["", "evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "10.0.0.1:4577"]
)
def test_one_machine_refuses_other_names(table: Table, host: str) -> None:
    """A site could point its name to this machine."""
    assert {Site(table).ask(path, x_syncline_host=host).status for path in ("/", "/metrics", "/health")} == {421}


def test_the_host_header_of_the_engine_means_nothing_on_aws(site: Site) -> None:
    site.post("/login", {"token": TOKEN})
    assert site.ask("/", x_syncline_host="evil.example").status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "https://127.0.0.1:4577"},
        {"origin": "https://[no-address"},
        {"origin": "null", "host": ""},
    ],
)
def test_a_form_of_another_site_is_refused(site: Site, headers: dict[str, str]) -> None:
    assert site.post("/login", {"token": TOKEN}, **headers).status == 403
    site.post("/login", {"token": TOKEN})
    assert site.post("/logout", {"csrf": ""}).status == 403
    assert site.post("/logout", **headers).status == 403


def test_a_form_over_plain_http_is_refused_where_the_page_has_https(site: Site) -> None:
    """Somebody on the network may send any content of an address without TLS."""
    site.post("/login", {"token": TOKEN})
    assert site.post("/logout", origin="http://abc.lambda-url.eu-central-1.on.aws").status == 403
    assert site.post("/logout").status == 303


def test_a_large_form_is_refused(site: Site) -> None:
    assert site.post("/login", {"token": "x" * 9000}).status == 413
    assert site.post("/login", {f"a{n}": "" for n in range(60)}).status == 400


def test_pages_have_strict_headers(site: Site) -> None:
    for answer in (
        site.ask("/login"),
        site.ask("/"),
        site.ask("/", "token=x"),
        site.ask("/x", authorization="Bearer x"),
    ):
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["strict-transport-security"]
        assert answer.headers["referrer-policy"] == "same-origin"


def test_plain_http_on_one_machine_has_no_secure_cookie(table: Table) -> None:
    answer = Site(table).ask("/")
    assert "strict-transport-security" not in answer.headers
    (cookie,) = answer.cookies
    assert cookie.startswith("syncline=")
    assert "Secure" not in cookie


def test_pages_have_no_inline_script_or_style(site: Site) -> None:
    site.post("/login", {"token": TOKEN})
    site.end(site.begin())
    for path in ("/", "/syncs/prod", "/login", "/nothing"):
        text = site.ask(path).text
        assert "<style" not in text
        assert " style=" not in text
        assert " on" + "click" not in text
        assert text.count("<script") == text.count("<script src=")
