"""The table model against moto: the same calls have the same outcomes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest
from boto3.dynamodb.types import Binary
from botocore.exceptions import ClientError, ParamValidationError
from hypothesis import given, settings
from hypothesis import strategies as st
from moto import mock_aws

from tests.rig.stack import create_table
from tests.simulation.expressions import ValidationError
from tests.simulation.table import ModelTable

Table = Any
_KEYS = st.sampled_from([("a", "1"), ("a", "2"), ("b", "1")])
_VALUES = st.sampled_from([0, 1, -3, Decimal("2.5"), "x", "", True, None, b"bytes", ["l", 1], {"m": {"n": 1}}])
_NUMBERS = st.integers(-5, 5)


def _key(key: tuple[str, str]) -> dict[str, str]:
    return {"pk": key[0], "sk": key[1]}


def put(table: Table, key: tuple[str, str], value: Any, condition: str | None) -> Any:
    more = {} if condition is None else {"ConditionExpression": condition}
    return table.put_item(Item={**_key(key), "value": value, "n": 1}, **more)


def delete(table: Table, key: tuple[str, str]) -> Any:
    return table.delete_item(Key=_key(key))


def set_value(table: Table, key: tuple[str, str], value: Any, condition: str | None) -> Any:
    arguments: dict[str, Any] = {
        "Key": _key(key),
        "UpdateExpression": "SET #value = :value, another = :value",
        "ExpressionAttributeNames": {"#value": "value"},
        "ExpressionAttributeValues": {":value": value},
        "ReturnValues": "ALL_NEW",
    }
    if condition is not None:
        arguments["ConditionExpression"] = condition
    return table.update_item(**arguments)


def add(table: Table, key: tuple[str, str], amount: int) -> Any:
    return table.update_item(
        Key=_key(key),
        UpdateExpression="SET seen = :seen ADD grand :amount REMOVE another",
        ExpressionAttributeValues={":seen": amount, ":amount": amount},
        ReturnValues="ALL_NEW",
    )


def subtract(table: Table, key: tuple[str, str]) -> Any:
    return table.update_item(
        Key=_key(key),
        UpdateExpression="SET n = n - :one",
        ConditionExpression="n > :none AND (attribute_exists(pk) OR n IN (:one, :none))",
        ExpressionAttributeValues={":one": 1, ":none": 0},
        ReturnValues="ALL_NEW",
    )


def transact(table: Table, first: tuple[str, str], second: tuple[str, str], condition: str | None) -> Any:
    put_action: dict[str, Any] = {"TableName": table.name, "Item": {**_key(first), "by": "transaction"}}
    if condition is not None:
        put_action["ConditionExpression"] = condition
    update = {
        "TableName": table.name,
        "Key": _key(second),
        "UpdateExpression": "ADD #total :one",
        "ConditionExpression": "attribute_not_exists(#total) OR #total < :most",
        "ExpressionAttributeNames": {"#total": "total"},
        "ExpressionAttributeValues": {":one": 1, ":most": 3},
    }
    return table.meta.client.transact_write_items(TransactItems=[{"Put": put_action}, {"Update": update}])


_CONDITIONS = st.sampled_from([None, "attribute_not_exists(pk)", "attribute_exists(pk)"])
_CALLS = st.one_of(
    st.tuples(st.just(put), _KEYS, _VALUES, _CONDITIONS),
    st.tuples(st.just(delete), _KEYS),
    st.tuples(st.just(set_value), _KEYS, _VALUES, _CONDITIONS),
    st.tuples(st.just(add), _KEYS, _NUMBERS),
    st.tuples(st.just(subtract), _KEYS),
    st.tuples(st.just(transact), _KEYS, _KEYS, _CONDITIONS).filter(lambda call: call[1] != call[2]),
)


@pytest.fixture(scope="module")
def real() -> Iterator[Table]:
    with mock_aws():
        yield create_table()


def outcome(call: Callable[[], Any]) -> Any:
    """Return the attributes that a call returns, or the codes of its error."""
    try:
        answer = call()
    except ClientError as error:
        reasons = [reason.get("Code") for reason in error.response.get("CancellationReasons", [])]
        return error.response["Error"]["Code"], reasons
    return plain(answer.get("Attributes")) if isinstance(answer, dict) else None


def plain(value: Any) -> Any:
    """Return a value with binary values as bytes, so that values of both tables can be compared."""
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items()}
    if isinstance(value, list):
        return [plain(each) for each in value]
    return bytes(value.value) if isinstance(value, Binary) else value  # type: ignore[attr-defined]


@settings(max_examples=120)
@given(calls=st.lists(_CALLS, min_size=1, max_size=12))
def test_the_same_calls_have_the_same_outcome(real: Table, calls: list[tuple[Any, ...]]) -> None:
    model = ModelTable(real.name)
    for key in (("a", "1"), ("a", "2"), ("b", "1")):
        real.delete_item(Key=_key(key))
    for function, *arguments in calls:
        expected = outcome(lambda f=function, a=arguments: f(real, *a))  # type: ignore[misc]
        assert outcome(lambda f=function, a=arguments: f(model, *a)) == expected  # type: ignore[misc]
    for pk in "ab":
        query: dict[str, Any] = {
            "KeyConditionExpression": "pk = :pk AND begins_with(sk, :start)",
            "ExpressionAttributeValues": {":pk": pk, ":start": "1"},
            "ConsistentRead": True,
        }
        assert plain(model.query(**query)["Items"]) == plain(real.query(**query)["Items"])


def test_queries_return_items_in_order_over_pages() -> None:
    table = ModelTable(page=500)
    for number in range(20):
        table.put_item(Item={"pk": "p", "sk": f"{number:02}", "text": "x" * 100})
    found: list[str] = []
    start: dict[str, Any] = {}
    while True:
        answer = table.query(
            KeyConditionExpression="pk = :pk AND sk <= :last",
            ExpressionAttributeValues={":pk": "p", ":last": "15"},
            ConsistentRead=True,
            **start,
        )
        found += [item["sk"] for item in answer["Items"]]
        if "LastEvaluatedKey" not in answer:
            break
        start = {"ExclusiveStartKey": answer["LastEvaluatedKey"]}
    assert found == [f"{number:02}" for number in range(16)]


@pytest.mark.parametrize(
    "arguments",
    [
        {"UpdateExpression": "SET a = :a", "ExpressionAttributeValues": {":a": 1, ":unused": 2}},
        {"UpdateExpression": "SET #a = :a", "ExpressionAttributeValues": {":a": 1}},
        {"UpdateExpression": "SET a = :a", "ExpressionAttributeValues": {}},
        {"UpdateExpression": "SET a : :a", "ExpressionAttributeValues": {":a": 1}},
        {"UpdateExpression": "SET other = :a", "ExpressionAttributeValues": {":a": 1}},
    ],
)
def test_invalid_expressions_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises((ValidationError, KeyError)):
        ModelTable().update_item(Key={"pk": "p", "sk": "s"}, **arguments)


_ITEM = {"pk": "strict", "sk": "s"}


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("get_item", {"Key": {**_ITEM, "more": "x"}, "ConsistentRead": True}),
        (
            "update_item",
            {"Key": _ITEM, "UpdateExpression": "SET a = :a, a = :a", "ExpressionAttributeValues": {":a": 1}},
        ),
        (
            "update_item",
            {"Key": _ITEM, "UpdateExpression": "SET a = :a SET b = :a", "ExpressionAttributeValues": {":a": 1}},
        ),
        ("put_item", {"Item": {**_ITEM, "value": Decimal("1." + "1" * 38)}}),
        ("put_item", {"Item": {**_ITEM, "value": Decimal("NaN")}}),
        ("put_item", {"Item": {**_ITEM, "value": set()}}),
        ("put_item", {"Item": {**_ITEM, "value": 1.5}}),
        ("put_item", {"Item": {"pk": "", "sk": "s"}}),
        ("put_item", {"Item": _ITEM, "Condition": "attribute_exists(pk)"}),
        ("put_item", {"Item": {**_ITEM, "value": "x" * 410_000}}),
    ],
)
def test_invalid_requests_are_refused_by_both(real: Table, method: str, arguments: dict[str, Any]) -> None:
    for table in (real, ModelTable(real.name)):
        with pytest.raises((ClientError, ParamValidationError, TypeError, ArithmeticError, AssertionError)):
            getattr(table, method)(**arguments)


def test_floats_and_large_items_are_refused() -> None:
    table = ModelTable()
    with pytest.raises(TypeError):
        table.put_item(Item={"pk": "p", "sk": "s", "value": 1.5})
    with pytest.raises(ClientError):
        table.put_item(Item={"pk": "p", "sk": "s", "value": "x" * 500_000})
