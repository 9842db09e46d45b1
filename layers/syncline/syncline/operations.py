"""Operations on syncs that the command and the status page offer: start a run, retry failed items, cancel a run."""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Final, Protocol

from botocore.exceptions import BotoCoreError, ClientError

from syncline.errors import SynclineError
from syncline.messages import Batch, DeadLetter, Outgoing, QueuedLetter, Queues, Start
from syncline.model import EVERYTHING, LARGEST_SCOPE, Audit, Counts, Run, Scope, Step, Trigger, json_bytes
from syncline.run_text import item_text
from syncline.store.batches import BatchRecord
from syncline.store.failures import Key
from syncline.store.runs import new_run_id
from syncline.store.state import CANCELLED_AFTER, State, first_batch

if TYPE_CHECKING:
    from syncline.config.sync import Sync


class Deployment(Protocol):
    """The state and the queues of a stack."""

    @property
    def state(self) -> State: ...

    @property
    def queues(self) -> Queues: ...


def start_run(  # noqa: PLR0913 - each is a fact of the run
    deployment: Deployment,
    sync: str,
    trigger: Trigger,
    scope: Scope,
    *,
    plan: bool = False,
    allow_removals: int | None = None,
    asked: Iterable[Key] = (),
    audit: Audit | None = None,
    drill: float | None = None,
) -> Run:
    """Start a run and send the message for its first scan; raises ALREADY_RUNNING. An `audit` or `drill` is also a `plan`.

    If the message cannot be sent the run is ended, as no function would work on it.
    """
    state, plan = deployment.state, plan or audit is not None or drill is not None
    run, root = state.begin_run(
        sync,
        new_run_id(),
        trigger,
        scope,
        plan=plan,
        allow_removals=allow_removals,
        asked=asked,
        audit=audit,
        drill=drill,
    )
    try:
        deployment.queues.start(Start(sync, trigger, scope, run=run.id, plan=plan, audit=run.audit, drill=drill))
    except BaseException:
        state.cancel_run(sync, run.id)
        state.end_batch(root, BatchRecord(()), Counts())
        state.finish_run(sync, run.id)
        raise
    return run


def request_report(deployment: Deployment, run: Run) -> None:
    """Send a message so that a function reports the end of a run that no function has ended.

    If this fails, a message of the run that is still in flight has the same effect.
    """
    if not run.plan:
        with contextlib.suppress(BotoCoreError, ClientError, SynclineError):
            deployment.queues.send([Outgoing(first_batch(run))])


NOTHING: Final = Scope(())


_HIDDEN: Final = 120
"""Seconds for which a letter that was read is hidden: enough to process some thousand of them."""


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


def retry_letters(deployment: Deployment, sync: Sync, most: int | None = None) -> tuple[SortedLetters, Run | None]:
    """Start a run over the items of a sync's dead letters, and put stranded work back into its queue.

    Return the letters and the run, None if no run was needed. `most` limits the letters read of each step. Raises
    ALREADY_RUNNING, unless work was put back for the run in progress.
    """
    queues = deployment.queues
    letters = sort_letters(deployment.state, sync.name, read_letters(queues, most=most), sync.scan_group)
    try:
        _put_back(queues, letters)
        delete_letters(deployment, sync.name, letters.verified)
        run = _begin(deployment, sync.name, letters)
    finally:
        for letter in letters.kept:
            queues.release_letter(letter)
    return letters, run


def _begin(deployment: Deployment, name: str, letters: SortedLetters) -> Run | None:
    """Start the run over given-up items; None if there are none, or if work was put back for a run in progress."""
    if not letters.given_up:
        return None
    try:
        return start_run(deployment, name, Trigger.RETRY, letters.scope, asked=letters.asked)
    except SynclineError as error:
        if error.code.name == "ALREADY_RUNNING" and letters.stranded:
            return None
        raise


def request_end(deployment: Deployment, run: Run) -> None:
    """Send a message so that a function ends a cancelled run, if the functions that work on it do not.

    Nothing else may be in flight for the run: a message was lost, or waits for a long time.
    """
    deployment.queues.send([Outgoing(first_batch(run), math.ceil(CANCELLED_AFTER) + 1)])


def delete_verified(deployment: Deployment, name: str) -> int:
    """Delete the dead letters of a sync whose items were verified since, and return their number."""
    if not deployment.state.failures.has_solved(name):
        return 0
    from syncline.config.sync import load_sync  # noqa: PLC0415

    scan_group = load_sync(deployment.state.sync_config(name)).scan_group
    letters = sort_letters(deployment.state, name, read_letters(deployment.queues), scan_group)
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


def read_letters(queues: Queues, steps: Iterable[Step] = Step, most: int | None = None) -> list[QueuedLetter]:
    """Return the dead letters of the steps, `most` of each, hidden from other readers for a while."""
    with ThreadPoolExecutor(len(Step)) as pool:
        found = pool.map(lambda step: list(islice(queues.dead_letters(step, hidden_for=_HIDDEN), most)), steps)
        return [letter for letters in found for letter in letters]


def letters_by_sync(queues: Queues, steps: Iterable[Step] = Step) -> Counter[str]:
    """Return the number of dead letters of each sync, also of syncs that are not applied."""
    letters = read_letters(queues, steps)
    try:
        works = [work for letter in letters if (work := _work(letter.read())) is not None]
        return Counter(work.sync for work in works)
    finally:
        for letter in letters:
            queues.release_letter(letter)


def _work(message: DeadLetter | Batch | Start | None) -> Batch | Start | None:
    return message.batch if isinstance(message, DeadLetter) else message


def sort_letters(
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


def _put_back(queues: Queues, letters: SortedLetters) -> None:
    """Put stranded work back into its queue; idempotent."""
    for letter, work in letters.stranded:
        if isinstance(work, Start):
            queues.start(work)
        else:
            queues.send([Outgoing(work)])
        queues.delete_letter(letter)
