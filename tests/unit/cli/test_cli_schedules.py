"""The next start of a schedule."""

from __future__ import annotations

from datetime import UTC, datetime

import hypothesis
import pytest
from hypothesis import strategies as st

from syncline.schedule import next_time


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def formatted(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")


NOW = at("2026-11-21T10:15:22")  # a Saturday


@pytest.mark.parametrize(
    ("cron", "zone", "expected"),
    [
        ("cron(0 3 * * ? *)", None, "2026-11-22 03:00"),
        ("cron(16 10 * * ? *)", None, "2026-11-21 10:16"),
        ("cron(15 10 * * ? *)", None, "2026-11-22 10:15"),
        ("cron(0/20 * * * ? *)", None, "2026-11-21 10:20"),
        ("cron(5,50 8-11/3 * * ? *)", None, "2026-11-21 11:05"),
        ("cron(0 3 * * ? *)", "Asia/Kolkata", "2026-11-21 21:30"),
        ("cron(0 9 ? * MON-FRI *)", None, "2026-11-23 09:00"),
        ("cron(0 9 ? * 2#1 *)", None, "2026-12-07 09:00"),
        ("cron(0 9 ? * 6L *)", None, "2026-11-27 09:00"),
        ("cron(0 9 ? * FRIL *)", None, "2026-11-27 09:00"),
        ("cron(0 9 ? * MON#1 *)", None, "2026-12-07 09:00"),
        ("cron(0 9 ? * L *)", None, "2026-11-28 09:00"),
        ("cron(0 0 L * ? *)", None, "2026-11-30 00:00"),
        ("cron(0 0 L FEB ? *)", None, "2027-02-28 00:00"),
        ("cron(0 0 22W * ? *)", None, "2026-11-23 00:00"),
        ("cron(0 0 28W * ? *)", None, "2026-11-27 00:00"),
        ("cron(0 0 1W AUG ? *)", None, "2027-08-02 00:00"),
        ("cron(0 0 31W JAN ? *)", None, "2027-01-29 00:00"),
        ("cron(0 0 29 2 ? *)", None, "2028-02-29 00:00"),
        ("cron(0 0 1 1 ? 2026)", None, None),
        # 02:30 on 28 March 2027 does not exist in Berlin, because summer time begins.
        ("cron(30 2 28 3 ? 2027)", "Europe/Berlin", None),
    ],
)
def test_cron(cron: str, zone: str | None, expected: str | None) -> None:
    assert formatted(next_time(cron, zone, NOW, NOW)) == expected


@pytest.mark.parametrize(
    ("rate", "since", "expected"),
    [
        ("rate(1 hour)", "2026-11-21T10:00:00", "2026-11-21 11:00"),
        ("rate(15 minutes)", "2026-11-21T10:15:22", "2026-11-21 10:30"),
        ("rate(2 days)", "2026-11-10T00:00:00", "2026-11-22 00:00"),
    ],
)
def test_rate(rate: str, since: str, expected: str) -> None:
    assert formatted(next_time(rate, None, NOW, at(since))) == expected


@hypothesis.given(st.integers(0, 59), st.integers(0, 23), st.integers(0, 4 * 365 * 86_400))
def test_a_daily_time_comes_within_a_day(minute: int, hour: int, seconds: int) -> None:
    after = NOW + seconds
    upcoming = next_time(f"cron({minute} {hour} * * ? *)", "UTC", after, after)
    assert upcoming is not None
    assert 0 < upcoming - after <= 86_400
    moment = datetime.fromtimestamp(upcoming, UTC)
    assert (moment.hour, moment.minute, moment.second) == (hour, minute, 0)
