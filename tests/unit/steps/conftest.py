from __future__ import annotations

from collections.abc import Iterator

import pytest

from syncline.steps import discover
from tests.made_up import Steps, steps

CHUNK_ITEMS = 4
"""Items after which a scan sends on what it found, where ``small_chunks`` is used."""
CHUNK_RESULTS = 20
"""Results after which it does."""


@pytest.fixture(name="steps")
def _steps() -> Iterator[Steps]:
    """The three steps around a kind made up, with an empty table."""
    with steps() as made:
        yield made


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the chunks of a scan about a fifteenth of their size, for speed."""
    monkeypatch.setattr(discover, "CHUNK_ITEMS", CHUNK_ITEMS)
    monkeypatch.setattr(discover, "CHUNK_RESULTS", CHUNK_RESULTS)
