"""Writes that conflict with a transaction. DynamoDB refuses them, and botocore does not retry them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

from syncline.store.state import State
from syncline.store.table import Database
from tests.rig.stack import new_table

pytestmark = pytest.mark.moto

ITEM = {"pk": "LEASE#dr/app", "sk": "LEASE"}
WRITES: dict[str, Callable[[Database], object]] = {
    "UpdateItem": lambda db: db.apply(db.update_request("LEASE#dr/app", "LEASE", "SET #until = :until", {"until": 1})),
    "PutItem": lambda db: db.put(ITEM),
    "PutItem if": lambda db: db.replace({**ITEM, "version": "1"}, None),
    "DeleteItem": lambda db: db.delete(**ITEM),
}


class Conflicts:
    """A fault that refuses the first calls of an operation as conflicts with a transaction."""

    def __init__(self, db: Any, operation: str, count: int) -> None:
        self.left, self.calls = count, 0
        db.meta.client.meta.events.register_first(f"before-call.dynamodb.{operation}", self.refuse)

    def refuse(self, **_: Any) -> None:
        self.calls += 1
        if self.calls <= self.left:
            code = "TransactionConflictException"
            raise ClientError({"Error": {"Code": code, "Message": "Transaction is ongoing for the item"}}, "Write")


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncline.store.table.time.sleep", lambda _: None)


@pytest.mark.parametrize("write", WRITES)
def test_a_write_that_conflicts_with_a_transaction_is_retried(write: str) -> None:
    with new_table() as table:
        conflicts = Conflicts(table, write.split(maxsplit=1)[0], 3)
        WRITES[write](Database(table))
        assert conflicts.calls == 4


def test_a_write_that_always_conflicts_fails() -> None:
    with new_table() as table:
        conflicts = Conflicts(table, "UpdateItem", 1000)
        with pytest.raises(ClientError, match="TransactionConflict"):
            WRITES["UpdateItem"](Database(table))
        assert conflicts.calls < 20


def test_a_lease_is_taken_while_another_batch_releases_it() -> None:
    with new_table() as table:
        Conflicts(table, "UpdateItem", 1)
        assert State(table).leases.take("dr/app", "a", 60).fence == 1
