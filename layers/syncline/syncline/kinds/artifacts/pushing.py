"""From an archive to a registry in one pass: layers go out as they are met, manifests once all is known.

Some archives name their layers only at their end. So each layer is sent when it comes, under the digest of what it
became; what the archive says of it is held against that afterwards. Until its manifest is put no tag shows any of it,
and a registry removes in time what no manifest names.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Final

from syncline.clients.http.read_ahead import read_ahead
from syncline.clients.registry.client import Registry
from syncline.errors import SynclineError
from syncline.kinds.artifacts.archive.feed import LIMITS, Limits, Mark, Stream
from syncline.kinds.artifacts.archive.images import chosen, images_in
from syncline.kinds.artifacts.checkpoints import Checkpoint, Checkpoints
from syncline.kinds.artifacts.layers import KnownLayers
from syncline.kinds.artifacts.manifests import Written, written
from syncline.kinds.artifacts.passing import Pass, Progress, Wanted
from syncline.kinds.artifacts.sending import Sender
from syncline.kinds.kind import Pace

TRIMMED_AFTER: Final = 64
"""Chunks of an archive after which what was freed is given back to the system."""
_ABOUT_ARCHIVE: Final = frozenset({"ARCHIVE_INVALID", "ARCHIVE_REFUSED", "IMAGE_ABSENT"})


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
        self,
        archive: Callable[[Mark | None], Iterable[bytes]],
        where: str,
        wanted: Wanted,
        progress: Progress,
        checkpoints: Checkpoints | None = None,
    ) -> Written | None:
        """Bring all of an image but its tag to the repository; None where time was short, ``progress`` being the rest.

        ``archive`` opens the archive anew each time, from its start or a mark. Where time was short, or something failed
        that is tried again, the place is kept in ``checkpoints``. Raises ARCHIVE_INVALID, ARCHIVE_REFUSED, IMAGE_ABSENT,
        and what reading it and the registry raise; ``progress`` then tells what need not be done again.
        """
        checkpoint = checkpoints.load() if checkpoints else None
        layers = len(progress.done)
        trust = True
        while True:
            with Sender(self._registry, self._repository, self._pace, self._processors) as sender:
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
                try:
                    mark = None if checkpoint is None else passed.resume(checkpoint)
                    with _ahead(archive(mark)) as chunks:
                        contents = passed.over(chunks)
                    if contents is not None and not passed.misled:
                        image = chosen(images_in(contents), wanted.image, wanted.tag, where)
                        return written(progress.settled(image, contents), progress.done, contents, sender)
                except SynclineError as error:
                    if error.code.name not in _ABOUT_ARCHIVE:
                        read = _keep(passed.checkpoint(), checkpoints)
                        progress.count_function(read, has_layers=len(progress.done) > layers)
                        raise
                    if checkpoint is None:
                        raise
                    # It may be the checkpoint that is wrong.
                    checkpoint = None
                    progress.done.clear()
                    progress.open.clear()
                    continue
                finally:
                    self.sent += sender.sent
            checkpoint = passed.checkpoint()
            if contents is None:
                progress.count_function(_keep(checkpoint, checkpoints), has_layers=len(progress.done) > layers)
                return None
            trust = False


def _keep(checkpoint: Checkpoint | None, checkpoints: Checkpoints | None) -> int:
    """Keep a checkpoint, of a layer's start if the one within the layer is too large; how far it is, 0 if none is kept."""
    if checkpoint is None or checkpoints is None:
        return 0
    for each in (checkpoint, replace(checkpoint, inside=None)):
        if checkpoints.save(each):
            return each.read
    return 0


@contextlib.contextmanager
def _ahead(chunks: Iterable[bytes]) -> Iterator[Stream[bytes]]:
    """The same chunks with their marks: downloading and taking the zip apart is a thread's work of its own.

    Freed memory is given back to the system now and then. Buffers of many sizes and ages leave glibc's heaps full of
    gaps: an image of 5 GiB took 300 to 490 MiB without this, of which 150 were in use. Done rarely, it costs nothing that
    could be measured.
    """
    stream = chunks if isinstance(chunks, Stream) else Stream(((chunk, None) for chunk in chunks), None)
    first = stream.mark

    def marked() -> Iterator[tuple[bytes, Mark | None]]:
        for number, chunk in enumerate(stream):
            if number % TRIMMED_AFTER == 0:
                trim()
            yield chunk, stream.mark

    with read_ahead(marked()) as ahead:
        yield Stream(ahead, first)


def trim() -> None:
    """Give freed memory back, where the C library can."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
