"""Example payloads of GitHub at the function URL: signed, forged and repeated deliveries."""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from syncline.config.file import read_syncs
from syncline.kinds.artifacts.config import ArtifactsSync
from syncline.kinds.artifacts.events import runs_in
from syncline.messages import Start, decode
from syncline.model import Scope, Trigger
from syncline.secrets import Secrets
from syncline.web.receive import LARGEST_BODY, Receiver
from tests.rig.made_up import Steps

ROOT: Final = Path(__file__).parents[3]
SECRET: Final = "It's a Secret to Everybody"
EXAMPLES: Final = json.loads((ROOT / "tests/fixtures/octokit-workflow-run.json").read_text())
NAME: Final = "presto-images"


def sync() -> ArtifactsSync:
    (found,) = read_syncs(ROOT / "examples/artifacts-presto.yaml").syncs.values()
    assert isinstance(found, ArtifactsSync)
    values = found.model_dump(mode="json")
    values["source"] |= {"repository": "octo-org/octo-repo", "workflow": "test.yml"}
    return ArtifactsSync.model_validate({**values, "webhook": {"secret": "env:HOOK"}})


@pytest.fixture
def receiver(steps: Steps) -> Receiver:
    secrets = Secrets(
        lambda: pytest.fail("no secret may be fetched"),
        lambda: pytest.fail("no secret may be fetched"),
        {"HOOK": SECRET},
    )
    return Receiver(lambda _name: sync(), lambda _sync, event: runs_in(event, sync().source), secrets, steps.queues)


def signature(body: str) -> str:
    return f"sha256={hmac.new(SECRET.encode(), body.encode(), hashlib.sha256).hexdigest()}"


def post(receiver: Receiver, body: str, signed: str) -> tuple[int, dict[str, Any]]:
    headers = {"Content-Type": "application/json", "X-GitHub-Event": "workflow_run", "X-Hub-Signature-256": signed}
    http = {"method": "POST", "path": f"/hooks/{NAME}"}
    event = {"rawPath": http["path"], "headers": headers, "requestContext": {"http": http}, "body": body}
    answer = receiver.handle({**event, "isBase64Encoded": False})
    return answer["statusCode"], json.loads(answer["body"])


def queued(steps: Steps) -> list[Any]:
    """Return the queued starts without the IDs of their runs, after checking that each has one."""
    starts = [decode(letter.body) for letter in steps.mail.waiting()]
    assert all(isinstance(start, Start) and start.id for start in starts)
    return [replace(start, id=None) for start in starts if isinstance(start, Start)]


SCAN: Final = Start(NAME, Trigger.WEBHOOK, Scope.of(["run:289782451"]))


def test_the_signature_matches_the_test_vector_of_github() -> None:
    assert signature("Hello, World!") == "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
def test_a_successful_workflow_run_queues_a_scan(
    steps: Steps, receiver: Receiver, number: int, separators: tuple[str, str]
) -> None:
    """The signature covers the raw bytes, with any spacing."""
    body = json.dumps(EXAMPLES[number], separators=separators)
    assert post(receiver, body, signature(body))[0] == 202
    assert queued(steps) == ([SCAN] if number in (1, 2) else [])


def test_a_repeated_delivery_queues_the_same_scan(steps: Steps, receiver: Receiver) -> None:
    body = json.dumps(EXAMPLES[1])
    for _ in range(3):
        assert post(receiver, body, signature(body))[0] == 202
    assert queued(steps) == [SCAN] * 3


@pytest.mark.parametrize("forged", ["", "sha256=", f"sha256={'0' * 64}", "sha1=" + "0" * 40])
def test_a_forged_delivery_is_refused_without_a_reason(steps: Steps, receiver: Receiver, forged: str) -> None:
    body = json.dumps(EXAMPLES[1])
    for signed in (forged, signature(body + " "), signature(body)[:-1]):
        assert post(receiver, body, signed)[0] == 401
    assert queued(steps) == []


def test_the_size_is_checked_before_the_signature(steps: Steps, receiver: Receiver) -> None:
    body = json.dumps(EXAMPLES[1]) + " " * LARGEST_BODY
    assert post(receiver, body, signature(body))[0] == 413
    assert queued(steps) == []
