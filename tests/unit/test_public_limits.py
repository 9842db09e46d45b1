"""Limits of every address that everybody may reach: what is refused before it is decoded, read or asked for.

docs/explanation/threat-model.md lists them, with those that the tests beside each part hold: sizes of `receive` in
tests/unit/web/test_receive.py, what a client of the container may send in tests/integration/test_tokens_container.py.
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


def not_asked(*_: object) -> Any:
    pytest.fail("this was asked for")


def find(name: str) -> Sync:
    if name != SYNC.name:
        raise SynclineError("NO_SUCH_SYNC", f"there is no sync named {name!r}")
    return SYNC


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Receiver:
    """A receiver that fails the test if it reads a notification or queues anything."""
    monkeypatch.setattr("syncline.web.receive.json.loads", not_asked)
    monkeypatch.setattr("syncline.web.receive.parse_qs", not_asked)
    return Receiver(find, not_asked, Secrets(not_asked, not_asked, {"HOOK": SECRET}), cast("Queues", None))


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
def test_receive_decodes_no_body_of_who_names_no_hook(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr("syncline.web.function_url.base64.b64decode", not_asked)
    assert receiver.handle(hook(path, b"{}"))["statusCode"] in (401, 404)


@pytest.mark.parametrize(
    "headers",
    [{}, {"x-hub-signature-256": "sha256=00"}, {"authorization": "Bearer wrong"}],
    ids=["none", "signed", "bearer"],
)
def test_receive_reads_no_notification_without_a_proof(receiver: Receiver, headers: dict[str, str]) -> None:
    assert receiver.handle(hook("/hooks/images", b"{" * 1000, **headers))["statusCode"] == 401


@pytest.mark.parametrize("path", ["/hooks/images", f"/hooks/images/{SECRET}"])
def test_receive_decodes_no_large_body_even_with_the_secret(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr("syncline.web.function_url.base64.b64decode", not_asked)
    assert receiver.handle(hook(path, bytes(LARGEST_BODY + 10)))["statusCode"] == 413


# -- console -------------------------------------------------------------------------------------------------------


def asked(console: Console, path: str, method: str = "GET", **headers: str) -> int:
    http = {"requestContext": {"http": {"method": method}}, "headers": headers}
    event = {"rawPath": path, "body": "!" * LARGEST_BODY, "isBase64Encoded": True, **http}
    return int(console.handle(event)["statusCode"])


def test_console_reads_no_body_and_no_table_for_who_may_not() -> None:
    console = Console(not_asked, lambda: SECRET)
    assert asked(console, "/metrics") == 401
    assert asked(console, "/metrics", authorization=f"Bearer {SECRET}x") == 401
    assert asked(console, "/metrics", "POST") == 405
    assert asked(console, "/" + "a" * 10_000) == 404


def test_console_reads_no_body_for_who_may() -> None:
    assert asked(Console(list, lambda: SECRET), "/metrics", authorization=f"Bearer {SECRET}") == 200


# -- probe ---------------------------------------------------------------------------------------------------------


class Nobody:
    """A directory and an observer that fail the test if they are asked."""

    def entries(self) -> Sequence[DirectoryEntry]:
        pytest.fail("an instance would have been asked")

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
def test_probe_asks_no_instance_for_what_is_no_token(headers: dict[str, str], status: int) -> None:
    event = {
        "rawPath": "/v1/synced",
        "headers": headers,
        "requestContext": {"http": {"method": "GET"}},
        "body": "!" * LARGEST_BODY,
        "isBase64Encoded": True,
    }
    answer = asyncio.run(ProbeApi(Nobody().entries, Nobody().verdict).answer(request_of(event)))
    assert response_of(answer)["statusCode"] == status


# -- the container -------------------------------------------------------------------------------------------------


class Waiting:
    """An API that answers once it is let."""

    def __init__(self) -> None:
        self.let = asyncio.Event()

    async def answer(self, request: HttpRequest) -> HttpResponse:
        del request
        await self.let.wait()
        return HttpResponse(200, b"{}", {"content-type": "application/json"})


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect = Callable[[], Coroutine[Any, Any, Streams]]


def served(play: Callable[[Waiting, Connect], Coroutine[Any, Any, None]], most: int) -> None:
    async def all_of_it() -> None:
        api = Waiting()
        server = Server(api.answer, most_open=most)
        port = await server.start("127.0.0.1", 0)
        await asyncio.wait_for(play(api, lambda: asyncio.open_connection("127.0.0.1", port)), 20)
        await server.stop(0)

    asyncio.run(all_of_it())


async def ended(reader: asyncio.StreamReader) -> bool:
    """Return True if the server closes a connection without a word."""
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
    async def play(api: Waiting, connect: Connect) -> None:
        api.let.set()
        first = await connect()
        others = [await connect() for _ in range(3)]
        assert await ended(first[0])
        for reader, writer in others:
            writer.write(b"GET /v1/synced HTTP/1.1\r\nConnection: close\r\n\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
        await closed(first, *others)

    served(play, 3)


def test_the_container_breaks_off_no_answer_for_a_new_connection() -> None:
    async def play(api: Waiting, connect: Connect) -> None:
        busy = [await connect() for _ in range(2)]
        for _, writer in busy:
            writer.write(b"GET /v1/synced HTTP/1.1\r\nConnection: close\r\n\r\n")
        await asyncio.sleep(0.2)
        late = await connect()
        assert await ended(late[0])
        api.let.set()
        for reader, _ in busy:
            assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
        await closed(late, *busy)

    served(play, 2)


def test_the_container_has_that_limit_by_default() -> None:
    assert 100 <= MOST_OPEN <= 1000


# -- the template --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def template() -> dict[str, Any]:
    parsed: dict[str, Any] = yaml_parse(TEMPLATE.read_text())
    return parsed


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_function_is_bounded_in_time_and_in_number(name: str, template: dict[str, Any]) -> None:
    function = template["Resources"][f"{name}Function"]["Properties"]
    assert int(function["Timeout"]) <= 30
    condition, reserved, otherwise = function["ReservedConcurrentExecutions"]["Fn::If"]
    assert (condition, reserved, otherwise) == (
        "HasPublicConcurrency",
        {"Ref": "PublicConcurrency"},
        {"Ref": "AWS::NoValue"},
    )


def test_only_these_functions_have_an_address(template: dict[str, Any]) -> None:
    functions = {
        name.removesuffix("Function")
        for name, each in template["Resources"].items()
        if each["Type"] == "AWS::Serverless::Function" and "FunctionUrlConfig" in each["Properties"]
    }
    assert functions == set(PUBLIC)


def test_what_hooks_make_run_is_bounded_too(template: dict[str, Any]) -> None:
    """However many hooks come, no more of the steps run at once than their mappings let."""
    for name, each in template["Resources"].items():
        for event in each.get("Properties", {}).get("Events", {}).values() if "Function" in name else ():
            if event["Type"] == "SQS":
                assert "MaximumConcurrency" in event["Properties"]["ScalingConfig"]
