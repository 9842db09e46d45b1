"""Generate docs/explanation/reliability.md: ``python -m tests.simulation.report > docs/explanation/reliability.md``."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

_RECORDS: Final = Path(__file__).with_name("records")
_FUZZ: Final = Path("tests/fuzz/record.json")
_FOUND: Final = _RECORDS / "found.json"
_WHEN: Final = ("before", "within", "after")
_INTRODUCTION: Final = """\
# Reliability

Syncline makes five promises. Every difference is moved, reported or kept as a dead letter with its reason. No copy is
wrong. Nothing foreign is overwritten or removed. Counts are correct. Items reported as equal are equal. This page has the
figures behind these promises and the commands that reproduce them. `python -m tests.simulation.report` generates it from
the records in `tests/simulation/records`.

## Method

A simulation runs the product's steps, state, kinds and command, with their threads, on one machine whose clock,
scheduler and randomness a seed decides. Below the clients' interfaces are models of the outside systems: SQS, DynamoDB,
Lambda, registries, Quay, buckets, a file manager, git, GitHub and GitLab. Each model is written from the published
contract. Conformance tests compare it with the real client and a real server or a strict stand-in.

Each seed chooses faults: messages that are late, duplicated or out of order; processes killed before, within and
after calls; calls that are throttled, slow, lost or executed although they fail; clocks that differ; servers that
return wrong data. Meanwhile, operators start, cancel, plan, retry and apply, and other writers change source and target.
Then the faults end, and the final state is checked against the models.

| command | action |
|---|---|
| `make sim` | simulates 2,000 seeds |
| `make sim SEED=5` | simulates one seed and prints its trace |
| `make sim SEEDS="0 100000"` | simulates many seeds |
| `python -m tests.simulation --planted-faults --seeds 0 10000` | plants faults and searches for a seed that finds each |
| `python -m tests.simulation --seeds 0 9999 --shrink plan.json` | shrinks the plan of the first seed that fails |
| `make canaries` | simulates canaries and probes of tokens |
| `make soak MINUTES=60` | runs all five kinds in real time on the local engine, and kills functions, engine and servers |
| `make fuzz SECONDS=3600` | fuzzes every parser of outside bytes, guided by coverage |
| `make mutate ALL=1` | mutates the modules that decide, and counts the mutants that tests detect |

The modules of the simulation, the canaries and the soak accept `--record FILE`; `make mutate ALL=1` and
`python -m tests.fuzz --keep` always record. The files are in `tests/simulation/records` and `tests/fuzz/record.json`.
"""


def main() -> None:
    """Print the page."""
    print(_INTRODUCTION)
    parts = [_runs(), _points(), _planted_faults(), _canaries(), _soak(), _mutation(), _fuzz(), _found()]
    print("\n".join(line for part in parts for line in part))


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
    yield f"\nIn total, {seeds:,} seeds are on record.\n"


def crash_points(totals: Mapping[str, int]) -> tuple[dict[str, int], list[str]]:
    """Return the number of kills at each point that the seeds passed, and the points never hit."""
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
    yield "## Kills\n"
    yield "A process may be killed before a call and after it. *Within* means that a call that writes was executed, and its"
    yield "process was killed before the response arrived.\n"
    yield "| call | calls | killed before | killed within | killed after |"
    yield "|---|---|---|---|---|"
    for name in calls:
        cells = [f"{hit[f'{when} {name}']:,}" if f"{when} {name}" in hit else "" for when in _WHEN]
        yield f"| {name} | {totals[f'point {name}']:,} | {' | '.join(cells)} |"
    yield f"\n{len(hit) - len(missed)} of {len(hit)} points of {len(calls)} calls were hit. {_never(missed)}\n"


def _never(missed: list[str]) -> str:
    return f"Never hit: {', '.join(missed)}." if missed else "No point was missed."


def _planted_faults() -> Iterator[str]:
    faults = _read("planted_faults.json") or {}
    yield "## Planted faults\n"
    yield "| fault | found by seed | violation |"
    yield "|---|---|---|"
    for name, each in faults.items():
        seed = "not found" if each["seed"] is None else each["seed"]
        yield f"| {name.replace('_', ' ')} | {seed} | {_cell(each.get('violation', ''))} |"
    found = sum(each["seed"] is not None for each in faults.values())
    yield f"\n{found} of {len(faults)} planted faults are found.\n"


def _canaries() -> Iterator[str]:
    record = _read("canaries.json")
    if record is None:
        return
    totals, (first, last) = record["totals"], record["seeds"]
    yield "## Canaries of tokens\n"
    yield "A canary writes a token to one instance and reads it at the others. A model knows the content of each instance, so it"
    yield "detects each loss, and each alarm without a loss.\n"
    yield "| seeds | rounds | probes | kills | losses | found | false alarms | seeds with violations |"
    yield "|---|---|---|---|---|---|---|---|"
    cells = [
        f"{totals.get(name, 0):,}" for name in ("rounds", "probes", "kills", "losses", "losses found", "false alarms")
    ]
    yield f"| {first} to {last - 1} | {' | '.join(cells)} | {record['failed']} |\n"


def _soak() -> Iterator[str]:
    record = _read("soak.json")
    if record is None:
        return
    yield "## Soak\n"
    yield f"{record['minutes']:g} minutes of real time with seed {record['seed']}, all five kinds on the local engine:\n"
    yield "| figure | value |"
    yield "|---|---|"
    yield f"| changes at the sources | {sum(record['changes'].values()):,} |"
    yield f"| kills | {', '.join(f'{kind} {count}' for kind, count in sorted(record['kills'].items()))} |"
    yield f"| items lost | {record['lost']} |"
    yield f"| dead letters retried, dead letters left | {sum(record['dead_letters_retried'].values())}, {record['dead_letters_left']} |"
    for name, quarters in record["growth"].items():
        second, last = (quarters[each] / (1 << 20) for each in ("second_quarter", "last_quarter"))
        yield f"| {name}, second and last quarter | {second:.1f} and {last:.1f} MiB |"
    searched = record["searched"]["bytes"] / (1 << 20)
    yield f"| secrets searched for in {searched:.0f} MiB, secrets found | {record['secrets']}, {record['secrets_found']} |\n"


def _mutation() -> Iterator[str]:
    record: Mapping[str, Mapping[str, Any]] = _read("mutation.json") or {}
    yield "## Mutation tests\n"
    yield "Each mutant is one fault in one line; only the tests that execute the line are run. A seed draws the sample.\n"
    yield "| module | mutants | tried | killed | share killed |"
    yield "|---|---|---|---|---|"
    killed = tried = 0
    for name, each in sorted(record.items()):
        count = each["killed"] + each["survived"]
        killed, tried = killed + each["killed"], tried + count
        yield f"| `{name}` | {each['mutants']} | {count} | {each['killed']} | {each['percent']} % |"
    yield f"\nIn total, {killed:,} of {tried:,} mutants are killed, {100 * killed / max(tried, 1):.1f} %.\n"


def _fuzz() -> Iterator[str]:
    record = json.loads(_FUZZ.read_text(encoding="utf-8"))
    yield "## Fuzzing\n"
    yield "| parser | inputs | edges | seconds | crashes, hangs, growth |"
    yield "|---|---|---|---|---|"
    for name, each in sorted(record["targets"].items()):
        found = ", ".join(each["findings"]) or "none"
        yield f"| {name} | {each['executions']:,} | {each['edges']:,} | {each['seconds']:,.0f} | {found} |"
    totals = [sum(each[name] for each in record["targets"].values()) for name in ("executions", "seconds")]
    yield f"\n{totals[0]:,.0f} inputs in {totals[1] / 60:,.0f} minutes. Faults found and fixed:\n"
    yield from (f"- {each['target']}: {each['what']}" for each in record["mended"])
    yield ""


def _found() -> Iterator[str]:
    yield "## Faults found and fixed\n"
    yield "| kind | fault | change |"
    yield "|---|---|---|"
    for each in json.loads(_FOUND.read_text(encoding="utf-8")):
        yield f"| {each['kind']} | {_cell(each['fault'])} | {_cell(each['change'])} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    main()
