"""Tests of the health of a sync: in sync or not, since when, and when that was verified."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline.model import EVERYTHING, Counts, Run, RunStatus, Scope, Trigger
from syncline.store.batches import BatchRecord
from syncline.store.health import Health, expectation_request, health_request, read_health
from syncline.store.state import State
from syncline.store.table import Database
from tests.rig.run_ids import made_run_id

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.service_resource import Table

SYNC = "prod-to-dr"
STARTED, ENDED = 1_790_000_000.0, 1_790_000_600.0
FULL = Run(made_run_id(), SYNC, 1, Trigger.SCHEDULE, EVERYTHING, STARTED)
PARTIAL = replace(FULL, scope=Scope.of(["team/app"]))
OVER = (RunStatus.DONE, RunStatus.CANCELLED, RunStatus.LOST)
HEALTHS = st.builds(
    Health,
    st.sampled_from([None, True, False]),
    st.sampled_from([0.0, STARTED - 9000]),
    st.sampled_from([0.0, STARTED - 9000, STARTED - 60]),
    st.sampled_from([0.0, STARTED - 10_000]),
    scanned=st.sampled_from([0.0, STARTED - 30]),
)
COUNTS = st.builds(
    Counts,
    **{name: st.integers(0, 2) for name in ("queued", "moved", "skipped", "removed", "extra", "left_out")},
    **{
        name: st.sampled_from([0, 0, 1])
        for name in ("conflict", "untrusted", "failed", "known", "acknowledged", "cancelled")
    },
)


def test_nothing_is_known_before_the_first_run(table: Table) -> None:
    health = read_health(Database(table), SYNC)
    assert health == Health()
    assert health.in_sync is None


@pytest.mark.parametrize(
    ("counts", "since"),
    [(Counts(skipped=9), STARTED), (Counts(queued=1, moved=1), ENDED), (Counts(queued=1, removed=1), ENDED)],
)
def test_a_complete_scan_without_failures_puts_a_sync_in_sync(counts: Counts, since: float) -> None:
    """The target had all of the source at the start of the scan, or once the last item was verified."""
    assert Health().after(FULL, RunStatus.DONE, counts, ENDED) == Health(True, since, STARTED, scanned=STARTED)


def test_later_scans_leave_the_time_since_which_it_is_in_sync() -> None:
    before = Health(True, STARTED - 500, STARTED - 100)
    after = before.after(FULL, RunStatus.DONE, Counts(queued=3, moved=3), ENDED)
    assert after == Health(True, STARTED - 500, STARTED, scanned=STARTED)


def test_acknowledged_failures_are_verified_but_not_in_sync() -> None:
    after = Health().after(FULL, RunStatus.DONE, Counts(skipped=1, acknowledged=1), ENDED)
    assert (after.in_sync, after.verified) == (False, STARTED)


@pytest.mark.parametrize(
    ("run", "status", "counts"),
    [
        (FULL, RunStatus.DONE, Counts(queued=1, failed=1)),
        (FULL, RunStatus.DONE, Counts(known=1)),
        (FULL, RunStatus.DONE, Counts(conflict=1)),
        (PARTIAL, RunStatus.DONE, Counts(queued=1, failed=1)),
        (FULL, RunStatus.CANCELLED, Counts(queued=2, moved=1, cancelled=1)),
        (FULL, RunStatus.LOST, Counts(queued=2, moved=1)),
    ],
)
def test_a_difference_that_stays_puts_a_sync_out_of_sync(run: Run, status: RunStatus, counts: Counts) -> None:
    before = Health(True, STARTED - 500, STARTED - 100)
    after = before.after(run, status, counts, ENDED)
    assert replace(after, scanned=0.0) == Health(False, ENDED, STARTED - 100)
    assert after.after(run, status, counts, ENDED + 60) == after  # since the first of them


@pytest.mark.parametrize(("run", "status"), [(PARTIAL, RunStatus.DONE), (FULL, RunStatus.CANCELLED)])
@pytest.mark.parametrize("in_sync", [None, True, False])
def test_a_run_that_did_not_scan_everything_verifies_nothing(
    run: Run, status: RunStatus, *, in_sync: bool | None
) -> None:
    before = Health(in_sync, STARTED - 500, STARTED - 100)
    assert before.after(run, status, Counts(queued=1, moved=1), ENDED) == before


@pytest.mark.parametrize(
    ("counts", "since"), [(Counts(queued=1, moved=1), ENDED), (Counts(skipped=1), STARTED)], ids=["moved", "equal"]
)
def test_a_retry_that_solves_the_last_failure_of_a_complete_scan_puts_a_sync_in_sync(
    counts: Counts, since: float
) -> None:
    scan = replace(FULL, started=STARTED - 100)
    failing = Health().after(scan, RunStatus.DONE, Counts(queued=9, moved=7, failed=2), STARTED - 50)
    assert (failing.in_sync, failing.verified) == (False, 0.0)
    one_left = failing.after(PARTIAL, RunStatus.DONE, replace(counts, known=1), ENDED - 1)
    assert (one_left.in_sync, one_left.since) == (False, STARTED - 50)
    assert one_left.after(PARTIAL, RunStatus.DONE, counts, ENDED) == Health(
        True, since, scan.started, scanned=scan.started
    )
    accepted = one_left.after(PARTIAL, RunStatus.DONE, replace(counts, acknowledged=1), ENDED)
    assert (accepted.in_sync, accepted.verified) == (False, scan.started)


@pytest.mark.parametrize(
    ("run", "status", "counts"),
    [
        (PARTIAL, RunStatus.DONE, Counts(queued=1, conflict=1)),
        (PARTIAL, RunStatus.LOST, Counts(queued=2, moved=1)),
        (FULL, RunStatus.CANCELLED, Counts(queued=1, cancelled=1)),
    ],
    ids=["conflict", "lost", "cancelled"],
)
def test_only_a_complete_scan_ends_differences_that_are_no_known_failures(
    run: Run, status: RunStatus, counts: Counts
) -> None:
    """Nothing records a conflict, or the items that a lost run has not reached."""
    before = Health(True, STARTED - 500, STARTED - 100, scanned=STARTED - 100).after(run, status, counts, ENDED)
    after = before.after(PARTIAL, RunStatus.DONE, Counts(queued=1, moved=1), ENDED + 60)
    assert (after.in_sync, after.verified, after.scanned) == (False, STARTED - 100, 0.0)


@given(HEALTHS, st.sampled_from([FULL, PARTIAL]), st.sampled_from(OVER), COUNTS)
def test_a_sync_is_only_in_sync_after_a_complete_scan_that_left_no_difference(
    before: Health, run: Run, status: RunStatus, counts: Counts
) -> None:
    after = before.after(run, status, counts, ENDED)
    left = counts.failed or counts.known or counts.conflict or counts.untrusted or counts.cancelled
    complete = status is RunStatus.DONE and (run.scope.everything or before.scanned > 0)
    scanned = run.started if run.scope.everything else before.scanned
    if after.in_sync and not before.in_sync:
        assert complete
        assert not left
        assert not counts.acknowledged
    if left:
        assert after.in_sync is False
    assert (after.verified > before.verified) == (complete and not left and before.verified < scanned)
    if after.in_sync is before.in_sync:
        assert after.since == before.since
    assert after.expected == before.expected


def test_health_is_read_as_it_was_written(table: Table) -> None:
    database = Database(table)
    database.apply(expectation_request(database, SYNC, STARTED, forget=False))
    for health in (Health(True, 5.0, 7.0, STARTED), Health(False, 6.0, 7.0, STARTED)):
        database.apply(health_request(database, SYNC, health))
        assert read_health(database, SYNC) == health


def test_a_verification_is_expected_since_the_sync_was_first_applied(table: Table) -> None:
    now = [STARTED]
    state, database = State(table, lambda: now[0]), Database(table)
    state.put_sync(SYNC, '{"schedule": "rate(1 hour)"}')
    now[0] += 7200
    state.put_sync(SYNC, '{"schedule": "rate(2 hours)"}')
    health = read_health(database, SYNC)
    assert health == Health(expected=STARTED)
    assert health.is_stale(7199, now[0])
    assert not health.is_stale(7200, now[0])
    assert not health.is_stale(None, now[0] + 1e9)


def test_a_sync_with_another_source_is_not_known_to_be_in_sync(table: Table) -> None:
    now = [STARTED]
    state, database = State(table, lambda: now[0]), Database(table)
    state.put_sync(SYNC, "before")
    database.apply(health_request(database, SYNC, Health(True, 5.0, 7.0, STARTED)))
    now[0] += 60
    state.put_sync(SYNC, "after", unverified=True)
    assert read_health(database, SYNC) == Health(expected=now[0])


def test_a_run_with_an_earlier_configuration_says_nothing_about_the_new_one(table: Table) -> None:
    state = State(table)
    state.put_sync(SYNC, "before")
    run, batch = state.begin_run(SYNC, made_run_id(), Trigger.SCHEDULE, EVERYTHING)
    state.put_sync(SYNC, "after", unverified=True)
    assert state.end_batch(batch, BatchRecord(()), Counts(skipped=3)) is not None
    assert state.finish_run(SYNC, run.id) is not None
    assert read_health(Database(table), SYNC).in_sync is None


def test_a_removed_sync_is_forgotten(table: Table) -> None:
    state = State(table)
    state.put_sync(SYNC, "before")
    state.remove_sync(SYNC)
    assert read_health(Database(table), SYNC) == Health()


def test_the_health_of_a_removed_sync_does_not_come_back_when_its_run_ends(table: Table) -> None:
    state = State(table)
    state.put_sync(SYNC, "before")
    run, batch = state.begin_run(SYNC, made_run_id(), Trigger.SCHEDULE, EVERYTHING)
    assert state.end_batch(batch, BatchRecord(()), Counts(skipped=3)) is not None
    state.remove_sync(SYNC)
    assert state.finish_run(SYNC, run.id) is not None
    assert Database(table).get(f"SYNC#{SYNC}", "HEALTH") is None


@pytest.mark.parametrize("change", ["another source", "removed", "removed and applied again"])
def test_a_sync_that_changes_while_a_run_ends_is_not_known_to_be_in_sync(
    table: Table, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """The change comes between the read of the configuration and the end of the run."""
    now = [STARTED]
    state, database = State(table, lambda: now[0]), Database(table)
    state.put_sync(SYNC, "before")
    run, batch = state.begin_run(SYNC, made_run_id(), Trigger.SCHEDULE, EVERYTHING)
    assert state.end_batch(batch, BatchRecord(()), Counts(skipped=3)) is not None
    digest, reads = state.applied_digest, [0]

    def changed_after(name: str) -> str | None:
        found = digest(name)
        reads[0] += 1
        if reads[0] == 1:
            now[0] += 60
            if change.startswith("removed"):
                state.remove_sync(SYNC)
            if change != "removed":
                state.put_sync(SYNC, "after", unverified=change == "another source")
        return found

    monkeypatch.setattr(state, "applied_digest", changed_after)
    ended = state.finish_run(SYNC, run.id)
    assert ended is not None
    assert ended.status is RunStatus.DONE
    assert read_health(database, SYNC) == (Health() if change == "removed" else Health(expected=now[0]))
