"""Fair shares: how long a push to one sync takes while another sync has a long backlog.

The peer is the same push on the idle engine. Both are recorded times of runs, in which the image is discovered, moved
and verified. ``BENCH_FAIR=2000`` tries it with a smaller backlog, under a name that says so.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from bench.measure import NotMadeError, Row
from bench.place import Place
from tests.standins.oci import OciRegistry

_COUNT: Final = int(os.environ.get("BENCH_FAIR", "10000"))
_ROUNDS: Final = 5
_BEGUN: Final = 50
"""Images of the backlog that are copied before the first push is measured."""
_PATIENCE: Final = 300.0


def push(place: Place) -> list[Row]:
    """Measure pushes on the idle engine, then during a run of another sync with a batch for each of many repositories."""
    functions = place.functions
    with OciRegistry() as backlog, OciRegistry() as source, OciRegistry() as bulk, OciRegistry() as target:
        for number in range(_COUNT):
            backlog.store.add_image(f"bulk/r{number:05}", "1.0", b"image %d" % number)
        functions.apply_all({"bulk": _sync(backlog, bulk), "push": _sync(source, target)})
        numbers = itertools.count()

        def pushed() -> float:
            number = next(numbers)
            source.store.add_image("team/app", f"1.{number}", b"push %d" % number)
            ran = functions.run("push")
            if ran.moved != 1:
                raise NotMadeError(f"a push moved {ran.moved} images")
            return ran.seconds

        pushed()  # the functions' processes start in it
        idle = [pushed() for _ in range(_ROUNDS)]
        functions.begin("bulk")
        try:
            _wait(lambda: len(bulk.store.tags()) > _BEGUN)
            busy = [pushed() for _ in range(_ROUNDS)]
            left = _COUNT - len(bulk.store.tags())
            if left <= 0:
                raise NotMadeError(f"the backlog of {_COUNT} images was done before the pushes were")
        finally:
            functions.cancel("bulk")
    note = f"the peer is the same push on the idle engine; {left} of {_COUNT} images of the other sync were left"
    return [Row(f"fair.push.{_COUNT / 1000:g}k", "s", busy, idle, 2.0, note)]


MEASUREMENTS: Final[Mapping[str, Callable[[Place], Sequence[Row]]]] = {"push": push}


def _sync(source: OciRegistry, target: OciRegistry) -> dict[str, Any]:
    return {
        "kind": "images",
        "source": {"registry": source.host, "plain_http": True, "catalog": True},
        "target": {"registry": target.host, "plain_http": True},
    }


def _wait(done: Callable[[], bool]) -> None:
    until = time.monotonic() + _PATIENCE
    while not done():
        if time.monotonic() > until:
            raise NotMadeError(f"the backlog did not begin within {_PATIENCE:.0f} s")
        time.sleep(0.1)
