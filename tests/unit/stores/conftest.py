"""What the tests of the table's parts share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from moto import mock_aws

from syncline.stores import files
from tests.stack import create_table
from tests.unit.stores.stepped import SteppedDatabase


@pytest.fixture
def database() -> Iterator[SteppedDatabase]:
    with mock_aws():
        yield SteppedDatabase(create_table())


@pytest.fixture(autouse=True)
def _ids(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin the IDs of changes anew: they only grow in a process, and each test sets its clock back."""
    monkeypatch.setattr(files, "_IDS", files._Ids())


@pytest.fixture
def two_partitions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the records in two partitions, so that both are used by few files."""
    monkeypatch.setattr(files, "SHARDS", 2)
