"""Calls that boto3 repeats because the response was lost: the second one recognizes the effect of the first."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from syncline.store.events import EventStore
from syncline.store.facts import Facts
from syncline.store.table import Database
from tests.rig.aws_faults import disturb
from tests.rig.pump import Clock

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.service_resource import Table

pytestmark = pytest.mark.moto


def test_a_repeated_claim_of_a_fact_succeeds(table: Table, clock: Clock) -> None:
    facts = Facts(Database(table), clock.time)
    fault = disturb(table.meta.client, "UpdateItem", lose_answer=True)
    assert facts.claim("fact", 10)
    assert fault.left == 0
    assert not facts.claim("fact", 10)


def test_a_repeated_resume_of_a_claim_succeeds(table: Table, clock: Clock) -> None:
    """Otherwise, no function would scan, because the message that starts the scan is not sent twice."""
    event_store = EventStore(Database(table), clock.time)
    event_store.add_note("shop", "note", ["a"])
    claim = event_store.claim("shop", event_store.notes("shop"), 60)
    assert claim is not None
    clock.sleep(61)
    fault = disturb(table.meta.client, "UpdateItem", lose_answer=True)
    assert event_store.resume("shop", claim, 60) is not None
    assert fault.left == 0
    clock.sleep(1)
    assert event_store.resume("shop", claim, 60) is None
