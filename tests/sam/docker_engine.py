"""A Docker engine for `sam local invoke`: the running one or, for root, a private one during the tests.

A private engine keeps everything in a temporary folder and does not change the machine's packet filter. Containers
reach the host at the gateway of their bridge, and the host reaches them through Docker's proxy, so no rule is needed.
"""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path

import docker
from docker.errors import DockerException
from requests.exceptions import RequestException

from tests.standins.programs import program

_DEFAULT_SOCKET = "unix:///var/run/docker.sock"
_START_SECONDS = 60
_STOP_SECONDS = 30
_REQUEST_SECONDS = 300  # an import takes longer than the default of one minute


@dataclass(frozen=True, slots=True)
class Engine:
    """A running engine. ``address`` is its DOCKER_HOST, None for the machine's default engine."""

    client: docker.DockerClient
    address: str | None = None

    @property
    def environment(self) -> dict[str, str]:
        """The environment of programs that use this engine."""
        return dict(os.environ) if self.address is None else {**os.environ, "DOCKER_HOST": self.address}

    @property
    def host(self) -> str:
        """The address at which containers reach this machine; servers for them listen there.

        Raises RuntimeError if the engine's bridge is not on this machine.
        """
        bridge = self.client.networks.get("bridge").attrs["IPAM"]["Config"][0]
        # An engine reports the gateway that it chose only after a restart. It is the first address of the network.
        gateway = str(bridge.get("Gateway") or ip_network(bridge["Subnet"])[1])
        with socket.socket() as probe:
            try:
                probe.bind((gateway, 0))
            except OSError:
                raise RuntimeError(f"the engine's bridge ({gateway}) is not on this machine") from None
        return gateway


@contextmanager
def running_engine() -> Iterator[Engine]:
    """Yield the engine of DOCKER_HOST or of the default socket; otherwise start one and stop it afterwards.

    Raises ProgramAbsentError if none runs and dockerd is not installed, RuntimeError if it cannot be started.
    """
    client = _client_of(None)
    if client is not None:
        with closing(client):
            yield Engine(client)
        return
    dockerd = program("dockerd")
    if os.geteuid() != 0:
        raise RuntimeError("no Docker engine answers, and only root can start one: `sudo systemctl start docker`")
    with (
        tempfile.TemporaryDirectory(prefix="syncline-docker-") as folder,
        _private_engine(dockerd, Path(folder)) as engine,
    ):
        yield engine


def connect(address: str | None, seconds: int) -> docker.DockerClient:
    """Return a client of the engine at ``address`` (None: the default one) whose requests time out after ``seconds``."""
    return docker.DockerClient(address, timeout=seconds) if address else docker.from_env(timeout=seconds)


def _client_of(address: str | None) -> docker.DockerClient | None:
    """Return a client of the engine at ``address``, None if it does not answer."""
    if not _listens(address or os.environ.get("DOCKER_HOST") or _DEFAULT_SOCKET):
        return None
    try:
        client = connect(address, _REQUEST_SECONDS)
    except DockerException:
        return None
    try:
        client.ping()
    except (DockerException, RequestException):
        client.close()
        return None
    return client


def _listens(address: str) -> bool:
    """Return True if a process listens on a socket. Docker's client leaks a socket for each failed attempt."""
    if not address.startswith("unix://"):
        return True
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(address.removeprefix("unix://")) == 0


@contextmanager
def _private_engine(dockerd: str, folder: Path) -> Iterator[Engine]:
    address = f"unix://{folder}/docker.sock"
    log = folder / "dockerd.log"
    # In a separate mount namespace: a container on the host's network leaves a mount that blocks removing the folder.
    command = [
        "unshare",
        "--mount",
        dockerd,
        "--host",
        address,
        "--pidfile",
        f"{folder}/docker.pid",
        "--config-file",
        f"{folder}/none.json",
    ]
    command += ["--data-root", f"{folder}/data", "--exec-root", f"{folder}/exec"]
    command += ["--iptables=false", "--ip6tables=false", "--ip-masq=false", "--ip-forward=false"]
    (folder / "none.json").write_text("{}")
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
    try:
        with closing(_wait_for_client(process, address, log)) as client:
            yield Engine(client, address)
    finally:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for_client(process: subprocess.Popen[bytes], address: str, log: Path) -> docker.DockerClient:
    until = time.monotonic() + _START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        client = _client_of(address)
        if client is not None:
            return client
        time.sleep(0.1)
    last = "\n".join(log.read_text(errors="replace").splitlines()[-5:])
    raise RuntimeError(f"dockerd did not start; the end of its log:\n{last}")
