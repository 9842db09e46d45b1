"""The same work on many things at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def in_parallel(work: Callable[[T], R], things: Sequence[T], threads: int) -> list[R]:
    """Return the results of ``work`` for all ``things``, in no order, by up to ``threads`` threads.

    An exception ends all: no thread begins another thing, and it is raised here. Plain threads are used, since a future
    for each thing would cost as much as half a request.
    """
    waiting, done, failed = iter(things), list[R](), list[BaseException]()

    def go_on() -> None:
        for thing in waiting:  # a list's iterator gives each thing to one thread
            try:
                done.append(work(thing))
            except BaseException as error:  # noqa: BLE001 - raised by the caller
                failed.append(error)
            if failed:
                return

    workers = [threading.Thread(target=go_on, name=f"file-{number}") for number in range(min(threads, len(things)))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if failed:
        raise failed[0]
    return done
