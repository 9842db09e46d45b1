"""The Lambda image in which `sam local invoke` runs functions: the real one, or a local replacement.

If the engine reaches no registry, the replacement is made of Debian's Python of the same minor version, the AWS SDK and
the runtime interface client. It is cached as a file, so that another engine imports it in seconds. SAM CLI adds its
emulator of the Lambda service to either image.
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
_REGISTRY_SECONDS: Final = 10
_MAKE_SECONDS: Final = 900
_UNUSED_FOLDERS: Final = ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/locale", "usr/share/man")
_BOOTSTRAP: Final = f"""#!/bin/sh
# The order is Lambda's: the function, its layers, the packages of the runtime.
export PYTHONPATH=/var/task:/opt/python/lib/{RUNTIME}/site-packages:/opt/python:/var/runtime
exec /usr/bin/{RUNTIME} -m awslambdaric "$_HANDLER"
"""
_ENVIRONMENT: Final = "ENV LAMBDA_TASK_ROOT=/var/task LAMBDA_RUNTIME_DIR=/var/runtime LANG=C.UTF-8 TZ=:UTC"


def ensure_image(engine: Engine) -> str:
    """Ensure that the engine has the image; return a word for its origin.

    Raises ProgramAbsentError if it must be made and debootstrap is not installed, RuntimeError if it cannot be made.
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
    """Pull an image; return False if the engine does not reach its registry within a few seconds."""
    with closing(connect(engine.address, _REGISTRY_SECONDS)) as client:
        try:
            client.images.get_registry_data(image)
        except (APIError, OSError):
            return False
    engine.client.images.pull(image)
    return True


def _recipe() -> str:
    """Return a short hash of everything that a made image depends on."""
    return hashlib.sha256(Path(__file__).read_bytes() + _PACKAGES.read_bytes()).hexdigest()[:12]


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "syncline" / "lambda-image"


def _make(archive: Path) -> None:
    """Make the file system of the image and cache it as ``archive``; remove archives of other recipes."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="making-", dir=archive.parent) as folder:
        root = Path(folder) / "root"
        _debian(root)
        _runtime(root)
        whole = Path(folder) / "whole.tar.gz"
        # Fast compression: the archive is read about as often as it is written.
        command = ["tar", "--directory", str(root), "--numeric-owner", "--exclude=./dev/*", "--create", "."]
        with whole.open("wb") as file:
            _run([*command, "--use-compress-program", "gzip -1"], output=file.fileno())
        for old in archive.parent.glob(f"{RUNTIME}-{ARCHITECTURE}-*.tar.gz"):
            old.unlink()
        whole.rename(archive)


def _debian(root: Path) -> None:
    """Install a small Debian with Python from apt's mirror. The container's image needs the venv module."""
    if RUNTIME not in _RELEASES:
        raise RuntimeError(f"no Debian release has {RUNTIME}; a Lambda image can be made for {', '.join(_RELEASES)}")
    if os.geteuid() != 0:
        raise RuntimeError(f"the engine cannot pull {IMAGE}, and only root can make an image like it")
    command = [program("debootstrap"), "--variant=minbase", "--include=ca-certificates,python3,python3-venv"]
    # In a separate mount namespace: the mounts of debootstrap end with it in any case.
    command = ["unshare", "--mount", "--fork", "--kill-child", *command, _RELEASES[RUNTIME], str(root), mirror()]
    _run(command, {**os.environ, **proxies()})
    for each in _UNUSED_FOLDERS:
        shutil.rmtree(root / each, ignore_errors=True)


def _runtime(root: Path) -> None:
    """Install Lambda's additions: the SDK, the runtime interface client, and the program that the service starts."""
    runtime = root / "var" / "runtime"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    _run([*pip, "--require-hashes", "--only-binary=:all:", "--target", str(runtime), "--requirement", str(_PACKAGES)])
    bootstrap = runtime / "bootstrap"
    bootstrap.write_text(_BOOTSTRAP)
    bootstrap.chmod(0o755)
    (root / "var" / "task").mkdir(exist_ok=True)


def _run(command: list[str], environment: dict[str, str] | None = None, output: int = subprocess.PIPE) -> str:
    """Return the output of a program. Raises RuntimeError with its last lines if it fails."""
    stderr = subprocess.STDOUT if output == subprocess.PIPE else subprocess.PIPE
    done = subprocess.run(
        command, env=environment, stdout=output, stderr=stderr, text=True, timeout=_MAKE_SECONDS, check=False
    )
    if done.returncode:
        last = "\n".join((done.stdout or done.stderr or "").splitlines()[-5:])
        raise RuntimeError(f"{' '.join(command[:6])} … ended with {done.returncode}:\n{last}")
    return done.stdout or ""
