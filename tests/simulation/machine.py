"""A computer whose threads, clock and randomness one seed decides.

Every thread of the code under test runs as a greenlet. A greenlet gives way only where the code calls out (a model, a
lock, a queue, a pause), and the machine decides who goes on: it keeps one list of what happens when, and takes the
earliest entry. Durations are random, so every order of calls can occur, and the same seed gives the same order.

:func:`installed` replaces the primitives of :mod:`threading` and :mod:`queue` for the whole interpreter, and
:func:`take_over_time` those of :mod:`time`, before anything of the product is imported. So simulations run in a process
of their own, whose ``PYTHONHASHSEED`` is fixed.
"""

from __future__ import annotations

import gc
import heapq
import itertools
import queue
import random
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, _base, thread
from contextlib import contextmanager, nullcontext
from typing import Any, Final

from greenlet import getcurrent, greenlet  # type: ignore[import-untyped]

EPOCH: Final = 1_790_000_000.0
"""Unix time at which every simulation begins."""
_INSTANT: Final = 1e-6
_numbers: Final = itertools.count(1)


class KilledError(BaseException):
    """The process was killed. No code under test may catch it."""


class EndlessError(AssertionError):
    """The simulation did more than any correct program needs."""


class DeadlockError(AssertionError):
    """A task waits for something that cannot happen any more."""


class Process:
    """An operating system process: tasks that die together. A frozen one does not run, as Lambda between two events.

    ``skew`` is by how many seconds its clock is fast.
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
        """End all tasks of the process at once; what they would have cleaned up stays as it is."""
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
        """Run again; what should have happened meanwhile happens now."""
        self.frozen = False
        held, self._held = self._held, []
        for task, ticket in held:
            if ticket is task.ticket:
                self.machine.wake(task, task.answer)

    def hold(self, task: Task) -> None:
        self._held.append((task, task.ticket))


class Task(greenlet):  # type: ignore[misc]
    """A thread of a process. ``ticket`` is what it waits for now: an older one is void."""

    def __init__(self, process: Process, name: str, function: Callable[[], object]) -> None:
        super().__init__(self._main, parent=process.machine.hub)
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
        except BaseException as error:  # noqa: BLE001 - whoever waits for the task looks at it
            self.error = error
        self.over = True
        self.process.tasks.discard(self)
        for task in self.joining:
            self.process.machine.wake(task)


class Machine:
    """Clock, scheduler and randomness of one simulation.

    ``trace`` has a line for everything that happened. ``checks`` are called after every step.
    """

    def __init__(self, seed: int, most: int = 400_000) -> None:
        self.rng = random.Random(seed)
        self.now = EPOCH
        self.trace: list[str] = []
        self.hub: greenlet = getcurrent()
        self._agenda: list[tuple[float, float, int, Callable[[], None]]] = []
        self._numbers = 0
        self._steps = 0
        self._most = most
        self.outside = Process(self, "outside")

    def next_number(self) -> int:
        self._numbers += 1
        return self._numbers

    def note(self, line: str) -> None:
        """Add a line to the trace."""
        self.trace.append(f"{self.now - EPOCH:10.3f}  {line}")

    # -- what happens when -----------------------------------------------------------------------------------------

    def at(self, when: float, action: Callable[[], None]) -> None:
        """Call ``action`` at a time. Of two at the same time, chance decides which comes first."""
        now = self.now
        self._numbers += 1
        heapq.heappush(self._agenda, (max(now, when), self.rng.random(), self._numbers, action))

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        self.at(self.now + seconds, action)

    def run(self, until: float | None = None) -> None:
        """Let everything happen that is due, until a time or until nothing is left."""
        agenda = self._agenda
        while agenda and (until is None or agenda[0][0] <= until):
            self._steps += 1
            if self._steps > self._most:
                raise EndlessError(f"no end after {self._most} steps")
            when, _, _, action = heapq.heappop(agenda)
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
        """Let a waiting task go on with ``answer``; what else it waited for is void."""
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
        """Let others go on until this task is woken, or for ``seconds``. Return what it was woken with, None at the end."""
        task = getcurrent()
        assert isinstance(task, Task), "only tasks wait"
        if task.process.dead:
            raise KilledError
        ticket = task.ticket = object()
        task.answer = None
        if seconds is not None:
            self.at(self.now + seconds, lambda: self._resume(task, ticket))
        self.hub.switch()
        if task.process.dead:
            raise KilledError
        return task.answer

    def sleep(self, seconds: float) -> None:
        """Let ``seconds`` pass for the current task; for the hub, let everything happen meanwhile."""
        if isinstance(getcurrent(), Task):
            self.wait(max(0.0, seconds))
        else:
            self.run(self.now + max(0.0, seconds))

    def give_way(self) -> None:
        """Let others go on for a moment, now and then."""
        if self.rng.random() < 0.3:
            self.wait(self.rng.random() * _INSTANT)

    def time(self) -> float:
        """Return the Unix time by the clock of the process that asks."""
        task = getcurrent()
        return self.now + task.process.skew if isinstance(task, Task) else self.now


def current() -> Task | None:
    """Return the task that runs, None within the hub."""
    task = getcurrent()
    return task if isinstance(task, Task) else None


def writer() -> Process | None:
    """Return the process whose call is carried out, None if it is somebody outside."""
    task = current()
    return None if task is None else task.process


class PerProcess:
    """A variable of a module as the processes of one simulation have it: ``make`` makes the value of each."""

    def __init__(self, make: Callable[[], object]) -> None:
        self._make = make
        self._values: dict[Process | None, object] = {}

    def __getattr__(self, name: str) -> Any:
        process = writer()
        if process not in self._values:
            self._values[process] = self._make()
        return getattr(self._values[process], name)


class Lock:
    """A lock of tasks. Whoever waits longest does not get it first: chance decides."""

    def __init__(self) -> None:
        self._held = False
        self._waiting: list[Task] = []

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:  # noqa: FBT002 - as threading has it
        task = current()
        if task is None:
            assert not self._held or not blocking, "the hub cannot wait for a lock"
            taken, self._held = not self._held, True
            return taken
        machine = task.process.machine
        if task.process.dead:
            raise KilledError
        if blocking:
            machine.give_way()
        if not self._held:
            self._held = True
            return True
        if not blocking:
            return False
        end = None if timeout < 0 else machine.now + timeout
        while self._held:
            if end is not None and machine.now >= end:
                return False
            self._waiting.append(task)
            try:
                machine.wait(None if end is None else end - machine.now)
            finally:
                if task in self._waiting:
                    self._waiting.remove(task)
        self._held = True
        return True

    def release(self) -> None:
        if not self._held:
            raise RuntimeError("release unlocked lock")
        self._held = False
        if self._waiting:
            machine = self._waiting[0].process.machine
            machine.wake(self._waiting.pop(machine.rng.randrange(len(self._waiting))))

    def locked(self) -> bool:
        return self._held

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()

    def _at_fork_reinit(self) -> None:
        self._held = False


class RLock:
    """A lock that its owner may take again."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._owner: object = None
        self._count = 0

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:  # noqa: FBT002 - as threading has it
        me = getcurrent()
        if self._owner is me:
            self._count += 1
            return True
        if not self._lock.acquire(blocking, timeout):
            return False
        self._owner, self._count = me, 1
        return True

    __enter__ = acquire

    def release(self) -> None:
        if self._owner is not getcurrent():
            raise RuntimeError("cannot release un-acquired lock")
        self._count -= 1
        if not self._count:
            self._owner = None
            self._lock.release()

    def __exit__(self, *_: object) -> None:
        self.release()

    def _is_owned(self) -> bool:
        return self._owner is getcurrent()

    def _release_save(self) -> tuple[int, object]:
        saved = (self._count, self._owner)
        self._count, self._owner = 0, None
        self._lock.release()
        return saved

    def _acquire_restore(self, saved: tuple[int, object]) -> None:
        self._lock.acquire()
        self._count, self._owner = saved

    def _at_fork_reinit(self) -> None:
        self.__init__()  # type: ignore[misc]


class Thread:
    """:class:`threading.Thread` as a task of the process that starts it."""

    def __init__(
        self,
        group: None = None,
        target: Callable[..., object] | None = None,
        name: str | None = None,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        *,
        daemon: bool | None = None,
    ) -> None:
        assert group is None
        self._target, self._args, self._kwargs = target, args, kwargs or {}
        self.name = name or "thread"
        self.daemon = bool(daemon)
        self._task: Task | None = None
        self._number = _next_number()

    def __hash__(self) -> int:
        return self._number  # so that a set of threads has the same order in every process

    def run(self) -> None:
        if self._target is not None:
            self._target(*self._args, **self._kwargs)

    def start(self) -> None:
        starter = current()
        assert starter is not None, "only tasks start threads"
        if starter.process.dead:
            raise KilledError
        self._task = starter.process.machine.spawn(starter.process, self.name, self.run)

    def join(self, timeout: float | None = None) -> None:
        task, me = self._task, current()
        assert task is not None
        if task.over or me is None:
            return
        task.joining.append(me)
        me.process.machine.wait(timeout)

    def is_alive(self) -> bool:
        return self._task is not None and not self._task.over

    @property
    def ident(self) -> int | None:
        return None if self._task is None else self._task.number


class _AcquireFutures:
    """Locks of futures, taken in the order in which the futures were made: by default that is the order in memory."""

    def __init__(self, futures: Iterable[Any]) -> None:
        self.futures = sorted(futures, key=hash)

    def __enter__(self) -> None:
        for future in self.futures:
            future._condition.acquire()

    def __exit__(self, *_: object) -> None:
        for future in self.futures:
            future._condition.release()


class _SeededRandom(random.Random):
    """Chance of a module's own: without a seed, that of the simulation chooses one."""

    def __init__(self, seed: int | float | str | bytes | bytearray | None = None) -> None:  # noqa: PYI041
        super().__init__(machine().rng.random() if seed is None else seed)


_future_init: Final = Future.__init__


def _number_future(future: Any) -> None:
    """Give a future a number, by which sets of futures have the same order in every process."""
    future._number = _next_number()
    _future_init(future)


def _next_number() -> int:
    return next(_numbers) if _machine is None else _machine.next_number()


_machine: Machine | None = None


def machine() -> Machine:
    """Return the machine of the simulation that runs."""
    assert _machine is not None
    return _machine


def take_over_time() -> None:
    """Let the clock and the pauses of :mod:`time` be those of the simulation that runs, and the real ones without it.

    Call this before the product is imported: its functions keep clocks as defaults of their parameters.
    """
    real_time, real_monotonic, real_sleep = time.time, time.monotonic, time.sleep
    if getattr(real_time, "simulated", False):
        return

    def simulated_time() -> float:
        return real_time() if _machine is None else _machine.time()

    def simulated_monotonic() -> float:
        return real_monotonic() if _machine is None else _machine.time()

    def simulated_sleep(seconds: float) -> None:
        if _machine is None:
            real_sleep(seconds)
        else:
            _machine.sleep(seconds)

    simulated_time.simulated = True  # type: ignore[attr-defined]
    time.time, time.monotonic = simulated_time, simulated_monotonic
    time.sleep = simulated_sleep  # type: ignore[assignment]


def _unraisable(unraisable: Any) -> None:
    """Ignore that objects of a killed process cannot take locks while they are deleted."""
    if unraisable.exc_type is not KilledError:
        sys.__unraisablehook__(unraisable)


@contextmanager
def installed(new: Machine) -> Iterator[Machine]:
    """Run the code of this interpreter on a machine while the block lasts."""
    global _machine  # noqa: PLW0603 - there is one interpreter
    names: list[tuple[Any, str, object]] = [
        (threading, "Lock", Lock),
        (threading, "RLock", RLock),
        (threading, "_allocate_lock", Lock),
        (threading, "Thread", Thread),
        (queue, "SimpleQueue", queue._PySimpleQueue),  # type: ignore[attr-defined]
        (Future, "__init__", _number_future),
        (Future, "__hash__", lambda future: future._number),
        (_base, "_AcquireFutures", _AcquireFutures),
        # The real one is shared by all simulated processes: whoever holds it and gives way stops them all for good.
        (thread, "_global_shutdown_lock", nullcontext()),
        (random, "Random", _SeededRandom),
        (secrets, "token_hex", lambda size=32: new.rng.randbytes(size).hex()),
    ]
    before = [(module, name, getattr(module, name)) for module, name, _ in names]
    random.seed(new.rng.random())
    _machine = new
    for module, name, value in names:
        setattr(module, name, value)
    gc.disable()  # what it collects may take locks
    before_hook, sys.unraisablehook = sys.unraisablehook, _unraisable
    try:
        yield new
    finally:
        gc.enable()
        sys.unraisablehook = before_hook
        for module, name, value in before:
            setattr(module, name, value)
        _machine = None
