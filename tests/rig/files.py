"""The whole step chain from a real S3 server to a file manager, and what must be true of it after anything that happens."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import boto3

from syncline.clients.http.addresses import Endpoint
from syncline.clients.http.client import Http
from syncline.clients.http.retry import HOST_THROTTLE
from syncline.clients.s3.client import Bucket
from syncline.clients.s3.head import ObjectHead
from syncline.clients.s3.sigv4 import AccessKeys
from syncline.config.sync import load_sync
from syncline.kinds.files.config import FilesSync
from syncline.messages import DeadLetter, Queues, Start, decode
from syncline.model import EVERYTHING, Result, Run, RunStatus, Scope, Step, Trigger
from syncline.secrets import Secrets
from syncline.steps.engine import StepEngine
from syncline.steps.worker import Worker
from syncline.store.events import EventStore
from syncline.store.files import FileRecords
from syncline.store.state import State
from syncline.store.table import Database
from syncline.wiring.dependencies import Dependencies
from syncline.wiring.functions import STEPS, gatherer
from syncline.wiring.syncs import Kinds, Syncs
from tests.rig.pump import Clock, Letter, Mail, Manners, MortalHttp, Pump, Reaper, guard
from tests.rig.stack import EVENTS, dead_url, table_of_test, url
from tests.standins.file_manager import FileManagerServer
from tests.standins.rclone import ACCESS, SECRET, Rclone
from tests.standins.s3 import S3Server

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.service_resource import Table

SYNC: Final = "shop-files"
MODE: Final = "rw-r--r--"
_EFFECTS: Final = ("/saveToDisk", "/updatePermissions", "/reportResults", "/target")
_SECRETS: Final = {"S3_ACCESS": ACCESS, "S3_SECRET": SECRET, "FILES_TOKEN": "token-of-the-tests"}


@dataclass
class FilesChain:
    """Bucket, file manager, table, queues and functions."""

    rclone: Rclone | S3Server
    name: str
    manager: FileManagerServer
    table: Table
    mail: Mail
    clock: Clock
    reaper: Reaper
    queues: Queues
    seed: int = 1
    url: str = ""
    """The address of the source's service; rclone's if empty."""
    sync: str = SYNC
    """The name of the sync that is configured, run and reported next."""
    pump: Pump = field(init=False)

    def __post_init__(self) -> None:
        self.url = self.url or self.rclone.url
        self.state = State(self.table, self.clock.time, self.clock.every)
        self.database = Database(self.table)
        self.pump = Pump(self.mail, self.clock, self.reaper, self.new_worker, Manners(random.Random(self.seed)))
        self.bucket = self.bucket_called(self.name)
        self.requests: list[Http] = []

    def bucket_called(self, name: str) -> Bucket:
        """A client of the tests' own."""
        return Bucket(Endpoint.parse(self.url), name, lambda: AccessKeys(ACCESS, SECRET), Http())

    def make_bucket(self, name: str) -> None:
        if isinstance(self.rclone, S3Server):
            self.rclone.objects.setdefault(name, {})
            return
        # rclone notices a folder made beside it only after a while, so ask it to create the bucket: PUT without a key.
        self.bucket_called(name).put("", b"")

    def endpoint(self, name: str, url: str = "") -> dict[str, Any]:
        """Return the configuration of a bucket, by default of the source's service."""
        auth = {"access_key": "env:S3_ACCESS", "secret_key": "env:S3_SECRET"}
        return {"bucket": name, "endpoint": url or self.url, "auth": auth}

    def configure(self, **more: Any) -> None:
        """Apply a sync of the whole bucket to the file manager; ``more`` are fields to add or replace."""
        target = {"file_manager": self.manager.url, "token": "env:FILES_TOKEN", "prefix": "/data/", "requests": 4}
        source = self.endpoint(self.name)
        config = {"name": self.sync, "kind": "files", "source": source, "target": target, **more}
        self._applied = load_sync(json.dumps(config))
        self._apply()

    def _apply(self) -> None:
        sync = self._applied
        self.state.put_sync(sync.name, sync.model_dump_json())
        EventStore(self.database, self.clock.time).subscribe(sync.name, sync.event_sources())

    @property
    def records(self) -> FileRecords:
        """The records of the configured sync at its target."""
        assert isinstance(self._applied, FilesSync)
        return FileRecords(self.database, self.sync, self._applied.target_id(), self.clock.time)

    def lose_table(self) -> None:
        """Delete every item of the table, and apply the latest configuration again."""
        for item in self.table.scan()["Items"]:
            self.table.delete_item(Key={"pk": item["pk"], "sk": item["sk"]})
        self._apply()

    def new_worker(self, step: Step) -> Worker:
        """A step's worker as :mod:`syncline.wiring.functions` makes it in a fresh process, with its HTTP and clock replaced."""
        state, http = (
            State(self.table, self.clock.time, self.clock.every),
            MortalHttp(self.reaper, self.clock, _EFFECTS),
        )
        self.requests.append(http)
        parts = Dependencies(Secrets(_never, _never, _SECRETS), http, state, self.database, self.clock.time)
        syncs = Syncs(state, Kinds(parts))
        clock, rng, bind = self.clock, random.Random(self.seed), syncs.bind(http)
        engine = StepEngine(
            state, self.queues, syncs.kind_of, clock.time, rng, clock.sleep, every=clock.every, bind=bind
        )
        return Worker(step, STEPS[step], engine, gatherer(syncs, EventStore(self.database, self.clock.time), engine))

    def put(self, key: str, content: bytes, **metadata: str) -> str:
        """Put an object; its ETag."""
        return self.bucket.put(key, content, ObjectHead("", len(content), "text/plain", metadata=metadata))

    def start(self, *groups: str, trigger: Trigger = Trigger.MANUAL, plan: bool = False) -> None:
        self.queues.start(Start(self.sync, trigger, Scope.of(groups) if groups else EVERYTHING, plan=plan))

    def run(self, *groups: str) -> Run:
        """A whole run, pumped to its end."""
        self.clock.sleep(1)
        self.start(*groups)
        self.pump.run()
        return self.latest()

    def notify(self, *bodies: Any) -> None:
        """Put notifications into the events queue."""
        for number, body in enumerate(bodies):
            now = self.clock.now
            self.mail.add(Letter(f"event-{number}-{now}", EVENTS, json.dumps(body), now, now))

    def listen(self, **more: Any) -> None:
        """Apply the sync as `configure` does, with a target whose own events are asked for in every full scan."""
        target = {"file_manager": self.manager.url, "token": "env:FILES_TOKEN", "prefix": "/data/", "requests": 4}
        self.configure(target={**target, "events": True}, **more)

    def hear(self, *bodies: Any) -> Run:
        """Notifications, and the run that comes of them."""
        self.notify(*bodies)
        self.pump.run()
        return self.latest()

    def latest(self) -> Run:
        return max(self.state.runs(self.sync, 20), key=lambda run: run.number)

    def results(self, run: Run) -> dict[str, Result]:
        """The results of a run by key; fails where a key has two."""
        found: dict[str, Result] = {}
        for result in self.state.results(run.id):
            assert result.name not in found, f"{result.name} ended twice: {found[result.name]} and {result}"
            found[result.name] = result
        return found

    def ended(self, run: Run, key: str) -> str:
        """Return how a key ended in a run: its code, else its outcome, and "equal" where the run has no result of it."""
        result = self.results(run).get(key)
        return "equal" if result is None else result.code or result.outcome.value

    def dead(self) -> list[DeadLetter]:
        found: list[DeadLetter] = []
        for _, letter in self.mail.dead():
            dead = decode(letter.body)
            assert isinstance(dead, DeadLetter), f"laid aside without a reason: {letter.body}"
            found.append(dead)
        return found

    def objects(self) -> dict[str, bytes]:
        """What the bucket holds."""
        return {
            each.key: self.bucket.read(each.key, 1 << 30)[1] for page in self.bucket.pages() for each in page.objects
        }

    def check(self, *, besides: Mapping[str, bytes] | None = None, modes: Mapping[str, str] | None = None) -> Run:
        """Every byte and permission is at the file manager, every record is right, and the run is over.

        ``besides`` are paths that the file manager has of its own; ``modes`` permissions that are not the usual ones.
        """
        run = self.latest()
        assert run.status is RunStatus.DONE, run
        assert self.state.current_run(SYNC) is None
        progress = self.state.progress(run.id)
        assert progress.settled
        assert progress.counts == run.counts
        assert not self.mail.waiting()
        wanted = {f"/data/{key}": content for key, content in self.objects().items()}
        assert {path: file.content for path, file in self.manager.files.items()} == wanted | dict(besides or {})
        for path in wanted:
            assert self.manager.files[path].permissions == (modes or {}).get(path, MODE), path
        assert self.known() == {path.removeprefix("/data/") for path in wanted}
        return run

    def known(self) -> set[str]:
        """Return the keys of the files that the sync's records count as being at the target."""
        return {key for key, _ in self.records.scan()}


def _never() -> Any:
    raise AssertionError("no secret is asked for elsewhere")


class FilesWorld:
    """A real S3 server and moto, used by one chain after another; each gets a bucket, a table and a manager of its own."""

    def __init__(self, rclone: Rclone | S3Server) -> None:
        self.rclone = rclone
        self._table: Table | None = None
        self._number = 0

    @contextmanager
    def chain(self, seed: int = 1, service: str = "") -> Iterator[FilesChain]:
        """A new chain; ``service`` is the address of the source service, if it is not rclone."""
        self._number += 1
        name = f"source{self._number:05}"
        HOST_THROTTLE._hosts.clear()
        if self._table is not None:
            self._table.delete()
        clock, reaper, lock = Clock(), Reaper(), threading.Lock()
        table, sqs, mail = table_of_test(), boto3.client("sqs"), Mail(clock)
        self._table = table
        mail.connect(sqs)
        for client in (table.meta.client, sqs):
            guard(client, reaper, lock)
        queues = Queues(sqs, {step: url(step) for step in Step}, {step: dead_url(step) for step in Step}, EVENTS)
        with FileManagerServer(token=_SECRETS["FILES_TOKEN"]) as manager:
            chain = FilesChain(self.rclone, name, manager, table, mail, clock, reaper, queues, seed, service)
            chain.make_bucket(name)
            yield chain


def record(
    bucket: str, key: str, name: str = "ObjectCreated:Put", sequencer: str = "0055AED6DCD90281E5"
) -> dict[str, Any]:
    """A notification as S3 sends it."""
    from urllib.parse import quote_plus  # noqa: PLC0415 - here alone

    about = {"bucket": {"name": bucket}, "object": {"key": quote_plus(key), "sequencer": sequencer}}
    return {"Records": [{"eventVersion": "2.1", "eventSource": "aws:s3", "eventName": name, "s3": about}]}
