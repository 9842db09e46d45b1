"""The published document: the one that the code makes, and one that tools understand."""

from __future__ import annotations

import json
from pathlib import Path

from syncline.kinds.tokens.verdict import InstanceResult, ProbeResult, Reason, TokenState, Verdict
from syncline.web.contract import STATUSES, body_of
from syncline.web.openapi import document

FILE = Path(__file__).parents[3] / "docs" / "openapi.json"


def test_file_equals_the_document() -> None:
    """After a change of the contract: ``python -m syncline.web.openapi > docs/openapi.json``."""
    assert json.loads(FILE.read_text()) == document()


def test_document_has_every_verdict_and_reason() -> None:
    whole = document()
    answers = whole["paths"]["/v1/synced/{sync}"]["get"]["responses"]
    assert answers["200"]["headers"]["X-Token-Status"]["schema"]["enum"] == [
        "Synced",
        "Partialy",
        "NotSynced",
        "Timeout",
    ]
    reasons = [reason for each in answers.values() for reason in each["headers"]["X-Token-Reason"]["schema"]["enum"]]
    assert sorted(reasons) == sorted(each.value for each in Reason)
    assert whole["components"]["schemas"]["Verdict"]["enum"] == [each.value for each in Verdict]
    assert set(answers) == {"200", *map(str, STATUSES.values())}


def test_body_has_exactly_the_documented_keys() -> None:
    schemas = document()["components"]["schemas"]
    seen = InstanceResult("one", "10.0.0.1:1", TokenState.YES, 1, 2.5, 200)
    body = body_of("gateway", "0123abcd", ProbeResult(Verdict.SYNCED, Reason.ALL_AGREE, (seen,), seen), None)
    assert list(body) == list(schemas["Body"]["properties"]) == schemas["Body"]["required"]
    assert list(body["instances"][0]) == list(schemas["InstanceBody"]["properties"])


def test_pending_instance_with_a_refusal_counts_as_refusal() -> None:
    waiting = InstanceResult("one", "10.0.0.1:1", TokenState.PENDING, 3, None, 401, "refused the token (401)")
    silent = InstanceResult("two", "10.0.0.2:1", TokenState.PENDING, 1)
    body = body_of("gateway", None, ProbeResult(Verdict.TIMEOUT, Reason.NOT_IN_TIME, (waiting, silent)), None)
    said = [(each["verdict"], each["reason"]) for each in body["instances"]]
    assert said == [("not_yet", "refused the token (401)"), ("no_answer", "no answer in time")]
