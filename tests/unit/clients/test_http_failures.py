"""Messages of servers and programs are quoted in errors without the secrets that they repeat."""

from __future__ import annotations

import base64
import json

import pytest

from syncline import secrets
from syncline.clients.git.failures import error_of_git
from syncline.clients.http.failures import error_of_status

SECRET = "pass+word/of the robot"


@pytest.fixture(autouse=True)
def _known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "_redaction", secrets._Redaction())
    secrets.register(SECRET)


@pytest.mark.parametrize(
    "body",
    [
        f"unknown token {SECRET}",
        json.dumps({"errors": [{"code": "DENIED", "message": f"no user has the password {SECRET}"}]}),
        json.dumps({"message": "Authorization: " + base64.b64encode(f"robot:{SECRET}".encode()).decode()}),
        f"<Error><Code>InvalidAccessKeyId</Code><Message>no key {SECRET}</Message></Error>",
        "x" * 190 + SECRET,
    ],
    ids=["text", "json", "base64", "xml", "cut"],
)
def test_a_server_that_repeats_the_credentials_is_quoted_without_them(body: str) -> None:
    what = error_of_status("GET", "https://quay.example/v2/", 403, {}, body.encode()).what
    assert "***" in what
    assert SECRET[:6] not in what
    assert base64.b64encode(SECRET.encode()).decode()[4:12] not in what


@pytest.mark.parametrize("before", ["", "x" * 280], ids=["whole", "cut"])
def test_a_message_of_git_that_repeats_the_credentials_is_quoted_without_them(before: str) -> None:
    what = error_of_git("push", 128, f"remote: {before} token {SECRET} is unknown").what
    assert "***" in what
    assert SECRET[:4] not in what
