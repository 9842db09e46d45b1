"""A model of DynamoDB in memory: one table with the keys ``pk`` and ``sk``.

:class:`ModelTable` has the methods of boto3's ``Table`` and of its client that Syncline calls. It follows the
documentation of DynamoDB. Every call is atomic: an item or a transaction is written completely or not at all. Values
are checked and copied when they are written and read. Each expression is parsed once.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

from boto3.dynamodb.types import DYNAMODB_CONTEXT, Binary
from botocore.exceptions import ClientError

from tests.simulation.expressions import (
    Item,
    Names,
    ValidationError,
    check_used,
    client_error,
    condition_of,
    update_of,
    updated,
)

LARGEST_ITEM: Final = 400 * 1024
LARGEST_TRANSACTION: Final = 4 * 1024 * 1024
PAGE: Final = 1024 * 1024
_KEY_CONDITION: Final = re.compile(r"pk = (:\w+)(?: AND (?:begins_with\(sk, (:\w+)\)|sk (?:=|<=|<|>=|>) (:\w+)))?")
_KEY_FIELDS: Final = {"pk", "sk"}
_FIELDS: Final = {
    "Put": {"Item", "ConditionExpression"},
    "Update": {"Key", "UpdateExpression", "ConditionExpression"},
    "Delete": {"Key", "ConditionExpression"},
}
_MORE_FIELDS: Final = {"TableName", "ExpressionAttributeNames", "ExpressionAttributeValues"}


class TransactionCanceledException(ClientError):  # noqa: N818 - as boto3 names it
    """The transaction was cancelled. The response has a reason for each action."""


# -- values ------------------------------------------------------------------------------------------------------------


_IMMUTABLE: Final = frozenset({str, bool, Decimal, Binary, type(None)})
"""Types of immutable values, which need no copy."""
_STORED_UNCHANGED: Final = _IMMUTABLE - {Decimal}
"""Types of values that are stored without conversion."""


def stored(value: Any) -> Any:
    """Return a value as DynamoDB stores it. Raises TypeError for types that boto3 rejects, such as float."""
    if type(value) in _STORED_UNCHANGED or isinstance(value, str | bool | Binary):
        return value
    if isinstance(value, int | Decimal):
        return _stored_number(value)
    if isinstance(value, bytes | bytearray):
        return Binary(bytes(value))
    if isinstance(value, Mapping):
        return {_text(name): each if type(each) in _STORED_UNCHANGED else stored(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [stored(each) for each in value]
    if isinstance(value, set | frozenset) and value and all(isinstance(each, str) for each in value):
        return frozenset(value)
    raise TypeError(f"DynamoDB does not support {type(value).__name__}: {value!r}")


def _stored_number(value: int | Decimal) -> Decimal:
    number = DYNAMODB_CONTEXT.create_decimal(value)  # rejects more than 38 digits, as boto3 does
    if not number.is_finite():
        raise TypeError(f"DynamoDB does not support {value}")
    return number


def _text(name: object) -> str:
    if not isinstance(name, str):
        raise TypeError(f"invalid attribute name: {name!r}")
    return name


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: each if type(each) in _IMMUTABLE else _copy(each) for name, each in value.items()}
    if isinstance(value, list):
        return [each if type(each) in _IMMUTABLE else _copy(each) for each in value]
    return set(value) if isinstance(value, frozenset) else value


def _size(value: Any) -> int:
    if isinstance(value, str):
        return len(value) if value.isascii() else len(value.encode())
    if isinstance(value, Decimal):
        return 21
    if isinstance(value, Binary):
        return len(bytes(value))  # type: ignore[call-overload]
    if isinstance(value, dict):
        return 3 + sum(len(name) + _size(each) for name, each in value.items())
    if isinstance(value, list | frozenset):
        return 3 + sum(map(_size, value))
    return 1


# -- the table ---------------------------------------------------------------------------------------------------------


class _Exceptions:
    TransactionCanceledException = TransactionCanceledException
    ClientError = ClientError


class _Meta:
    def __init__(self, client: ModelTable) -> None:
        self.client = client


class ModelTable:
    """One table, which is also its own ``table.meta.client``. ``page`` is the maximum size of a page in bytes."""

    exceptions = _Exceptions

    def __init__(self, name: str = "syncline", page: int = PAGE) -> None:
        self.name = name
        self.meta = _Meta(self)
        self.page = page
        self.partitions: dict[str, dict[str, Item]] = {}
        self._order: dict[str, list[str]] = {}
        self.on_store: Callable[[tuple[str, str], Item], None] = lambda _key, _item: None
        """Called for each written item."""

    def saved(self) -> Callable[[], None]:
        """Return a function that restores the current content of the table."""
        partitions = {pk: dict(items) for pk, items in self.partitions.items()}

        def restore() -> None:
            self.partitions = {pk: dict(items) for pk, items in partitions.items()}
            self._order = {pk: sorted(items) for pk, items in partitions.items()}

        return restore

    def items(self) -> Iterator[Item]:
        """Yield every item of the table."""
        for pk in sorted(self.partitions):
            for sk in self._order[pk]:
                yield self.partitions[pk][sk]

    # -- single items

    def get_item(self, *, Key: Mapping[str, str], ConsistentRead: bool = False) -> dict[str, Any]:  # noqa: N803
        assert ConsistentRead, "an eventually consistent read"
        item = self._find(_exact_key(Key))
        return {} if item is None else {"Item": _copy(item)}

    def put_item(self, *, Item: Item, **condition: Any) -> dict[str, Any]:  # noqa: N803
        self._write("PutItem", {"Put": {"Item": Item, **condition}})
        return {}

    def delete_item(self, *, Key: Mapping[str, str], **condition: Any) -> dict[str, Any]:  # noqa: N803
        self._write("DeleteItem", {"Delete": {"Key": Key, **condition}})
        return {}

    def update_item(self, *, ReturnValues: str = "NONE", **update: Any) -> dict[str, Any]:  # noqa: N803
        assert ReturnValues in ("NONE", "ALL_NEW")
        item = self._write("UpdateItem", {"Update": update})
        return {"Attributes": _copy(item)} if ReturnValues == "ALL_NEW" else {}

    def _write(self, operation: str, action: Mapping[str, Any]) -> Item | None:
        key, item, allowed = self._plan(action)
        if not allowed:
            raise client_error("ConditionalCheckFailedException", operation)
        self._store(key, item)
        return item

    # -- several items

    def transact_write_items(self, *, TransactItems: Sequence[Mapping[str, Any]]) -> dict[str, Any]:  # noqa: N803
        if not 1 <= len(TransactItems) <= 100:
            raise ValidationError(f"a transaction of {len(TransactItems)} actions")
        plans = []
        for action in TransactItems:
            (request,) = action.values()
            assert request["TableName"] == self.name
            plans.append(self._plan(action))
        if len({key for key, _, _ in plans}) != len(plans):
            raise ValidationError("a transaction names one item twice")
        if sum(_size(item) for _, item, _ in plans if item is not None) > LARGEST_TRANSACTION:
            raise client_error("ValidationException", "TransactWriteItems", "the items are too large together")
        if not all(allowed for _, _, allowed in plans):
            codes = ["None" if allowed else "ConditionalCheckFailed" for _, _, allowed in plans]
            raise cancelled(codes)
        for key, item, _ in plans:
            self._store(key, item)
        return {}

    def batch_get_item(self, *, RequestItems: Mapping[str, Any]) -> dict[str, Any]:  # noqa: N803
        ((name, request),) = RequestItems.items()
        keys = [_exact_key(key) for key in request["Keys"]]
        assert name == self.name
        assert request["ConsistentRead"]
        if not 1 <= len(keys) <= 100 or len(set(keys)) != len(keys):
            raise ValidationError(f"{len(keys)} keys, {len(set(keys))} different ones")
        found = [_copy(item) for key in keys if (item := self._find(key)) is not None]
        return {"Responses": {name: found}, "UnprocessedKeys": {}}

    def batch_write_item(self, *, RequestItems: Mapping[str, Any]) -> dict[str, Any]:  # noqa: N803
        ((name, requests),) = RequestItems.items()
        assert name == self.name
        if not 1 <= len(requests) <= 25:
            raise ValidationError(f"{len(requests)} writes in a batch")
        plans = []
        for request in requests:
            if "PutRequest" in request:
                plans.append(self._plan({"Put": request["PutRequest"]}))
            else:
                plans.append(self._plan({"Delete": request["DeleteRequest"]}))
        if len({key for key, _, _ in plans}) != len(plans):
            raise ValidationError("a batch names one item twice")
        for key, item, _ in plans:
            self._store(key, item)
        return {"UnprocessedItems": {}}

    def query(
        self,
        *,
        KeyConditionExpression: str,  # noqa: N803
        ExpressionAttributeValues: Mapping[str, Any],  # noqa: N803
        ConsistentRead: bool,  # noqa: N803
        ScanIndexForward: bool = True,  # noqa: N803
        Limit: int | None = None,  # noqa: N803
        ExclusiveStartKey: Mapping[str, str] | None = None,  # noqa: N803
        ProjectionExpression: str | None = None,  # noqa: N803
        FilterExpression: str | None = None,  # noqa: N803
        ExpressionAttributeNames: Mapping[str, str] | None = None,  # noqa: N803
    ) -> dict[str, Any]:
        assert ConsistentRead, "an eventually consistent read"
        shape = _KEY_CONDITION.fullmatch(KeyConditionExpression)
        if shape is None or ProjectionExpression not in (None, "sk") or (Limit is not None and Limit < 1):
            raise ValidationError(f"unsupported query: {KeyConditionExpression}, {ProjectionExpression}, {Limit}")
        test, used = condition_of(KeyConditionExpression)
        values = {name: stored(value) for name, value in ExpressionAttributeValues.items()}
        names = ExpressionAttributeNames or {}
        passes, more_used = (None, frozenset[str]()) if FilterExpression is None else condition_of(FilterExpression)
        check_used(used | more_used, names, values)
        pk = values[shape[1]]
        _key({"pk": pk, "sk": values[shape[2] or shape[3]] if shape[2] or shape[3] else "any"})
        order = self._order.get(pk, [])
        keys = list(order) if ScanIndexForward else order[::-1]
        if ExclusiveStartKey is not None:
            of, start = _exact_key(ExclusiveStartKey)
            if of != pk:
                raise ValidationError(f"the start key {ExclusiveStartKey} is not in the partition {pk}")
            keys = [sk for sk in keys if (sk > start if ScanIndexForward else sk < start)]
        found: list[Item] = []
        read = size = 0
        for sk in keys:
            item = self.partitions[pk][sk]
            if not test(item, {}, values):
                continue
            read += 1
            size += _size(item)
            if passes is None or passes(item, names, values):  # what does not pass is read all the same
                found.append({"sk": sk} if ProjectionExpression == "sk" else _copy(item))
            if read == Limit or size > self.page:
                return {"Items": found, "LastEvaluatedKey": {"pk": pk, "sk": sk}}
        return {"Items": found}

    def scan(self, *, ConsistentRead: bool = True) -> dict[str, Any]:  # noqa: N803
        """Return all items as one page, for tests. Syncline never scans."""
        assert ConsistentRead
        return {"Items": [_copy(item) for item in self.items()]}

    # -- internals

    def _find(self, key: tuple[str, str]) -> Item | None:
        partition = self.partitions.get(key[0])
        return None if partition is None else partition.get(key[1])

    def _plan(self, action: Mapping[str, Any]) -> tuple[tuple[str, str], Item | None, bool]:
        """Return the key of an action, the item after it, and True if its condition holds. Write nothing."""
        ((what, request),) = action.items()
        names: Names = request.get("ExpressionAttributeNames", {})
        values = {name: stored(value) for name, value in request.get("ExpressionAttributeValues", {}).items()}
        if ("ExpressionAttributeNames" in request and not names) or (
            "ExpressionAttributeValues" in request and not values
        ):
            raise ValidationError(f"empty placeholders: {request}")
        if not request.keys() <= _FIELDS.get(what, set()) | _MORE_FIELDS:
            raise ValidationError(f"unsupported fields of {what}: {sorted(request)}")
        key = _key(request["Item"]) if what == "Put" else _exact_key(request["Key"])
        old = self._find(key)
        allowed, used = True, frozenset[str]()
        if "ConditionExpression" in request:
            test, used = condition_of(request["ConditionExpression"])
            allowed = test(old or {}, names, values)
        new: Item | None = None
        if what == "Put":
            new = stored(request["Item"])
        elif what == "Update":
            actions, more = update_of(request["UpdateExpression"])
            used |= more
            new = updated(key, old, actions, names, values) if allowed else old
        check_used(used, names, values)
        if new is not None and _size(new) > LARGEST_ITEM:
            raise client_error("ValidationException", what, "Item size has exceeded the maximum allowed size")
        return key, new, allowed

    def _store(self, key: tuple[str, str], item: Item | None) -> None:
        pk, sk = key
        partition, order = self.partitions.setdefault(pk, {}), self._order.setdefault(pk, [])
        if item is None:
            if partition.pop(sk, None) is not None:
                del order[bisect.bisect_left(order, sk)]
        else:
            if sk not in partition:
                bisect.insort(order, sk)
            partition[sk] = item
            self.on_store(key, item)


def cancelled(codes: Sequence[str]) -> TransactionCanceledException:
    """Return the error of a cancelled transaction, with a code for each of its actions."""
    response: Any = {
        "Error": {"Code": "TransactionCanceledException", "Message": "cancelled"},
        "CancellationReasons": [{"Code": code} for code in codes],
    }
    return TransactionCanceledException(response, "TransactWriteItems")


def _key(value: Mapping[str, Any]) -> tuple[str, str]:
    pk, sk = value["pk"], value["sk"]
    for part, most in ((pk, 2048), (sk, 1024)):
        if not isinstance(part, str) or not 1 <= (len(part) if part.isascii() else len(part.encode())) <= most:
            raise ValidationError(f"invalid key: {value}")
    return pk, sk


def _exact_key(value: Mapping[str, Any]) -> tuple[str, str]:
    if value.keys() != _KEY_FIELDS:
        raise ValidationError(f"invalid key: {value}")
    return _key(value)
