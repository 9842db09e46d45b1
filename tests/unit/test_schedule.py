"""Schedules: texts that EventBridge Scheduler accepts are accepted, and others are refused with the allowed form."""

from __future__ import annotations

import contextlib
import re
import zoneinfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline.schedule import check_schedule, check_timezone

RIGHT = [
    "rate(1 minute)",
    "rate(1 hour)",
    "rate(1 day)",
    "rate(15 minutes)",
    "rate(36 hours)",
    "rate(365 days)",
    "cron(0 3 * * ? *)",
    "cron(0/15 8-18 ? * MON-FRI *)",
    "cron(*/10 * ? * 2,3,4 2026)",
    "cron(0-15/1 8-8 ? * 2,3,4,5,6,7 *)",
    "cron(0 0 1-31/30 JAN,APR,7-9 ? 2026-2030)",
    "cron(0 0 L * ? *)",
    "cron(0 0 15W * ? *)",
    "cron(0 0 ? * L *)",
    "cron(0 0 ? * 6L *)",
    "cron(0 0 ? * MON#1 *)",
    "cron(0 0 29 2 ? *)",
    "cron(59 23 31 12 ? 2199)",
    "cron(0 0 30,31 2-3 ? *)",
]

WRONG = [
    ("", "write rate(1 hour) or cron(0 3 * * ? *)"),
    ("hourly", "write rate(1 hour)"),
    ("@daily", "write rate(1 hour)"),
    ("0 3 * * ? *", "write rate(1 hour) or cron(0 3 * * ? *)"),
    ("Rate(1 hour)", "write rate(1 hour)"),
    (" rate(1 hour)", "write rate(1 hour)"),
    ("rate(1 hour) ", "write rate(VALUE UNIT)"),
    ("rate(1 hour)\n", "write rate(VALUE UNIT)"),
    ("at(2026-01-01T00:00:00)", "once only"),
    ("rate(1)", "rate(15 minutes)"),
    ("rate(hour)", "rate(15 minutes)"),
    ("rate(0 minutes)", "counts from 1"),
    ("rate(05 minutes)", "without leading zeros"),
    ("rate(-1 hours)", "write rate(VALUE UNIT)"),
    ("rate(1.5 hours)", "write rate(VALUE UNIT)"),
    ("rate(30 seconds)", "minutes, hours or days"),
    ("rate(1 week)", "minutes, hours or days"),
    ("rate(1 hours)", "write rate(1 hour)"),
    ("rate(2 hour)", "write rate(2 hours)"),
    ("rate(2  hours)", "write rate(VALUE UNIT)"),
    ("rate(2 Hours)", "write rate(VALUE UNIT)"),
    ("rate(1 hour", "write rate(VALUE UNIT)"),
    ("rate(" + "1" * 300 + " hours)", "longer than 256"),
    ("cron(0 3 * * ? *", "has no closing parenthesis"),
    ("cron()", "has 0 fields; six are needed"),
    ("cron(0 3 * * ?)", "has 5 fields; six are needed"),
    ("cron(0 0 3 * * ? *)", "has 7 fields"),
    ("cron(0  3 * * ? *)", "exactly one between fields"),
    ("cron(0 3 * * ? * )", "exactly one between fields"),
    ("cron(60 3 * * ? *)", "minutes: 60 is out of range; allowed are 0-59, with , - * /"),
    ("cron(0 24 * * ? *)", "hours: 24 is out of range; allowed are 0-23"),
    ("cron(0 3 0 * ? *)", "day of month: 0 is out of range; allowed are 1-31"),
    ("cron(0 3 32 * ? *)", "day of month: 32 is out of range"),
    ("cron(0 3 * 13 ? *)", "month: 13 is out of range; allowed are 1-12 or JAN-DEC"),
    ("cron(0 3 * 0 ? *)", "month: 0 is out of range"),
    ("cron(0 3 ? * 0 *)", "day of week: 0 is out of range; allowed are 1-7 or SUN-SAT"),
    ("cron(0 3 ? * 8 *)", "day of week: 8 is out of range"),
    ("cron(0 3 * * ? 1969)", "year: 1969 is out of range; allowed are 1970-2199"),
    ("cron(0 3 * * ? 2200)", "year: 2200 is out of range"),
    ("cron(0 3 * * * *)", "one of day of month and day of week must be ?"),
    ("cron(0 3 ? * ? *)", "one of day of month and day of week must be ?"),
    ("cron(0 3 1 * MON *)", "one of day of month and day of week must be ?"),
    ("cron(? 3 * * ? *)", "minutes: invalid value '?'"),
    ("cron(0 3 * ? ? *)", "month: invalid value '?'"),
    ("cron(5-1 3 * * ? *)", "the range 5-1 is descending"),
    ("cron(0 3 ? * SAT-SUN *)", "the range SAT-SUN is descending"),
    ("cron(0 3 ? * mon *)", "write MON in capitals"),
    ("cron(0 3 * jan ? *)", "write JAN in capitals"),
    ("cron(0 3 ? * 2/2 *)", "steps with / are not allowed in this field"),
    ("cron(0/0 3 * * ? *)", "a step counts from 1"),
    ("cron(0/60 3 * * ? *)", "larger than the field"),
    ("cron(0 3 1 */FEB ? *)", "month: invalid value 'FEB'"),
    ("cron(/5 3 * * ? *)", "a value is missing"),
    ("cron(*/ 3 * * ? *)", "a value is missing"),
    ("cron(1, 3 * * ? *)", "a value is missing"),
    ("cron(1- 3 * * ? *)", "a value is missing"),
    ("cron(*,1 3 * * ? *)", "invalid value '*'"),
    ("cron(H 3 * * ? *)", "invalid value 'H'"),
    ("cron(0 3 32W * ? *)", "invalid value '32W'"),
    ("cron(0 3 L,15 * ? *)", "invalid value 'L'"),
    ("cron(0 3 LW * ? *)", "invalid value 'LW'"),
    ("cron(0 3 ? * MON#6 *)", "invalid value"),
    ("cron(0 3 ? * MON#1,TUE#2 *)", "invalid value"),
    ("cron(0 3 31 2 ? *)", "day of month: none of the months has 31 days"),
    ("cron(0 3 31 4,6,9,11 ? *)", "day of month: none of the months has 31 days"),
    ("cron(٣ 3 * * ? *)", "invalid value"),
]  # fmt: skip


@pytest.mark.parametrize("text", RIGHT)
def test_schedules_of_the_service_are_accepted(text: str) -> None:
    assert check_schedule(text) == text


@pytest.mark.parametrize(("text", "words"), WRONG)
def test_an_invalid_schedule_is_refused_with_the_allowed_form(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        check_schedule(text)


@given(st.integers(1, 10**9 - 1), st.sampled_from(["minute", "hour", "day"]))
def test_the_unit_of_a_rate_agrees_with_its_number(value: int, unit: str) -> None:
    singular, plural = f"rate({value} {unit})", f"rate({value} {unit}s)"
    right, wrong = (singular, plural) if value == 1 else (plural, singular)
    assert check_schedule(right) == right
    with pytest.raises(ValueError, match=re.escape(right)):
        check_schedule(wrong)


def numbers(low: int, high: int) -> st.SearchStrategy[str]:
    """Draw a valid field: a list of numbers, ascending ranges and steps."""
    one = st.integers(low, high).map(str)
    span = st.tuples(st.integers(low, high), st.integers(low, high)).map(lambda two: f"{min(two)}-{max(two)}")
    step = st.tuples(one | span | st.just("*"), st.integers(1, high - low)).map(lambda two: f"{two[0]}/{two[1]}")
    return st.just("*") | st.lists(one | span | step, min_size=1, max_size=4).map(",".join)


MINUTES, HOURS, DAYS, MONTHS, YEARS = (
    numbers(0, 59),
    numbers(0, 23),
    numbers(1, 28),
    numbers(1, 12),
    numbers(1970, 2199),
)


@given(MINUTES, HOURS, DAYS, MONTHS, YEARS)
def test_valid_fields_are_accepted(minute: str, hour: str, day: str, month: str, year: str) -> None:
    assert check_schedule(f"cron({minute} {hour} {day} {month} ? {year})")


@given(MINUTES, HOURS, st.integers().filter(lambda n: not 1 <= n <= 12), st.sampled_from(["{}", "1-{}", "1,{}"]))
def test_a_number_out_of_range_is_refused_in_every_form(minute: str, hour: str, number: int, form: str) -> None:
    with pytest.raises(ValueError, match=r"^month: "):
        check_schedule(f"cron({minute} {hour} ? {form.format(number)} * *)")


@given(st.text(alphabet="rate(cron)0123456789 *?-,/LW#MON hours", max_size=40) | st.text(max_size=20))
def test_any_other_text_raises_a_value_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert check_schedule(text) == text


def test_every_time_zone_of_the_database_is_accepted() -> None:
    assert all(check_timezone(name) == name for name in sorted(zoneinfo.available_timezones())[:40])
    assert check_timezone("Asia/Kolkata") == "Asia/Kolkata"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("asia/kolkata", "did you mean Asia/Kolkata?"),
        ("Asia/Kolkatta", "did you mean Asia/Kolkata?"),
        ("IST+5", "write a name such as"),
        ("+05:30", "write a name such as"),
        ("../etc/passwd", "write a name such as"),
        ("", "write a name such as"),
    ],
)
def test_other_time_zones_are_refused_with_a_suggestion(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        check_timezone(text)
