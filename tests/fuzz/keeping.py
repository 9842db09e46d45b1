"""Reduction of the found inputs to a small corpus: short inputs that together reach all lines that any input reaches."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import Any, Final

from tests.fuzz.table import CORPUS, kept
from tests.fuzz.target import LONGEST, Target

_OWN: Final = "/syncline/syncline/"
_MAX_TRIED: Final = 400


def keep(target: Target, found: Path, most: int) -> None:
    """Replace the corpus of a target by the most useful of its inputs and of those in ``found``."""
    inputs = {path.read_bytes() for path in [*kept(target.name), *found.glob("*")]}
    small = sorted((data for data in inputs if len(data) <= LONGEST), key=lambda data: (len(data), data))
    chosen = _chosen(target, small[:: max(1, len(small) // _MAX_TRIED)], most)
    folder = CORPUS / target.name
    folder.mkdir(parents=True, exist_ok=True)
    for path in kept(target.name):
        path.unlink()
    for data in chosen:
        (folder / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)


def _chosen(target: Target, inputs: Iterable[bytes], most: int) -> list[bytes]:
    """Return inputs that together reach all branches; at most ``most``, preferring those that add most branches."""
    reached: dict[bytes, frozenset[Any]] = {}
    for data in target.seeds:
        reached[data] = _branches(target, data)
    seeds = frozenset().union(*reached.values()) if reached else frozenset()
    covered = set(seeds)
    new: list[tuple[int, bytes]] = []
    for data in inputs:
        added = _branches(target, data) - covered
        if added:
            covered |= added
            new.append((len(added), data))
    best = sorted(new, key=lambda each: (-each[0], len(each[1]), each[1]))[:most]
    return [data for _, data in best]


def _branches(target: Target, data: bytes) -> frozenset[Any]:
    """Return the pairs of successive lines of our code that an input executes."""
    seen: set[Any] = set()

    def enter(frame: FrameType, event: str, argument: Any) -> Any:
        del event, argument
        name = frame.f_code.co_filename
        if _OWN not in name:
            return None
        before = 0

        def step(inner: FrameType, what: str, value: Any) -> Any:
            nonlocal before
            del value
            if what == "line":
                seen.add((name, before, inner.f_lineno))
                before = inner.f_lineno
            return step

        return step

    sys.settrace(enter)
    try:
        target.run(data)
    except Exception:  # noqa: BLE001 - an input that fails is stored as a finding
        return frozenset()
    finally:
        sys.settrace(None)
    return frozenset(seen)
