"""Layers that a registry is known to have, and waiting for somebody else who sends one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, cast

import pytest

from syncline.clients.registry.client import Registry
from syncline.clients.registry.manifest import Descriptor
from syncline.kinds.artifacts.layers import KnownLayers, Layer, OwnMemory

DIFF_ID, DIGEST = "sha256:" + "1" * 64, "sha256:" + "2" * 64
MIB: Final = 1 << 20
LAYER: Final = Layer(DIFF_ID, DIGEST, 7)


def never() -> bool:
    return False


@dataclass
class _Registry:
    """Has the sizes of blobs by repository and digest; ``mounts`` says whether one can be mounted."""

    sizes: dict[tuple[str, str], int] = field(default_factory=dict)
    mounts: bool = True
    asked: list[str] = field(default_factory=list)
    host: str = "registry.example"

    def blob_size(self, repository: str, blob: Descriptor) -> int | None:
        self.asked.append(f"size {repository}")
        return self.sizes.get((repository, blob.digest))

    def mount_blob(self, repository: str, digest: str, place: str) -> bool:
        self.asked.append(f"mount {repository} {place}")
        if self.mounts and (place, digest) in self.sizes:
            self.sizes[repository, digest] = self.sizes[place, digest]
        return self.mounts


@dataclass
class _Bench:
    """One function with a memory and a clock that it shares with others; ``waits`` are its pauses."""

    registry: _Registry = field(default_factory=_Registry)
    now: float = 0.0
    waits: list[float] = field(default_factory=list)
    meanwhile: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self.memory = OwnMemory(lambda: self.now)
        self.known = KnownLayers(self.memory, cast("Registry", self.registry), self._wait)

    def _wait(self, seconds: float) -> None:
        assert 0 < seconds < 1
        self.now += seconds
        self.waits.append(seconds)
        self.meanwhile()


@pytest.fixture
def bench() -> _Bench:
    return _Bench()


def test_a_layer_that_the_repository_has_costs_one_question(bench: _Bench) -> None:
    assert bench.known.get("app", DIFF_ID) is None
    assert bench.registry.asked == []
    bench.known.note("app", DIFF_ID, LAYER)
    bench.registry.sizes["app", DIGEST] = 7
    assert bench.known.get("app", DIFF_ID) == LAYER
    assert bench.registry.asked == ["size app"]


def test_one_that_another_repository_has_is_mounted(bench: _Bench) -> None:
    bench.known.note("app", DIFF_ID, LAYER)
    bench.registry.sizes["app", DIGEST] = 7
    assert bench.known.get("other", DIFF_ID) == LAYER
    assert bench.registry.asked == ["size other", "mount other app", "size other"]


@pytest.mark.parametrize("case", ["gone", "cut", "not mounted", "mounted in part"])
def test_a_note_that_is_wrong_is_forgotten(bench: _Bench, case: str) -> None:
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
def test_a_note_that_is_none_is_not_believed(bench: _Bench, noted: str) -> None:
    bench.memory.remember(f"layer@registry.example@{DIFF_ID}", noted)
    bench.registry.sizes["app", DIGEST] = 7
    assert bench.known.get("app", DIFF_ID) is None


class TestWaiting:
    """The one who claims a layer sends it, and the others wait for as long as that may take."""

    def test_the_first_sends_it_at_once(self, bench: _Bench) -> None:
        assert bench.known.find("app", DIFF_ID, 100 * MIB, never) is None
        assert bench.waits == []

    def test_the_others_wait_until_it_is_there(self, bench: _Bench) -> None:
        bench.known.find("app", DIFF_ID, 100 * MIB, never)

        def meanwhile() -> None:
            if len(bench.waits) == 3:
                bench.registry.sizes["app", DIGEST] = 7
                bench.known.note("app", DIFF_ID, LAYER)

        bench.meanwhile = meanwhile
        assert bench.known.find("app", DIFF_ID, 100 * MIB, never) == LAYER
        assert len(bench.waits) == 3

    @pytest.mark.parametrize(("size", "longest"), [(MIB, 1.05), (100 * MIB, 6.0), (100_000 * MIB, 120.0)])
    def test_they_wait_by_its_size_and_not_for_ever(self, bench: _Bench, size: int, longest: float) -> None:
        bench.known.find("app", DIFF_ID, size, never)
        assert bench.known.find("app", DIFF_ID, size, never) is None
        assert bench.now == pytest.approx(longest, abs=0.2)

    def test_they_wait_no_longer_where_it_is_claimed_again(
        self, bench: _Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(bench.memory, "claim", lambda *_: False)
        assert bench.known.find("app", DIFF_ID, 100 * MIB, lambda: bench.now > 60) is None
        assert bench.now == pytest.approx(6.0, abs=0.2)

    def test_a_small_one_is_worth_no_waiting(self, bench: _Bench) -> None:
        for _ in range(2):
            assert bench.known.find("app", DIFF_ID, MIB - 1, never) is None
        assert bench.waits == []

    def test_nobody_waits_when_the_time_is_over(self, bench: _Bench) -> None:
        bench.known.find("app", DIFF_ID, 100 * MIB, never)
        assert bench.known.find("app", DIFF_ID, 100 * MIB, lambda: True) is None
        assert bench.waits == []


class TestGuesses:
    """A member of the same name and size has probably the same content."""

    def test_what_one_turned_out_to_be_is_guessed_until_that_was_wrong(self, bench: _Bench) -> None:
        assert bench.known.guess("a/layer.tar", 9, never) is None
        bench.known.note_guess("a/layer.tar", 9, DIFF_ID)
        assert bench.known.guess("a/layer.tar", 9, never) == DIFF_ID
        assert bench.known.guess("a/layer.tar", 8, never) is None
        assert bench.known.guess("b/layer.tar", 9, never) is None
        bench.known.note_guess("a/layer.tar", 9, None)
        assert bench.known.guess("a/layer.tar", 9, never) is None

    def test_what_is_no_digest_is_no_guess(self, bench: _Bench) -> None:
        bench.known.note_guess("a/layer.tar", 9, "sha256:1")
        assert bench.known.guess("a/layer.tar", 9, never) is None


class TestClaims:
    """A claim is of one, until it ends or what was claimed is known."""

    def test_it_ends_with_its_time(self, bench: _Bench) -> None:
        assert bench.memory.claim("a", 5.0)
        assert not bench.memory.claim("a", 5.0)
        assert bench.memory.claim("b", 5.0)
        bench.now = 4.9
        assert not bench.memory.claim("a", 5.0)
        bench.now = 5.0
        assert bench.memory.claim("a", 5.0)

    def test_it_ends_when_the_fact_is_known(self, bench: _Bench) -> None:
        assert bench.memory.claim("a", 5.0)
        bench.memory.remember("a", "1")
        assert bench.memory.recall("a") == "1"
        bench.memory.forget("a")
        bench.memory.forget("a")
        assert bench.memory.recall("a") is None
        assert bench.memory.claim("a", 5.0)
        assert bench.memory.take("a", "me", 5.0)
