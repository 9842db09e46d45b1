"""What a kind brings to the simulation: its outside systems, who else writes there, and what must be true of them."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol

from syncline.model import Result, Run


class World(Protocol):
    """The outside systems of one sync.

    ``rng`` decides what is changed; it is seeded anew for each act. ``violations`` are collected at the moment at which they
    happen. ``late`` is the number of items that the last full run rightly left different, and that the next one may move.
    """

    name: str
    rng: random.Random
    violations: list[str]
    late: int

    def config(self) -> dict[str, Any]:
        """Return the configuration of the sync."""
        ...

    def reconfigure(self) -> dict[str, Any] | None:
        """Return another valid configuration of the sync, None if there is no other."""
        ...

    def wired(self) -> AbstractContextManager[None]:
        """Let the product's wiring find the models while the block runs."""
        ...

    def change_source(self) -> Iterable[str]:
        """Change something at the source as its users do, and return the groups that a notification would name."""
        ...

    def change_target(self) -> None:
        """Change something at the target as a stranger does."""
        ...

    def spoil(self) -> None:
        """Let a server misbehave from now on."""
        ...

    def heal(self) -> None:
        """Let all servers behave."""
        ...

    def groups(self) -> list[str]:
        """Return groups that an operator may name."""
        ...

    def size(self) -> int:
        """Return how many things source and target have: what the work of a full run may grow with."""
        ...

    def ends_twice(self, result: Result) -> bool:
        """Return True if one run may have this result twice, for something that was added to the item meanwhile."""
        ...

    def untruths(self, run: Run, results: list[Result]) -> Iterator[str]:
        """Yield what is wrong in the report of any run that is over, however stormy its time was."""
        ...

    def differences(self, run: Run, results: list[Result]) -> Iterator[str]:
        """Yield what is wrong after a full run that began and ended in calm: its report against the truth."""
        ...
