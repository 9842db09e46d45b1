"""From an archive to a registry in one pass: layers go out as they are met, manifests once all is known.

Some archives name their layers only at their end. So each layer is sent when it comes, under the digest of what it
became; what the archive says of it is held against that afterwards. Until its manifest is put no tag shows any of it,
and a registry removes in time what no manifest names.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from syncline.clients.oci import Registry
from syncline.clients.read_ahead import read_ahead
from syncline.kinds.artifacts.archive.feed import LIMITS, Limits
from syncline.kinds.artifacts.archive.images import chosen, images_in
from syncline.kinds.artifacts.layers import KnownLayers
from syncline.kinds.artifacts.manifests import Written, written
from syncline.kinds.artifacts.passing import Pass, Progress, Wanted
from syncline.kinds.artifacts.sending import Sender
from syncline.kinds.kind import Pace

TRIMMED_AFTER: Final = 64
"""Chunks of an archive after which what was freed is given back to the system."""


class Push:
    """Brings images to one repository. ``sent`` counts the bytes that went out."""

    def __init__(  # noqa: PLR0913 - each is handed in, and all but four have defaults
        self,
        registry: Registry,
        repository: str,
        known: KnownLayers,
        pace: Pace,
        *,
        processors: int | None = None,
        limits: Limits = LIMITS,
    ) -> None:
        self._registry = registry
        self._repository = repository
        self._known = known
        self._pace = pace
        self._processors = processors
        self._limits = limits
        self.sent = 0

    def image(
        self, archive: Callable[[], Iterable[bytes]], where: str, wanted: Wanted, progress: Progress
    ) -> Written | None:
        """Bring all of an image but its tag to the repository; None where time was short, ``progress`` being the rest.

        ``archive`` opens the archive anew each time. Raises ARCHIVE_INVALID, ARCHIVE_REFUSED, IMAGE_ABSENT, and what
        reading it and the registry raise; ``progress`` then tells what need not be done again.
        """
        for trust in (True, False):
            with Sender(self._registry, self._repository, self._pace, self._processors) as sender:
                try:
                    passed = Pass(
                        sender,
                        self._known,
                        self._repository,
                        self._pace,
                        wanted,
                        progress,
                        where,
                        self._limits,
                        trust,
                    )
                    # Downloading and taking the zip apart is a thread's work of its own, beside unpacking what is in it.
                    with read_ahead(_trimmed(archive())) as chunks:
                        contents = passed.over(chunks)
                    if contents is None:
                        return None
                    if not passed.misled:
                        image = chosen(images_in(contents), wanted.image, wanted.tag, where)
                        return written(progress.settled(image, contents), progress.done, contents, sender)
                finally:
                    self.sent += sender.sent
        raise AssertionError  # the second pass guesses nothing


def _trimmed(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The same chunks, freed memory being given back to the system now and then.

    Buffers of many sizes and ages leave glibc's heaps full of gaps: an image of 5 GiB took 300 to 490 MiB without this,
    of which 150 were in use. Done rarely, it costs nothing that could be measured.
    """
    for number, chunk in enumerate(chunks):
        if number % TRIMMED_AFTER == 0:
            trim()
        yield chunk


def trim() -> None:
    """Give freed memory back, where the C library can."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
