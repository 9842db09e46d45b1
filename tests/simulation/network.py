"""Fault injection in the network calls of a process.

Calls take time, are throttled, fail, or are executed although their response is lost. The process may be killed before
and after a call, and for calls that write also *within*: the call was executed, but the process never got the response.
Rare calls have a higher rate of kills.

boto3 repeats failed calls of AWS, so a call whose response was lost is executed again. A transaction is not: its token
identifies it. Syncline's clients repeat reads, and raise errors with a code.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from math import log
from typing import Any, Final, TypeVar

from botocore.exceptions import EndpointConnectionError

from syncline.clients.http.client import Http
from syncline.errors import SynclineError
from tests.simulation.expressions import client_error
from tests.simulation.machine import KilledError, Machine, Process, current
from tests.simulation.secret_store import RequestCredentials, error_response
from tests.simulation.table import cancelled

_WRITES: Final = frozenset(
    {
        "put_item",
        "update_item",
        "delete_item",
        "transact_write_items",
        "batch_write_item",
        "send_message_batch",
        "change_message_visibility_batch",
        "change_message_visibility",
        "delete_message",
    }
)
_IDEMPOTENT: Final = frozenset({"transact_write_items"})
_ATTEMPTS: Final = 6
_RARE: Final = 20
"""The rate of kills doubles for a call that is one of this many, and rises further for rarer calls."""
_MAX_RARITY: Final = 40.0
"""Maximum factor by which rarity raises the rate of kills."""
_CREDENTIALS_CACHED: Final = 30.0
"""Seconds for which a client caches its credentials."""
T = TypeVar("T")


@dataclass(slots=True)
class Faults:
    """The rate of each fault per call, from 0 to 1.

    ``points`` counts the calls by name. For each point at which a process may be killed, it also counts how often the
    point was passed (``passed before put_item``) and how often the process was killed there (``killed before
    put_item``).
    """

    throttled: float = 0.0  # boto3 retries, which takes time
    lost_replies: float = 0.0  # the response is lost, and boto3 repeats the call
    unreachable: float = 0.0  # boto3 gives up; the call may have been executed
    conflicts: float = 0.0  # a write conflicts with a transaction
    killed: float = 0.0  # the process is killed at the call
    slow: float = 0.0  # the call takes seconds
    server_errors: float = 0.0  # a source or target answers 5xx or not at all; the call may have been executed
    rate_limited: float = 0.0  # a server answers 429
    foreign_writes: float = 0.0  # a foreign writer changes a tag just after a process has read it
    off: bool = False  # no faults occur
    calls: int = 0
    points: Counter[str] = field(default_factory=Counter)


def latency(machine: Machine, faults: Faults, base: float = 0.01) -> float:
    """Return the seconds of one transmission over the network."""
    rng = machine.rng
    if faults.slow and not faults.off and rng.random() < faults.slow:
        return rng.uniform(0.5, 8.0)
    return base * (0.2 - log(1.0 - rng.random()))  # an exponential distribution


class Calls:
    """Makes the network calls of one process, with their faults."""

    def __init__(self, machine: Machine, process: Process, faults: Faults) -> None:
        self.machine = machine
        self.process = process
        self.faults = faults

    def maybe_kill(self, when: str, name: str) -> None:
        """Kill the process at a point of a call, at random."""
        faults, point = self.faults, f"{when} {name}"
        if faults.off:
            return
        faults.calls += when == "before"
        faults.points[f"passed {point}"] += 1
        if not faults.killed:
            return
        rare = min(_MAX_RARITY, 1 + faults.calls / (_RARE * faults.points[name]))
        if self.machine.rng.random() < faults.killed * rare:
            faults.points[f"killed {point}"] += 1
            self.machine.note(f"killed {point}")
            self.process.kill()
            raise KilledError

    def transmit(self) -> None:
        """Wait for one transmission over the network."""
        if self.process.dead:
            raise KilledError
        if current() is not None:
            self.machine.wait(latency(self.machine, self.faults))

    def aws(self, name: str, function: Callable[..., Any], *args: Any, **arguments: Any) -> Any:
        """Make a call of AWS with its faults, and retry it as boto3 does."""
        self.faults.points[name] += 1
        self.transmit()
        writes = name in _WRITES
        self.maybe_kill("before", name)
        if self.faults.off:
            return function(*args, **arguments)
        done: list[Any] = []
        for _ in range(_ATTEMPTS):
            if self._occurs(self.faults.throttled):
                self.machine.sleep(self.machine.rng.uniform(0.02, 0.5))
                continue
            self._fail(name, function, args, arguments, done=bool(done))
            answer = done[0] if done and name in _IDEMPOTENT else function(*args, **arguments)
            if writes:
                self.maybe_kill("within", name)
            if self._occurs(self.faults.lost_replies):
                done.append(answer)
                self.machine.sleep(self.machine.rng.uniform(0.02, 1.0))
                continue
            if self.machine.rng.random() < 0.3:
                self.transmit()
            self.maybe_kill("after", name)
            return answer
        raise client_error("ThrottlingException", name)

    def _occurs(self, chance: float) -> bool:
        return chance > 0 and self.machine.rng.random() < chance

    def _fail(
        self, name: str, function: Callable[..., Any], args: Any, arguments: dict[str, Any], *, done: bool
    ) -> None:
        """Raise at random a connection error, with the call executed or not, or a conflict with a transaction."""
        if self._occurs(self.faults.unreachable):
            if self.machine.rng.random() < 0.5 and not done:
                function(*args, **arguments)
            self.machine.sleep(self.machine.rng.uniform(0.1, 5.0))
            raise EndpointConnectionError(endpoint_url=f"https://{name}.aws")
        if not self._occurs(self.faults.conflicts):
            return
        if name == "transact_write_items":
            raise cancelled(["TransactionConflict" for _ in arguments["TransactItems"]])
        if name in ("put_item", "update_item", "delete_item"):
            raise client_error("TransactionConflictException", name)


class Network:
    """Makes the calls of one process to the servers of sources and targets, with their faults.

    ``http`` has the deadline and the cancellation of the running step, and counts the calls. ``identities`` has the
    credentials in the requests to each host.
    """

    def __init__(self, calls: Calls, http: Http) -> None:
        self.calls = calls
        self.http = http
        self.identities: dict[str, RequestCredentials] = {}
        self._cached: dict[str, tuple[float, Sequence[str]]] = {}

    def call(
        self,
        host: str,
        name: str,
        function: Callable[[], T],
        *,
        writes: bool = False,
        counted: bool = True,
        repeatable: bool = False,
    ) -> T:
        """Make a call to a server. Return the result of ``function``, which is the server's part of the call.

        The server executes the function atomically, and at most once per attempt. Raises the errors of Syncline's
        clients for failed calls: UNREACHABLE, SERVER_ERROR, THROTTLED, TIME_SHORT or RUN_CANCELLED. After any of them
        except THROTTLED, a call that ``writes`` may have been executed.

        A failed ``repeatable`` call is repeated at random, as the HTTP client does. The second attempt may find what
        the first one wrote. With ``counted`` False, the call does not count as a request: it is a chunk of a stream.
        """
        try:
            return self._once(host, name, function, writes=writes, counted=counted)
        except SynclineError as error:
            temporary = repeatable and error.code.name in ("UNREACHABLE", "SERVER_ERROR")
            if not temporary or self.calls.faults.off or self.calls.machine.rng.random() < 0.5:
                raise
        return self._once(host, name, function, writes=writes, counted=counted)

    def _once(self, host: str, name: str, function: Callable[[], T], *, writes: bool, counted: bool) -> T:
        calls, faults = self.calls, self.calls.faults
        faults.points[name] += 1
        self._check(host)
        credentials = self._credentials(host)
        if counted:
            self.http._made += 1
        calls.transmit()
        calls.maybe_kill("before", name)
        if faults.off:
            return function()
        self._fail(host, name, function, credentials)
        answer = function()
        if writes:
            calls.maybe_kill("within", name)
        if calls.machine.rng.random() < 0.3:
            calls.transmit()
        calls.maybe_kill("after", name)
        return answer

    def _credentials(self, host: str) -> Sequence[str]:
        """Return the credentials in a request, as the product resolves them."""
        until, credentials = self._cached.get(host, (0.0, ()))
        if host in self.identities and self.calls.machine.now >= until:
            credentials = self.identities[host]()
            self._cached[host] = (self.calls.machine.now + _CREDENTIALS_CACHED, credentials)
        return credentials

    def _fail(self, host: str, name: str, function: Callable[[], object], credentials: Sequence[str]) -> None:
        """Raise a failure of the server or of the network, at random."""
        faults, policy, machine = self.calls.faults, self.http.policy, self.calls.machine
        rng = machine.rng
        if faults.rate_limited and rng.random() < faults.rate_limited:
            error = error_response(rng, host, name, 429, credentials, "")
            error.retry_after = rng.choice([None, 1.0, 30.0])
            raise error
        if not faults.server_errors or rng.random() >= faults.server_errors:
            return
        done = rng.random() < 0.5
        if done:
            with suppress(SynclineError):
                function()
        if rng.random() < 0.1:
            machine.sleep(min(rng.uniform(5, 60), max(0.0, (policy.deadline or machine.now) - machine.now)))
        if policy.expired:
            raise SynclineError("TIME_SHORT", f"{name} at {host}: the function's time is over")
        note = ", executed" if done else ""
        if rng.random() < 0.5:
            raise SynclineError("UNREACHABLE", f"{name} at {host}{note}")
        raise error_response(rng, host, name, 502, credentials, note)

    def _check(self, host: str) -> None:
        if self.calls.process.dead:
            raise KilledError
        policy = self.http.policy
        if policy.halted():
            raise SynclineError("RUN_CANCELLED", f"no request was sent to {host}: the run was cancelled")
        if policy.expired:
            raise SynclineError("TIME_SHORT", f"no request was sent to {host}: the function's time is over")


class Client:
    """A client of a model of an AWS service: each call of a method goes over the network of one process."""

    def __init__(self, calls: Calls, model: Any) -> None:
        self._calls = calls
        self._model = model
        self.meta = self

    @property
    def client(self) -> Client:
        return self

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._model, name)
        if not callable(value) or isinstance(value, type):
            self.__dict__[name] = value
            return value

        def call(*args: Any, **arguments: Any) -> Any:
            return self._calls.aws(name, value, *args, **arguments)

        self.__dict__[name] = call
        return call
