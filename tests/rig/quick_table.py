"""The model of a DynamoDB table with the interface of boto3's ``Table``, for tests that only need a table."""

from __future__ import annotations

import threading
from typing import Any, Final

from tests.rig import grants
from tests.simulation.table import ModelTable

_METHODS: Final = {
    "GetItem": ModelTable.get_item,
    "PutItem": ModelTable.put_item,
    "DeleteItem": ModelTable.delete_item,
    "UpdateItem": ModelTable.update_item,
    "Query": ModelTable.query,
    "BatchGetItem": ModelTable.batch_get_item,
    "BatchWriteItem": ModelTable.batch_write_item,
    "TransactWriteItems": ModelTable.transact_write_items,
    "Scan": ModelTable.scan,
}


class QuickTable(ModelTable):
    """A table that is its own client. As in boto3, every call passes `_make_api_call`, which checks the roles."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._lock = threading.Lock()

    def _make_api_call(self, operation: str, arguments: dict[str, Any]) -> dict[str, Any]:
        grants.check_call("dynamodb", operation, arguments)
        method: Any = _METHODS[operation]
        given = {name: value for name, value in arguments.items() if name != "TableName"}
        with self._lock:
            return dict(method(self, **given))

    def _single(self, operation: str, arguments: dict[str, Any]) -> dict[str, Any]:
        return self._make_api_call(operation, {"TableName": self.name, **arguments})

    def get_item(self, **arguments: Any) -> dict[str, Any]:
        return self._single("GetItem", arguments)

    def put_item(self, **arguments: Any) -> dict[str, Any]:
        return self._single("PutItem", arguments)

    def delete_item(self, **arguments: Any) -> dict[str, Any]:
        return self._single("DeleteItem", arguments)

    def update_item(self, **arguments: Any) -> dict[str, Any]:
        return self._single("UpdateItem", arguments)

    def query(self, **arguments: Any) -> dict[str, Any]:
        return self._single("Query", arguments)

    def scan(self, **arguments: Any) -> dict[str, Any]:
        return self._single("Scan", arguments)

    def batch_get_item(self, **arguments: Any) -> dict[str, Any]:
        return self._make_api_call("BatchGetItem", arguments)

    def batch_write_item(self, **arguments: Any) -> dict[str, Any]:
        return self._make_api_call("BatchWriteItem", arguments)

    def transact_write_items(self, **arguments: Any) -> dict[str, Any]:
        return self._make_api_call("TransactWriteItems", arguments)

    def delete(self) -> None:
        """Delete the table. This does nothing, since no test uses it again."""
