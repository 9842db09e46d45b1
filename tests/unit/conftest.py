"""What unit tests share: a clock that they set, and the table."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from syncline.store.state import State
from tests.pump import Clock, Reaper, guard
from tests.stack import new_table


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def state(clock: Clock) -> Iterator[State]:
    with new_table() as table:
        guard(table.meta.client, Reaper(), threading.Lock())
        yield State(table, clock.time, clock.every)
