"""Windows of removals: limits that hold for every trigger and for concurrent scans."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline.errors import SynclineError
from syncline.ownership import Grant, Limits, RemovalRequest, allowance
from syncline.store import removals
from syncline.store.removals import RemovalWindows
from syncline.store.table import Database
from tests.rig.pump import Clock
from tests.rig.stack import new_table

DAY: Final = 24 * 3600.0
LIMITS: Final = Limits(0.1, 250, DAY)


class OvertakenDatabase(Database):
    """A database that runs `hook` once before a conditional write, and can repeat the write as boto3 does."""

    def __init__(self, table: Any) -> None:
        super().__init__(table)
        self.hook: Callable[[], object] | None = None
        self.answer_lost = False

    def replace(self, item: dict[str, Any], version: str | None) -> bool:
        hook, self.hook = self.hook, None
        if hook is not None:
            hook()
        if self.answer_lost:
            self.answer_lost = False
            assert super().replace(item, version)
        return super().replace(item, version)


@pytest.fixture
def database() -> Iterator[OvertakenDatabase]:
    with new_table() as table:
        yield OvertakenDatabase(table)


@pytest.fixture
def windows(database: OvertakenDatabase, clock: Clock) -> RemovalWindows:
    return RemovalWindows(database, "one", clock.time)


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the list of pauses between attempts, and skip them."""
    waited: list[float] = []
    monkeypatch.setattr("syncline.store.removals.time.sleep", waited.append)
    return waited


class Total:
    """The number of items that are ours. `asked` counts the calls."""

    def __init__(self, items: int) -> None:
        self.items = items
        self.asked = 0

    def __call__(self) -> int:
        self.asked += 1
        return self.items


def test_a_window_holds_for_all_scans_until_it_ends(windows: RemovalWindows, clock: Clock) -> None:
    total, end = Total(1000), clock.now + DAY
    assert windows.reserve(RemovalRequest(LIMITS, 60, "scan 1"), total) == Grant(True, 0, 1000, end, 100)
    total.items = 940
    assert windows.reserve(RemovalRequest(LIMITS, 41, "scan 2"), total) == Grant(False, 60, 1000, end, 100)
    assert windows.reserve(RemovalRequest(LIMITS, 40, "scan 3"), total) == Grant(True, 60, 1000, end, 100)
    clock.sleep(DAY - 1)
    assert windows.reserve(RemovalRequest(LIMITS, 1, "scan 4"), total) == Grant(False, 100, 1000, end, 100)
    clock.sleep(1)
    total.items = 10_000
    assert windows.reserve(RemovalRequest(LIMITS, 250, "scan 4"), total) == Grant(True, 0, 10_000, end + DAY, 250)


def test_a_refusal_begins_no_window(windows: RemovalWindows, database: OvertakenDatabase, clock: Clock) -> None:
    assert windows.reserve(RemovalRequest(LIMITS, 11, "a"), lambda: 100) == Grant(False, 0, 100, clock.now, 10)
    assert windows.reserve(RemovalRequest(LIMITS, 0, "a"), lambda: 100) == Grant(True, 0, 100, clock.now, 10)
    assert windows.reserve(RemovalRequest(Limits(1, 0, DAY), 1, "a"), lambda: 100) == Grant(False, 0, 100, clock.now, 0)
    assert database.get("SYNC#one", "REMOVALS") is None
    clock.sleep(100)
    assert windows.reserve(RemovalRequest(LIMITS, 20, "a"), lambda: 200) == Grant(True, 0, 200, clock.now + DAY, 20)


def test_each_sync_has_its_own_window(windows: RemovalWindows, database: OvertakenDatabase, clock: Clock) -> None:
    assert windows.reserve(RemovalRequest(LIMITS, 10, "a"), lambda: 100).allowed
    assert RemovalWindows(database, "two", clock.time).reserve(RemovalRequest(LIMITS, 10, "a"), lambda: 100).allowed


def test_a_repeated_name_reserves_once(windows: RemovalWindows, clock: Clock) -> None:
    windows.reserve(RemovalRequest(LIMITS, 30, "first"), lambda: 1000)
    answer = windows.reserve(RemovalRequest(LIMITS, 50, "again"), lambda: 1000)
    assert answer == Grant(True, 30, 1000, clock.now + DAY, 100)
    windows.reserve(RemovalRequest(LIMITS, 20, "last"), lambda: 1000)
    assert windows.reserve(RemovalRequest(LIMITS, 50, "again"), lambda: 1000) == answer
    assert (
        windows.reserve(RemovalRequest(LIMITS, 7, "again"), lambda: 1000) == answer
    )  # the other removals are done already
    assert windows.reserve(RemovalRequest(LIMITS, 1, "more"), lambda: 1000) == Grant(
        False, 100, 1000, clock.now + DAY, 100
    )


def test_a_repeated_name_with_more_removals_reserves_the_difference(windows: RemovalWindows) -> None:
    windows.reserve(RemovalRequest(LIMITS, 50, "a"), lambda: 1000)
    assert windows.reserve(RemovalRequest(LIMITS, 90, "a"), lambda: 1000).allowed
    assert not windows.reserve(RemovalRequest(LIMITS, 101, "a"), lambda: 1000).allowed
    assert not windows.reserve(RemovalRequest(LIMITS, 11, "b"), lambda: 1000).allowed
    assert windows.reserve(RemovalRequest(LIMITS, 10, "b"), lambda: 1000) == windows.reserve(
        RemovalRequest(LIMITS, 10, "b"), lambda: 1000
    )


@pytest.mark.parametrize("running", [False, True])
def test_two_functions_at_once_stay_within_the_limit(
    windows: RemovalWindows, database: OvertakenDatabase, clock: Clock, running: bool
) -> None:
    if running:
        windows.reserve(RemovalRequest(LIMITS, 1, "before"), lambda: 1000)
    other, answers, total = RemovalWindows(Database(database._table), "one", clock.time), [], Total(1000)
    database.hook = lambda: answers.append(other.reserve(RemovalRequest(LIMITS, 60, "other"), lambda: 1000))
    answers.append(windows.reserve(RemovalRequest(LIMITS, 60, "this"), total))
    assert [answer.allowed for answer in answers] == [True, False]
    assert answers[1].used == 60 + running
    assert total.asked == 1
    database.hook = lambda: other.reserve(RemovalRequest(LIMITS, 10, "third"), lambda: 1000)
    assert windows.reserve(RemovalRequest(LIMITS, 20, "this"), lambda: 1000) == Grant(
        True, 70 + running, 1000, answers[0].until, 100
    )


def test_the_same_name_at_once_reserves_once(
    windows: RemovalWindows, database: OvertakenDatabase, clock: Clock
) -> None:
    other, answers = RemovalWindows(Database(database._table), "one", clock.time), []
    database.hook = lambda: answers.append(other.reserve(RemovalRequest(LIMITS, 60, "same"), lambda: 1000))
    answers.append(windows.reserve(RemovalRequest(LIMITS, 60, "same"), lambda: 1000))
    assert answers == [Grant(True, 0, 1000, clock.now + DAY, 100)] * 2
    assert windows.reserve(RemovalRequest(LIMITS, 40, "next"), lambda: 1000).used == 60


def test_a_write_with_a_lost_response_reserves_once(windows: RemovalWindows, database: OvertakenDatabase) -> None:
    database.answer_lost = True
    assert windows.reserve(RemovalRequest(LIMITS, 60, "a"), lambda: 1000).used == 0
    assert windows.reserve(RemovalRequest(LIMITS, 40, "b"), lambda: 1000).used == 60


def test_a_reservation_that_always_conflicts_raises_an_error(
    windows: RemovalWindows, database: OvertakenDatabase, monkeypatch: pytest.MonkeyPatch, pauses: list[float]
) -> None:
    total = Total(1000)
    monkeypatch.setattr(database, "replace", lambda _item, _version: False)
    with pytest.raises(SynclineError, match="AWS_UNAVAILABLE: other functions changed the removals of sync one"):
        windows.reserve(RemovalRequest(LIMITS, 1, "a"), total)
    assert total.asked == 1
    assert len(pauses) == 30
    assert all(0.002 * tries <= pause <= 0.02 * tries for tries, pause in enumerate(pauses, 1))


def test_dropped_names_still_count_their_removals(windows: RemovalWindows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(removals, "_MOST_NAMES", 3)
    for number in range(6):
        assert windows.reserve(RemovalRequest(LIMITS, 10, f"scan {number}"), lambda: 1000).used == 10 * number
    assert windows.reserve(RemovalRequest(LIMITS, 10, "scan 3"), lambda: 1000).used == 30
    assert not windows.reserve(RemovalRequest(LIMITS, 41, "more"), lambda: 1000).allowed


def test_a_request_that_fits_exactly_does_not_recount_items(
    windows: RemovalWindows, database: OvertakenDatabase
) -> None:
    total = Total(1000)
    for number, (count, allowed) in enumerate([(60, True), (40, True), (1, False)], 1):
        assert windows.reserve(RemovalRequest(LIMITS, count, f"scan {number}"), total).allowed is allowed
        assert total.asked == (1 if allowed else 2)
        item = database.get("SYNC#one", "REMOVALS")
        assert item is not None
        assert item["version"] == str(min(number, 2))


def test_any_name_can_reserve(windows: RemovalWindows) -> None:
    for _ in range(2):
        assert windows.reserve(RemovalRequest(LIMITS, 100, "\ud83d"), lambda: 1000).allowed


def test_a_negative_number_is_refused(windows: RemovalWindows) -> None:
    with pytest.raises(ValueError, match="-1"):
        windows.reserve(RemovalRequest(LIMITS, -1, "a"), lambda: 1000)


class TestAllowance:
    @pytest.mark.parametrize(
        ("share", "count", "total", "used", "expected"),
        [
            (0.1, 250, 300, 0, 30),
            (0.29, 250, 100, 0, 29),  # 28.999999999999996 in binary
            (0.1, 250, 10_000, 0, 250),
            (0.1, 250, 9, 0, 1),
            (0.1, 250, 0, 0, 1),
            (0.0, 250, 1000, 0, 1),
            (0.1, 250, 9, 1, 0),
            (1.0, 0, 1000, 0, 0),
            (1, 10, 1000, 4, 6),
            (0.1, 250, 300, 31, 0),
            (1e-7, 250, 10_000_000, 0, 1),
        ],
    )
    def test_the_allowance_is_the_smaller_of_share_and_count(
        self, share: float, count: int, total: int, used: int, expected: int
    ) -> None:
        assert allowance(Limits(share, count, DAY), total, used) == expected

    @given(
        st.floats(0, 1, allow_subnormal=False),
        st.integers(0, 10**9),
        st.integers(0, 10**12),
        st.integers(0, 10**9),
    )
    def test_the_allowance_never_exceeds_a_limit(self, share: float, count: int, total: int, used: int) -> None:
        limits = Limits(share, count, DAY)
        most = allowance(limits, total, 0)
        assert (most >= 1) == (count >= 1)
        assert most <= count
        assert most <= max(1.0, share * total * (1 + 1e-12))
        assert allowance(limits, total, used) == max(0, most - used)
        assert allowance(limits, total + 1, 0) >= most

    @given(st.integers(0, 100), st.integers(0, 10**9))
    def test_a_share_in_percent_is_exact(self, percent: int, total: int) -> None:
        assert allowance(Limits(percent / 100, 10**12, DAY), total, 0) == max(1, percent * total // 100)


def test_reservations_in_any_order_stay_within_the_limit(database: OvertakenDatabase) -> None:
    numbers = itertools.count()

    @given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 5)), max_size=12))
    def check(requests: list[tuple[int, int]]) -> None:
        windows = RemovalWindows(database, f"sync{next(numbers)}", Clock().time)
        reserved: dict[int, int] = {}
        for wanted, name in requests:
            grant = windows.reserve(RemovalRequest(LIMITS, wanted, str(name)), lambda: 500)
            more = max(0, wanted - reserved.get(name, 0))
            assert grant.allowed == (more == 0 or sum(reserved.values()) + more <= 50)
            if grant.allowed and wanted:
                reserved[name] = max(wanted, reserved.get(name, 0))
        assert sum(reserved.values()) <= 50

    check()


def test_a_run_with_its_own_limits_has_its_own_window(windows: RemovalWindows) -> None:
    assert windows.reserve(RemovalRequest(Limits(0.5, 10, 3600.0), 5, "scan-1"), lambda: 10).allowed
    assert not windows.reserve(RemovalRequest(Limits(0.5, 10, 3600.0), 1, "scan-2"), lambda: 10).allowed
    own_limits = Limits(1.0, 8, 3600.0)
    assert windows.reserve(
        RemovalRequest(own_limits, 6, "scan-3", run="20261129-101522-3f9c2a7b01", own=True), lambda: 100
    ).allowed
    assert not windows.reserve(
        RemovalRequest(own_limits, 3, "scan-4", run="20261129-101522-3f9c2a7b01", own=True), lambda: 100
    ).allowed
    assert windows.reserve(
        RemovalRequest(own_limits, 8, "scan-5", run="20261129-101523-0123456789", own=True), lambda: 100
    ).allowed


def test_a_plan_reserves_nothing(windows: RemovalWindows) -> None:
    limits = Limits(0.5, 10, 3600.0)
    assert windows.reserve(RemovalRequest(limits, 5, "plan", keep=False), lambda: 10).allowed
    assert not windows.reserve(RemovalRequest(limits, 6, "plan", keep=False), lambda: 10).allowed
    assert windows.reserve(RemovalRequest(limits, 5, "scan"), lambda: 10).allowed


def test_repeated_requests_do_not_erode_the_limit_and_added_items_count(windows: RemovalWindows) -> None:
    """Neither portions nor further runs may remove more of the same items. Items that were added since count."""
    half = Limits(0.5, 1000, DAY)
    assert windows.reserve(RemovalRequest(half, 50, "scan-1", run="run-1"), lambda: 100).allowed
    for number in range(2, 6):
        refused = windows.reserve(RemovalRequest(half, 1, f"scan-{number}", run=f"run-{number}"), lambda: 50)
        assert not refused.allowed
        assert refused.most == 50
    # The run's own removals may not be done yet, so they are not added to the listed items.
    assert not windows.reserve(RemovalRequest(half, 1, "scan-6", run="run-1"), lambda: 100).allowed
    assert windows.reserve(RemovalRequest(half, 50, "scan-7", run="run-7"), lambda: 150).allowed


def test_removals_of_the_same_run_count_among_the_items(windows: RemovalWindows) -> None:
    """Items that the run has removed belong to the items of the window."""
    run, limits = "20260921-141320-72f07e70b9", Limits(1.0, 100, DAY)
    assert windows.reserve(RemovalRequest(limits, 4, "scan-1", run), lambda: 4).allowed
    more = RemovalRequest(limits, 4, "scan-2", run)
    assert not windows.reserve(more, lambda: 4, lambda _run: 0).allowed, "these may be the same four items"
    assert windows.reserve(more, lambda: 4, lambda _run: 4) == Grant(True, 4, 8, windows.clock() + DAY, 8)
    assert not windows.reserve(RemovalRequest(limits, 1, "scan-3", run), lambda: 0, lambda _run: 8).allowed


def test_removals_before_the_window_do_not_count(windows: RemovalWindows, clock: Clock) -> None:
    run, half = "20260921-141320-72f07e70b9", Limits(0.5, 100, DAY)
    assert windows.reserve(RemovalRequest(half, 50, "scan-1", run), lambda: 100).allowed
    clock.sleep(DAY + 1)
    assert not windows.reserve(RemovalRequest(half, 26, "scan-2", run), lambda: 50, lambda _run: 50).allowed
    assert windows.reserve(RemovalRequest(half, 25, "scan-2", run), lambda: 50, lambda _run: 50).allowed
    assert not windows.reserve(RemovalRequest(half, 1, "scan-3", run), lambda: 25, lambda _run: 75).allowed


@pytest.mark.parametrize("counted", [False, True])
def test_a_removal_that_another_run_carries_out_counts_once(windows: RemovalWindows, *, counted: bool) -> None:
    """A cancelled run reserved a removal, and the next run carried it out. No item was added."""
    limits, removed = Limits(0.5, 2, DAY), {"run 1": 0, "run 2": 0}
    removals_of = removed.__getitem__ if counted else None
    assert windows.reserve(RemovalRequest(limits, 1, "a", "run 1"), lambda: 3, removals_of).allowed
    assert windows.reserve(RemovalRequest(limits, 1, "a", "run 2"), lambda: 3, removals_of).allowed
    removed["run 2"] = 1
    assert not windows.reserve(RemovalRequest(limits, 1, "b", "run 2"), lambda: 2, removals_of).allowed
    assert windows.reserve(RemovalRequest(limits, 1, "b", "run 2"), lambda: 3, removals_of).allowed


def test_an_undone_removal_of_a_cancelled_run_counts_once(windows: RemovalWindows) -> None:
    """The item still exists, so it must not count as removed as well."""
    limits, removed = Limits(0.5, 2, DAY), {"run 1": 0, "run 2": 0, "run 3": 0}
    assert windows.reserve(RemovalRequest(limits, 1, "a", "run 1"), lambda: 3, removed.__getitem__).allowed
    assert not windows.reserve(RemovalRequest(limits, 1, "b", "run 2"), lambda: 3, removed.__getitem__).allowed
    removed["run 1"] = 1
    assert windows.reserve(RemovalRequest(limits, 1, "b", "run 3"), lambda: 3, removed.__getitem__).allowed


def test_a_share_of_100_percent_is_no_limit_after_a_doubly_reserved_removal(windows: RemovalWindows) -> None:
    limits, removed = Limits(1.0, 1000, DAY), {"run 1": 1, "run 2": 0}
    assert windows.reserve(RemovalRequest(limits, 1, "a", "run 1"), lambda: 2).allowed
    assert windows.reserve(RemovalRequest(limits, 1, "again", "run 1"), lambda: 2).allowed
    assert windows.reserve(RemovalRequest(limits, 1, "b", "run 2"), lambda: 1, removed.__getitem__).allowed
