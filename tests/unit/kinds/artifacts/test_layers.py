"""The compressed form of layers, the index of known layers, and waiting for another function that sends a layer."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final, cast

import pytest
from isal import isal_zlib

from syncline.clients.registry.client import Registry
from syncline.clients.registry.manifest import Descriptor
from syncline.kinds.artifacts.layers import LEVEL, KnownLayers, Layer, packed_segment
from syncline.kinds.facts import ProcessFacts

DIFF_ID, DIGEST = "sha256:" + "1" * 64, "sha256:" + "2" * 64
MIB: Final = 1 << 20
LAYER: Final = Layer(DIFF_ID, DIGEST, 7)


def crc32c(data: bytes) -> int:
    """Return the CRC-32C that processors compute, starting at 0 and without inversion. ISA-L hashes positions with it."""
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc


def sensitive_to(compressor: Any) -> bytes:
    """Return content that ISA-L alone packs differently at the address of ``compressor`` than elsewhere.

    ISA-L enters the third position of a stream into its hash table under the hash of the stream's address. The first
    bytes of the content have the same hash, so their entry is lost, and they are not found again.
    """
    slot = crc32c((id(compressor) >> 16 & 0xFFFFFFFF).to_bytes(4, "little")) & 0x1FFF
    first = next(each for n in count(1) if crc32c(each := n.to_bytes(4, "little")) & 0x1FFF == slot)
    rng = random.Random(slot)
    start = first + rng.randbytes(60)
    return start + rng.randbytes(40) + start + rng.randbytes(300)


def test_segment_is_packed_the_same_at_any_address(monkeypatch: pytest.MonkeyPatch) -> None:
    compressors = [isal_zlib.compressobj(LEVEL, isal_zlib.DEFLATED, -15) for _ in range(5)]
    for compressor in compressors:
        content = sensitive_to(compressor)
        elsewhere = packed_segment(content)
        with monkeypatch.context() as patch:
            patch.setattr(isal_zlib, "compressobj", lambda *_, there=compressor: there)
            assert packed_segment(content) == elsewhere


@pytest.mark.parametrize("size", [*range(40), 287, 288, 289, 304, 305, 40_000, 300_000])
def test_packed_segments_are_one_stream(size: int) -> None:
    contents = [random.Random(size).randbytes(size), bytes(size), (b"usr/lib/python" * size)[:size]]
    stream = b"".join(packed_segment(content) for content in contents)
    assert zlib.decompressobj(-15).decompress(stream) == b"".join(contents)


def never() -> bool:
    return False


@dataclass
class _Registry:
    """A registry. ``sizes`` has blobs by repository and digest; ``mounts`` is False if blobs cannot be mounted."""

    sizes: dict[tuple[str, str], int] = field(default_factory=dict)
    mounts: bool = True
    asked: list[str] = field(default_factory=list)
    host: str = "registry.example"

    def blob_size(self, repository: str, blob: Descriptor) -> int | None:
        self.asked.append(f"size {repository}")
        return self.sizes.get((repository, blob.digest))

    def mount_blob(self, repository: str, digest: str, destination: str) -> bool:
        self.asked.append(f"mount {repository} {destination}")
        if self.mounts and (destination, digest) in self.sizes:
            self.sizes[repository, digest] = self.sizes[destination, digest]
        return self.mounts


@dataclass
class _Function:
    """A function whose facts and clock are shared with other functions; ``waits`` are its pauses."""

    registry: _Registry = field(default_factory=_Registry)
    now: float = 0.0
    waits: list[float] = field(default_factory=list)
    meanwhile: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self.memory = ProcessFacts(lambda: self.now)
        self.known = KnownLayers(self.memory, cast("Registry", self.registry), self._wait)

    def _wait(self, seconds: float) -> None:
        assert 0 < seconds < 1
        self.now += seconds
        self.waits.append(seconds)
        self.meanwhile()


@pytest.fixture
def function() -> _Function:
    return _Function()


def test_present_layer_costs_one_request(function: _Function) -> None:
    assert function.known.get("app", DIFF_ID) is None
    assert function.registry.asked == []
    function.known.note("app", DIFF_ID, LAYER)
    function.registry.sizes["app", DIGEST] = 7
    assert function.known.get("app", DIFF_ID) == LAYER
    assert function.registry.asked == ["size app"]


def test_layer_of_another_repository_is_mounted(function: _Function) -> None:
    function.known.note("app", DIFF_ID, LAYER)
    function.registry.sizes["app", DIGEST] = 7
    assert function.known.get("other", DIFF_ID) == LAYER
    assert function.registry.asked == ["size other", "mount other app", "size other"]


@pytest.mark.parametrize("case", ["gone", "cut", "not mounted", "mounted in part"])
def test_wrong_entry_is_removed(function: _Function, case: str) -> None:
    function.known.note("app", DIFF_ID, LAYER)
    repository = "other" if "mounted" in case else "app"
    function.registry.mounts = case != "not mounted"
    if case in ("cut", "mounted in part"):
        function.registry.sizes["app", DIGEST] = 6
    assert function.known.get(repository, DIFF_ID) is None
    assert function.registry.asked[1:2] == (["mount other app"] if "mounted" in case else [])
    function.registry.asked.clear()
    function.registry.sizes[repository, DIGEST] = 7
    assert function.known.get(repository, DIFF_ID) is None
    assert function.registry.asked == []


@pytest.mark.parametrize(
    "noted", ["", DIGEST, f"{DIGEST} 7 app", f"{DIGEST} -7 app {DIFF_ID}", f"x 7 app {DIFF_ID}", f"{DIGEST} 7 app x"]
)
def test_invalid_entry_is_ignored(function: _Function, noted: str) -> None:
    function.memory.remember(f"layer@registry.example@{DIFF_ID}", noted)
    function.registry.sizes["app", DIGEST] = 7
    assert function.known.get("app", DIFF_ID) is None


class TestWaiting:
    """The function that claims a layer sends it; others wait for the time that this may take."""

    def test_first_caller_sends_at_once(self, function: _Function) -> None:
        assert function.known.find("app", DIFF_ID, 100 * MIB, never) is None
        assert function.waits == []

    def test_others_wait_until_the_layer_is_present(self, function: _Function) -> None:
        function.known.find("app", DIFF_ID, 100 * MIB, never)

        def meanwhile() -> None:
            if len(function.waits) == 3:
                function.registry.sizes["app", DIGEST] = 7
                function.known.note("app", DIFF_ID, LAYER)

        function.meanwhile = meanwhile
        assert function.known.find("app", DIFF_ID, 100 * MIB, never) == LAYER
        assert len(function.waits) == 3

    @pytest.mark.parametrize(("size", "longest"), [(MIB, 1.05), (100 * MIB, 6.0), (100_000 * MIB, 120.0)])
    def test_wait_depends_on_the_size(self, function: _Function, size: int, longest: float) -> None:
        function.known.find("app", DIFF_ID, size, never)
        assert function.known.find("app", DIFF_ID, size, never) is None
        assert function.now == pytest.approx(longest, abs=0.2)

    def test_wait_is_not_extended_by_another_claim(self, function: _Function, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(function.memory, "claim", lambda *_: False)
        assert function.known.find("app", DIFF_ID, 100 * MIB, lambda: function.now > 60) is None
        assert function.now == pytest.approx(6.0, abs=0.2)

    def test_no_wait_for_a_small_layer(self, function: _Function) -> None:
        for _ in range(2):
            assert function.known.find("app", DIFF_ID, MIB - 1, never) is None
        assert function.waits == []

    def test_no_wait_when_time_is_over(self, function: _Function) -> None:
        function.known.find("app", DIFF_ID, 100 * MIB, never)
        assert function.known.find("app", DIFF_ID, 100 * MIB, lambda: True) is None
        assert function.waits == []


class TestGuesses:
    """A member of the same name and size has probably the same content."""

    def test_recorded_diff_id_is_guessed_until_it_was_wrong(self, function: _Function) -> None:
        assert function.known.guess("a/layer.tar", 9, never) is None
        function.known.note_guess("a/layer.tar", 9, DIFF_ID)
        assert function.known.guess("a/layer.tar", 9, never) == DIFF_ID
        assert function.known.guess("a/layer.tar", 8, never) is None
        assert function.known.guess("b/layer.tar", 9, never) is None
        function.known.note_guess("a/layer.tar", 9, None)
        assert function.known.guess("a/layer.tar", 9, never) is None

    def test_invalid_digest_is_not_a_guess(self, function: _Function) -> None:
        function.known.note_guess("a/layer.tar", 9, "sha256:1")
        assert function.known.guess("a/layer.tar", 9, never) is None


class TestClaims:
    """A claim has one owner until it expires or the fact is known."""

    def test_claim_expires(self, function: _Function) -> None:
        assert function.memory.claim("a", 5.0)
        assert not function.memory.claim("a", 5.0)
        assert function.memory.claim("b", 5.0)
        function.now = 4.9
        assert not function.memory.claim("a", 5.0)
        function.now = 5.0
        assert function.memory.claim("a", 5.0)

    def test_claim_ends_when_the_fact_is_known(self, function: _Function) -> None:
        assert function.memory.claim("a", 5.0)
        function.memory.remember("a", "1")
        assert function.memory.recall("a") == "1"
        function.memory.forget("a")
        function.memory.forget("a")
        assert function.memory.recall("a") is None
        assert function.memory.claim("a", 5.0)
        assert function.memory.take("a", "me", 5.0)
