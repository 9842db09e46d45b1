"""Several syncs of tokens in one process: a broken, hanging or unlisted one does not stop the others."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import pytest
import yaml
from samcli.yamlhelper import yaml_parse  # type: ignore[import-untyped]

from syncline.clients.replicas.instances import Instance
from syncline.errors import SynclineError
from syncline.kinds.tokens import directory as directory_module
from syncline.kinds.tokens import wiring_scrape as scrape
from syncline.kinds.tokens.canary import LONGEST_ROUND, CanaryMemory, ProcessMemories
from syncline.kinds.tokens.config import TokensSync
from syncline.kinds.tokens.container import Container, Settings
from syncline.kinds.tokens.directory import Directory
from syncline.kinds.tokens.listing import Listing, ProcessListings
from syncline.kinds.tokens.probe import Prober
from syncline.kinds.tokens.wiring import StoredListings, StoredSyncs
from syncline.kinds.tokens.wiring_canary import DEADLINE as CANARY_DEADLINE
from syncline.kinds.tokens.wiring_canary import Canaries
from syncline.secrets import Secrets
from syncline.store.state import State
from syncline.store.tokens import InstanceList, InstanceLists
from syncline.web.function_url import HttpRequest

TEMPLATE: Final = Path(__file__).parents[4] / "template.yaml"
ONE: Final = Instance("one", "10.0.0.1", 8443)
SYNC: Final[Mapping[str, Any]] = {
    "kind": "tokens",
    "sources": {"here": {"namespace": "gateway", "service": "nginx"}},
    "check": {"host": "gateway.example", "plain_http": True},
}


@dataclass
class StoredTexts:
    """Configurations by name, as :class:`State` returns them."""

    texts: Mapping[str, str]

    def sync_names(self) -> list[str]:
        return list(self.texts)

    def sync_config(self, name: str) -> str:
        return self.texts[name]


def _sync(name: str) -> TokensSync:
    return TokensSync.model_validate({"name": name, **SYNC})


def test_invalid_stored_sync_does_not_hide_others() -> None:
    texts = {"broken": '{"kind":"tokens","of":"another version"}', "good": _sync("good").model_dump_json()}
    assert list(StoredSyncs(cast("State", StoredTexts(texts)))()) == ["good"]


def test_invalid_stored_list_does_not_hide_others() -> None:
    records = {
        "broken": InstanceList(({"name": "of another version"},), 1.0),
        "good": InstanceList((ONE.as_json(),), 1.0),
    }

    class Lists:
        def all(self) -> dict[str, InstanceList]:
            return records

    found = StoredListings(cast("InstanceLists", Lists())).all()
    assert found["good"] == Listing((ONE,), 1.0)
    assert found.get("broken", Listing()).seen is None


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def test_failing_secret_of_one_sync_does_not_affect_others(
    gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory_module, "_PREPARATION", 0.2)

    def make(sync: TokensSync) -> Prober:
        if sync.name == "hangs":
            assert gate.wait(60)
        if sync.name == "breaks":
            raise RuntimeError
        return cast("Prober", sync.name)

    syncs = {name: _sync(name) for name in ("breaks", "hangs", "good")}
    directory = Directory(lambda: syncs, ProcessListings(), make)
    reading = threading.Thread(target=directory.refresh, daemon=True)
    reading.start()
    reading.join(5)
    assert [entry.sync for entry in directory.entries()] == ["good"]


def _container(folder: Path, *names: str) -> Container:
    file = folder / "syncs.yaml"
    file.write_text(yaml.safe_dump({"syncs": {name: dict(SYNC) for name in names}}))
    secrets = Secrets(lambda: pytest.fail("no secret"), lambda: pytest.fail("no secret"), {})
    return Container(Settings(file, "127.0.0.1", 0, 1, 0), secrets)


def test_readiness_of_the_pod_and_of_each_sync(tmp_path: Path) -> None:
    async def ready() -> list[tuple[int, str]]:
        container = _container(tmp_path, "one", "other")

        async def response_to(path: str) -> tuple[int, str]:
            answer = await container.server.answer(HttpRequest("GET", path, {}))
            return answer.status, answer.body.decode()

        unlisted = [await response_to(path) for path in ("/ready", "/ready/one")]
        container.listings.listed("one", [ONE], time.time())
        container.listings.not_listed("other", SynclineError("FORBIDDEN", "the API refuses"))
        return [*unlisted, *[await response_to(f"/ready{path}") for path in ("", "/", "/one", "/other", "/nobody")]]

    assert asyncio.run(ready()) == [
        (503, "one: list_missing\nother: list_missing\n"),
        (503, "one: list_missing\n"),
        (200, "one: ready\nother: list_failed\n"),
        (404, '{"error": "there is no sync of that name"}'),
        (200, "one: ready\n"),
        (503, "other: list_failed\n"),
        (404, '{"error": "there is no sync of that name"}'),
    ]


class RecordingMetrics:
    """Metrics that record which syncs were counted."""

    def __init__(self) -> None:
        self.checked_syncs: list[str] = []

    def verdict(self, *_: object) -> None:
        pass

    def scraped(self, *_: object) -> None:
        pass

    def canary_round(self, sync: str, *_: object) -> None:
        self.checked_syncs.append(sync)


def test_failing_secret_of_one_canary_does_not_affect_others(gate: threading.Event) -> None:
    def hangs() -> Any:
        assert gate.wait(60)
        raise RuntimeError

    call = {"method": "PUT", "path": "/keys/{key}"}
    canary = {"write": call, "read": {**call, "method": "GET"}, "delete": {**call, "method": "DELETE"}}
    headers = {"hangs": {"X-Key": "secret:hangs"}, "misses": {"X-Key": "env:NOT_THERE"}, "good": {}}
    syncs = {
        name: TokensSync.model_validate({"name": name, **SYNC, "canary": {**canary, "headers": each}})
        for name, each in headers.items()
    }
    listings, counted = ProcessListings(), RecordingMetrics()
    for name in syncs:
        listings.listed(name, [Instance("one", "127.0.0.1", 1)], time.time())
    canaries = Canaries(lambda: syncs, listings, ProcessMemories(), Secrets(hangs, hangs, {}), counted)
    threading.Thread(target=canaries.run, daemon=True).start()
    end = time.monotonic() + 5
    while "good" not in counted.checked_syncs:
        assert time.monotonic() < end, "no canary was run for the good sync"
        time.sleep(0.01)
    assert "misses" in counted.checked_syncs


@pytest.mark.parametrize("listed", [(), (Instance("one", "127.0.0.1", 1, ready=False),)])
def test_gateway_without_instances_raises_the_alarm_in_the_second_round(listed: tuple[Instance, ...]) -> None:
    call = {"method": "PUT", "path": "/keys/{key}"}
    sync = TokensSync.model_validate(
        {"name": "empty", **SYNC, "canary": dict.fromkeys(("write", "read", "delete"), call)}
    )
    listings = ProcessListings()
    listings.listed("empty", listed, time.time())
    secrets = Secrets(lambda: pytest.fail("no secret"), lambda: pytest.fail("no secret"), {})
    canaries = Canaries(lambda: {"empty": sync}, listings, ProcessMemories(), secrets, RecordingMetrics())
    done = [canaries.run()["empty"] for _ in range(2)]
    assert [(one.faults, [each.reason for each in one.results]) for one in done] == [
        (faults, ["the list of instances cannot be used (list_empty)"]) for faults in ((), ("round",))
    ]


class Broken(ProcessMemories):
    """Memories that cannot be recalled at some calls, counted from 1."""

    def __init__(self, *broken: int) -> None:
        super().__init__()
        self._broken = broken
        self._calls = 0

    def recall(self, sync: str) -> CanaryMemory:
        self._calls += 1
        if self._calls in self._broken:
            raise RuntimeError
        return super().recall(sync)


@pytest.mark.parametrize(
    ("broken", "expected"),
    [
        ((1,), [(), ("round",)]),  # the list is empty as well: two failures in a row
        ((1, 2, 3, 4), [(), ("round",)]),  # the failure could not be counted in the table either
    ],
)
def test_unreadable_table_raises_the_alarm_in_the_second_round(
    broken: tuple[int, ...], expected: list[tuple[str, ...]]
) -> None:
    call = {"method": "PUT", "path": "/keys/{key}"}
    sync = TokensSync.model_validate(
        {"name": "one", **SYNC, "canary": dict.fromkeys(("write", "read", "delete"), call)}
    )
    listings = ProcessListings()
    listings.listed("one", (), time.time())
    secrets = Secrets(lambda: pytest.fail("no secret"), lambda: pytest.fail("no secret"), {})
    canaries = Canaries(lambda: {"one": sync}, listings, Broken(*broken), secrets, RecordingMetrics())
    assert [canaries.run()["one"].faults for _ in range(2)] == expected


def test_uncounted_round_does_not_restore_settled_faults() -> None:
    """Another process may have run a round since."""
    sync = TokensSync.model_validate(
        {
            "name": "one",
            **SYNC,
            "canary": {each: {"method": "PUT", "path": "/k"} for each in ("write", "read", "delete")},
        }
    )
    listings, memories = ProcessListings(), Broken(5, 6)
    listings.listed("one", (), time.time())
    secrets = Secrets(lambda: pytest.fail("no secret"), lambda: pytest.fail("no secret"), {})
    canaries = Canaries(lambda: {"one": sync}, listings, memories, secrets, RecordingMetrics())
    assert [canaries.run()["one"].faults for _ in range(2)] == [(), ("round",)]
    memories.remember("one", CanaryMemory())
    assert canaries.run()["one"].faults == ()
    assert memories.recall("one") == CanaryMemory()


def test_deadlines_end_before_the_functions() -> None:
    resources = yaml_parse(TEMPLATE.read_text())["Resources"]
    timeouts = {name: resources[f"{name}Function"]["Properties"]["Timeout"] for name in ("Scrape", "Canary")}
    assert timeouts["Scrape"] >= scrape.DEADLINE + 10
    assert LONGEST_ROUND < CANARY_DEADLINE
    assert timeouts["Canary"] >= CANARY_DEADLINE + 10
