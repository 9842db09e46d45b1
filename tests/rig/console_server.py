"""The console at an address of 127.0.0.1, as a function URL serves it.

Requests become events in payload format 2.0 as Lambda makes them: cookies apart from the other headers, and a form's
body as base64. One request is handled at a time, as by one instance of the function. The console is below a path, as on
one machine, or at ``/``, as on AWS.
"""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable
from typing import Any, Final, Self

from tests.rig.server import Reply, Request, Server

PREFIX: Final = f"/_aws/lambda-url/{'c' * 32}"
_TEXT: Final = ("text/", "application/json", "application/javascript", "application/xml")

Handle = Callable[[dict[str, Any]], dict[str, Any]]
"""Returns the response to a function URL's event."""


class ConsoleServer:
    """Serves a console. `requests` are those that came, `replies` the responses to them."""

    def __init__(self, handle: Handle, prefix: str = PREFIX) -> None:
        self.handle = handle
        self.prefix: Final = prefix
        self.requests: list[Request] = []
        self.replies: list[Reply] = []
        self._lock = threading.Lock()
        self._server = Server(self._reply)
        self.url: Final = f"http://127.0.0.1:{self._server.port}{prefix}/"

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()
        assert not self._server.errors, self._server.errors[0]

    def _reply(self, request: Request) -> Reply:
        request.read()
        if not request.path.startswith(f"{self.prefix}/"):
            return Reply(404, b"no function has this URL")
        with self._lock:
            self.requests.append(request)
            reply = _reply_of(self.handle(self._event(request)))
            self.replies.append(reply)
        return reply

    def _event(self, request: Request) -> dict[str, Any]:
        path, _, query = request.target.removeprefix(self.prefix).partition("?")
        headers = {name: value for name, value in request.headers.items() if name != "cookie"}
        cookies = [each.strip() for each in request.headers.get("cookie", "").split(";") if each.strip()]
        is_text = request.headers.get("content-type", "text/plain").startswith(_TEXT)
        body = request.body.decode() if is_text else base64.b64encode(request.body).decode()
        event: dict[str, Any] = {
            "version": "2.0",
            "routeKey": "$default",
            "rawPath": path,
            "rawQueryString": query,
            "headers": headers,
            "requestContext": {
                "http": {"method": request.method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "127.0.0.1"}
            },
            "isBase64Encoded": bool(request.body) and not is_text,
        }
        event |= {"cookies": cookies} if cookies else {}
        return event | ({"body": body} if request.body else {})


def _reply_of(response: dict[str, Any]) -> Reply:
    body = str(response.get("body", ""))
    data = base64.b64decode(body) if response.get("isBase64Encoded") else body.encode()
    headers = [(str(name), str(value)) for name, value in response.get("headers", {}).items()]
    headers += [("Set-Cookie", str(each)) for each in response.get("cookies", ())]
    return Reply(int(response["statusCode"]), data, headers)
