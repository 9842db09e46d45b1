"""The servers of the sample: two registries, and Quay's API in front of the first.

The registries are Debian's docker-registry with passwords, if it is installed. Otherwise they are two instances of the
AWS emulator that serve only ECR, without passwords.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import boto3
import requests

from demo import background
from demo.settings import ROOT, SERVERS, USER, Settings, folder
from syncline.cli.deploy import client_arguments
from syncline.clients.http.addresses import Endpoint
from syncline.clients.http.client import Http
from syncline.clients.registry.auth import RegistryCredentials
from syncline.clients.registry.client import Registry
from tests.standins import registry as docker_registry
from tests.standins.programs import ProgramAbsentError, program

REGISTRIES: Final = ("prod", "dr")

_SESSION: Final = requests.Session()
_SESSION.trust_env = False  # no proxy for loopback addresses
_ENGINE_PYTHON: Final = ROOT / ".venv-engine" / "bin" / "python"


def start(settings: Settings) -> tuple[Settings, bool]:
    """Start the servers unless they run; return the settings with their ports, and True if they were started."""
    real = _has_docker_registry()
    if real == settings.real and are_running():
        return settings, False
    stop()
    settings = replace(settings.with_free_ports(), real=real)
    settings.save()
    start_registry = _start_docker_registry if real else _start_engine_registry
    for name in REGISTRIES:
        start_registry(name, settings)
    _start_quay(settings)
    return settings, True


def are_running() -> bool:
    """Return True if all servers run."""
    return all(background.running(_folder_of(name)) for name in SERVERS)


def stop() -> list[str]:
    """Stop the servers; return the names of those that ran."""
    return [name for name in reversed(SERVERS) if background.stop(_folder_of(name))]


def registry(name: str, settings: Settings) -> Registry:
    """Return a client of one of the registries."""
    credentials = RegistryCredentials(USER, settings.password)
    return Registry(Endpoint("http", settings.host(name)), lambda: credentials, Http())


def create_repositories(names: Iterable[str], settings: Settings) -> None:
    """Create repositories at both registries where they are ECR; docker-registry creates them on the first push."""
    if settings.real:
        return
    for server in REGISTRIES:
        arguments: dict[str, Any] = client_arguments(settings.url(server))
        ecr = boto3.client("ecr", **arguments)
        for name in set(names) - set(registry(server, settings).catalog()):
            ecr.create_repository(repositoryName=name)


def control_quay(settings: Settings, command: str, body: bytes = b"") -> None:
    """Send a command to the stand-in for Quay.

    ``refresh`` has no body, ``webhook`` has an address (none removes the webhook), ``events`` has a notification.
    """
    response = _SESSION.post(f"{settings.url('quay')}/-/{command}", body, timeout=60)
    if not response.ok:
        raise RuntimeError(f"the stand-in for Quay answered {command} with {response.status_code}")


def _has_docker_registry() -> bool:
    try:
        program("docker-registry")
    except ProgramAbsentError:
        return False
    return True


def _folder_of(name: str) -> Path:
    return folder() / name


def _start_docker_registry(name: str, settings: Settings) -> None:
    server = docker_registry.Registry(
        auth=docker_registry.Htpasswd({USER: settings.password}),
        notify=f"{settings.url('quay')}/-/events" if name == "prod" else None,
        folder=_folder_of(name),
        port=settings.ports[name],
    )
    try:
        server.start()
        assert server.pid is not None
        background.remember(_folder_of(name), server.pid)
    except BaseException:
        server.halt()
        raise


def _start_engine_registry(name: str, settings: Settings) -> None:
    folder_ = _folder_of(name)
    state = folder_ / "state"
    state.mkdir(parents=True, exist_ok=True)
    environment = {
        **_plain_environment(),
        "BIND_HOST": "127.0.0.1",
        "GATEWAY_PORT": str(settings.ports[name]),
        "SERVICES": "ecr",
        "PERSIST_STATE": "1",
        "STATE_DIR": str(state),
        "TMPDIR": str(state),
        "IOT_MTLS_ENABLED": "0",
        "SFTP_ENABLED": "0",
        # No Docker engine: the emulator would remove its containers.
        "DOCKER_HOST": f"unix://{state}/no-docker.sock",
    }
    command = [str(_ENGINE_PYTHON), "-m", "ministack"]
    background.start(folder_, command, environment, lambda: _responds(f"{settings.url(name)}/v2/"))


def _start_quay(settings: Settings) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "demo.quay_api"]
    background.start(_folder_of("quay"), command, environment, lambda: _responds(f"{settings.url('quay')}/-/counts"))


def _plain_environment() -> dict[str, str]:
    return {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}


def _responds(url: str) -> bool:
    try:
        return _SESSION.get(url, timeout=5).ok
    except requests.RequestException:
        return False
