"""``syncline retry`` and ``syncline cancel``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from syncline.cli.commands_run import config_of, ended, kind_of
from syncline.cli.context import Answer, Context
from syncline.cli.following import begin, follow, let_report
from syncline.cli.show import many, number
from syncline.cli.summary import as_dict, ending, item_of, named
from syncline.errors import SynclineError
from syncline.messages import Batch, DeadLetter, Outgoing, QueuedLetter, Queues, Start
from syncline.model import EVERYTHING, LARGEST_SCOPE, Run, RunStatus, Scope, Step, Trigger, json_bytes
from syncline.store.failures import Key
from syncline.store.state import State

if TYPE_CHECKING:
    from syncline.cli.target import Target
    from syncline.config.sync import Sync

NOTHING: Final = Scope(())
_HIDDEN: Final = 120
"""Seconds for which a letter that was read is ours: long enough for some thousand of them."""
_NAMED: Final = 5
"""Items that a message names."""
_ALL: Final = "*"
"""Stands for all dead letters of a sync."""


@dataclass(frozen=True, slots=True)
class GivenUp:
    """A dead letter with what a scan has to cover for it, and the items that it stands for."""

    letter: QueuedLetter
    scope: Scope
    keys: tuple[Key, ...]

    @property
    def called(self) -> set[str]:
        """The names by which a person may call its items."""
        return {text for key in self.keys for text in (item_of(*key), ":".join(key))}

    @property
    def size(self) -> int:
        """The bytes of its names, as JSON."""
        return sum(json_bytes(text) for key in self.keys for text in key)


@dataclass(slots=True)
class Letters:
    """What lies in the dead-letter queues, sorted for one sync.

    ``verified`` are letters whose items were verified since: they go. ``given_up`` is to be scanned again, within
    ``scope``. ``beyond`` is too, but is more than one scan may cover. ``stranded`` is work that a run still waits for,
    as no function came to its end with it: it goes back to its queue. ``others`` are of other syncs, or nobody's.
    """

    verified: list[GivenUp] = field(default_factory=list)
    given_up: list[GivenUp] = field(default_factory=list)
    scope: Scope = NOTHING
    beyond: list[GivenUp] = field(default_factory=list)
    stranded: list[tuple[QueuedLetter, Batch | Start]] = field(default_factory=list)
    others: list[QueuedLetter] = field(default_factory=list)

    def take(self, given_up: Sequence[GivenUp]) -> None:
        """Sort out what was given up: everything is scanned if a scan of everything was among it."""
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
        """The items that the run answers for."""
        return sorted({key for each in self.given_up for key in each.keys})

    @property
    def kept(self) -> list[QueuedLetter]:
        """The letters that stay."""
        return [*self.others, *(each.letter for each in (*self.beyond, *self.given_up))]


def retry(context: Context, name: str, *, wait: bool, drop: Sequence[str] = ()) -> Answer:
    """Start a run over what was given up, or drop the letters of items that are named instead.

    A letter stays until its item was verified: this command takes away those of items verified since, and so do
    ``retry --wait`` after its run, and ``status``. Raises ALREADY_RUNNING, unless there was work for the run under way.
    """
    state, queues = context.target.state, context.target.queues
    from syncline.config.sync import load_sync  # noqa: PLC0415 - `status` imports this module

    try:
        sync = load_sync(config_of(state, name))
    except SynclineError as error:
        if error.code.name == "NO_SUCH_SYNC" and letters_by_sync(queues).get(name):
            return _drop(context, name, drop) if drop else _list(context, name)
        raise
    if drop:
        return _drop(context, name, drop)
    letters = _sorted(state, name, _read(queues), sync.scan_group)
    try:
        _resume(queues, letters)
        settle(context.target, name, letters.verified)
        run = _begin(context, name, letters)
    finally:
        for letter in letters.kept:
            queues.release_letter(letter)
    return _tell(context, sync, letters, run, wait=wait)


def take_away_verified(target: Target, name: str) -> int:
    """Delete the dead letters of a sync whose items were verified since, and return their number."""
    if not target.state.failures.has_solved(name):
        return 0
    from syncline.config.sync import load_sync  # noqa: PLC0415

    scan_group = load_sync(target.state.sync_config(name)).scan_group
    letters = _sorted(target.state, name, _read(target.queues), scan_group)
    try:
        settle(target, name, letters.verified)
        target.state.failures.clear_solved(name)
    finally:
        for letter in (*letters.kept, *(letter for letter, _ in letters.stranded)):
            target.queues.release_letter(letter)
    return len(letters.verified)


def settle(target: Target, name: str, letters: Iterable[GivenUp]) -> None:
    """Delete letters whose items were verified, and then what is remembered of these."""
    keys: set[Key] = set()
    for each in letters:
        target.queues.delete_letter(each.letter)
        keys |= set(each.keys)
    failures = target.state.failures
    solved = {key: each.solved for key, each in failures.find(name, keys).items() if each.solved is not None}
    failures.forget(name, solved, max(solved.values(), default=""))


def _read(queues: Queues, steps: Iterable[Step] = Step) -> list[QueuedLetter]:
    """Return every letter of the steps; each is hidden from others for a while."""
    with ThreadPoolExecutor(len(Step)) as pool:
        found = pool.map(lambda step: list(queues.dead_letters(step, hidden_for=_HIDDEN)), steps)
        return [letter for letters in found for letter in letters]


def letters_by_sync(queues: Queues, steps: Iterable[Step] = Step) -> Counter[str]:
    """Return the number of dead letters of each sync, also of syncs that are not applied (any more)."""
    letters = _read(queues, steps)
    try:
        works = [work for letter in letters if (work := _work(letter.read())) is not None]
        return Counter(work.sync for work in works)
    finally:
        for letter in letters:
            queues.release_letter(letter)


def _work(message: DeadLetter | Batch | Start | None) -> Batch | Start | None:
    return message.batch if isinstance(message, DeadLetter) else message


def _whole_group(group: str, name: str) -> str:  # noqa: ARG001 - as `scan_group` of a sync
    return group


def _sorted(
    state: State, name: str, found: Iterable[QueuedLetter], scan_group: Callable[[str, str], str] = _whole_group
) -> Letters:
    """Sort letters for the sync ``name``; ``scan_group`` returns the group of a scan for an item of it."""
    letters = Letters()
    given_up: list[GivenUp] = []
    for letter in found:
        message = letter.read()
        work = _work(message)
        if message is None or work is None or work.sync != name:
            letters.others.append(letter)
        elif not isinstance(message, DeadLetter) and _is_awaited(state, message):
            letters.stranded.append((letter, message))
        else:
            given_up.append(GivenUp(letter, _scope(work, scan_group), _keys(message)))
    known = state.failures.find(name, {key for each in given_up for key in each.keys})
    solved = {key for key, failure in known.items() if failure.solved is not None}
    letters.verified = [each for each in given_up if solved.issuperset(each.keys)]
    letters.take([each for each in given_up if not solved.issuperset(each.keys)])
    return letters


def _keys(message: DeadLetter | Batch | Start) -> tuple[Key, ...]:
    """Return the items that a letter stands for."""
    if isinstance(message, DeadLetter):
        return (message.key,)
    items = message.items if isinstance(message, Batch) else ()
    return tuple((item.group, item.name) for item in items) or tuple((g, "*") for g in message.scope.groups or ("*",))


def _is_awaited(state: State, work: Batch | Start) -> bool:
    """Return True if a run is under way that cannot end without this work."""
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


def _resume(queues: Queues, letters: Letters) -> None:
    """Put stranded work back into its queue; done twice it is done once."""
    for letter, work in letters.stranded:
        if isinstance(work, Start):
            queues.start(work)
        else:
            queues.send([Outgoing(work)])
        queues.delete_letter(letter)


def _begin(context: Context, name: str, letters: Letters) -> Run | None:
    """Begin the run over what was given up; None where there is nothing, or a run has just been helped to go on."""
    if not letters.given_up:
        return None
    try:
        return begin(context.target, name, Trigger.RETRY, letters.scope, asked=letters.asked)
    except SynclineError as error:
        if error.code.name == "ALREADY_RUNNING" and letters.stranded:
            return None
        raise


def _list(context: Context, name: str) -> Answer:
    """List the dead letters of a sync that is not applied (any more)."""
    out, queues = context.out, context.target.queues
    letters = _read(queues)
    try:
        found = _sorted(context.target.state, name, letters)
    finally:
        for letter in letters:
            queues.release_letter(letter)
    items = sorted({item_of(*key) for each in (*found.verified, *found.given_up, *found.beyond) for key in each.keys})
    out.line(f"{name} is not applied, so nothing of it is tried again; it has dead letters of:", "yellow")
    out.table([(item,) for item in items], indent=2)
    out.follow_up(context.command(f"retry {name} --drop '*'"), "deletes them")
    return Answer({"started": False, "run": None, "letters": {"items": items}})


def _drop(context: Context, name: str, items: Sequence[str]) -> Answer:
    """Delete the dead letters of items, or all (``*``), whatever became of these; raises USAGE for one without any."""
    target, out = context.target, context.out
    letters = _sorted(target.state, name, _read(target.queues))
    lying = [*letters.verified, *letters.given_up, *letters.beyond]
    if kind_of(target.state, name).groups_hidden:
        lying = [replace(each, keys=tuple((item, item) for _, item in each.keys)) for each in lying]
    wanted = set(items) - {_ALL}
    chosen = [each for each in lying if _ALL in items or not wanted.isdisjoint(each.called)]
    missing = sorted(wanted.difference(*(each.called for each in chosen)))
    kept = lying if missing else [each for each in lying if each not in chosen]
    try:
        if not missing:
            for each in chosen:
                target.queues.delete_letter(each.letter)
    finally:
        for letter in (*letters.others, *(each.letter for each in kept), *(letter for letter, _ in letters.stranded)):
            target.queues.release_letter(letter)
    if missing:
        there = ", ".join(sorted({item_of(*key) for each in lying for key in each.keys})[:_NAMED])
        what = f"{name} has no dead letter of {missing[0]}; there are those of: {there or 'none'}"
        raise SynclineError("USAGE", what)
    out.line(f"{many(len(chosen), 'dead letter')} of {name} dropped")
    return Answer({"started": False, "run": None, "letters": {"dropped": len(chosen)}})


def _tell(context: Context, sync: Sync, letters: Letters, run: Run | None, *, wait: bool) -> Answer:
    """Tell what was done with the letters, and follow the run to its end with ``wait``."""
    out, name, retried = context.out, sync.name, letters.given_up if run is not None else []
    told: dict[str, Any] = {"retried": len(retried), "resumed": len(letters.stranded)}
    told |= {"left": len(letters.kept) - len(retried), "verified": len(letters.verified)}
    _tell_of_letters(context, name, letters, run)
    followed = run or (context.target.state.current_run(name) if letters.stranded else None)
    if followed is None:
        return Answer({"started": False, "run": None, "letters": told})
    if not wait:
        out.follow_up(context.command(f"status {name} --wait"), "follows it")
        return Answer({"started": run is not None, "run": as_dict(followed), "letters": told})
    answer = ended(context, follow(context, followed), started=run is not None)
    gone = take_away_verified(context.target, name)
    told["verified"] += gone
    if run is not None:
        stay = max(0, len(retried) - gone)
        out.line(f"{many(gone, 'dead letter')} deleted" + (f", {number(stay)} left" if stay else ""), "dim")
    return Answer({**answer.value, "letters": told}, answer.code)


def _tell_of_letters(context: Context, name: str, letters: Letters, run: Run | None) -> None:
    out = context.out
    if letters.verified:
        out.line(f"{many(len(letters.verified), 'dead letter')} of {name} deleted: verified since")
    if letters.stranded:
        out.line(f"{many(len(letters.stranded), 'message')} put back: the run under way goes on")
    count = many(len(letters.given_up), "dead letter")
    if run is not None:
        out.line(f"run {run.id} of {name} begun over {named(letters.scope)}, for {count}")
        out.line("each dead letter stays until its item is verified", "dim")
    elif letters.given_up:
        out.line(f"{count} of {name} left until that run is over", "yellow")
    elif not letters.stranded and not letters.verified:
        out.line(f"nothing of {name} was given up")
    if letters.beyond:
        more, command = many(len(letters.beyond), "dead letter"), context.command(f"retry {name}")
        out.line(f"{more} of {name} left: more than one run takes; `{command}` again", "yellow")
    if letters.others:
        out.line(f"{many(len(letters.others), 'dead letter')} of other syncs left alone", "dim")


def cancel(context: Context, name: str) -> Answer:
    """End the run in progress and wait until it is over, which takes ten seconds at most.

    That may be the run of a sync that was removed meanwhile.
    """
    state, out = context.target.state, context.out
    current = state.current_run(name)
    if current is None or current.over:
        config_of(state, name)
        out.line(f"no run of {name} is under way")
        return Answer({"cancelled": False, "run": None})
    run = state.cancel_run(name, current.id)
    if not run.over:
        run = follow(context, run)
    if run.status is RunStatus.LOST:
        let_report(context.target, run)
        out.line(f"run {run.id} of {name} was lost, and is given up; the sync may run again", "yellow")
    else:
        out.line(*ending(run))
    return Answer({"cancelled": True, "run": as_dict(run)})
