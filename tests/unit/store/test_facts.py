"""Facts: shared by all functions, forgotten when wrong, and determined by one function at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from syncline.store.facts import RETENTION, Facts
from syncline.store.table import Database
from tests.rig.pump import Clock
from tests.rig.stack import new_table

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.service_resource import Table


@pytest.fixture
def facts(clock: Clock) -> Iterator[Facts]:
    with new_table() as table:
        yield Facts(Database(table), clock.time)


def test_a_fact_is_remembered_until_it_is_forgotten(facts: Facts) -> None:
    assert facts.recall("dr@sha256:1") is None
    facts.forget("dr@sha256:1")
    facts.remember("dr@sha256:1", "team/app")
    assert facts.recall("dr@sha256:1") == "team/app"
    assert facts.recall("dr@sha256:2") is None
    facts.forget("dr@sha256:1")
    assert facts.recall("dr@sha256:1") is None


def test_forgetting_an_unknown_fact_writes_no_item(clock: Clock) -> None:
    with new_table() as table:
        Facts(Database(table), clock.time).forget("dr@sha256:1")
        assert table.scan()["Items"] == []


def test_a_fact_is_claimed_by_one_function_at_a_time(facts: Facts, clock: Clock) -> None:
    assert facts.claim("fact", 10)
    assert not facts.claim("fact", 10)
    assert facts.claim("another", 10)
    clock.sleep(10)
    assert facts.claim("fact", 10)


def test_a_key_has_one_owner_who_may_take_it_again(facts: Facts, clock: Clock) -> None:
    assert facts.take("key", "one", 10)
    assert not facts.take("key", "two", 10)
    assert facts.take("key", "one", 10)
    assert facts.take("another", "two", 10)
    clock.now += 10
    assert facts.take("key", "two", 10)


def test_a_fact_expires_after_the_given_time(table: Table, clock: Clock) -> None:
    facts = Facts(Database(table), clock.time)
    facts.remember("long", "value")
    facts.remember("short", "value", 60)
    facts.claim("claimed", 10)
    facts.take("taken", "one", 20)
    expires = {str(item["pk"]): int(str(item["expires"])) - int(clock.now) for item in table.scan()["Items"]}
    assert expires == {"FACT#long": RETENTION, "FACT#short": 60, "FACT#claimed": RETENTION, "FACT#taken": 20}


def test_a_claimed_fact_is_not_known_yet(facts: Facts, clock: Clock) -> None:
    assert facts.claim("fact", 10)
    assert facts.recall("fact") is None
    clock.sleep(9)
    assert not facts.claim("fact", 10)
    facts.remember("fact", "value")
    assert facts.recall("fact") == "value"
    assert facts.claim("fact", 10), "a known fact may be claimed again, because it may be wrong"


def test_taking_a_key_again_extends_its_time(facts: Facts, clock: Clock) -> None:
    assert facts.take("key", "one", 10)
    clock.now += 9
    assert facts.take("key", "one", 10)
    clock.now += 9
    assert not facts.take("key", "two", 10)
