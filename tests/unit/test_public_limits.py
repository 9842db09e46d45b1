"""Limits of the public addresses: requests that are refused before anything is decoded, read or fetched.

docs/explanation/threat-model.md lists them. Other tests check further limits: sizes of bodies for `receive` in
tests/unit/web/test_receive.py, requests to the container in tests/integration/test_tokens_container.py.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, cast

import pytest
from samcli.yamlhelper import yaml_parse  # type: ignore[import-untyped]

from syncline.config.sync import Sync, load_sync
from syncline.errors import SynclineError
from syncline.kinds.tokens.directory import DirectoryEntry
from syncline.kinds.tokens.probe import LONGEST_TOKEN
from syncline.messages import Queues
from syncline.secrets import Secrets
from syncline.web.console import Console
from syncline.web.function_url import HttpRequest, HttpResponse, request_of, response_of
from syncline.web.probe import ProbeApi
from syncline.web.receive import LARGEST_BODY, Receiver
from syncline.web.server import MOST_OPEN, Server

TEMPLATE: Final = Path(__file__).parents[2] / "template.yaml"
PUBLIC: Final = ("Receive", "Console", "Probe")
SECRET: Final = "s3cret-of-the-hook"
SYNC: Final = load_sync(
    json.dumps(
        {
            "name": "images",
            "kind": "images",
            "source": {"registry": "prod.example", "catalog": True},
            "target": {"registry": "dr.example"},
            "webhook": {"secret": "env:HOOK"},
        }
    )
)


def fail_if_called(*_: object) -> Any:
    pytest.fail("this must not be called")


def find(name: str) -> Sync:
    if name != SYNC.name:
        raise SynclineError("NO_SUCH_SYNC", f"there is no sync named {name!r}")
    return SYNC


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Receiver:
    """Return a receiver that fails the test if it reads a notification or queues anything."""
    monkeypatch.setattr("syncline.web.receive.json.loads", fail_if_called)
    monkeypatch.setattr("syncline.web.receive.parse_qs", fail_if_called)
    return Receiver(
        find, fail_if_called, Secrets(fail_if_called, fail_if_called, {"HOOK": SECRET}), cast("Queues", None)
    )


def hook(path: str, body: bytes, **headers: str) -> dict[str, Any]:
    return {
        "rawPath": path,
        "headers": headers,
        "requestContext": {"http": {"method": "POST", "path": path}},
        "body": base64.b64encode(body).decode(),
        "isBase64Encoded": True,
    }


# -- receive -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/hooks/images/wrong", "/hooks/unknown/wrong", "/hooks/unknown", "/elsewhere"])
def test_receive_decodes_no_body_without_a_valid_hook(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr("syncline.web.function_url.base64.b64decode", fail_if_called)
    assert receiver.handle(hook(path, b"{}"))["statusCode"] in (401, 404)


@pytest.mark.parametrize(
    "headers",
    [{}, {"x-hub-signature-256": "sha256=00"}, {"authorization": "Bearer wrong"}],
    ids=["none", "signed", "bearer"],
)
def test_receive_reads_no_notification_without_a_valid_secret(receiver: Receiver, headers: dict[str, str]) -> None:
    assert receiver.handle(hook("/hooks/images", b"{" * 1000, **headers))["statusCode"] == 401


@pytest.mark.parametrize("path", ["/hooks/images", f"/hooks/images/{SECRET}"])
def test_receive_decodes_no_large_body_even_with_the_secret(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr("syncline.web.function_url.base64.b64decode", fail_if_called)
    assert receiver.handle(hook(path, bytes(LARGEST_BODY + 10)))["statusCode"] == 413


# -- console -------------------------------------------------------------------------------------------------------


def status_of(console: Console, path: str, method: str = "GET", **headers: str) -> int:
    http = {"requestContext": {"http": {"method": method}}, "headers": headers}
    event = {"rawPath": path, "body": "!" * LARGEST_BODY, "isBase64Encoded": True, **http}
    return int(console.handle(event)["statusCode"])


def test_console_reads_no_body_and_no_table_without_authorization() -> None:
    console = Console(fail_if_called, lambda: SECRET)
    assert status_of(console, "/metrics") == 401
    assert status_of(console, "/metrics", authorization=f"Bearer {SECRET}x") == 401
    assert status_of(console, "/metrics", "POST") == 405
    assert status_of(console, "/" + "a" * 10_000) == 404


def test_console_reads_no_body_with_authorization() -> None:
    assert status_of(Console(list, lambda: SECRET), "/metrics", authorization=f"Bearer {SECRET}") == 200


# -- probe ---------------------------------------------------------------------------------------------------------


class Untouched:
    """A directory and an observer that fail the test if they are used."""

    def entries(self) -> Sequence[DirectoryEntry]:
        pytest.fail("an instance would have been probed")

    def verdict(self, *_: object) -> None:
        pytest.fail("there is no verdict")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 400),
        ({"x-auth-token": "t" * (LONGEST_TOKEN + 1), "x-nginx-origin": "a"}, 431),
        ({"x-auth-token": "t\r\nHost: x", "x-nginx-origin": "a"}, 400),
        ({"x-auth-token": "t", "x-nginx-origin": "a" * 1000}, 400),
    ],
)
def test_probe_probes_no_instance_for_an_invalid_token(headers: dict[str, str], status: int) -> None:
    event = {
        "rawPath": "/v1/synced",
        "headers": headers,
        "requestContext": {"http": {"method": "GET"}},
        "body": "!" * LARGEST_BODY,
        "isBase64Encoded": True,
    }
    answer = asyncio.run(ProbeApi(Untouched().entries, Untouched().verdict).answer(request_of(event)))
    assert response_of(answer)["statusCode"] == status


# -- the container -------------------------------------------------------------------------------------------------


class WaitingApi:
    """An API that answers after `released` is set."""

    def __init__(self) -> None:
        self.released = asyncio.Event()

    async def answer(self, request: HttpRequest) -> HttpResponse:
        del request
        await self.released.wait()
        return HttpResponse(200, b"{}", {"content-type": "application/json"})


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect = Callable[[], Coroutine[Any, Any, Streams]]


def run_with_server(play: Callable[[WaitingApi, Connect], Coroutine[Any, Any, None]], most: int) -> None:
    async def run_server() -> None:
        api = WaitingApi()
        server = Server(api.answer, most_open=most)
        port = await server.start("127.0.0.1", 0)
        await asyncio.wait_for(play(api, lambda: asyncio.open_connection("127.0.0.1", port)), 20)
        await server.stop(0)

    asyncio.run(run_server())


async def ended(reader: asyncio.StreamReader) -> bool:
    """Return True if the server closes a connection without a response."""
    try:
        return await reader.read() == b""
    except ConnectionResetError:
        return True


async def closed(*streams: Streams) -> None:
    for _, writer in streams:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


def test_the_container_closes_the_oldest_idle_connection_for_a_new_one() -> None:
    async def play(api: WaitingApi, connect: Connect) -> None:
        api.released.set()
        first = await connect()
        others = [await connect() for _ in range(3)]
        assert await ended(first[0])
        for reader, writer in others:
            writer.write(b"GET /v1/synced HTTP/1.1\r\nConnection: close\r\n\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
        await closed(first, *others)

    run_with_server(play, 3)


def test_the_container_interrupts_no_response_for_a_new_connection() -> None:
    async def play(api: WaitingApi, connect: Connect) -> None:
        busy = [await connect() for _ in range(2)]
        for _, writer in busy:
            writer.write(b"GET /v1/synced HTTP/1.1\r\nConnection: close\r\n\r\n")
        await asyncio.sleep(0.2)
        late = await connect()
        assert await ended(late[0])
        api.released.set()
        for reader, _ in busy:
            assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
        await closed(late, *busy)

    run_with_server(play, 2)


def test_the_container_limits_connections_by_default() -> None:
    assert 100 <= MOST_OPEN <= 1000


# -- the template --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def template() -> dict[str, Any]:
    parsed: dict[str, Any] = yaml_parse(TEMPLATE.read_text())
    return parsed


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_function_has_a_timeout_and_a_concurrency_limit(name: str, template: dict[str, Any]) -> None:
    function = template["Resources"][f"{name}Function"]["Properties"]
    assert int(function["Timeout"]) <= 30
    condition, reserved, otherwise = function["ReservedConcurrentExecutions"]["Fn::If"]
    assert (condition, reserved, otherwise) == (
        "HasPublicConcurrency",
        {"Ref": "PublicConcurrency"},
        {"Ref": "AWS::NoValue"},
    )


def test_only_public_functions_have_a_url(template: dict[str, Any]) -> None:
    functions = {
        name.removesuffix("Function")
        for name, each in template["Resources"].items()
        if each["Type"] == "AWS::Serverless::Function" and "FunctionUrlConfig" in each["Properties"]
    }
    assert functions == set(PUBLIC)


def test_steps_have_a_maximum_concurrency(template: dict[str, Any]) -> None:
    """Hooks in any number run no more steps at once than the mappings allow."""
    for name, each in template["Resources"].items():
        for event in each.get("Properties", {}).get("Events", {}).values() if "Function" in name else ():
            if event["Type"] == "SQS":
                assert "MaximumConcurrency" in event["Properties"]["ScalingConfig"]
