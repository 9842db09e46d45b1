"""Rounds of canaries that could not be run or stored: each counts as one failure."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Final

import pytest

from syncline.clients.replicas.instances import Instance
from syncline.kinds.tokens import isolation
from syncline.kinds.tokens.canary import CanaryCheck, CanaryMemory, CheckOutcome, CheckResult, ProcessMemories
from syncline.kinds.tokens.config import TokensSync
from syncline.kinds.tokens.listing import ProcessListings
from syncline.kinds.tokens.metrics import PrometheusMetrics
from syncline.kinds.tokens.wiring_canary import Canaries
from syncline.secrets import Secrets

WRITER: Final = Instance("gateway", "10.0.0.1", 8443)


class AnswerLost(ProcessMemories):
    """Memories that are stored, although the first call to store them raises an error."""

    def __init__(self) -> None:
        super().__init__()
        self._lost = False

    def remember(self, sync: str, memory: CanaryMemory) -> None:
        super().remember(sync, memory)
        if not self._lost:
            self._lost = True
            raise ConnectionError


class Hanging(ProcessMemories):
    """Memories that are stored at once, although the first call to store them does not return during the test."""

    def __init__(self) -> None:
        super().__init__()
        self.kept, self.over = threading.Event(), threading.Event()

    def remember(self, sync: str, memory: CanaryMemory) -> None:
        super().remember(sync, memory)
        if not self.kept.is_set():
            self.kept.set()
            assert self.over.wait(60)


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hanging]:
    memories = Hanging()

    def wait(_futures: object, _seconds: float) -> None:
        """Wait until the round hangs, then report that its time is over."""
        assert memories.kept.wait(60)

    monkeypatch.setattr(isolation, "wait", wait)
    yield memories
    memories.over.set()


def _canaries(memories: ProcessMemories) -> Canaries:
    """Return canaries of a gateway whose list of instances is empty."""
    call = {"method": "PUT", "path": "/keys/{key}"}
    sync = TokensSync.model_validate(
        {
            "name": "one",
            "kind": "tokens",
            "sources": {"here": {"namespace": "gateway", "service": "nginx"}},
            "check": {"host": "gateway.example", "plain_http": True},
            "canary": dict.fromkeys(("write", "read", "delete"), call),
        }
    )
    listings = ProcessListings()
    listings.listed("one", (), time.time())
    secrets = Secrets(lambda: pytest.fail("no secret"), lambda: pytest.fail("no secret"), {})
    return Canaries(lambda: {"one": sync}, listings, memories, secrets, PrometheusMetrics())


def test_stored_round_with_a_lost_response_counts_once() -> None:
    canaries = _canaries(AnswerLost())
    assert [canaries.run()["one"].faults for _ in range(2)] == [(), ("round",)]


def test_round_that_cannot_be_stored_keeps_turn_and_successes(monkeypatch: pytest.MonkeyPatch) -> None:
    memories = AnswerLost()
    canaries = _canaries(memories)
    monkeypatch.setattr(canaries, "_results", lambda *_: ([], WRITER))
    assert canaries.run()["one"].faults == ()
    assert memories.recall("one") == CanaryMemory("10.0.0.1:8443", {"round": 1})


def test_hanging_round_counts_once_per_call(hanging: Hanging) -> None:
    canaries = _canaries(hanging)
    assert [canaries.run()["one"].faults for _ in range(2)] == [(), ("round",)]


def test_concurrent_rounds_are_both_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The success of another round is kept, so one failure after it confirms no fault."""
    never = CheckResult(CanaryCheck.WRITE, "other", CheckOutcome.NEVER, where="10.0.0.2:8443")
    memories = ProcessMemories()
    memories.remember("one", CanaryMemory(None, {never.fault: 1}))
    canaries = _canaries(memories)

    def seen(*_: object) -> tuple[list[CheckResult], Instance]:
        memories.remember("one", CanaryMemory())  # another round ends
        return [never], WRITER

    monkeypatch.setattr(canaries, "_results", seen)
    assert canaries.run()["one"].faults == ()
    assert memories.recall("one") == CanaryMemory(WRITER.where, {never.fault: 1})
