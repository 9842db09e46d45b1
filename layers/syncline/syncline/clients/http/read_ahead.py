"""Streams of chunks: a thread that reads ahead of the caller, and pieces of another size."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Final, TypeVar

T = TypeVar("T")

DEPTH: Final = 4  # chunks in the queue, beside the ones that the reader and the sender hold


@contextmanager
def read_ahead(chunks: Iterable[T], depth: int = DEPTH) -> Iterator[Iterator[T]]:
    """Iterate over ``chunks`` in a separate thread, up to ``depth`` chunks ahead, and give an iterator of the results.

        with open_blob(...) as stream, read_ahead(hashed(stream)) as ahead:
            upload.write(ahead)

    An exception of ``chunks`` is raised after the chunks before it. Leaving the block ends the thread and drops chunks
    that were read but not used. Worth a thread from a few MiB on (1 GiB from registry to registry on two cores: 4.9 s
    without, 4.2 s with it).
    """
    waiting: queue.Queue[T | BaseException | None] = queue.Queue(depth)
    left = threading.Event()
    reader = threading.Thread(target=_read, args=(chunks, waiting, left), name="read-ahead", daemon=True)
    reader.start()
    try:
        yield _taken(waiting)
    finally:
        left.set()
        with suppress(queue.Empty):  # a reader blocked on the full queue continues, and sees that the block was left
            while True:
                waiting.get_nowait()
        reader.join()


def _read(chunks: Iterable[T], waiting: queue.Queue[T | BaseException | None], left: threading.Event) -> None:
    end = None
    try:
        for chunk in chunks:
            if left.is_set():
                return
            waiting.put(chunk)
    except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
        end = error
    if not left.is_set():
        waiting.put(end)


def _taken(waiting: queue.Queue[T | BaseException | None]) -> Iterator[T]:
    while (chunk := waiting.get()) is not None:
        if isinstance(chunk, BaseException):
            raise chunk
        yield chunk


def pieces(chunks: Iterable[bytes], size: int) -> Iterator[bytes]:
    """Yield the bytes of ``chunks`` in pieces of ``size`` bytes; the last one may be shorter."""
    held = bytearray()
    for chunk in chunks:
        held += chunk
        while len(held) >= size:
            yield bytes(held[:size])
            del held[:size]
    if held:
        yield bytes(held)
