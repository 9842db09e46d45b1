"""What a seed chooses: the syncs, what goes wrong, and what people do, in order.

A plan is plain data. So it can be shortened while it still fails, kept as JSON, and carried out again.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

PAUSES: Final = (0.0, 0.05, 0.5, 2.0, 20.0, 200.0)
"""Seconds between two acts."""
_ALWAYS: Final = (
    "start",
    "start",
    "schedule",
    "hint",
    "hint",
    "change_source",
    "change_source",
    "change_source",
    "change_target",
    "spoil",
    "heal",
)
_SOMETIMES: Final = ("cancel", "retry", "reconfigure", "start_some", "plan")
_WEATHER: Final = {
    # fault: how likely a seed has it, and its greatest chance per call
    "throttled": (0.3, 0.1),
    "lost": (0.4, 0.05),
    "unreachable": (0.3, 0.02),
    "conflicts": (0.3, 0.1),
    "killed": (0.5, 0.02),
    "slow": (0.3, 0.05),
    "broken": (0.4, 0.1),
    "limited": (0.2, 0.05),
    # of the queues and the clocks
    "skew": (0.3, 3.0),
    "late": (0.4, 600.0),
    "doubles": (0.5, 0.5),
    # of the functions: how much less time they have
    "hurry": (0.3, 1.0),
}
_MOMENTS: Final = {
    # what happens at a moment that matters: how likely a seed has it, and its greatest chance at each
    "echoes": (0.3, 1.0),  # an event comes when a run has ended its last batch
    "cancels": (0.2, 0.5),  # a run is cancelled when a function has begun to write
    "stalls": (0.5, 1.0),  # functions stand still when a run is cancelled
    "meddles": (0.3, 0.3),  # a stranger changes a tag that a function has just asked for
}


@dataclass(frozen=True, slots=True)
class Act:
    """Something that somebody does to a world, by its number, and the seconds that pass after it."""

    name: str
    world: int
    seed: int
    pause: float


@dataclass(frozen=True, slots=True)
class Plan:
    """``weather`` has the chance of each fault; a fault that is absent does not happen."""

    seed: int
    worlds: tuple[str, ...]
    weather: dict[str, float] = field(default_factory=dict)
    acts: tuple[Act, ...] = ()

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        value = json.loads(text)
        acts = tuple(Act(**act) for act in value["acts"])
        return cls(value["seed"], tuple(value["worlds"]), value["weather"], acts)

    def without_fault(self, name: str) -> Plan:
        return replace(self, weather={fault: chance for fault, chance in self.weather.items() if fault != name})

    def without_acts(self, first: int, count: int) -> Plan:
        return replace(self, acts=self.acts[:first] + self.acts[first + count :])


def planned(seed: int, worlds: Sequence[str]) -> Plan:
    """Return the plan of a seed. Each seed has some faults and some acts, and lacks others."""
    rng = random.Random(seed)
    chosen = tuple(rng.choice(worlds) for _ in range(rng.choice([1, 1, 2])))
    weather = {name: rng.uniform(0, most) for name, (chance, most) in _WEATHER.items() if rng.random() < chance}
    names = [*_ALWAYS, *(name for name in _SOMETIMES if rng.random() < 0.5)]
    acts = tuple(
        Act(rng.choice(names), rng.randrange(len(chosen)), rng.getrandbits(32), rng.choice(PAUSES))
        for _ in range(rng.randint(3, 14))
    )
    weather |= {name: rng.uniform(0, most) for name, (chance, most) in _MOMENTS.items() if rng.random() < chance}
    return Plan(seed, chosen, weather, acts)


def shrunk(plan: Plan, fails: Any) -> Plan:
    """Return the shortest plan that is found for which ``fails`` still returns True."""
    size = max(1, len(plan.acts) // 2)
    while size:
        at = 0
        while at < len(plan.acts):
            shorter = plan.without_acts(at, size)
            if fails(shorter):
                plan = shorter
            else:
                at += size
        size //= 2
    for name in list(plan.weather):
        calmer = plan.without_fault(name)
        if fails(calmer):
            plan = calmer
    if len(plan.worlds) > 1:
        for number in range(len(plan.worlds)):
            alone = replace(
                plan,
                worlds=(plan.worlds[number],),
                acts=tuple(replace(act, world=0) for act in plan.acts if act.world == number),
            )
            if fails(alone):
                return alone
    return plan
