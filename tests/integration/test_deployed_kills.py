"""Processes of deployed functions are killed during a transfer."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import pytest

from syncline.cli import local_engine as engine
from tests.standins.oci import Fault, OciRegistry
from tests.standins.oci_store import digest_of
from tests.standins.programs import needs

TOP: Final = Path(__file__).parents[2]
FUNCTION_SECONDS: Final = 20
_SECONDS: Final = 180
"""The function's timeout, the minute until its messages are redelivered, and a reserve for a busy machine."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield the home of an engine with this project and a shorter timeout of the transfer function."""
    needs("make")
    project, home = tmp_path_factory.mktemp("project"), tmp_path_factory.mktemp("home")
    for name in ("layers", "functions", "requirements"):
        shutil.copytree(TOP / name, project / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in (".venv-engine", ".build"):
        (TOP / name).mkdir(exist_ok=True)
        (project / name).symlink_to(TOP / name)
    shutil.copy(TOP / "samconfig.toml", project)
    template = (TOP / "template.yaml").read_text()
    shortened, count = re.subn(
        r"(\n  TransferFunction:\n.*?\n      Timeout: )300\n", rf"\g<1>{FUNCTION_SECONDS}\n", template, flags=re.DOTALL
    )
    assert count == 1
    (project / "template.yaml").write_text(shortened)
    engine.up(home, project, port=0, say=print)
    yield home
    engine.down(home)


def syncline(home: Path, *arguments: str) -> Any:
    """Run the command; return its JSON output."""
    command = [sys.executable, "-m", "syncline.cli.main", *arguments, "--home", str(home), "--json"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


def kill_functions(home: Path, name: str) -> int:
    """Kill the processes of an engine that run a function; return their number."""
    killed = 0
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"{home}/tmp/".encode() not in (process / "cmdline").read_bytes():
                continue
            if re.search(rb"AWS_LAMBDA_FUNCTION_NAME=[^\0]*" + name.encode(), (process / "environ").read_bytes()):
                os.kill(int(process.name), signal.SIGKILL)
                killed += 1
    return killed


def wait(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _SECONDS
    while not what():
        assert time.monotonic() < deadline, "the condition did not become true in time"
        time.sleep(0.2)


def test_functions_killed_in_a_transfer(home: Path, tmp_path: Path) -> None:
    """Other functions complete one run soon after the timeout of the killed ones. The other run is cancelled at once."""
    with OciRegistry() as source, OciRegistry() as target:
        syncs = {}
        for name in ("waits", "cancelled"):
            source.store.add_image(f"{name}/app", "1", b"the layer of " + name.encode())
            sides = {"source": {"registry": source.host, "plain_http": True, "repositories": [f"{name}/app"]}}
            sides["target"] = {"registry": target.host, "plain_http": True}
            syncs[name] = {"kind": "images", **sides}
            blob = f"/v2/{name}/app/blobs/{digest_of(b'the layer of ' + name.encode())}"
            source.fault("GET", blob, Fault(delay=FUNCTION_SECONDS), times=1)
        file = tmp_path / "syncs.yaml"
        file.write_text(json.dumps({"syncs": syncs}))  # JSON is YAML
        syncline(home, "apply", str(file))
        runs = {name: syncline(home, "run", name)["run"]["id"] for name in syncs}
        wait(lambda: len(source.asked("GET", "/blobs/")) >= 2)
        assert kill_functions(home, "ransfer") >= 1

        ended = syncline(home, "cancel", "cancelled")["run"]
        assert (ended["id"], ended["status"], ended["counts"]["cancelled"]) == (runs["cancelled"], "cancelled", 1)
        assert syncline(home, "run", "cancelled")["started"] is True

        wait(lambda: target.store.tags().keys() >= {(f"{name}/app", "1") for name in syncs})
        wait(lambda: all(each["current"] is None for each in syncline(home, "status")["syncs"]))
        report = syncline(home, "report", runs["waits"])["run"]
        assert (report["status"], report["counts"]["moved"]) == ("done", 1)
