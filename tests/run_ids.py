"""IDs of runs, made by the product: a test that invents them does not see what a real one would do."""

from __future__ import annotations

from syncline.state import new_run_id


def made_run_id(number: int = 0) -> str:
    """Return a new run ID; those of larger numbers sort behind it."""
    return new_run_id(lambda: 1_790_000_000.0 + number)
