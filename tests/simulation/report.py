"""Write docs/reliability.md from the records of simulations: ``python -m tests.simulation.report > docs/reliability.md``."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

_RECORDS: Final = Path(__file__).with_name("records")
_FOUND: Final = _RECORDS / "found.json"
_WHEN: Final = ("before", "within", "after")
_INTRODUCTION: Final = """\
# Reliability

Syncline promises that every difference ends moved, reported or dead-lettered with its reason; that no copy is wrong;
that nothing foreign is overwritten or removed; that counts are true; and that what it calls equal is equal. This page
has the figures behind these promises and the commands that reproduce them. It is generated from the records in
`tests/simulation/records` by `python -m tests.simulation.report`.

## How it is tested

A simulation runs the product's own steps, state, kinds and command, with their threads, on one machine whose clock,
scheduler and randomness a seed decides. Below the clients' interfaces are models of the outside systems: SQS, DynamoDB,
Lambda, registries, Quay, buckets, a file manager, git, GitHub and GitLab. Each model is written from the published
contract, and conformance tests hold it to the real client and a real server or a strict stand-in.

Each seed chooses faults: messages that come late, twice or out of order; processes that are killed before, within and
after calls; calls that are throttled, slow, lost or carried out although they fail; clocks that differ; servers that
lie. Operators start, cancel, plan, retry and apply meanwhile, and strangers write to source and target. Then the faults
end, and what is left is judged against the models.

| command | what it does |
|---|---|
| `make sim` | simulates 2,000 seeds |
| `make sim SEED=5` | simulates one seed and prints its trace |
| `make sim SEEDS="0 100000"` | simulates many seeds |
| `python -m tests.simulation --plants --seeds 0 10000` | plants faults and looks for a seed that finds each |
| `python -m tests.simulation --seeds 0 9999 --shrink plan.json` | shortens the plan of the first seed that fails |
"""


def main() -> None:
    """Print the page."""
    print(_INTRODUCTION)
    print("\n".join([*_runs(), *_points(), *_plants(), *_found()]))


def _read(name: str) -> Any:
    path = _RECORDS / name
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _runs() -> Iterator[str]:
    records = _read("seeds.json") or []
    yield "## Seeds\n"
    yield "| seeds | simulated | with violations | seconds | seeds an hour | messages delivered | kills |"
    yield "|---|---|---|---|---|---|---|"
    seeds = 0
    for each in records:
        totals, (first, last) = each["totals"], each["seeds"]
        seeds += totals["seeds"]
        rate = round(totals["seeds"] / max(each["seconds"], 1) * 3600)
        yield (
            f"| {first} to {last - 1} | {totals['seeds']:,} | {each['failed']} | {each['seconds']:,} | {rate:,} "
            f"| {totals['invocations']:,} | {totals['kills']:,} |"
        )
    yield f"\nIn all, {seeds:,} seeds are on record.\n"


def crash_points(totals: Mapping[str, int]) -> tuple[dict[str, int], list[str]]:
    """Return how often a process was killed at each point that the seeds passed, and the points never hit."""
    points = {name.removeprefix("point "): count for name, count in totals.items() if name.startswith("point ")}
    passed = sorted(name.removeprefix("passed ") for name in points if name.startswith("passed "))
    hit = {point: points.get(f"killed {point}", 0) for point in passed}
    return hit, [point for point, count in hit.items() if not count]


def _points() -> Iterator[str]:
    totals: Counter[str] = Counter()
    for each in _read("seeds.json") or []:
        totals.update(each["totals"])
    hit, missed = crash_points(totals)
    calls = sorted({point.partition(" ")[2] for point in hit})
    yield "## Where processes were killed\n"
    yield "A process may be killed before a call and after it. Within is where a call that writes was carried out, and its"
    yield "process ended before the answer came.\n"
    yield "| call | made | killed before | killed within | killed after |"
    yield "|---|---|---|---|---|"
    for name in calls:
        cells = [f"{hit[f'{when} {name}']:,}" if f"{when} {name}" in hit else "" for when in _WHEN]
        yield f"| {name} | {totals[f'point {name}']:,} | {' | '.join(cells)} |"
    yield f"\n{len(hit) - len(missed)} of {len(hit)} points of {len(calls)} calls were hit. {_never(missed)}\n"


def _never(missed: list[str]) -> str:
    return f"Never hit: {', '.join(missed)}." if missed else "Every one was hit."


def _plants() -> Iterator[str]:
    plants = _read("plants.json") or {}
    yield "## Planted faults\n"
    yield "| fault | found by seed | what it showed |"
    yield "|---|---|---|"
    for name, each in plants.items():
        seed = "not found" if each["seed"] is None else each["seed"]
        yield f"| {name.replace('_', ' ')} | {seed} | {_cell(each.get('violation', ''))} |"
    found = sum(each["seed"] is not None for each in plants.values())
    yield f"\n{found} of {len(plants)} are found.\n"


def _found() -> Iterator[str]:
    yield "## Faults found on the way\n"
    yield "| kind | what happened | what was changed |"
    yield "|---|---|---|"
    for each in json.loads(_FOUND.read_text(encoding="utf-8")):
        yield f"| {each['kind']} | {_cell(each['fault'])} | {_cell(each['change'])} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    main()
