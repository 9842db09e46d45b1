"""The base of stand-ins for an HTTP API with an OpenAPI description."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Self

from tests.rig.server import RefusalError, Reply, Request, Server, json_reply
from tests.standins.openapi.description import Description, ViolationRecorder


def refusal(status: int, message: str) -> RefusalError:
    return RefusalError(json_reply({"message": message}, status))


class ApiServer(ABC):
    """An API checked against its description: a request or a response that violates it fails the test.

    ``requests`` has method and target of every request. ``before`` is called with each of them, and may return a
    response, which is not checked.
    """

    def __init__(self, description: Description, port: int = 0) -> None:
        self.requests: list[tuple[str, str]] = []
        self.before: Callable[[str, str], Reply | None] = lambda _method, _target: None
        self.recorder = ViolationRecorder(description)
        self._server = Server(self._handle, port=port, errors=self.recorder.violations)
        self.port = self._server.port
        self.host = f"127.0.0.1:{self.port}"
        self.url = f"http://{self.host}"

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._server.stop()
        assert kind is not None or not self.recorder.violations, self.recorder.violations

    def _handle(self, request: Request) -> Reply:
        if request.target == "/":  # the front page of the server is not part of the API
            return Reply(200)
        return self.answer(request.method, request.target, request.headers, request.read())

    def answer(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Reply:
        self.requests.append((method, target))
        self.recorder.request(method, target, body)
        scripted = self.before(method, target)
        if scripted is not None:
            return scripted
        try:
            answer = self.own_answer(method, target, headers)
        except RefusalError as refused:
            answer = refused.reply
        assert isinstance(answer.body, bytes)
        self.recorder.answer(method, target, answer.status, dict(answer.headers), answer.body)
        return answer

    @abstractmethod
    def own_answer(self, method: str, target: str, headers: Mapping[str, str]) -> Reply:
        """Return the response of the API. Raises RefusalError."""
