"""The schedules of syncs in EventBridge Scheduler, one per sync and named like it, and their next start."""

from __future__ import annotations

import calendar
from collections.abc import Collection, Iterable, Iterator
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any, Final
from zoneinfo import ZoneInfo

from syncline.messages import Start, encode
from syncline.model import Trigger
from syncline.schedule import Cron, Rate, parse_schedule

if TYPE_CHECKING:
    from mypy_boto3_scheduler import EventBridgeSchedulerClient
    from mypy_boto3_scheduler.type_defs import ScheduleSummaryTypeDef

    from syncline.cli.deployment import Deployment
    from syncline.config.sync import Sync


_COMPARED: Final = ("ScheduleExpression", "ScheduleExpressionTimezone", "FlexibleTimeWindow", "State", "Target")


def list_schedules(deployment: Deployment) -> Iterator[ScheduleSummaryTypeDef]:
    """Yield the schedules of the stack's group."""
    group = deployment.output("ScheduleGroupName")
    for page in deployment.scheduler.get_paginator("list_schedules").paginate(GroupName=group):
        yield from page["Schedules"]


def put_schedules(deployment: Deployment, syncs: Iterable[Sync], kept: Collection[str]) -> dict[str, str]:
    """Write the schedules of ``syncs`` if they differ, and delete all others except those named ``kept``.

    Return the change by name: created, updated, unchanged or deleted. Schedules that send to another queue are foreign
    and left alone.
    """
    group, queue = deployment.output("ScheduleGroupName"), deployment.output("DiscoverQueueArn")
    role = deployment.output("SchedulerRoleArn")
    done = {}
    for sync in syncs:
        if sync.schedule is not None:
            done[sync.name] = _put(deployment.scheduler, _arguments(sync, group, queue, role))
    ours = {each["Name"] for each in list_schedules(deployment) if each.get("Target", {}).get("Arn") in (queue, None)}
    for name in sorted(ours - done.keys() - set(kept)):
        deployment.scheduler.delete_schedule(Name=name, GroupName=group)
        done[name] = "deleted"
    return done


def delete_schedule(deployment: Deployment, name: str) -> None:
    """Delete the schedule of a sync, if there is one."""
    try:
        deployment.scheduler.delete_schedule(Name=name, GroupName=deployment.output("ScheduleGroupName"))
    except deployment.scheduler.exceptions.ResourceNotFoundException:
        return


def _put(scheduler: EventBridgeSchedulerClient, arguments: dict[str, Any]) -> str:
    try:
        present = scheduler.get_schedule(Name=arguments["Name"], GroupName=arguments["GroupName"])
    except scheduler.exceptions.ResourceNotFoundException:
        scheduler.create_schedule(**arguments)
        return "created"
    # AWS adds defaults of its own below Target (such as its retry policy), which are not ours to compare.
    target = {key: present.get("Target", {}).get(key) for key in arguments["Target"]}
    if all({**present, "Target": target}.get(key) == arguments[key] for key in _COMPARED):
        return "unchanged"
    scheduler.update_schedule(**arguments)
    return "updated"


def _arguments(sync: Sync, group: str, queue: str, role: str) -> dict[str, Any]:
    return {
        "Name": sync.name,
        "GroupName": group,
        "ScheduleExpression": sync.schedule,
        "ScheduleExpressionTimezone": sync.timezone or "UTC",
        "FlexibleTimeWindow": {"Mode": "OFF"},
        "State": "ENABLED" if sync.enabled else "DISABLED",
        "Target": {"Arn": queue, "RoleArn": role, "Input": encode(Start(sync.name, Trigger.SCHEDULE))},
    }


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
