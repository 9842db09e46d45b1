"""The container's process, started as its image starts it; the Kubernetes stand-in lists a gateway's instances."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Self

import yaml

from syncline.clients.replicas.instances import Instance
from tests.standins.kubernetes import KubernetesApi, endpoint, endpoint_slice
from tests.standins.nginx import HOST, Gateway

LAYER: Final = Path(__file__).parents[2] / "layers" / "syncline"
TOKEN: Final = "token-of-the-cluster"
GRANTS: Final = {TOKEN: frozenset({("endpointslices", "gateway"), ("pods", "gateway")})}
CANARY: Final = {
    "write": {"method": "PUT", "path": "/keys/{key}", "body": "{value}"},
    "read": {"method": "GET", "path": "/keys/{key}"},
    "delete": {"method": "DELETE", "path": "/keys/{key}"},
}


def slices_of(instances: Sequence[Instance], port: int, service: str = "nginx") -> dict[str, Any]:
    """Return an EndpointSlice of a gateway's instances."""
    endpoints = [endpoint(each.name, each.address, ready=each.ready) for each in instances]
    return endpoint_slice(f"{service}-abcde", service, endpoints, (("https", port),))


def sync_of(gateway: Gateway, api: KubernetesApi, **more: Any) -> dict[str, Any]:
    """Return a sync that lists a gateway through the stand-in; ``more`` adds or replaces keys."""
    source = {
        "namespace": "gateway",
        "service": "nginx",
        "port": "https",
        "api": api.url,
        "ca": api.authority.pem,
        "auth": {"token": "env:CLUSTER_TOKEN"},
    }
    check = {"host": HOST, "ca": gateway.authority.pem}
    # A generous deadline, because the machine may be busy and no test here concerns the deadline.
    sync = {"kind": "tokens", "sources": {"prod": source}, "check": check, "sync_interval": gateway.interval}
    return {**sync, "deadline": 30, **more}


@dataclass(frozen=True, slots=True)
class ContainerResponse:
    """A response of the container."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Container:
    """Runs ``python -m syncline.kinds.tokens.container`` on a free port, with syncs in the form of ``syncs.yaml``."""

    def __init__(
        self, syncs: Mapping[str, Any], *, canary_every: float = 0, scrape_every: float = 1, token: str = TOKEN
    ) -> None:
        self._syncs = syncs
        self._token = token
        self._settings = {"CONTAINER_HOST": "127.0.0.1", "CONTAINER_PORT": "0"}
        self._settings |= {"CONTAINER_CANARY_EVERY": str(canary_every), "CONTAINER_SCRAPE_EVERY": str(scrape_every)}
        self._stack = contextlib.ExitStack()
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0
        self.log = Path()

    def __enter__(self) -> Self:
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="container-")))
        (folder / "syncs.yaml").write_text(yaml.safe_dump({"syncs": dict(self._syncs)}))
        self.log = folder / "log"
        command, environ = self._command(folder / "syncs.yaml", self._settings)
        out = self._stack.enter_context(self.log.open("wb"))
        self._process = subprocess.Popen(command, env=environ, stdout=out, stderr=out, stdin=subprocess.DEVNULL)
        with contextlib.ExitStack() as failing:
            failing.callback(self.__exit__)
            self.port = self._wait_for_port()
            failing.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._stack.close()

    def _command(self, syncs: Path, settings: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
        """Return the command of the process, and its environment."""
        environ = {**os.environ, **settings, "PYTHONPATH": str(LAYER), "CONTAINER_SYNCS": str(syncs)}
        environ |= {"CLUSTER_TOKEN": self._token, "POWERTOOLS_SERVICE_NAME": "tokens"}
        return [sys.executable, "-m", "syncline.kinds.tokens.container"], environ

    def stop(self) -> int:
        """Stop the process as Kubernetes does; return its exit code."""
        process, self._process = self._process, None
        if process is None:
            return 0
        process.send_signal(signal.SIGTERM)
        try:
            return process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Return the log so far."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    @property
    def process_id(self) -> int:
        assert self._process is not None
        return self._process.pid

    def get(self, path: str, headers: Mapping[str, str] | None = None, *, method: str = "GET") -> ContainerResponse:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection):
            connection.request(method, path, headers=dict(headers or {}))
            answer = connection.getresponse()
            return ContainerResponse(answer.status, dict(answer.getheaders()), answer.read())

    def synced(self, token: str, origin: str, path: str = "/v1/synced") -> ContainerResponse:
        return self.get(path, {"X-Auth-Token": token, "X-Nginx-Origin": origin})

    def figure(self, name: str) -> float:
        """Return the value of a metric with its labels in ``/metrics``, 0 if it is absent."""
        lines = self.get("/metrics").body.decode().splitlines()
        return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name} ")), 0.0)

    def wait_until_ready(self) -> None:
        """Wait until each of its syncs is ready."""
        for name in self._syncs:
            wait_for(partial(self._is_ready, name))

    def _is_ready(self, sync: str) -> bool:
        return self.get(f"/ready/{sync}").status == 200

    def _wait_for_port(self, limit: float = 60.0) -> int:
        end = time.monotonic() + limit
        while time.monotonic() < end:
            assert self._process is not None
            for line in self.lines:
                if line["message"] == "serving":
                    return int(line["port"])
            assert self._process.poll() is None, self.log.read_text()
            time.sleep(0.02)
        raise AssertionError(self.log.read_text())


def wait_for(holds: Callable[[], bool], limit: float = 60.0) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + limit
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


@contextlib.contextmanager
def cluster_of(gateway: Gateway, token: str = TOKEN) -> Iterator[KubernetesApi]:
    """Yield the Kubernetes stand-in that lists a gateway."""
    with KubernetesApi({token: GRANTS[TOKEN]}) as api:
        api.put("endpointslices", "gateway", slices_of(gateway.listed, gateway.port))
        yield api
