"""The schedules of syncs in EventBridge Scheduler, and their next start.

The schedule of a sync's scans is named like the sync; that of its audits has ``.audit`` appended, and that of its restore
drills ``.drill``, which no name of a sync can have.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from syncline.messages import Start, encode
from syncline.model import Trigger

if TYPE_CHECKING:
    from mypy_boto3_scheduler import EventBridgeSchedulerClient
    from mypy_boto3_scheduler.type_defs import ScheduleSummaryTypeDef

    from syncline.cli.deployment import Deployment
    from syncline.config.sync import Sync


AUDIT: Final = ".audit"
"""Ends the name of the schedule of a sync's audits."""
DRILL: Final = ".drill"
"""Ends the name of the schedule of a sync's restore drills."""
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
        for arguments in _arguments(sync, group, queue, role):
            done[arguments["Name"]] = _put(deployment.scheduler, arguments)
    kept = {each + suffix for each in kept for suffix in ("", AUDIT, DRILL)}
    ours = {each["Name"] for each in list_schedules(deployment) if each.get("Target", {}).get("Arn") in (queue, None)}
    for name in sorted(ours - done.keys() - kept):
        deployment.scheduler.delete_schedule(Name=name, GroupName=group)
        done[name] = "deleted"
    return done


def delete_schedule(deployment: Deployment, name: str) -> None:
    """Delete the schedules of a sync, if there are any."""
    for each in (name, name + AUDIT, name + DRILL):
        with contextlib.suppress(deployment.scheduler.exceptions.ResourceNotFoundException):
            deployment.scheduler.delete_schedule(Name=each, GroupName=deployment.output("ScheduleGroupName"))


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


def _arguments(sync: Sync, group: str, queue: str, role: str) -> Iterator[dict[str, Any]]:
    """Yield the arguments of a sync's schedules."""
    start, audit, drills = Start(sync.name, Trigger.SCHEDULE), sync.audit, sync.drills
    wanted = [(sync.name, sync.schedule, start)]
    if audit is not None:
        wanted.append((sync.name + AUDIT, audit.schedule, replace(start, plan=True, audit=audit.options)))
    if drills is not None:
        wanted.append((sync.name + DRILL, drills.schedule, replace(start, plan=True, drill=drills.share)))
    for name, expression, message in wanted:
        if expression is not None:
            yield {
                "Name": name,
                "GroupName": group,
                "ScheduleExpression": expression,
                "ScheduleExpressionTimezone": sync.timezone or "UTC",
                "FlexibleTimeWindow": {"Mode": "OFF"},
                "State": "ENABLED" if sync.enabled else "DISABLED",
                "Target": {"Arn": queue, "RoleArn": role, "Input": encode(message)},
            }
