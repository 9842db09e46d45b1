"""The counters of nginx's zone_sync, read from each instance to explain why a token is not everywhere.

``GET /api/9/stream/zone_sync`` of ngx_http_api_module answers, for one instance::

    {"zones": {"tokens": {"records_pending": 1204, "records_total": 260575}},
     "status": {"bytes_in": 1, "msgs_in": 1, "msgs_out": 1, "bytes_out": 1, "nodes_online": 2}}

``records_pending`` are the records that the instance still has to send, and ``nodes_online`` the peers that it is
connected to. The counters are read while the last retries run, so that a verdict keeps its deadline.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from syncline import __version__
from syncline.clients.http.addresses import host_name
from syncline.clients.replicas.client import ReplicaClient, ReplicaRequest, ReplicaResponse
from syncline.kinds.tokens.verdict import ProbeResult, Reason
from syncline.telemetry import logger

if TYPE_CHECKING:
    from syncline.clients.replicas.instances import Instance
    from syncline.kinds.tokens.ask import AskSchedule
    from syncline.kinds.tokens.config import Check, ZoneSync

_EXPLAINED: Final = frozenset({Reason.SOME_DO_NOT, Reason.SOME_UNKNOWN, Reason.TOO_FEW, Reason.NOT_IN_TIME})
_MOST_CAUSES: Final = 5
_LIMIT: Final = 1 << 63


@dataclass(frozen=True, slots=True)
class NodeState:
    """The records that an instance still has to send, and the peers that it is connected to."""

    pending: int
    peers: int

    @classmethod
    def parse(cls, body: bytes) -> NodeState:
        """Return the state of an instance. Raises ValueError for a body without the counters."""
        try:
            value = json.loads(body)
            zones = [zone["records_pending"] for zone in value["zones"].values()]
            peers = value["status"]["nodes_online"]
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
            raise ValueError("the response has no counters of zone_sync") from error
        if not all(type(each) is int and 0 <= each < _LIMIT for each in (*zones, peers)):
            raise ValueError("a counter of zone_sync is no number")
        return cls(sum(zones), peers)


def causes_of(states: Mapping[str, NodeState], peers: int) -> tuple[str, ...]:
    """Return what the states of instances, by name, say about the replication; each should have ``peers`` peers."""
    alone = sorted((state.peers, name) for name, state in states.items() if state.peers < peers)
    found = [f"{name} sees {online} of {peers} nodes" for online, name in alone]
    behind = sorted((-state.pending, name) for name, state in states.items() if state.pending)
    found += [f"{-pending:,} record{'s' * (pending != -1)} pending on {name}" for pending, name in behind]
    return tuple(found[:_MOST_CAUSES])


class ZoneSyncReader:
    """Reads the counters of all instances of one sync. Belongs to one event loop; ``ca`` is that of ``check``."""

    def __init__(
        self, config: ZoneSync, check: Check, ca: str | None, loop: asyncio.AbstractEventLoop, connecting: float
    ) -> None:
        authorities = None if config.plain_http else ca or ""
        self._client = ReplicaClient(loop, authorities, check.server_name or host_name(check.host), connecting)
        self._port = config.port
        self._loop = loop
        head = f"Host: {check.host}\r\nUser-Agent: syncline/{__version__}\r\nAccept: application/json\r\n\r\n"
        self._request = f"GET {config.path} HTTP/1.1\r\n{head}".encode()

    async def explain(
        self, asking: Coroutine[Any, Any, ProbeResult], instances: Sequence[Instance], schedule: AskSchedule
    ) -> ProbeResult:
        """Return the result of ``asking``, with the causes if instances do not agree, by the deadline."""
        began, question = self._loop.time(), self._loop.create_task(asking)
        reading = _Reading(self._loop)
        try:
            await asyncio.wait({question}, timeout=schedule.retry_for)
            if not question.done():
                self._start(reading, instances)
            result = await question
            if result.reason not in _EXPLAINED:
                return result
            if not reading.requests:
                self._start(reading, instances)
            await asyncio.wait({reading.complete}, timeout=max(0.0, schedule.deadline - (self._loop.time() - began)))
            if reading.failed:
                logger.warning("counters of zone_sync not read", extra={"instances": reading.failed})
            # A pod may be listed with several addresses.
            pods = {one.name for one in instances if one.serves}
            return replace(result, causes=causes_of(reading.states, len(pods) - 1))
        finally:
            question.cancel()
            reading.cancel()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _start(self, reading: _Reading, instances: Sequence[Instance]) -> None:
        asked = [one for one in instances if one.serves]
        reading.left = len(asked)
        if not asked:
            reading.complete.set_result(None)
        for one in asked:
            answered = partial(reading.answered, one.name)
            request = self._client.send((one.address, self._port), self._request, answered, with_body=True)
            reading.requests.append(request)


class _Reading:
    """The requests to all instances, and the states received so far."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.requests: list[ReplicaRequest] = []
        self.states: dict[str, NodeState] = {}
        self.failed: dict[str, str] = {}
        self.left = 0
        self.complete: asyncio.Future[None] = loop.create_future()

    def answered(self, name: str, answer: ReplicaResponse) -> None:
        if answer.status != 200:
            self.failed[name] = answer.text
        else:
            try:
                self.states[name] = NodeState.parse(answer.body)
            except ValueError as error:
                self.failed[name] = str(error)
        self.left -= 1
        if not self.left and not self.complete.done():
            self.complete.set_result(None)

    def cancel(self) -> None:
        for request in self.requests:
            request.cancel()
