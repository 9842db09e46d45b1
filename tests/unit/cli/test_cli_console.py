"""Tests of `console`: the address of the page, and the proxy that signs its requests, with the page behind it."""

from __future__ import annotations

import base64
import gzip
import hashlib
import hmac
import http.client
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote, urlsplit

import pytest
from botocore.credentials import Credentials

from syncline.cli.commands_console import _redirecting_file
from syncline.cli.signing_proxy import FunctionUrl, Proxy
from syncline.errors import SynclineError
from syncline.messages import Start
from tests.rig.server import Reply, Request, Server
from tests.unit.cli.cli_stack import REGION, Stack, command_process
from tests.unit.web.status_site import Site, acting_site, sent

KEY: Final = "AKIDEXAMPLE"
SECRET: Final = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"


def signature_of(request: Request) -> str:
    """Return the signature that a request must have, computed as the documentation of AWS says."""
    found = re.search(r"Credential=(\S+), SignedHeaders=(\S+), ", request.authorization)
    assert found is not None, "the request is not signed"
    key, day, region, service, end = found[1].split("/")
    assert (key, region, service, end) == (KEY, REGION, "lambda", "aws4_request")
    parts, names = urlsplit(request.target), found[2].split(";")
    assert {"host", "x-amz-date", "x-amz-content-sha256"} <= set(names)
    pairs = sorted(each.partition("=")[::2] for each in parts.query.split("&") if each)
    query = "&".join(f"{name}={value}" for name, value in pairs)
    assert not re.search(r"[^A-Za-z0-9&=%._~-]", query), "written differently by signers"
    headers = "".join(f"{name}:{request.headers[name].strip()}\n" for name in names)
    payload = hashlib.sha256(request.body).hexdigest()
    canonical = "\n".join([request.method, quote(parts.path, "/~"), query, headers, ";".join(names), payload])
    scope = f"{day}/{region}/{service}/{end}"
    text = (
        f"AWS4-HMAC-SHA256\n{request.headers['x-amz-date']}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    )
    secret = f"AWS4{SECRET}".encode()
    for part in scope.split("/"):
        secret = hmac.new(secret, part.encode(), hashlib.sha256).digest()
    return hmac.new(secret, text.encode(), hashlib.sha256).hexdigest()


@dataclass
class Lambda:
    """A function URL that admits only signed requests, with the page of a site behind it."""

    site: Site
    requests: list[Request] = field(default_factory=list)
    response: Reply | None = None

    def __call__(self, request: Request) -> Reply:
        request.read()
        self.requests.append(request)
        if not request.authorization.endswith(f"Signature={signature_of(request)}"):
            return Reply(403, b'{"Message":"Forbidden"}', {"x-amzn-ErrorType": "AccessDeniedException"})
        return self.response or self._page(request)

    def _page(self, request: Request) -> Reply:
        path, _, query = request.target.partition("?")
        headers = {name: value for name, value in request.headers.items() if name != "cookie"}
        event: dict[str, Any] = {"rawPath": path, "rawQueryString": query}
        event |= {"headers": headers | {"x-forwarded-proto": "http"}}
        event |= {"cookies": [each for each in request.headers.get("cookie", "").split("; ") if each]}
        event |= {"body": base64.b64encode(request.body).decode(), "isBase64Encoded": True}
        response = self.site.console.handle(event | {"requestContext": {"http": {"method": request.method}}})
        fields = [*response["headers"].items(), *(("set-cookie", each) for each in response.get("cookies", ()))]
        body = response["body"]
        content = base64.b64decode(body) if response.get("isBase64Encoded") else body.encode()
        return Reply(response["statusCode"], content, fields)


@dataclass
class Browser:
    """A client of the proxy."""

    proxy: Proxy
    function: Lambda

    def ask(self, path: str = "", body: str | None = None, **headers: str) -> tuple[int, http.client.HTTPMessage, str]:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.raw("GET" if body is None else "POST", self.proxy.prefix + path, body, given)

    def raw(
        self, method: str, target: str, body: str | None, headers: dict[str, str]
    ) -> tuple[int, http.client.HTTPMessage, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.proxy.server_address[1], timeout=20)
        connection.request(method, target, body, {"host": self.proxy.host, "accept": "text/html"} | headers)
        response = connection.getresponse()
        content = response.read()
        connection.close()
        if response.headers["content-encoding"] == "gzip":
            content = gzip.decompress(content)
        return response.status, response.headers, content.decode()


@contextmanager
def serving(site: Site, secret: str = SECRET) -> Iterator[Browser]:
    function = Lambda(site)
    with Server(function) as server:
        proxy = Proxy(FunctionUrl(f"http://127.0.0.1:{server.port}/", REGION, Credentials(KEY, secret)), 0)
        thread = threading.Thread(target=proxy.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield Browser(proxy, function)
        finally:
            proxy.shutdown()
            proxy.server_close()
            thread.join()
    assert not server.errors, server.errors[0]


@pytest.fixture
def browser() -> Iterator[Browser]:
    with acting_site(signed=True) as site:
        site.apply()
        with serving(site) as browser:
            yield browser


def csrf(page: str) -> str:
    found = re.search(r'name="csrf" value="([0-9a-f]+)"', page)
    assert found is not None, page
    return found[1]


def test_pages_and_files_are_signed(browser: Browser) -> None:
    status, headers, text = browser.ask()
    assert status == 200
    assert 'data-sync="prod"' in text
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    file = re.search(r'href="\./(static/[^"]*css)"', text)
    assert file is not None
    assert browser.ask(file[1])[0] == 200
    assert browser.ask("syncs/prod?live=1&q=a+b%20c%26%C3%A9%20*")[0] == 200
    assert browser.ask("syncs/nothing")[0] == 404


def test_forms_work_and_the_browser_gets_no_cookie(browser: Browser) -> None:
    _, headers, page = browser.ask("syncs/prod")
    assert "set-cookie" not in headers
    origin = f"http://{browser.proxy.host}"
    form = {"content_type": "application/x-www-form-urlencoded", "origin": origin, "sec_fetch_site": "same-origin"}
    status, headers, _ = browser.ask("syncs/prod/run", f"csrf={csrf(page)}", **form)
    assert (status, headers["location"]) == (303, "../prod?done=run")
    (start,) = sent(browser.function.site)
    assert isinstance(start, Start)
    assert browser.ask("syncs/prod/run", "csrf=0", **form)[0] == 403


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "https://evil.example"}, 403),
        ({"sec_fetch_site": "cross-site"}, 403),
        ({"host": "evil.example"}, 421),
        ({"transfer_encoding": "chunked"}, 411),
        ({"content_length": "99999999"}, 413),
        ({"content_length": "-1"}, 411),
    ],
)
def test_requests_of_others_are_refused(browser: Browser, headers: dict[str, str], status: int) -> None:
    page = browser.ask("syncs/prod")[2]
    body = f"csrf={csrf(page)}"
    given = {"content_type": "application/x-www-form-urlencoded", **headers}
    if headers.keys() & {"transfer_encoding", "content_length"}:
        body = ""
    assert browser.ask("syncs/prod/run", body, **given)[0] == status
    assert sent(browser.function.site) == []


def test_nothing_is_served_without_the_random_path(browser: Browser) -> None:
    for target in ("/", "/metrics", "/syncs/prod", browser.proxy.prefix[:-2] + "x/", "/" + "a" * 200):
        assert browser.raw("GET", target, None, {})[0] == 404
    assert browser.ask("../metrics")[0] == browser.ask("a%2fb")[0] == browser.ask("@evil.example/")[0] == 404
    assert browser.raw("GET", f"http://evil.example{browser.proxy.prefix}", None, {})[0] == 404
    assert browser.function.requests == []
    with acting_site() as site, serving(site) as other:
        assert other.proxy.prefix != browser.proxy.prefix


def test_credentials_that_are_refused_say_what_to_check() -> None:
    with acting_site() as site, serving(site, "another secret") as browser:
        status, _, text = browser.ask()
        assert status == 403
        assert text.startswith("AWS_DENIED: ")
        assert "lambda:InvokeFunctionUrl" in text


def test_responses_are_limited_and_never_lead_away(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    for location in ("https://evil.example/", "//evil.example/", "javascript:alert(1)"):
        browser.function.response = Reply(303, b"", {"location": location})
        status, headers, _ = browser.ask()
        assert (status, headers["location"]) == (502, None)
    monkeypatch.setattr("syncline.cli.signing_proxy._RESPONSE_BYTES", 100)
    browser.function.response = Reply(200, b"x" * 101)
    assert browser.ask()[::2] == (502, "TOO_LARGE: the console's response has more than 100 bytes\n")
    browser.function.response = Reply(200, b"", drop=True)
    assert browser.ask()[2].startswith("AWS_UNAVAILABLE: the console does not answer")


def test_requests_are_signed_only_for_tls() -> None:
    with pytest.raises(SynclineError, match="signed requests are not sent to it"):
        FunctionUrl("http://abc.lambda-url.eu-central-1.on.aws/", REGION, Credentials(KEY, SECRET))


def test_the_file_that_opens_the_page_is_private(stack: Stack) -> None:
    path = _redirecting_file(stack.home, "http://127.0.0.1:1/x/")
    assert path.stat().st_mode & 0o077 == 0
    assert "url=http://127.0.0.1:1/x/" in path.read_text()


def test_on_one_machine_the_address_is_printed(stack: Stack) -> None:
    address = stack.target.output("ConsoleUrl")
    assert stack.json("console") == {"console": address}
    assert stack.run("console", "--no-browser").stdout == f"the status page: {address}\n"
    assert "USAGE" in stack.run("console", "--port", "1").stderr


STACKS: Final = """\
<DescribeStacksResponse xmlns="http://cloudformation.amazonaws.com/doc/2010-05-15/"><DescribeStacksResult><Stacks><member>
<StackName>prod</StackName><StackStatus>CREATE_COMPLETE</StackStatus><CreationTime>2026-12-01T00:00:00Z</CreationTime>
<Parameters><member><ParameterKey>ConsoleAuth</ParameterKey><ParameterValue>{auth}</ParameterValue></member></Parameters>
<Outputs><member><OutputKey>ConsoleUrl</OutputKey><OutputValue>{url}</OutputValue></member></Outputs>
</member></Stacks></DescribeStacksResult></DescribeStacksResponse>
"""


def cloudformation(auth: str, url: str) -> Server:
    """Return a server that describes one stack; moto needs more packages for that."""

    def describe(request: Request) -> Reply:
        assert "Action=DescribeStacks" in request.read().decode()
        return Reply(200, STACKS.format(auth=auth, url=url).encode(), {"content-type": "text/xml"})

    return Server(describe)


def environ(port: int) -> dict[str, str]:
    keys = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
    return keys | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_DEFAULT_REGION": REGION}


def test_a_stack_with_signed_requests_is_served_until_ctrl_c() -> None:
    with acting_site() as site:
        function = Lambda(site, response=Reply(200, b"the page", {"content-type": "text/html"}))
    with Server(function) as server, cloudformation("AWS_IAM", f"http://127.0.0.1:{server.port}/") as stacks:
        process = command_process("console", "--stack", "prod", "--no-browser", env=environ(stacks.port))
        assert process.popen.stdout is not None
        line = process.popen.stdout.readline()
        address = re.fullmatch(r"the status page: (http://127\.0\.0\.1:\d+/\S+/)\n", line)
        assert address is not None, process.end()
        parts = urlsplit(address[1])
        connection = http.client.HTTPConnection(parts.netloc, timeout=20)
        connection.request("GET", parts.path)
        assert connection.getresponse().read() == b"the page"
        connection.close()
        process.popen.send_signal(signal.SIGINT)
        code, _, err = process.end()
        assert (code, err) == (0, "")
    assert [each.target for each in function.requests] == ["/health", "/"]


def test_a_stack_whose_page_is_open_prints_its_address() -> None:
    with cloudformation("NONE", "https://abc.lambda-url.eu-central-1.on.aws/") as stacks:
        code, out, _ = command_process("console", "--stack", "prod", env=environ(stacks.port)).end()
    assert (code, out) == (0, "the status page: https://abc.lambda-url.eu-central-1.on.aws/\n")
