"""Gateways as they are deployed with Syncline: instances, the cluster that lists them, and the functions that ask them.

The functions are the product's own: its wiring, its service, its kind and its stores. Below them are the table, the
cluster, the secrets and the instances of the simulation.
"""

from __future__ import annotations

import json
import random
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
from tests.simulation.expressions import client_error
from tests.simulation.loops import SimLoop
from tests.simulation.machine import EndlessError, KilledError, Machine, Process, current
from tests.simulation.models.replicas import Gateway, Pod, Protocol, SimReplicas
from tests.simulation.network import Calls, Client, Faults
from tests.simulation.table import ModelTable
from tests.simulation.token_judge import Judge, Listed

TIMEOUTS: Final = {"scrape": 50.0, "probe": 30.0, "canary": 300.0}
"""Seconds that each function has, as the template says."""
WARM: Final = 0.8


class World:
    """One gateway of a sync: its instances, its cluster's view of them, and its judge."""

    def __init__(self, machine: Machine, number: int, swarm: Callable[[float, float, float], float]) -> None:
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
        self.skew = swarm(0.5, 0.0, 2.0)
        self.cluster = ""
        """What is wrong with the cluster now: `fails`, `empty`, `hangs`, or nothing."""
        self.judge = Judge(self.gateway, self.stale_after, 2.5 * self.interval + 0.5, self.quorum, 0.0)
        for _ in range(rng.choice([2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 5, 6, 8])):
            self.add()

    def add(self) -> Pod:
        self.pods += 1
        pod = Pod(f"{self.name}-{self.pods}", f"10.{self.number}.0.{self.pods}", 8443)
        pod.skew = self.rng.uniform(-self.skew, self.skew)
        self.judge.names[self.where(pod)] = pod.name
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
    """A cluster's API, as a scrape knows it."""

    system: System
    world: World
    calls: Calls
    asked: float

    def instances(self, _odd: object) -> tuple[Instance, ...]:
        self.calls.travel()
        world, machine = self.world, self.calls.machine
        if world.cluster == "hangs":
            machine.sleep(machine.rng.choice([5.0, 29.0, 60.0]))
        if world.cluster == "fails":
            raise SynclineError("UNREACHABLE", "the cluster cannot be reached")
        pods = [] if world.cluster == "empty" else sorted(world.gateway.pods.values(), key=lambda pod: pod.name)
        found = tuple(Instance(pod.name, pod.address, pod.port, pod.ready, source="one") for pod in pods)
        serving = tuple(world.where(pod) for pod in pods if pod.ready)
        world.judge.lists.append(Listed(self.asked, serving, tuple(map(world.where, pods)), machine.now))
        self.calls.travel()
        return found


class _Scraping(Scraping):
    """The scrape, with the clusters of the simulation."""

    system: System
    calls: Calls

    def _sources(self, sync: TokensSync) -> Iterable[Callable[[object], tuple[Instance, ...]]]:
        world = self.system.worlds[sync.name]
        task = current()
        assert task is not None
        return [_Cluster(self.system, world, self.calls, task.locals[0]["asked"]).instances]


class _Listings(StoredListings):
    """Lists in the table; the judges are told which are there."""

    system: System

    def listed(self, sync: str, instances: Sequence[Instance], seen: float) -> None:
        super().listed(sync, instances, seen)
        for each in self.system.worlds[sync].judge.lists:
            if each.asked == seen:
                each.stored = min(each.stored, self.system.machine.now)


class _Vault:
    """Secrets Manager."""

    def __init__(self, system: System) -> None:
        self._system = system

    def get_secret_value(self, *, SecretId: str, **_: object) -> dict[str, Any]:  # noqa: N803 - as boto3 has it
        world = self._system.worlds[SecretId]
        if self._system.sealed:
            self._system.trouble()
            raise client_error("InternalServiceError", "GetSecretValue")
        return {"SecretString": world.secret}


class _Calls(Calls):
    """Calls that remember when AWS could not be reached."""

    system: System

    def aws(self, name: str, function: Callable[..., Any], *args: Any, **arguments: Any) -> Any:
        begun = self.machine.now
        try:
            return super().aws(name, function, *args, **arguments)
        except (ClientError, BotoCoreError):
            if not self.process.dead:
                self.system.trouble(begun)
            raise


@dataclass
class System:
    """The table, the functions and their gateways."""

    machine: Machine
    faults: Faults
    skew: float
    worlds: dict[str, World] = field(default_factory=dict)
    table: ModelTable = field(default_factory=ModelTable)
    sealed: bool = False
    """Whether no secret can be read now."""
    failures: list[str] = field(default_factory=list)
    invocations: int = 0
    hiccups: list[tuple[float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._warm: dict[str, list[tuple[Process, Any]]] = {name: [] for name in TIMEOUTS}
        self._calls: dict[Process, _Calls] = {}

    def trouble(self, begun: float | None = None) -> None:
        """Remember that a part of AWS failed just now."""
        now = self.machine.now
        # The secrets keep a failure for a second.
        self.hiccups.append((now, now + 1.0) if begun is None else (begun, now))
        for world in self.worlds.values():
            world.judge.list_trouble.append(self.hiccups[-1])

    def apply(self, world: World) -> None:
        self.worlds[world.name] = world
        State(cast("Any", self.table), self.machine.time).put_sync(world.name, world.config())

    # -- invocations

    def invoke(self, name: str, event: dict[str, Any], done: Callable[[Any, Process], None]) -> Process:
        """Invoke a function. ``done`` is called with what it returns; never if it raises or is killed."""
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
            except Exception as error:  # noqa: BLE001 - Lambda reports any
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
        vault = Secrets(lambda: cast("Any", _Vault(self)), lambda: cast("Any", None), {}, clock)
        lists = _Listings(InstanceLists(Database(table), clock))
        lists.system = self
        return StoredSyncs(State(table, clock)), lists, vault

    def _canary(self, process: Process) -> Callable[[object], Any]:
        syncs, lists, vault = self._common(process)
        memories = StoredMemories(CanaryRecords(Database(self._table(process)), self.machine.time))
        canaries = Canaries(syncs, lists, memories, vault, CloudWatchMetrics())
        return lambda _event: canaries.run()

    def _probe(self, process: Process) -> Callable[[dict[str, Any]], Any]:
        syncs, lists, vault = self._common(process)
        return ProbeFunction(syncs, lists, vault, CloudWatchMetrics()).handle

    def _scrape(self, process: Process) -> Callable[[object], Any]:
        syncs, lists, vault = self._common(process)

        def clock() -> float:
            task = current()
            assert task is not None
            now = self.machine.time()
            task.locals[0] = {"asked": now}
            return now

        scraping = _Scraping(syncs, lists, vault, clock, CloudWatchMetrics())
        scraping.system, scraping.calls = self, self._calls[process]
        return lambda _event: scraping.scrape()

    def end(self) -> None:
        """End every process, so that none of its loops is left to the next simulation."""
        for process in self._calls:
            process.on_death = lambda: None
            process.kill()
        with suppress(EndlessError):
            self.machine.run(self.machine.now + 1)

    # -- the seam

    @contextmanager
    def wired(self) -> Iterator[None]:
        """Let the product's clients and loops be those of the simulation."""

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
            stack.enter_context(patch.object(loop, "asyncio", _Events(self.machine, self.failures)))
            yield

    def _pod_at(self, address: tuple[str, int]) -> tuple[Gateway, Pod] | None:
        for world in self.worlds.values():
            for pod in world.gateway.pods.values():
                if pod.where == address:
                    return world.gateway, pod
        return None


class _Events:
    """:mod:`asyncio` with the loop of the simulation."""

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
    """Return the event of a function URL for a probe."""
    path = "/v1/synced" + (f"/{sync}" if sync else "")
    return {
        "rawPath": path,
        "headers": {"X-Auth-Token": token, "X-Nginx-Origin": origin},
        "requestContext": {"http": {"method": "GET"}},
    }


def spread(rng: random.Random, table: Mapping[str, int]) -> str:
    """Choose by weights."""
    return rng.choices(list(table), list(table.values()))[0]
