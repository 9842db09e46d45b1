"""Reading and hashing of one file at source and target, over as many functions as it takes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final, Self

from syncline.clients.s3.client import Bucket, ObjectStream
from syncline.clients.s3.xml import ListedObject
from syncline.errors import SynclineError
from syncline.kinds.files.config import FilesSync
from syncline.kinds.files.targets import CHUNK, Target, TargetFile
from syncline.kinds.kind import StepContext
from syncline.running_hash import RunningHash

_ATTEMPTS: Final = 4
"""Attempts to go on with a file after a connection broke without any progress."""
_SHA256: Final = "sha256"


@dataclass(slots=True)
class Reading:
    """The reading of an object and of the target's file of the same size, whose first bytes are hashed."""

    source: ListedObject
    target: TargetFile
    ours: RunningHash
    theirs: RunningHash

    @classmethod
    def resumed(cls, source: ListedObject, target: TargetFile, state: list[Any] | None) -> Self:
        """Return a reading that goes on with a stored state, if that is one of the same versions."""
        versions, states = (None, (None, None)) if state is None else (state[0], state[1])
        if versions != [source.etag, target.version]:
            states = (None, None)
        reading = cls(source, target, *(RunningHash.resume(_SHA256, each) for each in states))
        if reading.ours.offset != reading.theirs.offset:
            reading.ours, reading.theirs = RunningHash(_SHA256), RunningHash(_SHA256)
        return reading

    def state(self) -> list[Any] | None:
        """Return the state as JSON values, None if there is nothing to resume."""
        states = [self.ours.state(), self.theirs.state()]
        if not self.ours.offset or self.ours.offset != self.theirs.offset or None in states:
            return None
        return [[self.source.etag, self.target.version], states]

    def digests(self) -> tuple[str, str]:
        """Return the SHA-256 of both."""
        return self.ours.hexdigest(), self.theirs.hexdigest()


@dataclass(frozen=True, slots=True)
class ByteComparison:
    """Reads pairs of files. Safe for concurrent use by threads."""

    sync: FilesSync
    source: Bucket
    target: Target
    context: StepContext
    _stopped: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def stopped_at_end(self) -> Iterator[None]:
        """Let all reads end soon after the block, also when an error ends it."""
        try:
            yield
        finally:
            self._stopped.set()

    @property
    def over(self) -> bool:
        """True if no new work may begin."""
        return self._stopped.is_set() or self.context.over

    def read(self, key: str, reading: Reading) -> bool:
        """Read a pair to its end, through broken connections; return False if the time was over before.

        Raises SOURCE_CHANGED if either was replaced meanwhile, and NOT_FOUND if it was removed.
        """
        attempts = 0
        while reading.ours.offset < reading.source.size:
            before = reading.ours.offset
            try:
                if not self._read_on(key, reading):
                    return False
            except SynclineError as error:
                if self.over or error.is_any("TIME_SHORT", "RUN_CANCELLED"):
                    return False
                attempts = 1 if reading.ours.offset > before else attempts + 1
                if not error.retried_here or attempts >= _ATTEMPTS or error.code.name == "SOURCE_CHANGED":
                    raise
        return True

    def _read_on(self, key: str, reading: Reading) -> bool:
        """Read a pair from the offset of its hashes on; return False if the time was over before its end."""
        if self.over:
            return False
        path, start, size = self.sync.path_of(key), reading.ours.offset, reading.source.size
        target = reading.target
        if target.etag is None:  # a listing without ETags
            current = self.target.stat(path)
            if current is None or current.size != size:
                raise SynclineError("SOURCE_CHANGED", f"{path!r} at {self.target.name} was replaced while it was read")
            target = replace(target, version=current.version)
        theirs = self.target.open(path, target, start)
        assert theirs is not None, "a target that is listed can be read"
        with theirs, self.source.open(key, etag=reading.source.etag or None, start=start) as ours:
            while reading.ours.offset < size:
                if self.over:
                    return False
                # The hashes go on together: an error between them would leave no state to resume.
                chunk, other = _chunk(ours, size - reading.ours.offset), _chunk(theirs, size - reading.ours.offset)
                if not chunk or len(chunk) != len(other):
                    what = f"{key!r} has fewer bytes than its size states, at {self.source} or {self.target.name}"
                    raise SynclineError("UNREACHABLE", what)
                reading.ours.update(chunk)
                reading.theirs.update(other)
        return True


def _chunk(stream: ObjectStream, most: int) -> bytes:
    """Read a full chunk, or fewer bytes at the end."""
    parts, missing = [], min(CHUNK, most)
    while missing and (part := stream.read(missing)):
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)
