"""Verdicts name the causes that the counters of zone_sync show, on real nginx instances."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any, Final

import pytest

from syncline.kinds.tokens.ask import AskSchedule
from syncline.kinds.tokens.config import ZoneSync
from syncline.kinds.tokens.probe import ProbeRules
from syncline.kinds.tokens.verdict import Reason, Verdict
from tests.rig.container import Container, cluster_of, slices_of, sync_of
from tests.rig.tokens import rules, verdict
from tests.standins.nginx import Gateway
from tests.standins.programs import needs

SHORT: Final = AskSchedule(retry_for=0.3, deadline=30, first_delay=0.01, longest_delay=0.05)


@pytest.fixture
def three() -> Iterator[Gateway]:
    """Yield three instances, of which the first never sends its keys."""
    needs("nginx")
    with Gateway(3, settings={0: {"mute": "true"}}) as gateway:
        yield gateway


def asking(gateway: Gateway, **config: Any) -> ProbeRules:
    zone_sync = ZoneSync(port=gateway.sync_port, **{"plain_http": True, **config})
    return replace(rules(gateway, schedule=SHORT), zone_sync=zone_sync)


def test_pending_records_of_the_origin_are_the_cause(three: Gateway) -> None:
    for number in range(3):
        three.put(0, f"pending-{number}")
    found = verdict(asking(three), three.listed, "pending-2")
    assert (found.verdict, found.reason) == (Verdict.NOT_SYNCED, Reason.TOO_FEW)
    assert found.causes == ("3 records pending on gateway-000",)


def test_a_missing_peer_is_the_cause(three: Gateway) -> None:
    three.put(1, "only-here", visible=1.0)
    listed = three.listed
    three.instances[2].kill()
    found = verdict(asking(three), listed, "only-here", "gateway-001")
    assert set(found.causes) == {"gateway-000 sees 1 of 2 nodes", "gateway-001 sees 1 of 2 nodes"}


def test_instances_in_agreement_are_not_asked_for_a_cause(three: Gateway) -> None:
    three.put_everywhere("everywhere")
    three.put(0, "pending")
    found = verdict(asking(three), three.listed, "everywhere")
    assert (found.verdict, found.causes) == (Verdict.SYNCED, ())


@pytest.mark.parametrize(
    "config", [{"path": "/api/1/stream/zone_sync"}, {"path": "/sync"}, {"port": 1}, {"plain_http": False}]
)
def test_a_verdict_does_not_depend_on_the_counters(three: Gateway, config: dict[str, Any]) -> None:
    three.put(0, "nowhere-else")
    how = asking(three)
    assert how.zone_sync is not None
    found = verdict(replace(how, zone_sync=how.zone_sync.model_copy(update=config)), three.listed, "nowhere-else")
    assert (found.verdict, found.reason, found.causes) == (Verdict.NOT_SYNCED, Reason.TOO_FEW, ())


def test_an_instance_without_counters_hides_no_cause(three: Gateway) -> None:
    """It accepts connections and does not answer, so that the verdict is given at the deadline."""
    three.put(0, "stopped")
    three.instances[1].pause()
    how = replace(asking(three), schedule=AskSchedule(retry_for=0.2, deadline=3, first_delay=0.01, longest_delay=0.05))
    found = verdict(how, three.listed, "stopped")
    assert found.verdict is not Verdict.SYNCED
    assert "1 record pending on gateway-000" in found.causes


def ask(gateway: Gateway, method: str, path: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(gateway.instances[0].address, gateway.sync_port, timeout=10)
    with closing(connection):
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


def test_the_stand_in_refuses_as_nginx_does(three: Gateway) -> None:
    status, answer = ask(three, "GET", "/api/9/stream/zone_sync/")
    assert status == 200
    assert answer["zones"]["zone"].keys() == {"records_pending", "records_total"}
    assert answer["status"].keys() == {"bytes_in", "msgs_in", "msgs_out", "bytes_out", "nodes_online"}
    refusals = {
        ("GET", "/api/99/stream/zone_sync"): (404, "UnknownVersion"),
        ("GET", "/api/9/stream/zones"): (404, "PathNotFound"),
        ("POST", "/api/9/stream/zone_sync"): (405, "MethodDisabled"),
    }
    for (method, path), (wanted, code) in refusals.items():
        status, answer = ask(three, method, path)
        assert (status, answer["error"]["status"], answer["error"]["code"]) == (wanted, wanted, code)


def test_the_container_tells_the_cause(three: Gateway) -> None:
    with cluster_of(three) as api:
        api.put("endpointslices", "gateway", slices_of(three.listed, three.port))
        zone_sync = {"port": three.sync_port, "plain_http": True}
        sync = sync_of(three, api, zone_sync=zone_sync, retry_for=2 * three.interval)
        with Container({"gateway": sync}) as container:
            container.wait_until_ready()
            three.put(0, "login")
            body = container.synced("login", three.instances[0].name).json
            assert (body["verdict"], body["causes"]) == ("NotSynced", ["1 record pending on gateway-000"])
            verdicts = [line for line in map(json.loads, container.log.read_text().splitlines()) if "verdict" in line]
    assert [line["causes"] for line in verdicts] == [body["causes"]]
