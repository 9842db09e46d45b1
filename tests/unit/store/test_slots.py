"""Slots: a limit to the number of functions that use one server, in a moto table."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest

from syncline.store.leases import Lease, Leases
from syncline.store.runs import RETENTION
from syncline.store.table import Database
from tests.rig.aws_faults import disturb
from tests.rig.pump import Clock

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.service_resource import Table

pytestmark = pytest.mark.moto


@pytest.fixture
def leases(table: Table, clock: Clock) -> Leases:
    return Leases(Database(table), clock.time, clock.every)


RNG = random.Random(1)


def take(leases: Leases, count: int = 1, place: str = "place") -> Lease | None:
    return leases.take_slot(place, count, 300, RNG)


def test_no_more_slots_are_taken_than_exist(leases: Leases) -> None:
    taken = [take(leases, 3) for _ in range(4)]
    assert {slot.part for slot in taken if slot is not None} == {"0000", "0001", "0002"}
    assert taken[3] is None
    assert take(leases, 1, "elsewhere") is not None
    assert taken[1] is not None
    leases.release(taken[1])
    again = take(leases, 3)
    assert again is not None
    assert again.part == taken[1].part
    leases.release(taken[1])  # another function holds it now
    assert take(leases, 3) is None


def test_the_slot_of_a_dead_function_is_free_within_a_minute(leases: Leases, clock: Clock) -> None:
    assert take(leases) is not None
    clock.sleep(59)
    assert take(leases) is None
    clock.sleep(1)
    assert take(leases) is not None


class _First(random.Random):
    """A random generator that chooses the first slot."""

    def randrange(self, *_args: Any, **_more: Any) -> int:
        return 0


def test_a_slot_is_free_as_soon_as_it_expires(table: Table, leases: Leases, clock: Clock) -> None:
    def taken() -> list[str]:
        found = [leases.take_slot("place", 2, 30, _First()) for _ in range(3)]
        return [slot.part for slot in found if slot is not None]

    assert taken() == ["0000", "0001"]
    expires = {int(str(item["expires"])) for item in table.scan()["Items"]}
    assert expires == {int(clock.now) + RETENTION}
    clock.sleep(29.5)
    assert taken() == []
    clock.sleep(0.5)
    assert taken() == ["0000", "0001"]


def test_a_slot_is_held_while_its_function_works(leases: Leases, clock: Clock) -> None:
    slot = take(leases)
    assert slot is not None
    end = clock.now + 300
    with leases.held(slot, lambda: end - clock.now):
        for _ in range(29):
            clock.sleep(10)
            assert take(leases) is None
    assert take(leases) is not None


def test_a_repeated_call_recognizes_its_own_slot(table: Table, leases: Leases) -> None:
    fault = disturb(table.meta.client, "UpdateItem", holding="SLOT#", lose_answer=True)
    assert take(leases) is not None
    assert fault.left == 0


def test_a_failed_release_of_a_slot_raises_no_error(table: Table, leases: Leases, clock: Clock) -> None:
    slot = take(leases)
    assert slot is not None
    with leases.held(slot, lambda: 300):
        fault = disturb(table.meta.client, "UpdateItem", holding="SLOT#", code="ValidationException")
    assert fault.left == 0
    clock.sleep(60)
    assert take(leases) is not None
