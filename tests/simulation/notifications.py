"""Simulate notifications: ``python -m tests.simulation.notifications [--seeds FIRST END] [--seed N] [--with-fault NAME]``."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

from tests.simulation.environment import fix_environment


def main() -> int:
    """Run the command. The exit code is 1 if a seed has violations."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulation.notifications", description="Simulate notifications and heartbeats."
    )
    parser.add_argument(
        "--seeds", type=int, nargs=2, default=(0, 200), metavar=("FIRST", "END"), help="seeds from FIRST to END - 1"
    )
    parser.add_argument("--seed", type=int, help="simulate one seed and print its trace")
    parser.add_argument("--with-fault", metavar="NAME", help="plant a fault, and stop at the first seed that finds it")
    options = parser.parse_args()
    fix_environment("tests.simulation.notifications")
    from tests.simulation.installation import patch_time  # noqa: PLC0415 - before any import of the product

    patch_time()
    from tests.simulation.notification_simulation import PLANTED_FAULTS, simulate  # noqa: PLC0415

    if options.with_fault not in (None, *PLANTED_FAULTS):
        parser.error(f"no planted fault {options.with_fault}; there are {', '.join(PLANTED_FAULTS)}")
    first, end = options.seeds if options.seed is None else (options.seed, options.seed + 1)
    started, failed, total = time.monotonic(), 0, Counter[str]()
    for seed in range(first, end):
        result = simulate(seed, options.with_fault)
        total.update(result.totals)
        if options.seed is not None:
            print("\n".join(result.trace))
        if result.violations:
            failed += 1
            print(f"seed {seed}: {len(result.violations)} violations")
            for each in result.violations[:5]:
                print(f"    {each}")
            if options.with_fault is not None:
                break
    figures = ", ".join(f"{count} {name}" for name, count in sorted(total.items()))
    print(f"{figures}; {failed} seeds with violations; {time.monotonic() - started:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
