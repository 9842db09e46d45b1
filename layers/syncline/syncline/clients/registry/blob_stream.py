"""The content of a blob as a stream."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Final

from syncline.clients.http.client import Response
from syncline.errors import SynclineError

CHUNK: Final = 1024 * 1024


class BlobStream(AbstractContextManager["BlobStream"]):
    """The content of a blob as a stream, for use in a ``with`` block.

    ``size`` is the size of the complete blob, None if unknown; ``offset`` is the position of the next byte.
    """

    def __init__(self, answer: Response, offset: int, size: int | None) -> None:
        self._answer = answer
        self.offset = offset
        self.size = size

    def read(self, size: int = CHUNK) -> bytes:
        """Return up to ``size`` bytes, empty at the end. Raises UNREACHABLE if the stream ends before the blob does."""
        if self.offset == self.size:
            return b""
        data = self._answer.read(size)
        self.offset += len(data)
        if not data and self.size is not None:
            raise SynclineError(
                "UNREACHABLE", f"the connection broke after {self.offset} of {self.size} bytes of a blob"
            )
        return data

    def skip(self, size: int) -> None:
        """Read and discard ``size`` bytes. Raises BAD_ANSWER if there are fewer."""
        end = self.offset + size
        while self.offset < end:
            if not self.read(min(CHUNK, end - self.offset)):
                raise self._answer.protocol_error(f"the blob ends at {self.offset}, before byte {end}")

    def __iter__(self) -> Iterator[bytes]:
        while data := self.read(CHUNK):
            yield data

    def __exit__(self, *_: object) -> None:
        self._answer.close()


def content_length(answer: Response) -> int | None:
    """Return the ``Content-Length`` of a response, None if it has none."""
    text = answer.header("Content-Length").strip()
    return int(text) if text.isascii() and text.isdigit() else None
