"""``python -m bench [NAME]``: run the measurements whose name is NAME or begins with ``NAME.``; all without one.

A kind's measurements are in a module named after it. ``MEASUREMENTS`` there maps what follows the kind in a name to a
function that makes the measurement; ``LONG`` names those that take an hour or much disk space, which run
only if they are named. Unmet aims are shown but do not change the exit code. It is 1 if a measurement failed for another
reason than a missing program.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from bench import report
from bench.measure import NotMadeError, Row
from bench.place import Place
from tests.standins.programs import ProgramAbsentError

KINDS: Final = ("images", "files", "backups", "artifacts", "tokens", "fair")

Measurement = Callable[[Place], Sequence[Row]]


def main(arguments: Sequence[str]) -> int:
    wanted = arguments[0] if arguments else ""
    chosen = [
        (name, measure)
        for name, measure, long in _measurements()
        if name == wanted or (not long and f"{name}.".startswith(f"{wanted}." if wanted else ""))
    ]
    if not chosen or len(arguments) > 1:
        print(f"usage: python -m bench [NAME]; NAME is one of {', '.join(_names())}", file=sys.stderr)
        return 2
    # SIGTERM still stops the servers and the engine.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))
    load = os.getloadavg()[0]
    rows: list[Row] = []
    failed = False
    with Place() as place:
        for name, measure in chosen:
            try:
                made = measure(place)
            except ProgramAbsentError as absent:
                print(f"{name}: not made: {absent}", flush=True)
            except Exception as error:  # noqa: BLE001 - the others are still worth making
                failed = True
                print(f"{name}: not made: {error}", flush=True)
                if not isinstance(error, NotMadeError):
                    traceback.print_exc()
            else:
                rows += made
                print(f"{name}: written to {report.write(name, made)}", flush=True)
    print(f"\n{report.table(rows)}\n\n{report.machine(load)}")
    return 1 if failed else 0


def _measurements() -> Iterator[tuple[str, Measurement, bool]]:
    """Name, function, and True for a long measurement."""
    for kind in KINDS:
        module = importlib.import_module(f"bench.{kind}")
        for name, measure in module.MEASUREMENTS.items():
            yield f"{kind}.{name}", measure, name in getattr(module, "LONG", ())


def _names() -> list[str]:
    return [*KINDS, *(name for name, _, _ in _measurements())]


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
