"""Results of a run that other scans have joined: each item has one result."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from syncline.messages import Batch
from syncline.model import EVERYTHING, Outcome, Result, Scope, Step, Trigger
from syncline.steps.results import first_results
from syncline.store.state import State
from tests.rig.pump import Clock
from tests.rig.run_ids import made_run_id

SYNC, RUN = "images", made_run_id(1)
OWN = Batch(RUN, SYNC, Step.TRANSFER, "own")
JOINED = replace(OWN, id="joined", scan="scan-1")
OTHER = replace(OWN, id="other", scan="scan-2")
COUNTED_ONCE = {Outcome.EQUAL, Outcome.LEFT_OUT, Outcome.EXTRA, Outcome.CANCELLED}
MET_AGAIN = {Outcome.CONFLICT, Outcome.UNTRUSTED, Outcome.FAILED}
TAKEN = {Outcome.MOVED, Outcome.REMOVED, *MET_AGAIN}


@pytest.fixture(autouse=True)
def root(state: State) -> Batch:
    """Begin the run; return its first batch."""
    return state.begin_run(SYNC, RUN, Trigger.MANUAL, EVERYTHING)[1]


@pytest.fixture
def joined(state: State) -> None:
    assert state.join_run(SYNC, made_run_id(2), Scope.of(["team/app"])) is not None


def result(name: str, outcome: Outcome = Outcome.MOVED, **more: str) -> Result:
    return Result("team/app", name, outcome, **more)  # type: ignore[arg-type]


def taken(state: State) -> int:
    return sum(str(item["pk"]).startswith("FACT#told@") for item in state._db._table.scan()["Items"])


def test_a_run_without_joined_scans_keeps_all_results_and_takes_those_met_again(state: State) -> None:
    everything = [result(outcome.value, outcome) for outcome in Outcome]
    assert first_results(state, OWN, everything) == first_results(state, OWN, everything) == everything
    assert taken(state) == len(MET_AGAIN)


@pytest.mark.usefixtures("joined")
@pytest.mark.parametrize("outcome", list(Outcome))
def test_only_the_scan_that_met_an_outcome_first_keeps_it(state: State, outcome: Outcome) -> None:
    found = [result("1", outcome)]
    kept = [] if outcome in COUNTED_ONCE else found
    assert first_results(state, JOINED, found) == kept
    assert first_results(state, JOINED, found) == kept, "its batch may be retried"
    once = outcome in TAKEN
    assert first_results(state, OTHER, found) == ([] if once else kept)
    assert first_results(state, OWN, found) == ([] if once else found)
    assert taken(state) == once


@pytest.mark.usefixtures("joined")
def test_a_plan_takes_nothing(state: State) -> None:
    plan = replace(JOINED, plan=True)
    found = [result("1"), result("2", Outcome.EQUAL)]
    assert first_results(state, plan, found) == found
    assert first_results(state, JOINED, []) == []
    assert taken(state) == 0


@pytest.mark.usefixtures("joined")
def test_the_first_scan_of_a_run_takes_results_as_the_others_do(state: State) -> None:
    assert first_results(state, OWN, [result("1")]) == [result("1")]
    assert first_results(state, replace(OWN, id="again"), [result("1")]) == [result("1")]
    assert first_results(state, JOINED, [result("1")]) == []


@pytest.mark.usefixtures("joined")
@pytest.mark.parametrize(
    "other",
    [
        replace(result("1"), group="team/db"),
        result("2"),
        result("1", Outcome.REMOVED),
        result("1", source="sha256:1"),
        result("1", code="TAG_DIFFERS"),
        replace(result("1"), name="\ud83d"),
    ],
)
def test_another_result_of_the_item_is_recorded_too(state: State, other: Result) -> None:
    assert first_results(state, JOINED, [result("1")]) == [result("1")]
    assert first_results(state, OTHER, [result("1"), other]) == [other]


@pytest.mark.usefixtures("joined")
def test_a_result_taken_by_an_older_version_is_not_repeated(state: State) -> None:
    """The facts of a run outlive the version that wrote them."""
    digest = hashlib.blake2b(b"\0".join([b"team/app", b"1", b"moved", b"", b""]), digest_size=16).hexdigest()
    assert state.facts.take(f"told@{RUN}@{digest}", "scan-1", 3600.0)
    assert first_results(state, OTHER, [result("1")]) == []


@pytest.mark.usefixtures("joined")
def test_results_keep_their_order(state: State) -> None:
    found = [result(f"{number}") for number in range(40)]
    first_results(state, OTHER, found[::3])
    assert first_results(state, JOINED, found) == [each for at, each in enumerate(found) if at % 3]


@pytest.mark.usefixtures("joined")
def test_a_result_stays_taken_for_longer_than_a_run(state: State, clock: Clock) -> None:
    first_results(state, JOINED, [result("1")])
    clock.sleep(6 * 24 * 3600)
    assert first_results(state, OTHER, [result("1")]) == []


@pytest.mark.parametrize("outcome", sorted(MET_AGAIN))
def test_a_result_recorded_before_a_scan_joined_is_recorded_once(state: State, outcome: Outcome) -> None:
    """The first scan may not have ended its batch by then."""
    recorded = result("1", outcome, source="sha256:1", code="TAG_DIFFERS")
    assert first_results(state, OWN, [recorded, result("2")]) == [recorded, result("2")]
    state.join_run(SYNC, made_run_id(2), Scope.of(["team/app"]))
    changed = replace(recorded, source="sha256:2")
    assert first_results(state, JOINED, [recorded, changed]) == [changed]
    assert first_results(state, OWN, [recorded]) == [recorded]
