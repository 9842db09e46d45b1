"""Test clock and test credentials."""

from __future__ import annotations

from dataclasses import dataclass, field

from syncline.clients.http.retry import RetryPolicy
from syncline.clients.registry.auth import RegistryCredentials


@dataclass
class Naps:
    """A clock that advances only during sleeps."""

    now: float = 1000.0
    slept: list[float] = field(default_factory=list)

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(round(seconds, 3))
        self.now += seconds

    def policy(
        self, *, attempts: int = 4, base: float = 0.25, cap: float = 10.0, within: float | None = None
    ) -> RetryPolicy:
        deadline = None if within is None else self.now + within
        return RetryPolicy(attempts, base, cap, deadline, chance=lambda: 1.0, sleep=self.sleep, clock=self.clock)


@dataclass
class Person:
    """Holder of credentials, which may change at any time."""

    credentials: RegistryCredentials | None = None
    asked: int = 0

    def __call__(self) -> RegistryCredentials | None:
        self.asked += 1
        return self.credentials
