"""Run simulations.

    python -m tests.simulation --seeds 0 2000            # many seeds
    python -m tests.simulation --seed 5                  # one seed, with its trace
    python -m tests.simulation --seeds 0 2000 --twice    # each seed twice, comparing the traces
    python -m tests.simulation --seeds 0 500 --shrink plan.json   # shrink the plan of the first failing seed
    python -m tests.simulation --plan plan.json          # simulate a saved plan
    python -m tests.simulation --planted-faults --seeds 0 10000   # search for a seed that finds each planted fault

Exit code 0: no violations, or all planted faults found. 1: violations, or a planted fault that was not found.
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

from tests.simulation.environment import CHUNK, fix_environment

_SHOWN: Final = 5
"""Maximum number of violations printed per seed."""


def main() -> int:
    """Run the command."""
    options, parser = _parse_options()
    fix_environment("tests.simulation")
    from tests.simulation.installation import patch_time  # noqa: PLC0415 - before any import of the product

    patch_time()
    from tests.simulation.planted_faults.registry import all_planted_faults  # noqa: PLC0415
    from tests.simulation.simulation import WORLDS  # noqa: PLC0415

    faults = all_planted_faults()
    worlds = tuple(options.worlds or sorted(WORLDS))
    for name in set(worlds) - set(WORLDS):
        parser.error(f"unknown world {name!r}; choose from {', '.join(sorted(WORLDS))}")
    for name in (*(options.planted_faults or ()), *filter(None, [options.with_fault])):
        if name not in faults:
            parser.error(f"unknown planted fault {name!r}; choose from {', '.join(sorted(faults))}")
    if options.planted_faults is not None:
        names, given = options.planted_faults or sorted(faults), tuple(options.worlds or ())
        return _find_planted_faults(names, given, options.seeds, options.jobs, options.record)
    planted: AbstractContextManager[None] = faults[options.with_fault]() if options.with_fault else nullcontext()
    with planted:
        if options.plan is not None:
            return _simulate_plan(options.plan)
        if options.shrink is not None:
            first = options.seed
            return _shrink(range(*options.seeds) if first is None else range(first, first + 1), worlds, options.shrink)
        if options.seed is not None:
            options.seeds, options.jobs = (options.seed, options.seed + 1), 1
        return _run(options, worlds)


def _parse_options() -> tuple[argparse.Namespace, argparse.ArgumentParser]:
    """Return the options of the command line, and the parser that reports invalid ones."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description="Simulate Syncline.")
    parser.add_argument(
        "--seeds", type=int, nargs=2, default=(0, 2000), metavar=("FIRST", "END"), help="seeds from FIRST to END - 1"
    )
    parser.add_argument("--seed", type=int, help="simulate one seed and print its trace")
    parser.add_argument("--plan", type=Path, help="simulate a saved plan and print its trace")
    parser.add_argument("--shrink", type=Path, help="shrink the plan of the first failing seed and save it here")
    parser.add_argument(
        "--planted-faults",
        nargs="*",
        metavar="FAULT",
        help="search for a seed that finds each planted fault (default: all planted faults)",
    )
    parser.add_argument("--with-fault", metavar="FAULT", help="simulate with this planted fault")
    parser.add_argument("--twice", action="store_true", help="simulate each seed twice and compare the traces")
    parser.add_argument("--worlds", nargs="+", metavar="KIND", help="simulate only these kinds")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="number of processes")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start no seed after this time")
    parser.add_argument("--record", type=Path, help="add the figures to this JSON file")
    return parser.parse_args(), parser


def _run(options: argparse.Namespace, worlds: tuple[str, ...]) -> int:
    """Simulate seeds and print those that fail."""
    started = time.monotonic()
    total, failed = Counter[str](), 0
    work = range(*options.seeds), worlds, started + options.seconds, options.twice
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
    seconds = time.monotonic() - started
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
    chunks = [seeds[at : at + CHUNK] for at in range(0, len(seeds), CHUNK)]
    with multiprocessing.get_context("fork").Pool(jobs, maxtasksperchild=25) as pool:
        for reports in pool.imap(_simulate_chunk, [(chunk, worlds, end, twice) for chunk in chunks]):
            yield from reports


def _simulate_chunk(work: tuple[range, tuple[str, ...], float, bool]) -> list[tuple[int, dict[str, Any]]]:
    """Simulate a chunk of seeds. With ``twice``, simulate them again in reverse order and compare the traces."""
    from tests.simulation.plan import make_plan  # noqa: PLC0415 - after the clocks are patched
    from tests.simulation.simulation import simulate  # noqa: PLC0415

    chunk, worlds, end, twice = work
    traces: dict[int, list[str]] = {}
    reports: list[tuple[int, dict[str, Any]]] = []
    for seed in chunk:
        if time.monotonic() > end:
            break
        result = simulate(make_plan(seed, worlds), logged=len(chunk) == 1)
        points = result.faults.points
        totals = {f"point {name}": count for name, count in points.items()}
        totals |= {f"world {name}": 1 for name in result.plan.worlds}
        totals |= {"seeds": 1, "steps": result.steps, "invocations": result.invocations}
        totals["kills"] = sum(count for name, count in points.items() if name.startswith("killed"))
        trace = result.trace if len(chunk) == 1 else []
        reports.append((seed, {"violations": result.violations, "trace": trace, "totals": totals}))
        if twice:
            traces[seed] = [*result.trace, *result.violations]
    for seed, report in reversed(reports if twice else []):
        again = simulate(make_plan(seed, worlds))
        report["violations"] += _first_difference(traces[seed], [*again.trace, *again.violations])
    return reports


def _first_difference(first: list[str], second: list[str]) -> list[str]:
    """Return a violation for the first line in which two traces of one seed differ, or nothing."""
    for one, other in itertools.zip_longest(first, second):
        if one != other:
            return [f"the second trace differs: {one!r} became {other!r}"]
    return []


def _simulate_plan(path: Path) -> int:
    """Simulate a saved plan and print its trace."""
    from tests.simulation.plan import Plan  # noqa: PLC0415
    from tests.simulation.simulation import simulate  # noqa: PLC0415

    result = simulate(Plan.from_json(path.read_text(encoding="utf-8")), logged=True)
    print("\n".join([*result.trace, *result.violations]))
    return 1 if result.violations else 0


def _shrink(seeds: range, worlds: tuple[str, ...], path: Path) -> int:
    """Shrink the plan of the first failing seed, print its trace, and save the plan."""
    from tests.simulation.plan import Plan, make_plan, shrink  # noqa: PLC0415
    from tests.simulation.simulation import simulate  # noqa: PLC0415

    for seed in seeds:
        plan = make_plan(seed, worlds)
        violations = simulate(plan, logged=True).violations
        if violations:
            break
    else:
        print(f"no seed from {seeds.start} to {seeds.stop - 1} has a violation, so there is no plan to shrink")
        return 1
    pattern = _without_names(violations[0])

    def fails(shorter: Plan) -> bool:
        return any(_without_names(found) == pattern for found in simulate(shorter, logged=True).violations)

    short = shrink(plan, fails)
    result = simulate(short, logged=True)
    print("\n".join([*result.trace, *result.violations]))
    print(
        f"seed {seed}: {len(plan.actions)} actions and {len(plan.fault_rates)} faults were reduced to "
        f"{len(short.actions)} and {len(short.fault_rates)}"
    )
    path.write_text(short.to_json(), encoding="utf-8")
    return 0


def _without_names(violation: str) -> str:
    """Return the text of a violation without names and numbers, so that similar violations compare equal."""
    return re.sub(r"[0-9a-f]{6,}|\d+|'[^']*'|[\w/.-]+:[\w/.-]+", "", violation)[:80]


def _find_planted_faults(
    names: list[str], worlds: tuple[str, ...], seeds: tuple[int, int], jobs: int, record: Path | None
) -> int:
    """Search for a seed that finds each planted fault. Return 1 if one is not found.

    Without ``worlds``, each is searched for in its own worlds.
    """
    with multiprocessing.get_context("fork").Pool(jobs, maxtasksperchild=1) as pool:
        found = dict(pool.imap_unordered(_find_planted_fault, [(name, worlds, range(*seeds)) for name in names]))
    missed = [name for name in names if found[name]["seed"] is None]
    print(f"{len(names) - len(missed)} of {len(names)} planted faults found; missed: {', '.join(missed) or 'none'}")
    if record is not None:
        records = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
        records |= found
        lines = json.dumps({name: records[name] for name in sorted(records)}, indent=1)
        record.write_text(lines + "\n", encoding="utf-8")
    return 1 if missed else 0


def _find_planted_fault(work: tuple[str, tuple[str, ...], range]) -> tuple[str, dict[str, Any]]:
    from tests.simulation.plan import make_plan  # noqa: PLC0415
    from tests.simulation.planted_faults.registry import PLANTED_FAULTS, WORLDS_OF  # noqa: PLC0415
    from tests.simulation.simulation import simulate  # noqa: PLC0415

    name, given, seeds = work
    worlds = given or WORLDS_OF[name]
    for seed in seeds:
        plan = make_plan(seed, worlds)
        with PLANTED_FAULTS[name]():
            violations = simulate(plan).violations
        if violations and not simulate(plan).violations:  # a seed that also fails without the fault proves nothing
            print(f"{name}: seed {seed}: {violations[0][:160]}", flush=True)
            return name, {"seed": seed, "worlds": worlds, "violation": violations[0][:200]}
    print(f"{name}: not found in {len(seeds)} seeds", flush=True)
    return name, {"seed": None, "seeds": len(seeds)}


def _record(path: Path, total: Counter[str], failed: int, seconds: float, seeds: tuple[int, int]) -> None:
    """Add the figures of this run to a file."""
    records = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    figures = {"seeds": list(seeds), "failed": failed, "seconds": round(seconds), "totals": dict(sorted(total.items()))}
    path.write_text(json.dumps([*records, figures], indent=1), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
