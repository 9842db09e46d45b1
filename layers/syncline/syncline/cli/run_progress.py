"""Follow a run to its end, and show its progress."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final, TypeAlias

from botocore.exceptions import BotoCoreError, ClientError

from syncline.cli.aws import as_syncline_error
from syncline.cli.context import Context, InterruptedWaitError
from syncline.errors import SynclineError
from syncline.escaping import escape
from syncline.model import Counts, Run, RunStatus
from syncline.operations import request_report
from syncline.progress import (
    ProgressHistory,
    Sample,
    Throughput,
    ended_items,
    known_items,
    seconds_left,
    waiting_reason,
)
from syncline.store.batches import Progress
from syncline.store.state import LOST_AFTER, State
from syncline.text import count_phrases, number, plural, rough_duration, size

if TYPE_CHECKING:
    from rich.table import Table


_FIRST_PAUSE: Final = 0.03
_LONGEST_PAUSE: Final = 1.0
_SHARE: Final = 0.1  # pause between polls, as a share of the time waited so far
_QUIET: Final = 120.0  # seconds without progress after which a message is shown
_OUTAGE: Final = 60.0  # seconds for which AWS may be unreachable while waiting
_PLAIN_EVERY: Final = 5.0
_PLAIN_QUIET_EVERY: Final = 30.0

Show: TypeAlias = "Callable[[ProgressHistory, list[str]], None]"
"""A function that shows a history, with notes on the state of the run such as why it waits."""


@contextlib.contextmanager
def interruptible(state: State, run: Run) -> Iterator[None]:
    """Turn Ctrl-C in the block into an InterruptedWaitError. The run continues; a plan is cancelled."""
    try:
        yield
    except KeyboardInterrupt:
        if run.plan:
            state.cancel_run(run.sync, run.id)
        raise InterruptedWaitError(run, cancelled=run.plan) from None


def follow_run(context: Context, run: Run) -> Run:
    """Show a run's progress until it ends and return it; a run without progress for LOST_AFTER is returned unended.

    A run that is being cancelled is ended here if its functions do not end it in time.

    Raises InterruptedWaitError on Ctrl-C.
    """
    state = context.deployment.state
    with interruptible(state, run), _display(context, run) as show:
        return _until_over(context, state, run, show)


def poll_interval(elapsed: float) -> float:
    """Return the seconds until the next poll after ``elapsed`` seconds of waiting: short at first, at most one."""
    return min(max(elapsed * _SHARE, _FIRST_PAUSE), _LONGEST_PAUSE)


def _until_over(context: Context, state: State, run: Run, show: Show) -> Run:
    began = progressed = time.monotonic()
    history, progress = ProgressHistory(), None  # None until AWS has answered
    while True:
        now = time.monotonic()
        with _tolerating_outage(context, now - progressed):
            run = state.run(run.sync, run.id)
            if run.status is RunStatus.CANCELLING and (ended := state.end_cancelled(run.sync, run.id)) is not None:
                request_report(context.deployment, ended)
                run = ended
            if run.over:
                return run
            latest = state.progress(run.id)
            if latest != progress:
                progress, progressed = latest, now
            history.add(Sample(now, latest.counts))
        notes = [] if progress is None else state_words(run, progress, context.now())
        show(history, notes or silence_words(now - progressed))
        if now - progressed > LOST_AFTER:
            return run
        time.sleep(poll_interval(now - began))


@contextlib.contextmanager
def _tolerating_outage(context: Context, silent: float) -> Iterator[None]:
    """Ignore temporary errors of AWS for up to ``_OUTAGE`` seconds of silence."""
    try:
        yield
    except (BotoCoreError, ClientError) as error:
        coded = as_syncline_error(error, context.deployment_name, local=context.deployment.local)
        if not coded.retried or silent > _OUTAGE:
            raise SynclineError(coded.code.name, f"{coded.what}; the run continues") from None


def silence_words(silent: float) -> list[str]:
    """Return a note if there was no progress for long."""
    if silent < _QUIET:
        return []
    return [f"no progress for {rough_duration(silent)} (a large layer can take up to 15 min)"]


@contextlib.contextmanager
def _display(context: Context, run: Run) -> Iterator[Show]:
    if context.out.as_json:
        yield lambda *_: None
    elif context.out.live:
        from rich.live import Live  # noqa: PLC0415 - only terminals need it

        with Live(refresh_per_second=5, transient=True) as live:
            yield lambda history, notes: live.update(_progress_line(run, history, notes))
    else:
        yield plain_lines(context.out.line)


def plain_lines(write: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> Show:
    """Return a display that writes a line every few seconds, less often if nothing changed."""
    shown: Counts | None = None
    at = clock()

    def show(history: ProgressHistory, notes: list[str]) -> None:
        nonlocal shown, at
        now = clock()
        if now - at >= (_PLAIN_EVERY if history.counts != shown else _PLAIN_QUIET_EVERY):
            write(", ".join(progress_words(history.counts, history.throughput) + notes))
            shown, at = history.counts, now

    return show


def _progress_line(run: Run, history: ProgressHistory, notes: list[str]) -> Table:
    """Return a line with a progress bar for a terminal."""
    from rich.progress_bar import ProgressBar  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    counts = history.counts
    found = known_items(counts)
    bar = ProgressBar(found or None, ended_items(counts), width=20, pulse=not found)
    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True)
    grid.add_column(width=20)
    grid.add_column(no_wrap=True, overflow="ellipsis")
    grid.add_row(f"[bold]{run.sync}[/]", bar, ", ".join(progress_words(counts, history.throughput) + notes))
    return grid


def progress_words(counts: Counts, speed: Throughput) -> list[str]:
    """Return a run's progress as phrases, the most important first."""
    if known_items(counts):
        notes = _moving(counts, speed)
    else:
        scanned = (counts.would_move, "would move"), (counts.skipped, "equal so far")
        notes = count_phrases(*scanned, (counts.left_out, "left out"), (counts.extra, "extra"))
        notes.insert(0, "scanning")
    failures = (counts.failed, "failed"), (counts.known, "known failure", "known failures")
    return notes + count_phrases(*failures, (counts.conflict, "conflict", "conflicts"), (counts.untrusted, "untrusted"))


def _moving(counts: Counts, speed: Throughput) -> list[str]:
    notes = [f"{number(ended_items(counts))} of {plural(known_items(counts), 'item')}"]
    if speed.items:
        notes.append(f"{number(speed.items)} items/s")
    if speed.bytes:
        notes.append(f"{size(speed.bytes)}/s")
    left = seconds_left(counts, speed.items)
    if left is not None:
        notes.append(f"about {rough_duration(max(left, 1.0))} left")
    return notes


def state_words(run: Run, progress: Progress, now: float) -> list[str]:
    """Return notes on a run: if it is being cancelled, and why it waits."""
    notes = ["cancelling"] if run.status is RunStatus.CANCELLING else []
    waiting = waiting_reason(run, progress, now)
    if waiting is not None:
        again = f"; retrying at {_clock(waiting.until)}" if waiting.until > now else ""
        notes.append(f"waiting since {_clock(waiting.since)}: {waiting.code}: {escape(waiting.what)}{again}")
    return notes


def _clock(moment: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(moment))
