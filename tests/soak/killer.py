"""Kills of functions and servers during the whole test, and of the engine in the first quarter and once at the end.

So the measured engine runs as one process for most of the test, and the last kill hits its complete state.
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
_DOWNTIME: Final = (0.2, 4.0)
"""Range of the seconds for which a server is down."""
_FUNCTION_KILLS: Final = 6
"""Number of kills of functions in a round. A round kills every server once."""
ENGINE_SHARE: Final = 0.25


@dataclass
class Functions:
    """The processes of functions. One at a time is killed, whether it is idle or not."""

    deployment: Deployment
    rng: random.Random
    kind: str = "function"

    def kill(self) -> bool:
        """Kill one process; return False if there is none."""
        found = sorted(self.deployment.workers())
        if not found:
            return False
        with suppress(ProcessLookupError):
            os.kill(self.rng.choice(found), signal.SIGKILL)
        return True

    def start(self) -> None:
        """Do nothing: the engine starts another process when it needs one."""


@dataclass
class Killer:
    """Kills processes for ``seconds``. ``wrong`` lists those that did not start again."""

    deployment: Deployment
    servers: list[Victim]
    seed: int
    seconds: float
    kills: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def run(self, ended: threading.Event) -> None:
        """Kill one victim at a time until ``ended``. Afterwards, everything runs."""
        rng = random.Random(f"{self.seed} kills")
        functions = Functions(self.deployment, rng)
        began = time.monotonic()
        victims: list[Victim] = []
        while not ended.wait(rng.uniform(*_PAUSE)):
            if not victims:
                victims = [*self.servers, *[functions] * _FUNCTION_KILLS]
                if time.monotonic() - began < ENGINE_SHARE * self.seconds:
                    victims += [self.deployment] * 2
                rng.shuffle(victims)
                if self.deployment in victims and not self.kills["engine"]:
                    victims.append(self.deployment)  # a short test also kills the engine once
            victim = victims.pop()
            if victim is self.deployment and time.monotonic() - began > ENGINE_SHARE * self.seconds:
                continue
            self.one(victim, rng.uniform(*_DOWNTIME))

    def one(self, victim: Victim, seconds: float) -> None:
        """Kill a victim, and start it again after `seconds`."""
        try:
            if victim.kill():
                self.kills[victim.kind] += 1
                time.sleep(0 if isinstance(victim, Functions) else seconds)
                victim.start()
        except (OSError, RuntimeError, AssertionError) as error:
            self.wrong.append(f"{victim.kind} does not start again: {error}")
