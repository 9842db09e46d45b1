"""The record of audits: the verdict of the latest, the shares of the target that were read, and costs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from syncline.model import EVERYTHING, Audit, Counts, Run, Scope, Trigger
from syncline.store.audits import AuditRecord
from syncline.store.batches import BatchRecord
from syncline.store.health import Health
from syncline.store.state import State
from tests.rig.run_ids import made_run_id


def ended(audit: Audit, *, at: float = 1000.0, **counts: int) -> Run:
    """Return an audit that has ended, and found an equal item."""
    run = Run(f"run-{at:07}", "prod", 1, Trigger.SCHEDULE, EVERYTHING, at, plan=True, audit=audit)
    return replace(run, ended=at + 5, counts=Counts(**{"skipped": 1} | counts))


DEEP = Audit(parts=True, deep=True, of=3)


def part(number: int, *, at: float = 1000.0, **counts: int) -> Run:
    return ended(replace(DEEP, part=number), at=at, **counts)


def test_shares_follow_one_another() -> None:
    record, due = AuditRecord(), replace(DEEP, part=0)
    for expected in (1, 2, 3, 1):
        audit = record.due(due)
        assert audit.part == expected
        record = record.after(ended(audit))


def test_another_number_of_shares_begins_anew() -> None:
    record = AuditRecord().after(part(1)).after(part(2))
    assert record.due(replace(DEEP, of=5, part=0)).part == 1
    record = record.after(ended(replace(DEEP, of=5)))
    assert record.read_since(0) == pytest.approx(1 / 5)


def test_the_share_that_was_read_since_a_time() -> None:
    record = AuditRecord().after(part(1, at=100)).after(part(2, at=200))
    assert [record.read_since(moment) for moment in (100, 101, 201)] == pytest.approx([2 / 3, 1 / 3, 0])


def test_a_share_with_unreadable_items_was_not_read_but_the_next_is_due() -> None:
    record = AuditRecord().after(part(1, unreadable=1))
    assert record.read_since(0) == 0
    assert record.due(replace(DEEP, part=0)).part == 2


def test_reading_everything_reads_all_shares() -> None:
    record = AuditRecord().after(part(1)).after(ended(replace(DEEP, of=1), at=2000))
    assert record.read_since(2000) == 1
    assert record.due(replace(DEEP, part=0)).part == 2


@pytest.mark.parametrize("whole", [[ended(replace(DEEP, of=1), at=900)], [part(1, at=900), part(2), part(3)]])
def test_what_was_read_completely_stays_read_with_another_number_of_shares(whole: list[Run]) -> None:
    record = AuditRecord()
    for run in whole:
        record = record.after(run)
    record = record.after(ended(replace(DEEP, of=30), at=2000))
    assert record.read_since(900) == 1
    assert record.read_since(901) == pytest.approx(1 / 30)
    assert record.due(replace(DEEP, of=30, part=0)).part == 2


def test_an_audit_of_fingerprints_leaves_the_shares() -> None:
    record = AuditRecord().after(part(1)).after(ended(Audit(), at=2000))
    assert (record.read, record.last, record.of) == ({1: 1000.0}, 1, 3)


@pytest.mark.parametrize("found", ["different", "missing", "extra", "unreadable", "failed"])
def test_any_difference_makes_the_verdict(found: str) -> None:
    record = AuditRecord().after(ended(Audit(), at=100)).after(ended(Audit(), at=200, **{found: 1}))
    assert (record.equal, record.equal_at) == (False, 100)


def test_extra_items_may_be_allowed() -> None:
    assert AuditRecord().after(ended(Audit(allow_extra=True), extra=5)).equal


def test_the_cost_of_a_share_follows_from_another() -> None:
    record = AuditRecord().after(part(1, requests=50, bytes=100))
    cost = record.cost(replace(DEEP, of=10))
    assert cost is not None
    assert (cost.requests, cost.bytes) == (50, 30)
    assert record.cost(Audit()) is None


def test_an_audit_is_stale_after_its_limit() -> None:
    record = AuditRecord().after(ended(Audit(), at=1000))
    assert not record.is_stale(100, Health(expected=1), 1100)
    assert record.is_stale(100, Health(expected=1), 1101)
    assert not record.is_stale(None, Health(expected=1), 9999)
    assert not record.is_stale(100, Health(expected=1, paused=5), 9999)
    assert not AuditRecord().is_stale(100, Health(expected=1050), 1101)


def finished(state: State, audit: Audit, scope: Scope = EVERYTHING, number: int = 0) -> str:
    """Begin and end an audit in the table; return its ID."""
    run, root = state.begin_run("prod", made_run_id(number), Trigger.MANUAL, scope, plan=True, audit=audit)
    assert root.audit
    state.end_batch(root, BatchRecord(()), Counts(skipped=3, requests=9, bytes=30))
    assert state.finish_run("prod", run.id) is not None
    return run.id


def test_a_record_is_stored_and_read(state: State) -> None:
    state.put_sync("prod", "{}")
    run = finished(state, replace(DEEP, part=2))
    record = state.audits("prod")
    assert (record.run, record.equal, record.last, record.of, set(record.read)) == (run, True, 2, 3, {2})
    assert record.counts == Counts(skipped=3, requests=9, bytes=30)
    assert record.costs["deep"].bytes == 90
    assert state.run("prod", run).audit == replace(DEEP, part=2)
    assert record.cost(DEEP) == replace(record.costs["deep"], bytes=30)


def test_only_complete_audits_are_noted(state: State) -> None:
    state.put_sync("prod", "{}")
    finished(state, Audit(), Scope.of(["team/app"]))
    assert not state.audits("prod").run


def test_an_audit_of_another_configuration_is_not_noted(state: State) -> None:
    state.put_sync("prod", "{}")
    run, root = state.begin_run("prod", made_run_id(), Trigger.MANUAL, EVERYTHING, plan=True, audit=Audit())
    state.put_sync("prod", '{"other": 1}')
    state.end_batch(root, BatchRecord(()), Counts())
    state.finish_run("prod", run.id)
    assert not state.audits("prod").run


def test_an_earlier_audit_does_not_replace_a_later_one(state: State) -> None:
    state.put_sync("prod", "{}")
    late = finished(state, Audit(), number=100)
    finished(state, Audit(parts=True), number=1)
    assert state.audits("prod").run == late


def test_removing_a_sync_forgets_its_audits(state: State) -> None:
    state.put_sync("prod", "{}")
    finished(state, Audit())
    state.remove_sync("prod")
    assert state.audits("prod") == AuditRecord()


def test_shares_divide_all_content() -> None:
    names = [f"sha256:{number:064x}" for number in range(3000)]
    parts = [{name for name in names if replace(DEEP, part=number).covers(name)} for number in (1, 2, 3)]
    assert sorted(name for each in parts for name in each) == names
    assert all(900 < len(each) < 1100 for each in parts)
