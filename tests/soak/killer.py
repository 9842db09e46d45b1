"""Kills by a seed: functions and servers from the start to the end, the engine in the first quarter and once at the end.

So the engine that is measured has one long life, and the kill at its end meets the state of all of it.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from tests.soak.deployment import Deployment
from tests.soak.servers import Victim

_PAUSE: Final = (3.0, 9.0)
_DEAD: Final = (0.2, 4.0)
"""Seconds for which a server is away."""
_FUNCTIONS: Final = 6
"""Kills of functions in each round, in which every server is killed once."""
ENGINE_SHARE: Final = 0.25


@dataclass
class Functions:
    """The processes of functions, of which one at a time is killed, at work or not."""

    deployment: Deployment
    chance: random.Random
    kind: str = "function"

    def kill(self) -> bool:
        """Kill one."""
        found = sorted(self.deployment.workers())
        if not found:
            return False
        with suppress(ProcessLookupError):
            os.kill(self.chance.choice(found), signal.SIGKILL)
        return True

    def start(self) -> None:
        """The engine starts another when it needs one."""


@dataclass
class Killer:
    """Kills until it is told to end, for ``seconds``. ``wrong`` has what did not come back."""

    deployment: Deployment
    servers: list[Victim]
    seed: int
    seconds: float
    kills: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def run(self, ended: threading.Event) -> None:
        """Kill one after another. When it returns, everything runs."""
        chance = random.Random(f"{self.seed} kills")
        functions = Functions(self.deployment, chance)
        began = time.monotonic()
        deck: list[Victim] = []
        while not ended.wait(chance.uniform(*_PAUSE)):
            if not deck:
                deck = [*self.servers, *[functions] * _FUNCTIONS]
                if time.monotonic() - began < ENGINE_SHARE * self.seconds:
                    deck += [self.deployment] * 2
                chance.shuffle(deck)
                if self.deployment in deck and not self.kills["engine"]:
                    deck.append(self.deployment)  # a short soak has one, too
            victim = deck.pop()
            if victim is self.deployment and time.monotonic() - began > ENGINE_SHARE * self.seconds:
                continue
            self.one(victim, chance.uniform(*_DEAD))

    def one(self, victim: Victim, seconds: float) -> None:
        """Kill one and have it back after some time."""
        try:
            if victim.kill():
                self.kills[victim.kind] += 1
                time.sleep(0 if isinstance(victim, Functions) else seconds)
                victim.start()
        except (OSError, RuntimeError, AssertionError) as error:
            self.wrong.append(f"{victim.kind} does not come back: {error}")
