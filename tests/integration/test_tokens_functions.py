"""The functions scrape, probe and canary through the table, with real nginx instances."""

from __future__ import annotations

import base64
import gzip
import json
import random
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from botocore.config import Config

from scripts.openapi import document
from syncline.clients.replicas.instances import Instance
from syncline.kinds.tokens.canary import CanaryCheck, CheckOutcome, CheckResult
from syncline.kinds.tokens.config import TokensSync
from syncline.kinds.tokens.directory import FRESH, USABLE, Directory
from syncline.kinds.tokens.listing import ProcessListings
from syncline.kinds.tokens.verdict import ProbeResult
from syncline.kinds.tokens.wiring import StoredListings, StoredMemories, StoredSyncs
from syncline.kinds.tokens.wiring_canary import Canaries
from syncline.kinds.tokens.wiring_probe import ProbeFunction
from syncline.kinds.tokens.wiring_scrape import ScrapeResult, Scraping
from syncline.secrets import Secrets
from syncline.store.read_only_table import open_table
from syncline.store.state import State
from syncline.store.table import Database
from syncline.store.tokens import CanaryRecords, InstanceLists
from tests.rig.container import CANARY, TOKEN, cluster_of, slices_of, sync_of
from tests.rig.stack import new_table
from tests.rig.tokens import misbehaving
from tests.standins.kubernetes import KubernetesApi
from tests.standins.nginx import HOST, Gateway
from tests.standins.programs import needs

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.service_resource import Table

pytestmark = pytest.mark.moto


class Counted:
    """A recorder of metrics."""

    def __init__(self) -> None:
        self.verdicts: list[str] = []
        self.scrapes: list[ScrapeResult] = []
        self.results: list[CheckResult] = []
        self.faults: int | None = 0  # the expected number

    def verdict(self, sync: str, finding: ProbeResult) -> None:
        self.verdicts.append(f"{sync} {finding.verdict.value}")

    def scraped(self, results: Any) -> None:
        self.scrapes += results

    def canary_round(self, sync: str, results: Any, faults: int) -> None:
        assert sync == "gateway"
        assert self.faults in (None, faults)
        self.results += results


@dataclass
class Stack:
    """The code of the three functions on one table."""

    gateway: Gateway
    api: KubernetesApi
    state: State
    lists: InstanceLists
    scraping: Scraping
    probe: ProbeFunction
    new_canaries: Callable[[], Canaries]
    canaries: Canaries
    counted: Counted
    table: Table

    def apply(self, **more: Any) -> None:
        sync = {"name": "gateway", **sync_of(self.gateway, self.api, **more)}
        self.state.put_sync("gateway", TokensSync.model_validate(sync).model_dump_json())

    def ask(self, token: str, origin: str = "gateway-000") -> tuple[int, str, dict[str, Any]]:
        answer = self.probe.handle(event("/v1/synced", {"x-auth-token": token, "x-nginx-origin": origin}))
        return answer["statusCode"], answer["headers"]["X-Token-Status"], json.loads(answer["body"])


def event(path: str, headers: dict[str, str], method: str = "GET") -> dict[str, Any]:
    return {"rawPath": path, "headers": headers, "requestContext": {"http": {"method": method}}}


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    needs("nginx")
    with Gateway(3) as running:
        yield running


@pytest.fixture
def stack(gateway: Gateway) -> Iterator[Stack]:
    with cluster_of(gateway) as api, new_table() as table:
        state, lists, counted = State(table), InstanceLists(Database(table), time.time), Counted()
        syncs, listings = StoredSyncs(state), StoredListings(lists)
        secrets = Secrets(_nobody, _nobody, {"CLUSTER_TOKEN": TOKEN, "OTHER_TOKEN": "token-of-the-other"})
        probe = ProbeFunction(syncs, listings, secrets, counted)
        memories = StoredMemories(CanaryRecords(Database(table), time.time))

        def canaries() -> Canaries:
            return Canaries(syncs, listings, memories, secrets, counted)

        scraping = Scraping(syncs, listings, secrets, time.time, counted)
        made = Stack(gateway, api, state, lists, scraping, probe, canaries, canaries(), counted, table)
        made.apply(canary=CANARY, retry_for=1)
        yield made
        probe.loop.call(probe.directory.close)
        made.canaries.close()
        probe.loop.stop()


def _nobody() -> Any:
    raise AssertionError("AWS is not asked for secrets here")


def test_probe_requests_the_instances_that_scrape_listed(stack: Stack) -> None:
    assert stack.scraping.scrape() == [ScrapeResult("gateway", 3, 3)]
    stack.gateway.put_everywhere("through-the-table")
    status, word, body = stack.ask("through-the-table")
    assert (status, word, body["asked"], body["list"]["serving"]) == (200, "Synced", 2, 3)
    assert stack.counted.verdicts == ["gateway Synced"]


def test_before_the_first_scrape_the_verdict_is_unknown(stack: Stack) -> None:
    status, word, body = stack.ask("anything")
    assert (status, word, body["verdict"], body["reason"]) == (200, "NotSynced", "Unknown", "list_missing")


def test_a_failed_scrape_keeps_the_previous_list_and_is_reported(stack: Stack) -> None:
    stack.scraping.scrape()
    stack.api.grants = {}
    assert stack.scraping.scrape() == [ScrapeResult("gateway", failed="UNAUTHORIZED")]
    stack.gateway.put_everywhere("failed-scrape")
    _, word, body = stack.ask("failed-scrape")
    assert (word, body["list"]["failed"]) == ("Synced", "UNAUTHORIZED")
    record = stack.lists.all()["gateway"]
    assert (len(record.instances), record.failed) == (3, "UNAUTHORIZED")


def test_one_failed_source_fails_the_list(stack: Stack) -> None:
    stack.scraping.scrape()
    sync = sync_of(stack.gateway, stack.api)
    sync["sources"]["more"] = {**sync["sources"]["prod"], "namespace": "elsewhere"}
    stack.apply(sources=sync["sources"])
    assert stack.scraping.scrape() == [ScrapeResult("gateway", failed="FORBIDDEN")]


def test_two_clusters_and_their_services_are_one_gateway(stack: Stack) -> None:
    with KubernetesApi({"token-of-the-other": frozenset({("endpointslices", "edge")})}) as other:
        last = slices_of(stack.gateway.listed[2:], stack.gateway.port, "edge-nginx")
        other.put("endpointslices", "edge", last)
        stack.api.put("endpointslices", "gateway", slices_of(stack.gateway.listed[:2], stack.gateway.port))
        here = sync_of(stack.gateway, stack.api)["sources"]["prod"]
        there = {**here, "namespace": "edge", "service": "edge-nginx", "api": other.url, "ca": other.authority.pem}
        stack.apply(sources={"prod": here, "edge": {**there, "auth": {"token": "env:OTHER_TOKEN"}}})
        assert stack.scraping.scrape() == [ScrapeResult("gateway", 3, 3)]
        stack.gateway.put_everywhere("in-both", but={2})
        assert stack.ask("in-both")[2]["reason"] == "too_few"
        other.grants = {}  # without one of the two sources there is no list
        assert stack.scraping.scrape() == [ScrapeResult("gateway", failed="UNAUTHORIZED")]


@pytest.mark.parametrize(
    ("age", "instances", "reason"), [(181, 3, "list_stale"), (1, 0, "list_empty"), (-181, 3, "list_stale")]
)
def test_an_implausible_list_gives_unknown_and_never_synced(
    stack: Stack, age: float, instances: int, reason: str
) -> None:
    stack.gateway.put_everywhere("not-believed")
    listed = [each.as_json() for each in stack.gateway.listed[:instances]]
    stack.lists.put("gateway", listed, time.time() - age)
    status, word, body = stack.ask("not-believed")
    assert (status, word, body["verdict"], body["reason"], body["instances"]) == (
        200,
        "NotSynced",
        "Unknown",
        reason,
        [],
    )


def test_an_instance_listed_by_two_sources_counts_once(stack: Stack) -> None:
    sync = sync_of(stack.gateway, stack.api)
    stack.apply(sources={**sync["sources"], "again": sync["sources"]["prod"]})
    assert stack.scraping.scrape() == [ScrapeResult("gateway", 3, 3)]


def test_a_missing_secret_fails_only_its_list(stack: Stack) -> None:
    sync = sync_of(stack.gateway, stack.api)
    sync["sources"]["prod"]["auth"] = {"token": "env:NOT_THERE"}
    broken = TokensSync.model_validate({"name": "broken", **sync})
    stack.state.put_sync("broken", broken.model_dump_json())
    assert [(each.sync, each.failed) for each in stack.scraping.scrape()] == [
        ("broken", "SECRET_MISSING"),
        ("gateway", None),
    ]


def test_disabled_syncs_and_those_of_other_kinds_are_ignored(stack: Stack) -> None:
    stack.apply(enabled=False)
    stack.state.put_sync("images", '{"name":"images","kind":"images"}')
    assert stack.scraping.scrape() == []
    assert stack.ask("t")[2]["reason"] == "not_configured"


def test_an_older_list_does_not_replace_a_newer_one(stack: Stack) -> None:
    newer = [each.as_json() for each in stack.gateway.listed]
    assert stack.lists.put("gateway", newer, 2000.0)
    assert not stack.lists.put("gateway", [], 1999.0)
    assert len(stack.lists.all()["gateway"].instances) == 3


def test_canaries_use_the_stored_list_and_their_position_survives_the_process(stack: Stack) -> None:
    (sighting,) = stack.canaries.run()["gateway"].results
    assert (sighting.check, sighting.reason) == (
        CanaryCheck.ROUND,
        "the list of instances cannot be used (list_missing)",
    )
    stack.scraping.scrape()
    stack.counted.results.clear()
    writers = []
    for _ in range(4):
        flown = stack.canaries.run()["gateway"]
        assert {(each.check, each.outcome) for each in flown.results} == {
            (CanaryCheck.ABSENT, CheckOutcome.ABSENT),
            (CanaryCheck.WRITE, CheckOutcome.SENT),
            (CanaryCheck.WRITE, CheckOutcome.ARRIVED),
            (CanaryCheck.DELETE, CheckOutcome.KEPT),
        }
        assert all(each.seconds is not None for each in flown.results if each.outcome is CheckOutcome.ARRIVED)
        writers += [each.instance for each in flown.results if each.outcome is CheckOutcome.SENT]
        stack.canaries.close()
        stack.canaries = stack.new_canaries()
    assert len(set(writers[:3])) == 3
    assert writers[3] == writers[0]


def test_only_the_instance_that_accepts_every_token_is_reported(
    stack: Stack, tmp_path_factory: pytest.TempPathFactory
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*stack.gateway.authority.write_server_files(tmp_path_factory.mktemp("tls"), HOST))
    yes = Instance("yes", f"127.202.{random.SystemRandom().randrange(1, 250)}.1", stack.gateway.port)
    listed = [each.as_json() for each in [*stack.gateway.listed, yes]]
    stack.lists.put("gateway", listed, time.time())
    stack.counted.faults = None
    with misbehaving(yes.address, yes.port, context, _accept_everything):
        flown = [stack.canaries.run()["gateway"] for _ in range(2)]
    assert [[each.instance for each in one.results if each.bad] for one in flown] == [["yes"], ["yes"]]
    assert flown[1].faults == (f"answer {yes.where}",)
    assert all(each.outcome is not CheckOutcome.SENT for one in flown for each in one.results if each.instance == "yes")


def _accept_everything(tls: ssl.SSLSocket) -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    tls.sendall(answer)
    while tls.recv(65536):
        tls.sendall(answer)


def test_a_canary_deletes_its_keys(stack: Stack) -> None:
    stack.scraping.scrape()
    stack.canaries.run()
    for each in stack.gateway.instances:
        assert b"syncline-canary" not in stack.gateway.keys(each)


def test_a_refused_write_is_a_failure_and_not_a_loss(stack: Stack) -> None:
    stack.apply(canary={**CANARY, "write": {"method": "POST", "path": "/keys/{key}"}})
    stack.scraping.scrape()
    sighting = stack.canaries.run()["gateway"].results[-1]
    assert (sighting.outcome, sighting.bad) == (CheckOutcome.FAILED, True)
    assert sighting.reason == "the write failed: answered 405"


@pytest.mark.parametrize(
    ("headers", "status", "reason"),
    [
        ({}, 400, "token_missing"),
        ({"x-auth-token": "", "x-nginx-origin": "gateway-000"}, 400, "token_missing"),
        ({"x-auth-token": "t", "x-nginx-origin": ""}, 400, "origin_missing"),
        ({"x-auth-token": "ÿþ€", "x-nginx-origin": "gateway-000"}, 400, "token_invalid"),
        ({"x-auth-token": "t", "x-nginx-origin": "\u0000"}, 400, "origin_invalid"),
        ({"x-auth-token": "t" * 16385, "x-nginx-origin": "gateway-000"}, 431, "token_too_long"),
    ],
)
def test_invalid_headers_get_a_verdict_and_a_reason_at_the_function_url(
    stack: Stack, headers: dict[str, str], status: int, reason: str
) -> None:
    answer = stack.probe.handle(event("/v1/synced", headers))
    response_headers = answer["headers"]
    assert (answer["statusCode"], response_headers["X-Token-Status"], response_headers["X-Token-Reason"]) == (
        status,
        "NotSynced",
        reason,
    )


def test_a_function_url_serves_the_api_page(stack: Stack) -> None:
    answer = stack.probe.handle(event("/openapi.json", {}))
    assert answer["headers"]["content-encoding"] == "gzip"
    assert json.loads(gzip.decompress(base64.b64decode(answer["body"]))) == document()
    assert stack.probe.handle(event("/v1/synced", {}, "POST"))["statusCode"] == 405


def test_reading_the_table_without_boto3_gives_the_same_result(stack: Stack) -> None:
    stack.scraping.scrape()
    for number in range(3):
        stack.state.put_sync(f"more-{number}", '{"kind":"images"}')
    table = open_table(stack.table.name, Config())
    assert Database(table).get("SYNC#gateway", "CONFIG") == Database(stack.table).get("SYNC#gateway", "CONFIG")
    assert Database(table).get("SYNC#nobody", "CONFIG") is None
    lists, state = InstanceLists(Database(table), time.time), State(table)
    assert lists.all() == stack.lists.all()
    assert state.sync_names() == stack.state.sync_names() == ["gateway", "more-0", "more-1", "more-2"]
    stack.lists.fail("gateway", "FORBIDDEN", "the API refuses")
    assert lists.all()["gateway"].failed == "FORBIDDEN"


def test_cached_values_are_used_during_a_refresh() -> None:
    now = [100.0]
    read: list[float] = []

    def syncs() -> dict[str, TokensSync]:
        read.append(now[0])
        if len(read) == 2:
            raise OSError
        return {}

    directory = Directory(syncs, ProcessListings(), lambda _: pytest.fail("none is made"), clock=lambda: now[0])
    directory.refresh()
    directory.refresh()
    assert read == [100.0]
    now[0] += FRESH  # the refresh in the background fails: the cached values remain in use
    directory.refresh()
    _until(lambda: len(read) == 2 and not directory._reading.locked())
    directory.refresh()
    _until(lambda: len(read) == 3 and not directory._reading.locked())
    now[0] += USABLE
    directory.refresh()
    assert len(read) == 4
    assert directory.entries() == []


def _until(holds: Any, limit: float = 10.0) -> None:
    end = time.monotonic() + limit
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.005)
