"""What the engine on this machine saved at its last stop, made ready for its next start."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def make_ready(state: Path, *, endpoint_before: str | None, endpoint: str) -> None:
    """Let the saved state begin where it stopped.

    Addresses of queues hold the engine's port, which may be another now. No function is at work any more, so what was
    in flight is to be seen at once, not after the queue's visibility timeout. Log lines of earlier starts are dropped:
    the engine keeps all of them in memory, and they are in its log file.
    """
    if endpoint_before is not None and endpoint_before != endpoint:
        for file in state.glob("*.json"):
            _write(file, file.read_text().replace(f"{endpoint_before}/", f"{endpoint}/"))
    _edit(state / "sqs.json", "queues", _show_again)
    _edit(state / "cloudwatch_logs.json", "log_groups", lambda group: group["streams"].clear())


def _edit(file: Path, store: str, change: Callable[[dict[str, Any]], None]) -> None:
    """Change each resource in one of the engine's files; a file of another form than known is left alone."""
    try:
        saved = json.loads(file.read_text())
        for resource in saved["payload"][store]["data"].values():
            change(resource)
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return
    _write(file, json.dumps(saved))


def _write(file: Path, text: str) -> None:
    """Write a file anew, or not at all."""
    new = file.with_suffix(".new")
    new.write_text(text)
    new.replace(file)


def _show_again(queue: dict[str, Any]) -> None:
    now = time.time()
    for message in queue["messages"]:
        if message["receive_count"] and message["visible_at"] > now:
            message["visible_at"] = now
            message["receive_count"] -= 1  # a stop of the engine is no failure of the message
