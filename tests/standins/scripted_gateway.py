"""Replicas of a key store with scripted responses, for faults that real ones do not show on demand.

    gateway = ScriptedGateway(3, {0: Fault.MUTE})   # replaces `Replicas`

A write reaches the peers before its response and a deletion does not, so that tests need not wait.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import Any

from syncline.clients.replicas.client import FailureReason, ReplicaResponse
from syncline.clients.replicas.instances import Instance

PORT = 8443


class Fault(enum.Enum):
    """A fault of a replica. The values are the names in the documentation."""

    SAYS_YES = "answers 200 to everything"
    SAYS_NO = "answers 401 to everything"
    BROKEN = "answers 500 to everything"
    DEAD = "refuses connections"
    HANGS = "never answers"
    DEAF = "takes no key from its peers"
    FORGETS = "loses a key that it had"
    MUTE = "tells its peers nothing"
    DROPS = "confirms a write and does not keep it"
    REFUSES = "refuses writes"


_STATUSES = {Fault.SAYS_YES: 200, Fault.SAYS_NO: 401, Fault.BROKEN: 500}


class ScriptedGateway:
    """Replicas by number, each with its keys; `faults` may be changed at any time."""

    def __init__(self, count: int, faults: Mapping[int, Fault] | None = None) -> None:
        self.instances = tuple(Instance(f"gateway-{number}", f"10.0.0.{number}", PORT) for number in range(count))
        self.faults = dict(faults or {})
        self.asked: list[tuple[int, str, str]] = []
        self._keys: list[set[str]] = [set() for _ in range(count)]
        self._read: set[tuple[int, str]] = set()

    def send(self, address: tuple[str, int], request: bytes, done: Callable[[ReplicaResponse], None]) -> Any:
        """Return a response at once; has the signature of :meth:`Replicas.send`."""
        method, path, _ = request.decode().split("\r\n")[0].split(" ")
        number = int(address[0].rpartition(".")[2])
        self.asked.append((number, method, path))
        fault = self.faults.get(number)
        if fault is Fault.DEAD:
            done(ReplicaResponse(None, FailureReason.UNREACHABLE, "Connection refused"))
        elif fault in _STATUSES:
            done(ReplicaResponse(_STATUSES[fault]))
        elif fault is not Fault.HANGS:
            done(ReplicaResponse(self._answer(number, fault, method, path)))
        return self

    def cancel(self) -> None:
        """Has the signature of :meth:`ReplicaRequest.cancel`."""

    @property
    def writers(self) -> list[int]:
        """Replicas that received a write from a client, in order."""
        return [number for number, method, _ in self.asked if method == "PUT"]

    def _answer(self, number: int, fault: Fault | None, method: str, key: str) -> int:
        if method == "DELETE":
            self._keys[number].discard(key)
            return 204
        if method == "GET":
            has = key in self._keys[number]
            if has and fault is Fault.FORGETS and (number, key) in self._read:
                return 404
            self._read.add((number, key))
            return 200 if has else 401 if key == "/check" else 404
        if fault is Fault.REFUSES:
            return 403
        if fault is not Fault.DROPS:
            self._keys[number].add(key)
            for peer, keys in enumerate(self._keys):
                if fault is not Fault.MUTE and self.faults.get(peer) is not Fault.DEAF:
                    keys.add(key)
        return 201
