"""The local engine: the real template, built and deployed by the real sam, with functions of the tests."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import textwrap
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import boto3
import pytest

from syncline.cli import deploy, engine_state
from syncline.cli import local_engine as engine
from syncline.cli.deploy import client_arguments
from syncline.cli.local_engine import Engine
from syncline.cli.programs import ProgramError
from syncline.errors import SynclineError
from syncline.store.events import EventStore, Note
from syncline.store.leases import Leases
from syncline.store.table import Database
from tests.standins.programs import needs
from tests.unit.test_template import OUTPUTS

TOP: Final = Path(__file__).parents[2]
FUNCTIONS: Final = sorted(path.name for path in (TOP / "functions").iterdir() if path.is_dir())
_SECONDS: Final = 30
_FUNCTION: Final = """
import json, os, time
import boto3, pydantic, syncline

def handler(event, context):
    if "Records" not in event:
        return {"statusCode": 200, "body": event["rawPath"]}
    table = boto3.resource("dynamodb").Table(os.environ["SYNCLINE_TABLE"])
    for record in event["Records"]:
        message = json.loads(record["body"])
        table.update_item(
            Key={"pk": message["key"], "sk": "seen"},
            UpdateExpression="ADD times :one SET pid = :pid, receives = :receives, package = :package, proof = :proof",
            ExpressionAttributeValues={
                ":one": 1,
                ":pid": os.getpid(),
                ":receives": int(record["attributes"]["ApproximateReceiveCount"]),
                ":package": syncline.__file__,
                ":proof": os.environ.get("PROOF_OF_ENVIRONMENT", ""),
            },
        )
        time.sleep(message.get("seconds", 0))
    return {"batchItemFailures": []}
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of this project with test functions, which shares the folders that are slow to fill."""
    needs("make")
    folder = tmp_path_factory.mktemp("project")
    for name in ("template.yaml", "samconfig.toml"):
        shutil.copy(TOP / name, folder)
    for name in ("layers", "requirements"):
        shutil.copytree(TOP / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in (".venv-engine", ".build"):
        (TOP / name).mkdir(exist_ok=True)
        (folder / name).symlink_to(TOP / name)
    for function in FUNCTIONS:
        code = folder / "functions" / function / "app.py"
        code.parent.mkdir(parents=True)
        code.write_text(_FUNCTION)
    return folder


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "home of an engine"
    yield folder
    engine.down(folder)


def up(home: Path, project: Path, messages: list[str] | None = None) -> Engine:
    return engine.up(home, project, port=0, say=(messages if messages is not None else []).append)


def client(running: Engine, service: str) -> Any:
    return boto3.client(service, **client_arguments(running.endpoint))  # type: ignore[call-overload]


def table_of(running: Engine) -> Any:
    arguments = client_arguments(running.endpoint)
    return boto3.resource("dynamodb", **arguments).Table(running.outputs["TableName"])  # type: ignore[call-overload]


def send(running: Engine, queue: str, key: str, **message: Any) -> None:
    url = running.outputs[f"{queue}QueueUrl"]
    client(running, "sqs").send_message(QueueUrl=url, MessageBody=json.dumps({"key": key, **message}))


def seen(running: Engine, key: str, times: int = 1) -> dict[str, Any]:
    """Wait until the function has received a message that often; return its record of the message."""
    table = table_of(running)
    item: dict[str, Any] = {}

    def arrived() -> bool:
        item.update(table.get_item(Key={"pk": key, "sk": "seen"}, ConsistentRead=True).get("Item", {}))
        return int(item.get("times", 0)) >= times

    assert until(arrived), f"{key} was seen {item.get('times', 0)} times"
    return item


def settle(running: Engine, queue: str) -> None:
    """Wait until a queue has no message, visible or not: a function's message is deleted only after it has returned."""
    sqs, url = client(running, "sqs"), running.outputs[f"{queue}QueueUrl"]
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]

    def is_empty() -> bool:
        found = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
        return all(found[name] == "0" for name in names)

    assert until(is_empty), f"the queue {queue} still has messages"


def until(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + _SECONDS
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def pid_of(home: Path) -> int:
    return int((home / "pid").read_text())


def runs(pid: int) -> bool:
    """Return True if a process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def listening(pid: int) -> set[str]:
    """Return the addresses on which a process listens, in the kernel's format."""
    links = [str(each.readlink()) for each in Path(f"/proc/{pid}/fd").iterdir() if each.is_symlink()]
    inodes = {link[len("socket:[") : -1] for link in links if link.startswith("socket:")}
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                found.add(fields[1])
    return found


def test_the_stack_is_deployed_and_works(home: Path, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROOF_OF_ENVIRONMENT", "as `env:` references need it")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")  # a setting for another engine, to be ignored
    messages: list[str] = []
    running = up(home, project, messages)
    assert set(running.outputs) == OUTPUTS
    assert not running.unclean
    assert engine.describe(home) == running
    assert engine.environment_of(home)["PROOF_OF_ENVIRONMENT"]
    assert listening(pid_of(home)) == {f"0100007F:{running.port:04X}"}

    # All addresses are numeric: a resolver may not know ministack's domain.
    assert {urlsplit(running.outputs[f"{each}Url"]).hostname for each in ("Receive", "Console", "Probe")} == {
        "127.0.0.1"
    }
    for each in ("Console", "Probe"):
        with urllib.request.urlopen(f"{running.outputs[f'{each}Url']}path") as answer:
            assert answer.read() == b"/path"
    # The log has no banner of ministack, and no errors of pollers from the time of the deployment.
    log = (home / "engine.log").read_text().splitlines()
    assert [line for line in log if not re.match(r"\d{4}-\d\d-\d\d [0-9:]{8} INFO \[", line)] == []
    for queue in ("Discover", "Transfer", "Verify"):
        send(running, queue, queue)
        item = seen(running, queue)
        assert item["proof"] == "as `env:` references need it"
        assert str(item["package"]).startswith(str(home / "layer"))  # neither of this environment nor of the project
    with urllib.request.urlopen(f"{running.outputs['ReceiveUrl']}hooks/sync/secret", data=b"{}") as answer:
        assert answer.read() == b"/hooks/sync/secret"
    metrics = client(running, "cloudwatch").list_metrics(Namespace="AWS/Lambda")["Metrics"]
    assert metrics == [], "metrics of invocations are kept, so that the engine grows for two weeks"

    assert any("building" in line for line in messages)
    messages.clear()
    began = time.monotonic()
    assert up(home, project, messages) == running
    assert time.monotonic() - began < 1
    assert messages == []


def test_a_change_is_deployed_and_interrupted_messages_are_redelivered(
    home: Path, project: Path, tmp_path: Path
) -> None:
    before = up(home, project)
    send(before, "Transfer", "slow", seconds=600)
    seen(before, "slow")
    changed = tmp_path / "changed"
    shutil.copytree(project, changed, symlinks=True)
    code = changed / "functions" / "transfer" / "app.py"
    code.write_text(code.read_text().replace("seconds", "not-any-more"))
    after = up(home, changed)
    assert (after.port, after.outputs) == (before.port, before.outputs)
    assert seen(after, "slow", times=2)["receives"] == 1
    queue = after.outputs["TransferQueueUrl"]
    hidden = "ApproximateNumberOfMessagesNotVisible"
    sqs = client(after, "sqs")
    assert until(lambda: sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=[hidden])["Attributes"][hidden] == "0")


def test_a_clean_stop_keeps_everything(home: Path, project: Path) -> None:
    before = up(home, project)
    send(before, "Discover", "one")
    seen(before, "one")
    settle(before, "Discover")
    send(before, "Transfer", "slow", seconds=600)
    worker = int(seen(before, "slow")["pid"])
    messages: list[str] = []
    assert engine.down(home, say=messages.append)
    assert messages == []
    assert engine.describe(home) is None
    assert until(lambda: not runs(worker))
    assert not engine.down(home)

    # The addresses of queues contain the port, and that differs, so the stack is deployed again.
    with socket.create_server(("127.0.0.1", before.port)):
        after = up(home, project)
    assert after.port != before.port
    assert not after.unclean
    assert seen(after, "one")["times"] == 1
    assert after.outputs["TableName"] == before.outputs["TableName"]
    assert seen(after, "slow", times=2)["receives"] == 1  # at once, and not counted as a failure
    send(after, "Discover", "two")
    seen(after, "two")

    # Same port, no changes: the engine only starts.
    engine.down(home)
    messages = []
    again = engine.up(home, project, say=messages.append)
    assert again == after
    assert messages == [f"starting the engine on 127.0.0.1:{after.port}"]
    send(again, "Discover", "three")
    seen(again, "three")


def test_a_kill_loses_nothing_that_was_saved(home: Path, project: Path) -> None:  # noqa: PLR0915 - starting an engine takes seconds
    before = up(home, project)
    client(before, "secretsmanager").create_secret(Name="syncline/kept", SecretString="s3cr3t")
    client(before, "scheduler").create_schedule(
        Name="kept",
        ScheduleExpression="rate(1 day)",
        FlexibleTimeWindow={"Mode": "OFF"},
        Target={"Arn": before.outputs["DiscoverQueueArn"], "RoleArn": "arn:aws:iam::000000000000:role/any"},
    )
    send(before, "Discover", "one")
    seen(before, "one")
    settle(before, "Discover")
    send(before, "Transfer", "slow", seconds=600)
    worker = int(seen(before, "slow")["pid"])
    dead = before.outputs["TransferDeadLetterQueueUrl"]
    client(before, "sqs").send_message(QueueUrl=dead, MessageBody="given up")
    database = Database(table_of(before))
    leases = Leases(database, time.time)
    leases.take("team/app", "a function that is killed", 900)
    assert leases.take_slot("registry.example", 1, 900, random.Random(1))
    claim = EventStore(database, time.time).claim("prod", [Note("one", 0.0, ("team/app",))], 900)
    assert claim
    engine.save(home)
    os.kill(pid_of(home), signal.SIGKILL)
    assert until(lambda: engine.describe(home) is None)
    assert runs(worker)
    unpacked = list((home / "tmp").glob("ministack-lambda-*"))
    assert unpacked

    messages: list[str] = []
    after = engine.up(home, project, say=messages.append)
    assert messages == [
        "the engine was killed; resuming from its last save, a few seconds earlier",
        f"starting the engine on 127.0.0.1:{before.port}",
    ]
    assert after.unclean
    assert (after.outputs, after.key) == (before.outputs, before.key)
    assert until(lambda: not runs(worker))
    assert not any(folder.exists() for folder in unpacked), "a kill left the unpacked code of functions"
    assert seen(after, "one")["times"] == 1
    assert seen(after, "slow", times=2)["receives"] == 1  # at once, and not counted as a failure
    # No function is running, so no message is invisible.
    database = Database(table_of(after))
    leases = Leases(database, time.time)
    assert leases.take("team/app", "the next", 900).fence == 2
    assert leases.take_slot("registry.example", 1, 900, random.Random(1))
    assert EventStore(database, time.time).resume("prod", claim, 900)
    assert client(after, "secretsmanager").get_secret_value(SecretId="syncline/kept")["SecretString"] == "s3cr3t"
    assert client(after, "scheduler").get_schedule(Name="kept")["ScheduleExpression"] == "rate(1 day)"
    assert client(after, "sqs").receive_message(QueueUrl=dead)["Messages"][0]["Body"] == "given up"
    with urllib.request.urlopen(f"{before.outputs['ReceiveUrl']}hooks/sync/secret", data=b"{}") as answer:
        assert answer.read() == b"/hooks/sync/secret"
    assert not up(home, project).unclean

    # Later changes are saved as well, and deleted messages stay deleted.
    client(after, "secretsmanager").delete_secret(SecretId="syncline/kept", ForceDeleteWithoutRecovery=True)
    client(after, "sqs").purge_queue(QueueUrl=dead)
    send(after, "Discover", "two")
    seen(after, "two")
    settle(after, "Discover")
    engine.save(home)
    os.kill(pid_of(home), signal.SIGKILL)
    assert until(lambda: engine.describe(home) is None)
    with socket.create_server(("127.0.0.1", before.port)):
        moved = up(home, project)
    assert moved.port != before.port
    assert seen(moved, "one")["times"] == 1
    assert seen(moved, "two")["times"] == 1
    secrets = client(moved, "secretsmanager").list_secrets()["SecretList"]
    assert "syncline/kept" not in [secret["Name"] for secret in secrets]
    assert "Messages" not in client(moved, "sqs").receive_message(QueueUrl=moved.outputs["TransferDeadLetterQueueUrl"])


def test_a_kill_during_a_deployment(home: Path, project: Path, tmp_path: Path) -> None:
    """The stack is unchanged, and is deployed at the next start."""
    before = up(home, project)
    send(before, "Discover", "one")
    seen(before, "one")
    settle(before, "Discover")
    engine.save(home)
    changed = tmp_path / "changed"
    shutil.copytree(project, changed, symlinks=True)
    code = changed / "functions" / "discover" / "app.py"
    code.write_text(code.read_text().replace(":one SET", ":ten SET").replace('":one": 1', '":ten": 10'))

    def kill_when_it_deploys(line: str) -> None:
        if "deploying" in line:
            threading.Thread(target=kill_while_sam_deploys, args=(home,)).start()

    with pytest.raises(SynclineError, match="ENGINE_FAILED"):
        engine.up(home, changed, say=kill_when_it_deploys)
    assert until(lambda: engine.describe(home) is None)
    after = engine.up(home, changed, say=print)
    assert after.outputs == before.outputs
    assert seen(after, "one")["times"] == 1
    send(after, "Discover", "ten")
    assert seen(after, "ten")["times"] == 10


def kill_while_sam_deploys(home: Path) -> None:
    assert until(lambda: "Waiting for changeset" in (home / "sam.log").read_text())
    os.kill(pid_of(home), signal.SIGKILL)


def test_the_saved_stores_are_complete() -> None:
    """The state of these services is saved store by store. A new version of ministack may add one."""
    code = """
        import json
        from ministack.services import dynamodb, sqs
        print(json.dumps({"dynamodb": sorted(dynamodb.get_state()), "sqs": sorted(sqs.get_state())}))
    """
    python = TOP / ".venv-engine" / "bin" / "python"
    done = subprocess.run([python, "-c", textwrap.dedent(code)], capture_output=True, check=True, timeout=60)
    ours = {name: sorted([store, *others]) for name, (store, others) in engine_state.STORES.items()}
    assert json.loads(done.stdout) == ours


def test_a_port_of_another_program_is_not_used(home: Path, project: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SynclineError, match=rf"ENGINE_FAILED: cannot listen on port {port}") as caught:
            engine.up(home, project, port=port, say=lambda _: None)
        assert caught.value.code.name == "ENGINE_FAILED"
    assert engine.describe(home) is None


def test_the_reason_of_a_failed_build_is_shown(home: Path, project: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(project, broken, symlinks=True)
    template = broken / "template.yaml"
    template.write_text(template.read_text().replace("CodeUri: functions/verify", "CodeUri: functions/absent"))
    with pytest.raises(ProgramError, match="samcli deploy` failed") as caught:
        up(home, broken)
    assert "Parameter CodeUri of resource VerifyFunction refers to a file or folder" in caught.value.output[-1]
    log = re.search(r"its output is in (.*)", caught.value.what)
    assert log is not None
    assert "functions/absent" in Path(log[1]).read_text()
    running = up(home, project)  # the engine still runs, and the template is valid again
    assert set(running.outputs) == OUTPUTS


def test_the_layer_for_aws_is_complete(project: Path, tmp_path: Path) -> None:
    """Import every module with only the layer and boto3, as on Lambda."""
    python = deploy.environment(project, tmp_path / "log", print)
    source = project / "layers" / "syncline"
    (library,) = python.parent.parent.glob("lib/python3.*")
    environ = os.environ | {"ARTIFACTS_DIR": str(tmp_path), "SYNCLINE_PYTHON": str(python)}
    environ["SYNCLINE_LAYER_PYTHON"] = library.name.removeprefix("python")
    command = ["make", "--makefile", str(source / "Makefile"), "build-SynclineLayer"]
    subprocess.run(command, cwd=source, env=environ, check=True, timeout=300, stdout=subprocess.DEVNULL)
    layer = tmp_path / "python"
    packages = [layer / "syncline" / name for name in ("steps", "kinds", "clients")]
    # The commands of a kind, and the container, do not run on Lambda and need more.
    files = [
        file
        for each in packages
        for file in each.rglob("*.py")
        if not {"__init__.py", "cli", "container.py"} & set(file.parts)
    ]
    modules = [".".join(file.relative_to(layer).with_suffix("").parts) for file in files]
    modules += ["syncline.wiring.functions", "docker"]  # imported only if a sync uses Docker's credentials
    runtime = tmp_path / "runtime"
    runtime.mkdir()
    for brought in ("boto3", "botocore", "s3transfer", "dateutil", "six.py"):
        (found,) = python.parent.parent.glob(f"lib/python3.*/site-packages/{brought}")
        (runtime / brought).symlink_to(found)
    lines = [f"import sys; sys.path[:0] = [{str(layer)!r}, {str(runtime)!r}]", *(f"import {each}" for each in modules)]
    lines += [f"import runpy; runpy.run_path({str(TOP / 'functions' / name / 'app.py')!r})" for name in FUNCTIONS]
    environ = {"SYNCLINE_TABLE": "table", "AWS_DEFAULT_REGION": deploy.REGION}
    subprocess.run([str(python), "-I", "-S", "-c", "\n".join(lines)], env=environ, check=True, timeout=60)
    size = sum(file.stat().st_size for file in layer.rglob("*") if file.is_file())
    assert size < 100 << 20  # Lambda accepts 250 MiB, but the size slows every cold start
