"""The kind ``tokens``: verdicts of the container's process and at a function URL, on real nginx instances with TLS."""

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

from bench.measure import NotMadeError, Row
from bench.place import QUAY_TOKEN, Place
from bench.token_peers import PlainClient
from syncline.kinds.tokens.ask import AskSchedule
from tests.rig.container import Container, cluster_of, sync_of
from tests.standins.nginx import Gateway
from tests.standins.programs import program
from tests.standins.quay import TOKEN as QUAY_TOKEN_VALUE

_ROOT: Final = Path(__file__).parents[1]
_RUNS: Final = 120
_WARM: Final = 15  # runs before those that count
_SYNCED_AFTER: Final = 0.3  # seconds
_ORIGIN: Final = 0
_AIMS: Final = {20: 5.0, 100: 15.0}  # milliseconds at the 99th percentile
_GO_BUDGET: Final = 1000.0  # milliseconds: the published original's request_deadline, after which it reports Timeout
_VERDICTS: Final = 10_000
_AT_ONCE: Final = 50
_STARTS: Final = 15


def twenty(_place: Place) -> list[Row]:
    """20 replicas: all have the token at once, and all have it 300 ms after the request."""
    return _latencies(20)


def hundred(_place: Place) -> list[Row]:
    """Likewise with 100 replicas."""
    return _latencies(100)


def wrong(_place: Place) -> list[Row]:
    """10,000 verdicts, 50 concurrent, on tokens with known replicas."""
    program("nginx")
    with Gateway(10, interval=0.2) as gateway, _served(gateway, retry_for=0.4, deadline=20) as container:
        chance = random.Random(99)
        truth: dict[str, str] = {}
        for serial in range(200):
            lacking = chance.sample(range(1, 10), chance.choice((0, 0, 0, 1, 2, 4, 5, 9)))
            gateway.put_everywhere(f"truth-{serial}", but=lacking)
            yes = 9 - len(lacking)
            truth[f"truth-{serial}"] = "Synced" if yes == 9 else "Partialy" if 2 * yes > 9 else "NotSynced"
        asked = [chance.choice(list(truth)) for _ in range(_VERDICTS)]
        began = time.perf_counter()
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            said = list(pool.map(_Asker(container.port), asked))
        seconds = time.perf_counter() - began
    false = sum(word != truth[token] for token, word in zip(asked, said, strict=True))
    return [
        Row("tokens.wrong", "answers", [false], None, 0, f"of {_VERDICTS:,} verdicts, {_AT_ONCE} at a time"),
        Row("tokens.wrong.verdict", "ms", [1000 * seconds / _VERDICTS], note="until the next verdict, all cases mixed"),
    ]


def start(_place: Place) -> list[Row]:
    """Start of a process until its probe is ready: imports, clients and TLS contexts."""
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
    took = [
        float(subprocess.run(command, cwd=_ROOT, env=environ, capture_output=True, text=True, check=True).stdout)
        for _ in range(_STARTS)
    ]
    return [Row("tokens.start", "ms", took[1:], None, 350, "import and initialisation of the function probe")]


def url(place: Place) -> list[Row]:
    """20 replicas that all have the token, requested through the function URL of the engine on this machine."""
    program("nginx")
    with (
        Gateway(20, interval=1) as gateway,
        cluster_of(gateway, QUAY_TOKEN_VALUE) as api,
        _served(gateway) as container,
    ):
        sync = sync_of(gateway, api)
        sync["sources"]["prod"]["auth"] = {"token": f"env:{QUAY_TOKEN}"}
        name = place.functions.apply(sync)
        if place.functions.invoke("scrape") != {name: 20}:
            raise NotMadeError("the instances could not be listed")
        parts = urlsplit(place.functions.output("ProbeUrl"))
        address = f"{parts.path.rstrip('/')}/v1/synced"
        function = _Asker(parts.port or 80, address)
        server = _Asker(container.port)
        took: tuple[list[float], list[float]] = ([], [])
        for number in range(_WARM + _RUNS):
            gateway.put_everywhere(f"url-{number}")
            both = ((took[0], function), (took[1], server))
            for values, ask in both if number % 2 == 0 else both[::-1]:
                began = time.perf_counter()
                if (said := ask(f"url-{number}")) != "Synced":
                    raise NotMadeError(f"a verdict was {said}")
                if number >= _WARM:
                    values.append(1000 * (time.perf_counter() - began))
    more = [_percentile(took[0], percent) - _percentile(took[1], percent) for percent in (50, 99)]
    note = "a whole verdict at the function URL; the peer is the container's process"
    return [
        Row("tokens.url.p50", "ms", [_percentile(took[0], 50)], [_percentile(took[1], 50)], None, note),
        Row("tokens.url.p99", "ms", [_percentile(took[0], 99)], [_percentile(took[1], 99)]),
        Row("tokens.url.more.p50", "ms", [more[0]], None, 10, "more than at the container's process"),
        Row("tokens.url.more.p99", "ms", [more[1]], None, 10, "more than at the container's process"),
    ]


MEASUREMENTS: Final[Mapping[str, Callable[[Place], Sequence[Row]]]] = {
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


class _Asker:
    """Requests verdicts over kept connections, one per thread."""

    def __init__(self, port: int, path: str = "/v1/synced") -> None:
        self._port = port
        self._path = path
        self._idle: list[http.client.HTTPConnection] = []

    def __call__(self, token: str) -> str:
        connection = self._idle.pop() if self._idle else http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        headers = {"X-Auth-Token": token, "X-Nginx-Origin": "gateway-000"}
        connection.request("GET", self._path, headers=headers)
        answer = connection.getresponse()
        answer.read()
        self._idle.append(connection)
        return answer.headers["X-Token-Status"]


@dataclass(frozen=True, slots=True)
class _Took:
    """Milliseconds from the last replica's first positive response to the verdict, and in total."""

    over: list[float]
    whole: list[float]


def _latencies(replicas: int) -> list[Row]:
    program("nginx")
    with Gateway(replicas, interval=1) as gateway, _served(gateway) as container:
        schedule = AskSchedule.of(gateway.interval)
        asker = _Asker(container.port)
        with PlainClient(gateway.listed[1:], gateway.client_context(), schedule) as plain:

            def ours(token: str) -> None:
                said = asker(token)
                if said != "Synced":
                    raise NotMadeError(f"a verdict was {said}")

            rows = []
            for name, after in (("", 0.0), (".later", _SYNCED_AFTER)):
                runs = _RUNS if after == 0 else _RUNS // 2
                us, them = _in_turns(gateway, runs, after, ours, plain.ask)
                rows += _rows(f"tokens.{replicas}{name}", us, them, replicas)
    return rows


def _rows(name: str, us: _Took, them: _Took, replicas: int) -> list[Row]:
    note = "after the slowest replica's first yes; the peer is a plain asyncio client without a verdict"
    return [
        Row(f"{name}.p50", "ms", [_percentile(us.over, 50)], [_percentile(them.over, 50)], None, note),
        Row(f"{name}.p99", "ms", [_percentile(us.over, 99)], None, _AIMS[replicas], note),
        Row(f"{name}.p99.ratio", "ms", [_percentile(us.over, 99)], [_percentile(them.over, 99)]),
        Row(f"{name}.whole", "ms", [_percentile(us.whole, 99)], [_GO_BUDGET], 1, "p99 against the original's deadline"),
    ]


def _in_turns(
    gateway: Gateway, runs: int, after: float, ours: Callable[[str], None], peer: Callable[[str], None]
) -> tuple[_Took, _Took]:
    took = (_Took([], []), _Took([], []))
    serial = 0
    for number in range(_WARM + runs):
        both = ((took[0], ours), (took[1], peer))
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
            if number >= _WARM:
                result.over.append(1000 * (ended - last))
                result.whole.append(1000 * (ended - began))
    return took


def _percentile(values: Sequence[float], percent: int) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


def _built_layer() -> Path:
    """Return the layer of the functions, as the engine on this machine has it."""
    found = sorted((_ROOT / ".build/layer").glob("*"), key=lambda each: each.stat().st_mtime)
    if not found:
        raise NotMadeError("the layer has not been built: syncline up")
    return found[-1]
