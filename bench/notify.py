"""The time from the end of a run that failed to the arrival of its notification at a webhook."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import queue
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING, Any, Final

from bench.measure import MeasurementError, Row
from bench.workspace import Workspace
from syncline.cli.aws import LOCAL_CONFIG, local_session
from syncline.store.state import State

if TYPE_CHECKING:
    from collections.abc import Iterator

_ROUNDS: Final = 7
_LIMIT: Final = 5.0  # seconds
_PATIENCE: Final = 60.0
_SECRET: Final = "of-the-measurement"
Arrival = tuple[float, dict[str, Any]]
"""The time at which a notification was received completely, and its body."""


class _Server(BaseHTTPRequestHandler):
    """A webhook, and a registry that refuses every request."""

    arrivals: queue.Queue[Arrival]

    def do_GET(self) -> None:
        self._answer(HTTPStatus.FORBIDDEN)

    def do_HEAD(self) -> None:
        self._answer(HTTPStatus.FORBIDDEN)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        arrived = time.time()
        expected = f"sha256={hmac.new(_SECRET.encode(), body, hashlib.sha256).hexdigest()}"
        if self.headers["X-Hub-Signature-256"] == expected:
            self.arrivals.put((arrived, json.loads(body)))
        self._answer(HTTPStatus.NO_CONTENT)

    def _answer(self, status: HTTPStatus) -> None:
        self.send_response(status)
        if status is not HTTPStatus.NO_CONTENT:
            self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@contextmanager
def _server() -> Iterator[tuple[str, queue.Queue[Arrival]]]:
    """Run the server. Yield its host, and the notifications as they arrive."""
    arrivals = queue.Queue[Arrival]()
    handler = type("Server", (_Server,), {"arrivals": arrivals})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"127.0.0.1:{server.server_port}", arrivals
        finally:
            server.shutdown()


def failing(workspace: Workspace) -> list[Row]:
    """Measure the time from the recorded end of a run that failed to the arrival of its notification."""
    os.environ["BENCH_NOTIFY_SECRET"] = _SECRET  # the engine, which starts next, and its functions inherit it
    functions = workspace.functions
    resource: Any = local_session().resource("dynamodb", endpoint_url=functions.endpoint, config=LOCAL_CONFIG)
    state = State(resource.Table(functions.output("TableName")))
    first: list[float] = []
    times: list[float] = []
    with _server() as (host, arrivals):
        end = {"registry": host, "plain_http": True}
        config = {
            "kind": "images",
            "source": {**end, "repositories": ["team/app"]},
            "target": {**end, "prefix": "copies"},
            "notify": {"webhook": {"url": f"http://{host}/hook", "secret": "env:BENCH_NOTIFY_SECRET"}},
        }
        for number in range(_ROUNDS + 1):
            name = functions.apply(config)
            functions.begin(name)
            try:
                arrived, body = arrivals.get(timeout=_PATIENCE)
            except queue.Empty:
                raise MeasurementError(f"no notification of {name} arrived within {_PATIENCE:.0f} s") from None
            (run,) = state.runs(name, 1)
            if (body["sync"], body["event"]) != (name, "failing") or run.ended is None:
                raise MeasurementError(f"{name} has failed, but the notification is {body['title']!r}")
            (times if number else first).append(arrived - run.ended)
    return [
        Row("notify.failing.first", "s", first, note="the first notification, which starts the function"),
        Row(
            "notify.failing",
            "s",
            times,
            [_LIMIT],
            1.0,
            "from the recorded end of a run that failed to the arrival at a webhook; the peer is the limit of 5 s",
        ),
    ]


MEASUREMENTS: Final[Mapping[str, Callable[[Workspace], Sequence[Row]]]] = {"failing": failing}
