"""Fair delivery among syncs by the queues of the local engine, like SQS, tested with the engine's ministack."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROCESS = ROOT / "layers/syncline/syncline/cli/engine_process.py"
PYTHON = ROOT / ".venv-engine/bin/python"
PROGRAM = """
import json, os, sys
sys.path.insert(0, os.path.dirname(sys.argv[1]))
import engine_process
from ministack import app
from ministack.services import sqs
if sys.argv[2] == "fair":
    engine_process._share_queues_fairly(app)
name = "q.fifo" if sys.argv[3] == "fifo" else "q"
attributes = {"FifoQueue": "true"} if name.endswith("fifo") else {}
url = sqs._act_create_queue({"QueueName": name, "Attributes": attributes}, "")["QueueUrl"]
for number, (group, body) in enumerate(json.load(sys.stdin)):
    more = {"MessageGroupId": group} if group else {}
    more |= {"MessageDeduplicationId": str(number)} if name.endswith("fifo") else {}
    sqs._act_send_message({"QueueUrl": url, "MessageBody": body, **more}, url)
taken = []
while batch := sqs._receive_messages_for_esm(url, 2):
    taken.append([message["body"] for message in batch])
    assert all(message["receive_count"] == 1 for message in batch)
    sqs._delete_messages_for_esm(url, {message["receipt_handle"] for message in batch})
json.dump(taken, sys.stdout)
"""

pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason="the engine is not installed")


def delivered(
    messages: list[tuple[str | None, str]], *, fair: str = "fair", queue: str = "standard"
) -> list[list[str]]:
    """Return the bodies in the order in which the engine hands them to functions, two at a time."""
    command = [str(PYTHON), "-c", PROGRAM, str(PROCESS), fair, queue]
    done = subprocess.run(command, input=json.dumps(messages), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    taken: list[list[str]] = json.loads(done.stdout.splitlines()[-1])
    return taken


BACKLOG: list[tuple[str | None, str]] = [("bulk", f"bulk {number}") for number in range(2000)]


def test_a_backlog_does_not_delay_a_message_of_another_sync() -> None:
    taken = delivered([*BACKLOG, ("push", "push 0"), ("push", "push 1"), (None, "of a schedule")])
    first = [body for batch in taken[:3] for body in batch]
    assert {"push 0", "of a schedule"} <= set(first)
    assert "push 1" in first
    everything = [body for batch in taken for body in batch]
    assert sorted(everything) == sorted([body for _, body in BACKLOG] + ["push 0", "push 1", "of a schedule"])
    assert [body for body in everything if body.startswith("bulk")] == [body for _, body in BACKLOG]


def test_syncs_take_turns_while_both_have_a_backlog() -> None:
    other: list[tuple[str | None, str]] = [("other", f"other {number}") for number in range(20)]
    taken = delivered([*BACKLOG[:100], *other])
    assert all({body.partition(" ")[0] for body in batch} == {"bulk", "other"} for batch in taken[:20])


def test_ministack_alone_is_not_fair() -> None:
    """If this fails, ministack delivers fairly, and `_share_queues_fairly` can be removed."""
    taken = delivered([*BACKLOG, ("push", "push 0")], fair="plain")
    assert taken[-1] == ["push 0"]


def test_a_fifo_queue_keeps_its_order() -> None:
    messages: list[tuple[str | None, str]] = [("a", "a0"), ("a", "a1"), ("b", "b0"), ("a", "a2")]
    order = [body for batch in delivered(messages, queue="fifo") for body in batch]
    assert [body for body in order if body.startswith("a")] == ["a0", "a1", "a2"]
