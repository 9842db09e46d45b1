"""The engine's process, as far as it needs no ministack."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pytest

from syncline.cli import local_engine as engine

URL: Final = f"/_aws/lambda-url/{'a' * 32}/hooks/sync"
OTHER: Final = f"/_aws/lambda-url/{'b' * 32}/hooks/sync"


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module as the engine's own Python imports it: from its folder."""
    monkeypatch.syspath_prepend(str(Path(engine.__file__).parent))
    for name in ("engine_process", "engine_state"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import engine_process  # type: ignore[import-not-found]  # noqa: PLC0415 - found by the path above

    found: ModuleType = engine_process
    return found


class Functions:
    """Functions that answer when they are let: ``begun`` counts them."""

    def __init__(self) -> None:
        self.begun = 0
        self.let = asyncio.Event()

    async def serve(self, _scope: Any, _receive: Any, send: Any) -> None:
        self.begun += 1
        await self.let.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})


async def status(serve: Any, path: str) -> int:
    """Ask and return the status of the answer."""
    said: list[dict[str, Any]] = []

    async def send(event: dict[str, Any]) -> None:
        said.append(event)

    await serve({"type": "http", "path": path, "headers": []}, None, send)
    return int(said[0]["status"])


async def turns() -> None:
    """Let all tasks go on until they wait."""
    for _ in range(10):
        await asyncio.sleep(0)


def test_a_storm_of_requests_does_not_start_ever_more_functions(process: ModuleType) -> None:
    """Each sender gives up and sends again, as registries do, while the functions go on."""

    async def storm() -> None:
        functions = Functions()
        serve = process._limit_concurrency(functions.serve)
        for _ in range(process._AT_ONCE):
            sender = asyncio.ensure_future(status(serve, URL))
            await turns()
            sender.cancel()
        await turns()
        assert await status(serve, URL) == 429
        assert functions.begun == process._AT_ONCE

        others = [asyncio.ensure_future(status(serve, path)) for path in (OTHER, "/", "/")]
        await turns()
        assert functions.begun == process._AT_ONCE + 3, "another function and the services are not concerned"
        functions.let.set()
        assert [await each for each in others] == [200, 200, 200]
        await turns()
        assert await status(serve, URL) == 200

    asyncio.run(storm())


def test_a_function_that_fails_makes_room(process: ModuleType) -> None:
    async def fail(_scope: Any, _receive: Any, _send: Any) -> None:
        raise ValueError

    async def failing() -> None:
        serve = process._limit_concurrency(fail)
        for _ in range(process._AT_ONCE + 1):
            with pytest.raises(ValueError):  # noqa: PT011 - it has no text
                await status(serve, URL)

    asyncio.run(failing())
