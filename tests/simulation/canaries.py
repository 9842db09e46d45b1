"""Simulate canaries and probes of tokens: ``python -m tests.simulation.canaries [--seeds FIRST LAST] [--seed N]``."""

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

from tests.simulation.process import SHARE, fix_environment

if TYPE_CHECKING:
    from tests.simulation.canary_course import Verdict


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.canaries", description="Simulate canaries.")
    parser.add_argument("--seeds", type=int, nargs=2, default=(0, 500), metavar=("FIRST", "LAST"))
    parser.add_argument("--seed", type=int, help="simulate one seed, and print its trace")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes at a time")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no seed after so many seconds")
    parser.add_argument("--record", help="write the figures into this file of JSON")
    options = parser.parse_args()
    fix_environment("tests.simulation.canaries")
    if options.seed is not None:
        options.seeds, options.jobs = (options.seed, options.seed + 1), 1
    begun = time.monotonic()
    total, failed = Counter[str](), 0
    for verdict in _verdicts(tuple(options.seeds), options.jobs, begun + options.seconds):
        total.update(verdict.totals)
        if options.seed is not None:
            print("\n".join(verdict.trace))
        if verdict.violations:
            failed += 1
            print(f"seed {verdict.seed}: {len(verdict.violations)} violations")
            for each in verdict.violations[:5]:
                print(f"    {each}")
        sys.stdout.flush()
    seconds = time.monotonic() - begun
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


def _verdicts(seeds: tuple[int, int], jobs: int, end: float) -> Iterator[Verdict]:
    first, last = seeds
    shares = [range(at, min(at + SHARE, last)) for at in range(first, last, SHARE)]
    context = multiprocessing.get_context("spawn")  # a worker forked from a thread of the pool finds other clocks
    with context.Pool(jobs, initializer=_prepare, maxtasksperchild=25) as pool:
        for verdicts in pool.imap(_simulate, [(share, end) for share in shares]):
            yield from verdicts


def _prepare() -> None:
    from tests.simulation.machine import take_over_time  # noqa: PLC0415 - before anything of the product

    take_over_time()
    from tests.simulation.loops import ignore_ends  # noqa: PLC0415

    ignore_ends()


def _simulate(work: tuple[range, float]) -> list[Verdict]:
    """Run a share of the seeds, none of them after the end."""
    from tests.simulation.canary_course import simulate  # noqa: PLC0415 - after the clocks are taken over

    share, end = work
    verdicts: list[Verdict] = []
    for seed in share:
        if time.monotonic() > end:
            break
        verdict = simulate(seed)
        if not verdict.violations and len(share) > 1:
            verdict.trace = []
        verdicts.append(verdict)
    return verdicts


if __name__ == "__main__":
    sys.exit(main())
