"""A large blob common to many repositories is sent by one function and mounted by the others."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Lock

import pytest

from syncline.clients.registry.manifest import Descriptor
from syncline.kinds.facts import ProcessFacts
from syncline.kinds.images.facts import WORTH_NOTING, BlobLocations

HOST = "dr.example"


class Table(ProcessFacts):
    """Facts in memory, with a claim that lasts until the fact is remembered."""

    def __init__(self) -> None:
        super().__init__()
        self.facts: dict[str, str] = {}
        self.claimed: set[str] = set()
        self.calls = 0
        self._lock = Lock()

    def recall(self, key: str) -> str | None:
        self.calls += 1
        return self.facts.get(key)

    def remember(self, key: str, value: str, seconds: float = 0.0) -> None:  # noqa: ARG002 - nothing expires
        self.calls += 1
        self.facts[key] = value

    def forget(self, key: str) -> None:
        self.calls += 1
        self.facts.pop(key, None)

    def claim(self, key: str, seconds: float) -> bool:
        assert seconds > 0
        self.calls += 1
        with self._lock:
            if key in self.claimed:
                return False
            self.claimed.add(key)
            return True


class Naps:
    """A sleep function that only adds up the seconds."""

    def __init__(self) -> None:
        self.slept = 0.0

    def __call__(self, seconds: float) -> None:
        self.slept += seconds


def blob(size: int) -> Descriptor:
    return Descriptor("sha256:" + "a" * 64, size, "application/vnd.oci.image.layer.v1.tar+gzip")


@pytest.fixture
def table() -> Table:
    return Table()


def never() -> bool:
    return False


def test_a_small_blob_costs_no_call(table: Table) -> None:
    locations = BlobLocations(table, Naps())
    assert locations.find(HOST, blob(WORTH_NOTING - 1), never) is None
    locations.note(HOST, blob(WORTH_NOTING - 1), "team/a", sent=True)
    assert locations.find(HOST, blob(WORTH_NOTING - 1), never) == "team/a"
    assert table.calls == 0


def test_another_process_learns_of_a_large_blob(table: Table) -> None:
    BlobLocations(table, Naps()).note(HOST, blob(WORTH_NOTING), "team/a", sent=True)
    assert BlobLocations(table, Naps()).find(HOST, blob(WORTH_NOTING), never) == "team/a"
    assert BlobLocations(table, Naps()).find("another.example", blob(WORTH_NOTING), never) is None


def test_who_comes_second_waits_for_the_first(table: Table) -> None:
    large = blob(50 * WORTH_NOTING)
    assert BlobLocations(table, Naps()).find(HOST, large, never) is None, "the first is to send it"
    first = BlobLocations(table, Naps())
    naps = 0

    def nap(_: float) -> None:
        nonlocal naps
        naps += 1
        if naps == 3:
            first.note(HOST, large, "team/a", sent=True)

    assert BlobLocations(table, nap).find(HOST, large, never) == "team/a"
    assert naps == 3


@pytest.mark.parametrize(("size", "longest"), [(WORTH_NOTING, 1.05), (100 * WORTH_NOTING, 6), (10**12, 30)])
def test_nobody_waits_for_ever(table: Table, size: int, longest: float) -> None:
    BlobLocations(table, Naps()).find(HOST, blob(size), never)
    naps = Naps()
    assert BlobLocations(table, naps).find(HOST, blob(size), never) is None, "the claimant died: one sends it oneself"
    assert longest <= naps.slept <= longest + 0.3


def test_nobody_waits_when_time_is_over(table: Table) -> None:
    BlobLocations(table, Naps()).find(HOST, blob(WORTH_NOTING), never)
    naps = Naps()
    assert BlobLocations(table, naps).find(HOST, blob(WORTH_NOTING), lambda: True) is None
    assert naps.slept == 0


def test_a_wrong_place_is_forgotten_by_all(table: Table) -> None:
    locations = BlobLocations(table, Naps())
    locations.note(HOST, blob(WORTH_NOTING), "team/gone", sent=True)
    locations.forget(HOST, blob(WORTH_NOTING))
    assert locations.find(HOST, blob(WORTH_NOTING), never) is None
    assert BlobLocations(table, Naps()).find(HOST, blob(WORTH_NOTING), lambda: True) is None


def test_of_many_threads_one_sends(table: Table) -> None:
    large = blob(WORTH_NOTING)

    def work(number: int) -> bool:
        locations = BlobLocations(table)
        if locations.find(HOST, large, never) is not None:
            return False
        locations.note(HOST, large, f"team/{number}", sent=True)
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(work, range(8))) == 1
