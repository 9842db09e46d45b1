"""The check of AWS calls against roles detects calls that no role allows."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import boto3
import pytest
from moto import mock_aws

from syncline.web.console import Console
from tests.rig import grants
from tests.rig.stack import create_table


@dataclass(frozen=True)
class Work:
    """Figures of the console that make an AWS call, directly or in a thread."""

    call: Callable[[], object]
    in_a_thread: bool

    def figures(self) -> list[object]:
        if self.in_a_thread:
            thread = threading.Thread(target=self.call)
            thread.start()
            thread.join()
        else:
            self.call()
        return []


def console_makes(call: Callable[[], object], *, in_a_thread: bool = False) -> None:
    work = Work(call, in_a_thread)
    event = {"rawPath": "/health", "requestContext": {"http": {"method": "GET"}}}
    assert Console(work.figures, lambda: None).handle(event)["statusCode"] == 200  # type: ignore[arg-type]


@pytest.mark.parametrize("in_a_thread", [False, True])
@mock_aws
def test_a_call_that_the_role_does_not_allow_is_detected(*, in_a_thread: bool) -> None:
    table = create_table()
    console_makes(lambda: table.get_item(Key={"pk": "a", "sk": "b"}), in_a_thread=in_a_thread)
    grants.fail_if_denied()
    console_makes(lambda: table.put_item(Item={"pk": "a", "sk": "b"}), in_a_thread=in_a_thread)
    with pytest.raises(AssertionError, match=r"ConsoleRole does not allow dynamodb:PutItem on .*:table/syncline-"):
        grants.fail_if_denied()


@mock_aws
def test_each_write_of_a_transaction_is_checked() -> None:
    table = create_table()
    put = {"Put": {"TableName": table.name, "Item": {"pk": "a", "sk": "b"}}}
    console_makes(lambda: table.meta.client.transact_write_items(TransactItems=[put]))  # type: ignore[list-item]
    with pytest.raises(AssertionError, match="dynamodb:PutItem"):
        grants.fail_if_denied()


@mock_aws
def test_a_call_on_another_resource_is_detected() -> None:
    client = boto3.client("secretsmanager")
    client.create_secret(Name="other/hooks", SecretString="x")
    client.create_secret(Name="syncline/hooks", SecretString="x")
    console_makes(lambda: client.get_secret_value(SecretId="syncline/hooks"))
    grants.fail_if_denied()
    console_makes(lambda: client.get_secret_value(SecretId="other/hooks"))
    with pytest.raises(AssertionError, match=r"secretsmanager:GetSecretValue on .*:secret:other/hooks"):
        grants.fail_if_denied()


@mock_aws
def test_calls_of_the_test_itself_are_not_checked() -> None:
    create_table().put_item(Item={"pk": "a", "sk": "b"})
    grants.fail_if_denied()


def test_an_unused_grant_is_reported() -> None:
    every = {(f, each.action, each.resource) for f in ("Console",) for each in grants.grants_of(f)}
    query = next(each for each in every if each[1] == "dynamodb:Query")
    assert f"ConsoleRole: dynamodb:Query on {query[2]}" in grants.unused(every - {query})
    assert not [line for line in grants.unused(every) if line.startswith("ConsoleRole")]
