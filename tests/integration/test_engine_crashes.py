"""The local engine is killed at random moments while the deployed functions move images.

After each kill, ``syncline up`` must restore everything that is older than ten seconds, and the interrupted run must
continue to its end. ``make crashes`` kills the engine fifty times.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import pytest
from botocore.exceptions import ClientError

from syncline.cli import local_engine as engine
from syncline.cli.deployment import Deployment, local_deployment
from syncline.errors import SynclineError
from syncline.model import Step
from tests.integration.test_deployed_images import Deployed, sync
from tests.standins.pairs import RegistryPair
from tests.standins.registry import Registry, sha256

TOP: Final = Path(__file__).parents[2]
KILLS: Final = int(os.environ.get("CRASHES", "3"))
WINDOW: Final = 10.0
"""Seconds. An action that is older at a kill must not be lost."""
MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"


class Ledger:
    """Acknowledged actions, each with a function that returns True if its effect still exists."""

    def __init__(self) -> None:
        self._entries: list[tuple[str, float, Callable[[Deployment], bool]]] = []
        self.lost: list[str] = []

    def add(self, what: str, known: Callable[[Deployment], bool]) -> None:
        self._entries.append((what, time.monotonic(), known))

    def check(self, target: Deployment, killed: float) -> None:
        """Fail if an action older than the window is lost; forget lost actions that are younger."""
        kept = []
        for what, done, known in self._entries:
            if known(target):
                kept.append((what, done, known))
            else:
                assert killed - done < WINDOW, f"{what} is gone, done {killed - done:.1f} s before the kill"
                self.lost.append(f"{what} ({killed - done:.1f} s)")
        self._entries = kept

    def __len__(self) -> int:
        return len(self._entries)


def has_secret(name: str, value: str) -> Callable[[Deployment], bool]:
    def known(target: Deployment) -> bool:
        try:
            kept: str = target.client("secretsmanager").get_secret_value(SecretId=name)["SecretString"]
        except ClientError:
            return False
        return kept == value

    return known


def has_sync(name: str) -> Callable[[Deployment], bool]:
    return lambda target: name in target.state.sync_names()


def has_run(name: str, run: str) -> Callable[[Deployment], bool]:
    def known(target: Deployment) -> bool:
        try:
            return target.state.run(name, run).id == run
        except SynclineError:
            return False

    return known


def has_letters(count: int) -> Callable[[Deployment], bool]:
    return lambda target: sum(target.queues.count_dead_letters(step) for step in Step) >= count


def has_address(address: str, secret: str) -> Callable[[Deployment], bool]:
    """Return a check that the address of a webhook is unchanged and answers with 202."""

    def known(target: Deployment) -> bool:
        request = urllib.request.Request(f"{address}hooks/copied/{secret}", data=b'{"events": []}', method="POST")
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return target.output("ReceiveUrl") == address and answer.status < 300
        except urllib.error.HTTPError as error:
            pytest.fail(f"the webhook answers {error.code}: {error.read()!r}")

    return known


def kill(home: Path) -> float:
    """Kill the engine with SIGKILL; return the time of the kill."""
    with suppress(FileNotFoundError, ProcessLookupError, ValueError):
        os.kill(int((home / "pid").read_text()), signal.SIGKILL)
    return time.monotonic()


def interrupted_up(home: Path, seconds: float) -> float:
    """Start ``up``, and kill it and the engine after `seconds`."""
    command = [sys.executable, "-m", "syncline.cli.main", "up", "--home", str(home)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        time.sleep(seconds)
        process.kill()
    return kill(home)


def push(registry: Registry, repositories: list[str], tag: str) -> dict[str, str]:
    return {
        f"{repository}:{tag}": registry.push_image(repository, tag, [os.urandom(300_000), tag.encode()])
        for repository in repositories
    }


def digest_at(registry: Registry, reference: str) -> str:
    repository, tag = reference.rsplit(":", 1)
    path = f"/v2/{repository}/manifests/{tag}"
    return sha256(registry.authorized("GET", path, headers={"Accept": MANIFEST}).body)


def wait_for(target: Deployment, run: str, home: Path) -> None:
    """Wait for the end of a run; fail with the engine's log after a time limit."""
    end = time.monotonic() + 240
    while not target.state.run("copied", run).over:
        assert time.monotonic() < end, (target.state.run("copied", run), (home / "engine.log").read_text()[-20_000:])
        time.sleep(0.2)


def elsewhere(sync: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Return the same sync with another target, because two syncs must not share one."""
    return sync | {"target": sync["target"] | {"prefix": prefix}}


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "home of an engine"
    yield folder
    engine.down(folder)


def test_kills_at_random_moments(home: Path, registry_pair: RegistryPair, namespace: str, tmp_path: Path) -> None:
    moments = random.Random(20261129)
    prod, dr = registry_pair.prod, registry_pair.dr
    deployed = Deployed(home, engine.up(home, TOP, port=0, say=print))
    deployed.keep_secret("syncline/ann", {"password": "ann's password"})
    deployed.keep_secret("syncline/wrong", {"password": "nobody's password"})
    deployed.keep_secret("syncline/hook", {"pushed": "a-long-random-text"})
    ann = ("ann", "syncline/ann")
    repositories = [f"{namespace}/app", f"{namespace}/base", f"{namespace}/tools"]
    copied = sync(prod, dr, ann, ann, repositories=repositories, webhook={"secret": "secret:syncline/hook#pushed"})
    refused = elsewhere(sync(prod, dr, ann, ("ann", "syncline/wrong"), repositories=repositories[:1]), "refused")
    syncs: dict[str, dict[str, Any]] = {"copied": copied, "refused": refused}
    deployed.apply(tmp_path, **syncs)
    images = push(prod, repositories, "first")
    ledger = Ledger()
    target = local_deployment(home)
    for name in syncs:
        ledger.add(f"sync {name}", has_sync(name))
    ledger.add("the address of the webhook", has_address(target.output("ReceiveUrl"), "a-long-random-text"))
    given_up = deployed.syncline("run", "refused", "--wait", exits=1)["run"]
    ledger.add("the run that failed", has_run("refused", given_up["id"]))
    letters = sum(target.queues.count_dead_letters(step) for step in Step)
    assert letters
    ledger.add("its dead letters", has_letters(letters))
    time.sleep(WINDOW)  # everything so far must survive the first kill
    for number in range(KILLS):
        tag = f"v{number}"
        images |= push(prod, repositories, tag)
        name = f"syncline/secret-{number}"
        target.client("secretsmanager").create_secret(Name=name, SecretString=tag)
        ledger.add(f"secret {name}", has_secret(name, tag))
        syncs[f"more-{number}"] = elsewhere(copied, f"more-{number}") | {"enabled": False}
        deployed.apply(tmp_path, **syncs)
        ledger.add(f"sync more-{number}", has_sync(f"more-{number}"))
        run = deployed.syncline("run", "copied")["run"]["id"]
        ledger.add(f"run {run}", has_run("copied", run))
        time.sleep(moments.uniform(0, 5))
        killed = kill(home)
        if number % 4 == 1:
            killed = interrupted_up(home, moments.uniform(0, 3))
        deployed.syncline("up")
        target = local_deployment(home)
        ledger.check(target, killed)
        if not has_run("copied", run)(target):
            run = deployed.syncline("run", "copied")["run"]["id"]
        wait_for(target, run, home)
        done = deployed.syncline("status", "copied", "--wait")
        assert done["run"]["id"] == run, done
        assert done["run"]["counts"]["failed"] == 0, done
        assert {reference: digest_at(dr, reference) for reference in images} == images
        print(f"kill {number + 1}: {len(ledger)} kept, lost in the last seconds: {ledger.lost or 'nothing'}")
    assert len(ledger) > 3 * KILLS
