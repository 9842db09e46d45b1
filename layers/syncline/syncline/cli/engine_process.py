"""The process of the engine on this machine: ministack, apart from whoever started it.

:mod:`syncline.cli.local_engine` runs this file with the engine's own Python, which has nothing of Syncline's:
``engine_process.py HOME ENDPOINT``. Its environment holds ministack's settings. In ``HOME`` it keeps ``pid`` and
``unsaved``, a mark that is there from the start until the state has been saved at a clean stop.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import engine_state  # type: ignore[import-not-found]  # beside this file

Event = dict[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
Application = Callable[[Event, Receive, Send], Awaitable[None]]
"""As ASGI defines it."""

_FUNCTION_URLS: Final = "/_aws/lambda-url/"
_BODY_SECONDS: Final = 8  # a sender gives up after about ten
_BODY_BYTES: Final = 6 << 20  # as Lambda takes it
_AT_ONCE: Final = 4 * (os.cpu_count() or 1)
"""Requests to one function's address that are carried out at once: each may start a process, which takes a second."""


def main(home: Path, endpoint: str) -> None:
    if os.fork():
        os._exit(0)  # the starter waits for this process alone; the engine goes on by itself
    os.setsid()
    (home / "pid").write_text(str(os.getpid()))
    (home / "unsaved").touch()
    from ministack import app  # type: ignore[import-not-found]  # noqa: PLC0415 - reads its settings on import

    _keep_log_clean(app)
    _count_in_numbers(app)
    _deliver_fairly(app)
    _keep_no_metrics(app)
    app.app = _limited(_not_too_many(app.app))
    keeper = engine_state.Keeper(app, home, endpoint)
    app._load_persisted_state = keeper.load
    app.save_all = keeper.save_last
    sys.argv = ["ministack"]
    app.main()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(0, signal.SIGTERM)  # functions still at work: their messages come back at the next start
    if keeper.saved:
        (home / "unsaved").unlink()


def _keep_log_clean(app: Any) -> None:
    """Leave out of the log what says nothing about this engine."""
    app.BANNER = "starting on port {port}"
    # hypercorn sets the level of this logger when it starts, and says the address once more.
    logging.getLogger("hypercorn.error").addFilter(lambda record: record.levelno >= logging.WARNING)
    logging.getLogger("kms").setLevel(logging.ERROR)  # misses a package for what no function asks


def _count_in_numbers(app: Any) -> None:
    """Read the concurrency of a mapping as a number.

    A parameter of a template is text. ministack 1.5 keeps it so below ScalingConfig, cannot compare it with a number,
    and then polls no queue at all.
    """
    module = app._get_module("lambda_svc")
    allowed: Callable[..., int] = module._sqs_esm_concurrency

    def in_numbers(mapping: dict[str, Any], *others: Any) -> int:
        scaling = mapping.get("ScalingConfig") or {}
        if "MaximumConcurrency" in scaling:
            scaling["MaximumConcurrency"] = int(scaling["MaximumConcurrency"])
        return allowed(mapping, *others)

    module._sqs_esm_concurrency = in_numbers


def _deliver_fairly(app: Any) -> None:
    """Let the engine deliver fairly among message groups on standard queues, as SQS does and ministack 1.5 does not.

    Groups take turns: the next message is the oldest one of the group that has waited longest for its turn. Without
    this, one sync with a long backlog keeps all others waiting until it is done.
    """
    sqs = app._get_module("sqs")

    plain, turns, counter = sqs._collect_msgs, dict[tuple[Any, Any], int](), itertools.count(1)

    def collect(queue: dict[str, Any], most: int, hidden_for: int) -> list[dict[str, Any]]:
        messages = queue["messages"]
        if queue["is_fifo"] or len(messages) <= most:
            return list(plain(queue, most, hidden_for))
        now, waiting = time.time(), dict[Any, list[dict[str, Any]]]()
        for message in messages:
            if message["visible_at"] <= now:
                mine = waiting.setdefault(message.get("group_id"), [])
                if len(mine) < most:
                    mine.append(message)
        chosen: list[dict[str, Any]] = []
        name = queue["attributes"].get("QueueArn")
        while waiting and len(chosen) < most:
            group = min(waiting, key=lambda each: turns.get((name, each), 0))
            turns[name, group] = next(counter)
            chosen.append(waiting[group].pop(0))
            if not waiting[group]:
                del waiting[group]
        return list(plain({**queue, "messages": chosen}, most, hidden_for))

    sqs._collect_msgs = collect


def _keep_no_metrics(app: Any) -> None:
    """Make no metrics of invocations: ministack 1.5 keeps four points of each in memory for two weeks."""
    module = app._get_module("lambda_svc")
    name = "_emit_lambda_metrics"
    getattr(module, name)  # fails where another version has another name for it
    setattr(module, name, lambda *_, **__: None)


def _not_too_many(serve: Application) -> Application:
    """Answer 429, as Lambda does, to requests to a function's address while :data:`_AT_ONCE` of them are under way.

    A registry that has no answer after two seconds sends its notification again, while the function goes on. Without a
    limit more and more functions start, until none ends in time and the machine does nothing else.
    """
    under_way = Counter[str]()

    async def limited(scope: Event, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(_FUNCTION_URLS):
            await serve(scope, receive, send)
            return
        address = scope["path"].removeprefix(_FUNCTION_URLS).partition("/")[0]
        if under_way[address] >= _AT_ONCE:
            await _refuse(send, 429, f"{_AT_ONCE} requests to this function are under way; send it again")
            return
        under_way[address] += 1
        # A sender that goes away cancels this, and not the function.
        work = asyncio.ensure_future(serve(scope, receive, send))
        work.add_done_callback(lambda _: under_way.subtract([address]))
        await asyncio.shield(work)

    return limited


def _limited(serve: Application) -> Application:
    """Answer requests to a function's address in time and within Lambda's limit of size, whatever their body does.

    ministack waits for the end of a body for ever and keeps all of it in memory.
    """

    async def limited(scope: Event, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(_FUNCTION_URLS):
            await serve(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        body, size = bytearray(), 0
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                more = True
                while more:
                    event = await receive()
                    if event["type"] == "http.disconnect":
                        return
                    size += len(event["body"])
                    if size <= _BODY_BYTES:
                        body += event["body"]
                    more = event["more_body"]
        except TimeoutError:
            size = max(size, int(declared) if declared.isdigit() else 0)
            status = 413 if size > _BODY_BYTES else 408
            await _refuse(send, status, f"the body did not arrive within {_BODY_SECONDS} s")
            return
        if size > _BODY_BYTES:
            await _refuse(send, 413, f"the body has more than {_BODY_BYTES} bytes")
            return
        events = [{"type": "http.request", "body": bytes(body), "more_body": False}]

        async def receive_again() -> Event:
            return events.pop() if events else await receive()

        await serve(scope, receive_again, send)

    return limited


async def _refuse(send: Send, status: int, why: str) -> None:
    body = json.dumps({"error": why}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
