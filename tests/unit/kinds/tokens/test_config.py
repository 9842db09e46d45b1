"""The configuration of syncs of tokens: valid and invalid values, and warnings."""

from __future__ import annotations

import json
from typing import Any, Final

import pytest

from syncline.config.file import ConfigInvalid, parse_syncs
from syncline.kinds.tokens.config import TokensSync
from syncline.secrets import references_in

SOURCE: Final = {"namespace": "gateway", "service": "nginx"}
CHECK: Final = {"host": "api.example"}
CALL: Final = {"method": "GET", "path": "/keys/{key}"}


def parsed(**more: Any) -> TokensSync:
    sync = {"kind": "tokens", "sources": {"prod": SOURCE}, "check": CHECK, **more}
    found = parse_syncs(json.dumps({"syncs": {"gateway": sync}}).encode()).syncs["gateway"]
    assert isinstance(found, TokensSync)
    return found


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"sources": {"a": SOURCE, "b": {"namespace": "edge", "labels": "app=nginx,tier!=test", "port": 8443}}},
        {"sources": {"a": {**SOURCE, "auth": {"kubeconfig": "secret:syncline/kube", "context": "prod"}}}},
        {"sources": {"a": {**SOURCE, "auth": {"token": "env:TOKEN"}, "api": "https://api.example:6443"}}},
        {"sources": {"a": {**SOURCE, "auth": {"eks": "prod"}, "api": "https://x.eks.amazonaws.com"}}},
        {"quorum": "majority", "sync_interval": 0.5, "retry_for": 1, "deadline": 1.2},
        {"quorum": 3, "stale_after": 60},
    ],
)
def test_valid_syncs(more: dict[str, Any]) -> None:
    sync = parsed(**more)
    assert TokensSync.model_validate_json(sync.model_dump_json()) == sync


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"sources": {}}, "sources"),
        ({"sources": {"a": {"namespace": "gateway"}}}, "exactly one of service and labels"),
        ({"sources": {"a": {**SOURCE, "labels": "app=nginx", "port": 1}}}, "exactly one of service and labels"),
        (
            {"sources": {"a": {"namespace": "gateway", "labels": "app=nginx"}}},
            "write the number of the pods' port under port",
        ),
        ({"sources": {"a": {"namespace": "gateway", "labels": "app", "port": 1}}}, "is not a label selector"),
        ({"sources": {"a": {**SOURCE, "namespace": "Gateway"}}}, "is not a Kubernetes name"),
        ({"sources": {"a": {**SOURCE, "auth": {"token": "env:T"}}}}, "write https://host[:port] under api"),
        ({"sources": {"a": {**SOURCE, "api": "https://api.example"}}}, "remove them"),
        ({"sources": {"a": {**SOURCE, "auth": "kubeconfig"}}}, "is not a login method"),
        ({"sources": {"a": {**SOURCE, "auth": {"token": "env:T", "eks": "prod"}}}}, "more than one login method"),
        ({"sources": {"a": {**SOURCE, "auth": {"token": "eyJhbGciOi"}}}}, "is not a reference"),
        ({"check": {**CHECK, "path": "check"}}, "is not a path"),
        ({"check": {**CHECK, "path": "/a b"}}, "is not a path"),
        ({"check": {**CHECK, "path": "/a\r\nX: y"}}, "is not a path"),
        ({"check": {**CHECK, "cookie": "a=b"}}, "is not a cookie's name"),
        ({"retry_for": 1.9}, "shorter than two sync intervals"),
        ({"deadline": 2.5}, "is not longer than the retries"),
        ({"quorum": "most"}, "is not a quorum"),
        ({"quorum": 0}, "is not a quorum"),
        ({"quorum": True}, "is not a quorum"),
        ({"sync_interval": "1s"}, "is not a time"),
        ({"sync_interval": 0}, "is not a time"),
        ({"stale_after": True}, "is not a time"),
        ({"sources": {"a": {**SOURCE, "port": 0}}}, "is not a port"),
        ({"sources": {"a": {**SOURCE, "port": "HTTPS"}}}, "is not a port"),
        ({"schedule": "rate(1 hour)"}, "has no effect: the stack's ScrapeSchedule decides"),
        ({"webhook": {"secret": "env:HOOK"}}, "has no effect: the stack's ScrapeSchedule decides"),
        (
            {"canary": {"write": CALL, "read": CALL, "delete": CALL, "headers": {"Host": "env:H"}}},
            "has an invalid or reserved header name",
        ),
    ],
)
def test_invalid_syncs_have_messages(more: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        parsed(**more)
    assert expected in caught.value.what
    assert "eyJhbGciOi" not in caught.value.what


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"check": {**CHECK, "plain_http": True}}, "without encryption"),
        ({"sync_interval": 10}, "lets a verdict take 25.5 seconds"),
        ({"deadline": 26}, "lets a verdict take 26 seconds"),
    ],
)
def test_warnings(more: dict[str, Any], expected: str) -> None:
    (warning,) = parsed(**more).warnings()
    assert expected in warning.message


def test_every_secret_is_found_at_any_path() -> None:
    canary = {"write": CALL, "read": CALL, "delete": CALL, "headers": {"X-Api-Key": "secret:syncline/gateway#canary"}}
    source = {**SOURCE, "auth": {"token": "env:TOKEN"}, "api": "https://api.example:6443"}
    found = dict(references_in(parsed(sources={"prod": source}, canary=canary)))
    assert {path: str(reference) for path, reference in found.items()} == {
        "sources.prod.auth.token": "env:TOKEN",
        "canary.headers.X-Api-Key": "secret:syncline/gateway#canary",
    }
