"""The process of the engine on this machine: ministack as a daemon.

:mod:`syncline.cli.local_engine` runs this file with the engine's Python, which does not have the syncline package:
``engine_process.py HOME ENDPOINT``. Its environment holds ministack's settings. In ``HOME`` it keeps ``pid`` and
``unsaved``, a file that exists from the start until the state is saved at a clean stop.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import os
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import engine_log  # type: ignore[import-not-found]  # beside this file
import engine_state  # type: ignore[import-not-found]  # beside this file

Event = dict[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
Application = Callable[[Event, Receive, Send], Awaitable[None]]
"""An ASGI application."""

_FUNCTION_URLS: Final = "/_aws/lambda-url/"
_FUNCTION_PATH: Final = re.compile(f"{_FUNCTION_URLS}[^/]")  # without an ID, ministack takes it for the AWS API
_HOST_HEADER: Final = b"x-syncline-host"  # as in syncline.web.access
_OF_BROWSERS: Final = (b"origin", b"sec-fetch-site", b"sec-fetch-mode")
_LOOPBACK: Final = re.compile(rb"(?:(?:[a-z0-9-]+\.)*localhost|127(?:\.[0-9]{1,3}){3}|\[::1\])(?::[0-9]{1,5})?")
_BODY_SECONDS: Final = 8  # a sender gives up after about ten
_BODY_BYTES: Final = 6 << 20  # Lambda's limit
_AT_ONCE: Final = 4 * (os.cpu_count() or 1)
"""Concurrent requests to one function URL: each may start a process, which takes a second."""


def main(home: Path, endpoint: str) -> None:
    if os.fork():
        os._exit(0)  # the caller waits for this process only
    os.setsid()
    (home / "pid").write_text(str(os.getpid()))
    (home / "unsaved").touch()
    from ministack import app  # type: ignore[import-not-found]  # noqa: PLC0415 - reads its settings on import

    _keep_log_clean(app)
    _read_concurrency_as_number(app)
    _share_queues_fairly(app)
    _drop_metrics(app)
    _log_scheduled_functions(app)
    engine_log.keep_rotating(home)
    app.app = _refuse_browsers(_name_host(_limit_bodies(_limit_concurrency(app.app))))
    saver = engine_state.StateSaver(app, home, endpoint)
    app._load_persisted_state = saver.load
    app.save_all = saver.save_last
    sys.argv = ["ministack"]
    app.main()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(0, signal.SIGTERM)  # running functions; their messages are redelivered after the next start
    if saver.saved:
        (home / "unsaved").unlink()


def _keep_log_clean(app: Any) -> None:
    """Keep messages without information out of the log."""
    app.BANNER = "starting on port {port}"
    # hypercorn sets the level of this logger when it starts, and logs the address again.
    logging.getLogger("hypercorn.error").addFilter(lambda record: record.levelno >= logging.WARNING)
    logging.getLogger("kms").setLevel(logging.ERROR)  # warns of a missing package that no function needs


def _read_concurrency_as_number(app: Any) -> None:
    """Read the concurrency of a mapping as a number.

    A parameter of a template is text. ministack 1.5 keeps it so below ScalingConfig, cannot compare it with a number,
    and then polls no queue at all.
    """
    module = app._get_module("lambda_svc")
    allowed: Callable[..., int] = module._sqs_esm_concurrency

    def with_number(mapping: dict[str, Any], *others: Any) -> int:
        scaling = mapping.get("ScalingConfig") or {}
        if "MaximumConcurrency" in scaling:
            scaling["MaximumConcurrency"] = int(scaling["MaximumConcurrency"])
        return allowed(mapping, *others)

    module._sqs_esm_concurrency = with_number


def _share_queues_fairly(app: Any) -> None:
    """Deliver fairly among the message groups of standard queues, as SQS does and ministack 1.5 does not.

    Groups take turns, oldest message first. Otherwise a sync with a long backlog delays all others.
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
                group = waiting.setdefault(message.get("group_id"), [])
                if len(group) < most:
                    group.append(message)
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


def _drop_metrics(app: Any) -> None:
    """Record no metrics of invocations: ministack 1.5 keeps four data points of each in memory for two weeks."""
    module = app._get_module("lambda_svc")
    name = "_emit_lambda_metrics"
    getattr(module, name)  # fails if another version has renamed it
    setattr(module, name, lambda *_, **__: None)


def _log_scheduled_functions(app: Any) -> None:
    """Log the output of functions that a schedule invokes: ministack 1.5 logs only that of queues and requests."""
    module = app._get_module("lambda_svc")
    execute: Callable[..., dict[str, Any]] = module._execute_function_with_config_scope
    logger = logging.getLogger("lambda")

    def logged(function: dict[str, Any], event: dict[str, Any]) -> dict[str, Any]:
        result = execute(function, event)
        name = (function.get("config") or function).get("FunctionName")
        if output := result.get("log"):
            logger.info("Lambda %s output:\n%s", name, output)
        if result.get("error"):  # the message of the error may quote an event; the function logs it redacted
            body = result.get("body")
            logger.error("Lambda %s failed: %s", name, body.get("errorType") if isinstance(body, dict) else "unknown")
        return result

    module._execute_function_with_config_scope = logged


def _limit_concurrency(serve: Application) -> Application:
    """Respond 429, as Lambda does, to requests to a function URL beyond :data:`_AT_ONCE` concurrent ones.

    A registry that gets no response within two seconds sends its notification again while the function still runs.
    Without a limit, functions accumulate until none ends in time.
    """
    under_way = Counter[str]()

    async def limited(scope: Event, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(_FUNCTION_URLS):
            await serve(scope, receive, send)
            return
        address = scope["path"].removeprefix(_FUNCTION_URLS).partition("/")[0]
        if under_way[address] >= _AT_ONCE:
            await _refuse(send, 429, f"{_AT_ONCE} requests to this function are in progress; try again later")
            return
        under_way[address] += 1
        # A client that disconnects cancels this coroutine, but not the function.
        work = asyncio.ensure_future(serve(scope, receive, send))
        work.add_done_callback(lambda _: under_way.subtract([address]))
        await asyncio.shield(work)

    return limited


def _refuse_browsers(serve: Application) -> Application:
    """Refuse browsers access to the AWS API, which has no credentials here: it holds secrets, and can stop everything.

    Any site that is open in a browser of this machine could use it otherwise: ministack allows all sites to read its
    responses (CORS), and a site can point its own name to this machine. Function URLs check their requests themselves.
    """

    async def refusing(scope: Event, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close"})
            return
        if scope["type"] == "http" and not _FUNCTION_PATH.match(scope["path"]):
            hosts = [value.lower() for name, value in scope["headers"] if name == b"host"]
            if any(name in _OF_BROWSERS for name, _ in scope["headers"]) or not all(map(_LOOPBACK.fullmatch, hosts)):
                await _refuse(send, 403, "this AWS API is for programs of this machine, not for browsers")
                return
        await serve(scope, receive, send)

    return refusing


def _name_host(serve: Application) -> Application:
    """Tell functions the host that a client named, as ministack replaces the header with the one that AWS would send.

    The status page refuses the names of other sites: a site could point its name to this machine.
    """

    async def naming(scope: Event, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":  # ministack also reaches a function by the name of the host
            named = [value for name, value in scope["headers"] if name == b"host"]
            kept = [each for each in scope["headers"] if each[0] != _HOST_HEADER]
            scope = {**scope, "headers": [*kept, *((_HOST_HEADER, value) for value in named[:1])]}
        await serve(scope, receive, send)

    return naming


def _limit_bodies(serve: Application) -> Application:
    """Limit the bodies of requests to function URLs in time and size.

    ministack waits for the end of a body without limit and keeps all of it in memory.
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
            await _refuse(send, status, f"the body was not received within {_BODY_SECONDS} s")
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
