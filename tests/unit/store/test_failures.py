"""Known failures in the table: reading, writing, expiry, acknowledging, and concurrent changes."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING

import pytest

from syncline.errors import CodeName
from syncline.model import Outcome, Result
from syncline.store.failures import LETTER_KEPT, SHARDS, Failures, KnownFailure, _record_key
from syncline.store.table import Database
from tests.rig.pump import Clock

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.service_resource import Table

SYNC, RUN, LATER = "images", "run-1", "run-2"
KEPT = 90 * 24 * 3600
BAD = KnownFailure("team/app", "bad", "REFUSED", "sha256:1", "the target does not take it", RUN, RUN, 1_790_000_000.5)
ODD = KnownFailure("a\ud83d", "b\ude00", "PATH_REFUSED", "c\ud83d", "d\ud83d", RUN, LATER, 5.0, acknowledged=True)


@pytest.fixture
def failures(table: Table, clock: Clock) -> Failures:
    return Failures(Database(table), clock.time)


def many(count: int) -> list[KnownFailure]:
    return [replace(BAD, name=f"{number}") for number in range(count)]


def expires(table: Table) -> set[int]:
    return {int(str(item["expires"])) for item in table.scan()["Items"] if str(item["pk"]).startswith("FAILED#")}


@pytest.mark.parametrize(
    "failure",
    [BAD, replace(BAD, source=None), replace(BAD, acknowledged=True, seen=LATER), ODD, replace(BAD, name="ä" * 3000)],
)
def test_a_stored_failure_equals_the_written_one(failures: Failures, failure: KnownFailure) -> None:
    failures.write(SYNC, [failure])
    assert failures.find(SYNC, [failure.key, ("team/app", "another")]) == {failure.key: failure}
    assert list(failures.all(SYNC)) == [failure]
    assert failures.find("another", [failure.key]) == {}
    assert list(failures.all("another")) == []


def test_records_beyond_one_call_are_written_found_and_forgotten(failures: Failures) -> None:
    records = many(230)
    failures.write(SYNC, records)
    assert {each.key for each in failures.all(SYNC)} == {each.key for each in records}
    assert len(failures.find(SYNC, [each.key for each in records] * 2)) == 230
    failures.forget(SYNC, [each.key for each in records[:220]], LATER)
    assert {each.key for each in failures.all(SYNC)} == {each.key for each in records[220:]}


def test_the_latest_run_that_forgot_records_is_stored(failures: Failures) -> None:
    assert failures.forgotten(SYNC) == ""
    failures.forget(SYNC, [], LATER)
    assert failures.forgotten(SYNC) == ""
    failures.forget(SYNC, [BAD.key], LATER)
    failures.forget(SYNC, [BAD.key], RUN)
    assert (failures.forgotten(SYNC), failures.forgotten("another")) == (LATER, "")
    assert not failures.any(SYNC)


def test_the_records_are_spread_over_all_shards(failures: Failures, table: Table) -> None:
    """One partition of the table accepts a thousand writes per second."""
    failures.write(SYNC, many(100))
    partitions = {str(item["pk"]) for item in table.scan()["Items"]} - {f"SYNC#{SYNC}"}
    assert partitions == {f"FAILED#{SYNC}#{shard}" for shard in range(SHARDS)}


def test_a_failure_that_does_not_recur_expires(failures: Failures, table: Table, clock: Clock) -> None:
    failures.write(SYNC, [BAD])
    assert expires(table) == {int(clock.now) + KEPT}
    failures.solve(SYNC, [BAD], LATER)
    assert expires(table) == {int(clock.now) + LETTER_KEPT}


def test_a_solved_failure_is_found_but_not_listed(failures: Failures) -> None:
    failures.write(SYNC, many(3))
    assert not failures.has_solved(SYNC)
    failures.solve(SYNC, many(2), LATER)
    assert failures.has_solved(SYNC)
    assert [each.name for each in failures.all(SYNC)] == ["2"]
    solved = failures.find(SYNC, [each.key for each in many(3)])
    assert {key[1]: each.solved for key, each in solved.items()} == {"0": LATER, "1": LATER, "2": None}
    assert not solved["team/app", "0"].is_like(Result("team/app", "0", Outcome.FAILED, "sha256:1", code="REFUSED"))
    failures.clear_solved(SYNC)
    assert not failures.has_solved(SYNC)
    failures.solve(SYNC, [], LATER)
    assert not failures.has_solved(SYNC)


def test_the_last_page_has_no_position_after_it(failures: Failures) -> None:
    """Solved records are passed over: here the reads of one page end just with the last of them."""
    numbers, solved = count(), dict[str, list[KnownFailure]]()
    while len(solved) < SHARDS or min(map(len, solved.values())) < 7:
        each = replace(BAD, name=f"{next(numbers)}")
        shard = solved.setdefault(_record_key(SYNC, each.key)[0], [])
        shard += [each] if len(shard) < 7 else []
    failures.solve(SYNC, [each for shard in solved.values() for each in shard], LATER)
    assert failures.page(SYNC, "", 2) == ([], None)


def test_a_sync_has_failures_until_they_are_cleared(failures: Failures) -> None:
    assert not failures.any(SYNC)
    failures.write(SYNC, [])
    assert (failures.any(SYNC), failures.writes(SYNC)) == (False, 0)
    failures.write(SYNC, many(2))
    assert (failures.any(SYNC), failures.any("another"), failures.writes(SYNC)) == (True, False, 1)
    failures.clear(SYNC, 1)
    assert not failures.any(SYNC)


def test_a_failure_written_during_a_count_is_not_cleared(failures: Failures) -> None:
    failures.write(SYNC, many(1))
    seen = failures.writes(SYNC)
    failures.write(SYNC, many(2))
    failures.clear(SYNC, seen)
    assert failures.any(SYNC)
    failures.clear(SYNC, failures.writes(SYNC))
    assert not failures.any(SYNC)


class TestAcknowledging:
    @pytest.mark.parametrize("acknowledged", [True, False])
    def test_an_unchanged_failure_is_acknowledged(self, failures: Failures, *, acknowledged: bool) -> None:
        before = replace(BAD, acknowledged=not acknowledged)
        failures.write(SYNC, [before])
        assert failures.acknowledge(SYNC, before, acknowledged=acknowledged)
        assert list(failures.all(SYNC)) == [replace(BAD, acknowledged=acknowledged)]

    def test_a_failure_that_recurred_is_acknowledged(self, failures: Failures) -> None:
        failures.write(SYNC, [replace(BAD, seen=LATER)])
        assert failures.acknowledge(SYNC, BAD, acknowledged=True)

    @pytest.mark.parametrize("now", [replace(BAD, code="FORBIDDEN"), replace(BAD, run=LATER), None])
    def test_a_changed_or_solved_failure_is_not_acknowledged(
        self, failures: Failures, now: KnownFailure | None
    ) -> None:
        failures.write(SYNC, [now or BAD])
        if now is None:
            failures.solve(SYNC, [BAD], LATER)
        assert not failures.acknowledge(SYNC, BAD, acknowledged=True)
        assert not any(each.acknowledged for each in failures.find(SYNC, [BAD.key]).values())

    def test_an_absent_failure_is_not_acknowledged(self, failures: Failures) -> None:
        assert not failures.acknowledge(SYNC, BAD, acknowledged=True)
        assert failures.find(SYNC, [BAD.key]) == {}


@pytest.mark.parametrize(
    ("code", "source", "same"),
    [
        ("REFUSED", "sha256:1", True),
        ("REFUSED", None, True),
        ("REFUSED", "sha256:2", False),
        ("FORBIDDEN", "sha256:1", False),
        ("FORBIDDEN", None, False),
    ],
)
def test_a_failure_is_the_same_with_the_same_code_and_source(code: CodeName, source: str | None, *, same: bool) -> None:
    result = Result("team/app", "bad", Outcome.FAILED, source, code=code)
    assert BAD.is_like(result) is same
    unknown = replace(BAD, source=None)
    assert unknown.is_like(result) is (code == "REFUSED")


def test_the_record_has_the_fields_of_its_result() -> None:
    result = Result("g", "n", Outcome.FAILED, "source", code="REFUSED", reason="why")
    assert KnownFailure.of(result, RUN, 5.0) == KnownFailure("g", "n", "REFUSED", "source", "why", RUN, RUN, 5.0)
    assert KnownFailure.of(replace(result, reason=None), RUN, 5.0).reason == ""


def test_the_items_of_a_retry_are_kept_as_long_as_dead_letters(failures: Failures, table: Table, clock: Clock) -> None:
    asked = [("g", "n"), ("a\ud83d", "b"), ("g", "n")]
    failures.ask(SYNC, RUN, asked)
    assert failures.asked(SYNC, RUN) == set(asked)
    assert failures.asked(SYNC, LATER) == failures.asked("another", RUN) == frozenset()
    (item,) = table.scan()["Items"]
    assert item["expires"] == int(clock.now) + LETTER_KEPT
