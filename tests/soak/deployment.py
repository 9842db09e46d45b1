"""The stack of this project on a separate engine, with a sync of each kind."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import boto3
import yaml

from syncline.cli import local_engine as engine
from syncline.cli.deploy import client_arguments
from syncline.cli.local_engine import Engine
from tests.rig.container import CANARY
from tests.soak.serve import BUCKETS, REPOSITORY
from tests.soak.servers import TOP, USER, Servers
from tests.standins.nginx import HOST
from tests.standins.s3_wire import ACCESS

FUNCTION_SECONDS: Final = 40
"""Timeout of the functions behind queues. A killed function's message is redelivered about a minute later."""
SECRET: Final = "syncline/soak"
KINDS: Final = ("images", "files", "backups", "artifacts", "tokens")
REPOSITORIES: Final = ("soak/app", "soak/base", "soak/tools")
PROJECT: Final = "group/project"
PREFIX: Final = "/data/"
WORKFLOW: Final = "presto-build-images.yml"
_EVERY_MINUTE: Final = "rate(1 minute)"


def sync_name(kind: str) -> str:
    """Return the name of the sync of a kind."""
    return f"soak-{kind}"


class Deployment:
    """The engine in ``home``, its command, and its addresses."""

    def __init__(self, home: Path, folder: Path) -> None:
        self.home = home
        self.kind = "engine"
        self._file = folder / "syncs.yaml"
        self._project = _project(folder / "project")
        try:
            self._engine = engine.up(home, self._project, port=0, say=print)
        except BaseException:
            engine.down(home)
            raise
        self.outputs: Mapping[str, str] = self._engine.outputs

    @property
    def engine(self) -> Engine:
        return self._engine

    @property
    def pid(self) -> int | None:
        """The process ID of the engine, None if it does not run."""
        return int((self.home / "pid").read_text()) if engine.describe(self.home) else None

    def client(self, service: str) -> Any:
        """Return a boto3 client of the engine."""
        return boto3.client(service, **client_arguments(self._engine.endpoint))  # type: ignore[call-overload]

    def syncline(self, *arguments: str, limit: float = 600) -> tuple[int, Any]:
        """Run the command with ``--json``; return its exit code and its output."""
        command = [sys.executable, "-m", "syncline.cli.main", *arguments, "--home", str(self.home), "--json"]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        done = subprocess.run(
            command, cwd=self._project, capture_output=True, text=True, timeout=limit, env=environment, check=False
        )
        if not done.stdout:
            raise RuntimeError(f"syncline {' '.join(arguments)} ended with {done.returncode}: {done.stderr[-2000:]}")
        return done.returncode, json.loads(done.stdout)

    def apply(self, servers: Servers, secrets: Mapping[str, str]) -> None:
        """Store the secrets, and apply the syncs between the servers."""
        values = dict(secrets) | {"user": USER}
        self.client("secretsmanager").create_secret(Name=SECRET, SecretString=json.dumps(values))
        self._file.write_text(json.dumps({"syncs": _syncs(servers)}))  # JSON is YAML
        code, output = self.syncline("apply", str(self._file))
        if code:
            raise RuntimeError(f"the syncs are not applied: {output}")

    def kill(self) -> bool:
        """Kill the engine with SIGKILL; return False if it does not run."""
        pid = self.pid
        if pid is None:
            return False
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        while engine.describe(self.home):
            time.sleep(0.02)
        return True

    def start(self) -> None:
        """Start the engine again with `syncline up`."""
        code, output = self.syncline("up")
        if code:
            raise RuntimeError(f"the engine does not start again: {output}")

    def down(self) -> None:
        """Stop the engine; its home stays."""
        engine.down(self.home)

    def workers(self) -> dict[int, str]:
        """Return the names of the running functions by process ID."""
        found = {}
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if f"{self.home}/tmp/".encode() not in (process / "cmdline").read_bytes():
                    continue
                match = re.search(rb"AWS_LAMBDA_FUNCTION_NAME=([^\0]*)", (process / "environ").read_bytes())
                found[int(process.name)] = match[1].decode() if match else "unknown"
        return found

    def post(self, kind: str, body: bytes, headers: Mapping[str, str]) -> bool:
        """Send a webhook once; return False if it was not accepted."""
        address = f"{self.outputs['ReceiveUrl'].rstrip('/')}/hooks/{sync_name(kind)}"
        request = urllib.request.Request(address, body, {"Content-Type": "application/json", **headers})
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return bool(answer.status == 202)
        except OSError:
            return False


def _project(folder: Path) -> Path:
    """Copy this project, with short timeouts of functions and a canary round every minute."""
    for name in ("layers", "functions", "requirements"):
        shutil.copytree(TOP / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in (".venv-engine", ".build"):
        (TOP / name).mkdir(exist_ok=True)
        (folder / name).symlink_to(TOP / name)
    shutil.copy(TOP / "samconfig.toml", folder)
    template = (TOP / "template.yaml").read_text().replace("Default: rate(5 minutes)", f"Default: {_EVERY_MINUTE}")
    for name in ("Discover", "Transfer", "Commit", "Verify"):
        pattern = rf"(\n  {name}Function:\n.*?\n      Timeout: )\d+\n"
        template, count = re.subn(pattern, rf"\g<1>{FUNCTION_SECONDS}\n", template, count=1, flags=re.DOTALL)
        assert count == 1, name
    (folder / "template.yaml").write_text(template)
    return folder


def _reference(key: str) -> str:
    return f"secret:{SECRET}#{key}"


def _syncs(servers: Servers) -> dict[str, Any]:
    def registry(name: str, host: str) -> dict[str, Any]:
        auth = {"username": _reference("user"), "password": _reference(name)}
        return {"registry": host, "plain_http": True, "auth": auth}

    def bucket(name: str) -> dict[str, Any]:
        return {
            "bucket": name,
            "endpoint": servers.s3.url,
            "auth": {"access_key": ACCESS, "secret_key": _reference("s3")},
        }

    def hook(kind: str) -> dict[str, str]:
        return {"secret": _reference(f"hook_{kind}")}

    prod, dr = servers.prod.registry, servers.dr.registry
    scheduled = {"schedule": _EVERY_MINUTE}
    events = {"quiet": 1, "longest": 5}
    removals = {"share": 1.0, "count": 1_000_000}
    manager = {"file_manager": servers.manager.url, "token": _reference("manager"), "prefix": PREFIX}
    syncs: dict[str, dict[str, Any]] = {
        "images": {
            "source": registry("prod", prod.host) | {"repositories": list(REPOSITORIES)},
            "target": registry("dr", dr.host),
            "webhook": hook("images"),
            "overwrite": True,
            **scheduled,
        },
        "files": {
            "source": bucket(BUCKETS[0]),
            "target": manager,
            "webhook": hook("files"),
            "removals": removals,
            "events": events,
            **scheduled,
        },
        "backups": {
            "source": bucket(BUCKETS[1]),
            "target": {"repository": f"{servers.git.url}/clusters.git", "auth": {"token": _reference("git")}},
            "commit": {"author": {"name": "Backup Bot", "email": "backup@example.com"}},
            "removals": removals,
            "events": events,
            **scheduled,
        },
        "artifacts": _artifacts(servers) | {"target": registry("dr", dr.host) | {"project": PROJECT}, **scheduled},
        "tokens": _tokens(servers),
    }
    return {sync_name(kind): {"kind": kind, **sync} for kind, sync in syncs.items()}


def _artifacts(servers: Servers) -> dict[str, Any]:
    """Return the shipped example with the servers of the soak test."""
    example = yaml.safe_load((TOP / "examples" / "artifacts-presto.yaml").read_text())["syncs"]["presto-images"]
    example["source"] |= {"url": servers.github.url, "repository": REPOSITORY, "auth": {"token": _reference("github")}}
    example["source"]["limit"] = (
        100  # with a build every 25 s, a full scan covers 40 minutes and so finds builds whose event was lost
    )
    example["build"]["metadata"].pop("check")  # the tags here are shorter
    example["webhook"] = {"secret": _reference("hook_artifacts")}
    return dict(example)


def _tokens(servers: Servers) -> dict[str, Any]:
    cluster = servers.cluster
    listing = {"namespace": "gateway", "service": "nginx", "port": "https", "api": cluster.url}
    source = {**listing, "ca": cluster.authority.pem, "auth": {"token": _reference("cluster")}}
    return {
        "sources": {"prod": source},
        "check": {"host": HOST, "ca": servers.gateway.authority.pem},
        "sync_interval": servers.gateway.interval,
        "retry_for": 2,
        "deadline": 10,  # the machine may be busy
        "stale_after": 150,
        "canary": CANARY | {"headers": {"X-Api-Key": _reference("canary")}},
    }
