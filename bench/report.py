"""Results of measurements as a table and as files."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from bench.measure import Row
from tests.standins.programs import GO_PACKAGES, ProgramAbsentError, program

RESULTS: Final = Path(__file__).parent / "results"

_PROGRAMS: Final = ("skopeo", "regsync", "crane", "docker-registry", "curl")
_HEAD: Final = ("name", "ours", "peer", "unit", "ratio", "aim", "met", "rounds", "ours min..max", "peer min..max")
_LEFT_ALIGNED: Final = (0, 3, 6)


def write(name: str, rows: Iterable[Row]) -> Path:
    """Write the rows of a measurement; return the file."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps([row.as_dict() for row in rows], indent=2) + "\n")
    return path


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a text table, with their notes below."""
    lines = [_HEAD, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEAD))]
    text = [
        "  ".join(
            cell.ljust(width) if column in _LEFT_ALIGNED else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    text.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join([*text, *(f"{row.name}: {row.note}" for row in rows if row.note)])


def _cells(row: Row) -> tuple[str, ...]:
    met = {True: "yes", False: "NO", None: ""}[row.met]
    ratio = "" if row.ratio is None else f"{row.ratio:.3f}"
    aim = "" if row.aim is None else f"{row.aim:g}" + (f" {row.unit}" if row.peer is None else "")
    peer = "" if row.peer is None else "absent" if row.peer_median is None else _value(row.peer_median)
    ranges = (_range(row.ours), _range(row.peer or ()))
    return (row.name, _value(row.median), peer, row.unit, ratio, aim, met, str(len(row.ours)), *ranges)


def _value(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) or value >= 1000 else f"{value:.3g}" if value < 1 else f"{value:.2f}"


def _range(values: Sequence[float]) -> str:
    if len(set(values)) < 2:
        return ""
    return f"{_value(min(values))}..{_value(max(values))}"


def machine(load: float) -> str:
    """Describe the machine and the versions of programs; ``load`` is the load average before the measurements."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    parts = [
        time.strftime("%Y-%m-%d", time.gmtime()),
        f"{os.cpu_count()} cores",
        f"{memory:.0f} GiB",
        f"load {load:.1f} before",
        f"{platform.system()} {platform.release()}",
        f"Python {platform.python_version()}",
        *(f"{name} {_version(name)}" for name in _PROGRAMS),
    ]
    return ", ".join(parts)


def _version(name: str) -> str:
    try:
        option = "version" if name in GO_PACKAGES else "--version"
        result = subprocess.run([program(name), option], capture_output=True, text=True, check=True, timeout=10)
    except ProgramAbsentError:
        return "absent"
    return next((word for word in result.stdout.split() if word.lstrip("v")[:1].isdigit()), "unknown")
