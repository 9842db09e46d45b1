"""S3 servers of several makers on this machine. Each is optional, except the stand-in and moto."""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from moto.server import ThreadedMotoServer

from tests.standins.rclone import ACCESS, SECRET, Rclone
from tests.standins.s3 import S3Server

_STARTS: Final = 240
"""Quarters of a second that a server may take to start."""


class AbsentError(RuntimeError):
    """The program of a server is not on this machine; the text says how to get it."""


@dataclass(frozen=True, slots=True)
class Running:
    """A server that runs at ``url``, with its version."""

    url: str
    version: str


@dataclass(frozen=True, slots=True)
class Service:
    """A server that can be started with a folder for its data."""

    name: str
    start: Callable[[Path], Iterator[Running]]


def _program(name: str, how: str) -> str:
    path = shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", ""), str(Path.home() / "go/bin"))))
    if path is None:
        raise AbsentError(f"not here; {how}")
    return path


def _version(*command: str) -> str:
    """Return the first word of a program's output that looks like a version, "" if there is none."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    words = (done.stdout + done.stderr).replace(":", " ").replace(",", " ").split()
    return next((word for word in words if any(c.isdigit() for c in word) and ("." in word or "-" in word)), "")


def _module_version(program: str) -> str:
    """Return the version of the module that a Go program was built from, "" if Go is absent."""
    go = shutil.which("go")
    done = subprocess.run([go or "true", "version", "-m", program], capture_output=True, text=True, check=False)
    lines = (line.split() for line in done.stdout.splitlines())
    return next((words[2] for words in lines if words[:1] == ["mod"] and len(words) > 2), "")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextmanager
def _process(command: Sequence[str], folder: Path, port: int, **environment: str) -> Iterator[str]:
    """Run a server until the block ends, and yield its URL once it listens."""
    log = folder / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, cwd=folder, env={**os.environ, **environment}
        )
        try:
            for _ in range(_STARTS):
                if process.poll() is not None:
                    break
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                except OSError:
                    time.sleep(0.25)
                else:
                    yield f"http://127.0.0.1:{port}"
                    return
            raise AbsentError(f"it does not start: {log.read_text()[-300:]!r}")
        finally:
            process.terminate()
            process.wait(timeout=30)


def _stand_in(_folder: Path) -> Iterator[Running]:
    with S3Server() as server:
        yield Running(server.url, "")


def _rclone(folder: Path) -> Iterator[Running]:
    with Rclone(folder / "root") as server:
        yield Running(server.url, _version(str(Path(sys.executable).parent / "rclone"), "version"))


def _moto(_folder: Path) -> Iterator[Running]:
    from moto import __version__  # noqa: PLC0415 - its attribute is not exported by the stubs

    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)  # it logs every request
    server = ThreadedMotoServer(port=_free_port(), verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield Running(f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}", __version__)
    finally:
        server.stop()


def _ministack(folder: Path) -> Iterator[Running]:
    python = Path(__file__).parents[2] / ".venv-engine/bin/python"
    if not python.exists():
        raise AbsentError("not here; `make environments` installs it")
    port = _free_port()
    version = _version(str(python), "-c", "import importlib.metadata as m; print(m.version('ministack'))")
    with _process([str(python), "-m", "ministack"], folder, port, GATEWAY_PORT=str(port), SERVICES="s3") as url:
        yield Running(url, version)


def _minio(folder: Path) -> Iterator[Running]:
    program, port = _program("minio", "`go install github.com/minio/minio@latest`"), _free_port()
    command = [program, "server", str(folder / "data"), "--address", f"127.0.0.1:{port}", "--quiet"]
    keys = {"MINIO_ROOT_USER": ACCESS, "MINIO_ROOT_PASSWORD": SECRET}
    with _process(command, folder, port, **keys, MINIO_DOMAIN="localhost", MINIO_CI_CD="on") as url:
        yield Running(url, _module_version(program))


def _seaweedfs(folder: Path) -> Iterator[Running]:
    program, port = (
        _program(
            "weed", "`make install` in a clone of github.com/seaweedfs/seaweedfs (its go.mod forbids `go install`)"
        ),
        _free_port(),
    )
    keys = [{"accessKey": ACCESS, "secretKey": SECRET}]
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    config = folder / "s3.json"
    config.write_text(json.dumps({"identities": [{"name": "tests", "credentials": keys, "actions": actions}]}))
    data = folder / "data"
    data.mkdir()
    command = [program, "server", f"-dir={data}", "-ip=127.0.0.1", "-s3", f"-s3.port={port}", f"-s3.config={config}"]
    others = ("master.port", "volume.port", "filer.port")
    command += [f"-{name}={_free_port()}" for name in others] + ["-s3.domainName=localhost", "-volume.max=20"]
    with _process(command, folder, port) as url:
        yield Running(url, _module_version(program))


def _versitygw(folder: Path) -> Iterator[Running]:
    how = "`go install github.com/versity/versitygw/cmd/versitygw@latest`"
    program, port = _program("versitygw", how), _free_port()
    data = folder / "data"
    data.mkdir()
    options = ["--access", ACCESS, "--secret", SECRET, "--port", f"127.0.0.1:{port}", "--virtual-domain", "localhost"]
    with _process([program, *options, "posix", str(data)], folder, port) as url:
        yield Running(url, _module_version(program))


SERVICES: Final = (
    Service("the tests' stand-in", _stand_in),
    Service("rclone", _rclone),
    Service("moto", _moto),
    Service("ministack", _ministack),
    Service("MinIO", _minio),
    Service("SeaweedFS", _seaweedfs),
    Service("versitygw", _versitygw),
)
