"""Why a run does not get further, in words and for JSON."""

from __future__ import annotations

import time
from dataclasses import replace

from syncline.model import Run, RunStatus, Waiting
from syncline.store.batches import Progress
from syncline.store.runs import STALLED
from syncline.visible import visible


def waiting_of(run: Run, progress: Progress, now: float) -> Waiting | None:
    """Return why a run waits if it has made no progress for a minute, as far as that was noted. ``now`` is in Unix seconds."""
    waiting, advanced = run.waiting, max(progress.advanced, run.started)
    if run.over or waiting is None or waiting.at < advanced or now - advanced < STALLED:
        return None
    return replace(waiting, since=max(waiting.since, advanced))


def state_words(run: Run, progress: Progress, now: float) -> list[str]:
    """Return that a run is cancelling, and why it waits."""
    said = ["cancelling"] if run.status is RunStatus.CANCELLING else []
    waiting = waiting_of(run, progress, now)
    if waiting is not None:
        again = f"; tried again at {_clock(waiting.until)}" if waiting.until > now else ""
        said.append(f"waiting since {_clock(waiting.since)}: {waiting.code}: {visible(waiting.what)}{again}")
    return said


def _clock(moment: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(moment))
