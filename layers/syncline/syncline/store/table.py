"""The DynamoDB table: paged reads, conditional writes and transactions, repeated after conflicts."""

from __future__ import annotations

import json
import random
import time
import zlib
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, TypedDict, TypeVar, Unpack

from botocore.exceptions import BotoCoreError, ClientError

from syncline.errors import SynclineError
from syncline.model import compact_json

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.service_resource import Table

LONGEST_KEY: Final = 1_900
"""Limit in bytes of a text that becomes a part of a partition key."""
AWS_ERRORS: Final = (BotoCoreError, ClientError)
"""Errors of a call that AWS refuses or that does not reach it."""
_CONFLICT_TRIES: Final = 12
_Response = TypeVar("_Response")


class UpdateOptions(TypedDict, total=False):
    """The condition of an update, the values of further placeholders, and further attribute names as placeholders."""

    condition: str | None
    extra: dict[str, Any]
    names: tuple[str, ...]


class Database:
    """One table with the keys ``pk`` and ``sk``, read consistently."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._client = table.meta.client

    def get(self, pk: str, sk: str) -> dict[str, Any] | None:
        return self._table.get_item(Key={"pk": pk, "sk": sk}, ConsistentRead=True).get("Item")

    def put(self, item: dict[str, Any]) -> None:
        self._write(self._table.put_item, Item=item)

    def delete(self, pk: str, sk: str) -> None:
        self._write(self._table.delete_item, Key={"pk": pk, "sk": sk})

    def batch_get(self, keys: list[tuple[str, str]]) -> Iterator[dict[str, Any]]:
        """Yield the items that exist among the keys, in no order, 100 from a call."""
        wanted = [{"pk": pk, "sk": sk} for pk, sk in keys]
        for at in range(0, len(wanted), 100):
            request: Any = {self._table.name: {"Keys": wanted[at : at + 100], "ConsistentRead": True}}
            while request:
                response = self._client.batch_get_item(RequestItems=request)
                yield from response["Responses"].get(self._table.name, [])
                request = response.get("UnprocessedKeys")

    def query(
        self, pk: str, prefix: str = "", *, newest_first: bool = False, limit: int | None = None
    ) -> Iterator[dict[str, Any]]:
        """Yield the items under `pk` whose `sk` begins with `prefix`, in the order of `sk`, `limit` of them at most."""
        return self._pages(limit, **_key_condition(pk, prefix), ScanIndexForward=not newest_first)

    def query_until(self, pk: str, last: str) -> Iterator[dict[str, Any]]:
        """Yield the items under `pk` whose `sk` is at most `last`, in the order of `sk`."""
        return self._pages(
            KeyConditionExpression="pk = :pk AND sk <= :last", ExpressionAttributeValues={":pk": pk, ":last": last}
        )

    def query_beyond(self, pk: str, start: str, limit: int, *, newest_first: bool = False) -> Iterator[dict[str, Any]]:
        """Yield the items under `pk` whose `sk` is after `start` or, with `newest_first`, before it; `limit` at most."""
        return self._pages(
            limit,
            KeyConditionExpression=f"pk = :pk AND sk {'<' if newest_first else '>'} :start",
            ExpressionAttributeValues={":pk": pk, ":start": start},
            ScanIndexForward=not newest_first,
        )

    def query_without(self, pk: str, *, absent: str, untrue: str) -> Iterator[dict[str, Any]]:
        """Yield the items under `pk` that lack the attribute `absent` and of which `untrue` is not True.

        The table reads the others too, but does not return them.
        """
        condition = _key_condition(pk, "")
        return self._pages(
            KeyConditionExpression=condition["KeyConditionExpression"],
            FilterExpression="attribute_not_exists(#absent) AND (attribute_not_exists(#untrue) OR #untrue <> :true)",
            ExpressionAttributeNames={"#absent": absent, "#untrue": untrue},
            ExpressionAttributeValues={**condition["ExpressionAttributeValues"], ":true": True},
        )

    def sort_keys(self, pk: str, prefix: str) -> Iterator[str]:
        """Yield the sort keys under `pk` that begin with `prefix` ("" for all), in order, without the items' content."""
        for item in self._pages(**_key_condition(pk, prefix), ProjectionExpression="sk"):
            yield str(item["sk"])

    def _pages(self, limit: int | None = None, **arguments: Any) -> Iterator[dict[str, Any]]:
        """Yield the items of all pages of a consistent query, or the first `limit`."""
        arguments |= {"ConsistentRead": True} | ({} if limit is None else {"Limit": limit})
        while True:
            response = self._table.query(**arguments)
            yield from response["Items"]
            if "LastEvaluatedKey" not in response or limit is not None:
                return
            arguments["ExclusiveStartKey"] = response["LastEvaluatedKey"]

    def replace(self, item: dict[str, Any], version: str | None) -> bool:
        """Replace the item that has the `version`, or create one if it is None; return False if the condition fails.

        It can fail although this call succeeded, as boto3 repeats a call whose response was lost. A caller to whom that
        matters reads the item and compares the version.
        """
        condition = "attribute_not_exists(pk)" if version is None else "#version = :version"
        arguments: dict[str, Any] = {"Item": item, "ConditionExpression": condition}
        if version is not None:
            arguments["ExpressionAttributeNames"] = {"#version": "version"}
            arguments["ExpressionAttributeValues"] = {":version": version}
        return self._write(self._table.put_item, **arguments) is not None

    def batch_write(self, puts: list[dict[str, Any]], deletes: list[tuple[str, str]]) -> None:
        """Write without conditions, 25 items in a call. Raises AWS_UNAVAILABLE if DynamoDB does not accept some."""
        requests: list[Any] = [{"PutRequest": {"Item": item}} for item in puts]
        requests += [{"DeleteRequest": {"Key": {"pk": pk, "sk": sk}}} for pk, sk in deletes]
        for at in range(0, len(requests), 25):
            left = requests[at : at + 25]
            for attempt in range(_CONFLICT_TRIES):
                response = self._client.batch_write_item(RequestItems={self._table.name: left})
                left = response.get("UnprocessedItems", {}).get(self._table.name, [])
                if not left:
                    break
                time.sleep(random.uniform(0.05, 0.1) * 2 ** min(attempt, 5))  # noqa: S311 - a pause is no secret
            else:
                raise SynclineError(
                    "AWS_UNAVAILABLE", f"DynamoDB did not accept {len(left)} items in {_CONFLICT_TRIES} tries"
                )

    def update(
        self, pk: str, sk: str, expression: str, values: dict[str, Any], **options: Unpack[UpdateOptions]
    ) -> dict[str, Any] | None:
        """Update an item and return it, None if the condition fails; see :meth:`update_request` for the arguments."""
        return self.apply(self.update_request(pk, sk, expression, values, **options))

    def apply(self, request: dict[str, Any]) -> dict[str, Any] | None:
        """Carry out an :meth:`update_request` and return the new item, None if the condition fails."""
        arguments = {name: value for name, value in request["Update"].items() if name != "TableName"}
        response = self._write(self._table.update_item, **arguments, ReturnValues="ALL_NEW")
        return None if response is None else dict(response["Attributes"])

    def transact(self, requests: list[dict[str, Any]]) -> set[int]:
        """Carry out all requests or none. Return the positions of those whose conditions failed; empty on success."""
        for attempt in range(_CONFLICT_TRIES):
            try:
                self._client.transact_write_items(TransactItems=requests)  # type: ignore[arg-type]
            except self._client.exceptions.TransactionCanceledException as error:
                codes = [reason.get("Code", "None") for reason in error.response.get("CancellationReasons", [])]
                refused = {n for n, code in enumerate(codes) if code == "ConditionalCheckFailed"}
                if refused:
                    return refused
                _back_off(attempt)
            else:
                return set()
        raise SynclineError(
            "AWS_UNAVAILABLE", f"DynamoDB rejected a transaction {_CONFLICT_TRIES} times because of conflicts"
        )

    @staticmethod
    def _write(write: Callable[..., _Response], **arguments: Any) -> _Response | None:
        """Write one item; return None if its condition fails. Repeated after conflicts, which botocore does not."""
        attempt = 0
        while True:
            try:
                return write(**arguments)
            except ClientError as error:
                code = error.response.get("Error", {}).get("Code")
                if code == "ConditionalCheckFailedException":
                    return None
                if code != "TransactionConflictException" or attempt == _CONFLICT_TRIES - 1:
                    raise
            _back_off(attempt)
            attempt += 1

    def put_request(self, item: dict[str, Any], condition: str) -> dict[str, Any]:
        """Return a put for :meth:`transact`."""
        return {"Put": {"TableName": self._table.name, "Item": item, "ConditionExpression": condition}}

    def update_request(
        self, pk: str, sk: str, expression: str, values: dict[str, Any], **options: Unpack[UpdateOptions]
    ) -> dict[str, Any]:
        """Return an update for :meth:`transact` or :meth:`apply`.

        In the expression and the condition `#name` and `:name` stand for each of `values`, `#name` for each of
        `names`, and the keys of `extra` for their values.
        """
        update = {"TableName": self._table.name, "Key": {"pk": pk, "sk": sk}, "UpdateExpression": expression}
        optional = {
            "ExpressionAttributeValues": {f":{name}": value for name, value in values.items()}
            | options.get("extra", {}),
            "ExpressionAttributeNames": {f"#{name}": name for name in (*values, *options.get("names", ()))},
            "ConditionExpression": options.get("condition"),
        }
        return {"Update": update | {name: value for name, value in optional.items() if value}}


class Store:
    """A part of a table. `clock` returns Unix seconds."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._db = database
        self._clock = clock

    def _expiry(self, seconds: float) -> int:
        """Return the Unix time at which an item expires that is kept for `seconds`."""
        return int(self._clock() + seconds)


def _key_condition(pk: str, prefix: str) -> dict[str, Any]:
    if not prefix:
        return {"KeyConditionExpression": "pk = :pk", "ExpressionAttributeValues": {":pk": pk}}
    return {
        "KeyConditionExpression": "pk = :pk AND begins_with(sk, :prefix)",
        "ExpressionAttributeValues": {":pk": pk, ":prefix": prefix},
    }


def _back_off(attempt: int) -> None:
    """Pause after a conflict: briefly at first, for two writers, longer later, for many."""
    time.sleep(random.uniform(0.1, 1.0) * min(1.0, 0.02 * 2**attempt))  # noqa: S311 - a pause is no secret


def is_key(text: str) -> bool:
    """Return True if a text can be a part of a key: valid UTF-8, in a partition key of 2,048 bytes at most."""
    encoded = text.encode(errors="surrogatepass")
    return len(encoded) <= LONGEST_KEY and encoded == text.encode(errors="replace")


def number(value: float) -> Decimal:
    """Return Unix seconds as a number of DynamoDB, rounded to milliseconds."""
    return Decimal(str(round(value, 3)))


def pack(value: list[Any]) -> bytes:
    """Return a list as compressed JSON: DynamoDB bills by the kilobyte."""
    return zlib.compress(compact_json(value).encode(), 1)


def unpack(value: Any) -> list[Any]:
    """Return the list that :func:`pack` packed. `value` is bytes, or boto3's type for them."""
    unpacked: list[Any] = json.loads(zlib.decompress(bytes(value)))
    return unpacked
