"""Webhooks and heartbeats against a real server: signatures, statuses, redirects, and errors without the URL."""

from __future__ import annotations

import hashlib
import hmac
import json
import subprocess

import pytest

from syncline.clients.http.client import Http
from syncline.clients.notify import hooks
from syncline.clients.notify.hooks import HookClient, slack_text
from syncline.errors import SynclineError
from tests.rig.server import Reply, ScriptedServer

PATH = "/services/T000/hunter2-path"


def failure(server: ScriptedServer, reply: Reply) -> SynclineError:
    server.on("POST", PATH, reply)
    with pytest.raises(SynclineError) as caught:
        HookClient(Http(), f"{server.url}{PATH}").slack("text")
    assert "hunter2" not in str(caught.value)
    assert len(server.requests) <= 1
    return caught.value


def test_a_signature_is_that_of_an_independent_program(server: ScriptedServer) -> None:
    server.on("POST", "/hook", Reply(204))
    body = {"version": 1, "text": "ä ✓", "sync": "a"}
    HookClient(Http(), f"{server.url}/hook").signed(body, "s3cret of the hook", "failing", "id-1")
    (request,) = server.requests
    command = ["openssl", "dgst", "-sha256", "-hmac", "s3cret of the hook"]
    done = subprocess.run(command, input=request.body, capture_output=True, check=True, timeout=30)
    assert request.headers["x-hub-signature-256"] == f"sha256={done.stdout.decode().split()[-1]}"
    own = hmac.new(b"s3cret of the hook", request.body, hashlib.sha256).hexdigest()
    assert request.headers["x-hub-signature-256"] == f"sha256={own}"
    assert (request.headers["x-syncline-event"], request.headers["x-syncline-delivery"]) == ("failing", "id-1")
    assert json.loads(request.body) == body


def test_slack_gets_plain_text_without_markup(server: ScriptedServer) -> None:
    server.on("POST", PATH, Reply(200, b"ok"))
    HookClient(Http(), f"{server.url}{PATH}").slack("<!channel> & <https://evil.example|x> @here")
    body = json.loads(server.requests[0].body)
    assert body["text"] == "&lt;!channel&gt; &amp; &lt;https://evil.example|x&gt; @\u200bhere"
    assert body["mrkdwn"] is False
    assert "<" not in slack_text("<" * 10)


@pytest.mark.parametrize(
    ("status", "code", "retried"),
    [
        (400, "REFUSED", False),
        (404, "NOT_FOUND", False),
        (410, "NOT_FOUND", False),
        (429, "THROTTLED", True),
        (500, "SERVER_ERROR", True),
        (503, "SERVER_ERROR", True),
    ],
)
def test_a_refusal_has_its_code_and_is_asked_once(
    server: ScriptedServer, status: int, code: str, retried: bool
) -> None:
    error = failure(server, Reply(status, b"no such hook hunter2-path"))
    assert (error.code.name, error.retried) == (code, retried)


@pytest.mark.parametrize(
    ("location", "code"),
    [
        ("http://169.254.169.254/latest/meta-data/", "ADDRESS_REFUSED"),
        ("http://metadata.google.internal/", "ADDRESS_REFUSED"),
        ("http://2852039166/", "ADDRESS_REFUSED"),
        ("https://elsewhere.example/hook", "REDIRECTED"),
        ("", "REDIRECTED"),
    ],
)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_never_followed(server: ScriptedServer, status: int, location: str, code: str) -> None:
    error = failure(server, Reply(status, headers={"Location": location}))
    assert error.code.name == code
    assert not error.retried


def test_a_metadata_address_gets_no_request() -> None:
    with pytest.raises(SynclineError, match="ADDRESS_REFUSED"):
        HookClient(Http(), "http://169.254.169.254/latest").slack("text")


def test_a_server_that_does_not_answer_is_given_up(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hooks, "SECONDS", 0.2)
    error = failure(server, Reply(200, delay=1.0))
    assert (error.code.name, error.retried) == ("UNREACHABLE", True)
    assert error.what.startswith(server.url)
    assert "did not answer completely within" in error.what


def test_a_dropped_connection_is_retried_later(server: ScriptedServer) -> None:
    error = failure(server, Reply(drop=True))
    assert error.code.name == "UNREACHABLE"


def test_an_endless_answer_is_not_read(server: ScriptedServer) -> None:
    server.on("POST", PATH, Reply(200, b"x" * 1_000_000))
    HookClient(Http(), f"{server.url}{PATH}").slack("text")


@pytest.mark.parametrize("url", ["hunter2", "ftp://host/hunter2", "https://user:hunter2@host/", ""])
def test_a_secret_that_is_no_url_is_not_repeated(url: str) -> None:
    with pytest.raises(SynclineError) as caught:
        HookClient(Http(), url)
    assert caught.value.code.name == "CONFIG_INVALID"
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "phase", "target"),
    [
        ("/ping/1", "start", "/ping/1/start"),
        ("/ping/1", "success", "/ping/1"),
        ("/ping/1/", "fail", "/ping/1/fail"),
        ("/ping/1?key=k", "fail", "/ping/1/fail?key=k"),
    ],
)
def test_a_heartbeat_calls_the_url_of_its_phase(server: ScriptedServer, url: str, phase: str, target: str) -> None:
    server.on("POST", target, Reply(200, b"OK"))
    HookClient(Http(), f"{server.url}{url}").beat(phase, "run r of a")
    (request,) = server.requests
    assert (request.target, request.body) == (target, b"run r of a")
