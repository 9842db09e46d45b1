"""Instances of nginx that replicate keys as zone_sync of nginx Plus does, and the client of their HTTP interface.

Each instance has a record for every key, with a time by its own clock. In every interval it pushes changed records to its
peers, and the later time wins. Deletions and records larger than one buffer are not pushed. Records that could not be
pushed, because a peer was down or partitioned off, are pushed later. An instance that restarts has no records, or copies
those of a peer.

:class:`Gateway` records when each instance had each key, and all answers. Judges compare verdicts with this history.
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
"""Bytes of a zone_sync message. A longer value is never pushed."""
_TIMEOUT: Final = 10.0
"""Seconds after which every client has given up on an instance that never answers."""
_TOLERANCE: Final = 1e-4  # seconds of rounding
_MAX_LATENCY: Final = 0.1  # seconds that a request without a fault takes at most


class Fault(enum.StrEnum):
    """A fault of one instance."""

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
    """The record of a key: its value, and the time of the write by the clock of the instance that received it."""

    stamp: float
    value: str


class Reply(NamedTuple):
    """The answer of an instance to a request. ``status`` is None if there was none; ``came`` is when the client saw it."""

    sent: float
    came: float
    pod: str
    kind: str
    key: str
    status: int | None


@dataclass(eq=False)
class Pod:
    """One instance. Its clock is ``skew`` seconds fast."""

    name: str
    address: str
    port: int
    skew: float = 0.0
    up: bool = True
    ready: bool = True
    fault: Fault | None = None
    phase: float = 0.0
    """The second of each interval at which it pushes."""
    pushes: bool = False
    """True if its next push is scheduled."""
    memory: dict[str, Record] = field(default_factory=dict)
    changed: dict[str, dict[str, None]] = field(default_factory=dict)
    """The keys to push, by peer."""

    @property
    def where(self) -> Address:
        return self.address, self.port


@dataclass(frozen=True)
class Protocol:
    """The HTTP interface of an instance: its ``Host``, the header with the secret, the cookie with the token."""

    host: str
    header: str
    secret: str
    cookie: str
    absent: int = 404


class Gateway:
    """The instances of one service, and their history."""

    def __init__(self, machine: Machine, protocol: Protocol, interval: float) -> None:
        self.machine = machine
        self.protocol = protocol
        self.interval = interval
        self.pods: dict[str, Pod] = {}
        self.apart: set[frozenset[str]] = set()
        self.held: dict[tuple[str, str], list[tuple[float, float]]] = {}
        """The periods for which a pod had a key. The last one may be open, with an infinite end."""
        self.replies: list[Reply] = []
        self.troubles: dict[str, list[tuple[float, float]]] = {}
        """The periods for which a pod had any fault."""
        self.split_equal: dict[frozenset[str], list[tuple[float, float]]] = {}

    # -- the instances

    def add(self, pod: Pod) -> Pod:
        """Start an instance with the records of a peer, if there is one."""
        self.pods[pod.name] = pod
        for other in self.pods.values():
            other.changed.setdefault(pod.name, {})
            pod.changed.setdefault(other.name, {})
        pod.phase = self.machine.rng.uniform(0, self.interval)
        self._snapshot(pod)
        return pod

    def remove(self, pod: Pod) -> None:
        """Remove an instance."""
        self._clear(pod)
        pod.up = False
        self.begin_trouble(pod)
        self.pods.pop(pod.name)

    def restart(self, pod: Pod, seconds: float, *, snapshot: bool) -> None:
        """Stop an instance for some seconds. It restarts without records, or with those of a peer."""
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
            self._end_trouble(pod)

        self.machine.after(seconds, back)

    def spoil(self, pod: Pod, fault: Fault | None) -> None:
        """Set the fault of an instance, or None to clear it."""
        self._end_trouble(pod)
        pod.fault = fault
        if fault is None:
            self._end_trouble(pod)
        else:
            self.begin_trouble(pod)

    def part(self, one: Pod, other: Pod) -> None:
        """Begin a network partition between two instances."""
        pair = frozenset((one.name, other.name))
        if len(pair) == 2 and pair not in self.apart:
            self.apart.add(pair)
            self.split_equal.setdefault(pair, []).append((self.machine.now, float("inf")))

    def heal(self) -> None:
        """End all partitions. Records that were held back are sent with the next push."""
        for pair in sorted(self.apart, key=sorted):
            begun, _ = self.split_equal[pair][-1]
            # Records that were held back may take another interval.
            self.split_equal[pair][-1] = (begun, self.machine.now + self.interval)
        self.apart.clear()

    def begin_trouble(self, pod: Pod) -> None:
        periods = self.troubles.setdefault(pod.name, [])
        if not periods or periods[-1][1] != float("inf"):
            periods.append((self.machine.now, float("inf")))

    def _end_trouble(self, pod: Pod) -> None:
        """End the period of trouble of an instance, if it is up and has no fault."""
        periods = self.troubles.get(pod.name)
        if periods and periods[-1][1] == float("inf") and pod.up and pod.fault is None:
            periods[-1] = (periods[-1][0], self.machine.now)

    # -- replication

    def _schedule_push(self, pod: Pod) -> None:
        """Schedule the next push of an instance, unless it is scheduled."""
        if not pod.pushes:
            pod.pushes = True
            passed = (self.machine.now - pod.phase) % self.interval
            # A time that is almost now is that of the last push.
            pause = self.interval - passed if self.interval - passed > _TOLERANCE else self.interval
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
            records = {key: pod.memory[key] for key in waiting if key in pod.memory}
            waiting.clear()
            self.machine.after(
                self.machine.rng.uniform(0.001, 0.02),
                lambda peer=peer, records=records: self._receive(peer, records),  # type: ignore[misc]
            )
        if any(pod.changed[name] for name in self.pods if name in pod.changed):
            self._schedule_push(pod)

    def _receive(self, pod: Pod, records: dict[str, Record]) -> None:
        if not pod.up or pod.fault is Fault.DEAF or self.pods.get(pod.name) is not pod:
            return
        for key, record in records.items():
            known = pod.memory.get(key)
            if known is None or known.stamp < record.stamp:
                self._keep(pod, key, record)

    def _snapshot(self, pod: Pod) -> None:
        peers = [each for each in self.pods.values() if each is not pod and each.up and each.fault is None]
        peers = [each for each in peers if frozenset((pod.name, each.name)) not in self.apart]
        if peers and pod.fault is not Fault.DEAF:
            source = self.machine.rng.choice(peers)
            self._receive(pod, {key: each for key, each in source.memory.items() if len(each.value) <= BUFFER})

    # -- records

    def write(self, pod: Pod, key: str, value: str) -> None:
        """Write a record at an instance, which pushes it to its peers within the interval."""
        if pod.fault is Fault.FORGETS:
            return
        self._keep(pod, key, Record(self.machine.now + pod.skew, value))
        if pod.fault is Fault.MUTE or len(value) > BUFFER:
            return
        for name, waiting in pod.changed.items():
            if name != pod.name:
                waiting[key] = None
        self._schedule_push(pod)

    def drop(self, pod: Pod, key: str) -> None:
        """Delete a record at one instance only, if it has it."""
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
        """Return the kind of a request, its key, and the status of its answer."""
        head, _, body = request.decode("latin-1").partition("\r\n\r\n")
        first, *lines = head.split("\r\n")
        method, path, _ = first.split(" ")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        kind, key = self._parse(method, path, headers)
        status = _ALWAYS.get(pod.fault) if pod.fault else None
        if status is None:
            status = self._refusal(pod, kind, headers) or self._answer(pod, kind, key, body)
        return kind, key, status

    def _refusal(self, pod: Pod, kind: str, headers: dict[str, str]) -> int | None:
        """Return the status of a refused request, None if it is not refused."""
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
                return 204  # also for an absent key
            case "write":
                self.write(pod, key, body)
                return 201
        return 404

    def _parse(self, method: str, path: str, headers: dict[str, str]) -> tuple[str, str]:
        if method == "GET" and path == "/check":
            pairs = (pair.strip().partition("=") for pair in headers.get("cookie", "").split(";"))
            return "check", next((value for name, _, value in pairs if name == self.protocol.cookie), "")
        kinds = {"GET": "read", "PUT": "write", "DELETE": "delete"}
        if path.startswith("/keys/") and method in kinds:
            return kinds[method], path.removeprefix("/keys/")
        return "unknown", path


class SimReplicas(ReplicaClient):
    """The client of one process. Answers arrive in its event loop, as in the real client."""

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

    def send(
        self, address: Address, request: bytes, done: Callable[[ReplicaResponse], None], *, with_body: bool = False
    ) -> ReplicaRequest:
        assert not with_body, "the syncs of the simulation read no counters"
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
        latency = self._delay(0.003)
        if found is not None and latency > _MAX_LATENCY:
            # The client may give up before the request arrives.
            found[0].replies.append(Reply(sent, sent + latency, found[1].name, "", "", None))

        def arrive() -> None:
            if found is None or not found[1].up or found[1].fault is Fault.REFUSES:
                self._answer(process, exchange, found, ("", "", None), sent, self._delay(0.003))
                return
            gateway, pod = found
            if pod.fault is Fault.SILENT:
                gateway.replies.append(Reply(sent, sent + _TIMEOUT, pod.name, "", "", None))
                return
            if not faults.off and faults.server_errors and machine.rng.random() < faults.server_errors:
                faults.points["instance answers 503 or nothing"] += 1
                status = machine.rng.choice([503, None])
                self._answer(process, exchange, found, ("", "", status), sent, self._delay(0.003))
                return
            answer = gateway.reply(pod, exchange.request)
            slow = machine.rng.uniform(0.5, 4.0) if pod.fault is Fault.SLOW else 0.0
            self._answer(process, exchange, found, answer, sent, self._delay(0.003) + slow)

        machine.after(latency, arrive)
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

        def deliver() -> None:
            if process.dead or exchange.cancelled:
                return
            response = (
                ReplicaResponse(status)
                if status is not None
                else ReplicaResponse(None, FailureReason.UNREACHABLE, "connection refused")
            )
            self._loop.call_soon_threadsafe(self._done, exchange, response)

        machine.after(delay, deliver)

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
