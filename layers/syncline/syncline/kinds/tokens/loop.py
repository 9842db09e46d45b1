"""An event loop in a separate thread, so that connections stay open from one call to the next."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Loop:
    """An event loop that starts on first use. Safe to use from any thread but its own."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._loop.run_forever, name="loop", daemon=True)
                self._thread.start()
            return self._loop

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run ``work`` in the loop and return its result, or raise its exception."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    def call(self, make: Callable[[], T]) -> T:
        """Call ``make`` in the loop's thread and return its result."""

        async def called() -> T:
            return make()

        return self.run(called())

    def stop(self) -> None:
        """End the thread. Work in progress is abandoned."""
        with self._lock:
            loop, self._loop = self._loop, None
        if loop is not None and self._thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            self._thread.join()
            loop.close()
