"""The plan of a simulation, chosen by its seed: the worlds, the rate of each fault, and a schedule of actions.

A plan is plain data. It can be shrunk while it still fails, saved as JSON, and simulated again.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Final

PAUSES: Final = (0.0, 0.05, 0.5, 2.0, 20.0, 200.0)
"""Seconds between two actions."""
_COMMON_ACTIONS: Final = (
    "start_run",
    "start_run",
    "schedule",
    "webhook",
    "webhook",
    "change_source",
    "change_source",
    "change_source",
    "change_target",
    "break_servers",
    "repair_servers",
)
_OPTIONAL_ACTIONS: Final = ("cancel", "retry", "reconfigure", "start_partial_run", "start_plan")
"""Each is in about half of all plans."""
_FAULTS: Final = {
    # fault: share of the plans that have it, and its maximum rate per call
    "throttled": (0.3, 0.1),
    "lost_replies": (0.4, 0.05),
    "unreachable": (0.3, 0.02),
    "conflicts": (0.3, 0.1),
    "killed": (0.5, 0.02),
    "slow": (0.3, 0.05),
    "server_errors": (0.4, 0.1),
    "rate_limited": (0.2, 0.05),
    # clocks, in seconds; and queues: the maximum delay in seconds, and the rate of duplicates
    "skew": (0.3, 3.0),
    "late": (0.4, 600.0),
    "duplicates": (0.5, 0.5),
    # the share of its time that a function lacks
    "short_time": (0.3, 1.0),
}
_RACES: Final = {
    # race: share of the plans that have it, and its maximum rate per occasion
    "late_events": (0.3, 1.0),  # an event arrives when a run has ended its last batch
    "racing_cancels": (0.2, 0.5),  # a run is cancelled just after a function has taken a lease to write
    "stalls": (0.5, 1.0),  # functions stall when a run is cancelled
    "foreign_writes": (0.3, 0.3),  # a foreign writer changes a tag just after a function has read it
}


@dataclass(frozen=True, slots=True)
class Action:
    """An action on the world with the number `world`, followed by a pause in seconds.

    ``seed`` decides all details of the action, so that a plan without the other actions still has the same one.
    """

    name: str
    world: int
    seed: int
    pause: float


@dataclass(frozen=True, slots=True)
class Plan:
    """The worlds, fault rates and actions of one simulation. A fault without a rate does not occur."""

    seed: int
    worlds: tuple[str, ...]
    fault_rates: dict[str, float] = field(default_factory=dict)
    actions: tuple[Action, ...] = ()

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        value = json.loads(text)
        actions = tuple(Action(**action) for action in value["actions"])
        return cls(value["seed"], tuple(value["worlds"]), value["fault_rates"], actions)

    def without_fault(self, name: str) -> Plan:
        return replace(self, fault_rates={fault: rate for fault, rate in self.fault_rates.items() if fault != name})

    def without_actions(self, first: int, count: int) -> Plan:
        return replace(self, actions=self.actions[:first] + self.actions[first + count :])


def make_plan(seed: int, worlds: Sequence[str]) -> Plan:
    """Return the plan of a seed. Each plan has a random subset of the faults and of the actions (swarm testing)."""
    rng = random.Random(seed)
    chosen = tuple(rng.choice(worlds) for _ in range(rng.choice([1, 1, 2])))
    rates = {name: rng.uniform(0, most) for name, (share, most) in _FAULTS.items() if rng.random() < share}
    names = [*_COMMON_ACTIONS, *(name for name in _OPTIONAL_ACTIONS if rng.random() < 0.5)]
    actions = tuple(
        Action(rng.choice(names), rng.randrange(len(chosen)), rng.getrandbits(32), rng.choice(PAUSES))
        for _ in range(rng.randint(3, 14))
    )
    rates |= {name: rng.uniform(0, most) for name, (share, most) in _RACES.items() if rng.random() < share}
    return Plan(seed, chosen, rates, actions)


def shrink(plan: Plan, fails: Callable[[Plan], bool]) -> Plan:
    """Return a minimal plan for which ``fails`` still returns True: with fewer actions, faults and worlds."""
    size = max(1, len(plan.actions) // 2)
    while size:
        at = 0
        while at < len(plan.actions):
            shorter = plan.without_actions(at, size)
            if fails(shorter):
                plan = shorter
            else:
                at += size
        size //= 2
    for name in list(plan.fault_rates):
        calmer = plan.without_fault(name)
        if fails(calmer):
            plan = calmer
    if len(plan.worlds) > 1:
        for number in range(len(plan.worlds)):
            alone = replace(
                plan,
                worlds=(plan.worlds[number],),
                actions=tuple(replace(action, world=0) for action in plan.actions if action.world == number),
            )
            if fails(alone):
                return alone
    return plan
