"""Verdicts that need no requests, and the bytes of the requests."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from typing import Any, Final, cast

import pytest

from syncline import __version__
from syncline.clients.replicas.client import ReplicaClient, ReplicaResponse
from syncline.clients.replicas.instances import Instance
from syncline.kinds.tokens import probe as probing
from syncline.kinds.tokens.ask import AskSchedule
from syncline.kinds.tokens.config import Check
from syncline.kinds.tokens.listing import Listing
from syncline.kinds.tokens.probe import Prober, ProbeRules
from syncline.kinds.tokens.verdict import ProbeResult, Reason, Verdict

NOW: Final = 1_764_072_000.0
ORIGIN: Final = Instance("origin", "10.0.0.1", 8443)
OTHER: Final = Instance("other", "10.0.0.2", 8443)


class RecordingClient:
    """A fake :class:`ReplicaClient`: every instance has the token, but the last one only from its third answer."""

    def __init__(self) -> None:
        self.requests: dict[str, list[bytes]] = {}

    def send(self, address: tuple[str, int], request: bytes, done: Callable[[ReplicaResponse], None]) -> Any:
        asked = self.requests.setdefault(address[0], [])
        asked.append(request)
        done(ReplicaResponse(401 if address[0] == OTHER.address and len(asked) < 3 else 200))
        return self

    def cancel(self) -> None:
        pass


def jwt(expiry: float) -> str:
    claims = base64.urlsafe_b64encode(json.dumps({"exp": expiry}).encode()).decode().rstrip("=")
    return f"e30.{claims}.c2ln"


def rules(**more: Any) -> ProbeRules:
    schedule = AskSchedule(30, more.pop("deadline", 60), 0.001, 0.002)
    return ProbeRules(Check(host="gateway.example:8443", plain_http=True, **more), "all", schedule, 60)


def result(token: str, listing: Listing, origin: str = "origin") -> tuple[ProbeResult, dict[str, list[bytes]]]:
    async def ask() -> tuple[ProbeResult, dict[str, list[bytes]]]:
        prober = Prober(rules(), asyncio.get_running_loop(), lambda: NOW)
        client = RecordingClient()
        prober.replicas = cast("ReplicaClient", client)
        return await prober.probe(token, origin, listing), client.requests

    return asyncio.run(ask())


@pytest.mark.parametrize(
    ("token", "seen", "verdict", "reason"),
    [
        (jwt(NOW - 1), NOW, Verdict.NOT_SYNCED, Reason.TOKEN_EXPIRED),
        (jwt(NOW), NOW, Verdict.NOT_SYNCED, Reason.TOKEN_EXPIRED),
        ("a b", NOW, Verdict.UNKNOWN, Reason.TOKEN_INVALID),
        ("", NOW, Verdict.UNKNOWN, Reason.TOKEN_MISSING),
        ("t", NOW - 61, Verdict.UNKNOWN, Reason.LIST_STALE),
        ("t", None, Verdict.UNKNOWN, Reason.LIST_MISSING),
    ],
)
def test_no_requests_if_the_verdict_is_known(token: str, seen: float | None, verdict: Verdict, reason: Reason) -> None:
    found, requests = result(token, Listing((ORIGIN, OTHER), seen))
    assert (found.verdict, found.reason) == (verdict, reason)
    assert requests == {}


def test_each_instance_is_asked_until_it_has_the_token() -> None:
    token = jwt(NOW + 1)
    found, requests = result(token, Listing((ORIGIN, OTHER), NOW))
    assert (found.verdict, found.reason) == (Verdict.SYNCED, Reason.ALL_AGREE)
    assert set(requests) == {ORIGIN.address, OTHER.address}
    assert len(requests[OTHER.address]) == 3
    assert {each for asked in requests.values() for each in asked} == {
        b"GET /check HTTP/1.1\r\nHost: gateway.example:8443\r\n"
        + f"User-Agent: syncline/{__version__}\r\nAccept: */*\r\n".encode()
        + f"Cookie: auth_token={token}\r\n\r\n".encode()
    }


@pytest.mark.parametrize(
    ("more", "name", "connecting"),
    [
        ({}, "gateway.example", 30.0),
        ({"deadline": 1.0}, "gateway.example", 1.0),
        ({"server_name": "inside.example"}, "inside.example", 30.0),
    ],
)
def test_server_name_and_timeout_of_connections(
    monkeypatch: pytest.MonkeyPatch, more: dict[str, Any], name: str, connecting: float
) -> None:
    """The certificate is checked against the name; a connection may take half the time of a probe."""
    made: list[tuple[object, ...]] = []
    monkeypatch.setattr(probing, "ReplicaClient", lambda *about: made.append(about))
    loop = asyncio.new_event_loop()
    Prober(rules(**more), loop)
    loop.close()
    assert made == [(loop, None, name, connecting)]
