"""One result for each item of a run that further scans have joined: which of a batch's results are told."""

from __future__ import annotations

from dataclasses import replace

import pytest

from syncline.messages import Batch
from syncline.model import EVERYTHING, Counts, Outcome, Result, Scope, Step, Trigger
from syncline.state import BatchRecord, State
from syncline.steps.once import told_once
from tests.pump import Clock
from tests.run_ids import made_run_id

SYNC, RUN = "images", made_run_id(1)
OWN = Batch(RUN, SYNC, Step.TRANSFER, "own")
JOINED = replace(OWN, id="joined", scan="scan-1")
OTHER = replace(OWN, id="other", scan="scan-2")
COUNTED_ONCE = {Outcome.SKIPPED, Outcome.LEFT_OUT, Outcome.EXTRA, Outcome.CANCELLED}
TAKEN = {Outcome.MOVED, Outcome.REMOVED, Outcome.CONFLICT, Outcome.FAILED}


@pytest.fixture(autouse=True)
def root(state: State) -> Batch:
    """The first batch of the run."""
    return state.begin_run(SYNC, RUN, Trigger.HAND, EVERYTHING)[1]


@pytest.fixture
def joined(state: State) -> None:
    assert state.join_run(SYNC, made_run_id(2), Scope.of(["team/app"])) is not None


def result(name: str, outcome: Outcome = Outcome.MOVED, **more: str) -> Result:
    return Result("team/app", name, outcome, **more)  # type: ignore[arg-type]


def taken(state: State) -> int:
    return sum(str(item["pk"]).startswith("FACT#told@") for item in state._db._table.scan()["Items"])


def test_a_run_that_nobody_has_joined_tells_everything_and_takes_nothing(state: State) -> None:
    everything = [result(outcome.value, outcome) for outcome in Outcome]
    assert told_once(state, OWN, everything) == told_once(state, OWN, everything) == everything
    assert taken(state) == 0


@pytest.mark.usefixtures("joined")
@pytest.mark.parametrize("outcome", list(Outcome))
def test_an_outcome_is_told_by_the_scan_that_met_it_first(state: State, outcome: Outcome) -> None:
    found = [result("1", outcome)]
    needed = [] if outcome in COUNTED_ONCE else found
    assert told_once(state, JOINED, found) == needed
    assert told_once(state, JOINED, found) == needed, "its work may be tried again"
    once = outcome in TAKEN
    assert told_once(state, OTHER, found) == ([] if once else needed)
    assert told_once(state, OWN, found) == ([] if once else found)
    assert taken(state) == once


@pytest.mark.usefixtures("joined")
def test_a_plan_takes_nothing(state: State) -> None:
    plan = replace(JOINED, plan=True)
    found = [result("1"), result("2", Outcome.SKIPPED)]
    assert told_once(state, plan, found) == found
    assert told_once(state, JOINED, []) == []
    assert taken(state) == 0


@pytest.mark.usefixtures("joined")
def test_the_first_scan_of_a_run_takes_as_the_others_do(state: State) -> None:
    assert told_once(state, OWN, [result("1")]) == [result("1")]
    assert told_once(state, replace(OWN, id="again"), [result("1")]) == [result("1")]
    assert told_once(state, JOINED, [result("1")]) == []


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
def test_what_ended_otherwise_is_told_too(state: State, other: Result) -> None:
    assert told_once(state, JOINED, [result("1")]) == [result("1")]
    assert told_once(state, OTHER, [result("1"), other]) == [other]


@pytest.mark.usefixtures("joined")
def test_many_results_stay_in_their_order(state: State) -> None:
    found = [result(f"{number}") for number in range(40)]
    told_once(state, OTHER, found[::3])
    assert told_once(state, JOINED, found) == [each for at, each in enumerate(found) if at % 3]


@pytest.mark.usefixtures("joined")
def test_a_result_stays_taken_for_longer_than_a_run(state: State, clock: Clock) -> None:
    told_once(state, JOINED, [result("1")])
    clock.sleep(6 * 24 * 3600)
    assert told_once(state, OTHER, [result("1")]) == []


@pytest.mark.parametrize("outcome", [Outcome.CONFLICT, Outcome.FAILED])
class TestMetAgain:
    """A conflict or failure that was told before anybody joined the run is met again by the scans that join."""

    @pytest.fixture(autouse=True)
    def told(self, state: State, root: Batch, outcome: Outcome) -> Result:
        told = result("1", outcome, source="sha256:1", code="TAG_DIFFERS")
        state.end_batch(root, BatchRecord((told, result("2"))), Counts.of((told, result("2"))))
        return told

    def test_it_is_told_once(self, state: State, told: Result) -> None:
        another = replace(told, name="3")
        assert told_once(state, JOINED, [result("2"), told, another]) == [result("2"), another]
        assert told_once(state, OTHER, [told]) == []

    def test_one_of_another_content_is_told(self, state: State, told: Result) -> None:
        changed = replace(told, source="sha256:2")
        assert told_once(state, JOINED, [changed]) == [changed]

    @pytest.mark.usefixtures("told")
    def test_the_results_of_the_run_are_read_only_where_it_may_be_among_them(
        self, state: State, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(State, "results", lambda *_: pytest.fail("the results of a run are many"))
        assert told_once(state, JOINED, [result("2"), result("3", Outcome.KNOWN)]) != []

    def test_the_scan_that_told_it_may_tell_it_again(self, state: State, told: Result) -> None:
        state.join_run(SYNC, made_run_id(2), Scope.of(["team/app"]))
        assert told_once(state, OWN, [told]) == [told]
