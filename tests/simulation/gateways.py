"""Gateways and the deployed functions that scrape, probe and test them.

The functions are the product's own code: wiring, service, kind and stores. The table, the cluster, the secrets and the
instances are models.
"""

from __future__ import annotations

import json
import random
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Final, cast
from unittest.mock import patch

from botocore.exceptions import BotoCoreError, ClientError

from syncline.clients.replicas.instances import Instance
from syncline.config.sync import load_sync
from syncline.errors import SynclineError
from syncline.kinds.tokens import loop
from syncline.kinds.tokens import probe as probing
from syncline.kinds.tokens.config import TokensSync
from syncline.kinds.tokens.metrics import CloudWatchMetrics
from syncline.kinds.tokens.wiring import StoredListings, StoredMemories, StoredSyncs
from syncline.kinds.tokens.wiring_canary import Canaries
from syncline.kinds.tokens.wiring_probe import ProbeFunction
from syncline.kinds.tokens.wiring_scrape import Scraping
from syncline.secrets import Secrets
from syncline.store.state import State
from syncline.store.table import Database
from syncline.store.tokens import CanaryRecords, InstanceLists
from tests.simulation.event_loop import SimLoop
from tests.simulation.expressions import client_error
from tests.simulation.machine import EndlessError, KilledError, Machine, Process, current
from tests.simulation.models.replicas import Gateway, Pod, Protocol, SimReplicas
from tests.simulation.network import Calls, Client, Faults
from tests.simulation.table import ModelTable
from tests.simulation.token_invariants import InstanceListing, TokenInvariants

TIMEOUTS: Final = {"scrape": 50.0, "probe": 30.0, "canary": 300.0}
"""Timeout of each function in the template, in seconds."""
WARM: Final = 0.8
"""Probability that an invocation reuses a warm process."""


class GatewayWorld:
    """The gateway of one sync: its instances, the cluster that lists them, and its invariants."""

    def __init__(self, machine: Machine, number: int, rate: Callable[[float, float, float], float]) -> None:
        rng = machine.rng
        self.machine, self.rng = machine, rng
        self.name = f"gateway-{number}"
        self.number = number
        self.secret = f"canary-secret-{rng.randbytes(12).hex()}"
        self.interval = rng.choice([0.2, 0.5, 1.0, 1.0])
        self.stale_after = rng.choice([90.0, 180.0])
        quorums: list[str | int] = ["all", "all", "majority", 1, 2]
        self.quorum = rng.choice(quorums)
        self.long_value = rng.choice([0, 0, 65536, 9000])
        self.watch_deletes = rng.random() < 0.7
        protocol = Protocol("api.example", "X-Api-Key", self.secret, "auth_token", rng.choice([404, 401]))
        self.gateway = Gateway(machine, protocol, self.interval)
        self.pods = 0
        self.skew = rate(0.5, 0.0, 2.0)
        self.cluster = ""
        """The current fault of the cluster: `fails`, `empty` or `hangs`, or an empty string."""
        self.invariants = TokenInvariants(self.gateway, self.stale_after, 2.5 * self.interval + 0.5, self.quorum, 0.0)
        for _ in range(rng.choice([2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 5, 6, 8])):
            self.add()

    def add(self) -> Pod:
        self.pods += 1
        pod = Pod(f"{self.name}-{self.pods}", f"10.{self.number}.0.{self.pods}", 8443)
        pod.skew = self.rng.uniform(-self.skew, self.skew)
        self.invariants.names[self.where(pod)] = pod.name
        return self.gateway.add(pod)

    @staticmethod
    def where(pod: Pod) -> str:
        return f"{pod.address}:{pod.port}"

    def some(self) -> Pod:
        return self.rng.choice(list(self.gateway.pods.values()))

    def config(self) -> str:
        keys = {
            "write": {"method": "PUT", "path": "/keys/{key}", "body": "{value}"},
            "read": {"method": "GET", "path": "/keys/{key}"},
            "delete": {"method": "DELETE", "path": "/keys/{key}"},
            "headers": {"X-Api-Key": f"secret:{self.name}"},
            "long_value": self.long_value,
            "watch_deletes": self.watch_deletes,
        }
        config = {
            "name": self.name,
            "kind": "tokens",
            "sources": {"one": {"namespace": self.name, "service": "nginx"}},
            "check": {"host": "api.example", "path": "/check", "cookie": "auth_token", "plain_http": True},
            "sync_interval": self.interval,
            "quorum": self.quorum,
            "stale_after": self.stale_after,
            "canary": keys,
        }
        return load_sync(json.dumps(config)).model_dump_json()


@dataclass
class _Cluster:
    """The API of a cluster, as the scrape function calls it."""

    system: System
    world: GatewayWorld
    calls: Calls
    asked_at: float

    def instances(self, _invalid: object) -> tuple[Instance, ...]:
        self.calls.transmit()
        world, machine = self.world, self.calls.machine
        if world.cluster == "hangs":
            machine.sleep(machine.rng.choice([5.0, 29.0, 60.0]))
        if world.cluster == "fails":
            raise SynclineError("UNREACHABLE", "the cluster cannot be reached")
        pods = [] if world.cluster == "empty" else sorted(world.gateway.pods.values(), key=lambda pod: pod.name)
        found = tuple(Instance(pod.name, pod.address, pod.port, pod.ready, source="one") for pod in pods)
        serving = tuple(world.where(pod) for pod in pods if pod.ready)
        world.invariants.lists.append(
            InstanceListing(self.asked_at, serving, tuple(map(world.where, pods)), machine.now)
        )
        self.calls.transmit()
        return found


class _Scraping(Scraping):
    """The scrape function with simulated clusters."""

    system: System
    calls: Calls

    def _sources(self, sync: TokensSync) -> Iterable[Callable[[object], tuple[Instance, ...]]]:
        world = self.system.worlds[sync.name]
        task = current()
        assert task is not None
        return [_Cluster(self.system, world, self.calls, task.locals[0]["asked_at"]).instances]


class _Listings(StoredListings):
    """Lists of instances in the table. Tells the invariants which lists were stored."""

    system: System

    def listed(self, sync: str, instances: Sequence[Instance], seen: float) -> None:
        super().listed(sync, instances, seen)
        for each in self.system.worlds[sync].invariants.lists:
            if each.asked_at == seen:
                each.stored_at = min(each.stored_at, self.system.machine.now)


class _SecretsManager:
    """A model of Secrets Manager."""

    def __init__(self, system: System) -> None:
        self._system = system

    def get_secret_value(self, *, SecretId: str, **_: object) -> dict[str, Any]:  # noqa: N803 - as boto3 has it
        world = self._system.worlds[SecretId]
        if self._system.secrets_fail:
            self._system.record_failure()
            raise client_error("InternalServiceError", "GetSecretValue")
        return {"SecretString": world.secret}


class _Calls(Calls):
    """Calls that record failures of AWS."""

    system: System

    def aws(self, name: str, function: Callable[..., Any], *args: Any, **arguments: Any) -> Any:
        started = self.machine.now
        try:
            return super().aws(name, function, *args, **arguments)
        except (ClientError, BotoCoreError):
            if not self.process.dead:
                self.system.record_failure(started)
            raise


@dataclass
class System:
    """The table, the functions and their gateways."""

    machine: Machine
    faults: Faults
    skew: float
    worlds: dict[str, GatewayWorld] = field(default_factory=dict)
    table: ModelTable = field(default_factory=ModelTable)
    secrets_fail: bool = False
    """True while no secret can be read."""
    failures: list[str] = field(default_factory=list)
    invocations: int = 0
    aws_failures: list[tuple[float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._warm: dict[str, list[tuple[Process, Any]]] = {name: [] for name in TIMEOUTS}
        self._calls: dict[Process, _Calls] = {}

    def record_failure(self, started: float | None = None) -> None:
        """Record a failure of AWS. Without the start time of a call, it is a failure to read a secret."""
        now = self.machine.now
        # The product caches a failure to read a secret for a second.
        self.aws_failures.append((now, now + 1.0) if started is None else (started, now))
        for world in self.worlds.values():
            world.invariants.list_failures.append(self.aws_failures[-1])

    def apply(self, world: GatewayWorld) -> None:
        self.worlds[world.name] = world
        State(cast("Any", self.table), self.machine.time).put_sync(world.name, world.config())

    # -- invocations

    def invoke(self, name: str, event: dict[str, Any], done: Callable[[Any, Process], None]) -> Process:
        """Invoke a function. ``done`` is called with its result, unless it raises or is killed."""
        self.invocations += 1
        machine = self.machine
        warm = self._warm[name]
        process, function = None, None
        if warm and machine.rng.random() < WARM:
            process, function = warm.pop(machine.rng.randrange(len(warm)))
        if process is None:
            process = Process(machine, f"{name}-{self.invocations}")
            process.skew = machine.rng.uniform(-self.skew, self.skew)
            calls = self._calls[process] = _Calls(machine, process, self.faults)
            calls.system = self
        state = {"over": False}

        def handle() -> None:
            built = function
            try:
                built = built or getattr(self, f"_{name}")(process)
                result = built(event)
            except Exception as error:  # noqa: BLE001 - Lambda reports any error
                if process.dead:
                    raise KilledError from None
                state["over"] = True
                if not isinstance(error, ClientError | BotoCoreError):
                    self.failures.append(f"{name} raised {error!r}")
                machine.note(f"{process.name} failed: {error!r}")
                process.kill()
                raise KilledError from None
            if process.dead:
                raise KilledError
            state["over"] = True
            machine.note(f"{process.name} returns")
            process.freeze()
            warm.append((process, built))
            done(result, process)

        machine.note(f"{process.name} begins")
        process.thaw()
        machine.spawn(process, f"{process.name} handler", handle)
        machine.after(TIMEOUTS[name], lambda: None if state["over"] else process.kill())
        return process

    def _table(self, process: Process) -> Any:
        return Client(self._calls[process], self.table)

    def _common(self, process: Process) -> tuple[StoredSyncs, StoredListings, Secrets]:
        clock = self.machine.time
        table = self._table(process)
        resolver = Secrets(lambda: cast("Any", _SecretsManager(self)), lambda: cast("Any", None), {}, clock)
        lists = _Listings(InstanceLists(Database(table), clock))
        lists.system = self
        return StoredSyncs(State(table, clock)), lists, resolver

    def _canary(self, process: Process) -> Callable[[object], Any]:
        syncs, lists, resolver = self._common(process)
        memories = StoredMemories(CanaryRecords(Database(self._table(process)), self.machine.time))
        canaries = Canaries(syncs, lists, memories, resolver, CloudWatchMetrics())
        return lambda _event: canaries.run()

    def _probe(self, process: Process) -> Callable[[dict[str, Any]], Any]:
        syncs, lists, resolver = self._common(process)
        return ProbeFunction(syncs, lists, resolver, CloudWatchMetrics()).handle

    def _scrape(self, process: Process) -> Callable[[object], Any]:
        syncs, lists, resolver = self._common(process)

        def clock() -> float:
            task = current()
            assert task is not None
            now = self.machine.time()
            task.locals[0] = {"asked_at": now}
            return now

        scraping = _Scraping(syncs, lists, resolver, clock, CloudWatchMetrics())
        scraping.system, scraping.calls = self, self._calls[process]
        return lambda _event: scraping.scrape()

    def end(self) -> None:
        """Kill every process, so that no event loop survives the simulation."""
        for process in self._calls:
            process.on_death = lambda: None
            process.kill()
        with suppress(EndlessError):
            self.machine.run(self.machine.now + 1)

    # -- wiring

    @contextmanager
    def wired(self) -> Iterator[None]:
        """Replace the product's clients and event loops by simulated ones while the block runs."""

        def replicas(at: Any, _tls: object, _name: object, connecting: float) -> SimReplicas:
            task = current()
            assert task is not None
            return SimReplicas(at, self._pod_at, self._calls[task.process], connecting)

        rng = self.machine.rng
        jitter = SimpleNamespace(Random=lambda: random.Random(rng.random()))
        with ExitStack() as stack:
            stack.enter_context(patch.object(probing, "ReplicaClient", replicas))
            stack.enter_context(patch.object(probing, "random", jitter))
            stack.enter_context(patch.object(secrets, "choice", rng.choice))
            stack.enter_context(patch.object(loop, "asyncio", _Asyncio(self.machine, self.failures)))
            yield

    def _pod_at(self, address: tuple[str, int]) -> tuple[Gateway, Pod] | None:
        for world in self.worlds.values():
            for pod in world.gateway.pods.values():
                if pod.where == address:
                    return world.gateway, pod
        return None


class _Asyncio:
    """The module :mod:`asyncio`, with simulated event loops."""

    def __init__(self, machine: Machine, failures: list[str]) -> None:
        self._machine = machine
        self._failures = failures

    def new_event_loop(self) -> SimLoop:
        task = current()
        assert task is not None
        return SimLoop(self._machine, task.process, self._failures)

    def __getattr__(self, name: str) -> Any:
        import asyncio  # noqa: PLC0415

        return getattr(asyncio, name)


def probe_event(token: str, origin: str, sync: str = "") -> dict[str, Any]:
    """Return the event of a function URL for a request to probe a token."""
    path = "/v1/synced" + (f"/{sync}" if sync else "")
    return {
        "rawPath": path,
        "headers": {"X-Auth-Token": token, "X-Nginx-Origin": origin},
        "requestContext": {"http": {"method": "GET"}},
    }
