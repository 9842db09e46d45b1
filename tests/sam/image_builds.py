"""Builds of the images in ``deploy`` by `docker build`, without a registry of images."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

from tests.sam.docker_engine import Engine
from tests.sam.lambda_image import IMAGE, ensure_image, pull
from tests.sam.world import TOP
from tests.standins.debian import proxies
from tests.standins.programs import needing, program

SECONDS: Final = 600


def base_image(engine: Engine, dockerfile: Path) -> str:
    """Return the base image: the default of the Dockerfile, or the replacement of the Lambda image."""
    (default,) = re.findall(r"^ARG PYTHON=(\S+)$", dockerfile.read_text(), re.MULTILINE)
    if pull(engine, default):
        return str(default)
    with needing("debootstrap"):
        ensure_image(engine)
    return IMAGE


class _SilentHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the base class's
        """Log nothing."""


@contextmanager
def package_index(folder: Path, *lists: str) -> Iterator[str]:
    """Serve an index (PEP 503) on loopback with the packages of lists of requirements, for builds without a network."""
    files, served = folder / "files", folder / "served"
    files.mkdir()
    served.mkdir()
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes", "--only-binary=:all:"]
    for name in lists:  # two lists may pin different versions of a package
        requirements = str(TOP / "requirements" / f"{name}.txt")
        subprocess.run([*pip, "--dest", str(files), "--requirement", requirements], check=True, timeout=SECONDS)
    for wheel in files.iterdir():
        project = served / re.sub(r"[-_.]+", "-", wheel.name.partition("-")[0]).lower()
        project.mkdir(exist_ok=True)
        shutil.move(wheel, project)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_SilentHandler, directory=str(served))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@contextmanager
def built_image(engine: Engine, dockerfile: Path, base: str, index: str) -> Iterator[str]:
    """Build an image; remove it after the block."""
    name = f"syncline.test/{dockerfile.parent.name}:{uuid.uuid4().hex[:12]}"
    command = [program("docker"), "build", "--file", str(dockerfile), "--tag", name, "--network", "host"]
    arguments = {"PYTHON": base, "PIP_INDEX_URL": index, **proxies(), "no_proxy": "127.0.0.1"}
    for argument, value in arguments.items():
        command += ["--build-arg", f"{argument}={value}"]
    done = subprocess.run(
        [*command, str(TOP)], env=engine.environment, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    try:
        yield name
    finally:
        engine.client.images.remove(name, force=True)
