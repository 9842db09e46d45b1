"""Parallel calls of one function."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def in_parallel(work: Callable[[T], R], things: Sequence[T], threads: int) -> list[R]:
    """Return the results of ``work`` for all ``things``, in no order, using up to ``threads`` threads.

    After an exception no thread begins another call, and it is raised here. Threads without futures are used, since a
    future for each call would cost as much as half a request.
    """
    waiting, done, failed = iter(things), list[R](), list[BaseException]()

    def worker() -> None:
        for thing in waiting:  # a list's iterator gives each thing to one thread
            try:
                done.append(work(thing))
            except BaseException as error:  # noqa: BLE001 - raised by the caller
                failed.append(error)
            if failed:
                return

    running = [threading.Thread(target=worker, name=f"file-{number}") for number in range(min(threads, len(things)))]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    if failed:
        raise failed[0]
    return done
