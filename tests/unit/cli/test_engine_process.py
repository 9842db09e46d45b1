"""The engine's process, without ministack."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pytest

from syncline.cli import local_engine as engine
from syncline.web.access import REAL_HOST

URL: Final = f"/_aws/lambda-url/{'a' * 32}/hooks/sync"
OTHER: Final = f"/_aws/lambda-url/{'b' * 32}/hooks/sync"


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Import the module from its folder, as the engine's Python does."""
    monkeypatch.syspath_prepend(str(Path(engine.__file__).parent))
    for name in ("engine_process", "engine_state", "engine_log"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import engine_process  # type: ignore[import-not-found]  # noqa: PLC0415 - found by the path above

    module: ModuleType = engine_process
    return module


class Functions:
    """Functions that respond once ``released`` is set; ``begun`` counts the calls."""

    def __init__(self) -> None:
        self.begun = 0
        self.released = asyncio.Event()

    async def serve(self, _scope: Any, _receive: Any, send: Any) -> None:
        self.begun += 1
        await self.released.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})


async def status(serve: Any, path: str) -> int:
    """Send a request; return the status of the response."""
    events: list[dict[str, Any]] = []

    async def send(event: dict[str, Any]) -> None:
        events.append(event)

    await serve({"type": "http", "path": path, "headers": []}, None, send)
    return int(events[0]["status"])


async def run_tasks() -> None:
    """Run all tasks until they wait."""
    for _ in range(10):
        await asyncio.sleep(0)


def test_concurrent_calls_of_a_function_are_limited(process: ModuleType) -> None:
    """Senders give up and send again, as registries do, while the functions still run."""

    async def send_many() -> None:
        functions = Functions()
        serve = process._limit_concurrency(functions.serve)
        for _ in range(process._AT_ONCE):
            sender = asyncio.ensure_future(status(serve, URL))
            await run_tasks()
            sender.cancel()
        await run_tasks()
        assert await status(serve, URL) == 429
        assert functions.begun == process._AT_ONCE

        others = [asyncio.ensure_future(status(serve, path)) for path in (OTHER, "/", "/")]
        await run_tasks()
        assert functions.begun == process._AT_ONCE + 3, "another function and the services have no part in this limit"
        functions.released.set()
        assert [await each for each in others] == [200, 200, 200]
        await run_tasks()
        assert await status(serve, URL) == 200

    asyncio.run(send_many())


def test_a_failed_call_no_longer_counts(process: ModuleType) -> None:
    async def fail(_scope: Any, _receive: Any, _send: Any) -> None:
        raise ValueError

    async def fail_often() -> None:
        serve = process._limit_concurrency(fail)
        for _ in range(process._AT_ONCE + 1):
            with pytest.raises(ValueError):  # noqa: PT011 - it has no text
                await status(serve, URL)

    asyncio.run(fail_often())


Execute = Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]]


class Lambda:
    """The module of ministack that executes functions."""

    def __init__(self, result: dict[str, Any]) -> None:
        self._execute_function_with_config_scope: Execute = lambda _function, event: result | {"event": event}


class App:
    def __init__(self, result: dict[str, Any]) -> None:
        self.module = Lambda(result)

    def _get_module(self, name: str) -> Lambda:
        assert name == "lambda_svc"
        return self.module


def test_the_output_of_a_scheduled_function_is_logged(process: ModuleType, caplog: pytest.LogCaptureFixture) -> None:
    app = App({"body": {}, "log": '{"operation": "watch"}'})
    process._log_scheduled_functions(app)
    with caplog.at_level("INFO", "lambda"):
        result = app.module._execute_function_with_config_scope(
            {"config": {"FunctionName": "syncline-watch"}}, {"a": 1}
        )
    assert result["event"] == {"a": 1}
    assert caplog.messages == ['Lambda syncline-watch output:\n{"operation": "watch"}']


def test_a_scheduled_function_that_fails_is_logged_without_its_message(
    process: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    app = App({"body": {"errorType": "KeyError", "errorMessage": "a secret"}, "error": True, "log": ""})
    process._log_scheduled_functions(app)
    app.module._execute_function_with_config_scope({"FunctionName": "syncline-watch"}, {})
    assert caplog.messages == ["Lambda syncline-watch failed: KeyError"]


@pytest.mark.parametrize(
    ("sent", "named"),
    [
        ([(b"host", b"evil.example")], [(b"x-syncline-host", b"evil.example")]),
        ([(b"host", b"evil.example"), (b"x-syncline-host", b"127.0.0.1")], [(b"x-syncline-host", b"evil.example")]),
        ([(b"x-syncline-host", b"127.0.0.1")], []),
    ],
    ids=["named", "forged", "forged-without-a-host"],
)
def test_a_function_learns_the_host_that_the_client_named(
    process: ModuleType, sent: list[tuple[bytes, bytes]], named: list[tuple[bytes, bytes]]
) -> None:
    seen: list[Any] = []

    async def serve(scope: Any, _receive: Any, _send: Any) -> None:
        seen.append(scope["headers"])

    asyncio.run(process._name_host(serve)({"type": "http", "path": URL, "headers": sent}, None, None))
    assert [each for each in seen[0] if each[0] == process._HOST_HEADER] == named
    assert process._HOST_HEADER.decode() == REAL_HOST


API: Final = [(b"host", b"127.0.0.1:4577"), (b"x-amz-target", b"secretsmanager.GetSecretValue")]


def access(process: ModuleType, path: str, headers: list[tuple[bytes, bytes]], kind: str = "http") -> tuple[bool, Any]:
    """Send a request; return True if the engine got it, and the first event of the response."""
    reached, events = list[Any](), list[Any]()

    async def serve(scope: Any, _receive: Any, _send: Any) -> None:
        reached.append(scope)

    async def send(event: Any) -> None:
        events.append(event)

    asyncio.run(process._refuse_browsers(serve)({"type": kind, "path": path, "headers": headers}, None, send))
    return bool(reached), events[0] if events else None


@pytest.mark.parametrize(
    "headers",
    [
        [*API, (b"origin", b"https://evil.example")],
        [*API, (b"origin", b"null")],
        [*API, (b"sec-fetch-site", b"cross-site")],
        [*API, (b"sec-fetch-mode", b"no-cors")],
        [(b"host", b"evil.example:4577")],
        [(b"host", b"127.0.0.1.evil.example")],
        [(b"host", b"localhost.evil.example:4577")],
        [(b"host", b"127.0.0.1"), (b"host", b"evil.example")],
        [(b"host", b"%s.lambda-url.us-east-1.evil.example" % (b"a" * 32)), (b"x-syncline-host", b"127.0.0.1")],
    ],
)
@pytest.mark.parametrize("path", ["/", "/bucket/key", "/_ministack/reset", "/_aws/lambda-url/", "/_aws/lambda-url//x"])
def test_a_site_in_a_browser_cannot_use_the_aws_api(
    process: ModuleType, path: str, headers: list[tuple[bytes, bytes]]
) -> None:
    """The API needs no credentials and allows every site to read its responses, among them the stored secrets."""
    reached, response = access(process, path, headers)
    assert not reached
    assert response["status"] == 403
    assert not [name for name, _ in response["headers"] if name.startswith(b"access-control")]


@pytest.mark.parametrize("host", [b"127.0.0.1:4577", b"localhost:4577", b"bucket.localhost:4577", b"[::1]:4577"])
def test_a_program_uses_the_aws_api(process: ModuleType, host: bytes) -> None:
    assert access(process, "/", [(b"host", host), *API[1:]])[0]
    assert access(process, "/", [])[0], "HTTP/1.0 has no Host"


def test_a_function_url_checks_its_requests_itself(process: ModuleType) -> None:
    """A webhook may come through a proxy with another name, and the status page is for browsers."""
    headers = [(b"host", b"hooks.example"), (b"origin", b"https://hooks.example"), (b"sec-fetch-site", b"same-origin")]
    assert access(process, URL, headers)[0]


def test_the_engine_accepts_no_websocket(process: ModuleType) -> None:
    assert access(process, "/", API, "websocket") == (False, {"type": "websocket.close"})


def test_the_host_is_named_on_any_path(process: ModuleType) -> None:
    """The ID of a function may also be in the name of the host, for ministack."""
    seen: list[Any] = []

    async def serve(scope: Any, _receive: Any, _send: Any) -> None:
        seen.append(scope["headers"])

    sent = [(b"host", b"a.lambda-url.x.localhost"), (b"x-syncline-host", b"127.0.0.1")]
    asyncio.run(process._name_host(serve)({"type": "http", "path": "/syncs/x", "headers": sent}, None, None))
    assert [each for each in seen[0] if each[0] == process._HOST_HEADER] == [(process._HOST_HEADER, sent[0][1])]
