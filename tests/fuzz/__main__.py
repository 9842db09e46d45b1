"""Fuzz the targets: ``python -m tests.fuzz --seconds 60`` divides the time among all targets, or among the named ones.

Each target runs in a separate process, guided by coverage (atheris), and starts from its seeds and its corpus. Inputs
that reach new code are kept in ``.build/fuzz``; ``--keep`` reduces them to a small corpus and writes the record. An input
that fails is written to ``.build/fuzz/found``, and the exit code is then 1.
"""

from __future__ import annotations

import argparse
import datetime as dt
import hashlib
import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from tests.fuzz.keeping import keep
from tests.fuzz.table import CORPUS, NAMES, RECORD, target_of

_WORK: Final = Path(".build/fuzz")
_FOUND: Final = _WORK / "found"
_STATE: Final = re.compile(r"#(\d+)\s+\w+\s+cov: (\d+) ft: (\d+)")
_INPUT_TIMEOUT: Final = 20
"""Seconds after which an input counts as hanging."""
_MEMORY_LIMIT: Final = 1024
"""MiB of memory that a process may use."""
_CORPUS_SIZE: Final = 25


def main() -> int:
    """Run the targets; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", help="targets to run; all if none is named")
    parser.add_argument("--seconds", type=float, default=60.0, help="time for all targets together")
    parser.add_argument("--keep", action="store_true", help="update the corpus of each target and the record")
    parser.add_argument("--one", action="store_true", help="fuzz one target in this process")
    options = parser.parse_args()
    if options.one:
        _fuzz(options.targets[0], options.seconds)
    names = options.targets or NAMES
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        parser.error(f"unknown target {unknown[0]}; the targets are {', '.join(NAMES)}")
    logging.disable(logging.CRITICAL)
    failed = 0
    for name in names:
        figures = _run(name, options.seconds / len(names))
        failed += bool(figures["findings"])
        summary = f"{name:20} {figures['executions']:>9} inputs, {figures['edges']:>5} edges"
        print(summary + (f", FAILED: {', '.join(figures['findings'])}" if figures["findings"] else ""), flush=True)
        _add_to_record(name, figures)
        if options.keep:
            keep(target_of(name), _WORK / name, _CORPUS_SIZE)
    if options.keep:
        known: dict[str, Any] = json.loads(RECORD.read_text()) if RECORD.exists() else {"mended": []}
        targets = known.get("targets", {}) | json.loads((_WORK / "record.json").read_text())
        RECORD.write_text(json.dumps({"targets": targets, "mended": known["mended"]}, indent=2, sort_keys=True) + "\n")
    return 1 if failed else 0


def _run(name: str, seconds: float) -> dict[str, Any]:
    """Fuzz one target in a separate process; return its figures."""
    found = set(_FOUND.glob(f"{name}-*"))
    command = [sys.executable, "-m", "tests.fuzz", name, "--one", "--seconds", str(seconds)]
    log = _WORK / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    before = os.times()
    with log.open("wb") as out:
        done = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, check=False)
    after = os.times()
    states = _STATE.findall(log.read_text(errors="replace"))
    executions, edges, _ = map(int, states[-1]) if states else (0, 0, 0)
    findings = sorted(path.name for path in set(_FOUND.glob(f"{name}-*")) - found)
    if done.returncode and not findings:
        findings = [f"the process ended with {done.returncode}; see {log}"]
    took = after.children_user + after.children_system - before.children_user - before.children_system
    return {"seconds": round(took, 1), "executions": executions, "edges": edges, "findings": findings}


def _fuzz(name: str, seconds: float) -> None:
    """Fuzz a target in this process. Atheris ends the process; this function does not return."""
    import atheris  # type: ignore[import-untyped,unused-ignore]  # noqa: PLC0415 - only fuzzing needs it

    logging.disable(logging.CRITICAL)
    with atheris.instrument_imports(include=["syncline"]):
        target = target_of(name)
    folder, seeds = _WORK / name, _WORK / "seeds" / name
    for each in (folder, seeds, _FOUND, CORPUS / name):
        each.mkdir(parents=True, exist_ok=True)
    for seed in target.seeds:
        (seeds / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)
    atheris.Setup(
        [
            "fuzz",
            str(folder),
            str(CORPUS / name),
            str(seeds),
            f"-max_total_time={max(1, round(seconds))}",
            "-max_len=4096",
            f"-timeout={_INPUT_TIMEOUT}",
            f"-rss_limit_mb={_MEMORY_LIMIT}",
            f"-artifact_prefix={_FOUND}/{name}-",
            "-verbosity=1",
        ],
        target.check,
    )
    atheris.Fuzz()


def _add_to_record(name: str, figures: dict[str, Any]) -> None:
    """Add the figures of a run to the record in the working folder."""
    path = _WORK / "record.json"
    record: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    known = record.get(name, {"seconds": 0, "executions": 0, "edges": 0})
    record[name] = {
        "seconds": round(known["seconds"] + figures["seconds"], 1),
        "executions": known["executions"] + figures["executions"],
        "edges": max(known["edges"], figures["edges"]),
        "findings": figures["findings"],
        "last": dt.datetime.now(dt.UTC).date().isoformat(),
    }
    temporary = path.with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")
    temporary.replace(path)


if __name__ == "__main__":
    sys.exit(main())
