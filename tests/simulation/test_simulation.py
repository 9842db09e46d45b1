"""Tests of the simulation: it is deterministic, finds planted faults, and shrinks the plans of failing seeds.

Simulations replace clocks and threads, so each test runs them in a separate process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
REGRESSIONS: Final = sorted(Path(__file__).with_name("regressions").glob("*.json"))


def simulation(*arguments: str, path: Path | None = None) -> tuple[int, str]:
    """Run the command of the simulation. Return its exit code and its output."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'layers' / 'syncline'}:{ROOT}"}
    command = [sys.executable, "-m", "tests.simulation", *arguments]
    done = subprocess.run(
        command, cwd=path or ROOT, env=environment, capture_output=True, text=True, timeout=250, check=False
    )
    return done.returncode, done.stdout + done.stderr


def test_the_same_seed_gives_the_same_trace() -> None:
    first, second = simulation("--seed", "6"), simulation("--seed", "6")
    lines = first[1].splitlines()
    assert first[0] == 0, first[1]
    assert len(lines) > 20
    assert lines[:-1] == second[1].splitlines()[:-1]  # the last line has the duration


def test_seeds_have_the_same_traces_forwards_and_backwards() -> None:
    """No simulation leaves state behind for the next one in its process."""
    code, printed = simulation("--seeds", "640", "650", "--jobs", "1", "--twice")
    assert code == 0, printed
    assert "10 seeds" in printed


def test_a_planted_fault_is_found() -> None:
    code, printed = simulation("--planted-faults", "treat_any_tag_as_equal", "--seeds", "0", "200")
    assert code == 0, printed
    assert "1 of 1 planted faults found" in printed


def test_an_unknown_planted_fault_is_an_error() -> None:
    code, printed = simulation("--planted-faults", "no_such_fault")
    assert code == 2
    assert "no_such_fault" in printed
    assert "Traceback" not in printed


def test_a_failing_plan_is_shrunk(tmp_path: Path) -> None:
    kept = tmp_path / "plan.json"
    code, printed = simulation("--with-fault", "treat_any_tag_as_equal", "--seeds", "0", "60", "--shrink", str(kept))
    assert code == 0, printed
    plan = json.loads(kept.read_text())
    assert len(plan["actions"]) <= 4
    assert "differs" in printed
    code, printed = simulation("--with-fault", "treat_any_tag_as_equal", "--plan", str(kept))
    assert code == 1
    assert "differs" in printed
    code, printed = simulation("--plan", str(kept))
    assert code == 0, printed


@pytest.mark.parametrize("plan", REGRESSIONS, ids=lambda path: path.stem)
def test_a_regression_stays_fixed(plan: Path) -> None:
    """Each file is the shrunk plan of a seed that failed before its fault was fixed."""
    code, printed = simulation("--plan", str(plan))
    assert code == 0, printed
