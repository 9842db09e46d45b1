"""Slots: no more functions at one server than it allows, in a table of moto's."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from moto import mock_aws

from syncline.stores.slots import Slots
from syncline.table import Database
from tests.pump import Clock
from tests.stack import create_table


@pytest.fixture
def database() -> Iterator[Database]:
    with mock_aws():
        yield Database(create_table())


class TestSlots:
    def test_no_more_than_there_are(self, database: Database) -> None:
        clock = Clock()
        slots = Slots(database, clock.time, random.Random(1))
        taken = [slots.take("place", 3, 60) for _ in range(4)]
        assert {slot.number for slot in taken if slot is not None} == {0, 1, 2}
        assert taken[3] is None
        assert slots.take("elsewhere", 1, 60) is not None
        assert taken[1] is not None
        slots.give_back(taken[1])
        again = slots.take("place", 3, 60)
        assert again is not None
        assert again.number == taken[1].number
        slots.give_back(taken[1])  # it is another's by now
        assert slots.take("place", 3, 60) is None

    def test_one_that_was_never_given_back_is_free_in_the_end(self, database: Database) -> None:
        clock = Clock()
        slots = Slots(database, clock.time, random.Random(1))
        assert slots.take("place", 1, 60) is not None
        clock.sleep(59)
        assert slots.take("place", 1, 60) is None
        clock.sleep(1)
        assert slots.take("place", 1, 60) is not None
