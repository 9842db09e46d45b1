"""``secret set``: values are stored for the functions, and nowhere else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from syncline.cli.main import app
from syncline.secrets import Reference, Secrets
from tests.unit.cli.cli_stack import SYNCS, Stack


def store(stack: Stack, name: str, value: str | bytes, *options: str) -> Result:
    return CliRunner().invoke(app, ["secret", "set", name, "--home", str(stack.home), *options], input=value)


def resolved(stack: Stack, reference: str) -> str:
    target = stack.target
    secrets = Secrets(lambda: target.client("secretsmanager"), lambda: target.client("ssm"))
    return secrets.resolve(Reference.parse(reference))


def test_a_secret_is_created_and_replaced(stack: Stack) -> None:
    result = store(stack, "syncline/token", "first\n")
    assert (result.exit_code, result.stdout) == (0, "secret:syncline/token created\n")
    assert resolved(stack, "secret:syncline/token") == "first"
    result = store(stack, "secret:syncline/token", "second")
    assert (result.exit_code, result.stdout) == (0, "secret:syncline/token replaced\n")
    assert resolved(stack, "secret:syncline/token") == "second"


def test_a_key_of_a_secret_is_set_alone(stack: Stack) -> None:
    for key, value in (("user", "ann"), ("password", "s3cr3t"), ("user", "bob")):
        assert store(stack, f"syncline/ann#{key}", value).exit_code == 0
    values = {key: resolved(stack, f"secret:syncline/ann#{key}") for key in ("user", "password")}
    assert values == {"user": "bob", "password": "s3cr3t"}
    assert store(stack, "syncline/text", "not JSON").exit_code == 0
    result = store(stack, "syncline/text#key", "value")
    assert result.exit_code == 2
    assert result.stderr.startswith(
        "error USAGE: secret:syncline/text is not a JSON object, so no key can be set in it"
    )
    assert resolved(stack, "secret:syncline/text") == "not JSON"


def test_a_parameter_is_created_and_replaced(stack: Stack) -> None:
    for value in ("first", "second"):
        assert store(stack, "ssm:/syncline/token", value).exit_code == 0
        assert resolved(stack, "ssm:/syncline/token") == value


def test_the_value_is_not_printed(stack: Stack) -> None:
    result = store(stack, "syncline/token", "hunter2", "--json")
    value: dict[str, Any] = json.loads(result.stdout)
    assert value == {"reference": "secret:syncline/token", "created": True}
    assert "hunter2" not in result.output


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("syncline/token", "\n", "no value was given; type it, or pass it on stdin"),
        ("syncline/token", b"\xff\xfe", "the value is not UTF-8 text; encode it first, with `base64` for example"),
        ("env:TOKEN", "x", "env:TOKEN is read from the environment of `syncline up`; set it there"),
        ("syncline/a b", "x", "'syncline/a b' is not a secret's name"),
        ("ssm:token", "x", "'ssm:token' is not a parameter's name"),
    ],
)
def test_usage_errors(stack: Stack, name: str, value: str | bytes, text: str) -> None:
    result = store(stack, name, value)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error USAGE: {text}")


def test_an_unknown_action_is_an_error(stack: Stack) -> None:
    result = stack.run("secret", "get", "syncline/token")
    assert result.stderr.startswith("error USAGE: unknown action 'get'; the only one is `set`")


def test_the_command_that_apply_suggests_creates_the_secret(stack: Stack) -> None:
    syncs = SYNCS + "    webhook: {secret: 'secret:syncline/hook#pushed'}\n"
    result = stack.apply(syncs)
    assert result.exit_code == 2
    suggested = "syncline secret set 'syncline/hook#pushed'"
    assert (
        f"prod.webhook.secret: secret:syncline/hook#pushed does not exist; to create it: {suggested}" in result.stderr
    )
    assert store(stack, "syncline/hook#pushed", "a-long-random-text").exit_code == 0
    assert stack.apply(syncs).exit_code == 0
