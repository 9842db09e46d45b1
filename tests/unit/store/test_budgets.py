"""Limits over all functions: simulated functions with other clocks, killed at any time, never exceed a limit."""

from __future__ import annotations

import heapq
import itertools
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from math import ceil
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncline.clients.http.budgets import Allowed, Budget
from syncline.store.budgets import SKEW, SLOTS_FOR, LimitLedger, allot
from syncline.store.table import Database
from tests.rig.quick_table import QuickTable

ENDPOINT = "registry.example"


class World:
    """Simulated time, and one table for all functions."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.now = 0.0
        self.table = QuickTable("limits")
        self._events: list[tuple[float, int, Iterator[float]]] = []
        self._numbers = itertools.count()

    def budget(self, allowed: Allowed, skew: float = 0.0) -> Budget:
        """Return the budget of another process, whose wall clock differs by ``skew`` seconds."""
        started = self.rng.uniform(0, 1e6)  # monotonic clocks begin anywhere
        ledger = LimitLedger(Database(self.table), lambda: 1_800_000_000.0 + self.now + skew)  # type: ignore[arg-type]
        return Budget(ENDPOINT, allowed, ledger, lambda: started + self.now)

    def begin(self, work: Iterator[float], at: float = 0.0) -> None:
        """Begin work that yields the seconds until it continues."""
        heapq.heappush(self._events, (at, next(self._numbers), work))

    def run(self, until: float) -> None:
        while self._events and self._events[0][0] <= until:
            self.now, _, work = heapq.heappop(self._events)
            pause = next(work, None)
            if pause is not None:
                self.begin(work, self.now + pause)


def most_in(times: list[float], seconds: float, weights: list[int] | None = None) -> int:
    """Return the largest amount within any period of some seconds."""
    weights = weights or [1] * len(times)
    most = total = first = 0
    for at, weight in zip(times, weights, strict=True):
        total += weight
        while times[first] <= at - seconds:
            total -= weights[first]
            first += 1
        most = max(most, total)
    return most


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    limit=st.sampled_from([1, 2, 3.5, 10, 40]),
    functions=st.integers(1, 30),
    lives=st.sampled_from([0.3, 3.0, 1000.0]),
)
def test_no_period_has_more_requests_than_the_limit_and_one_seconds_worth(
    seed: int, limit: float, functions: int, lives: float
) -> None:
    world = World(seed)
    sent: list[float] = []

    def function() -> Iterator[float]:
        budget = world.budget(Allowed(requests=limit), world.rng.uniform(-300, 300))
        rate = budget._requests
        assert rate is not None
        end = world.now + world.rng.expovariate(1 / lives)  # killed then, with what it has
        while world.now < end:
            if pause := rate.spend(1, spaced=True):
                yield pause
                continue
            sent.append(world.now)
            yield world.rng.choice([0.0, 0.0, 0.01, 0.3])
        world.begin(function(), world.now + world.rng.uniform(0, 0.1))

    for _ in range(functions):
        world.begin(function(), world.rng.uniform(0, 2))
    world.run(30)
    for seconds in (0.1, 1, 5, 20):
        # Beside the limit, what two windows hold: one second's worth, 2 requests at least.
        assert most_in(sent, seconds) <= ceil(limit * seconds) + max(2, ceil(limit)), (seconds, most_in(sent, seconds))


@pytest.mark.parametrize(
    ("limit", "functions"),
    [(1, 1), (1, 2), (1, 8), (3.5, 5), (10, 1), (10, 2), (10, 60), (100, 1), (100, 2), (100, 60)],
)
def test_functions_that_want_more_use_most_of_the_limit(limit: float, functions: int) -> None:
    world = World(functions)
    sent = Counter[int]()

    def function(number: int) -> Iterator[float]:
        rate = world.budget(Allowed(requests=limit))._requests
        assert rate is not None
        while True:
            pause = rate.spend(1, spaced=True)
            sent[number] += not pause
            yield pause or 0.001

    for number in range(functions):
        world.begin(function(number), world.rng.uniform(0, 1))
    world.run(300)
    assert sent.total() >= 0.8 * limit * 299
    # None starves: each gets a part of its fair share.
    assert min(sent[number] for number in range(functions)) >= 0.2 * sent.total() / functions


def test_the_table_is_not_written_for_each_request() -> None:
    world = World(1)
    calls = Counter[str]()
    count = world.table._make_api_call

    def counted(operation: str, arguments: dict[str, Any]) -> dict[str, Any]:
        calls[operation] += 1
        return count(operation, arguments)

    world.table._make_api_call = counted  # type: ignore[method-assign]
    rate = world.budget(Allowed(requests=200))._requests
    assert rate is not None

    requests = 0

    def function() -> Iterator[float]:
        nonlocal requests
        while True:
            pause = rate.spend(1, spaced=True)
            requests += not pause
            yield pause or 0.0001

    world.begin(function())
    world.run(60)
    assert calls.total() <= requests / 8


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32), functions=st.integers(1, 12))
def test_no_period_has_more_bytes_than_the_limit_one_seconds_worth_and_a_read_of_each(
    seed: int, functions: int
) -> None:
    world, limit, read = World(seed), 1_000_000, 200_000
    times: list[float] = []
    sizes: list[int] = []

    def function() -> Iterator[float]:
        rate = world.budget(Allowed(bytes=limit))._bytes
        assert rate is not None
        while True:
            size = world.rng.randrange(1, read)
            times.append(world.now)
            sizes.append(size)
            pause = rate.spend(size, spaced=False)
            while pause:
                yield pause
                pause = rate.spend(0, spaced=False)
            yield 0.001

    for _ in range(functions):
        world.begin(function(), world.rng.uniform(0, 1))
    world.run(20)
    for seconds in (1, 5, 15):
        assert most_in(times, seconds, sizes) <= limit * (seconds + 1) + functions * read
    assert sum(sizes) >= 0.7 * limit * 19


@pytest.fixture
def thread(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Return a function that sets the simulated thread."""
    current = [0]
    monkeypatch.setattr(threading, "get_ident", lambda: current[0])
    return lambda number: current.__setitem__(0, number)


@pytest.mark.parametrize("seed", range(12))
def test_no_more_requests_are_open_than_allowed(seed: int, thread: Callable[[int], None]) -> None:
    world = World(seed)
    limit, functions = world.rng.choice([(2, 5), (4, 3), (8, 20)])
    open_now: set[int] = set()
    served = Counter[int]()
    mortal: set[int] = set()
    numbers = itertools.count(1)
    most = 0

    def function(number: int) -> None:
        budget = world.budget(Allowed(concurrent=limit), world.rng.uniform(-SKEW / 2, SKEW / 2))
        dies = world.rng.choice([5.0, 1e9])
        mortal.update([number] if dies < 600 else [])

        def worker() -> Iterator[float]:
            nonlocal most
            ident = next(numbers)
            while True:
                if world.now >= dies:
                    return
                thread(ident)
                if pause := budget._take_slot():
                    yield pause
                    continue
                open_now.add(ident)
                most = max(most, len(open_now))
                served[number] += 1
                ends = world.now + world.rng.choice([0.05, 0.5, 20.0])
                while world.now < ends:
                    yield min(1.0, ends - world.now)
                    if world.now >= dies:
                        open_now.discard(ident)  # with the process, its connections end
                        return
                    budget.beat()
                open_now.discard(ident)
                budget._return_slot(ident)
                yield 0.001

        for _ in range(3):
            world.begin(worker(), world.now + world.rng.uniform(0, 0.5))

    for number in range(functions):
        function(number)
    world.run(600)
    assert most <= limit
    assert all(served[number] > 3 for number in range(functions) if number not in mortal), served


def test_a_killed_function_gives_its_slots_back(thread: Callable[[int], None]) -> None:
    world = World(1)
    allowed = Allowed(concurrent=2)
    killed, other = world.budget(allowed), world.budget(allowed)
    for number in (1, 2):
        thread(number)
        assert killed._take_slot() == 0
    thread(3)
    assert other._take_slot() > 0
    world.now = SLOTS_FOR + SKEW + 1
    assert other._take_slot() == 0


def test_a_request_within_another_one_of_its_thread_shares_its_slot(thread: Callable[[int], None]) -> None:
    world = World(1)
    budget = world.budget(Allowed(concurrent=2))
    thread(1)
    assert [budget._take_slot() for _ in range(3)] == [0, 0, 0]
    thread(2)
    assert budget._take_slot() == 0
    thread(3)
    assert budget._take_slot() > 0
    for _ in range(3):
        budget._return_slot(1)
    assert budget._take_slot() == 0


@given(
    others=st.lists(st.integers(0, 5), max_size=6),
    in_use=st.integers(0, 5),
    more=st.integers(0, 20),
    limit=st.integers(2, 30),
)
def test_an_allotment_fits_the_limit(others: list[int], in_use: int, more: int, limit: int) -> None:
    held, fair, waited_for = allot(others, in_use, in_use + more, limit)
    assert 0 <= held <= in_use + more
    assert held + sum(others) <= max(limit, sum(others))
    assert 1 <= fair <= limit
    assert waited_for == (0 in others)
    if waited_for:
        assert held <= max(fair, in_use)
