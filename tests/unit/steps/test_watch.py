"""Tests of the watch and of lags: a sync that is not verified in time raises the alarm, whatever the reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

import pytest
from botocore.exceptions import EndpointConnectionError

from syncline.config.sync import AuditConfig, Sync, model_of
from syncline.errors import CodeName, SynclineError
from syncline.kinds.kind import Completed, Failure, Page, StepContext
from syncline.model import Counts, Item, Outcome
from syncline.steps.watch import Watch
from syncline.store.drills import Proofs, drill_request
from syncline.store.health import Health
from syncline.wiring.watch import watch_of
from tests.rig.made_up import SYNC, Answer, MadeUp, Steps, items
from tests.rig.made_up import steps as made_steps
from tests.rig.pump import Duplicates
from tests.rig.totals import read_totals

MINUTE: Final = 60.0
HOUR: Final = 3600.0
FRESH: Final = Sync(name=SYNC, kind="made-up", schedule="rate(1 hour)", fresh_within="2h")
Counted = list[tuple[str, float]]


@pytest.fixture
def steps() -> Iterator[Steps]:
    with made_steps(MadeUp([Page("p", equal=3)])) as made:
        made.state.put_sync(SYNC, FRESH.model_dump_json())
        yield made


def watch(steps: Steps, sync: Sync = FRESH) -> Watch:
    return Watch(lambda: [(sync, steps.state.health(SYNC), steps.state.proofs(SYNC))], [], steps.clock.time)


def seconds_until_alarm(steps: Steps, counted: Counted, each_minute: Callable[[], object] = lambda: None) -> float:
    """Return the seconds after which the metric of the alarm is above its threshold, measured once a minute."""
    began = steps.clock.now
    while steps.clock.now < began + 24 * HOUR:
        steps.clock.sleep(MINUTE)
        each_minute()
        counted.clear()
        watch(steps).measure()
        if dict(counted)["SyncsStale"] > 0:
            return steps.clock.now - began
    raise AssertionError("no alarm in a day")


def test_a_schedule_that_never_starts_a_run_raises_the_alarm(steps: Steps, counted: Counted) -> None:
    assert 2 * HOUR < seconds_until_alarm(steps, counted) <= 2 * HOUR + MINUTE


def test_a_schedule_that_no_longer_starts_runs_raises_the_alarm(steps: Steps, counted: Counted) -> None:
    """It was deleted or disabled. The time counts from the start of the last scan."""
    for _ in range(3):
        steps.clock.sleep(HOUR)
        run = steps.run()
    late = steps.clock.now - run.started
    assert 2 * HOUR - late < seconds_until_alarm(steps, counted) <= 2 * HOUR - late + MINUTE


def test_an_audit_that_finds_no_equality_raises_the_alarm(steps: Steps, counted: Counted) -> None:
    """Runs verify everything each hour, but no audit has found source and target equal for longer than `audit.within`."""
    sync = FRESH.model_copy(update={"audit": AuditConfig(within="3h")})
    steps.run()
    for hour in range(1, 6):
        steps.clock.sleep(HOUR)
        steps.run()
        counted.clear()
        watch(steps, sync).measure()
        assert dict(counted)["SyncsStale"] == (hour >= 3)


def test_a_restore_drill_that_is_never_good_raises_the_alarm(steps: Steps, counted: Counted) -> None:
    """Runs verify everything each hour, but the last good drill is longer ago than `drill.within`."""
    config = {"name": SYNC, "kind": "images", "source": {"registry": "a.example", "repositories": ["app"]}}
    more = {"target": {"registry": "b.example"}, "drill": {"within": "3h"}, "fresh_within": "2h"}
    sync = model_of("images").model_validate({**config, **more})
    steps.run()
    run = replace(steps.state.runs(SYNC)[0], drill=1.0)
    for hour in range(1, 9):
        steps.clock.sleep(HOUR)
        steps.run()
        good = hour == 4
        if hour >= 4:
            counts = Counts(skipped=2, failed=int(not good))
            now = steps.clock.now
            steps.database.apply(drill_request(steps.database, replace(run, started=now), counts, now))
        counted.clear()
        watch(steps, sync).measure()
        assert dict(counted)["SyncsStale"] == (hour == 3 or hour >= 7), hour


@pytest.mark.parametrize("code", ["FORBIDDEN", "UNREACHABLE"])
def test_one_item_that_is_never_copied_raises_the_alarm(steps: Steps, counted: Counted, code: CodeName) -> None:
    """The schedule starts a run each hour, and all other items are copied."""
    run = steps.run()
    steps.kind.pages = [Page("p", (Item("team/app", "v1"), Item("team/app", "v2")), equal=3)]
    steps.kind.move = _refusing("v1", code)
    last = [steps.clock.now]

    def each_minute() -> None:
        if steps.clock.now - last[0] >= HOUR:
            last[0] = steps.clock.now
            steps.run()

    late = steps.clock.now - run.started
    assert 2 * HOUR - late < seconds_until_alarm(steps, counted, each_minute) <= 2 * HOUR - late + 2 * MINUTE
    assert dict(counted)["SyncsOutOfSync"] == 1
    assert dict(counted)["InSync"] == 0


def test_the_alarm_ends_with_the_next_complete_scan(steps: Steps, counted: Counted) -> None:
    seconds_until_alarm(steps, counted)
    steps.run("team/app")
    assert watch(steps).measure() == [SYNC]  # a part is not everything
    steps.run()
    assert watch(steps).measure() == []
    assert dict(counted)["InSync"] == 1


def test_a_disabled_sync_is_not_stale(steps: Steps, counted: Counted) -> None:
    steps.clock.sleep(100 * HOUR)
    assert watch(steps).measure() == [SYNC]
    assert watch(steps, FRESH.model_copy(update={"enabled": False})).measure() == []
    assert watch(steps, FRESH.model_copy(update={"fresh_within": None})).measure() == []
    assert [value for name, value in counted if name == "SyncsStale"] == [1, 0, 0]


def test_a_sync_that_cannot_be_read_counts_as_stale(steps: Steps, counted: Counted) -> None:
    """It was applied by another version, so that no run of it would work either."""
    steps.state.remove_sync(SYNC)
    steps.state.put_sync("newer", '{"kind": "images", "of": "another version"}')
    watched = watch_of(steps.state, steps.database, steps.queues, steps.clock.time)
    for _ in range(2):
        assert watched.measure() == ["newer"]
    assert [value for name, value in counted if name == "SyncsStale"] == [1, 1]


def test_an_unknown_value_is_not_recorded(steps: Steps, counted: Counted) -> None:
    steps.state.remove_sync(SYNC)
    watch(steps).measure()
    assert {name for name, _ in counted} == {"SyncsStale", "SyncsOutOfSync"}


# -- lag ---------------------------------------------------------------------------------------------------------------


def lag(steps: Steps, name: str) -> int | None:
    found: int | None = steps.results()["team/app", name].lag
    return found


def test_the_lag_counts_from_the_change_at_the_source(steps: Steps) -> None:
    steps.run()
    steps.clock.sleep(HOUR)
    changed = int(steps.clock.now)
    steps.clock.sleep(100)
    steps.kind.pages = [Page("p", (Item("team/app", "v1", changed=changed),))]
    run = steps.run()
    assert 100 <= (lag(steps, "v1") or 0) <= 110
    assert (run.lags.count, run.lags.percentile(0.5)) == (1, 120)
    assert read_totals(steps.database, SYNC).lags == run.lags


def test_the_lag_counts_from_the_run_where_the_source_tells_no_time(steps: Steps) -> None:
    steps.run()
    steps.clock.sleep(HOUR)
    steps.kind.pages = [Page("p", (Item("team/app", "v1"),))]
    run = steps.run()
    assert lag(steps, "v1") == round((run.ended or 0) - run.started)


def test_the_lag_counts_from_a_change_that_only_the_transfer_learns(steps: Steps) -> None:
    """An event names an object without its time."""
    steps.run()
    steps.clock.sleep(HOUR)
    changed = int(steps.clock.now)
    steps.clock.sleep(100)
    steps.kind.pages = [Page("p", (Item("team/app", "v1"),))]
    steps.kind.move = lambda item, _context: Completed(replace(item, changed=changed), 10)
    steps.run()
    assert 100 <= (lag(steps, "v1") or 0) <= 110


def test_the_lag_of_an_item_that_a_joined_scan_found_counts_from_that_scan(steps: Steps) -> None:
    """The run had begun long before."""
    waiting = Item("team/other", "slow")
    steps.kind.look = lambda scope, _cursor, _context: [Page("p", (waiting,) if scope.everything else items("v1"))]
    steps.start()
    steps.pump.deliver(steps.mail.waiting())
    steps.clock.sleep(10 * MINUTE)
    steps.start("team/app")
    steps.pump.run()
    assert len(steps.state.runs(SYNC)) == 1
    assert (steps.results()["team/other", "slow"].lag or 0) >= 10 * MINUTE
    assert (lag(steps, "v1") or 0) <= 30


def test_the_lag_of_an_item_that_failed_before_counts_from_its_first_failure(steps: Steps) -> None:
    first = steps.run()
    steps.kind.pages, steps.kind.move = [Page("p", (Item("team/app", "v1"),))], _refusing("v1", "FORBIDDEN")
    steps.clock.sleep(HOUR)
    failed = steps.run()
    assert lag(steps, "v1") is None
    steps.clock.sleep(5 * HOUR)
    steps.kind.move = lambda item, _context: Completed(item, 10)
    run = steps.run()
    assert first.started < failed.started < run.started
    assert abs((lag(steps, "v1") or 0) - (run.started - failed.started)) <= 5


@pytest.mark.parametrize("changed", [1, 1_700_000_000])
def test_the_lag_of_an_old_item_counts_from_the_last_verification(steps: Steps, changed: int) -> None:
    """As with a repository that was not selected before: it was no difference then."""
    verified = steps.run()
    steps.clock.sleep(HOUR)
    steps.kind.pages = [Page("p", (Item("team/app", "v1", changed=changed),))]
    steps.run()
    assert abs((lag(steps, "v1") or 0) - (steps.clock.now - verified.started)) <= 5


def test_the_lag_of_an_old_item_counts_from_the_run_if_an_earlier_version_applied_the_sync(steps: Steps) -> None:
    """As with an item that somebody removed from the target: it has no health, and the item may be years old."""
    steps.database.delete(f"SYNC#{SYNC}", "HEALTH")
    steps.kind.pages = [Page("p", (Item("team/app", "v1", changed=1_600_000_000),))]
    run = steps.run()
    assert lag(steps, "v1") == round((run.ended or 0) - run.started)


def test_the_lag_of_a_change_during_a_pause_counts_from_the_change(steps: Steps) -> None:
    steps.run()
    steps.state.pause(SYNC)
    steps.clock.sleep(HOUR)
    steps.kind.pages = [Page("p", (Item("team/app", "v1", changed=int(steps.clock.now)),))]
    steps.clock.sleep(2 * HOUR)
    assert steps.state.resume(SYNC)
    assert watch(steps).measure() == []  # it has time for a scan
    steps.run()
    assert abs((lag(steps, "v1") or 0) - 2 * HOUR) <= 5


def test_a_clock_ahead_of_ours_gives_no_negative_lag(steps: Steps) -> None:
    steps.kind.pages = [Page("p", (Item("team/app", "v1", changed=int(steps.clock.now + HOUR)),))]
    steps.run()
    assert lag(steps, "v1") == 0


def test_removals_have_a_lag_and_equal_items_have_none(steps: Steps) -> None:
    gone = Item("team/app", "gone", None, "sha256:1")
    same = Item("team/app", "same", "sha256:1", "sha256:1", detail={"untouched": True})
    steps.kind.pages = [Page("p", (gone, same))]
    steps.kind.move = lambda item, _context: Completed(item, 0)
    run = steps.run()
    assert {name: each.outcome for (_, name), each in steps.results().items()} == {
        "gone": Outcome.REMOVED,
        "same": Outcome.EQUAL,
    }
    assert lag(steps, "gone") is not None
    assert lag(steps, "same") is None
    assert run.lags.count == 1


@pytest.mark.parametrize("duplicates", list(Duplicates))
def test_lags_are_counted_once_however_often_a_message_is_delivered(steps: Steps, duplicates: Duplicates) -> None:
    steps.kind.pages = [Page("p", tuple(Item("team/app", f"v{n}", "sha256:1") for n in range(30)))]
    steps.pump.delivery.duplicates = duplicates
    run = steps.run()
    assert run.lags.count == run.counts.moved == 30


def _refusing(name: str, code: CodeName) -> Callable[[Item, StepContext], Answer]:
    def move(item: Item, _context: StepContext) -> Answer:
        if item.name == name:
            return Failure(item, SynclineError(code, "refused"))
        return Completed(item, 10)

    return move


def test_a_hint_that_fails_stops_neither_the_metrics_nor_the_hints_of_others(steps: Steps, counted: Counted) -> None:
    beat = {"url": "https://beat.example/ping"}
    syncs = [Sync(name=name, kind="made-up", heartbeat=beat) for name in ("one", "two", "three")]
    hinted: list[str] = []

    def hint(name: str) -> None:
        if name == "one":
            raise SynclineError("MESSAGE_REFUSED", "SQS does not accept it")
        hinted.append(name)

    def is_due(sync: Sync, _health: Health, _proofs: Proofs, _now: float) -> bool:
        if sync.name == "two":
            raise EndpointConnectionError(endpoint_url="https://dynamodb.example")
        return True

    health = steps.state.health(SYNC)
    Watch(lambda: [(sync, health, Proofs()) for sync in syncs], [], steps.clock.time, is_due, hint).measure()
    assert hinted == ["three"]
    assert ("SyncsStale", 0) in counted
