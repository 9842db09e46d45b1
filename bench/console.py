"""The operator's view: the status page in Chromium, the metrics and the command `status`.

The table of the engine holds 50 syncs with 10,000 runs, the latest of one with 100,000 items. In rows with a fixed limit
the peer is that limit, so the ratio is the share of it that is used.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, Final
from urllib.parse import quote, urlencode

from bench.measure import MeasurementError, Row, in_turns
from bench.workspace import ROOT, Workspace
from syncline.cli.aws import LOCAL_CONFIG, local_session
from tests.rig import console_state
from tests.rig.browser import PROGRAMS, Browser
from tests.rig.console_state import Seed
from tests.standins.oci import OciRegistry
from tests.standins.programs import program

_ROUNDS: Final = 15
_SEARCHES: Final = 60
_PAINT: Final = 1000.0  # milliseconds
_SIZE: Final = 200.0  # KiB
_ANSWER: Final = 300.0  # milliseconds
_STATUS: Final = 1.5
_BARE: Final = """
import boto3, sys
client = boto3.client("dynamodb", endpoint_url=sys.argv[1], region_name="us-east-1")
client.get_item(TableName=sys.argv[2], Key={"pk": {"S": "SYNCS"}, "sk": {"S": "none"}}, ConsistentRead=True)
"""


def page(workspace: Workspace) -> list[Row]:
    """Measure the time from opening the page of all syncs to its first content, and the bytes that it takes."""
    for name in PROGRAMS:
        program(name)
    url = workspace.functions.output("ConsoleUrl")
    _fill(workspace)
    paints: list[float] = []
    sizes: list[float] = []
    with Browser() as browser:
        for number in range(_ROUNDS + 1):
            browser.reset()  # with an empty cache
            browser.open(url)
            if number:  # the first one starts the function
                paints.append(browser.first_paint())
                sizes.append(browser.transferred() / 1024)
            browser.check("127.0.0.1")
    note = "all 50 syncs, with an empty cache; Chromium's first contentful paint since the navigation"
    return [
        Row("console.page.paint", "ms", paints, [_PAINT], 1.0, f"{note}; the peer is the limit of 1 s"),
        Row("console.page.size", "KiB", sizes, [_SIZE], 1.0, "all responses with their heads; the peer is the limit"),
    ]


def search(workspace: Workspace) -> list[Row]:
    """Measure searches among 100,000 items of a run, each for another text."""
    seed = _fill(workspace)
    run = f"{workspace.functions.output('ConsoleUrl')}runs/{quote(console_state.LARGE)}/{seed.large_run}"
    first: list[float] = []
    times: list[float] = []
    for number in range(_SEARCHES + 1):
        wanted = f"app-{(number * 7919) % console_state.ITEMS:06}"
        began = time.perf_counter()
        body = _get(f"{run}?{urlencode({'q': wanted})}")
        (times if number else first).append(1000 * (time.perf_counter() - began))
        if f"team/{wanted}".encode() not in body:
            raise MeasurementError(f"{wanted} was not found")
    return [
        Row("console.search.first", "ms", first, note="the first search of a run, which loads its report"),
        Row("console.search.p50", "ms", [statistics.median(times)]),
        Row(
            "console.search.p95",
            "ms",
            [_percentile(times, 95)],
            [_ANSWER],
            1.0,
            f"{_SEARCHES} searches among {console_state.ITEMS:,} items, each for another text; the peer is the limit",
        ),
    ]


def metrics(workspace: Workspace) -> list[Row]:
    """Measure the page that Prometheus reads."""
    _fill(workspace)
    url = f"{workspace.functions.output('ConsoleUrl')}metrics"
    times = _timed(lambda: _get(url))
    return [Row("console.metrics", "ms", times, [_ANSWER], 1.0, "50 syncs with 10,000 runs; the peer is the limit")]


def status(workspace: Workspace) -> list[Row]:
    """Measure the command `status` of one sync against Python that imports boto3 and makes one call to the engine."""
    functions = workspace.functions
    with OciRegistry() as source, OciRegistry() as target:
        source.store.add_image("team/app", "1.0", b"an image")
        ends = [{"registry": each.host, "plain_http": True} for each in (source, target)]
        functions.apply_all({"status": {"kind": "images", "source": {**ends[0], "catalog": True}, "target": ends[1]}})
        functions.run("status")
    table = functions.output("TableName")
    environ = {name: text for name, text in os.environ.items() if not name.startswith("SYNCLINE_")}
    environ |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}

    def run(*arguments: str) -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environ, capture_output=True, check=True, timeout=60)
        return time.perf_counter() - began

    def ours() -> float:
        return run("-m", "syncline.cli.main", "status", "--home", str(functions.home))

    def peer() -> float:
        return run("-c", _BARE, functions.endpoint, table)

    ours(), peer()  # the first ones compile the modules
    note = "one sync that has run; the peer is Python that imports boto3 and makes one call to the same engine"
    return [Row("console.status", "s", *in_turns(_ROUNDS, ours, peer), _STATUS, note)]


MEASUREMENTS: Final[Mapping[str, Callable[[Workspace], Sequence[Row]]]] = {
    "page": page,
    "search": search,
    "metrics": metrics,
    "status": status,
}


@cache
def _fill(workspace: Workspace) -> Seed:
    """Fill the table of the engine once."""
    functions = workspace.functions
    resource: Any = local_session().resource("dynamodb", endpoint_url=functions.endpoint, config=LOCAL_CONFIG)
    seed = Seed(resource.Table(functions.output("TableName")), time.time())
    seed.fill()
    return seed


def _get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=60) as response:
        return bytes(response.read())


def _timed(act: Callable[[], object]) -> list[float]:
    """Return the milliseconds of each of some calls, after a first one that starts the function."""
    act()
    times = []
    for _ in range(_ROUNDS):
        began = time.perf_counter()
        act()
        times.append(1000 * (time.perf_counter() - began))
    return times


def _percentile(values: Sequence[float], percent: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]
