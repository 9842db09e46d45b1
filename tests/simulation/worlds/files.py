"""Files: checks of the reports of runs, and of the target after full runs."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Final
from unicodedata import normalize

from syncline.model import EVERYTHING, Outcome, Result, Run, Trigger
from syncline.operations import start_run
from tests.simulation.models.bucket_server import BucketServer, StoredObject
from tests.simulation.models.file_manager import FileManagerServer
from tests.simulation.resource_limits import usage
from tests.simulation.stack import Stack
from tests.simulation.worlds.files_systems import REFUSED_KEYS, FilesSystems

_EVENT_DEADLINE: Final = 600.0
"""Seconds within which a change that was notified must be at the target."""
_COPY_REQUESTS: Final = 10
"""Requests that the scan, the copy and the verification of one file take, at most."""
_MESSAGE_DELAY: Final = 60.0
"""Seconds by which messages are late at most. A sync waits for more events for a shorter time."""
_RECHECK_PERIOD: Final = 3600.0
"""Seconds within which every file is read again, with ``recheck: 1h``."""
_PATH_CODES: Final = frozenset({"PATH_REFUSED", "PATH_COLLIDES"})
"""Codes of keys that a file manager cannot have as paths."""


class FilesWorld(FilesSystems):
    """One sync of files from a bucket to another bucket, or to a file manager."""

    def __init__(self, stack: Stack, name: str, rng: random.Random) -> None:
        super().__init__(stack, name, rng)
        self.deferred = 0
        self._full_runs = 0
        self._adopted: set[str] = set()

    def may_repeat(self, result: Result) -> bool:
        """Return True if the file changed at source or target: a run that events have joined scans it again."""
        changes = self.history[result.name].changes
        return self._had_faults or changes > 1 or self.path_of(result.name) in self.judge.foreign_changes

    def check_report(self, run: Run, results: list[Result]) -> Iterator[str]:  # noqa: ARG002 - of the interface
        for each in results:
            if each.outcome is Outcome.MOVED and each.source and not self.history[each.name].had_etag(each.source):
                yield f"{each.name!r} is reported as moved, but the source never had {each.source}"

    def check_full_run(self, run: Run, results: list[Result]) -> Iterator[str]:
        reported = {each.name: each for each in results}
        wanted = {key: self.source.stored(key) for key in self.source.objects() if self._selects(key)}
        self._adopted.clear()
        self.deferred = 0
        for key, stored in wanted.items():
            assert stored is not None
            yield from self._check_object(key, stored, reported.get(key))
        if self._adopted:
            yield from self._check_adopted()
        yield from self._check_counts(run, results, set(wanted))
        yield from self._check_removals(run, results, set(wanted))
        self._full_runs += 1
        if self._full_runs == 2:
            yield from self._check_event({each.name for each in results if each.outcome is Outcome.CONFLICT})

    def _check_removals(self, run: Run, results: list[Result], wanted: set[str]) -> Iterator[str]:
        """Yield files that should have been removed, and removals that should not have happened."""
        if not self._source_keys() and run.counts.removed:
            yield f"the source is empty, and {run.counts.removed} files were removed"
        faults = self._stack.faults
        had_faults = (
            self._had_faults
            or faults.killed
            or faults.lost_replies
            or faults.unreachable
            or faults.server_errors
            or faults.rate_limited
        )
        if self._limits is None or had_faults or not self._source_keys() or any(each.name == "*" for each in results):
            return
        for path in sorted(self.judge.written):
            key, untouched = self.key_of(path), path not in self.judge.foreign_changes
            if key is not None and key not in wanted and untouched and self.judge.ours(path):
                yield f"{path!r} is ours and no longer at the source, but was not removed"

    def _check_adopted(self) -> Iterator[str]:
        """Run the sync again, which reads all adopted files, and yield those that still differ.

        A run adopts a file by its ETag, which does not cover headers.
        """
        self._operator.run_command(
            "run", lambda context: start_run(context.deployment, self.name, Trigger.MANUAL, EVERYTHING)
        )
        self.machine.run(self.machine.now + 2 * _RECHECK_PERIOD)
        for key in self._adopted:
            stored = self.source.stored(key)
            difference = None if stored is None or self._target_forgets else self.judge.difference(key, stored)
            if difference is not None:
                yield f"{key!r} was adopted and read again, but {difference}"

    def _check_event(self, conflicts: set[str]) -> Iterator[str]:
        """Change an object, let its notification arrive, and yield how the target differs after ``_EVENT_DEADLINE``.

        An object whose file a foreign writer has put is not used if the last run reported it as a conflict.
        """
        # Clocks must agree: two processes measure the quiet time after an event.
        if not self._notifies or self._stack.skew > 0.25:
            return
        key = self._prefix + self.rng.choice(self._keys)
        path = self.path_of(key)
        there = path in self.judge.paths()
        if key in conflicts and path in self.judge.foreign_changes:
            return
        if there and self.source.stored(key) is None:
            return  # a file that a lost write left need not be ours
        refused = self._is_refused_key(key) or ".." in key  # no service has such a key: its event counts as forged
        if not self._selects(key) or refused or (there and not self.judge.ours(path) and not self.overwrite):
            return
        self.machine.run(self.machine.now + 2)
        self.source.set(key, self._content(), self._attributes())
        if self._collides(key):
            return
        if self._limits == (1.0, 1000) and self.rng.random() < 0.5:
            yield from self._check_deletion_during_copy(key)
            return
        self.machine.run(self.machine.now + _EVENT_DEADLINE)
        stored = self.source.stored(key)
        assert stored is not None
        if (difference := self.judge.difference(key, stored)) is not None:
            yield f"{key!r} was changed and notified, but {difference}"
        elif self._limits == (1.0, 1000):
            self.source.remove(key)
            self.machine.run(self.machine.now + _EVENT_DEADLINE)
            if path in self.judge.paths():
                yield f"{key!r} was deleted and notified, but its file is still there"

    def _check_deletion_during_copy(self, key: str) -> Iterator[str]:
        """Delete an object at a random request of its copy, and yield an error if its file is there later.

        By chance messages are late from then on, so that the deletion is processed before or after the verification.
        """
        requests, end = self._requests() + self.rng.randint(1, _COPY_REQUESTS), self.machine.now + 100
        while self._requests() < requests and self.machine.now < end:
            self.machine.run(self.machine.now + 0.01)
        self._stack.sqs.late = self.rng.choice([0.0, _MESSAGE_DELAY])
        self.source.remove(key)
        self.machine.run(self.machine.now + _EVENT_DEADLINE)
        self._stack.sqs.late = 0.0
        if self.path_of(key) in self.judge.paths() and self.judge.ours(self.path_of(key)):
            yield f"{key!r} was deleted while it was copied, but its file is still there"

    def _requests(self) -> int:
        """Return the number of requests to servers until now."""
        return usage(self._stack.faults, 0, self._stack.sqs).requests

    def _check_object(self, key: str, stored: StoredObject, result: Result | None) -> Iterator[str]:
        """Yield the error in the result of one object, if there is one."""
        difference = self.judge.difference(key, stored)
        outcome = None if result is None else result.outcome
        code = None if result is None else result.code
        if difference is None:
            if outcome not in (None, Outcome.MOVED, Outcome.EQUAL) and not self._may_be_refused(key, code):
                yield f"{key!r} is equal, and reported as {result}"
        elif outcome is Outcome.LEFT_OUT or result is None:
            if not self._is_marker(key) and not self._is_deferred(key, difference):
                yield f"{key!r} {difference}, and is not reported"
        elif outcome not in (Outcome.CONFLICT, Outcome.FAILED, Outcome.KNOWN):
            if not self._is_damaged(key, difference):  # also by the rename of a damaged file
                yield f"{key!r} {difference}, and is reported as {result}"
        elif code == "FILE_DIFFERS":
            if self.overwrite or "absent" in difference:
                yield f"{key!r} {difference}, and is reported as a conflict, but may be written: {result}"
        elif not self._may_be_refused(key, code):
            yield f"{key!r} {difference} without faults, and is reported as {result}"

    def _is_deferred(self, key: str, difference: str) -> bool:
        """Return True, and count the file as deferred, if this run need not find a difference."""
        deferred = self._needs_recheck(key, difference)
        self.deferred += deferred
        return deferred

    def _needs_recheck(self, key: str, difference: str) -> bool:
        """Return True if only the periodic recheck of the file finds a difference, and it is not due yet."""
        if self._is_damaged(key, difference):
            return True
        if "headers" in difference and self._target_forgets:
            return True  # a service that forgot a change of headers looks like one that does not keep them
        changed = self.path_of(key) in self.judge.foreign_changes or self._both_hide
        if self._rechecks_hourly:
            # A listing shows equal bytes, so this run adopts the file. Later runs recheck it.
            adopted = isinstance(self.target, BucketServer) and "headers" in difference and changed
            adopted = adopted and not self._full_runs
            self._adopted |= {key} if adopted else set()
            return adopted
        if isinstance(self.target, FileManagerServer):
            return changed or (self._has_unseen_headers and "permissions" in difference)
        return "headers" in difference and (changed or self._has_unseen_headers)

    def _is_damaged(self, key: str, difference: str) -> bool:
        """Return True if the target has damaged the bytes and returns the ETag of the damaged ones.

        Syncline verifies version and size, and cannot see it.
        """
        return "bytes" in difference and self.path_of(key) in self.judge.damaged

    def _is_marker(self, key: str) -> bool:
        return isinstance(self.target, FileManagerServer) and key.endswith("/")

    def _may_be_refused(self, key: str, code: str | None) -> bool:
        """Return True if Syncline may refuse a key with this code, because the target is a file manager."""
        if not isinstance(self.target, FileManagerServer) or code not in _PATH_CODES:
            return False
        return self._is_refused_key(key) if code == "PATH_REFUSED" else self._collides(key)

    def _is_refused_key(self, key: str) -> bool:
        """Return True if the target is a file manager, which cannot have the path of this key."""
        return isinstance(self.target, FileManagerServer) and key.removeprefix(self._prefix) in REFUSED_KEYS

    def _collides(self, key: str) -> bool:
        """Return True if the target is a file manager, in which the path may equal that of another key or its folder."""
        if not isinstance(self.target, FileManagerServer):
            return False
        one = _normalized(key)
        others = [_normalized(other) for other in self.source.objects() if other != key]
        return any(one == other or other.startswith(f"{one}/") or one.startswith(f"{other}/") for other in others)

    def _check_counts(self, run: Run, results: list[Result], wanted: set[str]) -> Iterator[str]:
        """Yield the errors in the counts of a full run."""
        counts = run.counts
        ends = (Outcome.MOVED, Outcome.CONFLICT, Outcome.FAILED, Outcome.KNOWN)
        ended = {each.name for each in results if each.outcome in ends and each.name in wanted}
        # A file that is no longer at the source and turned out to be foreign is skipped, too.
        foreign = sum(each.outcome is Outcome.EQUAL and each.name not in wanted for each in results)
        if counts.skipped - foreign + len(ended) + counts.left_out != len(self._source_keys()):
            yield f"{len(self._source_keys())} objects are counted as {counts}"
        extra = [path for path in self.judge.paths() if (key := self.key_of(path)) is not None and key not in wanted]
        if counts.extra > len(extra):  # this kind need not count them
            yield f"{len(extra)} extra files are counted as {counts}"

    def _source_keys(self) -> list[str]:
        return [key for key in self.source.objects() if key.startswith(self._prefix)]


def _normalized(text: str) -> str:
    return normalize("NFC", text).casefold()
