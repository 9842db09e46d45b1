"""The systems that the syncs of the soak test connect, each a process that can be killed and started again.

``kill`` sends SIGKILL; ``start`` runs the process again on the same port with its previous content. Only an instance of
nginx is then empty, because it keeps its tokens in memory.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from tests.rig.container import slices_of
from tests.soak.serve import REQUESTS
from tests.standins.git_places import Bare, make_bare
from tests.standins.kubernetes import KubernetesApi
from tests.standins.nginx import Gateway
from tests.standins.registry import Htpasswd, Registry, free_port

TOP: Final = Path(__file__).parents[2]
USER: Final = "robot"
_START_LIMIT: Final = 60.0


class Victim(Protocol):
    """A process that the test kills."""

    @property
    def kind(self) -> str:
        """The name under which its kills are counted."""

    def kill(self) -> bool:
        """Kill it; False if there was nothing to kill."""

    def start(self) -> None:
        """Start it again."""


@dataclass
class StandIn:
    """A stand-in of :mod:`tests.soak.serve`. ``errors`` has the logs of its processes that failed."""

    kind: str
    folder: Path
    secret: str
    port: int = field(default_factory=free_port)
    errors: list[str] = field(default_factory=list)
    _process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def requests(self) -> int:
        """The number of requests so far."""
        file = self.folder / REQUESTS
        return file.stat().st_size if file.exists() else 0

    def start(self) -> None:
        """Start it; return when it accepts connections."""
        environment = {**os.environ, "SOAK_SECRET": self.secret}
        command = [sys.executable, "-m", "tests.soak.serve", self.kind, str(self.folder), str(self.port)]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=TOP,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        end = time.monotonic() + _START_LIMIT
        while True:
            with suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            if self._process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"the stand-in {self.kind} did not start; see {self.folder / 'log'}")
            time.sleep(0.05)

    def kill(self) -> bool:
        """Kill it and its child processes."""
        process, self._process = self._process, None
        if process is None:
            return False
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True

    def end(self) -> None:
        """Terminate it, and record its log in ``errors`` if it fails."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            code = process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            code = process.wait()
        if code:
            output = (self.folder / "log").read_text(errors="replace")
            self.errors.append(f"the stand-in {self.kind} ended with {code}: {output[-2000:]}")


@dataclass
class RegistryVictim:
    """A docker-registry."""

    registry: Registry
    kind: str = "registry"
    _counted: int = 0
    _dead: bool = False

    @property
    def requests(self) -> int:
        """The number of requests so far. Each process begins a new log."""
        return self._counted + (0 if self._dead else self.registry.requests_logged())

    def kill(self) -> bool:
        """Kill it."""
        if self.registry.pid is None:
            return False
        os.kill(self.registry.pid, signal.SIGKILL)
        self.registry.halt()
        self._counted += self.registry.requests_logged()
        self._dead = True
        return True

    def start(self) -> None:
        """Start it again."""
        self.registry.start()
        self._dead = False


@dataclass
class Instance:
    """An instance of nginx. ``lives`` increases with each end and each start, so it is odd while the instance runs."""

    gateway: Gateway
    number: int
    kind: str = "nginx"
    lives: int = 1

    def kill(self) -> bool:
        """Kill it."""
        if self.lives % 2 == 0:
            return False
        self.lives += 1
        self.gateway.instances[self.number].kill()
        return True

    def start(self) -> None:
        """Start it again, without any token."""
        self.gateway.instances[self.number].start()
        self.gateway.instances[self.number].wait(self.gateway.port)
        self.lives += 1


@dataclass
class Servers:
    """All servers of the test."""

    prod: RegistryVictim
    dr: RegistryVictim
    git: StandIn
    bare: Bare
    manager: StandIn
    s3: StandIn
    github: StandIn
    gateway: Gateway
    instances: list[Instance]
    cluster: KubernetesApi

    @property
    def standins(self) -> list[StandIn]:
        return [self.git, self.manager, self.s3, self.github]

    @property
    def victims(self) -> list[Victim]:
        return [self.prod, self.dr, *self.standins, *self.instances]

    def requests(self) -> dict[str, int]:
        """Return the number of requests that each server has received."""
        counts = {"prod": self.prod.requests, "dr": self.dr.requests}
        return counts | {each.kind: each.requests for each in self.standins}


@contextmanager
def running(folder: Path, secrets: dict[str, str], notify: str) -> Iterator[Servers]:
    """Run all servers below ``folder``. The source registry sends notifications of pushes to ``notify``."""
    with ExitStack() as stack:
        grants = {secrets["cluster"]: frozenset({("endpointslices", "gateway")})}
        gateway = stack.enter_context(Gateway(3, interval=0.2))
        cluster = stack.enter_context(KubernetesApi(grants))
        cluster.put("endpointslices", "gateway", slices_of(gateway.listed, gateway.port))
        registries = []
        for name, address in (("prod", notify), ("dr", None)):
            auth = Htpasswd({USER: secrets[name]})
            registry = Registry(auth=auth, notify=address, folder=folder / name, access_log=True)
            registries.append(RegistryVictim(stack.enter_context(registry)))
        standins = []
        for kind in ("git", "manager", "s3", "github"):
            (folder / kind).mkdir(parents=True)
            standins.append(StandIn(kind, folder / kind, secrets[kind]))
        bare = make_bare(folder / "git" / "clusters.git")
        for each in standins:
            stack.callback(each.end)
            each.start()
        instances = [Instance(gateway, number) for number in range(3)]
        prod, dr = registries
        git, manager, s3, github = standins
        yield Servers(prod, dr, git, bare, manager, s3, github, gateway, instances, cluster)
