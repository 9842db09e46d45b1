"""The surroundings of invoked functions: SAM CLI, which runs them, and their state, queues and registries."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from syncline.messages import Queues
from syncline.store.state import State
from tests.sam.events import FOLDER
from tests.sam.lambda_image import ARCHITECTURE, RUNTIME
from tests.sam.stack import REGION, Stack
from tests.standins.registry import Registry

TOP: Final = Path(__file__).parents[2]
BUILD: Final = TOP / ".build" / "sam-local" / "build"
TEMPLATE: Final = BUILD / "template.yaml"
"""The built template."""
PARAMETERS: Final = (f"LambdaRuntime={RUNTIME}", f"Architecture={ARCHITECTURE}")
_SECONDS: Final = 300


def run_sam(arguments: Sequence[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run SAM CLI. Raises AssertionError with its error output if it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "samcli", *arguments, "--region", REGION],
        cwd=TOP,
        env=environment,
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


@dataclass(frozen=True, slots=True)
class World:
    """The surroundings of a function: state and queues of a new stack, an empty source and an empty target.

    ``environment`` is that of SAM CLI, ``variables`` the file with the environment of the functions.
    """

    state: State
    queues: Queues
    stack: Stack
    source: Registry
    target: Registry
    environment: dict[str, str]
    variables: Path

    def invoke(self, event: str) -> Any:
        """Invoke a function with an event, named by its path in ``events/``; return the response."""
        function = f"{event.partition('/')[0].capitalize()}Function"
        command = ["local", "invoke", function, "--event", str(FOLDER / event), "--skip-pull-image"]
        command += ["--template", str(TEMPLATE), "--env-vars", str(self.variables)]
        command += ["--layer-cache-basedir", str(BUILD.parent / "layers"), "--parameter-overrides", *PARAMETERS]
        done = run_sam(command, self.environment)
        print(done.stderr)  # the function's log, shown if the test fails
        answer = json.loads(done.stdout.splitlines()[-1])
        assert "errorMessage" not in answer
        return answer


class ReachableRegistry(Registry):
    """A registry that listens on an address that containers can reach, not on loopback."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self._address = address

    @property
    def host(self) -> str:
        return f"{self._address}:{self.port}"

    def _connection(self, timeout: float) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self._address, self.port, timeout=timeout)
