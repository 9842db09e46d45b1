"""The digest that GitHub states for an artifact, checked while an image is read from it.

A download is read by ranges: its directory, then one member. Bytes that follow each other are hashed as they pass. The
bytes before the member are read first and those behind it last, so each byte is read once, and a tag is put only when the
hash of all bytes is the stated one. The hash continues in the next function.

An artifact with several images is read for each of them. The state of the hash at the start of each member is stored when
the digest was right, so the reading of a later image begins there. A wrong state gives a wrong digest, never a right one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from syncline.errors import SynclineError
from syncline.kinds.artifacts.archive.streams import Source
from syncline.kinds.facts import FactStore
from syncline.kinds.kind import StepContext
from syncline.running_hash import RunningHash

_PREFIX: Final = "sha256:"
_RETENTION: Final = 24 * 3600.0
"""Seconds for which states at the starts of members are stored: the images of one build are moved together."""


class HashedSource:
    """A download whose bytes are hashed as they pass, in their order; ``digest`` is the stated one.

    ``key`` identifies the download among the facts. Reading is for one thread at a time. Without a ``digest`` of a known
    algorithm nothing is checked.
    """

    def __init__(self, source: Source, digest: str | None, facts: FactStore, key: str) -> None:
        self._source = source
        self._facts = facts
        self._key = f"artifact-hash@{key} {digest}"
        self._stated = digest if digest is not None and digest.startswith(_PREFIX) else None
        self._hash = RunningHash("sha256")
        self._starts: tuple[int, ...] = ()
        self._known: int | None = None
        self._states: dict[int, list[str | int]] = {}

    @property
    def size(self) -> int:
        return self._source.size

    @property
    def name(self) -> str:
        return self._source.name

    @property
    def stated(self) -> str | None:
        """The stated digest, None if nothing is checked."""
        return self._stated

    @property
    def offset(self) -> int:
        """The number of bytes hashed."""
        return self._hash.offset

    @contextmanager
    def open(self, start: int, end: int) -> Iterator[Iterator[bytes]]:
        """Open the bytes from ``start`` up to ``end``."""
        with self._source.open(start, end) as chunks:
            yield self._passing(chunks, start)

    def state(self) -> list[str | int] | None:
        """Return the state of the hash and the stated digest as JSON values.

        None if nothing is checked or the state cannot be stored.
        """
        state = None if self._stated is None else self._hash.state()
        return None if state is None or self._stated is None else [*state, self._stated]

    def begin(self, stored: Any, start: int, starts: Sequence[int]) -> None:
        """Continue at the ``stored`` state of an earlier function, or at a known state of the member at ``start``.

        ``starts`` are the offsets of all members. A stored state of another download is ignored.
        """
        stored = stored if stored is not None and stored[2:] == [self._stated] else None
        self._starts = tuple(sorted(starts))
        if stored is None and self._stated is not None and start > self.offset:
            known = self._facts.recall(f"{self._key} {start}")
            stored = None if known is None else json.loads(known)
            self._known = None if known is None else start
        if stored is not None and int(stored[0]) > self.offset:
            self._hash = RunningHash.resume("sha256", stored)

    def read_to(self, end: int, context: StepContext) -> bool:
        """Read and hash the bytes up to ``end`` that did not pass yet; return False if time ran out."""
        if self._stated is None or self.offset >= end:
            return True
        with self.open(self.offset, end) as chunks:
            for _ in chunks:
                if context.over:
                    break
        return self.offset >= end

    def check(self) -> None:
        """Raise DIGEST_MISMATCH if the hash of all bytes is not the stated one."""
        found = f"{_PREFIX}{self._hash.hexdigest()}"
        if self._stated is not None and found != self._stated:
            if self._known is not None:
                self._facts.forget(f"{self._key} {self._known}")
            what = f"{self.name} has the digest {found}, GitHub states {self._stated}; no tag was put"
            raise SynclineError("DIGEST_MISMATCH", what)
        for start, state in self._states.items():
            self._facts.remember(f"{self._key} {start}", json.dumps(state), _RETENTION)
        self._states.clear()

    def _passing(self, chunks: Iterator[bytes], at: int) -> Iterator[bytes]:
        for chunk in chunks:
            if self._stated is not None and at <= self.offset < at + len(chunk):
                self._add(chunk[self.offset - at :])
            at += len(chunk)
            yield chunk

    def _add(self, data: bytes) -> None:
        """Hash the next bytes, noting the state at the start of each member behind the first one."""
        while data:
            cut = next((start - self.offset for start in self._starts if start > self.offset), len(data))
            self._hash.update(data[:cut])
            if len(data) >= cut and self.offset in self._starts and (state := self._hash.state()) is not None:
                self._states[self.offset] = state
            data = data[cut:]
