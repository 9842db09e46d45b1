"""IDs of runs, made by the product: a test that invents them does not see what a real one would do."""

from __future__ import annotations

from syncline.store.runs import new_run_id


def made_run_id(number: int = 0) -> str:
    """Return a new run ID; those of larger numbers sort behind it, as do those that a test's clock gives."""
    return new_run_id(lambda: 1_789_900_000.0 + number)
