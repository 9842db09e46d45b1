"""The console at an address of 127.0.0.1, as a function URL serves it.

Requests become events in payload format 2.0. With a token they are those of AWS: the console is at ``/``, cookies are apart
from the other headers, and a form's body is base64. Without a token they are those of the engine on one machine: the
console is below a path, cookies are a header, and another header has the host that the browser named. One request is
handled at a time, as by one instance of the function.
"""

from __future__ import annotations

import base64
import threading
from typing import Any, Final, NoReturn, Self

from syncline.secrets import Secrets
from syncline.store.table import Database
from syncline.web.access import REAL_HOST
from syncline.wiring.console import console_of
from tests.rig.console_state import Seed
from tests.rig.server import Reply, Request, Server

_PREFIX: Final = f"/_aws/lambda-url/{'c' * 32}"
_TEXT: Final = ("text/", "application/json", "application/javascript", "application/xml")

_SECRET: Final = "CONSOLE_TOKEN"


class ConsoleServer:
    """Serves the console of a table, with a `token` or without one. `replies` are the responses so far."""

    def __init__(self, seed: Seed, token: str = "") -> None:
        self.replies: list[Reply] = []
        self._local = not token
        self._prefix = _PREFIX if self._local else ""
        secrets = Secrets(_fail, _fail, {_SECRET: token})
        reference = f"env:{_SECRET}" if token else ""
        self._console = console_of(seed.state, Database(seed.table), secrets, reference, local=self._local)
        self._lock = threading.Lock()
        self._server = Server(self._reply)
        self._host = f"127.0.0.1:{self._server.port}"
        self.url = f"http://{self._host}{self._prefix}/"

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()
        assert not self._server.errors, self._server.errors[0]

    def _reply(self, request: Request) -> Reply:
        request.read()
        if not request.path.startswith(f"{self._prefix}/"):
            return Reply(404, b"no function has this URL")
        with self._lock:
            reply = _reply_of(self._console.handle(self._event(request)))
            self.replies.append(reply)
        return reply

    def _event(self, request: Request) -> dict[str, Any]:
        path, _, query = request.target.removeprefix(self._prefix).partition("?")
        headers = dict(request.headers)
        event: dict[str, Any] = {"version": "2.0", "rawPath": path, "rawQueryString": query, "headers": headers}
        if self._local:
            headers |= {REAL_HOST: headers["host"], "host": "the-engine"}
        elif cookies := headers.pop("cookie", ""):
            event["cookies"] = [each.strip() for each in cookies.split(";")]
        is_text = self._local or headers.get("content-type", "text/plain").startswith(_TEXT)
        if request.body:
            event["body"] = request.body.decode() if is_text else base64.b64encode(request.body).decode()
        event["isBase64Encoded"] = bool(request.body) and not is_text
        event["requestContext"] = {"http": {"method": request.method, "path": path, "sourceIp": "127.0.0.1"}}
        return event


def _reply_of(response: dict[str, Any]) -> Reply:
    body = str(response.get("body", ""))
    data = base64.b64decode(body) if response.get("isBase64Encoded") else body.encode()
    headers = [(str(name), str(value)) for name, value in response.get("headers", {}).items()]
    headers += [("Set-Cookie", str(each)) for each in response.get("cookies", ())]
    return Reply(int(response["statusCode"]), data, headers)


def _fail() -> NoReturn:
    raise AssertionError("no secret may be fetched")
