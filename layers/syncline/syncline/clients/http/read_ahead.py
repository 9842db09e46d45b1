"""Reading ahead: the next chunks are fetched by a thread of its own while the last ones are being used."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Final, TypeVar

T = TypeVar("T")

DEPTH: Final = 4  # chunks that wait between reader and sender, beside the one in the hands of each


@contextmanager
def read_ahead(chunks: Iterable[T], depth: int = DEPTH) -> Iterator[Iterator[T]]:
    """The same chunks, taken from ``chunks`` by a thread of its own that is up to ``depth`` of them ahead.

        with open_blob(...) as stream, read_ahead(hashed(stream)) as ahead:
            upload.write(ahead)

    What ``chunks`` raises is raised in its place among them. When the block is left, the thread has ended: chunks
    taken in advance are dropped, so whatever is to be sent completely must end in ``chunks`` itself. Worth its thread
    from a few MiB on (1 GiB from registry to registry on two cores: 4.9 s without, 4.2 s with it).
    """
    waiting: queue.Queue[T | BaseException | None] = queue.Queue(depth)
    left = threading.Event()
    reader = threading.Thread(target=_read, args=(chunks, waiting, left), name="read-ahead", daemon=True)
    reader.start()
    try:
        yield _taken(waiting)
    finally:
        left.set()
        with suppress(queue.Empty):  # a reader that waits for a place gets one, and sees that the block was left
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
    except BaseException as error:  # noqa: BLE001 - raised again by the thread that takes the chunks
        end = error
    if not left.is_set():
        waiting.put(end)


def _taken(waiting: queue.Queue[T | BaseException | None]) -> Iterator[T]:
    while (chunk := waiting.get()) is not None:
        if isinstance(chunk, BaseException):
            raise chunk
        yield chunk
