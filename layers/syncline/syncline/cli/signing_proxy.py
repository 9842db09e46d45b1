"""A proxy on 127.0.0.1 that signs requests to one function URL, so that a browser can read a page behind IAM.

Everything is below a random path, which other users of this machine and other sites do not know. The proxy has the
session of the page: no cookie is given to the browser, where every server on 127.0.0.1 could read it. Requests and
responses are limited in size and time, and only a few headers pass.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import BotoCoreError, HTTPClientError
from botocore.httpsession import URLLib3Session
from botocore.utils import get_environ_proxies

from syncline.errors import SynclineError

if TYPE_CHECKING:
    from botocore.credentials import Credentials

_REQUEST_BYTES: Final = 16 * 1024
_RESPONSE_BYTES: Final = 8 * 1024 * 1024
"""More than the 6 MB that Lambda returns."""
_TIMEOUT: Final = (5.0, 25.0)
"""Seconds for a connection to the function URL, and for its response: the function has 20."""
_IDLE_SECONDS: Final = 30.0
_MOST_OPEN: Final = 32
_PATH: Final = re.compile(r"(?!.*\.\.)[A-Za-z0-9/._~-]*")
"""Paths of the console: they need no escape, which signers and servers understand differently."""
_SENT: Final = ("accept", "accept-encoding", "content-type", "sec-fetch-site", "user-agent")
_DROPPED: Final = frozenset(
    {"connection", "content-length", "date", "keep-alive", "server", "set-cookie", "strict-transport-security"}
    | {"transfer-encoding"}
)
_DENIED: Final = (
    "AWS denied the request. Check `aws sts get-caller-identity`, and that this identity may call "
    "lambda:InvokeFunctionUrl and lambda:InvokeFunction on the console function.\n"
)


class _RefusedError(Exception):
    """A request that is not passed on, with the status of the response and its text."""

    def __init__(self, status: HTTPStatus, why: str) -> None:
        super().__init__(why)
        self.status = status


@dataclass(frozen=True, slots=True)
class Answer:
    """A response of the function URL."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


@dataclass(slots=True)
class FunctionUrl:
    """Sends signed requests to a function URL. `url` ends with a slash."""

    url: str
    region: str
    credentials: Credentials
    _session: Any = field(init=False)
    _cookies: dict[str, str] = field(init=False, default_factory=dict)
    _lock: threading.Lock = field(init=False, default_factory=threading.Lock)

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme != "https" and parts.hostname != "127.0.0.1":
            raise SynclineError("USAGE", f"{self.url} is not an address with https; signed requests are not sent to it")
        proxies = get_environ_proxies(self.url)
        self._session = URLLib3Session(proxies=proxies, timeout=_TIMEOUT)  # type: ignore[arg-type]  # the stub lacks it

    @property
    def origin(self) -> str:
        """The scheme and the host."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}"

    def send(self, method: str, target: str, headers: Mapping[str, str], body: bytes = b"") -> Answer:
        """Send a request to a path of plain characters, with its query, below the URL. Raises AWS_DENIED, AWS_UNAVAILABLE or TOO_LARGE."""
        path, _, query = target.partition("?")
        # As the signature has it: a browser sends a space as a plus sign.
        pairs = urlencode(parse_qsl(query, keep_blank_values=True, max_num_fields=50), quote_via=quote)
        url = f"{self.url}{path}" + (f"?{pairs}" if pairs else "")
        signed = {"x-amz-content-sha256": hashlib.sha256(body).hexdigest()}
        request = AWSRequest(method, url, signed, body or None, stream_output=True)
        try:
            SigV4Auth(self.credentials.get_frozen_credentials(), "lambda", self.region).add_auth(request)
            for name, value in headers.items():  # not signed: a proxy on the way may change them
                request.headers[name] = value
            with self._lock:
                if self._cookies:
                    request.headers["cookie"] = "; ".join(f"{name}={value}" for name, value in self._cookies.items())
            response = self._session.send(request.prepare())
            content = response.raw.read(_RESPONSE_BYTES + 1, decode_content=False)
            response.raw.close()
        except (BotoCoreError, HTTPClientError, OSError) as error:
            from syncline.cli.aws import as_syncline_error  # noqa: PLC0415 - only failures need it

            if isinstance(error, BotoCoreError):
                raise as_syncline_error(error, "the console", local=False) from None
            raise SynclineError("AWS_UNAVAILABLE", f"the console does not answer: {error}") from None
        if len(content) > _RESPONSE_BYTES:
            raise SynclineError("TOO_LARGE", f"the console's response has more than {_RESPONSE_BYTES} bytes")
        if response.status_code == HTTPStatus.FORBIDDEN and "x-amzn-errortype" in response.headers:
            raise SynclineError("AWS_DENIED", _DENIED.rstrip(".\n"))
        found = tuple((name.lower(), value) for name, value in response.raw.headers.items())
        self._keep_cookies(value for name, value in found if name == "set-cookie")
        return Answer(response.status_code, tuple(each for each in found if each[0] not in _DROPPED), content)

    def _keep_cookies(self, given: Any) -> None:
        with self._lock:
            for text in given:
                try:
                    cookies = SimpleCookie(text)
                except CookieError:
                    continue
                for name, cookie in cookies.items():
                    self._cookies.pop(name, None)
                    if cookie.value and cookie["max-age"] != "0":
                        self._cookies[name] = cookie.value


class Proxy(ThreadingHTTPServer):
    """Serves a function URL on 127.0.0.1 at `url`, below a random path."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, function: FunctionUrl, port: int) -> None:
        self.function = function
        self.prefix = f"/{secrets.token_urlsafe(16)}/"
        self._open = threading.BoundedSemaphore(_MOST_OPEN)
        super().__init__(("127.0.0.1", port), _Handler)

    @property
    def host(self) -> str:
        """The host that a browser names."""
        return f"127.0.0.1:{self.server_address[1]}"

    @property
    def url(self) -> str:
        return f"http://{self.host}{self.prefix}"

    def process_request(self, request: Any, client_address: Any) -> None:
        """Handle a connection in a thread of its own, or close it if there are too many."""
        if self._open.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Handle a connection, and then admit another one."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._open.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a browser that has disconnected."""


class _Handler(BaseHTTPRequestHandler):
    server: Proxy
    protocol_version = "HTTP/1.1"
    timeout = _IDLE_SECONDS
    server_version, sys_version = "syncline", ""

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        """Write no log: it would contain the random path."""

    def _answer(self) -> None:
        try:
            answer = self._forward()
        except _RefusedError as refused:
            answer = _plain(refused.status, str(refused))
        except SynclineError as error:
            status = HTTPStatus.FORBIDDEN if error.is_any("AWS_DENIED") else HTTPStatus.BAD_GATEWAY
            answer = _plain(status, f"{error.code.name}: {error.what}")
        self.send_response(answer.status)
        for name, value in answer.headers:
            self.send_header(name, value)
        self.send_header("content-length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def _forward(self) -> Answer:
        proxy, body = self.server, self._body()
        start, found = self.path[: len(proxy.prefix)], self.headers
        if not secrets.compare_digest(start.encode(errors="replace"), proxy.prefix.encode()):
            raise _RefusedError(HTTPStatus.NOT_FOUND, "use the address that `syncline console` has printed")
        if found.get("host", "") != proxy.host:
            raise _RefusedError(HTTPStatus.MISDIRECTED_REQUEST, "use the address that `syncline console` has printed")
        headers = {name: found[name] for name in _SENT if name in found}
        if "origin" in found:
            if found["origin"] != f"http://{proxy.host}":
                raise _RefusedError(HTTPStatus.FORBIDDEN, "the request came from another site")
            headers["origin"] = proxy.function.origin
        target = self.path[len(proxy.prefix) :]
        if not _PATH.fullmatch(target.partition("?")[0]):
            raise _RefusedError(HTTPStatus.NOT_FOUND, "there is no such page")
        answer = proxy.function.send(self.command, target, headers, body)
        location = dict(answer.headers).get("location", "")
        if location.startswith("/") or urlsplit(location).scheme:
            raise _RefusedError(HTTPStatus.BAD_GATEWAY, "the console redirects to another place")
        return answer

    def _body(self) -> bytes:
        """Return the body. A connection is closed after a request whose body is not read."""
        length = self.headers.get("content-length", "0")
        if "transfer-encoding" in self.headers or not (length.isascii() and length.isdecimal()):
            self.close_connection = True
            raise _RefusedError(HTTPStatus.LENGTH_REQUIRED, "the body needs a length")
        if int(length) > _REQUEST_BYTES:
            self.close_connection = True
            raise _RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body has more than {_REQUEST_BYTES} bytes")
        return self.rfile.read(int(length))


def _plain(status: int, text: str) -> Answer:
    headers = (("content-type", "text/plain; charset=utf-8"), ("cache-control", "no-store"))
    return Answer(status, headers, f"{text}\n".encode())
