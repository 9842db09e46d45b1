"""Run simulations: ``python -m tests.simulation [--seeds FIRST LAST] [--jobs N] [--trace]``."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections import Counter
from typing import Any, Final

_ENVIRONMENT: Final = {
    "PYTHONHASHSEED": "0",  # sets of text have the same order in every process
    "AWS_ACCESS_KEY_ID": "AKIDOFTHESIMULATION",
    "AWS_SECRET_ACCESS_KEY": "secret-of-the-simulation",
    "AWS_DEFAULT_REGION": "eu-central-1",
    "POWERTOOLS_METRICS_NAMESPACE": "Syncline",
    "POWERTOOLS_SERVICE_NAME": "simulation",
}
_SHARE: Final = 20
"""Seeds that a process takes at a time."""


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description="Simulate Syncline by seeds.")
    parser.add_argument("--seeds", type=int, nargs=2, default=(0, 2000), metavar=("FIRST", "LAST"))
    parser.add_argument("--seed", type=int, help="simulate one seed, and print its trace")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes at a time")
    parser.add_argument("--trace", action="store_true", help="print the trace of each seed that fails")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no seed after so many seconds")
    parser.add_argument("--record", help="add the figures to this file of JSON")
    options = parser.parse_args()
    if any(os.environ.get(name) != value for name, value in _ENVIRONMENT.items()):
        os.execve(sys.executable, [sys.executable, "-m", "tests.simulation", *sys.argv[1:]], os.environ | _ENVIRONMENT)
    if options.seed is not None:
        options.seeds, options.jobs, options.trace = (options.seed, options.seed + 1), 1, True
    begun = time.monotonic()
    total, failed = Counter[str](), 0
    for seed, report in _verdicts(options.seeds[0], options.seeds[1], options.jobs, begun + options.seconds):
        total.update(report["totals"])
        if report["violations"]:
            failed += 1
            print(f"seed {seed}: {len(report['violations'])} violations")
            for each in report["violations"][:5]:
                print(f"    {each}")
        if options.trace and report["trace"]:
            print("\n".join(report["trace"]))
        sys.stdout.flush()
    seconds = time.monotonic() - begun
    rate = total["seeds"] / seconds if seconds else 0.0
    print(
        f"{total['seeds']} seeds in {seconds:.0f} s ({rate:.1f} a second): {total['steps']} steps, "
        f"{total['invocations']} invocations, {total['kills']} kills; {failed} seeds with violations"
    )
    if options.record:
        _record(options.record, total, failed, seconds, options.seeds)
    return 1 if failed else 0


def _verdicts(first: int, last: int, jobs: int, end: float) -> Any:
    """Yield the seeds and their reports, in order."""
    shares = [range(at, min(at + _SHARE, last)) for at in range(first, last, _SHARE)]
    context = multiprocessing.get_context("fork")
    with context.Pool(jobs, initializer=_prepare, maxtasksperchild=25) as pool:
        for reports in pool.imap(_simulate, [(share, end) for share in shares]):
            yield from reports


def _prepare() -> None:
    from tests.simulation.machine import take_over_time  # noqa: PLC0415 - before anything of the product

    take_over_time()


def _simulate(work: tuple[range, float]) -> list[tuple[int, dict[str, Any]]]:
    """Run a share of seeds in a process of its own."""
    from tests.simulation.plan import planned  # noqa: PLC0415 - after the clocks are taken over
    from tests.simulation.simulation import WORLDS, simulate  # noqa: PLC0415

    share, end = work
    reports: list[tuple[int, dict[str, Any]]] = []
    for seed in share:
        if time.monotonic() > end:
            break
        verdict = simulate(planned(seed, sorted(WORLDS)))
        points = verdict.faults.points
        totals = {f"point {name}": count for name, count in points.items()}
        totals |= {"seeds": 1, "steps": verdict.steps, "invocations": verdict.invocations}
        totals["kills"] = sum(count for name, count in points.items() if name.startswith("killed"))
        trace = verdict.trace if verdict.violations or len(share) == 1 else []
        reports.append((seed, {"violations": verdict.violations, "trace": trace, "totals": totals}))
    return reports


def _record(path: str, total: Counter[str], failed: int, seconds: float, seeds: tuple[int, int]) -> None:
    """Add the figures of this command to a file."""
    try:
        with open(path, encoding="utf-8") as file:  # noqa: PTH123 - a path as it was given
            records = json.load(file)
    except FileNotFoundError:
        records = []
    records.append(
        {"seeds": list(seeds), "failed": failed, "seconds": round(seconds), "totals": dict(sorted(total.items()))}
    )
    with open(path, "w", encoding="utf-8") as file:  # noqa: PTH123
        json.dump(records, file, indent=1)


if __name__ == "__main__":
    sys.exit(main())
