"""Peak memory of processes, as reported by the Linux kernel."""

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
    """The largest peak resident set among the processes, including libraries; None if unknown."""

    mebibytes: float | None = None


@contextmanager
def peak(processes: Callable[[], Sequence[int]]) -> Iterator[Peak]:
    """Measure processes during the ``with`` block; ``processes`` returns their IDs and is called before and after."""
    for pid in processes():
        Path(f"/proc/{pid}/clear_refs").write_text(_RESET_PEAK)
    result = Peak()
    yield result
    peaks = [int(match[1]) / 1024 for pid in processes() if (match := _PEAK.search(_status(pid)))]
    result.mebibytes = max(peaks, default=None)


def _status(pid: int) -> str:
    return Path(f"/proc/{pid}/status").read_text()
