"""Fixtures: a Docker engine with the Lambda image, the built template, and servers for AWS and registries."""

from __future__ import annotations

import os
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer

from syncline.messages import Queues
from syncline.model import Step
from syncline.store.state import State
from tests.sam.docker_engine import Engine, running_engine
from tests.sam.lambda_image import RUNTIME, ensure_image
from tests.sam.stack import REGION, create_stack, session
from tests.sam.world import BUILD, PARAMETERS, TEMPLATE, TOP, ReachableRegistry, World, run_sam
from tests.standins.programs import needing, needs


@pytest.fixture(scope="session")
def bare_engine() -> Iterator[Engine]:
    """Yield a Docker engine."""
    with needing("dockerd"), running_engine() as engine:
        yield engine


@pytest.fixture(scope="session")
def engine(bare_engine: Engine) -> Engine:
    """Return the engine, with the Lambda image."""
    with needing("debootstrap"):
        ensure_image(bare_engine)
    return bare_engine


@pytest.fixture(scope="session")
def environment(engine: Engine) -> dict[str, str]:
    """Return the environment for SAM CLI: this engine and this Python, without the user's settings for AWS, SAM or Syncline."""
    foreign = ("AWS_", "SAM_CLI_", "SYNCLINE_")
    own = {name: value for name, value in engine.environment.items() if not name.startswith(foreign)}
    return own | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "AWS_DEFAULT_REGION": REGION,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "SAM_CLI_TELEMETRY": "0",
        "SAM_CLI_CONTAINER_CONNECTION_TIMEOUT": "60",
        "SYNCLINE_LAYER_PYTHON": RUNTIME.removeprefix("python"),
    }


@pytest.fixture(scope="session")
def built(environment: dict[str, str]) -> Path:
    """Build the template; return its path."""
    command = ["build", "--template", str(TOP / "template.yaml"), "--build-dir", str(BUILD)]
    run_sam([*command, "--parameter-overrides", *PARAMETERS], environment)
    return TEMPLATE


@pytest.fixture(scope="session")
def aws(engine: Engine) -> Iterator[str]:
    """Yield the address of an AWS emulator that containers can reach."""
    server = ThreadedMotoServer(engine.host, 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def world(engine: Engine, environment: dict[str, str], built: Path, aws: str, tmp_path: Path) -> Iterator[World]:
    needs("docker-registry")
    with urllib.request.urlopen(urllib.request.Request(f"{aws}/moto-api/reset", method="POST")):
        stack = create_stack(built, aws)
    variables = stack.all_variables
    state = State(session().resource("dynamodb", endpoint_url=aws).Table(variables["SYNCLINE_TABLE"]))
    urls = {step: variables[f"SYNCLINE_{step.name}_QUEUE"] for step in Step}
    dead_urls = {step: variables[f"SYNCLINE_{step.name}_DLQ"] for step in Step}
    sqs = session().client("sqs", endpoint_url=aws)
    queues = Queues(sqs, urls, dead_urls, variables["SYNCLINE_EVENTS_QUEUE"])
    with ReachableRegistry(engine.host) as source, ReachableRegistry(engine.host) as target:
        yield World(state, queues, stack, source, target, environment, stack.write(tmp_path / "variables.json"))
