"""A target of the fuzzer, and the limits that hold for every input."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from syncline.errors import SynclineError

LONGEST: Final = 4096
"""Largest input, in bytes."""
SECONDS: Final = 3.0
"""Limit of the processor time for one input, in seconds. Instrumented code takes about five times as long as usual."""
GROWTH: Final = 96 * 1024 * 1024
"""Bytes by which one input may raise the peak memory of the process."""
PLANTED: Final = "planted-secret-of-the-fuzzer"
"""The only secret of the clients. It must not appear in a message or reach another server than its own."""


class Finding(AssertionError):  # noqa: N818 - the usual word of fuzzing
    """An input exceeded a limit or violated a property."""


@dataclass(frozen=True, slots=True)
class Target:
    """A parser. ``run`` takes an input, and raises Finding or any other exception if the parser fails.

    ``run`` calls the parser within :func:`refusals`, so that a SynclineError from elsewhere fails.
    """

    name: str
    run: Callable[[bytes], object]
    seeds: tuple[bytes, ...] = field(repr=False)

    def check(self, data: bytes) -> None:
        """Run one input. Fail if it exceeds the limits of time and memory."""
        before = _peak_memory()
        began = time.process_time()
        self.run(data)
        took = time.process_time() - began
        if took > SECONDS:
            raise Finding(f"{self.name}: {len(data)} bytes took {took:.1f} s")
        grown = _peak_memory() - before
        if grown > GROWTH:
            raise Finding(f"{self.name}: {len(data)} bytes took {grown >> 20} MiB")


@contextmanager
def refusals(*more: type[Exception]) -> Iterator[None]:
    """Accept that a parser refuses its input, with a code or with one of the documented exceptions `more`."""
    try:
        yield
    except SynclineError as error:
        if PLANTED in error.what:
            raise Finding(f"the message of {error.code.name} contains the secret") from error
    except more:
        pass


def must(holds: object, what: str) -> None:
    """Raise Finding with the description `what` unless `holds` is true."""
    if not holds:
        raise Finding(what)


def _peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
