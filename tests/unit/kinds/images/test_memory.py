"""A large blob common to many repositories is sent by one function and mounted by the others."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Lock

import pytest

from syncline.clients.registry.manifest import Descriptor
from syncline.kinds.facts import ProcessFacts
from syncline.kinds.images.facts import WORTH_NOTING, BlobLocations, TargetNotes

HOST = "dr.example"


class Table(ProcessFacts):
    """Facts in memory. A claim lasts until its fact is stored."""

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


class FakeSleep:
    """A sleep function that only sums the seconds."""

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


def test_a_small_blob_needs_no_call(table: Table) -> None:
    locations = BlobLocations(table, FakeSleep())
    assert locations.find(HOST, blob(WORTH_NOTING - 1), never) is None
    locations.note(HOST, blob(WORTH_NOTING - 1), "team/a", sent=True)
    assert locations.find(HOST, blob(WORTH_NOTING - 1), never) == "team/a"
    assert table.calls == 0


def test_another_process_finds_a_large_blob(table: Table) -> None:
    BlobLocations(table, FakeSleep()).note(HOST, blob(WORTH_NOTING), "team/a", sent=True)
    assert BlobLocations(table, FakeSleep()).find(HOST, blob(WORTH_NOTING), never) == "team/a"
    assert BlobLocations(table, FakeSleep()).find("another.example", blob(WORTH_NOTING), never) is None


def test_the_second_function_waits_for_the_first(table: Table) -> None:
    large = blob(50 * WORTH_NOTING)
    assert BlobLocations(table, FakeSleep()).find(HOST, large, never) is None, "the first is to send it"
    first = BlobLocations(table, FakeSleep())
    sleeps = 0

    def sleep_once(_: float) -> None:
        nonlocal sleeps
        sleeps += 1
        if sleeps == 3:
            first.note(HOST, large, "team/a", sent=True)

    assert BlobLocations(table, sleep_once).find(HOST, large, never) == "team/a"
    assert sleeps == 3


@pytest.mark.parametrize(("size", "longest"), [(WORTH_NOTING, 1.05), (100 * WORTH_NOTING, 6), (10**12, 30)])
def test_the_wait_depends_on_the_size_and_is_limited(table: Table, size: int, longest: float) -> None:
    BlobLocations(table, FakeSleep()).find(HOST, blob(size), never)
    sleep = FakeSleep()
    assert BlobLocations(table, sleep).find(HOST, blob(size), never) is None, (
        "the claimant died: this function sends it"
    )
    assert longest <= sleep.slept <= longest + 0.3


def test_no_wait_when_time_is_over(table: Table) -> None:
    BlobLocations(table, FakeSleep()).find(HOST, blob(WORTH_NOTING), never)
    sleep = FakeSleep()
    assert BlobLocations(table, sleep).find(HOST, blob(WORTH_NOTING), lambda: True) is None
    assert sleep.slept == 0


def test_a_wrong_location_is_removed_for_all_processes(table: Table) -> None:
    locations = BlobLocations(table, FakeSleep())
    locations.note(HOST, blob(WORTH_NOTING), "team/gone", sent=True)
    locations.forget(HOST, blob(WORTH_NOTING))
    assert locations.find(HOST, blob(WORTH_NOTING), never) is None
    assert BlobLocations(table, FakeSleep()).find(HOST, blob(WORTH_NOTING), lambda: True) is None


def test_one_of_many_threads_sends(table: Table) -> None:
    large = blob(WORTH_NOTING)

    def work(number: int) -> bool:
        locations = BlobLocations(table)
        if locations.find(HOST, large, never) is not None:
            return False
        locations.note(HOST, large, f"team/{number}", sent=True)
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(work, range(8))) == 1


def test_notes_of_many_repositories_cost_few_reads() -> None:
    """A scan that finds nothing must not read the table once for each repository."""
    facts = Table()
    notes, names = TargetNotes(facts, HOST), [f"team/app{number}" for number in range(500)]
    has_unverified = notes.unverified()
    assert not any(map(has_unverified, names))
    assert facts.calls == 1
    notes.note_unverified("team/app7")
    assert not has_unverified("team/app7")  # of the scan before
    facts.calls = 0
    has_unverified = notes.unverified()
    assert [name for name in names if has_unverified(name)] == ["team/app7"]
    assert facts.calls <= 1 + 16 + 500 / 16 * 2
    notes.forget_unverified("team/app7")
    assert not notes.unverified()("team/app7")
