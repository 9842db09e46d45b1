"""Checks of backups: each push when it happens, and the branches after a full run without faults.

The rules are those of ``docs/reference/backups.md``. Paths of the source are ``<cluster>/<namespace>/…`` without the prefix.
"""

from __future__ import annotations

import base64
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import yaml
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from syncline.model import Outcome, Result, Run
from tests.simulation.models.git_server import BranchUpdate, GitServer, StoredCommit

_SEALED: Final = b"syncline-sealed:aes-siv:1\n"
AUTHOR: Final = "cluster-backup-bot <backup@example.com>"
_REMOVAL_DELAY: Final = 3 * 3600.0
"""Seconds within which a removal follows the scan that found the object absent."""


@dataclass(frozen=True, slots=True)
class Rules:
    """The configuration that the judge has to know. ``left_out`` is a namespace that the sync does not select."""

    sync: str
    prefix: str
    branch: str
    folder: str
    encrypts: bool
    key: str
    left_out: str
    share: float
    count: int

    def branch_of(self, cluster: str) -> str:
        return self.branch.replace("{cluster}", cluster)

    def at_target(self, path: str) -> str:
        return f"{self.folder}/{path}" if self.folder else path

    def at_source(self, path: str) -> str | None:
        """Return the source path of a file on a branch, None for a file outside the sync's folder."""
        if not self.folder:
            return path
        return path.removeprefix(f"{self.folder}/") if path.startswith(f"{self.folder}/") else None

    def selects(self, path: str) -> bool:
        return path.split("/")[1:2] != [self.left_out]


@dataclass(slots=True)
class Judge:
    """The judge of one sync, which collects its ``violations``.

    ``source`` is the history of each path: times, and the content from then on, None for no object. ``secrets`` are texts
    that must not be written anywhere, each with its name.
    """

    rules: Rules
    server: GitServer
    clock: Callable[[], float]
    violations: list[str] = field(default_factory=list)
    source: dict[str, list[tuple[float, bytes | None]]] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict)
    listings_were_cut: bool = False
    loses_records: bool = False  # functions are killed after their pushes, or the server forgets pushes
    _put: set[tuple[str, str, bytes]] = field(default_factory=set)  # branch, path and content of each put
    _returns: Counter[str] = field(default_factory=Counter)  # by path: puts after a removal
    _removed: set[tuple[str, int]] = field(default_factory=set)  # path, and its number of returns at the removal
    _last_put: dict[tuple[str, str], bytes] = field(default_factory=dict)  # by branch and path, until it is removed
    _checked_blobs: set[str] = field(default_factory=set)
    _pushed: set[tuple[str, str, str]] = field(default_factory=set)  # branch, path and blob of each pushed file
    _pushes: int = 0
    _settled_pushes: int | None = None  # the number of pushes after the first full run without faults

    # -- the history of the source, and secrets

    def record_source(self, path: str, content: bytes | None) -> None:
        self.source.setdefault(path, []).append((self.clock(), content))

    def violated(self, what: str) -> None:
        self.violations.append(f"{self.rules.sync}: {what}")

    def check_text(self, where: str, text: str) -> None:
        """Check that a text contains no secret."""
        for value, name in self.secrets.items():
            if value in text:
                self.violated(f"{where} holds {name}: {value}")

    def check_item(self, item: Mapping[str, Any]) -> None:
        """Check that an item of the table contains no secret, also in compressed values."""
        self.check_text("the table", repr(item))
        for value in item.values():
            raw = getattr(value, "value", value)
            if not isinstance(raw, bytes | bytearray):
                continue
            for header in (15, 31, -15):
                try:
                    text = zlib.decompress(raw, header)
                except zlib.error:
                    continue
                self.check_text("the table", text.decode("latin-1"))

    # -- the expected content of a file

    def _has_secret(self, content: bytes) -> bool:
        return b"kind: Secret" in content

    def fits(self, path: str, content: bytes, made: bytes) -> bool:
        """Return True if ``made`` is the file for an object's content: encrypted, or without its Secrets."""
        if not self._has_secret(content):
            return made == content
        if self.rules.encrypts:
            return self._decrypted(path, made) == content
        kept = [each for each in content.split(b"---\n") if not self._has_secret(each)]
        if not kept or self._has_secret(made):
            return False
        documents = [each for each in yaml.safe_load_all(made) if each is not None]
        return documents == [yaml.safe_load(each) for each in kept] and all(each in made for each in kept)

    def _decrypted(self, path: str, made: bytes) -> bytes | None:
        """Return the decrypted content of a file, None if it was not encrypted for this path."""
        if not made.startswith(_SEALED):
            return None
        try:
            raw = base64.b64decode(made.removeprefix(_SEALED))
            return AESSIV(base64.b64decode(self.rules.key)).decrypt(raw, [self.rules.at_target(path).encode()])[1:]
        except (InvalidTag, ValueError):
            return None

    def _plaintexts(self, files: Mapping[str, bytes]) -> set[bytes]:
        """Return the contents of files, decrypted: the same content is encrypted differently at each path."""
        return {self._decrypted(self.rules.at_source(path) or "", made) or made for path, made in files.items()}

    def is_wanted(self, path: str, content: bytes | None) -> bool:
        """Return True if an object with this content should have a file at the target."""
        if content is None or not self.rules.selects(path):
            return False
        if not self._has_secret(content) or self.rules.encrypts:
            return True
        return any(not self._has_secret(each) for each in content.split(b"---\n"))

    # -- each push

    def check_push(self, update: BranchUpdate) -> Iterator[str]:
        """Check a push of Syncline when it happens, and yield its changes."""
        self._pushes += 1
        commits = self.server.objects.commits
        if update.new is None:
            return self.violated(f"the branch {update.branch} was deleted")
        line: list[StoredCommit] = []
        at: str | None = update.new
        while at is not None and at != update.old:
            line.append(commits[at])
            at = commits[at].parent
        if at != update.old:
            self.violated(f"the push to {update.branch} drops {update.old}")
        there = self.server.objects.walk(commits[update.new].tree)
        self._pushed |= {(update.branch, path.decode("utf-8", "surrogateescape"), entry.oid) for path, entry in there}
        for commit in reversed(line):
            yield from self._check_commit(update.branch, commit)
        for oid, data in self.server.objects.blobs.items():
            if oid not in self._checked_blobs:
                self._checked_blobs.add(oid)
                self.check_text("a blob", data.decode("latin-1"))

    def _check_commit(self, branch: str, commit: StoredCommit) -> Iterator[str]:
        before = {} if commit.parent is None else self.files_of(commit.parent)
        after = self.files_of(commit.oid)
        named = f"the commit {commit.oid[:8]} on {branch}"
        self.check_text(named, commit.message)
        if commit.author != AUTHOR:
            self.violated(f"{named} is by {commit.author}")
        if commit.trailers.get("Syncline-Sync") != self.rules.sync:
            self.violated(f"{named} has no trailer of its sync: {commit.message!r}")
        changed = [path for path in sorted({*before, *after}) if before.get(path) != after.get(path)]
        if not changed:
            self.violated(f"{named} is empty")
        # A removed file was renamed if another file has its content, perhaps since an earlier commit.
        others = [name for name in self.server.branches if name != branch]
        kept = self._plaintexts(after).union(*(self._plaintexts(self.server.files(name)) for name in others))
        for path in changed:
            yield f"{'put' if path in after else 'removed'} {path}"
            source = self.rules.at_source(path)
            if source is None or source.count("/") < 1 or self.rules.branch_of(source.split("/")[0]) != branch:
                self.violated(f"{named} changes {path}, which does not belong to the sync")
            elif path in after:
                self._check_put(branch, source, before.get(path), after[path])
            else:
                self._check_removal(
                    branch, source, before[path], renamed=self._plaintexts({path: before[path]}) <= kept
                )
        self._check_limits()

    def files_of(self, commit: str) -> dict[str, bytes]:
        objects = self.server.objects
        found = objects.walk(objects.commits[commit].tree)
        return {path.decode("utf-8", "surrogateescape"): objects.blobs[entry.oid] for path, entry in found}

    def _is_ours(self, branch: str, path: str, content: bytes) -> bool:
        """Return True if Syncline wrote this content there, or may have found it equal to the source."""
        put = (branch, path, content) in self._put
        return put or any(was is not None and self.fits(path, was, content) for _, was in self.source.get(path, ()))

    def _check_put(self, branch: str, path: str, old: bytes | None, new: bytes) -> None:
        named = f"{path} on {branch}"
        if not self.rules.selects(path):
            self.violated(f"{named} was put, but its namespace is left out")
        fits = any(was is not None and self.fits(path, was, new) for _, was in self.source.get(path, ()))
        if not fits:
            self.violated(f"{named} became {new!r}, which the source never had there")
        if old is not None and not self._is_ours(branch, path, old):
            self.violated(f"{named} is not ours and was overwritten: {old!r} became {new!r}")
        last = self._last_put.get((branch, path))
        if last is not None and fits and last != new and self._last_time(path, new) <= self._first_time(path, last):
            self.violated(f"{named} returns to the older {new!r} after {last!r}")
        self._put.add((branch, path, new))
        self._last_put[branch, path] = new
        self._returns[path] += (path, self._returns[path]) in self._removed

    def _last_time(self, path: str, made: bytes) -> float:
        """Return the time until which the source had content that fits a file; infinity if it still has it."""
        history = self.source[path]
        ends = [when for when, _ in history[1:]] + [float("inf")]
        return max(
            end for end, (_, was) in zip(ends, history, strict=True) if was is not None and self.fits(path, was, made)
        )

    def _first_time(self, path: str, made: bytes) -> float:
        """Return the time from which the source had content that fits a file."""
        history = self.source.get(path, [])
        return min((when for when, was in history if was is not None and self.fits(path, was, made)), default=0.0)

    def _check_removal(self, branch: str, path: str, old: bytes, *, renamed: bool) -> None:
        named = f"{path} on {branch}"
        if not self._is_ours(branch, path, old):
            self.violated(f"{named} is not ours and was removed: {old!r}")
        self._last_put.pop((branch, path), None)
        if not self.listings_were_cut and not self._was_absent(path):
            self.violated(f"{named} was removed, but the source has it")
        if not renamed and not self._has_another_name(path, old):
            self._removed.add((path, self._returns[path]))

    def _has_another_name(self, path: str, content: bytes) -> bool:
        """Return True if the source has the content of a file at another path, in any cluster, and put it there later."""
        latest = ((other, *history[-1]) for other, history in self.source.items() if other != path and history)
        came = min((when for when, _ in self.source.get(path, [])), default=0.0)
        return any(
            when >= came and was is not None and self.rules.selects(other) and self.fits(other, was, content)
            for other, when, was in latest
        )

    def _was_absent(self, path: str) -> bool:
        """Return True if the source had no object for the file at some time within ``_REMOVAL_DELAY``."""
        history = self.source.get(path, [])
        since = self.clock() - _REMOVAL_DELAY
        if not history or history[0][0] > since:
            return True
        ends = [when for when, _ in history[1:]] + [float("inf")]
        return any(not self.is_wanted(path, was) and end >= since for end, (_, was) in zip(ends, history, strict=True))

    def _check_limits(self) -> None:
        """Check the number of removals against the limits. The window of the limits is longer than a simulation.

        A file that was removed and put again counts as another file, as in the limits.
        """
        of = Counter(path.split("/")[0] for path, _ in self._removed)
        ever = Counter(path.split("/")[0] for path in self.source if self.rules.selects(path))
        for path, times in self._returns.items():
            ever[path.split("/")[0]] += times
        of["all clusters"], ever["all clusters"] = of.total(), ever.total()
        for cluster, count in of.items():
            share = max(1, int(self.rules.share * ever[cluster]))
            if count > self.rules.count or count > share:
                self.violated(
                    f"{count} of {ever[cluster]} files of {cluster} were removed, which is more than the limits allow"
                )

    # -- reports

    def check_report(self, results: list[Result]) -> Iterator[str]:
        """Yield the files that are reported as moved and were never pushed."""
        for each in results:
            path = self.rules.at_target(each.name.removeprefix(self.rules.prefix))
            if each.outcome is Outcome.MOVED and (each.group, path, each.target or "") not in self._pushed:
                yield f"{each.group}:{each.name} is reported as moved, but was never at the target"

    def check_full_run(self, run: Run, results: list[Result]) -> Iterator[str]:
        """Yield the errors of a full run without faults."""
        if self._settled_pushes is None:
            # If removals were capped, the files that this run put raise the limits for the next run.
            capped = any(each.code == "REMOVALS_CAPPED" for each in results) and run.counts.moved
            self._settled_pushes = None if capped else self._pushes
        elif self._pushes > self._settled_pushes:
            yield f"{self._pushes - self._settled_pushes} commits were pushed, although nothing had changed"
        now = {path: history[-1][1] for path, history in sorted(self.source.items())}
        if ("*", "*") in {(each.group, each.name) for each in results}:
            # A scan fails if the source has no objects at all.
            if any(content is not None for content in now.values()):
                yield f"a scan without faults failed: {results}"
        else:
            yield from self._check_objects(now, run, results)
            yield from self._check_extra(now, run, results)

    def _check_objects(self, now: Mapping[str, bytes | None], run: Run, results: list[Result]) -> Iterator[str]:
        """Yield the errors in the files of the objects that the source has, and in their results."""
        reported: defaultdict[str, list[Result]] = defaultdict(list)
        for result in results:
            reported[result.name.removeprefix(self.rules.prefix)].append(result)
        equal = left_out = occupied = 0
        for path, content in now.items():
            if content is None or not self.rules.selects(path):
                continue
            if not self.is_wanted(path, content):
                # An item has one outcome. If the target has a file, the item is not left out, but removed or an extra.
                left_out += 1
                removed = any(each.outcome is Outcome.REMOVED for each in reported[path])
                occupied += removed or self.target_file(path) is not None
            elif self._equals(path, content):
                equal += 1
                if wrong := [each for each in reported[path] if each.outcome not in (Outcome.MOVED, Outcome.EQUAL)]:
                    yield f"{path} is equal, and reported as {wrong[0]}"
            else:
                yield from self._check_different(path, content, reported[path])
        if run.counts.moved + run.counts.skipped != equal:
            yield f"{equal} objects are equal, but the run counted {run.counts}"
        if not left_out - occupied <= run.counts.left_out <= left_out:
            yield f"{left_out} objects are left out, but the run counted {run.counts}"

    def _equals(self, path: str, content: bytes) -> bool:
        have = self.target_file(path)
        return have is not None and self.fits(path, content, have)

    def target_file(self, path: str) -> bytes | None:
        """Return the file of an object, None if there is none."""
        return self.server.files(self.rules.branch_of(path.split("/", maxsplit=1)[0])).get(self.rules.at_target(path))

    def _check_different(self, path: str, content: bytes, reported: list[Result]) -> Iterator[str]:
        """Yield the error in the results of an object whose file differs. Only a conflict is right."""
        have, branch = self.target_file(path), self.rules.branch_of(path.split("/", maxsplit=1)[0])
        outcomes = [each.outcome for each in reported]
        if outcomes != [Outcome.CONFLICT]:
            yield f"{path} differs ({have!r} is not {content!r}), and is reported as {reported}"
        elif have is None:
            yield f"{path} is absent, and reported as a conflict: {reported}"
        elif self._is_last_change_ours(branch, self.rules.at_target(path)):
            yield f"{path} was last changed by Syncline, and is reported as a conflict: {reported}"

    def _is_last_change_ours(self, branch: str, path: str) -> bool:
        """Return True if Syncline made the last commit of a branch that changed a path."""
        commits = self.server.log(branch)
        for commit in commits:
            before = {} if commit.parent is None else self.files_of(commit.parent)
            if before.get(path) != self.files_of(commit.oid).get(path):
                return commit.author == AUTHOR
        return False

    def _is_in_history(self, branch: str, path: str, content: bytes) -> bool:
        """Return True if the history of a branch has a commit of Syncline that put this content at a path."""
        for commit in self.server.log(branch):
            if commit.author == AUTHOR and self.files_of(commit.oid).get(path) == content:
                before = {} if commit.parent is None else self.files_of(commit.parent)
                if before.get(path) != content:
                    return True
        return False

    def _check_extra(self, now: Mapping[str, bytes | None], run: Run, results: list[Result]) -> Iterator[str]:
        """Yield the errors in files of the target that the source does not have."""
        extra = possible = 0  # extras that the run must count, and those that it may count
        clusters = {path.split("/")[0] for path, content in now.items() if content is not None}
        capped = [each for each in results if each.code == "REMOVALS_CAPPED"]
        for branch in sorted(self.server.branches):
            for path, content in self.server.files(branch).items():
                source = self.rules.at_source(path)
                if source is None or source.count("/") < 1 or self.rules.branch_of(source.split("/")[0]) != branch:
                    continue
                if not self.rules.selects(source) or self.is_wanted(source, now.get(source)):
                    continue
                if not self._is_ours(branch, source, content):
                    # It need not be counted if the source does not have its cluster.
                    extra, possible = extra + (source.split("/")[0] in clusters), possible + 1
                elif self.loses_records and not self._is_in_history(branch, path, content):
                    possible += 1  # only the history showed that the file is ours, and it was rewritten
                elif not any(_covers(each, branch, self.rules.prefix + source) for each in capped):
                    yield f"{path} on {branch} is ours and no longer at the source, but neither removed nor reported"
        if not extra <= run.counts.extra <= possible:
            yield f"{extra} files are extra, but the run counted {run.counts}"


def _covers(result: Result, branch: str, key: str) -> bool:
    """Return True if a result is about a key, by its name or by a prefix that ends with ``*``."""
    return result.group == branch and (key == result.name or key.startswith(result.name.rstrip("*")))
