"""DynamoDB's table as far as a probe reads it, without boto3: a third of a probe's start was its import.

It stands where :class:`syncline.store.table.Database` expects boto3's ``Table``, and gives what that gives.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, cast

import botocore.session
from botocore.config import Config

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.service_resource import Table

_VALUES: Final = ("Key", "ExclusiveStartKey", "ExpressionAttributeValues")


@dataclass(frozen=True, slots=True)
class _Meta:
    client: Any


class LeanTable:
    """Reads a table by its name."""

    def __init__(self, client: Any, name: str) -> None:
        self.meta = _Meta(client)
        self.name = name

    def get_item(self, **arguments: Any) -> dict[str, Any]:
        answer = self.meta.client.get_item(TableName=self.name, **_typed(arguments))
        return {**answer, "Item": _plain_item(answer["Item"])} if "Item" in answer else dict(answer)

    def query(self, **arguments: Any) -> dict[str, Any]:
        answer = self.meta.client.query(TableName=self.name, **_typed(arguments))
        more = {"LastEvaluatedKey": _plain_item(answer["LastEvaluatedKey"])} if "LastEvaluatedKey" in answer else {}
        return {**answer, "Items": [_plain_item(item) for item in answer["Items"]], **more}


def lean_table(name: str, config: Config) -> Table:
    """The table, for reading alone; the credentials and the region are the environment's."""
    client = botocore.session.get_session().create_client("dynamodb", config=config)
    return cast("Table", LeanTable(client, name))


def _typed(arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments with values as DynamoDB's protocol has them; keys and conditions are text."""
    return {
        name: {key: {"S": str(inner)} for key, inner in value.items()} if name in _VALUES else value
        for name, value in arguments.items()
    }


def _plain_item(item: dict[str, Any]) -> dict[str, Any]:
    return {name: _plain(value) for name, value in item.items()}


def _plain(value: dict[str, Any]) -> Any:
    """A value without its type; raises ValueError for a type that no item of Syncline's has."""
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
