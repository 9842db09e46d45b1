"""Fixtures of the tests of the store."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from syncline.store import files
from tests.rig.stack import new_table
from tests.unit.store.stepped import SteppedDatabase

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.service_resource import Table


@pytest.fixture
def database() -> Iterator[SteppedDatabase]:
    with new_table() as table:
        yield SteppedDatabase(table)


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Iterator[Table]:
    """Return a table whose client retries without pauses."""
    monkeypatch.setattr("botocore.retryhandler.delay_exponential", lambda *_: 0.0)
    with new_table() as table:
        yield table


@pytest.fixture(autouse=True)
def _ids(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restart the IDs of changes, which only grow in a process, because each test sets its clock back."""
    monkeypatch.setattr(files, "_IDS", files._Ids())


@pytest.fixture
def two_partitions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the records in two partitions, so that few files use both."""
    monkeypatch.setattr(files, "SHARDS", 2)
