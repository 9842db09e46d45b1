"""The schedules of syncs in EventBridge Scheduler, one per sync and named like it, and their next start."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

from syncline.messages import Start, encode
from syncline.model import Trigger

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
