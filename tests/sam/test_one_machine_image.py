"""The image of the one-machine installation: built by `docker build`, run as its guide says, killed and started again."""

from __future__ import annotations

import json
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.sam.docker_engine import Engine
from tests.sam.image_builds import SECONDS, base_image, built_image, package_index
from tests.sam.world import TOP
from tests.standins.programs import needs, program
from tests.standins.registry import Registry, sha256

# If the base cannot be pulled, debootstrap makes it, which takes minutes.
pytestmark = pytest.mark.timeout(1200)

DOCKERFILE: Final = TOP / "deploy" / "one-machine" / "Dockerfile"
LISTS: Final = ("machine", "engine", "layer", "kubernetes")


class Machine:
    """A container of the image on the host's network, and its volume."""

    def __init__(self, engine: Engine, image: str, config: Path) -> None:
        self._engine = engine
        self._image = image
        self._config = config
        self.name = f"syncline-test-{uuid.uuid4().hex[:12]}"

    def docker(self, *command: str, exits: int = 0) -> str:
        """Run a command of docker; return its output."""
        done = subprocess.run(
            [program("docker"), *command],
            env=self._engine.environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert done.returncode == exits, done.stdout + done.stderr
        return done.stdout

    def create(self) -> None:
        """Start a new container with the volume, as strict as Docker can be."""
        options = ["--network", "host", "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL"]
        options += ["--security-opt", "no-new-privileges", "--health-interval", "1s"]
        options += ["--volume", f"{self.name}:/var/lib/syncline", "--volume", f"{self._config}:/etc/syncline:ro"]
        self.docker("run", "--detach", "--name", self.name, *options, self._image, "up", "--foreground", "--port", "0")

    def remove(self) -> None:
        self.docker("rm", "--force", self.name)

    def syncline(self, *words: str) -> Any:
        """Run the command in the container; return its JSON output."""
        return json.loads(self.docker("exec", self.name, "syncline", *words, "--json"))

    def state(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.docker("inspect", "--format", "{{json .State}}", self.name))
        return value

    def logs(self) -> str:
        return self.docker("logs", self.name)

    def wait_for(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + 120
        while not condition():
            assert time.monotonic() < end, self.logs()
            time.sleep(0.2)

    def wait_until_up(self, times: int) -> None:
        """Wait until the engine has started as often as ``times``."""
        self.wait_for(lambda: self.logs().count("the engine is up at") == times)


@pytest.fixture(scope="module")
def image(bare_engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    needs("docker")
    base = base_image(bare_engine, DOCKERFILE)
    with (
        package_index(tmp_path_factory.mktemp("index"), *LISTS) as index,
        built_image(bare_engine, DOCKERFILE, base, index) as name,
    ):
        yield name


@pytest.fixture(scope="module")
def registries() -> Iterator[tuple[Registry, Registry]]:
    needs("docker-registry")
    with Registry() as source, Registry() as target:
        source.push_image("team/app", "1.0")
        yield source, target


@pytest.fixture(scope="module")
def config(registries: tuple[Registry, Registry], tmp_path_factory: pytest.TempPathFactory) -> Path:
    source, target = registries
    folder = tmp_path_factory.mktemp("config")
    sync = {
        "kind": "images",
        "source": {"registry": source.host, "plain_http": True, "repositories": ["team/app"]},
        "target": {"registry": target.host, "plain_http": True},
    }
    (folder / "syncs.yaml").write_text(json.dumps({"syncs": {"prod": sync}}))
    for each in (folder, folder.parent, folder.parent.parent):
        each.chmod(0o755)  # the container runs as another user
    return folder


@pytest.fixture(scope="module")
def machine(bare_engine: Engine, image: str, config: Path) -> Iterator[Machine]:
    made = Machine(bare_engine, image, config)
    made.create()
    yield made
    made.remove()
    made.docker("volume", "rm", made.name)


def test_it_applies_and_runs_a_sync(machine: Machine, registries: tuple[Registry, Registry]) -> None:
    machine.wait_until_up(1)
    assert machine.syncline("apply", "/etc/syncline/syncs.yaml")["syncs"][0]["change"] == "added"
    run = machine.syncline("run", "prod", "--wait")["run"]
    assert run["counts"]["moved"] == 1
    source, target = (each.request("GET", "/v2/team/app/manifests/1.0").body for each in registries)
    assert sha256(source) == sha256(target)


def test_it_is_healthy_and_has_no_privileges(machine: Machine) -> None:
    machine.wait_for(lambda: machine.state()["Health"]["Status"] == "healthy")
    assert machine.docker("exec", machine.name, "id", "-u") == "65532\n"
    for folder in ("/opt/syncline/functions", "/etc"):
        machine.docker("exec", machine.name, "touch", f"{folder}/mark", exits=1)


def test_a_kill_and_a_start_lose_nothing(machine: Machine) -> None:
    before = machine.syncline("status", "prod")
    machine.docker(
        "exec", machine.name, "sh", "-c", "touch $SYNCLINE_HOME/save; while [ -e $SYNCLINE_HOME/save ]; do :; done"
    )
    machine.docker("kill", machine.name)
    assert machine.state()["ExitCode"] == 137
    machine.docker("start", machine.name)
    machine.wait_until_up(2)
    assert "the engine was killed; resuming from its last save" in machine.logs()
    assert machine.syncline("status", "prod")["runs"] == before["runs"]
    again = machine.syncline("run", "prod", "--wait")["run"]
    assert (again["counts"]["moved"], again["counts"]["skipped"]) == (0, 1)


def test_a_new_container_with_the_volume_continues(machine: Machine) -> None:
    """This is an upgrade: `docker stop`, `docker rm` and `docker run` of the next image."""
    runs = machine.syncline("status", "prod")["runs"]
    machine.docker("stop", "--time", "60", machine.name)
    assert machine.state()["ExitCode"] == 0
    assert machine.logs().endswith("the engine is down; its state is kept\n")
    machine.remove()
    machine.create()
    machine.wait_until_up(1)
    assert "killed" not in machine.logs()
    assert machine.syncline("status", "prod")["runs"] == runs
