"""Fairness: the time of a push to one sync while another sync has a long backlog.

The peer is the same push on an idle engine. Both values are recorded durations of runs that discover, transfer and
verify one image. ``BENCH_FAIR=2000`` measures with a smaller backlog, under another row name.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from bench.measure import MeasurementError, Row
from bench.workspace import Workspace
from tests.standins.oci import OciRegistry

_COUNT: Final = int(os.environ.get("BENCH_FAIR", "10000"))
_ROUNDS: Final = 5
_COPIED_BEFORE: Final = 50
"""Images of the backlog that are copied before the first push is measured."""
_TIMEOUT: Final = 300.0  # seconds


def push(workspace: Workspace) -> list[Row]:
    """Measure pushes on an idle engine, then during a run of another sync with one batch per repository."""
    functions = workspace.functions
    with OciRegistry() as backlog, OciRegistry() as source, OciRegistry() as bulk, OciRegistry() as target:
        for number in range(_COUNT):
            backlog.store.add_image(f"bulk/r{number:05}", "1.0", b"image %d" % number)
        functions.apply_all({"bulk": _sync(backlog, bulk), "push": _sync(source, target)})
        numbers = itertools.count()

        def push_once() -> float:
            number = next(numbers)
            source.store.add_image("team/app", f"1.{number}", b"push %d" % number)
            run = functions.run("push")
            if run.moved != 1:
                raise MeasurementError(f"a push moved {run.moved} images instead of one")
            return run.seconds

        push_once()  # starts the functions
        idle = [push_once() for _ in range(_ROUNDS)]
        functions.begin("bulk")
        try:
            _wait(lambda: len(bulk.store.tags()) > _COPIED_BEFORE)
            busy = [push_once() for _ in range(_ROUNDS)]
            left = _COUNT - len(bulk.store.tags())
            if left <= 0:
                raise MeasurementError(
                    f"the backlog of {_COUNT} images ended before the last push; measure with a larger one"
                )
        finally:
            functions.cancel("bulk")
    note = (
        f"the peer is the same push on an idle engine; at the end, {left} of {_COUNT} images of the backlog were left"
    )
    return [Row(f"fair.push.{_COUNT / 1000:g}k", "s", busy, idle, 2.0, note)]


MEASUREMENTS: Final[Mapping[str, Callable[[Workspace], Sequence[Row]]]] = {"push": push}


def _sync(source: OciRegistry, target: OciRegistry) -> dict[str, Any]:
    return {
        "kind": "images",
        "source": {"registry": source.host, "plain_http": True, "catalog": True},
        "target": {"registry": target.host, "plain_http": True},
    }


def _wait(done: Callable[[], bool]) -> None:
    until = time.monotonic() + _TIMEOUT
    while not done():
        if time.monotonic() > until:
            raise MeasurementError(
                f"the run of the backlog did not copy {_COPIED_BEFORE} images within {_TIMEOUT:.0f} s"
            )
        time.sleep(0.1)
