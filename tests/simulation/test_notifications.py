"""Simulations of notifications: no seed has violations, planted faults are found, and a seed gives the same trace."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
FAULTS: Final = (
    "put_alerts_without_a_condition",
    "ignore_the_claim",
    "forget_the_hour",
    "drop_a_failed_channel",
    "tell_during_a_pause",
)


def _simulated(*options: str) -> tuple[int, str]:
    """Run the command in a process of its own, because it replaces clocks and locks."""
    path = os.pathsep.join([str(ROOT / "layers" / "syncline"), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-m", "tests.simulation.notifications", *options],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_20_seeds_tell_the_last_state_once() -> None:
    code, printed = _simulated("--seeds", "0", "20")
    assert code == 0, printed
    assert "20 seeds; 0 seeds with violations" in printed


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(fault: str) -> None:
    code, printed = _simulated("--seeds", "0", "20", "--with-fault", fault)
    assert code == 1, printed
    assert "violations" in printed
    assert "Traceback" not in printed


def test_a_seed_gives_the_same_trace_in_every_process() -> None:
    traces = [_simulated("--seed", "7")[1].splitlines()[:-1] for _ in range(2)]
    assert traces[0] == traces[1]
    assert len(traces[0]) > 20
