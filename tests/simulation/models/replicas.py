"""Instances of nginx that share keys as zone_sync of nginx Plus does, and the client that asks them.

Each instance has a register for every key, with a time by its own clock. Every interval it pushes what changed to its
peers, and the later time wins. A deletion is not pushed, and neither is a record over one buffer. What could not be
pushed, because a peer was down or a partition lay between, is pushed later. An instance that restarts has an empty
memory, or takes a peer's.

:class:`Gateway` remembers when each instance had each key and what it answered: the truth that a judge needs.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from syncline.clients.replicas.client import Address, FailureReason, ReplicaClient, ReplicaRequest, ReplicaResponse
from tests.simulation.machine import Machine, Process
from tests.simulation.network import Calls

BUFFER: Final = 8192
"""Bytes of the store's messages: a longer value is never pushed."""


PATIENCE: Final = 10.0
"""Seconds for which anybody waits for an instance that never answers."""
_MOMENT: Final = 1e-4  # seconds
_LONG: Final = 0.1  # seconds that a request is on its way, at the most, where nothing is slow


class Fault(enum.StrEnum):
    """What may be wrong with one instance."""

    YES = "answers 200 to everything"
    NO = "answers 401 to everything"
    ERRORS = "answers 500 to everything"
    UNASKED = "answers 500 to the question about a token"
    REFUSES = "refuses connections"
    SILENT = "never answers"
    SLOW = "answers slowly"
    DEAF = "takes no key from its peers"
    LOSES = "loses a key that it had"
    MUTE = "tells its peers nothing"
    FORGETS = "confirms a write and does not keep it"
    READ_ONLY = "refuses writes"


_ALWAYS: Final = {Fault.YES: 200, Fault.NO: 401, Fault.ERRORS: 500}


class Record(NamedTuple):
    """A register: its value, and its time by the clock of the instance that was written to."""

    stamp: float
    value: str


class Reply(NamedTuple):
    """What an instance said to a request, None for nothing, and the seconds that it took."""

    sent: float
    came: float
    pod: str
    kind: str
    key: str
    status: int | None


@dataclass(eq=False)
class Pod:
    """One instance. ``skew`` is by how many seconds its clock is fast."""

    name: str
    address: str
    port: int
    skew: float = 0.0
    up: bool = True
    ready: bool = True
    fault: Fault | None = None
    phase: float = 0.0
    """When within an interval it pushes."""
    pushes: bool = False
    """Whether its next push is due."""
    memory: dict[str, Record] = field(default_factory=dict)
    changed: dict[str, dict[str, None]] = field(default_factory=dict)
    """The keys that each peer has not been told of."""

    @property
    def where(self) -> Address:
        return self.address, self.port


@dataclass(frozen=True)
class Protocol:
    """How an instance is spoken to: its ``Host``, the secret header of its keys and its cookie."""

    host: str
    header: str
    secret: str
    cookie: str
    absent: int = 404


class Gateway:
    """The instances of one service, and the truth about them."""

    def __init__(self, machine: Machine, protocol: Protocol, interval: float) -> None:
        self.machine = machine
        self.protocol = protocol
        self.interval = interval
        self.pods: dict[str, Pod] = {}
        self.apart: set[frozenset[str]] = set()
        self.held: dict[tuple[str, str], list[tuple[float, float]]] = {}
        """When a pod had a key: pairs of begin and end, the last end infinite."""
        self.replies: list[Reply] = []
        self.troubles: dict[str, list[tuple[float, float]]] = {}
        """When something was wrong with a pod, whatever it was."""
        self.split_equal: dict[frozenset[str], list[tuple[float, float]]] = {}

    # -- the instances

    def add(self, pod: Pod) -> Pod:
        """Start an instance; it takes the memory of a peer, if there is one."""
        self.pods[pod.name] = pod
        for other in self.pods.values():
            other.changed.setdefault(pod.name, {})
            pod.changed.setdefault(other.name, {})
        pod.phase = self.machine.rng.uniform(0, self.interval)
        self._snapshot(pod)
        return pod

    def remove(self, pod: Pod) -> None:
        """End an instance for good."""
        self._clear(pod)
        pod.up = False
        self.begin_trouble(pod)
        self.pods.pop(pod.name)

    def restart(self, pod: Pod, seconds: float, *, snapshot: bool) -> None:
        """Take an instance down for some seconds; it comes back empty, or with the memory of a peer."""
        self._clear(pod)
        pod.up = False
        for waiting in pod.changed.values():
            waiting.clear()
        self.begin_trouble(pod)

        def back() -> None:
            if self.pods.get(pod.name) is not pod or pod.up:
                return
            pod.up = True
            if snapshot:
                self._snapshot(pod)
            self._maybe_well(pod)

        self.machine.after(seconds, back)

    def spoil(self, pod: Pod, fault: Fault | None) -> None:
        """Give an instance a fault, or take it away."""
        self._maybe_well(pod)
        pod.fault = fault
        if fault is None:
            self._maybe_well(pod)
        else:
            self.begin_trouble(pod)

    def part(self, one: Pod, other: Pod) -> None:
        """Lay a partition between two instances."""
        pair = frozenset((one.name, other.name))
        if len(pair) == 2 and pair not in self.apart:
            self.apart.add(pair)
            self.split_equal.setdefault(pair, []).append((self.machine.now, float("inf")))

    def heal(self) -> None:
        """End all partitions. What they held back travels with the next push."""
        for pair in sorted(self.apart, key=sorted):
            begun, _ = self.split_equal[pair][-1]
            # What was held back may need another interval.
            self.split_equal[pair][-1] = (begun, self.machine.now + self.interval)
        self.apart.clear()

    def begin_trouble(self, pod: Pod) -> None:
        periods = self.troubles.setdefault(pod.name, [])
        if not periods or periods[-1][1] != float("inf"):
            periods.append((self.machine.now, float("inf")))

    def _maybe_well(self, pod: Pod) -> None:
        periods = self.troubles.get(pod.name)
        if periods and periods[-1][1] == float("inf") and pod.up and pod.fault is None:
            periods[-1] = (periods[-1][0], self.machine.now)

    # -- what travels

    def _push_next(self, pod: Pod) -> None:
        """Push at the next moment of the pod's; nothing is due while nothing has changed."""
        if not pod.pushes:
            pod.pushes = True
            passed = (self.machine.now - pod.phase) % self.interval
            # A moment that is all but now was the last push.
            pause = self.interval - passed if self.interval - passed > _MOMENT else self.interval
            self.machine.after(pause, lambda: self._push(pod))

    def _push(self, pod: Pod) -> None:
        pod.pushes = False
        if self.pods.get(pod.name) is not pod:
            return
        for peer in list(self.pods.values()):
            waiting = pod.changed.get(peer.name)
            if not waiting or peer is pod or not pod.up or not peer.up:
                continue
            if frozenset((pod.name, peer.name)) in self.apart:
                continue
            news = {key: pod.memory[key] for key in waiting if key in pod.memory}
            waiting.clear()
            self.machine.after(
                self.machine.rng.uniform(0.001, 0.02),
                lambda peer=peer, news=news: self._receive(peer, news),  # type: ignore[misc]
            )
        if any(pod.changed[name] for name in self.pods if name in pod.changed):
            self._push_next(pod)

    def _receive(self, pod: Pod, news: dict[str, Record]) -> None:
        if not pod.up or pod.fault is Fault.DEAF or self.pods.get(pod.name) is not pod:
            return
        for key, record in news.items():
            known = pod.memory.get(key)
            if known is None or known.stamp < record.stamp:
                self._keep(pod, key, record)

    def _snapshot(self, pod: Pod) -> None:
        peers = [each for each in self.pods.values() if each is not pod and each.up and each.fault is None]
        peers = [each for each in peers if frozenset((pod.name, each.name)) not in self.apart]
        if peers and pod.fault is not Fault.DEAF:
            source = self.machine.rng.choice(peers)
            self._receive(pod, {key: each for key, each in source.memory.items() if len(each.value) <= BUFFER})

    # -- registers

    def write(self, pod: Pod, key: str, value: str) -> None:
        """Write a register at an instance, which tells its peers within the interval."""
        if pod.fault is Fault.FORGETS:
            return
        self._keep(pod, key, Record(self.machine.now + pod.skew, value))
        if pod.fault is Fault.MUTE or len(value) > BUFFER:
            return
        for name, waiting in pod.changed.items():
            if name != pod.name:
                waiting[key] = None
        self._push_next(pod)

    def drop(self, pod: Pod, key: str) -> None:
        """Delete a register at one instance alone, if it is there."""
        if key in pod.memory:
            self._drop(pod, key)

    def _keep(self, pod: Pod, key: str, record: Record) -> None:
        if key not in pod.memory:
            self.held.setdefault((pod.name, key), []).append((self.machine.now, float("inf")))
        pod.memory[key] = record
        if pod.fault is Fault.LOSES:
            self.machine.after(self.machine.rng.uniform(0.1, 0.4), lambda: self._lose(pod, key))

    def _lose(self, pod: Pod, key: str) -> None:
        if key in pod.memory and pod.fault is Fault.LOSES:
            self._drop(pod, key)

    def _drop(self, pod: Pod, key: str) -> None:
        del pod.memory[key]
        periods = self.held[pod.name, key]
        periods[-1] = (periods[-1][0], self.machine.now)

    def _clear(self, pod: Pod) -> None:
        for key in list(pod.memory):
            self._drop(pod, key)

    # -- requests

    def reply(self, pod: Pod, request: bytes) -> tuple[str, str, int]:
        """Return what a request is, its key, and the status of its answer."""
        head, _, body = request.decode("latin-1").partition("\r\n\r\n")
        first, *lines = head.split("\r\n")
        method, path, _ = first.split(" ")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        kind, key = self._asked(method, path, headers)
        status = _ALWAYS.get(pod.fault) if pod.fault else None
        if status is None:
            status = self._refusal(pod, kind, headers) or self._answer(pod, kind, key, body)
        return kind, key, status

    def _refusal(self, pod: Pod, kind: str, headers: dict[str, str]) -> int | None:
        """Return the status of a request that is not carried out, None for one that is."""
        if headers.get("host") != self.protocol.host:
            return 404
        if kind == "check":
            return 500 if pod.fault is Fault.UNASKED else None
        refused = kind == "write" and pod.fault is Fault.READ_ONLY
        return 403 if refused or headers.get(self.protocol.header.lower()) != self.protocol.secret else None

    def _answer(self, pod: Pod, kind: str, key: str, body: str) -> int:
        match kind:
            case "check":
                return 200 if key in pod.memory else 401
            case "read":
                return 200 if key in pod.memory else self.protocol.absent
            case "delete":
                self.drop(pod, key)
                return 204  # whether or not the key was there
            case "write":
                self.write(pod, key, body)
                return 201
        return 404

    def _asked(self, method: str, path: str, headers: dict[str, str]) -> tuple[str, str]:
        if method == "GET" and path == "/check":
            pairs = (pair.strip().partition("=") for pair in headers.get("cookie", "").split(";"))
            return "check", next((value for name, _, value in pairs if name == self.protocol.cookie), "")
        kinds = {"GET": "read", "PUT": "write", "DELETE": "delete"}
        if path.startswith("/keys/") and method in kinds:
            return kinds[method], path.removeprefix("/keys/")
        return "unknown", path


class SimReplicas(ReplicaClient):
    """The client of one process. Answers come through its loop, as the real one's do."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        gateways: Callable[[Address], tuple[Gateway, Pod] | None],
        calls: Calls,
        connect_timeout: float,
    ) -> None:
        super().__init__(loop, None, None, connect_timeout)
        self._gateways = gateways
        self._calls = calls

    def send(self, address: Address, request: bytes, done: Callable[[ReplicaResponse], None]) -> ReplicaRequest:
        exchange = ReplicaRequest(address, request, done)
        calls, machine = self._calls, self._calls.machine
        process, faults = calls.process, calls.faults
        if process.dead:
            return exchange
        point = "ask " + request[:4].decode().strip()
        faults.points[point] += 1
        if self._killed(process, f"before {point}"):
            return exchange
        found = self._gateways(address)
        sent = machine.now
        there = self._delay(0.003)
        if found is not None and there > _LONG:
            # Nobody may wait until it arrives.
            found[0].replies.append(Reply(sent, sent + there, found[1].name, "", "", None))

        def arrive() -> None:
            if found is None or not found[1].up or found[1].fault is Fault.REFUSES:
                self._answer(process, exchange, found, ("", "", None), sent, self._delay(0.003))
                return
            gateway, pod = found
            if pod.fault is Fault.SILENT:
                gateway.replies.append(Reply(sent, sent + PATIENCE, pod.name, "", "", None))
                return
            if not faults.off and faults.server_errors and machine.rng.random() < faults.server_errors:
                faults.points["instance answers 503 or nothing"] += 1
                status = machine.rng.choice([503, None])
                self._answer(process, exchange, found, ("", "", status), sent, self._delay(0.003))
                return
            answer = gateway.reply(pod, exchange.request)
            slow = machine.rng.uniform(0.5, 4.0) if pod.fault is Fault.SLOW else 0.0
            self._answer(process, exchange, found, answer, sent, self._delay(0.003) + slow)

        machine.after(there, arrive)
        self._killed(process, f"after {point}")
        return exchange

    def _answer(
        self,
        process: Process,
        exchange: ReplicaRequest,
        found: tuple[Gateway, Pod] | None,
        answer: tuple[str, str, int | None],
        sent: float,
        delay: float,
    ) -> None:
        machine = self._calls.machine
        kind, key, status = answer
        if found is not None:
            found[0].replies.append(Reply(sent, machine.now + delay, found[1].name, kind, key, status))

        def come() -> None:
            if process.dead or exchange.cancelled:
                return
            said = (
                ReplicaResponse(status)
                if status is not None
                else ReplicaResponse(None, FailureReason.UNREACHABLE, "connection refused")
            )
            self._loop.call_soon_threadsafe(self._done, exchange, said)

        machine.after(delay, come)

    @staticmethod
    def _done(exchange: ReplicaRequest, answer: ReplicaResponse) -> None:
        if not exchange.cancelled:
            exchange.done(answer)

    def _delay(self, base: float) -> float:
        faults, rng = self._calls.faults, self._calls.machine.rng
        if not faults.off and faults.slow and rng.random() < faults.slow:
            faults.points["slow answer"] += 1
            return rng.uniform(0.2, 4.0)
        return base * (0.3 + rng.random())

    def _killed(self, process: Process, point: str) -> bool:
        faults, machine = self._calls.faults, self._calls.machine
        if faults.off or not faults.killed or machine.rng.random() >= faults.killed:
            return False
        faults.points[f"killed {point}"] += 1
        machine.note(f"killed {point}")
        process.kill()
        return True

    def close(self) -> None:
        """Close nothing: there are no sockets."""
