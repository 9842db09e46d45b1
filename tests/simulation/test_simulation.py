"""The simulation itself: it is deterministic, it finds what is planted, and it shortens what it finds.

Simulations take over clocks and threads, so each test runs them in a process of its own.
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
STORIES: Final = sorted(Path(__file__).with_name("stories").glob("*.json"))


def simulation(*arguments: str, path: Path | None = None) -> tuple[int, str]:
    """Run the command of the simulation; return its exit code and what it printed."""
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
    assert lines[:-1] == second[1].splitlines()[:-1]  # the last one tells how long it took


def test_seeds_have_the_same_traces_forwards_and_backwards() -> None:
    """No simulation leaves anything behind that the next one in its process would find."""
    code, printed = simulation("--seeds", "640", "650", "--jobs", "1", "--twice")
    assert code == 0, printed
    assert "10 seeds" in printed


def test_a_planted_fault_is_found() -> None:
    code, printed = simulation("--plants", "call_any_tag_equal", "--seeds", "0", "200")
    assert code == 0, printed
    assert "1 of 1 planted faults found" in printed


def test_an_unknown_plant_is_an_error() -> None:
    code, printed = simulation("--plants", "no_such_plant")
    assert code == 2
    assert "no_such_plant" in printed
    assert "Traceback" not in printed


def test_a_failing_plan_is_shortened(tmp_path: Path) -> None:
    kept = tmp_path / "plan.json"
    code, printed = simulation("--with", "call_any_tag_equal", "--seeds", "0", "60", "--shrink", str(kept))
    assert code == 0, printed
    plan = json.loads(kept.read_text())
    assert len(plan["acts"]) <= 4
    assert "differs" in printed
    code, printed = simulation("--with", "call_any_tag_equal", "--plan", str(kept))
    assert code == 1
    assert "differs" in printed
    code, printed = simulation("--plan", str(kept))
    assert code == 0, printed


@pytest.mark.parametrize("story", STORIES, ids=lambda path: path.stem)
def test_a_kept_story_ends_well(story: Path) -> None:
    """Each is a plan that failed once, shortened, before its fault was mended."""
    code, printed = simulation("--plan", str(story))
    assert code == 0, printed
