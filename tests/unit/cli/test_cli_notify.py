"""``notify test``: the function's answer, channel by channel."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from syncline.cli.deployment import Deployment
from tests.unit.cli.cli_stack import Stack


class Function:
    """The function `notify` behind Lambda's API: records what it is asked, and returns what a test says."""

    def __init__(self, answer: Any, *, failed: bool = False) -> None:
        self.answer = answer
        self.failed = failed
        self.asked: list[dict[str, Any]] = []

    def invoke(self, **asked: Any) -> dict[str, Any]:
        self.asked.append(asked)
        response = {"Payload": io.BytesIO(json.dumps(self.answer).encode())}
        return response | ({"FunctionError": "Unhandled"} if self.failed else {})


def install(monkeypatch: pytest.MonkeyPatch, function: Function) -> None:
    client = Deployment.client
    monkeypatch.setattr(
        Deployment, "client", lambda self, service: function if service == "lambda" else client(self, service)
    )


def test_each_channel_is_shown_with_its_result(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = {"code": "NOT_FOUND", "what": "POST https://hooks.slack.com answered 404"}
    function = Function({"channels": {"email": None, "slack": refusal}})
    install(monkeypatch, function)
    result = stack.run("notify", "test", "prod")
    assert result.exit_code == 1, result.output
    assert "✓ email" in result.stdout
    assert "✗ slack  NOT_FOUND: POST https://hooks.slack.com answered 404" in result.stdout
    (asked,) = function.asked
    assert asked["FunctionName"].endswith("-notify")
    assert json.loads(asked["Payload"]) == {"test": "prod"}


def test_all_channels_that_accept_are_a_success(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, Function({"channels": {"sns": None}}))
    assert stack.json("notify", "test", "prod") == {"sync": "prod", "channels": {"sns": None}}


def test_an_error_of_the_function_is_that_of_the_command(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, Function({"error": {"code": "NO_SUCH_SYNC", "what": "there is no sync named 'prod'"}}))
    result = stack.run("notify", "test", "prod")
    assert result.exit_code == 2
    assert "NO_SUCH_SYNC" in result.stderr
    install(monkeypatch, Function({"errorMessage": "boom"}, failed=True))
    result = stack.run("notify", "test", "prod")
    assert (result.exit_code, "boom" in result.stderr) == (2, True)


def test_another_action_is_refused(stack: Stack) -> None:
    result = stack.run("notify", "everybody", "prod")
    assert result.exit_code == 2
    assert "the only one is `test`" in result.stderr
