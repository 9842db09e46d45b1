"""A Docker engine for `sam local invoke`: the one that runs already or, for root, one of our own while it is needed.

An engine of our own keeps everything in a temporary folder and leaves the machine's packet filter alone. Containers
reach the host at their bridge's gateway and the host reaches them through Docker's own proxy, so no rule is needed.
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

_USUAL = "unix:///var/run/docker.sock"
_START_SECONDS = 60
_STOP_SECONDS = 30
_LONGEST_SECONDS = 300  # an import keeps an engine busy for longer than the usual minute


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine that answers. ``address`` is its DOCKER_HOST, None for the machine's usual one."""

    client: docker.DockerClient
    address: str | None = None

    @property
    def environment(self) -> dict[str, str]:
        """The environment for programs that are to use this engine."""
        return dict(os.environ) if self.address is None else {**os.environ, "DOCKER_HOST": self.address}

    @property
    def host(self) -> str:
        """The address at which containers reach this machine, and on which servers for them listen.

        Raises RuntimeError where the engine's bridge is not on this machine.
        """
        bridge = self.client.networks.get("bridge").attrs["IPAM"]["Config"][0]
        # Until its next start an engine does not name the gateway it chose: the network's first address.
        gateway = str(bridge.get("Gateway") or ip_network(bridge["Subnet"])[1])
        with socket.socket() as probe:
            try:
                probe.bind((gateway, 0))
            except OSError:
                raise RuntimeError(f"the engine's bridge ({gateway}) is not on this machine") from None
        return gateway


@contextmanager
def running_engine() -> Iterator[Engine]:
    """The engine that DOCKER_HOST or the usual socket leads to; otherwise one that is stopped afterwards.

    Raises ProgramAbsentError where none runs and dockerd is not installed, RuntimeError where it may not or does not start.
    """
    client = _answering(None)
    if client is not None:
        with closing(client):
            yield Engine(client)
        return
    dockerd = program("dockerd")
    if os.geteuid() != 0:
        raise RuntimeError("no Docker engine answers, and only root can start one: `sudo systemctl start docker`")
    with tempfile.TemporaryDirectory(prefix="syncline-docker-") as folder, _own(dockerd, Path(folder)) as engine:
        yield engine


def connect(address: str | None, seconds: int) -> docker.DockerClient:
    """A client of the engine at ``address``, the usual one for None, that waits at most ``seconds`` for an answer."""
    return docker.DockerClient(address, timeout=seconds) if address else docker.from_env(timeout=seconds)


def _answering(address: str | None) -> docker.DockerClient | None:
    """A client of the engine at ``address`` if it answers."""
    if not _listens(address or os.environ.get("DOCKER_HOST") or _USUAL):
        return None
    try:
        client = connect(address, _LONGEST_SECONDS)
    except DockerException:
        return None
    try:
        client.ping()
    except (DockerException, RequestException):
        client.close()
        return None
    return client


def _listens(address: str) -> bool:
    """Whether a socket has someone behind it. Docker's own client leaves one open for each try in vain."""
    if not address.startswith("unix://"):
        return True
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(address.removeprefix("unix://")) == 0


@contextmanager
def _own(dockerd: str, folder: Path) -> Iterator[Engine]:
    address = f"unix://{folder}/docker.sock"
    log = folder / "dockerd.log"
    # In mounts of its own: of a container on the host's network one would be left that the folder could not go with.
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
        with closing(_answer_of(process, address, log)) as client:
            yield Engine(client, address)
    finally:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answer_of(process: subprocess.Popen[bytes], address: str, log: Path) -> docker.DockerClient:
    until = time.monotonic() + _START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        client = _answering(address)
        if client is not None:
            return client
        time.sleep(0.1)
    last = "\n".join(log.read_text(errors="replace").splitlines()[-5:])
    raise RuntimeError(f"dockerd did not start; the last it said:\n{last}")
