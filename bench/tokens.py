"""Measurements of ``tokens``: verdicts of the container and of a function URL about real nginx instances with TLS."""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from bench.measure import MeasurementError, Row
from bench.token_peers import PlainClient
from bench.workspace import QUAY_TOKEN, Workspace
from syncline.kinds.tokens.ask import AskSchedule
from tests.rig.container import Container, cluster_of, sync_of
from tests.standins.nginx import Gateway
from tests.standins.programs import program
from tests.standins.quay import TOKEN as QUAY_TOKEN_VALUE

_ROOT: Final = Path(__file__).parents[1]
_RUNS: Final = 120
_WARM_UP: Final = 15  # runs that are not counted, before the others
_SYNCED_AFTER: Final = 0.3  # seconds
_ORIGIN: Final = 0
_AIMS: Final = {20: 5.0, 100: 15.0}  # milliseconds at the 99th percentile
_ORIGINAL_DEADLINE: Final = 1000.0  # milliseconds: request_deadline of the program that Syncline replaces
_VERDICTS: Final = 10_000
_CONCURRENT: Final = 50
_STARTS: Final = 15


def twenty(_workspace: Workspace) -> list[Row]:
    """Measure verdicts about 20 replicas that all have the token at once, or all 300 ms after the request."""
    return _latencies(20)


def hundred(_workspace: Workspace) -> list[Row]:
    """Measure verdicts about 100 replicas, as with 20."""
    return _latencies(100)


def wrong(_workspace: Workspace) -> list[Row]:
    """Count wrong verdicts among 10,000, 50 at a time, about tokens that known replicas have."""
    program("nginx")
    with Gateway(10, interval=0.2) as gateway, _served(gateway, retry_for=0.4, deadline=20) as container:
        rng = random.Random(99)
        expected: dict[str, str] = {}
        for serial in range(200):
            lacking = rng.sample(range(1, 10), rng.choice((0, 0, 0, 1, 2, 4, 5, 9)))
            gateway.put_everywhere(f"truth-{serial}", but=lacking)
            yes = 9 - len(lacking)
            expected[f"truth-{serial}"] = "Synced" if yes == 9 else "Partialy" if 2 * yes > 9 else "NotSynced"
        tokens = [rng.choice(list(expected)) for _ in range(_VERDICTS)]
        began = time.perf_counter()
        with ThreadPoolExecutor(_CONCURRENT) as pool:
            verdicts = list(pool.map(_VerdictClient(container.port), tokens))
        seconds = time.perf_counter() - began
    wrong_verdicts = sum(given != expected[token] for token, given in zip(tokens, verdicts, strict=True))
    return [
        Row(
            "tokens.wrong", "answers", [wrong_verdicts], None, 0, f"of {_VERDICTS:,} verdicts, {_CONCURRENT} at a time"
        ),
        Row(
            "tokens.wrong.verdict",
            "ms",
            [1000 * seconds / _VERDICTS],
            note="average time from one verdict to the next, all cases mixed",
        ),
    ]


def start(_workspace: Workspace) -> list[Row]:
    """Measure the start of a process until its probe is ready: imports, clients and TLS contexts."""
    code = (
        "import time; began = time.perf_counter()\n"
        "import sys; sys.path.insert(0, 'functions/probe')\n"
        "import app\n"
        "from syncline.kinds.tokens.wiring import prober\n"
        "prober()\n"
        "print((time.perf_counter() - began) * 1000)"
    )
    layer = _built_layer()
    environ = {**os.environ, "PYTHONPATH": f"{_ROOT / 'layers/syncline'}:{layer}", "SYNCLINE_TABLE": "none"}
    environ |= {"AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "us-east-1"}
    command = [str(_ROOT / ".venv-engine/bin/python"), "-c", code]
    milliseconds = [
        float(subprocess.run(command, cwd=_ROOT, env=environ, capture_output=True, text=True, check=True).stdout)
        for _ in range(_STARTS)
    ]
    return [Row("tokens.start", "ms", milliseconds[1:], None, 350, "import and initialisation of the function probe")]


def url(workspace: Workspace) -> list[Row]:
    """Measure verdicts about 20 replicas through a function URL of the local engine, against the container."""
    program("nginx")
    with (
        Gateway(20, interval=1) as gateway,
        cluster_of(gateway, QUAY_TOKEN_VALUE) as api,
        _served(gateway) as container,
    ):
        sync = sync_of(gateway, api)
        sync["sources"]["prod"]["auth"] = {"token": f"env:{QUAY_TOKEN}"}
        name = workspace.functions.apply(sync)
        if workspace.functions.invoke("scrape") != {name: 20}:
            raise MeasurementError("scrape did not list the 20 instances")
        parts = urlsplit(workspace.functions.output("ProbeUrl"))
        address = f"{parts.path.rstrip('/')}/v1/synced"
        function = _VerdictClient(parts.port or 80, address)
        server = _VerdictClient(container.port)
        times: tuple[list[float], list[float]] = ([], [])
        for number in range(_WARM_UP + _RUNS):
            gateway.put_everywhere(f"url-{number}")
            both = ((times[0], function), (times[1], server))
            for values, ask in both if number % 2 == 0 else both[::-1]:
                began = time.perf_counter()
                if (verdict := ask(f"url-{number}")) != "Synced":
                    raise MeasurementError(f"a verdict was {verdict} instead of Synced")
                if number >= _WARM_UP:
                    values.append(1000 * (time.perf_counter() - began))
    more = [_percentile(times[0], percent) - _percentile(times[1], percent) for percent in (50, 99)]
    note = "complete verdict at the function URL; the peer is the container"
    return [
        Row("tokens.url.p50", "ms", [_percentile(times[0], 50)], [_percentile(times[1], 50)], None, note),
        Row("tokens.url.p99", "ms", [_percentile(times[0], 99)], [_percentile(times[1], 99)]),
        Row("tokens.url.more.p50", "ms", [more[0]], None, 10, "difference between function URL and container"),
        Row("tokens.url.more.p99", "ms", [more[1]], None, 10, "difference between function URL and container"),
    ]


MEASUREMENTS: Final[Mapping[str, Callable[[Workspace], Sequence[Row]]]] = {
    "20": twenty,
    "100": hundred,
    "wrong": wrong,
    "url": url,
    "start": start,
}


@contextlib.contextmanager
def _served(gateway: Gateway, **more: Any) -> Iterator[Container]:
    with (
        cluster_of(gateway) as api,
        Container({"gateway": sync_of(gateway, api, **more)}, scrape_every=10) as container,
    ):
        container.wait_until_ready()
        yield container


class _VerdictClient:
    """A client for verdicts that keeps its connections, one per thread."""

    def __init__(self, port: int, path: str = "/v1/synced") -> None:
        self._port = port
        self._path = path
        self._idle: list[http.client.HTTPConnection] = []

    def __call__(self, token: str) -> str:
        connection = self._idle.pop() if self._idle else http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        headers = {"X-Auth-Token": token, "X-Nginx-Origin": "gateway-000"}
        connection.request("GET", self._path, headers=headers)
        response = connection.getresponse()
        response.read()
        self._idle.append(connection)
        return response.headers["X-Token-Status"]


@dataclass(frozen=True, slots=True)
class _Latencies:
    """Milliseconds of verdicts.

    ``after_last`` begins with the first positive response of the slowest replica, ``total`` with the request.
    """

    after_last: list[float]
    total: list[float]


def _latencies(replicas: int) -> list[Row]:
    program("nginx")
    with Gateway(replicas, interval=1) as gateway, _served(gateway) as container:
        schedule = AskSchedule.of(gateway.interval)
        client = _VerdictClient(container.port)
        with PlainClient(gateway.listed[1:], gateway.client_context(), schedule) as plain:

            def ours(token: str) -> None:
                verdict = client(token)
                if verdict != "Synced":
                    raise MeasurementError(f"a verdict was {verdict} instead of Synced")

            rows = []
            for name, after in (("", 0.0), (".later", _SYNCED_AFTER)):
                runs = _RUNS if after == 0 else _RUNS // 2
                our_times, peer_times = _in_turns(gateway, runs, after, ours, plain.ask)
                rows += _rows(f"tokens.{replicas}{name}", our_times, peer_times, replicas)
    return rows


def _rows(name: str, ours: _Latencies, peer: _Latencies, replicas: int) -> list[Row]:
    note = "time after the slowest replica's first positive response; the peer is an asyncio client without a verdict"
    return [
        Row(f"{name}.p50", "ms", [_percentile(ours.after_last, 50)], [_percentile(peer.after_last, 50)], None, note),
        Row(f"{name}.p99", "ms", [_percentile(ours.after_last, 99)], None, _AIMS[replicas], note),
        Row(f"{name}.p99.ratio", "ms", [_percentile(ours.after_last, 99)], [_percentile(peer.after_last, 99)]),
        Row(
            f"{name}.whole",
            "ms",
            [_percentile(ours.total, 99)],
            [_ORIGINAL_DEADLINE],
            1,
            "p99 from request to verdict; the peer is the deadline of the replaced program",
        ),
    ]


def _in_turns(
    gateway: Gateway, runs: int, after: float, ours: Callable[[str], None], peer: Callable[[str], None]
) -> tuple[_Latencies, _Latencies]:
    times = (_Latencies([], []), _Latencies([], []))
    serial = 0
    for number in range(_WARM_UP + runs):
        both = ((times[0], ours), (times[1], peer))
        for result, ask in both if number % 2 == 0 else both[::-1]:
            serial += 1
            token = f"bench-{after:g}-{serial}"
            gateway.put(_ORIGIN, token, visible=0)
            visible = 0.0 if after == 0 else time.time() + after + 0.002 * len(gateway.instances)
            gateway.put_everywhere(token, visible=visible, but={_ORIGIN})
            if after:
                time.sleep(max(0.0, visible - after - time.time()))
            began = time.time()
            ask(token)
            ended = time.time()
            last = max(gateway.first_yes(each, token) for each in range(1, len(gateway.instances)))
            if number >= _WARM_UP:
                result.after_last.append(1000 * (ended - last))
                result.total.append(1000 * (ended - began))
    return times


def _percentile(values: Sequence[float], percent: int) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


def _built_layer() -> Path:
    """Return the folder of the functions' layer, as built for the engine on this machine."""
    found = sorted((_ROOT / ".build/layer").glob("*"), key=lambda each: each.stat().st_mtime)
    if not found:
        raise MeasurementError("the layer is not built; run `syncline up` first")
    return found[-1]
