"""Reading and hashing of the target's blobs: several at a time, in a fixed order, over as many functions as it takes.

The blobs of a block are read in the order of their digests. Threads read and hash; what they have done beyond the first
unfinished blob is kept in the cursor, with the states of the hashes, so that the next function repeats nothing. A blob
that several images of a repository share is read once; a function that takes over within a repository may read it again.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Final

from syncline.clients.registry.manifest import Descriptor
from syncline.clients.registry.store import ImageStore
from syncline.errors import SynclineError, stored_code
from syncline.kinds.kind import Failure, Page, StepContext
from syncline.model import Outcome, Result, compact_json
from syncline.running_hash import RunningHash

READERS: Final = 4
"""Blobs read at a time."""
_WINDOW: Final = 64
"""Blobs, and ends of blocks, that are read or wait behind the first one that is not finished."""
_ATTEMPTS: Final = 4
"""Attempts to go on with a blob after a connection broke without any progress."""


@dataclass(slots=True)
class Block:
    """Some tags of one repository: their results, and the blobs of equal images that are to be read.

    ``cursor`` continues behind the block. ``blobs`` has the blobs by digest, and ``needs`` the blobs of each tag.
    """

    cursor: str
    group: str
    results: list[Result]
    left_out: int = 0
    failures: tuple[Failure, ...] = ()
    blobs: dict[str, Descriptor] = field(default_factory=dict)
    needs: dict[str, frozenset[str]] = field(default_factory=dict)

    def page(self) -> Page:
        """Return the block as a page of the audit."""
        return Page(self.cursor, results=tuple(self.results), left_out=self.left_out, failures=self.failures)


@dataclass(frozen=True, slots=True)
class _Read:
    """The reading of a blob: ``error`` if the blob is not as it should be, ``state`` of its hash if it is not finished."""

    error: SynclineError | None = None
    state: list[str | int] | None = None
    finished: bool = True

    def to_json(self) -> list[Any]:
        error = None if self.error is None else [self.error.code.name, self.error.what]
        return [error, self.state, self.finished]

    @classmethod
    def from_json(cls, value: list[Any]) -> _Read:
        error, state, finished = value
        return cls(
            None if error is None else SynclineError(stored_code(error[0]), str(error[1])), state, bool(finished)
        )


@dataclass(slots=True)
class _Pending:
    """A blob of a block, or the block's end (None), and its reading."""

    block: Block
    blob: Descriptor | None
    reading: Future[_Read] | None


class ByteAudit:
    """The reading of the blobs of an audit from its cursor on.

    The cursor of an audit that was interrupted within a block is a JSON object: ``begun`` is the cursor of the block
    before, ``done`` has what was found in the block so far, and ``kept`` what was read of blobs beyond, by repository and
    digest.
    """

    def __init__(
        self, registry: ImageStore, damaged: Callable[[str, str], None], cursor: str | None, context: StepContext
    ) -> None:
        """``damaged`` is called with the repository and the digest of each damaged blob."""
        self._registry = registry
        self._damaged = damaged
        self._context = context
        stored: dict[str, Any] = json.loads(cursor) if cursor is not None and cursor.startswith("{") else {}
        self.begun: str | None = stored["begun"] if stored else cursor
        self._kept = {key: _Read.from_json(value) for key, value in stored.get("kept", {}).items()}
        self._done = {key: _Read.from_json(value) for key, value in stored.get("done", {}).items()}
        self._after: str = stored.get("after", "")
        self._group = ""
        self._readings: dict[str, Future[_Read]] = {}

    def pages(self, blocks: Iterator[Block]) -> Iterator[Page]:
        """Yield the page of each block once its blobs are read; at the end of the time, one with the cursor in a block."""
        begun, done, after = self.begun, self._done, self._after
        waiting: deque[_Pending] = deque()
        with ThreadPoolExecutor(READERS, thread_name_prefix="read") as pool:
            work = self._work(blocks, pool)
            while True:
                while len(waiting) < _WINDOW and (pending := next(work, None)) is not None:
                    waiting.append(pending)
                if not waiting:
                    return
                block, blob, reading = waiting[0].block, waiting[0].blob, waiting[0].reading
                if blob is not None and reading is not None:
                    read = reading.result()
                    if not read.finished:
                        yield Page(self._cursor(begun, after, done, waiting))
                        return
                    if read.error is not None:
                        done[blob.digest] = read
                    after = blob.digest
                else:
                    yield _judged(block, done).page()
                    begun, done, after = block.cursor, {}, ""
                waiting.popleft()

    def _work(self, blocks: Iterator[Block], pool: ThreadPoolExecutor) -> Iterator[_Pending]:
        """Yield the blobs to be read, each with its reading, and the end of each block."""
        after = self._after
        for block in blocks:
            if block.group != self._group:
                self._group = block.group
                self._readings.clear()
            for digest in sorted(block.blobs):
                if digest > after:
                    yield _Pending(block, block.blobs[digest], self._reading(block.group, block.blobs[digest], pool))
            after = ""
            yield _Pending(block, None, None)

    def _reading(self, group: str, blob: Descriptor, pool: ThreadPoolExecutor) -> Future[_Read]:
        """Return the reading of a blob, which is begun unless it was read before in this repository."""
        reading = self._readings.get(blob.digest)
        if reading is None:
            kept = self._kept.pop(f"{group}@{blob.digest}", None)
            reading = self._readings[blob.digest] = pool.submit(self._read, group, blob, kept or _Read(finished=False))
        return reading

    def _cursor(self, begun: str | None, after: str, done: dict[str, _Read], waiting: deque[_Pending]) -> str:
        """Return the cursor at the first blob that waits."""
        kept = {key: read.to_json() for key, read in self._kept.items()}
        for each in waiting:
            if each.blob is not None and each.reading is not None:
                read = each.reading.result()
                if read.finished or (read.state is not None and read.state[0]):
                    kept[f"{each.block.group}@{each.blob.digest}"] = read.to_json()
        found = {digest: read.to_json() for digest, read in done.items()}
        return compact_json({"begun": begun, "after": after, "done": found, "kept": kept})

    def _read(self, group: str, blob: Descriptor, kept: _Read) -> _Read:
        """Read and hash a blob, beginning with what was read before, until the time is over."""
        if kept.finished:
            return kept
        algorithm, _, expected = blob.digest.partition(":")
        hash_ = RunningHash.resume(algorithm, kept.state)
        try:
            if not self._read_through(group, blob, hash_):
                return _Read(state=hash_.state(), finished=False)
        except SynclineError as failure:
            return _Read(_absent(group, blob, self._registry) if failure.code.name == "NOT_FOUND" else failure)
        where = f"{group}@{blob.digest} at {self._registry.host}"
        error: SynclineError | None = None
        if hash_.offset != blob.size:
            error = SynclineError("NOT_ARRIVED", f"{where} has {hash_.offset} bytes or more instead of {blob.size}")
        elif (found := hash_.hexdigest()) != expected:
            what = f"the bytes of {where} are damaged: they have the digest {algorithm}:{found}"
            error = SynclineError("BLOB_DAMAGED", what)
            self._damaged(group, blob.digest)
        return _Read(error)

    def _read_through(self, group: str, blob: Descriptor, hash_: RunningHash) -> bool:
        """Read a blob to its end, through broken connections; return False if the time was over before."""
        attempts = 0
        while True:
            before = hash_.offset
            try:
                return self._read_on(group, blob, hash_)
            except SynclineError as error:
                if self._context.over or error.is_any("TIME_SHORT", "RUN_CANCELLED"):
                    return False
                attempts = 1 if hash_.offset > before else attempts + 1
                if not error.retried_here or attempts >= _ATTEMPTS:
                    raise

    def _read_on(self, group: str, blob: Descriptor, hash_: RunningHash) -> bool:
        """Read a blob from the offset of its hash on; return False if the time was over before its end."""
        if self._context.over:
            return False
        with self._registry.open_blob(group, blob.digest, hash_.offset) as stream:
            for chunk in stream:
                hash_.update(chunk)
                if hash_.offset > blob.size:
                    return True
                if self._context.over:
                    return hash_.offset == blob.size
        return True


def _absent(group: str, blob: Descriptor, registry: ImageStore) -> SynclineError:
    return SynclineError("NOT_ARRIVED", f"{group}@{blob.digest} is not at {registry.host}")


def _judged(block: Block, done: dict[str, _Read]) -> Block:
    """Return a block with the results of its images changed by what was read of their blobs.

    The bytes of a blob that several images share count for the first of them.
    """
    counted: set[str] = set()
    results: list[Result] = []
    for result in block.results:
        needs = block.needs.get(result.name)
        if needs is None:
            results.append(result)
            continue
        fresh = needs - counted
        counted |= needs
        size = sum(block.blobs[digest].size for digest in fresh)
        error = next((found.error for digest in sorted(needs) if (found := done.get(digest)) is not None), None)
        results.append(replace(judged(result, error), moved_bytes=size))
    return replace(block, results=results)


def judged(result: Result, error: SynclineError | None) -> Result:
    """Return the result of an image with equal digests, given the error of one of its parts, if any."""
    if error is None:
        return result
    outcome, code = Outcome.UNREADABLE, error.code.name
    if error.code.name == "NOT_ARRIVED":
        outcome, code = Outcome.DIFFERENT, "INCOMPLETE"
    elif error.is_any("BLOB_DAMAGED", "DIGEST_MISMATCH"):
        outcome, code = Outcome.DIFFERENT, "BLOB_DAMAGED"
    return replace(result, outcome=outcome, code=code, reason=error.what)
