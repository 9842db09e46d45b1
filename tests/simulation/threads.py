"""Locks and threads of :mod:`threading`, implemented as tasks of a simulated machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from greenlet import getcurrent  # type: ignore[import-untyped]

from tests.simulation.machine import KilledError, Task, current, next_number


class Lock:
    """A :class:`threading.Lock` of tasks. On release, a random waiting task gets it."""

    def __init__(self) -> None:
        self._held = False
        self._waiting: list[Task] = []

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:  # noqa: FBT002 - as threading has it
        task = current()
        if task is None:
            assert not self._held or not blocking, "only tasks can wait for a lock"
            taken, self._held = not self._held, True
            return taken
        machine = task.process.machine
        if task.process.dead:
            raise KilledError
        if blocking:
            machine.maybe_yield()
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
    """A :class:`threading.RLock` of tasks."""

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
    """A :class:`threading.Thread` that runs as a task of the process that starts it."""

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
        self._number = next_number()

    def __hash__(self) -> int:
        return self._number  # so that sets of threads have the same order in every process

    def run(self) -> None:
        if self._target is not None:
            self._target(*self._args, **self._kwargs)

    def start(self) -> None:
        starter = current()
        assert starter is not None, "only tasks can start threads"
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
