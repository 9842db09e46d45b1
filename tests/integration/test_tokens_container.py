"""The process of the container with real nginx instances: the contract, its document, metrics, canaries, invalid input."""

from __future__ import annotations

import json
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest

from scripts.openapi import document
from tests.rig.container import CANARY, Container, cluster_of, slices_of, sync_of, wait_for
from tests.standins.kubernetes import KubernetesApi
from tests.standins.nginx import Gateway
from tests.standins.programs import needs


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    """Yield five instances, of which the last never receives its peers' keys."""
    needs("nginx")
    with Gateway(5, interval=0.1, settings={4: {"deaf": "true"}}) as running:
        yield running


@pytest.fixture(scope="module")
def api(gateway: Gateway) -> Iterator[KubernetesApi]:
    with cluster_of(gateway) as running:
        running.put("endpointslices", "gateway", slices_of(gateway.listed[:4], gateway.port))
        yield running


@pytest.fixture(scope="module")
def container(gateway: Gateway, api: KubernetesApi) -> Iterator[Container]:
    with Container({"gateway": sync_of(gateway, api)}) as running:
        running.wait_until_ready()
        yield running


def _check_documented(answer: Any, path: str = "/v1/synced") -> None:
    """Check the status, the header values and the body of a response against the API document."""
    whole = document()
    response = whole["paths"][path]["get"]["responses"][str(answer.status)]
    for name, header in response["headers"].items():
        assert answer.headers[name] in header["schema"]["enum"], name
    schema = {"$ref": "#/components/schemas/Body", "components": whole["components"]}
    jsonschema.Draft4Validator(_nullable(schema)).validate(answer.json)


def _nullable(value: Any) -> Any:
    """Convert OpenAPI 3.0's ``nullable`` to JSON Schema."""
    if isinstance(value, list):
        return [_nullable(each) for each in value]
    if not isinstance(value, dict):
        return value
    inner = {key: _nullable(each) for key, each in value.items() if key != "nullable"}
    return {"anyOf": [inner, {"type": "null"}]} if value.get("nullable") is True else inner


def test_a_verdict_has_a_status_a_reason_and_each_instance(container: Container, gateway: Gateway) -> None:
    gateway.put_everywhere("response", but={4})
    response = container.synced("response", "gateway-000")
    assert (response.status, response.headers["X-Token-Status"]) == (200, "Synced")
    _check_documented(response)
    body = response.json
    assert (body["reason"], body["asked"], body["needed"], body["synced"]) == ("all_agree", 3, 3, 3)
    assert [each["name"] for each in body["instances"]] == ["gateway-001", "gateway-002", "gateway-003"]
    assert all(each["verdict"] == "has_it" and each["attempts"] >= 1 for each in body["instances"])
    assert (body["origin"]["name"], body["origin"]["verdict"]) == ("gateway-000", "has_it")
    assert body["list"]["serving"] == 4


def test_a_token_appears_only_as_a_short_hash(container: Container, gateway: Gateway) -> None:
    token = "very-secret-session-token-of-a-person"
    gateway.put(0, token)
    for name in (token, f"{token}-unknown"):
        response = container.synced(name, "gateway-000")
        assert token not in response.body.decode() + json.dumps(dict(response.headers))
        assert response.json["token"]
    bad = container.synced(f"{token} {token}", "gateway-000")
    assert token not in bad.body.decode()
    container.get(f"/v1/synced/{token}?t={token}")
    assert token not in container.log.read_text()


@pytest.mark.parametrize(
    ("headers", "status", "reason"),
    [
        ({}, 400, "token_missing"),
        ({"X-Auth-Token": "", "X-Nginx-Origin": "gateway-000"}, 400, "token_missing"),
        ({"X-Auth-Token": "t"}, 400, "origin_missing"),
        ({"X-Auth-Token": "t", "X-Nginx-Origin": "a b"}, 400, "origin_invalid"),
        ({"X-Auth-Token": "t", "X-Nginx-Origin": "o" * 300}, 400, "origin_invalid"),
        ({"X-Auth-Token": "a;b=c", "X-Nginx-Origin": "gateway-000"}, 400, "token_invalid"),
        ({"X-Auth-Token": b"\xff\xfe\x80", "X-Nginx-Origin": "gateway-000"}, 400, "token_invalid"),
        ({"X-Auth-Token": "t" * 16385, "X-Nginx-Origin": "gateway-000"}, 431, "token_too_long"),
        ({"X-Auth-Token": "t" * 100_000, "X-Nginx-Origin": "gateway-000"}, 431, "token_too_long"),
    ],
)
def test_invalid_headers_get_a_verdict_and_a_reason(
    container: Container, headers: dict[str, Any], status: int, reason: str
) -> None:
    response = container.get("/v1/synced", headers)
    assert (response.status, response.headers["X-Token-Status"], response.headers["X-Token-Reason"]) == (
        status,
        "NotSynced",
        reason,
    )
    assert response.json["verdict"] == "Unknown"
    _check_documented(response)


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /v1/synced HTTP/1.1\r\nX-Auth-Token: a\0b\r\nX-Nginx-Origin: gateway-000\r\n\r\n",
        b"GET /v1/synced HTTP/1.1\r\nX-Auth Token: ab\r\n\r\n",
        b"GET /v1/synced HTTP/1.1\r\nHost: x\r\n" + b"X-Auth-Token: " + b"a" * 40_000,
    ],
)
def test_protocol_errors_on_the_path_of_the_contract_get_a_verdict(container: Container, sent: bytes) -> None:
    answer = _exchange(container, sent)
    head = answer.partition(b"\r\n\r\n")[0]
    assert head.split(b" ")[1] in (b"400", b"431")
    assert b"X-Token-Status: NotSynced" in head


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"400"),
        (b"GET nowhere HTTP/1.1\r\n\r\n", b"400"),
        (b"POST /v1/synced HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", b"411"),
        (b"POST /v1/synced HTTP/1.1\r\nContent-Length: 999999999\r\n\r\n", b"413"),
        (b"POST /v1/synced HTTP/1.1\r\nContent-Length: 2\r\nConnection: close\r\n\r\nab", b"405"),
        (b"GET /v2/other HTTP/1.1\r\nConnection: close\r\n\r\n", b"404"),
    ],
)
def test_an_invalid_request_is_refused(container: Container, sent: bytes, status: bytes) -> None:
    assert _exchange(container, sent).split(b" ")[1] == status


def _exchange(container: Container, sent: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", container.port), 10) as connection:
        connection.sendall(sent)
        answer = b""
        while data := connection.recv(65536):
            answer += data
        return answer


def test_pipelined_requests_are_answered_in_order(container: Container) -> None:
    paths = ("/health", "/nowhere", "/v1/synced", "/health")
    sent = b"".join(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode() for path in paths)
    answer = _exchange(container, sent + b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n")
    assert [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:]] == [b"200", b"404", b"400", b"200", b"200"]


def test_an_unknown_sync_and_a_named_one(container: Container, gateway: Gateway) -> None:
    gateway.put_everywhere("named", but={4})
    response = container.synced("named", "gateway-000", "/v1/synced/gateway")
    assert (response.status, response.headers["X-Token-Status"]) == (200, "Synced")
    response = container.synced("named", "gateway-000", "/v1/synced/other")
    assert (response.status, response.headers["X-Token-Status"], response.json["reason"]) == (
        404,
        "NotSynced",
        "no_such_sync",
    )
    _check_documented(response, "/v1/synced/{sync}")


def test_the_api_page_has_the_path_of_syncer_and_loads_nothing_from_elsewhere(container: Container) -> None:
    for path in ("/", "/swagger-ui"):
        moved = container.get(path)
        assert (moved.status, moved.headers["location"], moved.body) == (302, "swagger-ui/index.html", b"")
    page = container.get("/swagger-ui/index.html")
    assert page.status == 200
    assert b"http" not in page.body.replace(b"text/html", b"")
    assert container.get("/swagger-ui/").body == page.body
    for name in ("swagger-ui.min.css", "swagger-ui-bundle.min.js", "start.js"):
        assert f'"{name}"'.encode() in page.body
        asset = container.get(f"/swagger-ui/{name}")
        assert (asset.status, len(asset.body) > 100) == (200, True)
    assert container.get("/swagger-ui/../app.py").status == 404
    for path in ("/openapi.json", "/swagger-ui/openapi.json"):
        assert container.get(path).json == document()
    packed = container.get("/openapi.json", {"Accept-Encoding": "gzip"})
    assert packed.headers["content-encoding"] == "gzip"
    assert container.get("/openapi.json", method="HEAD").body == b""


def test_health_has_the_format_of_syncer(container: Container) -> None:
    response = container.get("/health")
    assert (response.status, response.json, response.headers["cache-control"]) == (200, {"status": "Up"}, "no-store")


def test_generated_requests_get_documented_responses(container: Container, tmp_path: Path) -> None:
    """Schemathesis generates valid and invalid requests from the document that the container serves."""
    # An oversize header has a special status, which schemathesis does not expect by default.
    rejections = "[checks.negative_data_rejection]\nexpected-statuses = [400, 404, 405, 431]\n"
    (tmp_path / "schemathesis.toml").write_text(rejections)
    address = f"http://127.0.0.1:{container.port}/openapi.json"
    command = [sys.executable, "-m", "schemathesis.cli", "run", address, "--checks", "all", "--max-examples", "20"]
    command += ["--seed", "4", "--generation-database", "none", "--no-color"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_metrics_count_verdicts_and_lists(container: Container, gateway: Gateway) -> None:
    gateway.put_everywhere("counted", but={4})
    before = container.figure('syncline_verdicts_total{reason="all_agree",sync="gateway",verdict="Synced"}')
    container.synced("counted", "gateway-000")
    assert container.figure('syncline_verdicts_total{reason="all_agree",sync="gateway",verdict="Synced"}') == before + 1
    assert container.figure('syncline_instances{sync="gateway"}') == 4
    assert container.figure('syncline_scrapes_total{code="",sync="gateway"}') >= 1


def test_concurrent_requests_get_only_correct_verdicts(container: Container, gateway: Gateway) -> None:
    chance = random.Random(5)
    truth = {}
    for serial in range(20):
        lacking = set(chance.sample([1, 2, 3], chance.choice((0, 0, 1, 2, 3))))
        gateway.put_everywhere(f"many-{serial}", but=lacking)
        yes = 3 - len(lacking)
        truth[f"many-{serial}"] = "Synced" if yes == 3 else "Partialy" if yes == 2 else "NotSynced"
    asked = [chance.choice(list(truth)) for _ in range(200)]
    with ThreadPoolExecutor(25) as pool:
        response = list(pool.map(lambda token: container.synced(token, "gateway-000"), asked))
    assert [each.headers["X-Token-Status"] for each in response] == [truth[token] for token in asked]


def test_implausible_lists_give_no_verdict_and_no_readiness(gateway: Gateway) -> None:
    with cluster_of(gateway) as api:
        api.grants = {}
        with Container({"gateway": sync_of(gateway, api, stale_after=5)}, scrape_every=1) as container:
            wait_for(lambda: container.synced("t", "gateway-000").json["reason"] == "list_failed")
            response = container.synced("t", "gateway-000")
            assert (response.status, response.headers["X-Token-Status"], response.json["verdict"]) == (
                200,
                "NotSynced",
                "Unknown",
            )
            assert response.json["list"]["failed"] == "UNAUTHORIZED"
            assert container.get("/ready").status == 503
            assert container.get("/health").status == 200
            assert container.stop() == 0


def test_a_hanging_cluster_does_not_affect_the_others(gateway: Gateway, api: KubernetesApi) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts connections but never answers
        healthy, hangs = sync_of(gateway, api), sync_of(gateway, api)
        source = {**hangs["sources"]["prod"], "api": f"https://127.0.0.1:{silent.getsockname()[1]}"}
        with Container({"healthy": healthy, "hangs": {**hangs, "sources": {"prod": source}}}) as container:
            figure = 'syncline_scrapes_total{{code="{}",sync="{}"}}'
            late = figure.format("UNREACHABLE", "hangs")
            wait_for(lambda: container.figure(figure.format("", "healthy")) >= container.figure(late) + 3)
            assert container.get("/ready").status == 200
            assert container.get("/ready/healthy").body == b"healthy: ready\n"
            assert container.get("/ready/hangs").status == 503
            gateway.put_everywhere("beside-one-that-hangs", but={4})
            assert container.synced("beside-one-that-hangs", "gateway-000", "/v1/synced/healthy").json["synced"] == 3
            began = time.monotonic()
            assert container.stop() == 0
            assert time.monotonic() - began < 10


def test_a_list_follows_the_cluster_and_the_origin_selects_the_gateway(gateway: Gateway, api: KubernetesApi) -> None:
    api.put(
        "endpointslices",
        "gateway",
        slices_of(gateway.listed[:2], gateway.port),
        slices_of(gateway.listed[2:3], gateway.port, "other"),
    )
    one, other = sync_of(gateway, api), sync_of(gateway, api)
    other["sources"] = {"prod": {**other["sources"]["prod"], "service": "other"}}
    with Container({"one": one, "other": other}, scrape_every=1) as container:
        container.wait_until_ready()
        gateway.put_everywhere("by-origin")
        response = {
            origin: container.synced("by-origin", origin).json for origin in ("gateway-001", "gateway-002", "x")
        }
        assert [(each["sync"], each["reason"]) for each in response.values()] == [
            ("one", "all_agree"),
            ("other", "only_instance"),
            (None, "origin_not_listed"),
        ]
        assert container.synced("by-origin", "x").headers["X-Token-Status"] == "NotSynced"
        api.put(
            "endpointslices",
            "gateway",
            slices_of(gateway.listed[:2], gateway.port),
            slices_of(gateway.listed[1:4], gateway.port, "other"),
        )
        wait_for(lambda: container.synced("by-origin", "gateway-003").json["asked"] == 2)
        assert container.synced("by-origin", "gateway-001").json["reason"] == "origin_ambiguous"
    api.put("endpointslices", "gateway", slices_of(gateway.listed[:4], gateway.port))


def test_canaries_report_replicated_and_lost_keys(gateway: Gateway) -> None:
    with cluster_of(gateway) as api:  # including the instance that receives no keys
        sync = sync_of(gateway, api, canary={**CANARY, "long_value": 6000}, retry_for=1)
        with Container({"gateway": sync}, canary_every=0.5) as container:
            name = 'syncline_canaries_total{{check="{}",instance="{}",outcome="{}",sync="gateway"}}'
            wait_for(lambda: container.figure(name.format("write", "gateway-004", "never")) >= 1)
            wait_for(lambda: container.figure(name.format("write", "gateway-002", "arrived")) >= 1)
            wait_for(lambda: container.figure(name.format("delete", "gateway-002", "kept")) >= 1)
            wait_for(lambda: container.figure(name.format("long", "gateway-002", "never")) >= 1)
            seconds = 'syncline_canary_seconds_sum{check="write",instance="gateway-002",sync="gateway"}'
            assert 0 < container.figure(seconds) < 60
            wait_for(lambda: container.figure('syncline_canary_faults{sync="gateway"}') == 1)


def test_an_invalid_configuration_is_reported_and_ends_the_process() -> None:
    with pytest.raises(AssertionError, match="CONFIG_INVALID"), Container({"gateway": {"kind": "tokens"}}):
        pass
