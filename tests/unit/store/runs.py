"""Helpers of the tests of runs: begin a run, and end its batches."""

from __future__ import annotations

from syncline.messages import Batch, Outgoing
from syncline.model import EVERYTHING, Counts, Run, Trigger
from syncline.store.batches import BatchRecord
from syncline.store.state import State
from tests.rig.run_ids import made_run_id

FIRST, SECOND = made_run_id(1), made_run_id(2)
SYNC = "images"


def begin(state: State, run_id: str = FIRST) -> tuple[Run, Batch]:
    return state.begin_run(SYNC, run_id, Trigger.MANUAL, EVERYTHING)


def end(state: State, batch: Batch, *following: Batch, **counts: int) -> BatchRecord:
    record = state.end_batch(batch, BatchRecord((), tuple(Outgoing(each) for each in following)), Counts(**counts))
    assert record is not None, "the run is not over"
    return record
