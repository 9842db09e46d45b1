"""Simulations of canaries and probes: no false alarms, every loss is found, and a seed always gives the same trace."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def _simulated(*options: str) -> str:
    """Run the command in a process of its own, because it replaces clocks and locks."""
    path = os.pathsep.join([str(ROOT / "layers" / "syncline"), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-m", "tests.simulation.canaries", *options],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.timeout(1500)
def test_200_seeds_raise_no_false_alarm_and_find_every_loss(tmp_path: Path) -> None:
    record = tmp_path / "record.json"
    _simulated("--seeds", "0", "200", "--record", str(record))
    totals: dict[str, Any] = json.loads(record.read_text())["totals"]
    assert totals["seeds"] == 200
    assert not totals.get("false alarms")
    assert totals["losses found"] + totals.get("losses not judged", 0) == totals["losses"]
    assert totals["losses found"] > 180
    assert all(totals[f"verdict {word}"] for word in ("Synced", "Partialy", "NotSynced", "Timeout"))


def test_a_seed_gives_the_same_trace_in_every_process() -> None:
    traces = [_simulated("--seed", "7").splitlines()[:-1] for _ in range(2)]
    assert traces[0] == traces[1]
    assert len(traces[0]) > 20
