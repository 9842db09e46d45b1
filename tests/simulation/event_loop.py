"""An event loop for :mod:`asyncio` that runs in a task of a simulated machine and uses its clock."""

from __future__ import annotations

import sys
from asyncio import base_events, events
from collections.abc import Mapping
from typing import Any, Final

from tests.simulation.machine import KilledError, Machine, Process, Task, current

FOREVER: Final = 1e9
"""Seconds that a loop without timers waits for new work."""


class LoopMachine(Machine):
    """A machine whose tasks may run event loops. Each task has its own running loop."""

    def wait(self, seconds: float | None = None) -> object:
        running = events._get_running_loop()
        if running is None:
            return super().wait(seconds)
        events._set_running_loop(None)
        answer = super().wait(seconds)
        events._set_running_loop(running)
        return answer


class _Selector:
    """Waits on the machine instead of in a system call. There are no sockets."""

    def __init__(self, loop: SimLoop) -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[Any]:
        self._loop.pause(timeout)
        return []


class SimLoop(base_events.BaseEventLoop):
    """An event loop of a process. While it waits, other tasks run. ``failures`` collects uncaught errors."""

    def __init__(self, machine: Machine, process: Process, failures: list[str]) -> None:
        super().__init__()
        self._machine = machine
        self._process = process
        self._failures = failures
        self._selector = _Selector(self)
        self._waiting: Task | None = None
        self._clock_resolution = 1e-6
        self._woken = False

    def time(self) -> float:
        return self._machine.now

    def pause(self, timeout: float | None) -> None:
        """Let other tasks run until there is work, or for `timeout` seconds."""
        if self._process.dead:
            raise KilledError
        if timeout is not None and timeout <= 0:
            return
        if self._woken:
            self._woken = False
            return
        self._waiting = current()
        try:
            self._machine.wait(FOREVER if timeout is None else timeout)
        finally:
            self._waiting = None
            self._woken = False

    def call_exception_handler(self, context: Mapping[str, Any]) -> None:
        """Record uncaught errors, except those caused by the end of the process."""
        if not self._process.dead and not isinstance(context.get("exception"), KilledError):
            self._failures.append(f"uncaught in a loop: {context.get('message')}: {context.get('exception')!r}")

    def _write_to_self(self) -> None:
        """Wake the loop for work from another thread."""
        self._woken = True
        task = self._waiting
        if task is not None:
            self._waiting = None
            self._machine.wake(task)

    def _process_events(self, event_list: list[Any]) -> None:
        """Do nothing: there are no sockets."""


def ignore_unfinished_coroutines() -> None:
    """Ignore coroutines that are deleted with the loop of a killed process."""
    before = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if "GeneratorExit" not in str(unraisable.exc_value):
            before(unraisable)

    sys.unraisablehook = hook
