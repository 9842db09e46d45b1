"""The interface of a world: the outside systems of one sync, their other writers, and the checks of what Syncline does."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol

from syncline.model import Result, Run


class World(Protocol):
    """The outside systems of one sync.

    ``rng`` decides each change; it is reseeded before each act. A wrong write is added to ``violations`` when it happens.
    ``deferred`` is the number of differences that the last full run was allowed to leave to the next one.
    """

    name: str
    rng: random.Random
    violations: list[str]
    deferred: int

    def config(self) -> dict[str, Any]:
        """Return the configuration of the sync."""
        ...

    def reconfigure(self) -> dict[str, Any] | None:
        """Return another valid configuration of the sync, None if there is no other."""
        ...

    def wired(self) -> AbstractContextManager[None]:
        """Make the product's wiring build clients of the models while the block runs."""
        ...

    def change_source(self) -> Iterable[str]:
        """Change the source as its users do, and return the groups that a notification of the change would name."""
        ...

    def change_target(self) -> None:
        """Change the target as a foreign writer does."""
        ...

    def inject_fault(self) -> None:
        """Make a server misbehave until :meth:`clear_faults`."""
        ...

    def clear_faults(self) -> None:
        """Make all servers behave correctly."""
        ...

    def groups(self) -> list[str]:
        """Return groups that an operator may name."""
        ...

    def size(self) -> int:
        """Return the number of items at source and target. The cost of a full run may grow with it."""
        ...

    def may_repeat(self, result: Result) -> bool:
        """Return True if one run may report this result twice, because the item changed during the run."""
        ...

    def check_report(self, run: Run, results: list[Result]) -> Iterator[str]:
        """Yield the errors in the report of a run that has ended, also of one with faults."""
        ...

    def check_full_run(self, run: Run, results: list[Result]) -> Iterator[str]:
        """Yield the errors of a full run without faults: in its report, and in the target that it left."""
        ...
