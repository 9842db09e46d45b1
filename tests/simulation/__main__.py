"""Run simulations.

    python -m tests.simulation --seeds 0 2000            # many seeds
    python -m tests.simulation --seed 5                  # one seed, with its trace
    python -m tests.simulation --seeds 0 2000 --twice    # each seed twice: its trace must be the same
    python -m tests.simulation --seeds 0 500 --shrink plan.json   # shorten the plan of the first seed that fails
    python -m tests.simulation --plan plan.json          # carry out a plan that was kept
    python -m tests.simulation --plants --seeds 0 10000  # plant faults, and find a seed for each in its worlds

Exit code 0: no violation, or every planted fault was found. 1: a violation, or a planted fault that was not found.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Final

from tests.simulation.process import SHARE, fix_environment

_SHOWN: Final = 5
"""Violations of a seed that are printed."""


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description="Simulate Syncline by seeds.")
    parser.add_argument("--seeds", type=int, nargs=2, default=(0, 2000), metavar=("FIRST", "LAST"))
    parser.add_argument("--seed", type=int, help="simulate one seed, and print its trace")
    parser.add_argument("--plan", type=Path, help="carry out a plan that was kept, and print its trace")
    parser.add_argument("--shrink", type=Path, help="shorten the plan of the first seed that fails, and keep it here")
    parser.add_argument(
        "--plants", nargs="*", metavar="NAME", help="plant faults (all by default); find a seed for each"
    )
    parser.add_argument("--with", dest="planted", metavar="NAME", help="simulate with a planted fault")
    parser.add_argument("--twice", action="store_true", help="simulate each seed twice, and compare the traces")
    parser.add_argument("--worlds", nargs="+", metavar="KIND", help="simulate these kinds only")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes at a time")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no seed after so many seconds")
    parser.add_argument("--record", type=Path, help="add the figures to this file of JSON")
    options = parser.parse_args()
    fix_environment("tests.simulation")
    from tests.simulation.machine import take_over_time  # noqa: PLC0415 - before anything of the product is imported

    take_over_time()
    from tests.simulation.plants import all_plants  # noqa: PLC0415
    from tests.simulation.simulation import WORLDS  # noqa: PLC0415

    plants = all_plants()
    worlds = tuple(options.worlds or sorted(WORLDS))
    for name in set(worlds) - set(WORLDS):
        parser.error(f"there is no world of {name!r}; there are: {', '.join(sorted(WORLDS))}")
    for name in (*(options.plants or ()), *filter(None, [options.planted])):
        if name not in plants:
            parser.error(f"there is no plant {name!r}; there are: {', '.join(sorted(plants))}")
    if options.plants is not None:
        names, given = options.plants or sorted(plants), tuple(options.worlds or ())
        return _find_plants(names, given, options.seeds, options.jobs, options.record)
    planted: AbstractContextManager[None] = plants[options.planted]() if options.planted else nullcontext()
    with planted:
        if options.plan is not None:
            return _carry_out(options.plan)
        if options.shrink is not None:
            first = options.seed
            return _shrink(range(*options.seeds) if first is None else range(first, first + 1), worlds, options.shrink)
        if options.seed is not None:
            options.seeds, options.jobs = (options.seed, options.seed + 1), 1
        return _run(options, worlds)


def _run(options: argparse.Namespace, worlds: tuple[str, ...]) -> int:
    """Simulate seeds and print those that fail."""
    begun = time.monotonic()
    total, failed = Counter[str](), 0
    work = range(*options.seeds), worlds, begun + options.seconds, options.twice
    for seed, report in _reports(*work, options.jobs):
        total.update(report["totals"])
        if report["violations"]:
            failed += 1
            print(f"seed {seed}: {len(report['violations'])} violations")
            for each in report["violations"][:_SHOWN]:
                print(f"    {each}")
        if options.seed is not None:
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


def _reports(
    seeds: range,
    worlds: tuple[str, ...],
    end: float,
    twice: bool,
    jobs: int,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the seeds and their reports, in order."""
    shares = [seeds[at : at + SHARE] for at in range(0, len(seeds), SHARE)]
    with multiprocessing.get_context("fork").Pool(jobs, maxtasksperchild=25) as pool:
        for reports in pool.imap(_simulate, [(share, worlds, end, twice) for share in shares]):
            yield from reports


def _simulate(work: tuple[range, tuple[str, ...], float, bool]) -> list[tuple[int, dict[str, Any]]]:
    """Run a share of seeds; where it is asked for, run them backwards as well, and compare."""
    from tests.simulation.plan import planned  # noqa: PLC0415 - after the clocks are taken over
    from tests.simulation.simulation import simulate  # noqa: PLC0415

    share, worlds, end, twice = work
    traces: dict[int, list[str]] = {}
    reports: list[tuple[int, dict[str, Any]]] = []
    for seed in share:
        if time.monotonic() > end:
            break
        verdict = simulate(planned(seed, worlds), logged=len(share) == 1)
        points = verdict.faults.points
        totals = {f"point {name}": count for name, count in points.items()}
        totals |= {f"world {name}": 1 for name in verdict.plan.worlds}
        totals |= {"seeds": 1, "steps": verdict.steps, "invocations": verdict.invocations}
        totals["kills"] = sum(count for name, count in points.items() if name.startswith("killed"))
        trace = verdict.trace if len(share) == 1 else []
        reports.append((seed, {"violations": verdict.violations, "trace": trace, "totals": totals}))
        if twice:
            traces[seed] = [*verdict.trace, *verdict.violations]
    for seed, report in reversed(reports if twice else []):
        again = simulate(planned(seed, worlds))
        report["violations"] += _differences(traces[seed], [*again.trace, *again.violations])
    return reports


def _differences(first: list[str], second: list[str]) -> list[str]:
    """Return where the traces of one seed differ, if they do."""
    for one, other in itertools.zip_longest(first, second):
        if one != other:
            return [f"another trace the second time: {one!r} became {other!r}"]
    return []


def _carry_out(path: Path) -> int:
    """Carry out a plan that was kept, and print its story."""
    from tests.simulation.plan import Plan  # noqa: PLC0415
    from tests.simulation.simulation import simulate  # noqa: PLC0415

    verdict = simulate(Plan.from_json(path.read_text(encoding="utf-8")), logged=True)
    print("\n".join([*verdict.trace, *verdict.violations]))
    return 1 if verdict.violations else 0


def _shrink(seeds: range, worlds: tuple[str, ...], path: Path) -> int:
    """Shorten the plan of the first seed that fails, print its story, and keep the plan in a file."""
    from tests.simulation.plan import Plan, planned, shrunk  # noqa: PLC0415
    from tests.simulation.simulation import simulate  # noqa: PLC0415

    for seed in seeds:
        plan = planned(seed, worlds)
        violations = simulate(plan, logged=True).violations
        if violations:
            break
    else:
        print(f"no seed from {seeds.start} to {seeds.stop - 1} has a violation, so there is nothing to shorten")
        return 1
    kind = _kind(violations[0])

    def fails(shorter: Plan) -> bool:
        return any(_kind(found) == kind for found in simulate(shorter, logged=True).violations)

    short = shrunk(plan, fails)
    verdict = simulate(short, logged=True)
    print("\n".join([*verdict.trace, *verdict.violations]))
    print(
        f"seed {seed}: {len(plan.acts)} acts and {len(plan.weather)} faults became "
        f"{len(short.acts)} and {len(short.weather)}"
    )
    path.write_text(short.to_json(), encoding="utf-8")
    return 0


def _kind(violation: str) -> str:
    """Return what is violated, without names and numbers."""
    return re.sub(r"[0-9a-f]{6,}|\d+|'[^']*'|[\w/.-]+:[\w/.-]+", "", violation)[:80]


def _find_plants(
    names: list[str], worlds: tuple[str, ...], seeds: tuple[int, int], jobs: int, record: Path | None
) -> int:
    """Look for a seed that finds each planted fault. Return 1 if one is not found.

    Without ``worlds``, each is looked for in those that it names.
    """
    with multiprocessing.get_context("fork").Pool(jobs, maxtasksperchild=1) as pool:
        found = dict(pool.imap_unordered(_find_plant, [(name, worlds, range(*seeds)) for name in names]))
    missed = [name for name in names if found[name]["seed"] is None]
    print(f"{len(names) - len(missed)} of {len(names)} planted faults found; missed: {', '.join(missed) or 'none'}")
    if record is not None:
        record.write_text(json.dumps({name: found[name] for name in sorted(found)}, indent=1), encoding="utf-8")
    return 1 if missed else 0


def _find_plant(work: tuple[str, tuple[str, ...], range]) -> tuple[str, dict[str, Any]]:
    from tests.simulation.plan import planned  # noqa: PLC0415
    from tests.simulation.plants import PLACES, PLANTS  # noqa: PLC0415
    from tests.simulation.simulation import WORLDS, simulate  # noqa: PLC0415

    name, given, seeds = work
    worlds = given or PLACES[name] or tuple(sorted(WORLDS))
    for seed in seeds:
        plan = planned(seed, worlds)
        with PLANTS[name]():
            violations = simulate(plan).violations
        if violations and not simulate(plan).violations:  # a seed that fails without the plant shows nothing
            print(f"{name}: seed {seed}: {violations[0][:160]}", flush=True)
            return name, {"seed": seed, "worlds": worlds, "violation": violations[0][:200]}
    print(f"{name}: not found in {len(seeds)} seeds", flush=True)
    return name, {"seed": None, "seeds": len(seeds)}


def _record(path: Path, total: Counter[str], failed: int, seconds: float, seeds: tuple[int, int]) -> None:
    """Add the figures of this command to a file."""
    records = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    figures = {"seeds": list(seeds), "failed": failed, "seconds": round(seconds), "totals": dict(sorted(total.items()))}
    path.write_text(json.dumps([*records, figures], indent=1), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
