"""Simulate canaries and probes of tokens: ``python -m tests.simulation.canaries [--seeds FIRST END] [--seed N]``."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tests.simulation.environment import CHUNK, fix_environment

if TYPE_CHECKING:
    from tests.simulation.canary_simulation import SimulationResult


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulation.canaries", description="Simulate canaries and probes."
    )
    parser.add_argument(
        "--seeds", type=int, nargs=2, default=(0, 500), metavar=("FIRST", "END"), help="seeds from FIRST to END - 1"
    )
    parser.add_argument("--seed", type=int, help="simulate one seed and print its trace")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="number of processes")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start no seed after this time")
    parser.add_argument("--record", help="write the figures to this JSON file")
    options = parser.parse_args()
    fix_environment("tests.simulation.canaries")
    if options.seed is not None:
        options.seeds, options.jobs = (options.seed, options.seed + 1), 1
    started = time.monotonic()
    total, failed = Counter[str](), 0
    for result in _results(tuple(options.seeds), options.jobs, started + options.seconds):
        total.update(result.totals)
        if options.seed is not None:
            print("\n".join(result.trace))
        if result.violations:
            failed += 1
            print(f"seed {result.seed}: {len(result.violations)} violations")
            for each in result.violations[:5]:
                print(f"    {each}")
        sys.stdout.flush()
    seconds = time.monotonic() - started
    print(
        f"{total['seeds']} seeds in {seconds:.0f} s: {total['rounds']} rounds, {total['probes']} probes, "
        f"{total['kills']} kills, {total['losses found']} of {total['losses']} losses found, "
        f"{total['false alarms']} false alarms; {failed} seeds with violations"
    )
    if options.record:
        figures = {"seeds": list(options.seeds), "failed": failed, "seconds": round(seconds)}
        record = figures | {"totals": dict(sorted(total.items()))}
        Path(options.record).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 1 if failed else 0


def _results(seeds: tuple[int, int], jobs: int, end: float) -> Iterator[SimulationResult]:
    first, end_seed = seeds
    chunks = [range(at, min(at + CHUNK, end_seed)) for at in range(first, end_seed, CHUNK)]
    context = multiprocessing.get_context("spawn")  # a forked worker would have unpatched clocks
    with context.Pool(jobs, initializer=_prepare, maxtasksperchild=25) as pool:
        for results in pool.imap(_simulate_chunk, [(chunk, end) for chunk in chunks]):
            yield from results


def _prepare() -> None:
    from tests.simulation.installation import patch_time  # noqa: PLC0415 - before any import of the product

    patch_time()
    from tests.simulation.event_loop import ignore_unfinished_coroutines  # noqa: PLC0415

    ignore_unfinished_coroutines()


def _simulate_chunk(work: tuple[range, float]) -> list[SimulationResult]:
    """Simulate a chunk of seeds, and start none after the end."""
    from tests.simulation.canary_simulation import simulate  # noqa: PLC0415 - after the clocks are taken over

    chunk, end = work
    results: list[SimulationResult] = []
    for seed in chunk:
        if time.monotonic() > end:
            break
        result = simulate(seed)
        if not result.violations and len(chunk) > 1:
            result.trace = []
        results.append(result)
    return results


if __name__ == "__main__":
    sys.exit(main())
