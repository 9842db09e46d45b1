"""Work for several syncs at the same time, each in a separate thread and with a deadline, so that none delays another."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from typing import Final, Generic, TypeVar

from syncline.errors import SynclineError
from syncline.telemetry import logger

T = TypeVar("T")


class Isolated(Generic[T]):
    """Runs the work called `name` for syncs. A caller waits `seconds` for all of it together."""

    def __init__(self, name: str, seconds: float) -> None:
        self._name: Final = name
        self._seconds: Final = seconds
        self._running: dict[str, Future[T]] = {}
        self._lock = threading.Lock()

    def run(self, works: Mapping[str, Callable[[], T]]) -> dict[str, T | SynclineError]:
        """Run the work of each sync and return the results in the given order, after `seconds` at the latest.

        A sync whose work raised has the error as its result: INTERNAL if it is not a SynclineError. One whose work is
        not done in time has UNREACHABLE. Its thread goes on, and the next call waits for it instead of starting another.
        """
        end = time.monotonic() + self._seconds
        futures = {sync: self._started(sync, work) for sync, work in works.items()}
        wait(futures.values(), max(0.0, end - time.monotonic()))
        return {sync: self._result(sync, future) for sync, future in futures.items()}

    def _started(self, sync: str, work: Callable[[], T]) -> Future[T]:
        with self._lock:
            running = self._running.get(sync)
            if running is not None and not running.done():
                return running
            future: Future[T] = Future()
            self._running[sync] = future
        # A daemon thread, so that work that hangs does not keep the process from ending.
        threading.Thread(target=_do, args=(work, future), name=f"{self._name} {sync}", daemon=True).start()
        return future

    def _result(self, sync: str, future: Future[T]) -> T | SynclineError:
        if not future.done():
            return SynclineError(
                "UNREACHABLE", f"{self._name} of {sync} did not finish within {self._seconds:g} seconds"
            )
        error = future.exception()
        if error is None:
            return future.result()
        if isinstance(error, SynclineError):
            return error
        logger.error("work failed", extra={"sync": sync, "work": self._name, "error": type(error).__name__})
        return SynclineError("INTERNAL", f"{self._name} of {sync} failed ({type(error).__name__})")


def _do(work: Callable[[], T], future: Future[T]) -> None:
    try:
        future.set_result(work())
    except Exception as error:  # noqa: BLE001 - raised where the result is used
        future.set_exception(error)
