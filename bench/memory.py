"""Peak memory of processes, as reported by Linux."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_RESET_PEAK: Final = "5"  # proc(5), /proc/pid/clear_refs
_PEAK: Final = re.compile(r"^VmHWM:\s*(\d+) kB$", re.MULTILINE)


@dataclass(slots=True)
class Peak:
    """Peak resident set of any of the processes, including libraries; None if unknown."""

    mebibytes: float | None = None


@contextmanager
def peak(processes: Callable[[], Sequence[int]]) -> Iterator[Peak]:
    """Measure processes in the ``with`` block; the result is available after it. ``processes`` is called at both ends."""
    for pid in processes():
        Path(f"/proc/{pid}/clear_refs").write_text(_RESET_PEAK)
    found = Peak()
    yield found
    peaks = [int(match[1]) / 1024 for pid in processes() if (match := _PEAK.search(_status(pid)))]
    found.mebibytes = max(peaks, default=None)


def _status(pid: int) -> str:
    return Path(f"/proc/{pid}/status").read_text()
