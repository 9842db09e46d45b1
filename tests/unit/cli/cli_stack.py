"""A stack for tests of the command: moto's server, and a home folder of an engine that appears to run."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Final

from typer.testing import CliRunner, Result

from syncline import __version__
from syncline.cli.deployment import Deployment, deployment_of
from syncline.cli.local_engine import Engine
from syncline.cli.main import app
from syncline.errors import CodeName
from syncline.messages import Batch, DeadLetter, Start, decode, encode
from syncline.model import Counts, Item, Outcome, Run, Scope, Step, Trigger
from syncline.model import Result as ItemResult
from syncline.store.batches import BatchRecord
from syncline.store.state import first_batch
from tests.rig.run_ids import made_run_id

ROOT: Final = Path(__file__).resolve().parents[3]
REGION: Final = "us-east-1"
ACCOUNT: Final = "123456789012"
GOOD: Final = "sha256:" + "a" * 64
OTHER: Final = "sha256:" + "b" * 64
_RUNS: Final = itertools.count(1)
SYNCS: Final = """\
syncs:
  prod:
    kind: images
    schedule: rate(1 hour)
    source:
      registry: prod.example
      repositories: [team/app, team/base]
    target:
      registry: dr.example
      prefix: mirror
"""
FILES: Final = """\
syncs:
  shop-files:
    kind: files
    source: {bucket: shop}
    target: {bucket: shop-copy}
"""


def in_process(*args: str, env: Mapping[str, str | None] | None = None, answer: str | None = None) -> Result:
    """Run the command in this process, without options of its own."""
    return CliRunner().invoke(app, args, env=env, input=answer)


@dataclass(frozen=True)
class Stack:
    """An engine's home and its stack."""

    home: Path
    target: Deployment

    def run(self, *args: str, env: Mapping[str, str | None] | None = None, answer: str | None = None) -> Result:
        """Run the command in this process; ``answer`` is the input for its prompts."""
        return in_process(*args, "--home", str(self.home), env=env, answer=answer)

    def json(self, *args: str, code: int = 0, env: Mapping[str, str | None] | None = None) -> dict[str, Any]:
        """Return the object that ``--json`` prints, and check that stderr is empty."""
        result = self.run(*args, "--json", env=env)
        assert result.exit_code == code, result.output
        assert result.stderr == ""
        value: dict[str, Any] = json.loads(result.stdout)
        return value

    def process(self, *args: str, stdout: int = subprocess.PIPE, env: Mapping[str, str] | None = None) -> Process:
        """Start the command in a separate process."""
        return command_process(*args, "--home", str(self.home), stdout=stdout, env=env)

    def apply(self, text: str = SYNCS, *options: str, answer: str | None = None) -> Result:
        file = self.home.parent / "syncs.yaml"
        file.write_text(text)
        return self.run("apply", str(file), *options, answer=answer)

    # -- functions -----------------------------------------------------------------------------------------------------

    def started(self) -> list[Start]:
        """Receive and delete the start messages in discover's queue."""
        sqs, url = self.target.queues.sqs, self.target.queues.urls[Step.DISCOVER]
        found = []
        while messages := sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", []):
            for message in messages:
                sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
                start = decode(message["Body"])
                assert isinstance(start, Start)
                found.append(start)
        return found

    def begin(
        self, sync: str = "prod", *, trigger: Trigger = Trigger.MANUAL, plan: bool = False, name: str = ""
    ) -> Run:
        """Start a run."""
        run_id = name or made_run_id(next(_RUNS))
        return self.target.state.begin_run(sync, run_id, trigger, Scope(), plan=plan)[0]

    def finish(self, run: Run, *results: ItemResult, skipped: int = 0, left_out: int = 0, extra: int = 0) -> Run:
        """End a run with these results, as its functions would."""
        counts = Counts.of(results, equal=skipped, left_out=left_out, extra=extra, queued=len(results), requests=7)
        self.target.state.end_batch(first_batch(run), BatchRecord(tuple(results)), counts)
        ended = self.target.state.finish_run(run.sync, run.id)
        assert ended is not None
        return ended

    def add_dead_letters(
        self, *groups: str, sync: str = "prod", code: CodeName = "SERVER_ERROR", name: str = "1.0"
    ) -> None:
        """Add a dead letter of transfer for an item of each group; without groups, one for a complete scan."""
        base = Batch(made_run_id(), sync, Step.TRANSFER, "b")
        batches = [replace(base, items=(Item(group, name, GOOD),)) for group in groups]
        for batch in batches or [replace(base, step=Step.DISCOVER)]:
            self.target.queues.send_dead_letters(batch.step, [encode(DeadLetter(batch, code, "it answered 502"))])

    def dead_letters(self, step: Step = Step.TRANSFER) -> int:
        return self.target.queues.count_dead_letters(step)


def moved(group: str = "mirror/team/app", name: str = "1.0", size: int = 3 * 1024 * 1024) -> ItemResult:
    return ItemResult(group, name, Outcome.MOVED, GOOD, GOOD, size)


def failed(group: str = "mirror/team/base", name: str = "2.0", code: CodeName = "UNAUTHORIZED") -> ItemResult:
    return ItemResult(group, name, Outcome.FAILED, GOOD, None, 0, code, "dr.example does not accept the credentials")


def conflict(group: str = "mirror/team/app", name: str = "latest") -> ItemResult:
    return ItemResult(group, name, Outcome.CONFLICT, GOOD, OTHER, 0, "TAG_DIFFERS", "the target has another image")


@dataclass(frozen=True)
class Process:
    """A running command."""

    popen: subprocess.Popen[str]

    def end(self, seconds: float = 30) -> tuple[int, str, str]:
        """Wait for the end of the command; return exit code, stdout and stderr."""
        out, err = self.popen.communicate(timeout=seconds)
        return self.popen.returncode, out or "", err


def command_process(*args: str, stdout: int = subprocess.PIPE, env: Mapping[str, str] | None = None) -> Process:
    environ = os.environ | {"PYTHONPATH": str(ROOT / "layers" / "syncline")} | dict(env or {})
    environ.pop("COLUMNS", None)
    popen = subprocess.Popen(
        [sys.executable, "-m", "syncline.cli.main", *args],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        env=environ,
    )
    return Process(popen)


@contextmanager
def made_stack(port: int, folder: Path) -> Iterator[Stack]:
    """Reset the moto server and create a stack in it, with a home folder."""
    urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{port}/moto-api/reset", method="POST")).close()
    target = _made(port)
    home = folder / "home"
    home.mkdir()
    lock = os.open(home / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)  # marks the engine as running
    (home / "pid").write_text(str(os.getpid()))
    (home / "engine.json").write_text(json.dumps({"port": port, "outputs": dict(target.outputs), "key": "key"}))
    try:
        yield Stack(home, target)
    finally:
        os.close(lock)


def _made(port: int) -> Deployment:
    """Create the stack's resources, with the same names in every test."""
    target = _target(port)
    target.client("dynamodb").create_table(
        TableName=target.output("TableName"),
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in ("pk", "sk")],
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
    )
    target.scheduler.create_schedule_group(Name="syncline")
    target.scheduler.create_schedule(
        Name="syncline-watch",
        ScheduleExpression="rate(1 minute)",
        FlexibleTimeWindow={"Mode": "OFF"},
        Target={
            "Arn": f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:syncline-watch",
            "RoleArn": f"arn:aws:iam::{ACCOUNT}:role/syncline-functions",
        },
    )
    for url in (*target.queues.urls.values(), *target.queues.dead_urls.values()):
        made = target.queues.sqs.create_queue(QueueName=url.rpartition("/")[2])
        assert made["QueueUrl"] == url
    return target


@cache
def _target(port: int) -> Deployment:
    outputs = {
        "Version": __version__,
        "TableName": "syncline-table",
        "ScheduleGroupName": "syncline",
        "SchedulerRoleArn": f"arn:aws:iam::{ACCOUNT}:role/syncline-scheduler",
        "DiscoverQueueArn": f"arn:aws:sqs:{REGION}:{ACCOUNT}:syncline-discover",
        "ProbeUrl": f"http://127.0.0.1:{port}/_aws/lambda-url/probe/",
        "ReceiveUrl": f"http://127.0.0.1:{port}/_aws/lambda-url/abc/",
        "ConsoleUrl": f"http://127.0.0.1:{port}/_aws/lambda-url/def/",
    }
    for step in Step:
        for suffix, output in (("", "Queue"), ("-dead", "DeadLetterQueue")):
            fifo = ".fifo" if step is Step.COMMIT else ""
            url = f"http://127.0.0.1:{port}/{ACCOUNT}/syncline-{step.value}{suffix}{fifo}"
            outputs[f"{step.name.capitalize()}{output}Url"] = url
    return deployment_of(Engine(port, outputs, "key"), Path("/nowhere"))


def row(text: str, name: str) -> str:
    """Return the line of a table that begins with a name."""
    return next(line for line in text.splitlines() if line.startswith(name))
