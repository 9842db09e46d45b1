"""``syncline retry`` and ``syncline cancel``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

from syncline.cli.commands_run import config_of, ended
from syncline.cli.context import Answer, Context
from syncline.cli.following import begin, follow
from syncline.cli.show import many
from syncline.cli.summary import as_dict, ending, named
from syncline.config import Sync, load_sync
from syncline.errors import SynclineError
from syncline.messages import Batch, Dead, DeadLetter, Outgoing, Queues, Start
from syncline.model import EVERYTHING, LARGEST_SCOPE, Run, RunStatus, Scope, Step, Trigger, json_bytes
from syncline.state import State

NOTHING: Final = Scope(())
_HIDDEN: Final = 120
"""Seconds for which a letter that was read is ours: long enough for some thousand of them."""


@dataclass(slots=True)
class Letters:
    """What lies in the dead-letter queues, sorted for one sync.

    ``given_up`` is to be looked at again, within ``scope``. ``beyond`` is too, but is more than one look may cover.
    ``stranded`` is work that a run still waits for, as no function came to its end with it: it goes back to its queue.
    ``others`` are of other syncs, or nobody's.
    """

    given_up: list[DeadLetter] = field(default_factory=list)
    scope: Scope = NOTHING
    beyond: list[DeadLetter] = field(default_factory=list)
    stranded: list[tuple[DeadLetter, Batch | Start]] = field(default_factory=list)
    others: list[DeadLetter] = field(default_factory=list)

    def take(self, given_up: Sequence[tuple[DeadLetter, Scope]]) -> None:
        """Sort out what was given up, each with its scope: everything, if a look at everything was among it."""
        if any(scope.everything for _, scope in given_up):
            self.given_up, self.scope = [letter for letter, _ in given_up], EVERYTHING
            return
        groups: set[str] = set()
        size = 0
        for letter, scope in given_up:
            new = set(scope.groups or ()) - groups
            more = sum(map(json_bytes, new))
            if groups and size + more > LARGEST_SCOPE:
                self.beyond.append(letter)
            else:
                self.given_up.append(letter)
                groups |= new
                size += more
        self.scope = Scope.of(groups)


def retry(context: Context, name: str, *, wait: bool) -> Answer:
    """Start a run over what was given up. Raises ALREADY_RUNNING, unless there was work for the run under way itself.

    A letter is deleted only after what follows from it was queued; whatever comes between, the others are put back.
    """
    state, queues = context.target.state, context.target.queues
    letters = _sorted(state, load_sync(config_of(state, name)), _read(queues))
    kept = [*letters.others, *letters.beyond, *letters.given_up]
    try:
        _resume(queues, letters)
        run = _begin(context, name, letters)
        if run is not None:
            kept = [*letters.others, *letters.beyond]
            for letter in letters.given_up:
                queues.forget(letter)
    finally:
        for letter in kept:
            queues.put_back(letter)
    return _tell(context, name, letters, run, wait=wait)


def _read(queues: Queues) -> list[DeadLetter]:
    """Every letter of every step; each is hidden from others for a while."""
    with ThreadPoolExecutor(len(Step)) as pool:
        found = pool.map(lambda step: list(queues.dead_letters(step, hidden_for=_HIDDEN)), Step)
        return [letter for letters in found for letter in letters]


def _sorted(state: State, sync: Sync, found: Iterable[DeadLetter]) -> Letters:
    letters = Letters()
    given_up: list[tuple[DeadLetter, Scope]] = []
    for letter in found:
        message = letter.read()
        work = message.batch if isinstance(message, Dead) else message
        if message is None or work is None or work.sync != sync.name:
            letters.others.append(letter)
        elif not isinstance(message, Dead) and _is_awaited(state, message):
            letters.stranded.append((letter, message))
        else:
            given_up.append((letter, _scope(work, sync)))
    letters.take(given_up)
    return letters


def _is_awaited(state: State, work: Batch | Start) -> bool:
    """Whether a run is under way that cannot end without this work."""
    if work.run is None:
        return False
    try:
        return not state.run(work.sync, work.run).over
    except SynclineError as error:
        if error.code.name == "NO_SUCH_RUN":
            return False
        raise


def _scope(work: Batch | Start, sync: Sync) -> Scope:
    items = work.items if isinstance(work, Batch) else ()
    return Scope.of(sync.look_at(item.group, item.name) for item in items) if items else work.scope


def _resume(queues: Queues, letters: Letters) -> None:
    """Put stranded work back into its queue; done twice it is done once."""
    for letter, work in letters.stranded:
        if isinstance(work, Start):
            queues.start(work)
        else:
            queues.send([Outgoing(work)])
        queues.forget(letter)


def _begin(context: Context, name: str, letters: Letters) -> Run | None:
    """The run over what was given up; None where there is nothing, or a run has just been helped to go on."""
    if not letters.given_up:
        return None
    try:
        return begin(context.target, name, Trigger.RETRY, letters.scope)
    except SynclineError as error:
        if error.code.name == "ALREADY_RUNNING" and letters.stranded:
            return None
        raise


def _tell(context: Context, name: str, letters: Letters, run: Run | None, *, wait: bool) -> Answer:
    out, retried = context.out, letters.given_up if run is not None else []
    left = len(letters.others) + len(letters.beyond) + len(letters.given_up) - len(retried)
    told: dict[str, Any] = {"retried": len(retried), "resumed": len(letters.stranded), "left": left}
    if letters.stranded:
        out.line(f"{many(len(letters.stranded), 'message')} put back: the run under way goes on")
    if run is not None:
        out.line(f"run {run.id} of {name} begun over {named(letters.scope)}, for {many(len(retried), 'dead letter')}")
    elif not letters.stranded:
        out.line(f"nothing of {name} was given up")
    if len(letters.given_up) > len(retried):
        out.line(f"{many(len(letters.given_up), 'dead letter')} of {name} left until that run is over", "yellow")
    if letters.beyond:
        more = many(len(letters.beyond), "dead letter")
        out.line(
            f"{more} of {name} left: more than one run takes; `{context.command(f'retry {name}')}` again", "yellow"
        )
    if letters.others:
        out.line(f"{many(len(letters.others), 'dead letter')} of other syncs left alone", "dim")
    followed = run or (context.target.state.current_run(name) if letters.stranded else None)
    if followed is None:
        return Answer({"started": False, "run": None, "letters": told})
    if wait:
        answer = ended(context, follow(context, followed), started=run is not None)
        return Answer({**answer.value, "letters": told}, answer.code)
    out.follow_up(context.command(f"status {name} --wait"), "follows it")
    return Answer({"started": run is not None, "run": as_dict(followed), "letters": told})


def cancel(context: Context, name: str, *, wait: bool) -> Answer:
    """End the run under way cleanly; nothing to do where none is. With ``wait``, wait until it is over."""
    state, out = context.target.state, context.out
    config_of(state, name)
    current = state.current_run(name)
    if current is None or current.over:
        out.line(f"no run of {name} is under way")
        return Answer({"cancelled": False, "run": None})
    run = state.cancel_run(name, current.id)
    if wait and not run.over:
        run = follow(context, run)
    if run.status is RunStatus.LOST:
        out.line(f"run {run.id} of {name} was lost, and is given up; the sync may run again", "yellow")
    elif run.over:
        out.line(*ending(run))
    else:
        out.line(f"run {run.id} of {name} is being cancelled: what is being written is finished, nothing more is begun")
        out.follow_up(context.command(f"status {name} --wait"), "follows it to its end")
    return Answer({"cancelled": True, "run": as_dict(run)})
