"""Beginning a run, and following one to its end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Final, Protocol

from botocore.exceptions import BotoCoreError, ClientError

from syncline.cli.aws_errors import as_syncline_error
from syncline.cli.context import Context, InterruptedWaitError
from syncline.cli.progress import Course, Sample, done, total, words
from syncline.cli.show import about
from syncline.cli.waiting import state_words
from syncline.errors import SynclineError
from syncline.messages import Outgoing, Start
from syncline.model import Counts, Run, Scope, Trigger
from syncline.store.batches import BatchRecord
from syncline.store.runs import new_run_id
from syncline.store.state import LOST_AFTER, State, first_batch

if TYPE_CHECKING:
    from rich.table import Table

    from syncline.cli.target import Target
    from syncline.store.failures import Key

_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 1.0
_SHARE: Final = 0.1  # of the time gone by: so much at most is lost between a run's end and our noticing
_QUIET: Final = 120.0  # seconds without a commit after which we say so
_PATIENCE: Final = 60.0  # seconds for which AWS may be out of reach while we wait
_PLAIN_EVERY: Final = 5.0
_PLAIN_QUIET_EVERY: Final = 30.0


def begin(  # noqa: PLR0913 - each is a fact of the run
    target: Target,
    sync: str,
    trigger: Trigger,
    scope: Scope,
    *,
    plan: bool = False,
    allow_removals: int | None = None,
    asked: Iterable[Key] = (),
) -> Run:
    """Begin a run and ask discover for its first scan; raises ALREADY_RUNNING.

    If the message cannot be sent, the run is ended again, since nothing would ever work on it.
    """
    state = target.state
    run, root = state.begin_run(
        sync, new_run_id(), trigger, scope, plan=plan, allow_removals=allow_removals, asked=asked
    )
    try:
        target.queues.start(Start(sync, trigger, scope, run=run.id, plan=plan))
    except BaseException:
        state.cancel_run(sync, run.id)
        state.end_batch(root, BatchRecord(()), Counts())
        state.finish_run(sync, run.id)
        raise
    return run


@contextlib.contextmanager
def interruptible(state: State, run: Run) -> Iterator[None]:
    """Make Ctrl-C within an InterruptedWaitError. The run goes on; a plan is cancelled, as nothing is lost with it."""
    try:
        yield
    except KeyboardInterrupt:
        if run.plan:
            state.cancel_run(run.sync, run.id)
        raise InterruptedWaitError(run, cancelled=run.plan) from None


def follow(context: Context, run: Run) -> Run:
    """Wait for the run's end and show how it goes. The run as it is then: not over only where nothing is heard of it.

    A run that is being cancelled is ended here, if its functions do not end it in time.

    Raises InterruptedWaitError on Ctrl-C.
    """
    state = context.target.state
    with interruptible(state, run), _display(context, run) as display:
        return _until_over(context, state, run, display)


def pause(elapsed: float) -> float:
    """Seconds between two looks, after ``elapsed`` seconds of waiting: short at first, one at last."""
    return min(max(elapsed * _SHARE, _FIRST_PAUSE), _LONGEST_PAUSE)


class Display(Protocol):
    """Shows a course. ``said`` are words on the state of the run, such as why it waits."""

    def show(self, course: Course, said: list[str]) -> None: ...


def _until_over(context: Context, state: State, run: Run, display: Display) -> Run:
    began = heard = time.monotonic()
    course, progress = Course(), None  # None until AWS has answered
    while True:
        now = time.monotonic()
        with _patience(context, now - heard):
            ended = state.end_cancelled(run.sync, run.id)
            if ended is not None:
                let_report(context.target, ended)
            run = ended or state.run(run.sync, run.id)
            if run.over:
                return run
            latest = state.progress(run.id)
            if latest != progress:
                progress, heard = latest, now
            course.add(Sample(now, latest.counts))
        said = [] if progress is None else state_words(run, progress, context.now())
        display.show(course, said or quiet_words(now - heard))
        if now - heard > LOST_AFTER:
            return run
        time.sleep(pause(now - began))


def let_report(target: Target, run: Run) -> None:
    """Let a function report the end of a run that no function has ended, if its kind does such.

    If this fails, a message of the run that is still in flight has the same effect.
    """
    if not run.plan:
        with contextlib.suppress(BotoCoreError, ClientError, SynclineError):
            target.queues.send([Outgoing(first_batch(run))])


@contextlib.contextmanager
def _patience(context: Context, silent: float) -> Iterator[None]:
    """Let what passes by itself pass, for a while."""
    try:
        yield
    except (BotoCoreError, ClientError) as error:
        told = as_syncline_error(error, context.where, local=context.target.local)
        if not told.retried or silent > _PATIENCE:
            raise SynclineError(told.code.name, f"{told.what}; the run goes on") from None


def quiet_words(silent: float) -> list[str]:
    """A word on a long silence, if it is one."""
    if silent < _QUIET:
        return []
    return [f"nothing heard for {about(silent)} (a large layer is silent for up to 15 min)"]


@contextlib.contextmanager
def _display(context: Context, run: Run) -> Iterator[Display]:
    if context.out.as_json:
        yield _Nothing()
    elif context.out.live:
        with _live_line(run) as line:
            yield line
    else:
        yield PlainLines(context.out.line)


class _Nothing:
    def show(self, course: Course, said: list[str]) -> None:
        pass


class PlainLines:
    """One line each few seconds: at once when something changed, now and then when nothing did."""

    def __init__(self, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._write = write
        self._clock = clock
        self._counts: Counts | None = None
        self._at = clock()

    def show(self, course: Course, said: list[str]) -> None:
        now = self._clock()
        due = _PLAIN_EVERY if course.counts != self._counts else _PLAIN_QUIET_EVERY
        if now - self._at >= due:
            self._write(", ".join(words(course.counts, course.rate) + said))
            self._at, self._counts = now, course.counts


@contextlib.contextmanager
def _live_line(run: Run) -> Iterator[Display]:
    """A line that is written again and again, and gone at the end."""
    from rich.live import Live  # noqa: PLC0415 - only terminals need it

    with Live(refresh_per_second=5, transient=True) as live:
        yield _LiveLine(run, live.update)


class _LiveLine:
    def __init__(self, run: Run, update: Callable[[Table], None]) -> None:
        self._run = run
        self._update = update

    def show(self, course: Course, said: list[str]) -> None:
        from rich.progress_bar import ProgressBar  # noqa: PLC0415
        from rich.table import Table  # noqa: PLC0415

        counts = course.counts
        found = total(counts)
        bar = ProgressBar(found or None, done(counts), width=20, pulse=not found)
        grid = Table.grid(padding=(0, 1))
        grid.add_column(no_wrap=True)
        grid.add_column(width=20)
        grid.add_column(no_wrap=True, overflow="ellipsis")
        grid.add_row(f"[bold]{self._run.sync}[/]", bar, ", ".join(words(counts, course.rate) + said))
        self._update(grid)
