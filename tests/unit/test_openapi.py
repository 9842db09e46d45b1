"""The OpenAPI document: current and complete."""

from __future__ import annotations

from scripts.openapi import document
from syncline.kinds.tokens.verdict import InstanceResult, ProbeResult, Reason, TokenState, Verdict
from syncline.web.contract import STATUSES, body_of


def test_the_document_has_every_verdict_and_reason() -> None:
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


def test_a_body_has_exactly_the_documented_keys() -> None:
    schemas = document()["components"]["schemas"]
    seen = InstanceResult("one", "10.0.0.1:1", TokenState.YES, 1, 2.5, 200)
    body = body_of("gateway", "0123abcd", ProbeResult(Verdict.SYNCED, Reason.ALL_AGREE, (seen,), seen), None)
    assert list(body) == list(schemas["Body"]["properties"]) == schemas["Body"]["required"]
    assert list(body["instances"][0]) == list(schemas["InstanceBody"]["properties"])


def test_a_pending_instance_is_reported_with_its_last_refusal() -> None:
    waiting = InstanceResult("one", "10.0.0.1:1", TokenState.PENDING, 3, None, 401, "refused the token (401)")
    silent = InstanceResult("two", "10.0.0.2:1", TokenState.PENDING, 1)
    body = body_of("gateway", None, ProbeResult(Verdict.TIMEOUT, Reason.NOT_IN_TIME, (waiting, silent)), None)
    reported = [(each["verdict"], each["reason"]) for each in body["instances"]]
    assert reported == [("not_yet", "refused the token (401)"), ("no_answer", "no answer in time")]
