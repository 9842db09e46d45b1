"""Schedules of EventBridge Scheduler: ``rate(1 hour)`` or ``cron(0 3 * * ? *)``; and durations: ``12h``.

The service refuses an invalid expression only with "Invalid Schedule Expression", so :func:`parse_schedule` reports the
invalid field and its allowed values before. It is at least as strict as the service: ranges must rise, names are in
capitals, and one space separates fields.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from typing import Final, TypeAlias

_LONGEST: Final = 256  # characters; the limit of ScheduleExpression
_RATE: Final = re.compile(r"rate\(([0-9]{1,9}) (minute|hour|day)(s?)\)")
_SECONDS: Final = {"minute": 60, "hour": 3600, "day": 86_400}
DURATION: Final = re.compile(r"([1-9][0-9]{0,5})([smhd])")
_SECONDS_OF: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_CRON: Final = re.compile(r"cron\((.*)\)")
_MONTHS: Final = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_DAYS: Final = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
_LONGEST_MONTH: Final = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


Days: TypeAlias = frozenset[int] | str
"""The numbers of a field for days, or a mark for days that differ from month to month: ``L``, ``15W``, ``2#1``."""


@dataclass(frozen=True, slots=True)
class Rate:
    """A schedule with an interval in seconds."""

    seconds: int


@dataclass(frozen=True, slots=True)
class Cron:
    """A calendar schedule. Days of the week count from 1 for Sunday; one of the two fields for days is ``?``."""

    minutes: frozenset[int]
    hours: frozenset[int]
    day_of_month: Days
    months: frozenset[int]
    day_of_week: Days
    years: frozenset[int]


@dataclass(frozen=True, slots=True)
class _Field:
    """A field of a cron expression. `marks` lists its special characters; `special` matches a field that is one mark."""

    name: str
    low: int
    high: int
    marks: str = ", - * /"
    names: Mapping[str, int] = field(default_factory=dict)
    special: re.Pattern[str] | None = None

    @property
    def allowed(self) -> str:
        names = f" or {next(iter(self.names))}-{list(self.names)[-1]}" if self.names else ""
        return f"{self.low}-{self.high}{names}, with {self.marks}"

    def error(self, why: str) -> ValueError:
        return ValueError(f"{self.name}: {why}; allowed are {self.allowed}")


# As in the user guide of EventBridge Scheduler, "Cron-based schedules": steps (/) are not allowed for days of the week.
_MINUTES: Final = _Field("minutes", 0, 59)
_HOURS: Final = _Field("hours", 0, 23)
_DAY_OF_MONTH: Final = _Field(
    "day of month", 1, 31, ", - * ? / L W", special=re.compile(r"\?|L|([1-9]|[12][0-9]|3[01])W")
)
_MONTH: Final = _Field("month", 1, 12, names={name: number for number, name in enumerate(_MONTHS, 1)})
_DAY_OF_WEEK: Final = _Field(
    "day of week",
    1,
    7,
    ", - * ? L #",
    {name: number for number, name in enumerate(_DAYS, 1)},
    re.compile(rf"\?|L|([1-7]|{'|'.join(_DAYS)})(L|#[1-5])"),
)
_YEAR: Final = _Field("year", 1970, 2199)


def seconds_of(duration: str) -> float:
    """Return a valid duration in seconds."""
    match = DURATION.fullmatch(duration)
    assert match is not None
    return float(match[1]) * _SECONDS_OF[match[2]]


def check_schedule(text: str) -> str:
    """Return `text` if it is a schedule; raises ValueError as :func:`parse_schedule` does."""
    parse_schedule(text)
    return text


def parse_schedule(text: str) -> Rate | Cron:
    """Return a schedule. Raises ValueError naming the invalid part of `text` and the allowed values."""
    if len(text) > _LONGEST:
        raise ValueError(f"is longer than {_LONGEST} characters")
    if text.startswith("rate("):
        return _parse_rate(text)
    if text.startswith("cron("):
        return _parse_cron(text)
    if text.startswith("at("):
        raise ValueError("at(...) runs once only; use rate(...) or cron(...), and `syncline run` for a single run")
    raise ValueError("is not a schedule; write rate(1 hour) or cron(0 3 * * ? *)")


def _parse_rate(text: str) -> Rate:
    match = _RATE.fullmatch(text)
    if match is None:
        raise ValueError(
            "is not a rate; write rate(VALUE UNIT) with minutes, hours or days, for example rate(15 minutes)"
        )
    value, unit, plural = int(match[1]), match[2], match[3]
    if value < 1 or match[1].startswith("0"):
        raise ValueError("a rate counts from 1, without leading zeros; for example rate(15 minutes)")
    if (value == 1) == bool(plural):
        right = f"rate({value} {unit}{'' if value == 1 else 's'})"
        raise ValueError(f"EventBridge wants the singular for 1 and the plural for more; write {right}")
    return Rate(value * _SECONDS[unit])


def _parse_cron(text: str) -> Cron:
    match = _CRON.fullmatch(text)
    if match is None:
        raise ValueError("has no closing parenthesis; write cron(MINUTES HOURS DAY-OF-MONTH MONTH DAY-OF-WEEK YEAR)")
    parts = match[1].split(" ")
    if len(parts) != 6 or not all(parts):
        given = len(match[1].split())
        raise ValueError(
            f"has {given} fields; six are needed, one space between: minutes, hours, day of month, month, day of week, "
            "year; for example cron(0 3 * * ? *)"
            if given != 6
            else "has more than one space between fields, or one at an end; write exactly one between fields"
        )
    minutes, hours, day_of_month, month, day_of_week, year = parts
    if (day_of_month == "?") == (day_of_week == "?"):
        raise ValueError(
            "one of day of month and day of week must be ? and the other not; "
            "for example cron(0 3 * * ? *) for every day or cron(0 3 ? * MON-FRI *)"
        )
    cron = Cron(
        _numbers(_MINUTES, minutes),
        _numbers(_HOURS, hours),
        _days(_DAY_OF_MONTH, day_of_month),
        _numbers(_MONTH, month),
        _days(_DAY_OF_WEEK, day_of_week),
        _numbers(_YEAR, year),
    )
    _check_day_exists(cron)
    return cron


def _days(rule: _Field, text: str) -> Days:
    """Return the numbers of a field for days, or its mark with a number in place of a day's name."""
    if rule.special is None or not rule.special.fullmatch(text):
        return _numbers(rule, text)
    name, rest = text[:3], text[3:]
    return f"{rule.names[name]}{rest}" if name in rule.names else text


def _numbers(rule: _Field, text: str) -> frozenset[int]:
    """Return the numbers of a field: ``*``, or a list of parts."""
    if text == "*":
        return frozenset(range(rule.low, rule.high + 1))
    return frozenset().union(*(_span(rule, part) for part in text.split(",")))


def _span(rule: _Field, text: str) -> range:
    """Return the numbers of one part of a list: ``5``, ``1-5``, and ``5``, ``1-5`` and ``*`` with ``/step``."""
    span, slash, step_text = text.partition("/")
    if slash and "/" not in rule.marks:
        raise rule.error("steps with / are not allowed in this field")
    step = _number(rule, step_text, names=False) if slash else 1
    if step < 1:
        raise rule.error("a step counts from 1")
    first, dash, last = span.partition("-")
    if span == "*" and slash:
        low, high = rule.low, rule.high
    else:
        low = _in_range(rule, first)
        high = _in_range(rule, last) if dash else (rule.high if slash else low)
    if low > high:
        raise rule.error(f"the range {span} is descending; write an ascending one, or two parts with a comma")
    if slash and step > rule.high - rule.low:
        raise rule.error(f"the step {step} is larger than the field")
    return range(low, high + 1, step)


def _in_range(rule: _Field, text: str) -> int:
    number = _number(rule, text, names=True)
    if not rule.low <= number <= rule.high:
        raise rule.error(f"{number} is out of range")
    return number


def _number(rule: _Field, text: str, *, names: bool) -> int:
    if names and text in rule.names:
        return rule.names[text]
    if names and text.upper() in rule.names:
        raise rule.error(f"write {text.upper()} in capitals")
    if not re.fullmatch(r"[0-9]{1,4}", text):
        raise rule.error(f"invalid value '{text[:20]}'" if text else "a value is missing")
    return int(text)


def _check_day_exists(cron: Cron) -> None:
    """Raise ValueError for a date that does not exist, such as 31 February."""
    days = cron.day_of_month
    longest = max(_LONGEST_MONTH[month - 1] for month in cron.months)
    if not isinstance(days, str) and min(days) > longest:
        raise ValueError(f"day of month: none of the months has {min(days)} days, so it would never run")


def check_timezone(text: str) -> str:
    """Return `text` if it is a time zone of the IANA database, such as ``Asia/Kolkata``.

    Raises ValueError, with a similar name if there is one.
    """
    import zoneinfo  # noqa: PLC0415 - the functions never need it

    known = zoneinfo.available_timezones()
    if text in known or not known:  # without the database nothing can be checked
        return text
    import difflib  # noqa: PLC0415 - only for a message

    by_lower = {name.lower(): name for name in known}
    near = difflib.get_close_matches(text.lower(), by_lower, n=1, cutoff=0.7)
    hint = f"did you mean {by_lower[near[0]]}?" if near else "write a name such as Asia/Kolkata, Europe/Berlin or UTC"
    raise ValueError(f"'{text[:40]}' is not a time zone of the IANA database; {hint}")


_SATURDAY: Final = 5  # as datetime counts weekdays


_FARTHEST: Final = 8 * 366 + 2  # days: 29 February may be eight years away


def next_time(schedule: str, timezone: str | None, after: float, since: float) -> float | None:
    """Return the first time of ``schedule`` after ``after`` in Unix seconds, or None if there is none.

    EventBridge Scheduler does not report it. A ``rate`` counts from ``since``. ``timezone`` applies to ``cron``; None
    means UTC.
    """
    parsed = parse_schedule(schedule)
    if isinstance(parsed, Rate):
        return since + parsed.seconds * max(1, -(-(after - since) // parsed.seconds))
    from zoneinfo import ZoneInfo  # noqa: PLC0415 - the functions that scan never need it

    zone = ZoneInfo(timezone or "UTC")
    for moment in _moments(parsed, datetime.fromtimestamp(after, zone).date()):
        local = moment.replace(tzinfo=zone)
        # Skip times that do not exist because daylight saving time begins.
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
    """Return the weekday (Monday to Friday) nearest to ``day`` in the same month."""
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
