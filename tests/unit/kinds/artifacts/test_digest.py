"""The digest of an artifact is that of all its bytes, each read once, in one function or in several."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from syncline.errors import SynclineError
from syncline.kinds.artifacts.digest import HashedSource
from syncline.kinds.facts import ProcessFacts
from syncline.kinds.kind import StepContext
from tests.unit.kinds.artifacts.conftest import InMemorySource

DATA = random.Random(5).randbytes(10_000)
DIGEST = f"sha256:{hashlib.sha256(DATA).hexdigest()}"
STARTS = (0, 3000, 6000)
ENDLESS = StepContext(lambda: 60.0)


@dataclass
class Download:
    """A download in chunks of 512 bytes. ``read`` lists the offset of each byte that was read, ``facts`` are shared."""

    data: bytes = DATA
    facts: ProcessFacts = field(default_factory=ProcessFacts)
    read: list[int] = field(default_factory=list)

    name = "artifact a (1)"

    @property
    def size(self) -> int:
        return len(self.data)

    @contextmanager
    def open(self, start: int, end: int) -> Iterator[Iterator[bytes]]:
        def counted() -> Iterator[bytes]:
            for at in range(start, end, 512):
                chunk = self.data[at : min(at + 512, end)]
                self.read += range(at, at + len(chunk))
                yield chunk

        yield counted()

    def hashed(self, digest: str | None = DIGEST) -> HashedSource:
        return HashedSource(self, digest, self.facts, "a")


def read_member(source: HashedSource, start: int, end: int) -> None:
    with source.open(start, end) as chunks:
        for _ in chunks:
            pass


def read_image(source: HashedSource, start: int, end: int) -> None:
    """Read the image of a member as a transfer does, and check the digest."""
    source.begin(None, start, STARTS)
    assert source.read_to(start, ENDLESS)
    read_member(source, start, end)
    assert source.read_to(source.size, ENDLESS)
    source.check()


@pytest.mark.parametrize(("start", "end"), [(0, 3000), (3000, 6000), (6000, 9900)])
def test_every_byte_is_read_once(start: int, end: int) -> None:
    download = Download()
    read_image(download.hashed(), start, end)
    assert download.read == list(range(len(DATA)))


def test_a_later_image_begins_at_its_member() -> None:
    download = Download()
    read_image(download.hashed(), 0, 3000)
    download.read.clear()
    read_image(download.hashed(), 6000, 9900)
    assert download.read == list(range(6000, len(DATA)))


@pytest.mark.parametrize("at", [0, 2999, 3000, 6001, len(DATA) - 1])
def test_one_altered_byte_anywhere_is_an_error(at: int) -> None:
    download = Download(DATA[:at] + bytes([DATA[at] ^ 1]) + DATA[at + 1 :])
    with pytest.raises(SynclineError, match="no tag was put") as error:
        read_image(download.hashed(), 3000, 6000)
    assert error.value.code.name == "DIGEST_MISMATCH"
    assert not download.facts.recall(f"artifact-hash@a {DIGEST} 6000"), "nothing of an altered download is stored"


def test_a_wrong_stored_state_is_an_error_once() -> None:
    """The state of another download cannot make an altered one right, and a right one is right again afterwards."""
    download = Download()
    other = Download(bytes(len(DATA)), download.facts)
    read_image(HashedSource(other, f"sha256:{hashlib.sha256(other.data).hexdigest()}", other.facts, "b"), 0, 3000)
    key = f"artifact-hash@b sha256:{hashlib.sha256(other.data).hexdigest()} 6000"
    stored = download.facts.recall(key)
    assert stored is not None
    download.facts.remember(f"artifact-hash@a {DIGEST} 6000", stored)
    with pytest.raises(SynclineError, match="GitHub states"):
        read_image(download.hashed(), 6000, 9900)
    read_image(download.hashed(), 6000, 9900)


@pytest.mark.parametrize("chunks", [1, 5, 12])
def test_the_hash_continues_in_another_function(chunks: int) -> None:
    download = Download()
    state = None
    for function in range(100):
        source = download.hashed()
        source.begin(state, 3000, STARTS)
        if source.read_to(len(DATA), StepContext(for_chunks(chunks))):
            source.check()
            break
        assert source.offset == chunks * 512 * (function + 1)
        state = source.state()
    assert download.read == list(range(len(DATA)))


def test_a_state_of_another_artifact_is_ignored() -> None:
    """The artifact of a run may be replaced between two functions."""
    source = Download(bytes(len(DATA))).hashed(f"sha256:{hashlib.sha256(bytes(len(DATA))).hexdigest()}")
    read_member(source, 0, 5000)
    download = Download()
    later = download.hashed()
    later.begin(source.state(), 3000, STARTS)
    assert later.offset == 0
    assert later.read_to(len(DATA), ENDLESS)
    later.check()


def for_chunks(count: int) -> Callable[[], float]:
    left = iter([60.0] * (count - 1))
    return lambda: next(left, 0.0)


@pytest.mark.parametrize("digest", [None, "sha512:00", ""])
def test_a_download_without_a_stated_digest_is_not_read_further(digest: str | None) -> None:
    download = Download()
    read_image(download.hashed(digest), 3000, 6000)
    assert download.read == list(range(3000, 6000))


def test_bytes_that_are_read_twice_are_hashed_once() -> None:
    source = HashedSource(InMemorySource(DATA, chunk=700), DIGEST, ProcessFacts(), "a")
    for start, end in ((9000, 10_000), (0, 4), (0, 30), (10, 5000), (4000, 9000)):
        read_member(source, start, end)
    assert source.read_to(len(DATA), ENDLESS)
    source.check()
