from __future__ import annotations

import pytest
from aws_lambda_powertools.metrics import EphemeralMetrics

from syncline.steps import discover

CHUNK_ITEMS = 4
"""Items after which a scan ends a chunk, with ``small_chunks``."""
CHUNK_RESULTS = 20
"""Results after which a scan ends a chunk, with ``small_chunks``."""


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reduce the chunks of a scan to about a fifteenth of their size, for speed."""
    monkeypatch.setattr(discover, "CHUNK_ITEMS", CHUNK_ITEMS)
    monkeypatch.setattr(discover, "CHUNK_RESULTS", CHUNK_RESULTS)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float]]:
    """Collect metrics by name instead of writing them to the log."""
    found: list[tuple[str, float]] = []
    monkeypatch.setattr(EphemeralMetrics, "add_metric", lambda _, name, _unit, value: found.append((name, value)))
    monkeypatch.setattr(EphemeralMetrics, "flush_metrics", lambda _: None)
    return found
