"""The index of known layers, and waiting for another function that sends one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, cast

import pytest

from syncline.clients.registry.client import Registry
from syncline.clients.registry.manifest import Descriptor
from syncline.kinds.artifacts.layers import KnownLayers, Layer
from syncline.kinds.facts import ProcessFacts

DIFF_ID, DIGEST = "sha256:" + "1" * 64, "sha256:" + "2" * 64
MIB: Final = 1 << 20
LAYER: Final = Layer(DIFF_ID, DIGEST, 7)


def never() -> bool:
    return False


@dataclass
class _Registry:
    """Has the sizes of blobs by repository and digest; ``mounts`` is True if one can be mounted."""

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
class _Bench:
    """One function with a memory and a clock that it shares with others; ``waits`` are its pauses."""

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
def bench() -> _Bench:
    return _Bench()


def test_present_layer_costs_one_request(bench: _Bench) -> None:
    assert bench.known.get("app", DIFF_ID) is None
    assert bench.registry.asked == []
    bench.known.note("app", DIFF_ID, LAYER)
    bench.registry.sizes["app", DIGEST] = 7
    assert bench.known.get("app", DIFF_ID) == LAYER
    assert bench.registry.asked == ["size app"]


def test_layer_of_another_repository_is_mounted(bench: _Bench) -> None:
    bench.known.note("app", DIFF_ID, LAYER)
    bench.registry.sizes["app", DIGEST] = 7
    assert bench.known.get("other", DIFF_ID) == LAYER
    assert bench.registry.asked == ["size other", "mount other app", "size other"]


@pytest.mark.parametrize("case", ["gone", "cut", "not mounted", "mounted in part"])
def test_wrong_entry_is_removed(bench: _Bench, case: str) -> None:
    bench.known.note("app", DIFF_ID, LAYER)
    repository = "other" if "mounted" in case else "app"
    bench.registry.mounts = case != "not mounted"
    if case in ("cut", "mounted in part"):
        bench.registry.sizes["app", DIGEST] = 6
    assert bench.known.get(repository, DIFF_ID) is None
    assert bench.registry.asked[1:2] == (["mount other app"] if "mounted" in case else [])
    bench.registry.asked.clear()
    bench.registry.sizes[repository, DIGEST] = 7
    assert bench.known.get(repository, DIFF_ID) is None
    assert bench.registry.asked == []


@pytest.mark.parametrize(
    "noted", ["", DIGEST, f"{DIGEST} 7 app", f"{DIGEST} -7 app {DIFF_ID}", f"x 7 app {DIFF_ID}", f"{DIGEST} 7 app x"]
)
def test_invalid_entry_is_ignored(bench: _Bench, noted: str) -> None:
    bench.memory.remember(f"layer@registry.example@{DIFF_ID}", noted)
    bench.registry.sizes["app", DIGEST] = 7
    assert bench.known.get("app", DIFF_ID) is None


class TestWaiting:
    """The one who claims a layer sends it, and the others wait for as long as that may take."""

    def test_first_caller_sends_at_once(self, bench: _Bench) -> None:
        assert bench.known.find("app", DIFF_ID, 100 * MIB, never) is None
        assert bench.waits == []

    def test_others_wait_until_the_layer_is_present(self, bench: _Bench) -> None:
        bench.known.find("app", DIFF_ID, 100 * MIB, never)

        def meanwhile() -> None:
            if len(bench.waits) == 3:
                bench.registry.sizes["app", DIGEST] = 7
                bench.known.note("app", DIFF_ID, LAYER)

        bench.meanwhile = meanwhile
        assert bench.known.find("app", DIFF_ID, 100 * MIB, never) == LAYER
        assert len(bench.waits) == 3

    @pytest.mark.parametrize(("size", "longest"), [(MIB, 1.05), (100 * MIB, 6.0), (100_000 * MIB, 120.0)])
    def test_wait_depends_on_the_size(self, bench: _Bench, size: int, longest: float) -> None:
        bench.known.find("app", DIFF_ID, size, never)
        assert bench.known.find("app", DIFF_ID, size, never) is None
        assert bench.now == pytest.approx(longest, abs=0.2)

    def test_wait_is_not_extended_by_another_claim(self, bench: _Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(bench.memory, "claim", lambda *_: False)
        assert bench.known.find("app", DIFF_ID, 100 * MIB, lambda: bench.now > 60) is None
        assert bench.now == pytest.approx(6.0, abs=0.2)

    def test_no_wait_for_a_small_layer(self, bench: _Bench) -> None:
        for _ in range(2):
            assert bench.known.find("app", DIFF_ID, MIB - 1, never) is None
        assert bench.waits == []

    def test_no_wait_when_time_is_over(self, bench: _Bench) -> None:
        bench.known.find("app", DIFF_ID, 100 * MIB, never)
        assert bench.known.find("app", DIFF_ID, 100 * MIB, lambda: True) is None
        assert bench.waits == []


class TestGuesses:
    """A member of the same name and size has probably the same content."""

    def test_recorded_diff_id_is_guessed_until_it_was_wrong(self, bench: _Bench) -> None:
        assert bench.known.guess("a/layer.tar", 9, never) is None
        bench.known.note_guess("a/layer.tar", 9, DIFF_ID)
        assert bench.known.guess("a/layer.tar", 9, never) == DIFF_ID
        assert bench.known.guess("a/layer.tar", 8, never) is None
        assert bench.known.guess("b/layer.tar", 9, never) is None
        bench.known.note_guess("a/layer.tar", 9, None)
        assert bench.known.guess("a/layer.tar", 9, never) is None

    def test_invalid_digest_is_not_a_guess(self, bench: _Bench) -> None:
        bench.known.note_guess("a/layer.tar", 9, "sha256:1")
        assert bench.known.guess("a/layer.tar", 9, never) is None


class TestClaims:
    """A claim has one owner until it expires or the fact is known."""

    def test_claim_expires(self, bench: _Bench) -> None:
        assert bench.memory.claim("a", 5.0)
        assert not bench.memory.claim("a", 5.0)
        assert bench.memory.claim("b", 5.0)
        bench.now = 4.9
        assert not bench.memory.claim("a", 5.0)
        bench.now = 5.0
        assert bench.memory.claim("a", 5.0)

    def test_claim_ends_when_the_fact_is_known(self, bench: _Bench) -> None:
        assert bench.memory.claim("a", 5.0)
        bench.memory.remember("a", "1")
        assert bench.memory.recall("a") == "1"
        bench.memory.forget("a")
        bench.memory.forget("a")
        assert bench.memory.recall("a") is None
        assert bench.memory.claim("a", 5.0)
        assert bench.memory.take("a", "me", 5.0)
