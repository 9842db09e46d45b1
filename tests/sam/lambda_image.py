"""The Lambda image that `sam local invoke` runs functions in: the real one, or one made on the spot.

Where the engine reaches no registry, an image like it is made of Debian's Python of the same minor version, the AWS
SDK and the runtime interface client, and kept as a file, so that a second engine has it in seconds. SAM CLI lays its
own emulator of the Lambda service over either.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Final

from docker.errors import APIError, ImageNotFound

from tests.sam.docker_engine import Engine, connect
from tests.standins.debian import mirror, proxies
from tests.standins.programs import program

RUNTIME: Final = f"python{sys.version_info.major}.{sys.version_info.minor}"
ARCHITECTURE: Final = {"aarch64": "arm64"}.get(platform.machine(), platform.machine())
IMAGE: Final = f"public.ecr.aws/lambda/{RUNTIME.replace('python', 'python:')}-{ARCHITECTURE}"

_RELEASES: Final = {"python3.11": "bookworm", "python3.13": "trixie"}
_PACKAGES: Final = Path(__file__).with_name("image.txt")
_LABEL: Final = "syncline.recipe"
_LOOK_SECONDS: Final = 10
_MAKE_SECONDS: Final = 900
_NEEDLESS: Final = ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/locale", "usr/share/man")
_BOOTSTRAP: Final = f"""#!/bin/sh
# The order is Lambda's: the function before its layers, and those before what the runtime brings.
export PYTHONPATH=/var/task:/opt/python/lib/{RUNTIME}/site-packages:/opt/python:/var/runtime
exec /usr/bin/{RUNTIME} -m awslambdaric "$_HANDLER"
"""
_ENVIRONMENT: Final = "ENV LAMBDA_TASK_ROOT=/var/task LAMBDA_RUNTIME_DIR=/var/runtime LANG=C.UTF-8 TZ=:UTC"


def ensure_image(engine: Engine) -> str:
    """See to it that the engine has the image, and tell where it came from.

    Raises ProgramAbsentError where it has to be made and debootstrap is not installed, RuntimeError where it cannot be.
    """
    recipe = _recipe()
    try:
        made_by = engine.client.images.get(IMAGE).labels.get(_LABEL)
    except ImageNotFound:
        made_by = ""
    if made_by is None:
        return "pulled before"
    if made_by == recipe:
        return "made before"
    if pull(engine, IMAGE):
        return "pulled"
    archive = _cache() / f"{RUNTIME}-{ARCHITECTURE}-{recipe}.tar.gz"
    kept = archive.exists()
    if not kept:
        _make(archive)
    name, _, tag = IMAGE.partition(":")
    changes = [_ENVIRONMENT, f"LABEL {_LABEL}={recipe}", "WORKDIR /var/task"]
    engine.client.api.import_image_from_file(str(archive), repository=name, tag=tag, changes=changes)
    return "made before and kept" if kept else "made"


def pull(engine: Engine, image: str) -> bool:
    """Pull an image, if the engine reaches its registry within a few seconds."""
    with closing(connect(engine.address, _LOOK_SECONDS)) as client:
        try:
            client.images.get_registry_data(image)
        except (APIError, OSError):
            return False
    engine.client.images.pull(image)
    return True


def _recipe() -> str:
    """What a made image depends on, in short."""
    return hashlib.sha256(Path(__file__).read_bytes() + _PACKAGES.read_bytes()).hexdigest()[:12]


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "syncline" / "lambda-image"


def _make(archive: Path) -> None:
    """Make the image's file system and keep it as ``archive``; those of other recipes go."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="making-", dir=archive.parent) as folder:
        root = Path(folder) / "root"
        _debian(root)
        _runtime(root)
        whole = Path(folder) / "whole.tar.gz"
        # Compressed little: it is read about as often as it is written.
        command = ["tar", "--directory", str(root), "--numeric-owner", "--exclude=./dev/*", "--create", "."]
        with whole.open("wb") as file:
            _run([*command, "--use-compress-program", "gzip -1"], output=file.fileno())
        for old in archive.parent.glob(f"{RUNTIME}-{ARCHITECTURE}-*.tar.gz"):
            old.unlink()
        whole.rename(archive)


def _debian(root: Path) -> None:
    """A small Debian with Python, whose venv the container's image needs, from the mirror this machine's apt uses."""
    if RUNTIME not in _RELEASES:
        raise RuntimeError(f"no Debian release has {RUNTIME}; a Lambda image can be made for {', '.join(_RELEASES)}")
    if os.geteuid() != 0:
        raise RuntimeError(f"the engine cannot pull {IMAGE}, and only root can make an image like it")
    command = [program("debootstrap"), "--variant=minbase", "--include=ca-certificates,python3,python3-venv"]
    # In mounts of its own: what debootstrap mounts is gone with it, however it ends.
    command = ["unshare", "--mount", "--fork", "--kill-child", *command, _RELEASES[RUNTIME], str(root), mirror()]
    _run(command, {**os.environ, **proxies()})
    for each in _NEEDLESS:
        shutil.rmtree(root / each, ignore_errors=True)


def _runtime(root: Path) -> None:
    """What Lambda adds: its SDK and client of the runtime interface, and the program that the service starts."""
    runtime = root / "var" / "runtime"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    _run([*pip, "--require-hashes", "--only-binary=:all:", "--target", str(runtime), "--requirement", str(_PACKAGES)])
    bootstrap = runtime / "bootstrap"
    bootstrap.write_text(_BOOTSTRAP)
    bootstrap.chmod(0o755)
    (root / "var" / "task").mkdir(exist_ok=True)


def _run(command: list[str], environment: dict[str, str] | None = None, output: int = subprocess.PIPE) -> str:
    """What a program writes; RuntimeError with the last of it where it fails."""
    stderr = subprocess.STDOUT if output == subprocess.PIPE else subprocess.PIPE
    done = subprocess.run(
        command, env=environment, stdout=output, stderr=stderr, text=True, timeout=_MAKE_SECONDS, check=False
    )
    if done.returncode:
        last = "\n".join((done.stdout or done.stderr or "").splitlines()[-5:])
        raise RuntimeError(f"{' '.join(command[:6])} … ended with {done.returncode}:\n{last}")
    return done.stdout or ""
