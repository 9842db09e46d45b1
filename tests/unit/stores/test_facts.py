"""Facts: noted for all functions, forgotten when wrong, and found out by one at a time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from syncline.stores.facts import Facts
from syncline.table import Database
from tests.pump import Clock
from tests.stack import new_table


@pytest.fixture
def facts(clock: Clock) -> Iterator[Facts]:
    with new_table() as table:
        yield Facts(Database(table), clock.time)


def test_a_fact_is_known_until_it_turns_out_wrong(facts: Facts) -> None:
    assert facts.recall("dr@sha256:1") is None
    facts.forget("dr@sha256:1")
    facts.remember("dr@sha256:1", "team/app")
    assert facts.recall("dr@sha256:1") == "team/app"
    assert facts.recall("dr@sha256:2") is None
    facts.forget("dr@sha256:1")
    assert facts.recall("dr@sha256:1") is None


def test_forgetting_what_is_not_known_leaves_no_item(clock: Clock) -> None:
    with new_table() as table:
        Facts(Database(table), clock.time).forget("dr@sha256:1")
        assert table.scan()["Items"] == []


def test_of_those_who_claim_a_fact_one_is_told_to_find_it_out(facts: Facts, clock: Clock) -> None:
    assert facts.claim("fact", 10)
    assert not facts.claim("fact", 10)
    assert facts.claim("another", 10)
    clock.sleep(10)
    assert facts.claim("fact", 10)


def test_a_key_is_taken_by_one_owner_who_may_take_it_again(facts: Facts, clock: Clock) -> None:
    assert facts.take("key", "one", 10)
    assert not facts.take("key", "two", 10)
    assert facts.take("key", "one", 10)
    assert facts.take("another", "two", 10)
    clock.now += 10
    assert facts.take("key", "two", 10)
