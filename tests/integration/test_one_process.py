"""One warm process executes steps of every kind in turn: none of them affects the deadline of another."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import pytest
from moto import mock_aws

from syncline.clients.http.client import Http
from syncline.clients.http.retry import RetryPolicy
from syncline.config.sync import load_sync
from syncline.errors import SynclineError
from syncline.messages import Queues
from syncline.model import EVERYTHING, Trigger
from syncline.secrets import Secrets
from syncline.steps.discover import discover
from syncline.steps.engine import StepEngine
from syncline.store.state import State
from syncline.store.table import Database
from syncline.wiring.dependencies import Dependencies
from syncline.wiring.syncs import Syncs, kind_builder
from tests.rig.chain import connected_sqs, queues
from tests.rig.pump import Clock, Mail
from tests.rig.run_ids import made_run_id
from tests.rig.server import Reply, ScriptedServer
from tests.rig.stack import create_table
from tests.standins.git_places import make_bare

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.service_resource import Table

KINDS: Final = ("images", "files", "backups", "artifacts")
ORDERS: Final = [
    (*order[: number % 5], "tokens", *order[number % 5 :]) for number, order in enumerate(itertools.permutations(KINDS))
]
TIMEOUT: Final = 300.0
SECRETS: Final = {"TOKEN": "token-of-the-tests"}


@dataclass
class Process:
    """The process of a function: its state, its connections and its kinds, with a clock that tests set."""

    table: Table
    queues: Queues
    server: ScriptedServer
    repository: str
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.state, database = State(self.table, self.clock.time), Database(self.table)
        self.http = Http(RetryPolicy(attempts=1, sleep=self.clock.sleep, clock=self.clock.time))
        self.syncs = Syncs(
            self.state, kind_builder(Dependencies(Secrets(_never, _never, SECRETS), self.http, self.state, database))
        )
        self.engine = StepEngine(
            self.state,
            self.queues,
            self.syncs.kind_of,
            self.clock.time,
            random.Random(1),
            self.clock.sleep,
            bind=self.syncs.bind(self.http),
        )

    def scan(self, kind: str, name: str) -> int:
        """Discover everything of a new sync of a kind; return the number of requests that reached the server."""
        sync = load_sync(json.dumps({"name": name, "kind": kind, **self._config(kind)}))
        self.state.put_sync(name, sync.model_dump_json())
        run, batch = self.state.begin_run(name, made_run_id(), Trigger.MANUAL, EVERYTHING)
        before, end = len(self.server.requests), self.clock.now + TIMEOUT
        discover(self.engine, batch, run, lambda: end - self.clock.now)
        return len(self.server.requests) - before

    def _config(self, kind: str) -> dict[str, Any]:
        bucket = {"bucket": "clusters", "endpoint": self.server.url, "auth": "anonymous"}
        registry = {"registry": self.server.host, "plain_http": True}
        match kind:
            case "images":
                return {"source": {**registry, "catalog": True}, "target": {**registry, "prefix": "copies"}}
            case "files":
                return {"source": bucket, "target": {"file_manager": self.server.url, "prefix": "/data/"}}
            case "backups":
                return {"source": bucket, "target": {"repository": self.repository}}
            case "artifacts":
                source = {"repository": "team/builds", "workflow": "build.yml", "url": self.server.url}
                build = {
                    "metadata": {"keys": ["Image tag"], "tag": "Image tag"},
                    "images": [{"name": "app"}],
                    "mapping": [{"tag": "{tag}", "to": "{image}:{tag}"}],
                }
                target = {**registry, "project": "group/project"}
                return {"source": {**source, "auth": {"token": "env:TOKEN"}}, "build": build, "target": target}
            case _:
                service = {"namespace": "gateway", "service": "nginx", "port": "https"}
                check = {"host": "api.example", "path": "/check", "cookie": "auth_token"}
                return {"sources": {"prod": service}, "check": check, "sync_interval": 1}


def _never() -> Any:
    raise AssertionError("no secret is asked of AWS")


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Table, Queues, ScriptedServer, str]]:
    """Yield a table, queues, an empty server, and the URL of an empty git repository."""
    bare = make_bare(tmp_path_factory.mktemp("git") / "bare")
    with mock_aws(), ScriptedServer() as server:
        server.reply_to = lambda _request: Reply(404)  # type: ignore[method-assign, assignment]
        yield create_table(), queues(connected_sqs(Mail(Clock()))), server, f"file://{bare.path}"


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
def test_the_deadline_of_a_step_is_independent_of_earlier_steps(
    parts: tuple[Table, Queues, ScriptedServer, str], order: tuple[str, ...]
) -> None:
    process = Process(*parts)
    for kind in order:
        name = f"{kind}-of-{'-'.join(each[0] for each in order)}"
        if kind == "tokens":  # this kind has no steps, which is an error
            with pytest.raises(SynclineError, match="has no runs"):
                process.scan(kind, name)
        else:
            assert process.scan(kind, name) > 0, f"{kind} sent no request"
        process.clock.sleep(TIMEOUT + 10)
