"""The peers: skopeo, regsync, crane, rclone, Docker and curl."""

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

from bench.measure import MeasurementError
from tests.standins.programs import ProgramAbsentError, program
from tests.standins.rclone import ACCESS, SECRET

_TIMEOUT: Final = 900  # seconds


def present(*names: str) -> bool:
    """Return True if all programs are installed."""
    try:
        for name in names:
            program(name)
    except ProgramAbsentError:
        return False
    return True


class Skopeo:
    """The program ``skopeo``, with its blob cache in a separate folder. Registries are without TLS."""

    def __init__(self, folder: Path) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="skopeo-", dir=folder))

    def forget(self) -> None:
        """Clear the blob cache."""
        shutil.rmtree(self._folder / "containers", ignore_errors=True)

    def sync(self, source: str, repositories: Sequence[str], target: str) -> float:
        """Copy all tags of repositories from the host ``source`` to ``target``, a host and path; return the seconds."""
        file = self._folder / "sync.yaml"
        images: dict[str, list[str]] = {name: [] for name in repositories}
        file.write_text(json.dumps({source: {"tls-verify": False, "images": images}}))  # JSON is YAML
        command = [program("skopeo"), "--insecure-policy", "sync", "--src", "yaml", "--dest", "docker"]
        command += ["--scoped=false", "--dest-tls-verify=false", str(file), target]
        # As root, skopeo uses the cache of the machine; as another user, one below XDG_DATA_HOME.
        environ = os.environ | {"_CONTAINERS_ROOTLESS_UID": "1000", "XDG_DATA_HOME": str(self._folder)}
        return _timed(command, environ)

    def copy_archives(self, names: Mapping[str, str]) -> tuple[float, float]:
        """Copy archives of `docker save | gzip` to a registry; ``names`` maps the path of each to its name there.

        Returns the seconds for decompressing, which skopeo 1.9 cannot do itself, and the seconds for copying.
        """
        environ = os.environ | {"_CONTAINERS_ROOTLESS_UID": "1000", "XDG_DATA_HOME": str(self._folder)}
        copy = [program("skopeo"), "--insecure-policy", "copy", "--dest-tls-verify=false"]
        decompress = copy_seconds = 0.0
        for path, name in names.items():
            archive = self._folder / "image.tar"
            script = 'gzip -dc "$PACKED" > "$ARCHIVE"'
            decompress += _timed([program("bash"), "-c", script], environ | {"PACKED": path, "ARCHIVE": str(archive)})
            copy_seconds += _timed([*copy, f"docker-archive:{archive}", f"docker://{name}"], environ)
            archive.unlink()
        return decompress, copy_seconds


class Regsync:
    """The program ``regsync`` (regclient), which copies all tags of repositories. Registries are without TLS.

    Four images are copied at a time, as its documentation advises; its default is one, which is slower.
    """

    def __init__(self, folder: Path, repositories: Sequence[str]) -> None:
        self._file = Path(tempfile.mkdtemp(prefix="regsync-", dir=folder)) / "regsync.yml"
        self._repositories = repositories

    def sync(self, source: str, target: str) -> float:
        """Copy from the host ``source`` to the host ``target``; return the seconds."""
        entries = [
            {"source": f"{source}/{name}", "target": f"{target}/{name}", "type": "repository"}
            for name in self._repositories
        ]
        credentials = [{"registry": host, "tls": "disabled"} for host in (source, target)]
        config = {"version": 1, "creds": credentials, "defaults": {"parallel": 4}, "sync": entries}
        self._file.write_text(json.dumps(config))  # JSON is YAML
        return _timed([program("regsync"), "once", "-c", str(self._file)], dict(os.environ))


class Crane:
    """The program ``crane`` (go-containerregistry), once for each repository, as many at a time as there are cores."""

    def __init__(self, repositories: Sequence[str]) -> None:
        self._repositories = repositories

    def copy(self, source: str, target: str) -> float:
        """Copy all tags from the host ``source`` to the host ``target``; return the seconds."""
        script = 'printf "%s\\n" $NAMES | xargs -P "$(nproc)" -I {} "$CRANE" copy -a --insecure "$FROM/{}" "$TO/{}"'
        names = {"NAMES": " ".join(self._repositories), "FROM": source, "TO": target, "CRANE": program("crane")}
        return _timed([program("bash"), "-c", script], os.environ | names)


class RcloneClient:
    """The program ``rclone``, with a remote for each S3 server; ``servers`` maps names of remotes to URLs."""

    def __init__(self, folder: Path, **servers: str) -> None:
        config = Path(tempfile.mkdtemp(prefix="rclone-", dir=folder)) / "rclone.conf"
        keys = f"access_key_id = {ACCESS}\nsecret_access_key = {SECRET}\n"
        remotes = (f"[{name}]\ntype = s3\nprovider = Rclone\nendpoint = {url}\n{keys}" for name, url in servers.items())
        config.write_text("\n".join(remotes))
        self._command = [str(Path(sys.executable).parent / "rclone"), "--config", str(config)]

    def sync(self, source: str, target: str, *options: str) -> float:
        """Make the bucket ``target`` equal to ``source``, 32 transfers and checks at a time; return the seconds."""
        return self._run("sync", source, target, "--transfers", "32", "--checkers", "32", *options)

    def list(self, bucket: str, *options: str) -> float:
        """List all keys of a bucket; return the seconds."""
        return self._run("lsf", "-R", bucket, *options)

    def check(self, source: str, target: str) -> None:
        """Compare the checksums of two buckets; raise MeasurementError if they differ."""
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
        """Remove all images."""
        self.run("system", "prune", "--all", "--force")


def curl_layer(source: str, target: str, repository: str, digest: str) -> float:
    """Copy one layer between two registries without TLS by ``curl | curl``; return the seconds of all requests."""
    script = """
set -eo pipefail
location=$(curl -sf -X POST -o /dev/null -w '%header{location}' "http://$TARGET/v2/$NAME/blobs/uploads/")
location=$(curl -sf "http://$SOURCE/v2/$NAME/blobs/$DIGEST" |
    curl -sf -T - -X PATCH -H 'Content-Type: application/octet-stream' -o /dev/null -w '%header{location}' "$location")
curl -sf -X PUT -o /dev/null "$location&digest=$DIGEST"
"""
    variables = {"SOURCE": source, "TARGET": target, "NAME": repository, "DIGEST": digest}
    return _timed([program("bash"), "-c", script], os.environ | variables)


def _timed(command: Sequence[str], environ: dict[str, str]) -> float:
    began = time.perf_counter()
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=_TIMEOUT)
    seconds = time.perf_counter() - began
    if done.returncode != 0:
        raise MeasurementError(f"{command[0]} failed: {done.stderr.strip()[-500:]}")
    return seconds
