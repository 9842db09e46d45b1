"""``syncline retry`` and ``syncline cancel``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from syncline.cli.commands_run import config_of, kind_of, show_ending
from syncline.cli.context import CommandResult, Context
from syncline.cli.output import number, plural
from syncline.cli.run_progress import follow_run, request_report, start_run
from syncline.cli.summary import ending_line, item_text, run_dict, scope_text
from syncline.errors import SynclineError
from syncline.messages import Batch, DeadLetter, Outgoing, QueuedLetter, Queues, Start
from syncline.model import EVERYTHING, LARGEST_SCOPE, Run, RunStatus, Scope, Step, Trigger, json_bytes
from syncline.store.failures import Key
from syncline.store.state import State

if TYPE_CHECKING:
    from syncline.cli.deployment import Deployment
    from syncline.config.sync import Sync

NOTHING: Final = Scope(())
_HIDDEN: Final = 120
"""Seconds for which a letter that was read is hidden: enough to process some thousand of them."""
_NAMED: Final = 5
"""Items named in a message."""
_ALL: Final = "*"
"""Selects all dead letters of a sync."""


@dataclass(frozen=True, slots=True)
class RetryLetter:
    """A dead letter, the scope that a retry has to scan for it, and its items."""

    letter: QueuedLetter
    scope: Scope
    keys: tuple[Key, ...]

    @property
    def names(self) -> set[str]:
        """The names that select its items on the command line."""
        return {text for key in self.keys for text in (item_text(*key), ":".join(key))}

    @property
    def size(self) -> int:
        """The size of its names as JSON, in bytes."""
        return sum(json_bytes(text) for key in self.keys for text in key)


@dataclass(slots=True)
class SortedLetters:
    """The dead letters, sorted for one sync.

    ``verified``: their items were verified since, so the letters are deleted. ``given_up``: to scan again within
    ``scope``. ``beyond``: likewise, but more than one scan can cover. ``stranded``: work that a run in progress waits
    for, to put back into its queue. ``others``: of other syncs, or unreadable.
    """

    verified: list[RetryLetter] = field(default_factory=list)
    given_up: list[RetryLetter] = field(default_factory=list)
    scope: Scope = NOTHING
    beyond: list[RetryLetter] = field(default_factory=list)
    stranded: list[tuple[QueuedLetter, Batch | Start]] = field(default_factory=list)
    others: list[QueuedLetter] = field(default_factory=list)

    def take(self, given_up: Sequence[RetryLetter]) -> None:
        """Fill ``given_up``, ``beyond`` and ``scope``. A dead letter of a scan of everything makes the scope everything."""
        everything = any(each.scope.everything for each in given_up)
        groups: set[str] = set()
        size = names = 0
        for each in sorted(given_up, key=lambda each: not each.scope.everything) if everything else given_up:
            more = 0 if everything else sum(map(json_bytes, set(each.scope.groups or ()) - groups))
            if self.given_up and max(size + more, names + each.size) > LARGEST_SCOPE:
                self.beyond.append(each)
                continue
            self.given_up.append(each)
            groups |= set(each.scope.groups or ())
            size, names = size + more, names + each.size
        self.scope = EVERYTHING if everything else Scope.of(groups)

    @property
    def asked(self) -> list[Key]:
        """The items whose letters the run is to resolve."""
        return sorted({key for each in self.given_up for key in each.keys})

    @property
    def kept(self) -> list[QueuedLetter]:
        """The letters to put back."""
        return [*self.others, *(each.letter for each in (*self.beyond, *self.given_up))]


def retry(context: Context, name: str, *, wait: bool, drop: Sequence[str] = ()) -> CommandResult:
    """Start a run over the items with dead letters, or delete the letters named by ``drop``.

    A letter is deleted once its item is verified: by this command, by ``retry --wait`` after its run, and by ``status``.
    Raises ALREADY_RUNNING, unless work was put back for the run in progress.
    """
    state, queues = context.deployment.state, context.deployment.queues
    from syncline.config.sync import load_sync  # noqa: PLC0415 - `status` imports this module

    try:
        sync = load_sync(config_of(state, name))
    except SynclineError as error:
        if error.code.name == "NO_SUCH_SYNC" and letters_by_sync(queues).get(name):
            return _drop(context, name, drop) if drop else _list(context, name)
        raise
    if drop:
        return _drop(context, name, drop)
    letters = _sort_letters(state, name, _read(queues), sync.scan_group)
    try:
        _resume(queues, letters)
        delete_letters(context.deployment, name, letters.verified)
        run = _begin(context, name, letters)
    finally:
        for letter in letters.kept:
            queues.release_letter(letter)
    return _report(context, sync, letters, run, wait=wait)


def delete_verified(deployment: Deployment, name: str) -> int:
    """Delete the dead letters of a sync whose items were verified since, and return their number."""
    if not deployment.state.failures.has_solved(name):
        return 0
    from syncline.config.sync import load_sync  # noqa: PLC0415

    scan_group = load_sync(deployment.state.sync_config(name)).scan_group
    letters = _sort_letters(deployment.state, name, _read(deployment.queues), scan_group)
    try:
        delete_letters(deployment, name, letters.verified)
        deployment.state.failures.clear_solved(name)
    finally:
        for letter in (*letters.kept, *(letter for letter, _ in letters.stranded)):
            deployment.queues.release_letter(letter)
    return len(letters.verified)


def delete_letters(deployment: Deployment, name: str, letters: Iterable[RetryLetter]) -> None:
    """Delete letters of verified items, then the records of these failures."""
    keys: set[Key] = set()
    for each in letters:
        deployment.queues.delete_letter(each.letter)
        keys |= set(each.keys)
    failures = deployment.state.failures
    solved = {key: each.solved for key, each in failures.find(name, keys).items() if each.solved is not None}
    failures.forget(name, solved, max(solved.values(), default=""))


def _read(queues: Queues, steps: Iterable[Step] = Step) -> list[QueuedLetter]:
    """Return all dead letters of the steps, hidden from other readers for a while."""
    with ThreadPoolExecutor(len(Step)) as pool:
        found = pool.map(lambda step: list(queues.dead_letters(step, hidden_for=_HIDDEN)), steps)
        return [letter for letters in found for letter in letters]


def letters_by_sync(queues: Queues, steps: Iterable[Step] = Step) -> Counter[str]:
    """Return the number of dead letters of each sync, also of syncs that are not applied."""
    letters = _read(queues, steps)
    try:
        works = [work for letter in letters if (work := _work(letter.read())) is not None]
        return Counter(work.sync for work in works)
    finally:
        for letter in letters:
            queues.release_letter(letter)


def _work(message: DeadLetter | Batch | Start | None) -> Batch | Start | None:
    return message.batch if isinstance(message, DeadLetter) else message


def _sort_letters(
    state: State,
    name: str,
    found: Iterable[QueuedLetter],
    scan_group: Callable[[str, str], str] = lambda group, _name: group,
) -> SortedLetters:
    """Sort letters for the sync ``name``; ``scan_group`` maps an item's group and name to the group of a scan."""
    letters = SortedLetters()
    given_up: list[RetryLetter] = []
    for letter in found:
        message = letter.read()
        work = _work(message)
        if message is None or work is None or work.sync != name:
            letters.others.append(letter)
        elif not isinstance(message, DeadLetter) and _is_awaited(state, message):
            letters.stranded.append((letter, message))
        else:
            given_up.append(RetryLetter(letter, _scope(work, scan_group), _keys(message)))
    known = state.failures.find(name, {key for each in given_up for key in each.keys})
    solved = {key for key, failure in known.items() if failure.solved is not None}
    letters.verified = [each for each in given_up if solved.issuperset(each.keys)]
    letters.take([each for each in given_up if not solved.issuperset(each.keys)])
    return letters


def _keys(message: DeadLetter | Batch | Start) -> tuple[Key, ...]:
    """Return the keys of a letter's items."""
    if isinstance(message, DeadLetter):
        return (message.key,)
    items = message.items if isinstance(message, Batch) else ()
    return tuple((item.group, item.name) for item in items) or tuple((g, "*") for g in message.scope.groups or ("*",))


def _is_awaited(state: State, work: Batch | Start) -> bool:
    """Return True if a run in progress waits for this work."""
    if work.run is None:
        return False
    try:
        return not state.run(work.sync, work.run).over
    except SynclineError as error:
        if error.code.name == "NO_SUCH_RUN":
            return False
        raise


def _scope(work: Batch | Start, scan_group: Callable[[str, str], str]) -> Scope:
    items = work.items if isinstance(work, Batch) else ()
    return Scope.of(scan_group(item.group, item.name) for item in items) if items else work.scope


def _resume(queues: Queues, letters: SortedLetters) -> None:
    """Put stranded work back into its queue; idempotent."""
    for letter, work in letters.stranded:
        if isinstance(work, Start):
            queues.start(work)
        else:
            queues.send([Outgoing(work)])
        queues.delete_letter(letter)


def _begin(context: Context, name: str, letters: SortedLetters) -> Run | None:
    """Start the run over given-up items; None if there are none, or if work was put back for a run in progress."""
    if not letters.given_up:
        return None
    try:
        return start_run(context.deployment, name, Trigger.RETRY, letters.scope, asked=letters.asked)
    except SynclineError as error:
        if error.code.name == "ALREADY_RUNNING" and letters.stranded:
            return None
        raise


def _list(context: Context, name: str) -> CommandResult:
    """List the dead letters of a sync that is not applied."""
    out, queues = context.out, context.deployment.queues
    letters = _read(queues)
    try:
        found = _sort_letters(context.deployment.state, name, letters)
    finally:
        for letter in letters:
            queues.release_letter(letter)
    items = sorted({item_text(*key) for each in (*found.verified, *found.given_up, *found.beyond) for key in each.keys})
    out.line(f"{name} is not applied, so its items cannot be retried; it has dead letters of:", "yellow")
    out.table([(item,) for item in items], indent=2)
    out.hint(context.command(f"retry {name} --drop '*'"), "to delete them")
    return CommandResult({"started": False, "run": None, "letters": {"items": items}})


def _drop(context: Context, name: str, items: Sequence[str]) -> CommandResult:
    """Delete the dead letters of the named items (``*``: all); raises USAGE for an item without one."""
    deployment, out = context.deployment, context.out
    letters = _sort_letters(deployment.state, name, _read(deployment.queues))
    present = [*letters.verified, *letters.given_up, *letters.beyond]
    if kind_of(deployment.state, name).groups_hidden:
        present = [replace(each, keys=tuple((item, item) for _, item in each.keys)) for each in present]
    wanted = set(items) - {_ALL}
    chosen = [each for each in present if _ALL in items or not wanted.isdisjoint(each.names)]
    missing = sorted(wanted.difference(*(each.names for each in chosen)))
    kept = present if missing else [each for each in present if each not in chosen]
    try:
        if not missing:
            for each in chosen:
                deployment.queues.delete_letter(each.letter)
    finally:
        for letter in (*letters.others, *(each.letter for each in kept), *(letter for letter, _ in letters.stranded)):
            deployment.queues.release_letter(letter)
    if missing:
        names = ", ".join(sorted({item_text(*key) for each in present for key in each.keys})[:_NAMED])
        what = f"{name} has no dead letter of {missing[0]}; it has dead letters of: {names or 'none'}"
        raise SynclineError("USAGE", what)
    out.line(f"{plural(len(chosen), 'dead letter')} of {name} dropped")
    return CommandResult({"started": False, "run": None, "letters": {"dropped": len(chosen)}})


def _report(context: Context, sync: Sync, letters: SortedLetters, run: Run | None, *, wait: bool) -> CommandResult:
    """Report the handling of the letters; with ``wait`` follow the run to its end."""
    out, name, retried = context.out, sync.name, letters.given_up if run is not None else []
    counts: dict[str, Any] = {"retried": len(retried), "resumed": len(letters.stranded)}
    counts |= {"left": len(letters.kept) - len(retried), "verified": len(letters.verified)}
    _report_letters(context, name, letters, run)
    followed = run or (context.deployment.state.current_run(name) if letters.stranded else None)
    if followed is None:
        return CommandResult({"started": False, "run": None, "letters": counts})
    if not wait:
        out.hint(context.command(f"status {name} --wait"), "to follow it")
        return CommandResult({"started": run is not None, "run": run_dict(followed), "letters": counts})
    answer = show_ending(context, follow_run(context, followed), started=run is not None)
    gone = delete_verified(context.deployment, name)
    counts["verified"] += gone
    if run is not None:
        stay = max(0, len(retried) - gone)
        out.line(f"{plural(gone, 'dead letter')} deleted" + (f", {number(stay)} kept" if stay else ""), "dim")
    return CommandResult({**answer.value, "letters": counts}, answer.code)


def _report_letters(context: Context, name: str, letters: SortedLetters, run: Run | None) -> None:
    out = context.out
    if letters.verified:
        out.line(f"{plural(len(letters.verified), 'dead letter')} of {name} deleted: their items are verified")
    if letters.stranded:
        out.line(f"{plural(len(letters.stranded), 'message')} put back into its queue; the run in progress continues")
    count = plural(len(letters.given_up), "dead letter")
    if run is not None:
        out.line(f"run {run.id} of {name} started over {scope_text(letters.scope)} for {count}")
        out.line("each dead letter stays until its item is verified", "dim")
    elif letters.given_up:
        out.line(f"{count} of {name} kept until that run ends", "yellow")
    elif not letters.stranded and not letters.verified:
        out.line(f"{name} has no dead letters to retry")
    if letters.beyond:
        more, command = plural(len(letters.beyond), "dead letter"), context.command(f"retry {name}")
        out.line(f"{more} of {name} kept, more than one run can cover; run `{command}` again", "yellow")
    if letters.others:
        out.line(f"{plural(len(letters.others), 'dead letter')} of other syncs kept", "dim")


def cancel(context: Context, name: str) -> CommandResult:
    """Cancel the run in progress and wait until it has ended, ten seconds at most.

    The sync may have been removed meanwhile.
    """
    state, out = context.deployment.state, context.out
    current = state.current_run(name)
    if current is None or current.over:
        config_of(state, name)
        out.line(f"no run of {name} is in progress")
        return CommandResult({"cancelled": False, "run": None})
    run = state.cancel_run(name, current.id)
    if not run.over:
        run = follow_run(context, run)
    if run.status is RunStatus.LOST:
        request_report(context.deployment, run)
        out.line(f"run {run.id} of {name} was lost and has been ended; the sync can run again", "yellow")
    else:
        out.line(*ending_line(run))
    return CommandResult({"cancelled": True, "run": run_dict(run)})
