"""A simulated computer: one seed decides its clock, its schedule of threads and its randomness.

Each thread of the code under test runs as a greenlet. A greenlet yields only where the code waits or calls out (a
model, a lock, a queue, a pause). The machine then runs the earliest of its scheduled events. Durations are random, so
any order of calls can occur, and a seed always gives the same order.

:mod:`tests.simulation.installation` runs the code under test on a machine.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from typing import Any, Final

from greenlet import getcurrent, greenlet  # type: ignore[import-untyped]

EPOCH: Final = 1_790_000_000.0
"""Unix time at which each simulation starts."""
_INSTANT: Final = 1e-6
_numbers: Final = itertools.count(1)


class KilledError(BaseException):
    """The process was killed. Code under test must not catch it."""


class EndlessError(AssertionError):
    """The simulation exceeded its maximum number of steps, so the code under test probably loops forever."""


class Process:
    """An operating system process: tasks that are killed together.

    A frozen process does not run, as a Lambda function between two events. Its clock is ``skew`` seconds fast.
    """

    def __init__(self, machine: Machine, name: str) -> None:
        self.machine = machine
        self.name = name
        self.tasks: set[Task] = set()
        self.dead = False
        self.frozen = False
        self.skew = 0.0
        self.on_death: Callable[[], None] = lambda: None
        self._held: list[tuple[Task, Any]] = []

    def kill(self) -> None:
        """Kill all tasks of the process at once. They do no cleanup."""
        if self.dead:
            return
        self.dead = True
        self.machine.note(f"{self.name} killed")
        current = getcurrent()
        for task in sorted(self.tasks, key=lambda each: each.number):
            if task is not current:
                self.machine.wake(task)
        self._held.clear()
        self.on_death()

    def freeze(self) -> None:
        self.frozen = True

    def thaw(self) -> None:
        """Continue a frozen process. Its tasks that were due meanwhile run now."""
        self.frozen = False
        held, self._held = self._held, []
        for task, ticket in held:
            if ticket is task.ticket:
                self.machine.wake(task, task.answer)

    def hold(self, task: Task) -> None:
        self._held.append((task, task.ticket))


class Task(greenlet):  # type: ignore[misc]
    """A thread of a process. ``ticket`` identifies its current wait; a wake-up with an older ticket is ignored."""

    def __init__(self, process: Process, name: str, function: Callable[[], object]) -> None:
        super().__init__(self._main, parent=process.machine.main)
        self.process = process
        self.name = name
        self.number = process.machine.next_number()
        self.function = function
        self.over = False
        self.error: BaseException | None = None
        self.joining: list[Task] = []
        self.ticket: object = None
        self.answer: object = None
        self.locals: dict[int, Any] = {}

    def _main(self, *_: object) -> None:
        try:
            if not self.process.dead:
                self.function()
        except KilledError:
            pass
        except BaseException as error:  # noqa: BLE001 - kept for the task that joins this one
            self.error = error
        self.over = True
        self.process.tasks.discard(self)
        for task in self.joining:
            self.process.machine.wake(task)


class Machine:
    """Clock, scheduler and randomness of one simulation.

    ``trace`` has a line for each event worth reading. Code outside all tasks runs in the main greenlet: the test itself
    and scheduled events.
    """

    def __init__(self, seed: int, max_steps: int = 400_000) -> None:
        self.rng = random.Random(seed)
        self.now = EPOCH
        self.trace: list[str] = []
        self.main: greenlet = getcurrent()
        self._events: list[tuple[float, float, int, Callable[[], None]]] = []
        self._numbers = 0
        self._steps = 0
        self._max_steps = max_steps
        self.outside = Process(self, "outside")

    def next_number(self) -> int:
        self._numbers += 1
        return self._numbers

    def note(self, line: str) -> None:
        """Add a line to the trace."""
        self.trace.append(f"{self.now - EPOCH:10.3f}  {line}")

    # -- scheduled events -----------------------------------------------------------------------------------------

    def at(self, when: float, action: Callable[[], None]) -> None:
        """Schedule a call of ``action``. Calls scheduled for the same time run in random order."""
        now = self.now
        self._numbers += 1
        heapq.heappush(self._events, (max(now, when), self.rng.random(), self._numbers, action))

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        self.at(self.now + seconds, action)

    def run(self, until: float | None = None) -> None:
        """Run the scheduled events until a time, or until none is left."""
        events = self._events
        while events and (until is None or events[0][0] <= until):
            self._steps += 1
            if self._steps > self._max_steps:
                raise EndlessError(f"still running after {self._max_steps} steps")
            when, _, _, action = heapq.heappop(events)
            self.now = max(self.now, when)
            action()
        if until is not None:
            self.now = max(self.now, until)

    @property
    def steps(self) -> int:
        return self._steps

    # -- tasks -----------------------------------------------------------------------------------------------------

    def spawn(self, process: Process, name: str, function: Callable[[], object], delay: float = 0.0) -> Task:
        """Start a task in a process."""
        task = Task(process, name, function)
        process.tasks.add(task)
        ticket = task.ticket = object()
        self.after(delay + self.rng.random() * _INSTANT, lambda: self._resume(task, ticket))
        return task

    def wake(self, task: Task, answer: object = None, delay: float = 0.0) -> None:
        """Resume a waiting task: its call of :meth:`wait` returns ``answer``. Cancel its other wake-ups."""
        ticket = task.ticket = object()
        task.answer = answer
        self.after(delay + self.rng.random() * _INSTANT, lambda: self._resume(task, ticket))

    def _resume(self, task: Task, ticket: object) -> None:
        if task.ticket is not ticket or task.over:
            return
        if task.process.frozen and not task.process.dead:
            task.process.hold(task)
            return
        task.switch()

    def wait(self, seconds: float | None = None) -> object:
        """Let other tasks run until this one is woken, and return the answer; return None after ``seconds``."""
        task = getcurrent()
        assert isinstance(task, Task), "only tasks can wait"
        if task.process.dead:
            raise KilledError
        ticket = task.ticket = object()
        task.answer = None
        if seconds is not None:
            self.at(self.now + seconds, lambda: self._resume(task, ticket))
        self.main.switch()
        if task.process.dead:
            raise KilledError
        return task.answer

    def sleep(self, seconds: float) -> None:
        """Pause the current task. Outside all tasks, run the events of the next ``seconds``."""
        if isinstance(getcurrent(), Task):
            self.wait(max(0.0, seconds))
        else:
            self.run(self.now + max(0.0, seconds))

    def maybe_yield(self) -> None:
        """Let other tasks run for an instant, in 30 % of the calls."""
        if self.rng.random() < 0.3:
            self.wait(self.rng.random() * _INSTANT)

    def time(self) -> float:
        """Return the Unix time by the clock of the current process."""
        task = getcurrent()
        return self.now + task.process.skew if isinstance(task, Task) else self.now


def current() -> Task | None:
    """Return the running task, or None outside all tasks."""
    task = getcurrent()
    return task if isinstance(task, Task) else None


def current_process() -> Process | None:
    """Return the process of the running task, or None outside all tasks."""
    task = current()
    return None if task is None else task.process


class PerProcess:
    """A module variable that has a value for each simulated process. ``make`` makes the value on first use."""

    def __init__(self, make: Callable[[], object]) -> None:
        self._make = make
        self._values: dict[Process | None, object] = {}

    def __getattr__(self, name: str) -> Any:
        process = current_process()
        if process not in self._values:
            self._values[process] = self._make()
        return getattr(self._values[process], name)


_active: Machine | None = None


def activate(machine: Machine | None) -> None:
    """Make a machine the active one. None deactivates it."""
    global _active  # noqa: PLW0603 - an interpreter runs one simulation at a time
    _active = machine


def active_machine() -> Machine:
    """Return the machine of the running simulation."""
    assert _active is not None
    return _active


def next_number() -> int:
    """Return a number for an object whose order must not depend on its address in memory."""
    return next(_numbers) if _active is None else _active.next_number()
