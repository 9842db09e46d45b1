"""The settings of the sample: its folder, ports and passwords, in a file that only its owner may read."""

from __future__ import annotations

import base64
import json
import os
import secrets
import socket
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Final, Self

from tests.standins.registry import free_port

ROOT: Final = Path(__file__).resolve().parents[1]
USER: Final = "sample"
SYNC: Final = "prod-to-dr"
SERVERS: Final = ("prod", "dr", "quay")

_PORTS: Final = {"prod": 5701, "dr": 5702, "quay": 5780}


@dataclass(frozen=True, slots=True)
class Settings:
    """Ports by server, and passwords. ``real`` is True if the registries are docker-registry, not the emulator."""

    ports: dict[str, int]
    real: bool = True
    password: str = field(default_factory=lambda: secrets.token_urlsafe(18), repr=False)
    api_token: str = field(default_factory=lambda: secrets.token_urlsafe(18), repr=False)
    hook: str = field(default_factory=lambda: secrets.token_urlsafe(18), repr=False)

    @classmethod
    def load(cls) -> Self:
        """Return the saved settings, or new ones."""
        try:
            return cls(**json.loads(_file().read_text()))
        except FileNotFoundError:
            return cls(dict(_PORTS))

    def save(self) -> None:
        """Save the settings, and the password and credentials files for other programs."""
        home().mkdir(mode=0o700, parents=True, exist_ok=True)
        folder().mkdir(exist_ok=True)
        _write_secret(_file(), json.dumps(asdict(self), indent=2) + "\n")
        _write_secret(folder() / "password", self.password + "\n")
        pair = base64.b64encode(f"{USER}:{self.password}".encode()).decode()
        hosts = {self.host(name): {"auth": pair} for name in ("prod", "dr")}
        _write_secret(credentials_file(), json.dumps({"auths": hosts}, indent=2) + "\n")

    def with_free_ports(self) -> Settings:
        """Return the settings with another free port for each port that is taken."""
        return replace(self, ports={name: port if is_free(port) else free_port() for name, port in self.ports.items()})

    def host(self, server: str) -> str:
        return f"127.0.0.1:{self.ports[server]}"

    def url(self, server: str) -> str:
        return f"http://{self.host(server)}"


def home() -> Path:
    """Return the engine's home: ``.syncline``, or ``SYNCLINE_HOME``."""
    given = os.environ.get("SYNCLINE_HOME")
    return Path(given).absolute() if given else ROOT / ".syncline"


def folder() -> Path:
    """Return the folder of the sample."""
    return home() / "sample"


def credentials_file() -> Path:
    """Return the file with the credentials for both registries, in the format of docker, podman and skopeo."""
    return folder() / "config.json"


def is_free(port: int) -> bool:
    """Return True if a port of 127.0.0.1 is free."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _write_secret(path: Path, text: str) -> None:
    """Write a file that only its owner may read."""
    path.touch(mode=0o600)
    path.write_text(text)


def _file() -> Path:
    return folder() / "settings.json"
