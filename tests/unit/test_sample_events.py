"""The sample events in ``events/``: the files are current, and every function reads its own."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from syncline.clients.s3.events import events_in
from syncline.config.file import read_syncs
from syncline.kinds.artifacts.config import ArtifactsSync
from syncline.kinds.artifacts.events import runs_in
from syncline.kinds.images.events import repositories_in
from syncline.messages import Batch, Hint, Notification, Start, decode
from syncline.web.contract import PATH
from syncline.web.function_url import request_of
from tests.sam.events import BUILDS, FILES_BUCKET, FILES_KEY, FOLDER, REPOSITORY, WORKFLOW_RUN, events, written

FILES = sorted(str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*.json"))
FUNCTIONS = sorted(path.parent.name for path in (FOLDER.parent / "functions").glob("*/app.py"))


def test_the_files_are_current() -> None:
    """Run ``python -m tests.sam.events`` after a change of messages or triggers."""
    assert {name: (FOLDER / name).read_text() for name in FILES} == {
        name: written(event) for name, event in events().items()
    }


def test_every_function_has_an_event() -> None:
    assert sorted({name.partition("/")[0] for name in FILES}) == FUNCTIONS


@pytest.mark.parametrize("name", FILES)
def test_the_function_reads_its_event(name: str) -> None:
    event = json.loads((FOLDER / name).read_text())
    function = name.partition("/")[0]
    if name.startswith("receive/github"):
        (sync,) = read_syncs(FOLDER.parent / "examples/artifacts-presto.yaml").syncs.values()
        assert isinstance(sync, ArtifactsSync)
        assert sync.name == BUILDS
        assert runs_in(json.loads(_body(event)), sync.source) == (f"run:{WORKFLOW_RUN['workflow_run']['id']}",)
        return
    if name == "receive/minio.json":
        _names_the_file(json.loads(_body(event)))
        return
    if function == "receive":
        assert repositories_in(json.loads(_body(event))) == (REPOSITORY,)
        return
    if function == "probe":
        request = request_of(event)
        assert request.method == "GET"
        assert request.path in (PATH, "/openapi.json")
        return
    if function == "console":
        assert event["rawPath"] in ("/health", "/metrics")
        return
    if function in ("scrape", "canary", "watch"):
        assert event["source"] == "aws.scheduler"  # the function reads nothing else
        return
    for record in event["Records"]:
        message = decode(record["body"])
        if isinstance(message, Notification):
            _names_the_file(message.body)
            continue
        if function == "notify":
            assert isinstance(message, Hint)
            continue
        assert isinstance(message, Batch | Start)
        assert (message.step.value if isinstance(message, Batch) else "discover") == function


def _names_the_file(body: Any) -> None:
    (notified,) = events_in(body)
    assert (notified.bucket, notified.key) == (FILES_BUCKET, FILES_KEY)
    assert notified.name in ("ObjectCreated:Put", "ObjectCreated:PutObject")  # the names of S3 and of EventBridge


def _body(event: dict[str, Any]) -> str:
    body: str = event["body"]
    return base64.b64decode(body).decode() if event["isBase64Encoded"] else body
