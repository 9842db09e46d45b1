"""Run the code of this interpreter on a simulated machine.

:func:`installed` replaces primitives of :mod:`threading`, :mod:`queue` and :mod:`random` in the whole interpreter.
:func:`patch_time` replaces those of :mod:`time`, before any module of the product is imported. Therefore simulations
run in separate processes, whose ``PYTHONHASHSEED`` is fixed.
"""

from __future__ import annotations

import gc
import queue
import random
import secrets
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, _base, thread
from contextlib import contextmanager, nullcontext
from typing import Any, Final

from tests.simulation import machine as machines
from tests.simulation.machine import KilledError, Machine, activate, active_machine, next_number
from tests.simulation.threads import Lock, RLock, Thread


class _AcquireFutures:
    """Lock futures in the order in which they were created. The original uses their order in memory."""

    def __init__(self, futures: Iterable[Any]) -> None:
        self.futures = sorted(futures, key=hash)

    def __enter__(self) -> None:
        for future in self.futures:
            future._condition.acquire()

    def __exit__(self, *_: object) -> None:
        for future in self.futures:
            future._condition.release()


class _SeededRandom(random.Random):
    """A :class:`random.Random` that is seeded by the simulation if it is given no seed."""

    def __init__(self, seed: int | float | str | bytes | bytearray | None = None) -> None:  # noqa: PYI041
        super().__init__(active_machine().rng.random() if seed is None else seed)


_future_init: Final = Future.__init__


def _number_future(future: Any) -> None:
    """Create a future with a number, so that sets of futures have the same order in every process."""
    future._number = next_number()
    _future_init(future)


def patch_time() -> None:
    """Replace clocks and pauses of :mod:`time` by those of the active machine. Without one, they stay real.

    Call this before the product is imported: its functions have clocks as default values of parameters.
    """
    real_time, real_monotonic, real_sleep = time.time, time.monotonic, time.sleep
    if getattr(real_time, "simulated", False):
        return

    def simulated_time() -> float:
        return real_time() if machines._active is None else machines._active.time()

    def simulated_monotonic() -> float:
        return real_monotonic() if machines._active is None else machines._active.time()

    def simulated_sleep(seconds: float) -> None:
        if machines._active is None:
            real_sleep(seconds)
        else:
            machines._active.sleep(seconds)

    simulated_time.simulated = True  # type: ignore[attr-defined]
    time.time, time.monotonic = simulated_time, simulated_monotonic
    time.sleep = simulated_sleep  # type: ignore[assignment]


def _ignore_killed(unraisable: Any) -> None:
    """Ignore objects of a killed process that cannot take locks while they are deleted."""
    if unraisable.exc_type is not KilledError:
        sys.__unraisablehook__(unraisable)


@contextmanager
def installed(new: Machine) -> Iterator[Machine]:
    """Run the code of this interpreter on a machine while the block runs."""
    replacements: list[tuple[Any, str, object]] = [
        (threading, "Lock", Lock),
        (threading, "RLock", RLock),
        (threading, "_allocate_lock", Lock),
        (threading, "Thread", Thread),
        (queue, "SimpleQueue", queue._PySimpleQueue),  # type: ignore[attr-defined]
        (Future, "__init__", _number_future),
        (Future, "__hash__", lambda future: future._number),
        (_base, "_AcquireFutures", _AcquireFutures),
        # All simulated processes share the real lock: a task that yields while it holds the lock blocks all others.
        (thread, "_global_shutdown_lock", nullcontext()),
        (random, "Random", _SeededRandom),
        (secrets, "token_hex", lambda size=32: new.rng.randbytes(size).hex()),
    ]
    before = [(module, name, getattr(module, name)) for module, name, _ in replacements]
    random.seed(new.rng.random())
    activate(new)
    for module, name, value in replacements:
        setattr(module, name, value)
    gc.disable()  # finalisers may take locks
    before_hook, sys.unraisablehook = sys.unraisablehook, _ignore_killed
    try:
        yield new
    finally:
        gc.enable()
        sys.unraisablehook = before_hook
        for module, name, value in before:
            setattr(module, name, value)
        activate(None)
