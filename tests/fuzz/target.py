"""A target of the fuzzer, and what every input is held to."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from syncline.errors import SynclineError

LONGEST: Final = 4096
"""Bytes of an input."""
SECONDS: Final = 3.0
"""Seconds of processor time that one input may take. Instrumented code takes about five times as long as usual."""
GROWTH: Final = 96 * 1024 * 1024
"""Bytes by which one input may raise the most memory that the process ever had."""
PLANTED: Final = "planted-secret-of-the-fuzzer"
"""The only secret that clients have here. It must stand in no message, and go to no server but its own."""


class Finding(AssertionError):  # noqa: N818 - named for what it is
    """An input broke a limit or a promise."""


@dataclass(frozen=True, slots=True)
class Target:
    """A parser. ``run`` takes an input, and raises Finding or any other exception if the parser fails.

    ``run`` lets no SynclineError out but through :func:`refusals`, so that one outside a parser is noticed too.
    """

    name: str
    run: Callable[[bytes], object]
    seeds: tuple[bytes, ...] = field(repr=False)

    def check(self, data: bytes) -> None:
        """Run one input and hold it to the limits of time and memory."""
        most = _most_memory()
        began = time.process_time()
        self.run(data)
        took = time.process_time() - began
        if took > SECONDS:
            raise Finding(f"{self.name}: {len(data)} bytes took {took:.1f} s")
        grown = _most_memory() - most
        if grown > GROWTH:
            raise Finding(f"{self.name}: {len(data)} bytes took {grown >> 20} MiB")


@contextmanager
def refusals(*more: type[Exception]) -> Iterator[None]:
    """Let a parser refuse its input with a code, or with one of the exceptions that its documentation names."""
    try:
        yield
    except SynclineError as error:
        if PLANTED in error.what:
            raise Finding(f"the message of {error.code.name} holds the secret") from error
    except more:
        pass


def must(holds: object, what: str) -> None:
    """Raise Finding unless something holds."""
    if not holds:
        raise Finding(what)


def _most_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
