"""The other tools: Debian's skopeo, rclone, Docker, and curl."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from bench.measure import NotMadeError
from tests.standins.programs import ProgramAbsentError, program
from tests.standins.rclone import ACCESS, SECRET

_SECONDS: Final = 900


def present(*names: str) -> bool:
    """Return True if all programs are installed."""
    try:
        for name in names:
            program(name)
    except ProgramAbsentError:
        return False
    return True


class Skopeo:
    """``skopeo sync`` from one plain registry to another, with its blob cache in a separate folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="skopeo-", dir=folder))

    def forget(self) -> None:
        """Clear its blob cache."""
        shutil.rmtree(self._folder / "containers", ignore_errors=True)

    def sync(self, source: str, repositories: Sequence[str], target: str) -> float:
        """Copy all tags of repositories of the host ``source`` to ``target``, a host and a path; return the seconds."""
        file = self._folder / "sync.yaml"
        images: dict[str, list[str]] = {name: [] for name in repositories}
        file.write_text(json.dumps({source: {"tls-verify": False, "images": images}}))  # JSON is YAML
        command = [program("skopeo"), "--insecure-policy", "sync", "--src", "yaml", "--dest", "docker"]
        command += ["--scoped=false", "--dest-tls-verify=false", str(file), target]
        # Root's cache would be that of the machine; a user's is below XDG_DATA_HOME.
        environ = os.environ | {"_CONTAINERS_ROOTLESS_UID": "1000", "XDG_DATA_HOME": str(self._folder)}
        return _timed(command, environ)

    def copy_archives(self, names: Mapping[str, str]) -> tuple[float, float]:
        """Copy archives of `docker save | gzip`, by their paths, each to a name at a plain registry.

        The seconds for unpacking them, which this skopeo (1.9) cannot do itself, and those for copying.
        """
        environ = os.environ | {"_CONTAINERS_ROOTLESS_UID": "1000", "XDG_DATA_HOME": str(self._folder)}
        copy = [program("skopeo"), "--insecure-policy", "copy", "--dest-tls-verify=false"]
        unpacking = copying = 0.0
        for path, name in names.items():
            plain = self._folder / "image.tar"
            script = 'gzip -dc "$PACKED" > "$PLAIN"'
            unpacking += _timed([program("bash"), "-c", script], environ | {"PACKED": path, "PLAIN": str(plain)})
            copying += _timed([*copy, f"docker-archive:{plain}", f"docker://{name}"], environ)
            plain.unlink()
        return unpacking, copying


class RcloneClient:
    """The command ``rclone``, with a remote for each S3 server of the tests: its name, and the server's address."""

    def __init__(self, folder: Path, **servers: str) -> None:
        config = Path(tempfile.mkdtemp(prefix="rclone-", dir=folder)) / "rclone.conf"
        keys = f"access_key_id = {ACCESS}\nsecret_access_key = {SECRET}\n"
        remotes = (f"[{name}]\ntype = s3\nprovider = Rclone\nendpoint = {url}\n{keys}" for name, url in servers.items())
        config.write_text("\n".join(remotes))
        self._command = [str(Path(sys.executable).parent / "rclone"), "--config", str(config)]

    def sync(self, source: str, target: str, *options: str) -> float:
        """Make the bucket ``target`` equal to ``source`` with 32 transfers and checks at a time; return the seconds."""
        return self._run("sync", source, target, "--transfers", "32", "--checkers", "32", *options)

    def list(self, bucket: str, *options: str) -> float:
        """List all keys of a bucket; return the seconds."""
        return self._run("lsf", "-R", bucket, *options)

    def check(self, source: str, target: str) -> None:
        """Compare the checksums of two buckets; raise NotMadeError if they differ."""
        self._run("check", "--checksum", source, target, "--checkers", "32")

    def _run(self, *arguments: str) -> float:
        return _timed([*self._command, *arguments], dict(os.environ))


class Docker:
    """The program ``docker`` with a separate engine."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = dict(environment)

    def run(self, *arguments: str) -> float:
        """Run one command; return the seconds."""
        return _timed([program("docker"), *arguments], self._environment)

    def forget(self) -> None:
        """Remove all images before the next load and push."""
        self.run("system", "prune", "--all", "--force")


def curl_layer(source: str, target: str, repository: str, digest: str) -> float:
    """Copy one layer between two plain registries by ``curl | curl``; return the seconds from first to last request."""
    script = """
set -eo pipefail
place=$(curl -sf -X POST -o /dev/null -w '%header{location}' "http://$TARGET/v2/$NAME/blobs/uploads/")
place=$(curl -sf "http://$SOURCE/v2/$NAME/blobs/$DIGEST" |
    curl -sf -T - -X PATCH -H 'Content-Type: application/octet-stream' -o /dev/null -w '%header{location}' "$place")
curl -sf -X PUT -o /dev/null "$place&digest=$DIGEST"
"""
    variables = {"SOURCE": source, "TARGET": target, "NAME": repository, "DIGEST": digest}
    return _timed([program("bash"), "-c", script], os.environ | variables)


def _timed(command: Sequence[str], environ: dict[str, str]) -> float:
    began = time.perf_counter()
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=_SECONDS)
    took = time.perf_counter() - began
    if done.returncode != 0:
        raise NotMadeError(f"{command[0]} failed: {done.stderr.strip()[-500:]}")
    return took
