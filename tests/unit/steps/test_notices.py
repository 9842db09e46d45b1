"""When a notification is due, and its text: the decision alone, with states and clocks that hypothesis chooses."""

from __future__ import annotations

import datetime as dt
import zoneinfo
from dataclasses import replace
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncline.config.notify import Notify
from syncline.config.sync import Sync
from syncline.model import EVERYTHING, Counts, Run, RunStatus, Scope, Trigger
from syncline.secrets import register
from syncline.steps.notices import (
    ACKNOWLEDGED,
    BAD,
    CONFLICT,
    FAILING,
    FLAPPING,
    HOUR,
    IN_SYNC,
    MOST_AN_HOUR,
    PAUSED,
    REMINDER,
    STALE,
    UNKNOWN,
    UNTRUSTED,
    Condition,
    Example,
    Notice,
    beat_of,
    condition_of,
    decide,
    quiet_until,
)
from syncline.store.alerts import Alert
from syncline.store.health import Health

NOW = 1_767_582_000.0
RULES = Notify(sns="arn:aws:sns:eu-central-1:123456789012:syncline-alerts")
SYNC = Sync(name="a", kind="images", fresh_within="2h")
FAILS = Condition(FAILING, NOW, ("FORBIDDEN",))
WELL = Condition(IN_SYNC, NOW)


def told(*conditions: Condition, rules: Notify = RULES, apart: float = HOUR + 1) -> list[str | None]:
    """Return the events of some conditions, each a time after the one before."""
    alert, now, events = Alert(), NOW, list[str | None]()
    for condition in conditions:
        alert, event = decide(alert, condition, rules, now)
        events.append(event)
        now += apart
    return events


def run_of(status: RunStatus = RunStatus.DONE, scope: Scope = EVERYTHING, name: str = "r", **counts: int) -> Run:
    return Run(name, "a", 1, Trigger.SCHEDULE, scope, NOW - 10, status, ended=NOW, counts=Counts(**counts))


def test_a_change_of_state_is_notified_once() -> None:
    assert told(WELL, FAILS, FAILS, FAILS, WELL, WELL) == [None, FAILING, None, None, IN_SYNC, None]


def test_a_further_code_is_another_cause_and_one_less_is_not() -> None:
    both = Condition(FAILING, NOW, ("FORBIDDEN", "NOT_FOUND"))
    assert told(FAILS, both, FAILS, both, WELL) == [FAILING, FAILING, None, None, IN_SYNC]


def test_what_is_not_known_leaves_the_state_as_it_was() -> None:
    unknown = Condition(UNKNOWN)
    assert told(unknown, FAILS, unknown, FAILS, unknown, WELL) == [None, FAILING, None, None, None, IN_SYNC]


def test_a_pause_silences() -> None:
    paused = Condition(PAUSED)
    assert told(FAILS, paused, paused, FAILS, paused, WELL) == [FAILING, None, None, None, None, IN_SYNC]


def test_an_acknowledged_failure_is_not_failing() -> None:
    acknowledged = Condition(ACKNOWLEDGED)
    rules = RULES.model_copy(update={"reminders": "1h"})
    assert told(FAILS, acknowledged, acknowledged, WELL, rules=rules) == [FAILING, None, None, None]
    assert told(FAILS, acknowledged, FAILS, rules=rules) == [FAILING, None, FAILING]


def test_only_the_chosen_states_are_notified() -> None:
    rules = RULES.model_copy(update={"states": ("stale",)})
    assert told(FAILS, Condition(CONFLICT), Condition(STALE), WELL, rules=rules) == [None, None, STALE, IN_SYNC]


def test_a_reminder_follows_while_the_state_lasts() -> None:
    rules = RULES.model_copy(update={"reminders": "4h"})
    events = told(*[FAILS] * 9, WELL, WELL, rules=rules, apart=HOUR)
    assert events == [FAILING, None, None, None, REMINDER, None, None, None, REMINDER, IN_SYNC, None]


def test_a_hundred_flaps_in_an_hour_are_three_notifications_and_the_last_state_follows() -> None:
    alert, events = Alert(), list[str]()
    for number in range(100):
        alert, event = decide(alert, FAILS if number % 2 == 0 else WELL, RULES, NOW + number * 36)
        events += [event] if event else []
    assert events == [FAILING, IN_SYNC, FLAPPING]
    alert, event = decide(alert, FAILS, RULES, NOW + 3700)
    assert event is None
    assert alert.wake == NOW + 3700 + HOUR
    assert decide(alert, FAILS, RULES, alert.wake)[1] is None  # the third one said so already
    assert decide(alert, WELL, RULES, alert.wake)[1] is None
    quiet, _ = decide(alert, WELL, RULES, NOW + 3800)
    assert decide(quiet, WELL, RULES, NOW + 3800 + HOUR)[1] == IN_SYNC


CONDITIONS = st.one_of(
    st.builds(Condition, st.sampled_from([IN_SYNC, CONFLICT, STALE, UNKNOWN, PAUSED, ACKNOWLEDGED])),
    st.builds(Condition, st.just(FAILING), codes=st.sets(st.sampled_from("ABCDEF"), min_size=1).map(tuple)),
)
RULE_SETS = st.builds(
    lambda reminders, quiet, urgent: RULES.model_copy(
        update={"reminders": reminders, "quiet": quiet, "urgent": urgent}
    ),
    st.sampled_from([None, "1h", "4h"]),
    st.sampled_from([None, "22:00-07:00 Europe/Berlin", "01:30-02:30 America/New_York"]),
    st.sampled_from([(), ("failing",)]),
)
STEPS = st.lists(st.tuples(CONDITIONS, st.one_of(st.floats(0, 600), st.floats(0, 50_000))), max_size=25)


@given(STEPS, RULE_SETS)
@settings(deadline=None)
def test_no_hour_has_more_than_three_notifications(steps: list[tuple[Condition, float]], rules: Notify) -> None:
    alert, now, sent = Alert(), NOW, list[float]()
    for condition, seconds in steps:
        now += seconds
        alert, event = decide(alert, condition, rules, now)
        sent += [now] if event else []
    assert all(later - at >= HOUR for at, later in zip(sent, sent[MOST_AN_HOUR:], strict=False))


@given(STEPS, RULE_SETS)
@settings(deadline=None)
def test_the_same_condition_again_is_silent_until_the_time_that_was_noted(
    steps: list[tuple[Condition, float]], rules: Notify
) -> None:
    """So the watch, which looks at that time alone, misses nothing."""
    alert, now = Alert(), NOW
    for condition, seconds in steps:
        now += seconds
        alert, _ = decide(alert, condition, rules, now)
        end = now + 100 * HOUR if alert.wake is None else alert.wake
        for share in (0.0, 0.3, 0.999):
            assert decide(alert, condition, rules, now + (end - now) * share)[1] is None
        assert alert.wake is None or alert.wake > now


@given(STEPS, RULE_SETS, CONDITIONS.filter(lambda each: each.state in {*BAD, IN_SYNC}))
@settings(deadline=None)
def test_the_last_state_is_notified_in_the_end(
    steps: list[tuple[Condition, float]], rules: Notify, last: Condition
) -> None:
    alert, now = Alert(), NOW
    for condition, seconds in steps:
        now += seconds
        alert, _ = decide(alert, condition, rules, now)
    alert, _ = decide(alert, last, rules, now)
    for _ in range(10):
        if alert.wake is None:
            break
        now = max(now, alert.wake)
        alert, _ = decide(alert, last, rules, now)
    assert alert.told == last.state
    assert set(last.codes) <= set(alert.codes)


@given(STEPS, RULE_SETS)
@settings(deadline=None)
def test_a_clock_that_was_an_hour_ahead_delays_nothing_for_longer_than_its_rules(
    steps: list[tuple[Condition, float]], rules: Notify
) -> None:
    rules = rules.model_copy(update={"quiet": None})
    alert, now = Alert(), NOW + HOUR
    for condition, seconds in steps:
        now += min(seconds, 60)
        alert, _ = decide(alert, condition, rules, now)
    now -= HOUR
    alert, _ = decide(alert, WELL, rules, now)
    assert alert.wake is None or alert.wake <= now + HOUR


@pytest.mark.parametrize(
    ("quiet", "hour", "until"),
    [
        ("22:00-07:00 Europe/Berlin", "2026-01-05T21:59", None),
        ("22:00-07:00 Europe/Berlin", "2026-01-05T22:00", "2026-01-06T07:00"),
        ("22:00-07:00 Europe/Berlin", "2026-01-06T03:00", "2026-01-06T07:00"),
        ("22:00-07:00 Europe/Berlin", "2026-01-06T07:00", None),
        ("12:00-13:00 Europe/Berlin", "2026-01-06T12:30", "2026-01-06T13:00"),
        ("12:00-13:00 Europe/Berlin", "2026-01-06T13:30", None),
        ("22:00-07:00 Europe/Berlin", "2026-03-28T23:00", "2026-03-29T07:00"),  # the clocks change in this night
        (None, "2026-01-06T03:00", None),
    ],
)
def test_quiet_hours_end_at_their_time_of_day(quiet: str | None, hour: str, until: str | None) -> None:
    zone = ZoneInfo("Europe/Berlin")
    now = dt.datetime.fromisoformat(hour).replace(tzinfo=zone).timestamp()
    end = None if until is None else dt.datetime.fromisoformat(until).replace(tzinfo=zone).timestamp()
    assert quiet_until(quiet, now) == end


def test_quiet_hours_have_their_time_zone_on_a_machine_without_the_database_of_time_zones() -> None:
    """Such as the image of a Lambda function."""
    noon = dt.datetime(2026, 1, 6, 12, 30, tzinfo=ZoneInfo("Europe/Berlin")).timestamp()
    zoneinfo.reset_tzpath(())
    ZoneInfo.clear_cache()
    try:
        assert quiet_until("12:00-13:00 Europe/Berlin", noon) == noon + HOUR / 2
    finally:
        zoneinfo.reset_tzpath()
    pinned = (Path(__file__).parents[3] / "requirements" / "layer.txt").read_text()
    assert "\ntzdata==" in pinned


def test_quiet_hours_hold_what_is_not_urgent_and_the_state_at_their_end_counts() -> None:
    rules = RULES.model_copy(update={"quiet": "00:00-06:00", "urgent": ("stale",)})
    night = dt.datetime(2026, 1, 6, 3, tzinfo=dt.UTC).timestamp()
    alert, event = decide(Alert(told=IN_SYNC), FAILS, rules, night)
    assert (event, alert.wake) == (None, night + 3 * HOUR)
    assert decide(alert, Condition(STALE, night), rules, night + 1)[1] == STALE
    assert decide(alert, WELL, rules, night + 3 * HOUR)[1] is None
    assert decide(alert, FAILS, rules, night + 3 * HOUR)[1] == FAILING


def test_a_recovery_that_is_held_in_quiet_hours_does_not_delay_an_urgent_state() -> None:
    rules = RULES.model_copy(update={"quiet": "00:00-06:00", "urgent": ("stale",)})
    night = dt.datetime(2026, 1, 6, 1, tzinfo=dt.UTC).timestamp()
    well = Condition(IN_SYNC, night, stale_at=night + HOUR)
    alert, event = decide(Alert(told=FAILING), well, rules, night)
    assert (event, alert.wake) == (None, night + HOUR)


# -- the state of a sync


HEALTHY = Health(in_sync=True, since=NOW - 100, verified=NOW - 50, expected=NOW - 1000)


@pytest.mark.parametrize(
    ("health", "last", "codes", "state"),
    [
        (Health(), None, (), STALE),
        (Health(expected=NOW - 100), None, (), UNKNOWN),
        (Health(expected=NOW - 7300), None, (), STALE),
        (HEALTHY, None, (), IN_SYNC),
        (replace(HEALTHY, verified=NOW - 7300, expected=0.0), None, (), STALE),
        (replace(HEALTHY, in_sync=False), run_of(failed=1), ("FORBIDDEN",), FAILING),
        (replace(HEALTHY, in_sync=False), run_of(conflict=1), (), CONFLICT),
        (replace(HEALTHY, in_sync=False), run_of(conflict=1, untrusted=1), (), UNTRUSTED),
        (replace(HEALTHY, in_sync=False), run_of(untrusted=1), ("FORBIDDEN",), FAILING),
        (replace(HEALTHY, in_sync=False), run_of(conflict=1), ("FORBIDDEN",), FAILING),
        (replace(HEALTHY, in_sync=False), run_of(acknowledged=1), (), ACKNOWLEDGED),
        (replace(HEALTHY, in_sync=False), run_of(RunStatus.CANCELLED, cancelled=1), (), UNKNOWN),
        (replace(HEALTHY, in_sync=False), run_of(RunStatus.LOST, queued=1), (), FAILING),
        (replace(HEALTHY, in_sync=False), run_of(moved=1), (), UNKNOWN),  # a retry that waits for a full scan
        (replace(HEALTHY, in_sync=False, paused=NOW), run_of(failed=1), ("FORBIDDEN",), PAUSED),
    ],
)
def test_the_state_follows_from_health_failures_and_the_last_run(
    health: Health, last: Run | None, codes: tuple[str, ...], state: str
) -> None:
    assert condition_of(SYNC, health, last, codes, NOW).state == state


def test_a_disabled_sync_is_silent() -> None:
    off = SYNC.model_copy(update={"enabled": False})
    assert condition_of(off, replace(HEALTHY, in_sync=False), run_of(), ("FORBIDDEN",), NOW).state == PAUSED


# -- heartbeats


def test_a_heartbeat_follows_full_runs_and_every_failure() -> None:
    part = Scope.of(["team/app"])
    running = replace(run_of(RunStatus.RUNNING), ended=None)
    beats = [
        beat_of(runs)
        for runs in (
            [],
            [running],
            [run_of()],
            [run_of(failed=1)],
            [run_of(known=1)],
            [run_of(conflict=1)],
            [run_of(RunStatus.LOST)],
            [run_of(scope=part, name="p"), run_of()],
            [run_of(scope=part, failed=1, name="p"), run_of()],
            [replace(running, scope=part), run_of()],
            [replace(run_of(), plan=True)],
        )
    ]
    phases = [None if beat is None else beat.phase for beat in beats]
    assert phases == [None, "start", "success", "fail", "fail", "fail", "fail", "success", "fail", "success", None]


# -- the text


def notice(**changes: object) -> Notice:
    examples = (Example.of("team/app:v1", "FORBIDDEN", "the robot may not push"),)
    made = Notice("id-1", FAILING, "a", FAILING, NOW, NOW, 10_000, ("FORBIDDEN",), examples)
    return replace(made, **changes)  # type: ignore[arg-type]


def test_a_notification_says_what_since_when_how_many_and_what_to_run() -> None:
    text = notice().text
    assert notice().title == "[syncline] a is failing: 10,000 items (FORBIDDEN)"
    for part in ("Since 2026-01-05 03:00 UTC", "team/app:v1", "the robot may not push", "and 9,999 more"):
        assert part in text
    assert "Run: syncline report a" in text
    assert "Run: syncline retry a" in text


def test_a_name_cannot_forge_lines_or_fill_the_message_and_a_secret_is_not_shown() -> None:
    register("hunter2-hunter2")
    bad = Example.of("x\r\nBcc: all@example\x1b[31m" + "n" * 1000, "FORBIDDEN", "password hunter2-hunter2\n" * 100)
    text = notice(examples=(bad,)).text
    assert "hunter2-hunter2" not in text
    assert max(map(len, text.splitlines())) < 600
    assert not [line for line in text.splitlines() if line.startswith("Bcc")]
    assert "\x1b" not in text
    assert "\n" not in notice(sync="a\nb").title


def test_a_notification_is_the_same_after_it_was_stored() -> None:
    assert Notice.from_json(notice().to_json()) == notice()
    assert set(notice().public()) == {
        *("version", "id", "event", "sync", "state", "since", "at", "count", "codes", "examples", "stack"),
        *("title", "text", "commands"),
    }
