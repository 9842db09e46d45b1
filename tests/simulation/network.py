"""The network as a process sees it: calls take time, are throttled, fail, or are carried out and their answer is lost.

A call goes over the network twice: there, and back. The process may be killed before it and after it; where it writes,
also within: it was carried out, and its answer never came. A call that is seldom made is likelier to be killed at. boto3 repeats
calls of AWS that fail, so a call whose answer was lost is carried out again, except a transaction, which carries a token
that AWS recognises. Syncline's clients repeat reads; what they raise in the end has a code.
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
from tests.simulation.table import cancelled
from tests.simulation.vault import Texts, refusal

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
_TOKENED: Final = frozenset({"transact_write_items"})
_TRIES: Final = 6
_RARE: Final = 20
"""A process is twice as likely to be killed at a call that is one of so many, and likelier at a rarer one."""
_RAREST: Final = 40.0
_REMEMBERED: Final = 30.0
"""Seconds after which a client asks for its credentials again."""
T = TypeVar("T")


@dataclass(slots=True)
class Faults:
    """How likely each thing goes wrong in a call, from 0 to 1.

    ``points`` counts the calls by name, and for each point at which a process may be killed how often it was passed
    (``passed before put_item``), and how often it was killed there (``killed before put_item``).
    """

    throttled: float = 0.0  # boto3 tries again, and it costs time
    lost: float = 0.0  # the answer is lost, boto3 repeats the call
    unreachable: float = 0.0  # boto3 gives up; the call was carried out or not
    conflicts: float = 0.0  # a transaction meets another one
    killed: float = 0.0  # the process is killed at the call
    slow: float = 0.0  # the call takes seconds
    broken: float = 0.0  # a server of a source or target answers 5xx or not at all; the call was carried out or not
    limited: float = 0.0  # a server asks to slow down
    meddles: float = 0.0  # a stranger changes a tag that a process has just asked for
    off: bool = False
    calls: int = 0
    points: Counter[str] = field(default_factory=Counter)


def latency(machine: Machine, faults: Faults, base: float = 0.01) -> float:
    """Return the seconds that one way over the network takes."""
    rng = machine.rng
    if faults.slow and not faults.off and rng.random() < faults.slow:
        return rng.uniform(0.5, 8.0)
    return base * (0.2 - log(1.0 - rng.random()))  # an exponential distribution


class Calls:
    """Carries out calls of one process across the seam."""

    def __init__(self, machine: Machine, process: Process, faults: Faults) -> None:
        self.machine = machine
        self.process = process
        self.faults = faults

    def kill_here(self, when: str, name: str) -> None:
        """Kill the process at a point of a call, by chance."""
        faults, point = self.faults, f"{when} {name}"
        if faults.off:
            return
        faults.calls += when == "before"
        faults.points[f"passed {point}"] += 1
        if not faults.killed:
            return
        rare = min(_RAREST, 1 + faults.calls / (_RARE * faults.points[name]))
        if self.machine.rng.random() < faults.killed * rare:
            faults.points[f"killed {point}"] += 1
            self.machine.note(f"killed {point}")
            self.process.kill()
            raise KilledError

    def travel(self) -> None:
        """Let the time of one way over the network pass."""
        if self.process.dead:
            raise KilledError
        if current() is not None:
            self.machine.wait(latency(self.machine, self.faults))

    def aws(self, name: str, function: Callable[..., Any], *args: Any, **arguments: Any) -> Any:
        """Make one call of AWS, with its faults, as boto3 does."""
        self.faults.points[name] += 1
        self.travel()
        writes = name in _WRITES
        self.kill_here("before", name)
        if self.faults.off:
            return function(*args, **arguments)
        done: list[Any] = []
        for _ in range(_TRIES):
            if self._happens(self.faults.throttled):
                self.machine.sleep(self.machine.rng.uniform(0.02, 0.5))
                continue
            self._fail(name, function, args, arguments, done=bool(done))
            answer = done[0] if done and name in _TOKENED else function(*args, **arguments)
            if writes:
                self.kill_here("within", name)
            if self._happens(self.faults.lost):
                done.append(answer)
                self.machine.sleep(self.machine.rng.uniform(0.02, 1.0))
                continue
            if self.machine.rng.random() < 0.3:
                self.travel()
            self.kill_here("after", name)
            return answer
        raise client_error("ThrottlingException", name)

    def _happens(self, chance: float) -> bool:
        return chance > 0 and self.machine.rng.random() < chance

    def _fail(
        self, name: str, function: Callable[..., Any], args: Any, arguments: dict[str, Any], *, done: bool
    ) -> None:
        """Raise by chance that AWS cannot be reached, the call carried out or not, or that a write met a transaction."""
        if self._happens(self.faults.unreachable):
            if self.machine.rng.random() < 0.5 and not done:
                function(*args, **arguments)
            self.machine.sleep(self.machine.rng.uniform(0.1, 5.0))
            raise EndpointConnectionError(endpoint_url=f"https://{name}.aws")
        if not self._happens(self.faults.conflicts):
            return
        if name == "transact_write_items":
            raise cancelled(["TransactionConflict" for _ in arguments["TransactItems"]])
        if name in ("put_item", "update_item", "delete_item"):
            raise client_error("TransactionConflictException", name)


class Network:
    """Carries out calls of one process to the servers of sources and targets.

    ``http`` has the deadline and the cancellation of the step at work, and counts the calls. ``identities`` give what
    requests to a host say of who we are.
    """

    def __init__(self, calls: Calls, http: Http) -> None:
        self.calls = calls
        self.http = http
        self.identities: dict[str, Texts] = {}
        self._known: dict[str, tuple[float, Sequence[str]]] = {}

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
        """Make one call to a server and return what ``function`` returns, which is the server's side of it.

        The function is called once, and all at once; not at all if the call fails before. Raises what Syncline's clients
        raise where the network or the time ends a call: UNREACHABLE, SERVER_ERROR, THROTTLED, TIME_SHORT, RUN_CANCELLED.
        After any of them but THROTTLED a call that ``writes`` may have been carried out.

        A ``repeatable`` call that fails is made once more, by chance, as the HTTP room does. So a writer may meet what
        its own first try wrote, whose answer was lost. With ``counted`` False, for a chunk of a stream, the call is no
        request of its own.
        """
        try:
            return self._once(host, name, function, writes=writes, counted=counted)
        except SynclineError as error:
            passes = repeatable and error.code.name in ("UNREACHABLE", "SERVER_ERROR")
            if not passes or self.calls.faults.off or self.calls.machine.rng.random() < 0.5:
                raise
        return self._once(host, name, function, writes=writes, counted=counted)

    def _once(self, host: str, name: str, function: Callable[[], T], *, writes: bool, counted: bool) -> T:
        calls, faults = self.calls, self.calls.faults
        faults.points[name] += 1
        self._check(host)
        texts = self._identity(host)
        if counted:
            self.http._made += 1
        calls.travel()
        calls.kill_here("before", name)
        if faults.off:
            return function()
        self._spoil(host, name, function, texts)
        answer = function()
        if writes:
            calls.kill_here("within", name)
        if calls.machine.rng.random() < 0.3:
            calls.travel()
        calls.kill_here("after", name)
        return answer

    def _identity(self, host: str) -> Sequence[str]:
        """Return what a request says of who we are; the product resolves it."""
        until, texts = self._known.get(host, (0.0, ()))
        if host in self.identities and self.calls.machine.now >= until:
            texts = self.identities[host]()
            self._known[host] = (self.calls.machine.now + _REMEMBERED, texts)
        return texts

    def _spoil(self, host: str, name: str, function: Callable[[], object], texts: Sequence[str]) -> None:
        """Raise a failure of the server or of the network, by chance."""
        faults, policy, machine = self.calls.faults, self.http.policy, self.calls.machine
        rng = machine.rng
        if faults.limited and rng.random() < faults.limited:
            error = refusal(rng, host, name, 429, texts, "")
            error.retry_after = rng.choice([None, 1.0, 30.0])
            raise error
        if not faults.broken or rng.random() >= faults.broken:
            return
        done = rng.random() < 0.5
        if done:
            with suppress(SynclineError):
                function()
        if rng.random() < 0.1:
            machine.sleep(min(rng.uniform(5, 60), max(0.0, (policy.deadline or machine.now) - machine.now)))
        if policy.expired:
            raise SynclineError("TIME_SHORT", f"{name} at {host}: the function's time is over")
        beside = ", carried out" if done else ""
        if rng.random() < 0.5:
            raise SynclineError("UNREACHABLE", f"{name} at {host}{beside}")
        raise refusal(rng, host, name, 502, texts, beside)

    def _check(self, host: str) -> None:
        if self.calls.process.dead:
            raise KilledError
        policy = self.http.policy
        if policy.halted():
            raise SynclineError("RUN_CANCELLED", f"no request was sent to {host}: the run was cancelled")
        if policy.expired:
            raise SynclineError("TIME_SHORT", f"no request was sent to {host}: the function's time is over")


class Client:
    """A model of an AWS service as one process has it: each of its methods is a call over the network."""

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
