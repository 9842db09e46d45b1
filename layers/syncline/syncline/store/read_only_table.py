"""A read-only DynamoDB table without boto3, whose import takes a third of a probe's start.

It has the methods of boto3's ``Table`` that :class:`syncline.store.table.Database` calls to read.
"""

from __future__ import annotations

from decimal import Decimal
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, cast

import botocore.session
from botocore.config import Config

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.service_resource import Table

_VALUES: Final = ("Key", "ExclusiveStartKey", "ExpressionAttributeValues")


class ReadOnlyTable:
    """A table by its name."""

    def __init__(self, client: Any, name: str) -> None:
        self.meta = SimpleNamespace(client=client)
        self.name = name

    def get_item(self, **arguments: Any) -> dict[str, Any]:
        response = self.meta.client.get_item(TableName=self.name, **_typed(arguments))
        return {**response, "Item": _plain_item(response["Item"])} if "Item" in response else dict(response)

    def query(self, **arguments: Any) -> dict[str, Any]:
        response = self.meta.client.query(TableName=self.name, **_typed(arguments))
        more = {"LastEvaluatedKey": _plain_item(response["LastEvaluatedKey"])} if "LastEvaluatedKey" in response else {}
        return {**response, "Items": [_plain_item(item) for item in response["Items"]], **more}


def open_table(name: str, config: Config) -> Table:
    """Return a table for reading, with the credentials and the region of the environment."""
    client = botocore.session.get_session().create_client("dynamodb", config=config)
    return cast("Table", ReadOnlyTable(client, name))


def _typed(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return arguments with keys and values, all of them text, in DynamoDB's protocol."""
    return {
        name: {key: {"S": str(inner)} for key, inner in value.items()} if name in _VALUES else value
        for name, value in arguments.items()
    }


def _plain_item(item: dict[str, Any]) -> dict[str, Any]:
    return {name: _plain(value) for name, value in item.items()}


def _plain(value: dict[str, Any]) -> Any:
    """Return a value without its type; raises ValueError for a type that no item of Syncline has."""
    ((kind, inner),) = value.items()
    match kind:
        case "S" | "B" | "BOOL":
            return inner
        case "N":
            return Decimal(inner)
        case "NULL":
            return None
        case "L":
            return [_plain(each) for each in inner]
        case "M":
            return _plain_item(inner)
    raise ValueError(kind)
