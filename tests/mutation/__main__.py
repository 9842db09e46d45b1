"""Mutate the code that makes decisions, and check that its tests fail.

``python -m tests.mutation`` mutates the lines that differ from the branch ``main``; ``--all`` mutates every module of the
table, ``FILE...`` the named ones. The exit code is 1 if less than 85 % of the mutants of a module are killed.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from tests.mutation.plugin import Job, Mutations, Outcome
from tests.mutation.table import CODE, ROWS, TESTS

LEAST: Final = 85
"""Percentage of the mutants that must be killed."""
RECORD: Final = Path("tests/simulation/records/mutation.json")
_HUNK: Final = re.compile(r"^@@ -\S+ \+(\d+)(?:,(\d+))? @@")
_Lines = Mapping[Path, list[int] | None]


def main() -> int:
    """Run the mutants; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, help="modules to mutate completely, as paths")
    parser.add_argument("--all", action="store_true", help="mutate all modules of the table")
    parser.add_argument("--base", default="main", help="the branch whose merge base the lines are compared with")
    parser.add_argument(
        "--sample", type=int, help="number of mutants to try in each module; the choice is deterministic"
    )
    parser.add_argument("--sample-seed", type=int, help="with --sample, the seed of the choice")
    parser.add_argument("--record", action="store_true", help=f"record the figures of complete modules in {RECORD}")
    options = parser.parse_args()
    known = [path for row in ROWS for path in row.paths]
    unknown = [str(path) for path in options.files if path not in known]
    if unknown:
        parser.error(f"{unknown[0]} is in no row of tests/mutation/table.py; add it with its tests")
    if options.files or options.all:
        lines: _Lines = dict.fromkeys(options.files or known)
    else:
        try:
            since = _git("merge-base", options.base, "HEAD").strip()
        except subprocess.CalledProcessError as error:
            parser.error(f"no merge base with {options.base}: {error.stderr.strip()}; give another branch with --base")
        lines = {path: found for path in known if (found := _changed(path, since))}
    if not lines:
        print(f"nothing to do: no module in tests/mutation/table.py adds or changes a line since {options.base}")
        return 0
    jobs = [
        Job(path, lines[path], tuple(TESTS / name for name in row.tests))
        for row in ROWS
        for path in row.paths
        if path in lines
    ]
    insufficient: list[Path] = []

    def report(outcome: Outcome) -> None:
        if _print(outcome):
            insufficient.append(outcome.path)
        if options.record and lines[outcome.path] is None:
            _record(outcome, options.sample, options.sample_seed)

    tests = dict.fromkeys(str(test) for job in jobs for test in job.tests)
    settings = ["-p", "no:cacheprovider", "-p", "no:schemathesis", "-n", "0", "--quiet", "--capture=no", "--timeout=0"]
    plugin = Mutations(jobs, options.sample, options.sample_seed, report)
    ended = pytest.main([*settings, "--hypothesis-seed=0", *tests], plugins=[plugin])
    if ended not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        raise SystemExit(f"pytest ended with {ended}; run these tests without mutants: {' '.join(tests)}")
    for path in insufficient:
        print(f"{path}: less than {LEAST} % of the mutants are killed")
    return int(bool(insufficient))


def _changed(path: Path, since: str) -> list[int]:
    """Return the lines of a file that the working tree adds or changes since a commit; all if git does not know it."""
    if not _git("ls-files", "--", str(path)):
        return list(range(1, len(path.read_text().splitlines()) + 1))
    found: list[int] = []
    for line in _git("diff", "--no-ext-diff", "--no-color", "--unified=0", since, "--", str(path)).splitlines():
        if match := _HUNK.match(line):
            first, number = int(match[1]), int(match[2] or "1")
            found += range(first, first + number)
    return found


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], check=True, capture_output=True, text=True).stdout


def _print(outcome: Outcome) -> bool:
    """Print the survivors of a module and its figures; return True if there are too many."""
    for line, tests, diff in outcome.survivors:
        print(f"\n{outcome.path}:{line} survived {tests} tests\n{diff}")
    figures = _figures(outcome)
    if not outcome.mutants:
        print(f"{outcome.path}: these lines have no mutants", flush=True)
        return False
    summary = f"{figures['killed']} of {outcome.tried} killed, {len(outcome.survivors)} survived"
    print(f"{outcome.path}: {summary}" + (f", {figures['percent']} %" if outcome.tried else ""), flush=True)
    return outcome.tried > 0 and figures["percent"] < LEAST


def _figures(outcome: Outcome) -> dict[str, Any]:
    survived = len(outcome.survivors)
    killed = outcome.tried - survived
    percent = round(100 * killed / outcome.tried, 1) if outcome.tried else None
    return {"mutants": outcome.mutants, "killed": killed, "survived": survived, "percent": percent}


def _record(outcome: Outcome, sample: int | None, seed: int | None) -> None:
    known = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    figures = _figures(outcome)
    if sample is not None and sample < outcome.mutants:
        figures["sample"] = sample
        if seed is not None:
            figures["sample_seed"] = seed
    known[str(outcome.path.relative_to(CODE).with_suffix(""))] = figures
    RECORD.parent.mkdir(exist_ok=True)
    RECORD.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    sys.exit(main())
