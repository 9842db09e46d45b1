"""Run measurements: ``python -m bench [NAME]`` runs those named NAME or beginning with ``NAME.``; without NAME, all.

The measurements of a kind are in the module of that name. Its ``MEASUREMENTS`` maps the rest of a measurement's name to
a function. ``LONG`` names measurements that take an hour or much disk space; they run only if named in full.

The exit code is 1 if a measurement failed. A missing program or an aim that is not met does not change it.
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
from bench.measure import MeasurementError, Row
from bench.workspace import Workspace
from tests.standins.programs import ProgramAbsentError

KINDS: Final = ("images", "files", "backups", "artifacts", "tokens", "audit", "fair", "console", "notify")

Measurement = Callable[[Workspace], Sequence[Row]]


def main(arguments: Sequence[str]) -> int:
    selected = arguments[0] if arguments else ""
    chosen = [
        (name, measure)
        for name, measure, long in _measurements()
        if name == selected or (not long and f"{name}.".startswith(f"{selected}." if selected else ""))
    ]
    if not chosen or len(arguments) > 1:
        print(f"usage: python -m bench [NAME]; NAME is one of {', '.join(_names())}", file=sys.stderr)
        return 2
    # On SIGTERM, exit normally so that the servers and the engine are stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))
    load = os.getloadavg()[0]
    rows: list[Row] = []
    failed = False
    with Workspace() as workspace:
        for name, measure in chosen:
            try:
                measured = measure(workspace)
            except ProgramAbsentError as absent:
                print(f"{name}: skipped: {absent}", flush=True)
            except Exception as error:  # noqa: BLE001 - the other measurements still run
                failed = True
                print(f"{name}: failed: {error}", flush=True)
                if not isinstance(error, MeasurementError):
                    traceback.print_exc()
            else:
                rows += measured
                print(f"{name}: written to {report.write(name, measured)}", flush=True)
    print(f"\n{report.table(rows)}\n\n{report.machine(load)}")
    return 1 if failed else 0


def _measurements() -> Iterator[tuple[str, Measurement, bool]]:
    """Yield the name and function of each measurement, and True if it is long."""
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
