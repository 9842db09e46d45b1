"""What must be true of a branch with backups: each push by itself, and the branch after a run in calm.

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
from tests.simulation.models.git_server import GitServer, Logged, Move

_SEALED: Final = b"syncline-sealed:aes-siv:1\n"
AUTHOR: Final = "cluster-backup-bot <backup@example.com>"
_LONGEST: Final = 3 * 3600.0
"""Seconds within which a removal follows the scan that found that an object is gone."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What the configuration says. ``left_out`` is a namespace that is not selected."""

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
        """Return the source's path of a file of a branch, None for a file outside the sync's folder."""
        if not self.folder:
            return path
        return path.removeprefix(f"{self.folder}/") if path.startswith(f"{self.folder}/") else None

    def selects(self, path: str) -> bool:
        return path.split("/")[1:2] != [self.left_out]


@dataclass(slots=True)
class Judge:
    """Collects ``violations`` of one sync. ``source`` has for each path what it became when; None is for removed."""

    rules: Rules
    server: GitServer
    clock: Callable[[], float]
    violations: list[str] = field(default_factory=list)
    source: dict[str, list[tuple[float, bytes | None]]] = field(default_factory=dict)
    planted: dict[str, str] = field(default_factory=dict)
    listed_too_little: bool = False
    loses_records: bool = False  # functions die behind their pushes, or the server forgets these
    _put: set[tuple[str, str, bytes]] = field(default_factory=set)  # branch, path and content that we put
    _again: Counter[str] = field(default_factory=Counter)  # how often we put a path again after its removal
    _removed: set[tuple[str, int]] = field(default_factory=set)  # path, and how often it had come again by then
    _last: dict[tuple[str, str], bytes] = field(default_factory=dict)  # what we put last at a path of a branch
    _checked: set[str] = field(default_factory=set)
    _arrived: set[tuple[str, str, str]] = field(default_factory=set)  # branch, path and blob that we pushed
    _pushes: int = 0
    _settled: int | None = None  # pushes when the first run in calm was over

    # -- what the world tells

    def source_became(self, path: str, content: bytes | None) -> None:
        self.source.setdefault(path, []).append((self.clock(), content))

    def violated(self, what: str) -> None:
        self.violations.append(f"{self.rules.sync}: {what}")

    def check_text(self, where: str, text: str) -> None:
        """Check that a text holds nothing that was planted."""
        for value, what in self.planted.items():
            if value in text:
                self.violated(f"{where} holds {what}: {value}")

    def check_item(self, item: Mapping[str, Any]) -> None:
        """Check an item of the table, also what it has packed."""
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

    # -- what the source's content becomes

    def _holds_secret(self, content: bytes) -> bool:
        return b"kind: Secret" in content

    def fits(self, path: str, content: bytes, made: bytes) -> bool:
        """Return True if ``made`` is what the rule for Secrets makes of an object's content."""
        if not self._holds_secret(content):
            return made == content
        if self.rules.encrypts:
            return self._opened(path, made) == content
        kept = [each for each in content.split(b"---\n") if not self._holds_secret(each)]
        if not kept or self._holds_secret(made):
            return False
        documents = [each for each in yaml.safe_load_all(made) if each is not None]
        return documents == [yaml.safe_load(each) for each in kept] and all(each in made for each in kept)

    def _opened(self, path: str, made: bytes) -> bytes | None:
        """Decrypt a file; return None if it was not encrypted for this path."""
        if not made.startswith(_SEALED):
            return None
        try:
            raw = base64.b64decode(made.removeprefix(_SEALED))
            return AESSIV(base64.b64decode(self.rules.key)).decrypt(raw, [self.rules.at_target(path).encode()])[1:]
        except (InvalidTag, ValueError):
            return None

    def _plain(self, files: Mapping[str, bytes]) -> set[bytes]:
        """Return the contents of files as they are in the source: encrypted ones differ by their paths."""
        return {self._opened(self.rules.at_source(path) or "", made) or made for path, made in files.items()}

    def is_wanted(self, path: str, content: bytes | None) -> bool:
        """Return True if an object of this content has a file at the target."""
        if content is None or not self.rules.selects(path):
            return False
        if not self._holds_secret(content) or self.rules.encrypts:
            return True
        return any(not self._holds_secret(each) for each in content.split(b"---\n"))

    # -- a push

    def pushed(self, move: Move) -> Iterator[str]:
        """Judge a push of ours at the moment at which it happens; yield what it did."""
        self._pushes += 1
        commits = self.server.objects.commits
        if move.new is None:
            return self.violated(f"the branch {move.branch} was deleted")
        line: list[Logged] = []
        at: str | None = move.new
        while at is not None and at != move.old:
            line.append(commits[at])
            at = commits[at].parent
        if at != move.old:
            self.violated(f"the push to {move.branch} drops {move.old}")
        there = self.server.objects.flat(commits[move.new].tree)
        self._arrived |= {(move.branch, path.decode("utf-8", "surrogateescape"), entry.oid) for path, entry in there}
        for commit in reversed(line):
            yield from self._judge_commit(move.branch, commit)
        for oid, data in self.server.objects.blobs.items():
            if oid not in self._checked:
                self._checked.add(oid)
                self.check_text("a blob", data.decode("latin-1"))

    def _judge_commit(self, branch: str, commit: Logged) -> Iterator[str]:
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
        # A file was renamed if another has its content; the two changes may be in two commits.
        others = [name for name in self.server.branches if name != branch]
        kept = self._plain(after).union(*(self._plain(self.server.files(name)) for name in others))
        for path in changed:
            yield f"{'put' if path in after else 'removed'} {path}"
            source = self.rules.at_source(path)
            if source is None or source.count("/") < 1 or self.rules.branch_of(source.split("/")[0]) != branch:
                self.violated(f"{named} changes {path}, which is not the sync's")
            elif path in after:
                self._judge_put(branch, source, before.get(path), after[path])
            else:
                self._judge_removal(branch, source, before[path], renamed=self._plain({path: before[path]}) <= kept)
        self._judge_limits()

    def files_of(self, commit: str) -> dict[str, bytes]:
        objects = self.server.objects
        found = objects.flat(objects.commits[commit].tree)
        return {path.decode("utf-8", "surrogateescape"): objects.blobs[entry.oid] for path, entry in found}

    def _is_ours(self, branch: str, path: str, content: bytes) -> bool:
        """Return True if we wrote this or may have found it equal to the source."""
        put = (branch, path, content) in self._put
        return put or any(was is not None and self.fits(path, was, content) for _, was in self.source.get(path, ()))

    def _judge_put(self, branch: str, path: str, old: bytes | None, new: bytes) -> None:
        named = f"{path} on {branch}"
        if not self.rules.selects(path):
            self.violated(f"{named} is left out, and was put")
        fits = any(was is not None and self.fits(path, was, new) for _, was in self.source.get(path, ()))
        if not fits:
            self.violated(f"{named} became {new!r}, which the source never had there")
        if old is not None and not self._is_ours(branch, path, old):
            self.violated(f"{named} is not ours and was overwritten: {old!r} became {new!r}")
        last = self._last.get((branch, path))
        if last is not None and fits and last != new and self._end(path, new) <= self._begin(path, last):
            self.violated(f"{named} goes back to {new!r}, after {last!r}")
        self._put.add((branch, path, new))
        self._last[branch, path] = new
        self._again[path] += (path, self._again[path]) in self._removed

    def _end(self, path: str, made: bytes) -> float:
        """Return when the source had last what fits; infinity if it still has it."""
        history = self.source[path]
        ends = [when for when, _ in history[1:]] + [float("inf")]
        return max(
            end for end, (_, was) in zip(ends, history, strict=True) if was is not None and self.fits(path, was, made)
        )

    def _begin(self, path: str, made: bytes) -> float:
        history = self.source.get(path, [])
        return min((when for when, was in history if was is not None and self.fits(path, was, made)), default=0.0)

    def _judge_removal(self, branch: str, path: str, old: bytes, *, renamed: bool) -> None:
        named = f"{path} on {branch}"
        if not self._is_ours(branch, path, old):
            self.violated(f"{named} is not ours and was removed: {old!r}")
        self._last.pop((branch, path), None)
        if not self.listed_too_little and not self._was_gone(path):
            self.violated(f"{named} was removed, and the source has it")
        if not renamed and not self._has_another_name(path, old):
            self._removed.add((path, self._again[path]))

    def _has_another_name(self, path: str, content: bytes) -> bool:
        """Return True if the source got the content of a file under another name after the file, in any cluster."""
        latest = ((other, *history[-1]) for other, history in self.source.items() if other != path and history)
        came = min((when for when, _ in self.source.get(path, [])), default=0.0)
        return any(
            when >= came and was is not None and self.rules.selects(other) and self.fits(other, was, content)
            for other, when, was in latest
        )

    def _was_gone(self, path: str) -> bool:
        """Return True if the source lacked an object for the file not long ago."""
        history = self.source.get(path, [])
        since = self.clock() - _LONGEST
        if not history or history[0][0] > since:
            return True
        ends = [when for when, _ in history[1:]] + [float("inf")]
        return any(not self.is_wanted(path, was) and end >= since for end, (_, was) in zip(ends, history, strict=True))

    def _judge_limits(self) -> None:
        """Check what was removed within the one window that a simulation is shorter than.

        A file that was removed and put again is another file, here as in the limits.
        """
        of = Counter(path.split("/")[0] for path, _ in self._removed)
        ever = Counter(path.split("/")[0] for path in self.source if self.rules.selects(path))
        for path, times in self._again.items():
            ever[path.split("/")[0]] += times
        of["all clusters"], ever["all clusters"] = of.total(), ever.total()
        for cluster, count in of.items():
            share = max(1, int(self.rules.share * ever[cluster]))
            if count > self.rules.count or count > share:
                self.violated(f"{count} files of {cluster} were removed, of {ever[cluster]}")

    # -- after a run

    def untruths(self, results: list[Result]) -> Iterator[str]:
        """Yield what is wrong in the report of any run that is over."""
        for each in results:
            path = self.rules.at_target(each.name.removeprefix(self.rules.prefix))
            if each.outcome is Outcome.MOVED and (each.group, path, each.target or "") not in self._arrived:
                yield f"{each.group}:{each.name} is reported as moved, and never was at the target"

    def differences(self, run: Run, results: list[Result]) -> Iterator[str]:
        """Yield what is wrong after a run of everything that began and ended in calm, the first or one after it."""
        if self._settled is None:
            # Files that this run put let the next one remove more of those that went beyond the limits.
            capped = any(each.code == "REMOVALS_CAPPED" for each in results) and run.counts.moved
            self._settled = None if capped else self._pushes
        elif self._pushes > self._settled:
            yield f"{self._pushes - self._settled} commits were made where nothing had changed"
        now = {path: history[-1][1] for path, history in sorted(self.source.items())}
        if ("*", "*") in {(each.group, each.name) for each in results}:
            # Without a single cluster nothing is compared.
            if any(content is not None for content in now.values()):
                yield f"a scan in calm failed: {results}"
        else:
            yield from self._compared(now, run, results)
            yield from self._beyond(now, run, results)

    def _compared(self, now: Mapping[str, bytes | None], run: Run, results: list[Result]) -> Iterator[str]:
        """Yield what is wrong with the files of the objects that the source has."""
        told: defaultdict[str, list[Result]] = defaultdict(list)
        for result in results:
            told[result.name.removeprefix(self.rules.prefix)].append(result)
        equal = left_out = occupied = 0
        for path, content in now.items():
            if content is None or not self.rules.selects(path):
                continue
            if not self.is_wanted(path, content):
                # An item has one outcome: where the target has a file, it is removed, or it is an extra.
                left_out += 1
                occupied += self.have(path) is not None or any(e.outcome is Outcome.REMOVED for e in told[path])
            elif self._equals(path, content):
                equal += 1
                if wrong := [each for each in told[path] if each.outcome not in (Outcome.MOVED, Outcome.EQUAL)]:
                    yield f"{path} is equal, and reported as {wrong[0]}"
            else:
                yield from self._different(path, content, told[path])
        if run.counts.moved + run.counts.skipped != equal:
            yield f"{equal} objects are equal, and counted are {run.counts}"
        if not left_out - occupied <= run.counts.left_out <= left_out:
            yield f"{left_out} objects are left out, and counted are {run.counts}"

    def _equals(self, path: str, content: bytes) -> bool:
        have = self.have(path)
        return have is not None and self.fits(path, content, have)

    def have(self, path: str) -> bytes | None:
        """Return the file of an object, None if there is none."""
        return self.server.files(self.rules.branch_of(path.split("/", maxsplit=1)[0])).get(self.rules.at_target(path))

    def _different(self, path: str, content: bytes, told: list[Result]) -> Iterator[str]:
        have, branch = self.have(path), self.rules.branch_of(path.split("/", maxsplit=1)[0])
        outcomes = [each.outcome for each in told]
        if outcomes != [Outcome.CONFLICT]:
            yield f"{path} differs ({have!r} is not {content!r}), and is reported as {told}"
        elif have is None:
            yield f"{path} is absent, and reported as a conflict: {told}"
        elif self._put_last(branch, self.rules.at_target(path)):
            yield f"{path} is as a commit of ours put it, and reported as a conflict: {told}"

    def _put_last(self, branch: str, path: str) -> bool:
        """Return True if the last commit of a branch that changed a path is ours."""
        commits = self.server.log(branch)
        for commit in commits:
            before = {} if commit.parent is None else self.files_of(commit.parent)
            if before.get(path) != self.files_of(commit.oid).get(path):
                return commit.author == AUTHOR
        return False

    def _is_in_history(self, branch: str, path: str, content: bytes) -> bool:
        """Return True if a commit of ours that a branch has put this content at a path."""
        for commit in self.server.log(branch):
            if commit.author == AUTHOR and self.files_of(commit.oid).get(path) == content:
                before = {} if commit.parent is None else self.files_of(commit.parent)
                if before.get(path) != content:
                    return True
        return False

    def _beyond(self, now: Mapping[str, bytes | None], run: Run, results: list[Result]) -> Iterator[str]:
        """Yield what is wrong with files of the target that the source does not have."""
        extra = perhaps = 0  # `perhaps` are those of a cluster that the source does not have
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
                    extra, perhaps = extra + (source.split("/")[0] in clusters), perhaps + 1
                elif self.loses_records and not self._is_in_history(branch, path, content):
                    perhaps += 1  # somebody rewrote the history, which alone showed that the file is ours
                elif not any(_speaks_of(each, branch, self.rules.prefix + source) for each in capped):
                    yield f"{path} on {branch} is ours and gone from the source, and nothing is reported of it"
        if not extra <= run.counts.extra <= perhaps:
            yield f"{extra} files are extra, and counted are {run.counts}"


def _speaks_of(result: Result, branch: str, key: str) -> bool:
    return result.group == branch and (key == result.name or key.startswith(result.name.rstrip("*")))
