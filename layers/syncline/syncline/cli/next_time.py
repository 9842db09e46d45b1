"""When a schedule comes next. EventBridge Scheduler itself does not tell.

The expressions were checked by :mod:`syncline.schedule` when they were applied, so they are only read here.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Final
from zoneinfo import ZoneInfo

_RATE: Final = re.compile(r"rate\((\d+) (minute|hour|day)s?\)")
_UNIT_SECONDS: Final = {"minute": 60, "hour": 3600, "day": 86_400}
_MONTHS: Final = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_DAYS: Final = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
_NUMBERS: Final = {name: str(n) for names in (_MONTHS, _DAYS) for n, name in enumerate(names, 1)}
_SATURDAY: Final = 5  # as datetime counts weekdays
_FARTHEST: Final = 8 * 366 + 2  # days: 29 February may be eight years away


def next_time(schedule: str, timezone: str | None, after: float, since: float) -> float | None:
    """When ``schedule`` comes next after ``after``, as Unix seconds; None where it comes no more.

    ``since`` is when a ``rate`` was last known to begin counting. ``timezone`` is for ``cron``; UTC when None.
    """
    if match := _RATE.fullmatch(schedule):
        step = int(match[1]) * _UNIT_SECONDS[match[2]]
        return since + step * max(1, -(-(after - since) // step))
    cron = _Cron.parse(schedule)
    zone = ZoneInfo(timezone or "UTC")
    for moment in cron.moments(datetime.fromtimestamp(after, zone).date()):
        local = moment.replace(tzinfo=zone)
        # An hour that summer time leaves out does not come.
        exists = local.astimezone(UTC).astimezone(zone).replace(tzinfo=None) == moment
        if exists and local.timestamp() > after:
            return local.timestamp()
    return None


@dataclass(frozen=True, slots=True)
class _Cron:
    """The six fields; numbers where a field has only those, else its text."""

    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    day_of_month: str
    months: frozenset[int]
    day_of_week: str
    years: frozenset[int]

    @classmethod
    def parse(cls, text: str) -> _Cron:
        fields = text.removeprefix("cron(").removesuffix(")").split()
        fields = [re.sub(r"[A-Z]{3}", lambda match: _NUMBERS[match[0]], field) for field in fields]
        minutes, hours, day_of_month, months, day_of_week, years = fields
        return cls(
            tuple(sorted(_numbers(minutes, 0, 59))),
            tuple(sorted(_numbers(hours, 0, 23))),
            day_of_month,
            frozenset(_numbers(months, 1, 12)),
            day_of_week,
            frozenset(_numbers(years, 1970, 2199)),
        )

    def moments(self, first: date) -> Iterator[datetime]:
        """Every moment it names from ``first`` on, without a time zone."""
        for offset in range(_FARTHEST):
            day = first + timedelta(days=offset)
            if day.month in self.months and day.year in self.years and self._names(day):
                for hour in self.hours:
                    for minute in self.minutes:
                        yield datetime.combine(day, time(hour, minute))

    def _names(self, day: date) -> bool:
        if self.day_of_month == "?":
            return any(_is_weekday(part, day) for part in self.day_of_week.split(","))
        return any(_is_day(part, day) for part in self.day_of_month.split(","))


def _numbers(text: str, low: int, high: int) -> set[int]:
    """The numbers of a field: lists, ranges and steps."""
    found: set[int] = set()
    for part in text.split(","):
        span, slash, step = part.partition("/")
        first, dash, last = span.partition("-")
        start = low if span == "*" else int(first)
        end = int(last) if dash else high if slash or span == "*" else start
        found.update(range(start, end + 1, int(step or 1)))
    return found


def _is_day(part: str, day: date) -> bool:
    """Whether a part of the field *day of month* names ``day``."""
    last = calendar.monthrange(day.year, day.month)[1]
    if part == "L":
        return day.day == last
    if part.endswith("W"):
        return day.day == _nearest_working_day(day.replace(day=min(int(part[:-1]), last)), last)
    return day.day in _numbers(part, 1, 31)


def _nearest_working_day(day: date, last: int) -> int:
    """The day of the month nearest to ``day`` that is no Saturday or Sunday, in the same month."""
    if day.weekday() == _SATURDAY:
        return day.day - 1 if day.day > 1 else 3
    if day.weekday() > _SATURDAY:
        return day.day + 1 if day.day < last else day.day - 2
    return day.day


def _is_weekday(part: str, day: date) -> bool:
    """Whether a part of the field *day of week*, 1 for Sunday to 7 for Saturday, names ``day``."""
    weekday = day.isoweekday() % 7 + 1
    if part == "L":
        return weekday == 7
    if part.endswith("L"):
        last = calendar.monthrange(day.year, day.month)[1]
        return weekday == int(part[:-1]) and day.day + 7 > last
    if "#" in part:
        wanted, _, nth = part.partition("#")
        return weekday == int(wanted) and (day.day - 1) // 7 + 1 == int(nth)
    return weekday in _numbers(part, 1, 7)
