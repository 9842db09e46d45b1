"""``daemon``: discover, transfer and verify repeatedly in this process, with the steps of the functions but no queues."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from typing import Any, Final

from syncline.cli.context import SOME_FAILED, CommandResult
from syncline.cli.output import Output, Style
from syncline.errors import SynclineError
from syncline.kinds.artifacts.cli.setup import UNLIMITED, Setup
from syncline.kinds.artifacts.kind import Artifacts
from syncline.kinds.kind import Completed, Failure
from syncline.model import EVERYTHING, Item, Outcome, Result
from syncline.text import size

_ATTEMPTS: Final = 3
_AT_ONCE: Final = 2


def daemon(
    setup: Setup, out: Output, interval: float, *, once: bool, sleep: Callable[[float], None] = time.sleep, **_: object
) -> CommandResult:
    """Sync new builds every ``interval`` seconds; with ``once`` return the result of one scan.

    Further options of the command are in the setup, or have no effect.
    """
    known: set[tuple[str, str, str | None, str | None]] = set()
    kind = Artifacts(setup.sync, setup.github, setup.target, setup.http, memory=setup.memory, now=time.time)
    while True:
        try:
            results = sync_once(kind)
        except SynclineError as error:
            if once or not error.retried:
                raise
            # Without a scan there is nothing to count; known failures stay known.
            out.line(f"{time.strftime('%H:%M:%S')}  {error}", "red")
            sleep(interval)
            continue
        # A failure is reported in full once, then counted while it lasts.
        new = [result for result in results if _key(result) not in known]
        known = {_key(result) for result in results if result.outcome is Outcome.FAILED}
        for result in new:
            _print_result(out, result)
        total, fresh = (Counter(result.outcome for result in some) for some in (results, new))
        repeated = total[Outcome.FAILED] - fresh[Outcome.FAILED]
        out.line(
            f"{time.strftime('%H:%M:%S')}  {total[Outcome.MOVED]} moved, {fresh[Outcome.FAILED]} failed, "
            f"{repeated} known failures, {total[Outcome.CONFLICT]} conflicts"
        )
        if once:
            value: dict[str, Any] = {"results": [result.as_dict() for result in results]}
            return CommandResult(value, SOME_FAILED if total[Outcome.FAILED] or total[Outcome.CONFLICT] else 0)
        sleep(interval)


def sync_once(kind: Artifacts) -> list[Result]:
    """Scan once, transfer and verify the differences; return the result of each image."""
    results: list[Result] = []
    items: list[Item] = []
    for page in kind.discover(EVERYTHING, None, UNLIMITED):
        items += page.items
        results += page.results
        results += [_failed(failure) for failure in page.failures]
    ordered = sorted(items, key=lambda item: item.group)
    groups = [list(members) for _, members in groupby(ordered, key=lambda item: item.group)]
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="group") as pool:
        for found in pool.map(lambda group: [_transfer(kind, item) for item in group], groups):
            results += found
    return results


def _transfer(kind: Artifacts, item: Item) -> Result:
    attempts = 0
    while True:
        attempts += 1
        ended = _attempt(kind, item)
        if isinstance(ended, Result):
            return ended
        if not ended.error.retried or attempts == _ATTEMPTS:
            return _failed(ended)
        item = ended.item


def _attempt(kind: Artifacts, item: Item) -> Result | Failure:
    for transferred in kind.transfer([item], UNLIMITED):
        if isinstance(transferred, Failure | Result):
            return transferred
        for verified in kind.verify([transferred.item], UNLIMITED):
            if isinstance(verified, Failure):
                return Failure(item, verified.error)
            source, sent = transferred.item.source, transferred.moved_bytes if isinstance(transferred, Completed) else 0
            return Result(item.group, item.name, Outcome.MOVED, source, source, sent)
    raise AssertionError  # every item has a result


def _failed(failure: Failure) -> Result:
    item, error = failure.item, failure.error
    return Result(item.group, item.name, Outcome.FAILED, item.source, item.target, 0, error.code.name, error.what)


def _key(result: Result) -> tuple[str, str, str | None, str | None]:
    return (result.group, result.name, result.code, result.source)


def _print_result(out: Output, result: Result) -> None:
    words = result.reason or size(result.moved_bytes)
    styles: dict[Outcome, Style] = {Outcome.FAILED: "red", Outcome.CONFLICT: "yellow", Outcome.EQUAL: "dim"}
    out.line(f"{result.outcome.value}  {result.group}:{result.name}  {words}", styles.get(result.outcome, ""))
