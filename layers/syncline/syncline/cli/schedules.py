"""The syncs' schedules in EventBridge Scheduler: one for each sync that has one, named as the sync."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from syncline.config.sync import Sync
from syncline.messages import Start, encode
from syncline.model import Trigger

if TYPE_CHECKING:
    from syncline.cli.target import Target

_COMPARED: Final = ("ScheduleExpression", "ScheduleExpressionTimezone", "FlexibleTimeWindow", "State", "Target")


class Schedules:
    """The stack's schedule group."""

    def __init__(self, target: Target) -> None:
        self._scheduler = target.scheduler
        self._group = target.output("ScheduleGroupName")
        self._role = target.output("SchedulerRoleArn")
        self._queue = target.output("DiscoverQueueArn")

    def put(self, syncs: Iterable[Sync], kept: Collection[str] = ()) -> dict[str, str]:
        """Make the group hold just the schedules of ``syncs`` and those named ``kept``, writing only what differs.

        Return for each name what was done: created, updated, unchanged or deleted.
        """
        wanted = {sync.name: self._arguments(sync) for sync in syncs if sync.schedule is not None}
        done = {name: self._put(arguments) for name, arguments in wanted.items()}
        for name in sorted(set(self._names()) - set(wanted) - set(kept)):
            self._scheduler.delete_schedule(Name=name, GroupName=self._group)
            done[name] = "deleted"
        return done

    def _put(self, arguments: dict[str, Any]) -> str:
        try:
            present: Any = self._scheduler.get_schedule(Name=arguments["Name"], GroupName=self._group)
        except self._scheduler.exceptions.ResourceNotFoundException:
            self._scheduler.create_schedule(**arguments)
            return "created"
        if not _differs(present, arguments):
            return "unchanged"
        self._scheduler.update_schedule(**arguments)
        return "updated"

    def _arguments(self, sync: Sync) -> dict[str, Any]:
        assert sync.schedule is not None
        return {
            "Name": sync.name,
            "GroupName": self._group,
            "ScheduleExpression": sync.schedule,
            "ScheduleExpressionTimezone": sync.timezone or "UTC",
            "FlexibleTimeWindow": {"Mode": "OFF"},
            "State": "ENABLED" if sync.enabled else "DISABLED",
            "Target": {
                "Arn": self._queue,
                "RoleArn": self._role,
                "Input": encode(Start(sync.name, Trigger.SCHEDULE)),
            },
        }

    def _names(self) -> Iterator[str]:
        """The group's schedules that lead to our queue; what somebody else put there is left alone."""
        pages = self._scheduler.get_paginator("list_schedules").paginate(GroupName=self._group)
        for page in pages:
            for each in page["Schedules"]:
                if each.get("Target", {}).get("Arn") in (self._queue, None):
                    yield each["Name"]


def _differs(present: Mapping[str, Any], arguments: Mapping[str, Any]) -> bool:
    # AWS adds defaults of its own below Target (such as its retry policy), which are not ours to compare.
    target = {key: present.get("Target", {}).get(key) for key in arguments["Target"]}
    return any({**present, "Target": target}.get(key) != arguments[key] for key in _COMPARED)
