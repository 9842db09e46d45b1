"""The next time of a schedule, which EventBridge Scheduler does not tell."""

from __future__ import annotations

import calendar
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from syncline.schedule import Cron, Rate, parse_schedule

_SATURDAY: Final = 5  # as datetime counts weekdays
_FARTHEST: Final = 8 * 366 + 2  # days: 29 February may be eight years away


def next_time(schedule: str, timezone: str | None, after: float, since: float) -> float | None:
    """Return the first time of ``schedule`` after ``after`` in Unix seconds, or None if there is none.

    ``since`` is when a ``rate`` was last known to begin counting. ``timezone`` is for ``cron``; UTC when None.
    """
    parsed = parse_schedule(schedule)
    if isinstance(parsed, Rate):
        return since + parsed.seconds * max(1, -(-(after - since) // parsed.seconds))
    zone = ZoneInfo(timezone or "UTC")
    for moment in _moments(parsed, datetime.fromtimestamp(after, zone).date()):
        local = moment.replace(tzinfo=zone)
        # An hour that summer time leaves out does not come.
        exists = local.astimezone(UTC).astimezone(zone).replace(tzinfo=None) == moment
        if exists and local.timestamp() > after:
            return local.timestamp()
    return None


def _moments(cron: Cron, first: date) -> Iterator[datetime]:
    """Yield every time of a schedule from the day ``first`` on, without a time zone."""
    for offset in range(_FARTHEST):
        day = first + timedelta(days=offset)
        if day.month in cron.months and day.year in cron.years and _is_day(cron, day):
            for hour in sorted(cron.hours):
                for minute in sorted(cron.minutes):
                    yield datetime.combine(day, time(hour, minute))


def _is_day(cron: Cron, day: date) -> bool:
    last = calendar.monthrange(day.year, day.month)[1]
    wanted = cron.day_of_month
    if wanted == "?":
        return _is_weekday(cron, day, last)
    if wanted == "L":
        return day.day == last
    if isinstance(wanted, str):  # such as 15W
        return day.day == _nearest_working_day(day.replace(day=min(int(wanted[:-1]), last)), last)
    return day.day in wanted


def _nearest_working_day(day: date, last: int) -> int:
    """Return the day of the month nearest to ``day`` that is no Saturday or Sunday, in the same month."""
    if day.weekday() == _SATURDAY:
        return day.day - 1 if day.day > 1 else 3
    if day.weekday() > _SATURDAY:
        return day.day + 1 if day.day < last else day.day - 2
    return day.day


def _is_weekday(cron: Cron, day: date, last: int) -> bool:
    weekday = day.isoweekday() % 7 + 1
    wanted = cron.day_of_week
    if not isinstance(wanted, str):
        return weekday in wanted
    if wanted == "L":
        return weekday == 7
    number, mark, nth = wanted[0], wanted[1], wanted[2:]
    in_order = day.day + 7 > last if mark == "L" else (day.day - 1) // 7 + 1 == int(nth)
    return weekday == int(number) and in_order
