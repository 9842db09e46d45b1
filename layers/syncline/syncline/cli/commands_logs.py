"""``syncline logs``: the log lines of a sync, from the engine's log file or from CloudWatch Logs."""

from __future__ import annotations

import calendar
import heapq
import json
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, TextIO

from syncline.cli.commands_run import config_of
from syncline.cli.context import CommandResult, Context
from syncline.cli.deployment import Deployment
from syncline.cli.engine_log import open_files
from syncline.cli.output import Style
from syncline.errors import SynclineError
from syncline.schedule import DURATION, seconds_of
from syncline.wiring.environments import ENVIRONMENTS

_POLL_SECONDS: Final = 2.0
_LATE: Final = 30.0
"""Seconds by which CloudWatch may show a line later than others that follow it."""
_NOT_SHOWN: Final = frozenset(
    {"operation", "level", "location", "message", "timestamp", "service", "cold_start", "sync", "xray_trace_id"}
)
_STYLES: Final[dict[str, Style]] = {"error": "red", "critical": "red", "warning": "yellow"}
_TIME: Final = re.compile(r"(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d)[,.](\d{3})\+0000")

Line = Mapping[str, Any]


def logs(context: Context, name: str, *, since: str, follow: bool) -> CommandResult:
    """Print the log lines of a sync in the order of their times; with ``follow`` until Ctrl-C.

    Raises NO_SUCH_SYNC, and USAGE for an invalid duration.
    """
    if not DURATION.fullmatch(since):
        raise SynclineError("USAGE", f"{since!r} is not a duration; write a whole number and s, m, h or d, such as 30m")
    deployment, out = context.deployment, context.out
    config_of(deployment.state, name)
    start = context.now() - seconds_of(since)
    if follow and out.as_json:
        raise SynclineError("USAGE", "--follow prints lines as they come; leave out --json")

    def wanted(line: Line) -> bool:
        return line.get("sync") == name and _time(line) >= start

    source = (
        _of_engine(deployment.home, wanted, start)
        if deployment.home is not None
        else _of_cloudwatch(deployment, str(context.stack), name, start)
    )
    lines: list[Line] = []
    for batch in source:
        for line in filter(wanted, batch):
            if out.as_json:
                lines.append(line)
            else:
                out.line(_text(line), _STYLES.get(str(line.get("level")), ""))
        if not follow:
            break
        time.sleep(_POLL_SECONDS)
    return CommandResult({"name": name, "lines": lines})


def _of_engine(home: Path, wanted: Callable[[Line], bool], start: float) -> Iterator[list[Line]]:
    """Yield the wanted lines of the engine's log since a time, and on each further call those that were added.

    The log may be rotated between two calls, also more than once.
    """
    at, inode = 0, -1
    while True:
        lines: list[Line] = []
        with ExitStack() as stack:
            files = open_files(home, stack)
            inodes = [os.fstat(file.fileno()).st_ino for file in files]
            first = inodes.index(inode) if inode in inodes else 0
            for file, each in list(zip(files, inodes, strict=True))[first:]:
                file.seek(at if each == inode else 0)
                if each == inode or os.fstat(file.fileno()).st_mtime >= start:
                    lines += filter(wanted, _parsed(_complete_lines(file)))
            if files:
                at, inode = files[-1].tell(), inodes[-1]
        yield lines


def _complete_lines(file: TextIO) -> Iterator[str]:
    """Yield the lines up to the end of a file that grows; a line without its end is read again by the next call."""
    while True:
        at = file.tell()
        line = file.readline()
        if not line.endswith("\n"):
            file.seek(at)
            return
        yield line


def _parsed(lines: Iterable[str]) -> Iterator[Line]:
    """Yield the structured lines of the functions; others are the engine's own."""
    for text in lines:
        at = text.find('{"operation"')
        if at >= 0:
            try:
                line = json.loads(text[at:])
            except ValueError:
                continue
            if isinstance(line, dict) and "message" in line:
                yield line


def _of_cloudwatch(deployment: Deployment, stack: str, name: str, start: float) -> Iterator[list[Line]]:
    """Yield the lines in the log groups of the stack's functions, and on each further call those that were added."""
    client, seen = deployment.client("logs"), dict[str, float]()
    while True:
        events = heapq.merge(
            *(_events(client, f"/aws/lambda/{stack}-{function}", name, start) for function in ENVIRONMENTS),
            key=lambda event: event["timestamp"],
        )
        found = [event for event in events if event["eventId"] not in seen]
        seen |= {event["eventId"]: event["timestamp"] / 1000 for event in found}
        yield list(_parsed(event["message"] for event in found))
        start = max([start, *(moment - _LATE for moment in seen.values())])
        seen = {event: moment for event, moment in seen.items() if moment >= start}


def _events(client: Any, group: str, name: str, start: float) -> Iterator[dict[str, Any]]:
    pattern = f'{{ $.sync = "{name}" }}'
    pages = client.get_paginator("filter_log_events").paginate(
        logGroupName=group, filterPattern=pattern, startTime=int(start * 1000)
    )
    try:
        for page in pages:
            yield from page["events"]
    except client.exceptions.ResourceNotFoundException:
        return  # the function has not run yet


def _time(line: Line) -> float:
    """Return the time of a line in Unix seconds; 0 if it has none."""
    match = _TIME.fullmatch(str(line.get("timestamp", "")))
    if match is None:
        return 0.0
    return calendar.timegm(time.strptime(f"{match[1]} {match[2]}", "%Y-%m-%d %H:%M:%S")) + int(match[3]) / 1000


def _text(line: Line) -> str:
    """Return a line as text: the time, the function, the message, and the other fields that matter."""
    moment = str(line.get("timestamp", "")).removesuffix("+0000").replace(",", ".")
    fields = [
        f"{name}={value if isinstance(value, str) else json.dumps(value)}"
        for name, value in line.items()
        if name not in _NOT_SHOWN and not name.startswith("function_")
    ]
    return "  ".join([moment, str(line.get("service", "")), str(line["message"]), *fields])
