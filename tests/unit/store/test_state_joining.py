"""Scans that join the current run of their sync."""

from __future__ import annotations

import pytest

from syncline.errors import SynclineError
from syncline.messages import Batch
from syncline.model import RunStatus, Scope, Step
from syncline.store.batches import Progress
from syncline.store.state import JOINED_FOR, LOST_AFTER, State
from tests.rig.pump import Clock
from tests.rig.run_ids import made_run_id
from tests.unit.store.runs import FIRST, SECOND, SYNC, begin, end


def test_joining_scans_do_not_keep_a_run_open_after_its_own_work(state: State, clock: Clock) -> None:
    """The next full scan waits for the end of the run."""
    _, batch = begin(state)
    end(state, batch, last := batch.child(0))
    names = [made_run_id(3), made_run_id(4)]
    for name in names:
        clock.now += JOINED_FOR / 2 - 1
        assert state.join_run(SYNC, name, Scope.of(["a"])) is not None
    end(state, last)
    clock.now += JOINED_FOR
    assert state.join_run(SYNC, made_run_id(5), Scope.of(["a"])) is None
    with pytest.raises(SynclineError, match="ALREADY_RUNNING"):
        begin(state, made_run_id(6))
    for name in names:
        scan = state.join_run(SYNC, name, Scope.of(["a"]))
        assert scan is not None, "the scan belongs to the run"
        end(state, scan)
    assert state.finish_run(SYNC, FIRST) is not None
    begin(state, made_run_id(7))


def test_a_run_whose_own_work_is_lost_is_replaced_in_spite_of_joined_scans(state: State, clock: Clock) -> None:
    lost, _ = begin(state)  # its message went to the dead-letter queue
    clock.now += JOINED_FOR - 1
    scan = state.join_run(SYNC, made_run_id(3), Scope.of(["a"]))
    assert scan is not None
    end(state, scan)
    clock.now += LOST_AFTER
    begin(state, made_run_id(7))
    assert state.run(SYNC, lost.id).status is RunStatus.LOST


def test_a_scan_joins_a_long_run_whose_own_work_continues(state: State, clock: Clock) -> None:
    _, batch = begin(state)
    clock.now += LOST_AFTER
    end(state, batch, batch.child(0))
    assert state.join_run(SYNC, made_run_id(3), Scope.of(["a"])) is not None


def test_without_a_run_there_is_nothing_to_join(state: State) -> None:
    assert state.join_run(SYNC, "scan", Scope.of(["a"])) is None


def test_a_scan_does_not_join_the_run_that_it_began(state: State) -> None:
    run, _ = begin(state)
    assert state.join_run(SYNC, run.id, Scope.of(["a"])) is None


def test_a_scan_joins_once_and_the_run_waits_for_it(state: State) -> None:
    run, batch = begin(state)
    scan = state.join_run(SYNC, "scan", Scope.of(["a"]))
    assert scan == Batch(
        run.id, SYNC, Step.DISCOVER, f"scan-{FIRST}-look", scope=Scope.of(["a"]), scan=f"scan-{FIRST}-look"
    )
    assert state.join_run(SYNC, "scan", Scope.of(["a"])) == scan
    end(state, batch)
    assert state.finish_run(SYNC, run.id) is None
    end(state, scan)
    assert state.finish_run(SYNC, run.id) is not None
    assert state.join_run(SYNC, "scan", Scope.of(["a"])) is None


def test_a_scan_that_joins_during_the_end_of_a_run_keeps_it_open(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scan joins after the shards were read. The run continues until the scan has ended."""
    run, batch = begin(state)
    end(state, batch)
    scans: list[Batch] = []
    progress = state.progress

    def progress_then_join(self: State, run_id: str) -> Progress:
        seen = progress(run_id)
        monkeypatch.undo()
        scan = self.join_run(SYNC, "scan", Scope.of(["a"]))
        assert scan is not None
        scans.append(scan)
        return seen

    monkeypatch.setattr(State, "progress", progress_then_join)
    assert state.finish_run(SYNC, run.id) is None
    assert state.run(SYNC, run.id).status is RunStatus.RUNNING
    end(state, scans[0])
    assert state.finish_run(SYNC, run.id) is not None


def test_a_repeated_scan_joins_the_next_run_with_other_batch_ids(state: State) -> None:
    """A FIFO queue drops a commit whose ID it has seen recently, so two runs must not have batches with the same ID."""
    run, batch = begin(state)
    scan = state.join_run(SYNC, "scan", Scope.of(["a"]))
    assert scan is not None
    end(state, batch)
    end(state, scan)
    assert state.finish_run(SYNC, run.id) is not None
    begin(state, SECOND)
    again = state.join_run(SYNC, "scan", Scope.of(["a"]))
    assert again is not None
    assert again.run == SECOND
    assert again.id != scan.id
    assert again.child(0).id != scan.child(0).id


def test_a_repeated_scan_is_the_one_that_joined_even_after_an_apply(state: State) -> None:
    """The run waits for it. Without it, the run would be lost."""
    state.put_sync(SYNC, "first")
    run, batch = begin(state)
    scan = state.join_run(SYNC, "scan", Scope.of(["a"]))
    assert scan is not None
    state.put_sync(SYNC, "second")
    assert state.join_run(SYNC, "scan", Scope.of(["a"])) == scan
    assert state.join_run(SYNC, "other", Scope.of(["a"])) is None
    end(state, batch)
    end(state, scan)
    assert state.finish_run(SYNC, run.id) is not None


def test_no_scan_joins_a_run_that_is_being_cancelled(state: State) -> None:
    begin(state)
    state.cancel_run(SYNC, FIRST)
    assert state.join_run(SYNC, "scan", Scope.of(["a"])) is None
