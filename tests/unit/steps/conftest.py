from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.made_up import Steps, steps


@pytest.fixture(name="steps")
def _steps() -> Iterator[Steps]:
    """The three steps around a kind made up, with an empty table."""
    with steps() as made:
        yield made
