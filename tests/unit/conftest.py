"""Fixtures that unit tests share: a clock that they set, the state, and the steps."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from syncline.store.state import State
from tests.rig.killable import guard
from tests.rig.made_up import Steps, steps
from tests.rig.pump import Clock, Reaper
from tests.rig.stack import new_table


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def state(clock: Clock) -> Iterator[State]:
    with new_table() as table:
        guard(table.meta.client, Reaper(), threading.Lock())
        yield State(table, clock.time, clock.every)


@pytest.fixture(name="steps")
def _steps() -> Iterator[Steps]:
    """The steps around a fake kind, with an empty table."""
    with steps() as made:
        yield made
