"""Run IDs made by the product; invented ones could hide errors that real ones cause."""

from __future__ import annotations

from syncline.store.runs import new_run_id


def made_run_id(number: int = 0) -> str:
    """Return a new run ID; IDs of larger numbers sort after it, as do those of a test's clock."""
    return new_run_id(lambda: 1_789_900_000.0 + number)
