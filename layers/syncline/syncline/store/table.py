"""DynamoDB as :mod:`syncline.store.state` uses it: reads that page, writes that happen all or not at all."""

from __future__ import annotations

import json
import random
import time
import zlib
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, TypeVar

from botocore.exceptions import BotoCoreError, ClientError

from syncline.errors import SynclineError
from syncline.model import compact_json

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.service_resource import Table

LONGEST_KEY: Final = 1_900
"""Bytes of a text that becomes a part of a partition key."""
AWS_ERRORS: Final = (BotoCoreError, ClientError)
"""What a call of the table raises when AWS refuses it or cannot be reached."""
_CONFLICT_TRIES: Final = 12
_Answer = TypeVar("_Answer")


class Database:
    """One table with the keys ``pk`` and ``sk``, read consistently."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._client = table.meta.client

    def get(self, pk: str, sk: str) -> dict[str, Any] | None:
        return self._table.get_item(Key={"pk": pk, "sk": sk}, ConsistentRead=True).get("Item")

    def put(self, item: dict[str, Any]) -> None:
        self._single(self._table.put_item, Item=item)

    def delete(self, pk: str, sk: str) -> None:
        self._single(self._table.delete_item, Key={"pk": pk, "sk": sk})

    def batch_get(self, keys: list[tuple[str, str]]) -> Iterator[dict[str, Any]]:
        """The items of up to 100 keys that exist, in no order."""
        wanted = [{"pk": pk, "sk": sk} for pk, sk in keys]
        request: Any = {self._table.name: {"Keys": wanted, "ConsistentRead": True}}
        while request:
            answer = self._client.batch_get_item(RequestItems=request)
            yield from answer["Responses"].get(self._table.name, [])
            request = answer.get("UnprocessedKeys")

    def query(
        self, pk: str, prefix: str = "", *, newest_first: bool = False, limit: int | None = None
    ) -> Iterator[dict[str, Any]]:
        """All items under ``pk`` whose ``sk`` begins with ``prefix``, in the order of ``sk``."""
        arguments: dict[str, Any] = {
            "KeyConditionExpression": "pk = :pk" + (" AND begins_with(sk, :prefix)" if prefix else ""),
            "ExpressionAttributeValues": {":pk": pk} | ({":prefix": prefix} if prefix else {}),
            "ConsistentRead": True,
            "ScanIndexForward": not newest_first,
        }
        if limit is not None:
            arguments["Limit"] = limit
        while True:
            answer = self._table.query(**arguments)
            yield from answer["Items"]
            if "LastEvaluatedKey" not in answer or limit is not None:
                return
            arguments["ExclusiveStartKey"] = answer["LastEvaluatedKey"]

    def query_until(self, pk: str, last: str) -> Iterator[dict[str, Any]]:
        """Yield the items under `pk` whose `sk` is at most `last`, in the order of `sk`."""
        yield from self._pages(
            KeyConditionExpression="pk = :pk AND sk <= :last", ExpressionAttributeValues={":pk": pk, ":last": last}
        )

    def sort_keys(self, pk: str, prefix: str) -> Iterator[str]:
        """Yield the sort keys under `pk` that begin with `prefix` ("" for all), in order, without the items' content."""
        condition = "pk = :pk" + (" AND begins_with(sk, :prefix)" if prefix else "")
        values = {":pk": pk} | ({":prefix": prefix} if prefix else {})
        for item in self._pages(
            KeyConditionExpression=condition, ExpressionAttributeValues=values, ProjectionExpression="sk"
        ):
            yield str(item["sk"])

    def _pages(self, **arguments: Any) -> Iterator[dict[str, Any]]:
        """Yield the items of all pages of a consistent query."""
        arguments["ConsistentRead"] = True
        while True:
            answer = self._table.query(**arguments)
            yield from answer["Items"]
            if "LastEvaluatedKey" not in answer:
                return
            arguments["ExclusiveStartKey"] = answer["LastEvaluatedKey"]

    def replace(self, item: dict[str, Any], version: str | None) -> bool:
        """Put an item in place of the one whose `version` is the given one, or of none if it is None.

        Return False if the condition failed. That can be the effect of this very call: boto3 repeats a call whose
        answer was lost. A caller to whom this matters reads the item and looks for its own version.
        """
        condition = "attribute_not_exists(pk)" if version is None else "#version = :version"
        arguments: dict[str, Any] = {"Item": item, "ConditionExpression": condition}
        if version is not None:
            arguments["ExpressionAttributeNames"] = {"#version": "version"}
            arguments["ExpressionAttributeValues"] = {":version": version}
        try:
            self._single(self._table.put_item, **arguments)
        except ClientError as error:
            if _code(error) == "ConditionalCheckFailedException":
                return False
            raise
        return True

    def batch_write(self, puts: list[dict[str, Any]], deletes: list[tuple[str, str]]) -> None:
        """Write without conditions, 25 items in a call; raises AWS_UNAVAILABLE if some are not taken time and again."""
        requests: list[Any] = [{"PutRequest": {"Item": item}} for item in puts]
        requests += [{"DeleteRequest": {"Key": {"pk": pk, "sk": sk}}} for pk, sk in deletes]
        for at in range(0, len(requests), 25):
            left = requests[at : at + 25]
            for attempt in range(_CONFLICT_TRIES):
                answer = self._client.batch_write_item(RequestItems={self._table.name: left})
                left = answer.get("UnprocessedItems", {}).get(self._table.name, [])
                if not left:
                    break
                time.sleep(random.uniform(0.05, 0.1) * 2 ** min(attempt, 5))  # noqa: S311 - a pause is no secret
            else:
                raise SynclineError("AWS_UNAVAILABLE", f"DynamoDB did not take {len(left)} items, time and again")

    def update_if(self, update: dict[str, Any]) -> dict[str, Any] | None:
        """Carry out one :meth:`update` by itself; the whole new item, or None if its condition refused it."""
        arguments = {name: value for name, value in update["Update"].items() if name != "TableName"}
        try:
            answer = self._single(self._table.update_item, **arguments, ReturnValues="ALL_NEW")
        except ClientError as error:
            if _code(error) == "ConditionalCheckFailedException":
                return None
            raise
        return dict(answer["Attributes"])

    def transact(self, writes: list[dict[str, Any]]) -> set[int]:
        """Write all or nothing; the positions whose conditions refused it, none if it was written."""
        for attempt in range(_CONFLICT_TRIES):
            try:
                self._client.transact_write_items(TransactItems=writes)  # type: ignore[arg-type]
            except self._client.exceptions.TransactionCanceledException as error:
                codes = [reason.get("Code", "None") for reason in error.response.get("CancellationReasons", [])]
                refused = {n for n, code in enumerate(codes) if code == "ConditionalCheckFailed"}
                if refused:
                    return refused
                _part(attempt)
            else:
                return set()
        raise SynclineError("AWS_UNAVAILABLE", "DynamoDB refused a transaction many times over for conflicts")

    @staticmethod
    def _single(write: Callable[..., _Answer], **arguments: Any) -> _Answer:
        """Carry out a write of one item, again while a transaction writes that item: botocore does not repeat these."""
        for attempt in range(_CONFLICT_TRIES - 1):
            try:
                return write(**arguments)
            except ClientError as error:
                if _code(error) != "TransactionConflictException":
                    raise
                _part(attempt)
        return write(**arguments)

    def put_if(self, item: dict[str, Any], condition: str) -> dict[str, Any]:
        """A put as a part of a transaction."""
        return {"Put": {"TableName": self._table.name, "Item": item, "ConditionExpression": condition}}

    def update(  # noqa: PLR0913 - an expression has many parts
        self,
        pk: str,
        sk: str,
        expression: str,
        values: dict[str, Any],
        *,
        condition: str | None = None,
        extra: dict[str, Any] | None = None,
        names: tuple[str, ...] = (),
    ) -> dict[str, Any]:
        """An update as a part of a transaction.

        In the expressions ``#name`` and ``:name`` stand for each of ``values``, ``#name`` for each of ``names``, and
        the keys of ``extra`` for their values.
        """
        update: dict[str, Any] = {
            "TableName": self._table.name,
            "Key": {"pk": pk, "sk": sk},
            "UpdateExpression": expression,
        }
        given = {f":{name}": value for name, value in values.items()} | (extra or {})
        if given:
            update["ExpressionAttributeValues"] = given
        placeholders = {f"#{name}": name for name in (*values, *names)}
        if placeholders:
            update["ExpressionAttributeNames"] = placeholders
        if condition is not None:
            update["ConditionExpression"] = condition
        return {"Update": update}


def _code(error: ClientError) -> str:
    return error.response.get("Error", {}).get("Code", "")


def _part(attempt: int) -> None:
    """Pause after writers of one item have met: a short pause parts two of them, a longer one many."""
    time.sleep(random.uniform(0.1, 1.0) * min(1.0, 0.02 * 2**attempt))  # noqa: S311 - a pause is no secret


def is_key(text: str) -> bool:
    """Return True if a text can be a part of a key: DynamoDB takes UTF-8, a partition key of 2,048 bytes at most."""
    encoded = text.encode(errors="surrogatepass")
    return len(encoded) <= LONGEST_KEY and encoded == text.encode(errors="replace")


def number(value: float) -> Decimal:
    """Unix seconds as DynamoDB takes them, to the millisecond."""
    return Decimal(str(round(value, 3)))


def pack(value: list[Any]) -> bytes:
    """JSON, compressed: DynamoDB bills by the kilobyte, and digests under one another compress well."""
    return zlib.compress(compact_json(value).encode(), 1)


def unpack(value: Any) -> list[Any]:
    """What :func:`pack` packed, as DynamoDB gives it back."""
    unpacked: list[Any] = json.loads(zlib.decompress(bytes(value)))
    return unpacked
