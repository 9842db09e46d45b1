"""A git server in memory, and a branch of it as one process has it.

Objects have their real ids. What a process fetched or stored is its own and ends with its branch; a push alone changes
the server. A push is a compare-and-set: the branch becomes the new commit if it still is the one that was expected.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeVar

from syncline.clients.git import Git, Patience
from syncline.clients.git_objects import EMPTY_TREE, FILE, FOLDER, Commit, Entry, blob_hash, blob_id
from syncline.clients.git_repository import Blob, Branch, NewCommit, Person, Place
from syncline.clients.pacing import never
from syncline.errors import SynclineError
from tests.simulation.network import Network

Tree = dict[bytes, Entry]
Read = Callable[[str], Mapping[bytes, Entry]]
T = TypeVar("T")
_ELSE: Final = Person("else", "else@example.com")
_FULL: Final = 40
_FIRST_COMMITS: Final = 100  # of a history, before all of it is asked for
_PIECE: Final = 1 << 20
_GLANCE: Final = 1.0  # seconds after which a command notices that it is no longer wanted
_TRAILER: Final = re.compile(r"([A-Za-z0-9-]+): (.+)")


@dataclass(frozen=True, slots=True)
class Logged:
    """A commit with all that it says. ``author`` is a name and an address, ``time`` Unix seconds."""

    oid: str
    tree: str
    parent: str | None
    message: str
    author: str
    time: int

    @property
    def trailers(self) -> dict[str, str]:
        """The trailers of the message: lines like ``Syncline-Batch: 1``; of two with one name the last counts."""
        return {found[1]: found[2] for line in self.message.split("\n") if (found := _TRAILER.fullmatch(line))}

    @property
    def commit(self) -> Commit:
        return Commit(self.oid, self.tree, self.message)


class Objects:
    """Blobs, trees and commits by their ids."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.trees: dict[str, Tree] = {EMPTY_TREE: {}}
        self.commits: dict[str, Logged] = {}

    def __contains__(self, oid: str) -> bool:
        return oid in self.blobs or oid in self.trees or oid in self.commits

    def update(self, other: Objects) -> None:
        self.blobs.update(other.blobs)
        self.trees.update(other.trees)
        self.commits.update(other.commits)

    def blob(self, data: bytes) -> str:
        """Add a blob; its id."""
        oid = blob_id(data)
        self.blobs[oid] = data
        return oid

    def tree(self, tree: Tree) -> str:
        """Add a tree; its id."""
        ordered = dict(sorted(tree.items(), key=lambda row: row[0] + b"/" if row[1].is_folder else row[0]))
        oid = _id("tree", b"".join(e.mode + b" " + name + b"\0" + bytes.fromhex(e.oid) for name, e in ordered.items()))
        self.trees[oid] = ordered
        return oid

    def commit(self, tree: str, parent: str | None, new: NewCommit) -> Logged:
        """Add a commit."""
        lines = [b"tree " + tree.encode()] + ([b"parent " + parent.encode()] if parent else [])
        lines += [b"author " + new.author.at(new.time), b"committer " + new.committer.at(new.time)]
        # No signature is made: it only has to give another id, and the same one each time.
        lines += [b"gpgsig " + hashlib.sha1(new.signing_key.encode()).hexdigest().encode()] if new.signing_key else []
        oid = _id("commit", b"\n".join([*lines, b"", new.message.encode()]))
        author = f"{new.author.name} <{new.author.email}>"
        made = self.commits[oid] = Logged(oid, tree, parent, new.message, author, new.time)
        return made

    def flat(self, tree: str, path: bytes = b"") -> Iterator[tuple[bytes, Entry]]:
        """Yield all files below a tree with their full paths, in git's order."""
        for name, entry in self.trees[tree].items():
            full = path + b"/" + name if path else name
            if entry.is_folder:
                yield from self.flat(entry.oid, full)
            else:
                yield full, entry

    def below(self, tree: str, levels: int | None = None) -> Objects:
        """Return a tree and the trees below it: ``levels`` of them, all for None."""
        found = Objects()
        stack = [(tree, 1)]
        while stack:
            oid, level = stack.pop()
            if levels is None or level <= levels:
                found.trees[oid] = self.trees[oid]
                stack += [(entry.oid, level + 1) for entry in self.trees[oid].values() if entry.is_folder]
        return found


def _id(kind: str, body: bytes) -> str:
    return hashlib.sha1(f"{kind} {len(body)}\0".encode() + body, usedforsecurity=False).hexdigest()


class _Folder(dict[bytes, "Entry | _Folder"]):
    """A folder in which a commit changes something. What the commit does not touch stays an entry."""

    def inner(self, name: bytes, read: Read) -> _Folder | None:
        each = self.get(name)
        if isinstance(each, Entry):
            if not each.is_folder:
                return None
            each = self[name] = _Folder(read(each.oid))
        return each

    def remove(self, parts: Sequence[bytes], read: Read) -> None:
        if len(parts) == 1:
            self.pop(parts[0], None)
        elif (below := self.inner(parts[0], read)) is not None:
            below.remove(parts[1:], read)
            if not below:
                del self[parts[0]]

    def put(self, parts: Sequence[bytes], entry: Entry, read: Read) -> None:
        if b"" in parts:
            raise SynclineError("GIT_FAILED", "git fast-import: empty path component found in input")
        folder = self
        for name in parts[:-1]:
            below = folder.inner(name, read)
            if below is None:
                below = folder[name] = _Folder()
            folder = below
        folder[parts[-1]] = entry

    def write(self, objects: Objects) -> str:
        return objects.tree(
            {name: e if isinstance(e, Entry) else Entry(FOLDER, e.write(objects)) for name, e in self.items()}
        )


def changed(tree: str | None, changes: Mapping[bytes, str | None], read: Read, objects: Objects) -> str:
    """Add the trees that changes make of a tree, and return the id of the uppermost one.

    Removals come first. A folder that loses all its files goes. A file takes the place of a folder, and the reverse.
    """
    root = _Folder(read(tree)) if tree else _Folder()
    for path, oid in changes.items():
        if oid is None:
            root.remove(path.split(b"/"), read)
    for path, oid in changes.items():
        if oid is not None:
            root.put(path.split(b"/"), Entry(FILE, oid), read)
    return root.write(objects)


def _raw(path: str) -> bytes:
    return path.encode("utf-8", "surrogateescape")


class GitServer:
    """A repository at ``url``. ``clock`` gives the time of other writers' commits.

    It takes filtered fetches and any object by its id, as the well-known hosts do. Histories are linear.
    """

    def __init__(self, url: str, clock: Callable[[], float]) -> None:
        self.url = url
        self.clock = clock
        self.objects = Objects()
        self.branches: dict[str, str] = {}
        self.writes: list[tuple[str, str | None, str | None, str]] = []  # branch, old commit, new commit, by whom
        self.refuses_pushes = False  # the branches are protected
        self.push_and_forget = False  # a push is answered with success, and nothing is kept
        self.vanishes = False  # the repository is not found

    # -- the world -------------------------------------------------------------------------------------------------

    def commit_outside(self, branch: str, changes: Mapping[str, bytes | None], message: str = "theirs\n") -> str:
        """Commit as another writer: put and remove files; the commit's id."""
        old = self.branches.get(branch)
        return self._outside(branch, old, self.objects.commits[old].tree if old else None, changes, message)

    def rewrite(
        self, branch: str, changes: Mapping[str, bytes | None] | None = None, message: str = "rewritten\n"
    ) -> str:
        """Force-push another history as another writer: one commit without a parent, with the files as changed."""
        tree = self.objects.commits[self.branches[branch]].tree
        return self._outside(branch, None, tree, changes or {}, message)

    def rewind(self, branch: str, count: int = 1) -> str:
        """Force-push the branch as it was ``count`` commits before, as another writer."""
        commit = self.log(branch)[count].oid
        self._move(branch, commit, "outside")
        return commit

    def delete(self, branch: str) -> None:
        """Delete a branch, as another writer."""
        self._move(branch, None, "outside")

    def files(self, branch: str) -> dict[str, bytes]:
        """Return every file of a branch with its content; none for an absent branch."""
        tip = self.branches.get(branch)
        found = self.objects.flat(self.objects.commits[tip].tree) if tip else ()
        return {path.decode("utf-8", "surrogateescape"): self.objects.blobs[entry.oid] for path, entry in found}

    def log(self, branch: str) -> list[Logged]:
        """Return the commits of a branch, the newest first."""
        return list(self._before(self.branches.get(branch)))

    def _before(self, oid: str | None) -> Iterator[Logged]:
        """Yield a commit and all before it, the newest first."""
        while oid is not None:
            commit = self.objects.commits[oid]
            yield commit
            oid = commit.parent

    def _outside(
        self, branch: str, parent: str | None, tree: str | None, changes: Mapping[str, bytes | None], message: str
    ) -> str:
        objects = self.objects
        blobs = {_raw(path): None if data is None else objects.blob(data) for path, data in changes.items()}
        made = changed(tree, blobs, objects.trees.__getitem__, objects)
        commit = objects.commit(made, parent, NewCommit(message, _ELSE, _ELSE, int(self.clock()))).oid
        self._move(branch, commit, "outside")
        return commit

    def _move(self, branch: str, new: str | None, by: str) -> None:
        self.writes.append((branch, self.branches.get(branch), new, by))
        if new is None:
            del self.branches[branch]
        else:
            self.branches[branch] = new

    # -- what clients ask ------------------------------------------------------------------------------------------

    def tip(self, branch: str) -> str | None:
        self._check()
        return self.branches.get(branch)

    def heads(self) -> list[str]:
        self._check()
        return sorted(self.branches)

    def fetch(self, oid: str, levels: int) -> Objects:
        """Return a commit and the upper levels of its tree. Raises NOT_FOUND."""
        self._check()
        if oid not in self.objects.commits:
            raise SynclineError("NOT_FOUND", f"the repository has no commit {oid}")
        commit = self.objects.commits[oid]
        found = self.objects.below(commit.tree, levels)
        found.commits[oid] = commit
        return found

    def fetch_objects(self, oids: Iterable[str], levels: int | None) -> Objects:
        """Return blobs, and trees with what is below them down to ``levels``. Raises NOT_FOUND."""
        self._check()
        found = Objects()
        for oid in oids:
            if oid in self.objects.blobs:
                found.blobs[oid] = self.objects.blobs[oid]
            elif oid in self.objects.trees:
                found.update(self.objects.below(oid, levels))
            elif oid in self.objects.commits:
                found.update(self.fetch(oid, 0))
            else:
                raise SynclineError("NOT_FOUND", f"git fetch: fatal: remote error: upload-pack: not our ref {oid}")
        return found

    def history(self, oid: str | None) -> list[Logged]:
        """Return a commit and all before it, the newest first."""
        self._check()
        return list(self._before(oid))

    def put_by(self, commits: Iterable[Logged], folder: bytes) -> list[tuple[bytes, str | None]]:
        """Return the files below a folder that commits put, with their blobs, and None for those that they removed."""
        self._check()
        objects, found = self.objects, list[tuple[bytes, str | None]]()
        for commit in commits:
            before = dict(objects.flat(objects.commits[commit.parent].tree)) if commit.parent else {}
            after = dict(objects.flat(commit.tree))
            found += [
                (path, after[path].oid if path in after else None)
                for path in sorted({*before, *after})
                if before.get(path) != after.get(path) and (not folder or (path + b"/").startswith(folder + b"/"))
            ]
        return found

    def push(self, branch: str, old: str | None, new: str, sent: Objects, by: str) -> None:
        """Make ``new`` the last commit of a branch if that is ``old``, or if it is ``new`` already."""
        self._check()
        now = self.branches.get(branch)
        if now == new:
            return
        if now != old:
            raise SynclineError("BRANCH_MOVED", f"git push: {branch} (stale info)")
        above = [other for other in self.heads() if other.startswith(f"{branch}/") or branch.startswith(f"{other}/")]
        if above:
            raise SynclineError("BRANCH_BLOCKED", f"git push: refs/heads/{above[0]} exists; cannot create {branch}")
        if self.refuses_pushes:
            raise SynclineError("BRANCH_PROTECTED", f"git push: GH006: Protected branch update failed for {branch}")
        if not self.push_and_forget:
            self._take(new, sent)
            self._move(branch, new, by)

    def _take(self, oid: str, sent: Objects) -> None:
        """Keep an object that was sent with all that it needs and that is not here."""
        if oid in self.objects:
            return
        if oid in sent.blobs:
            self.objects.blobs[oid] = sent.blobs[oid]
        elif oid in sent.trees:
            for entry in sent.trees[oid].values():
                self._take(entry.oid, sent)
            self.objects.trees[oid] = sent.trees[oid]
        else:
            commit = sent.commits[oid]
            for each in (commit.tree, commit.parent):
                if each is not None:
                    self._take(each, sent)
            self.objects.commits[oid] = commit

    def _check(self) -> None:
        if self.vanishes:
            raise SynclineError("REPOSITORY_ABSENT", f"git: fatal: repository '{self.url}' not found")


class SimBranch(Branch):
    """A branch of a :class:`GitServer` as one process has it. What composes these methods is the real client's.

    ``patience`` sleeps by the machine's clock.
    """

    def __init__(
        self,
        server: GitServer,
        network: Network,
        branch: str,
        *,
        depth: int,
        host: str = "git",
        patience: Patience | None = None,
        left: Callable[[], float] = lambda: 600.0,
        halted: Callable[[], bool] = never,
    ) -> None:
        machine = network.calls.machine
        patience = replace(patience or Patience(), sleep=machine.sleep)
        super().__init__(Git(Path("/nonexistent"), left=left, patience=patience, halted=halted), branch, depth)
        self.server = server
        self.network = network
        self.host = host
        self.closed = False
        self._here = Objects()

    # -- calls -----------------------------------------------------------------------------------------------------

    def _begin(self, command: str) -> None:
        """Check that a command may begin. Raises TIME_SHORT, RUN_CANCELLED."""
        assert not self.closed, "the branch was closed"
        if self._git.left() <= 0:
            raise SynclineError("TIME_SHORT", f"no time is left for git {command}")
        if self._git.halted():
            raise SynclineError("RUN_CANCELLED", f"git {command} was not begun: its run was cancelled")

    def _once(self, command: str, name: str, function: Callable[[], T], *, writes: bool = False) -> T:
        """Make one call. Raises TIME_SHORT, RUN_CANCELLED where the command is ended before its answer comes."""
        self._begin(command)
        machine = self.network.calls.machine
        began = machine.now
        try:
            answer = self.network.call(self.host, name, function, writes=writes)
        except SynclineError as error:
            error.retry_after = None  # git does not pass it on
            raise
        if self._git.left() <= 0:
            raise SynclineError("TIME_SHORT", f"git {command} was not done in time and was ended")
        if machine.now - began > _GLANCE and self._git.halted():
            raise SynclineError("RUN_CANCELLED", f"git {command} was ended: its run was cancelled")
        return answer

    def _ask(self, command: str, name: str, function: Callable[[], T]) -> T:
        """Make a call that only reads, again where its failure may pass."""
        for attempt in itertools.count(1):
            try:
                return self._once(command, name, function)
            except SynclineError as error:
                if not self._git.bears(error, attempt):
                    raise
        raise AssertionError  # the loop has no other end

    def _need(self, oid: str) -> None:
        """Have an object here. Git fetches a missing one by itself, a tree with all trees below it."""
        self._fetch_absent("git fetch missing", [oid], None)

    def _tree(self, oid: str) -> Tree:
        self._need(oid)
        return self._here.trees[oid]

    # -- reading ---------------------------------------------------------------------------------------------------

    def fetch(self) -> Commit | None:
        def look() -> tuple[str | None, Objects]:
            oid = self.server.tip(self.name)
            return oid, self.server.fetch(oid, self._depth) if oid else Objects()

        oid, found = self._ask("fetch", "git fetch", look)
        self._here.update(found)
        self.tip = self._here.commits[oid].commit if oid else None
        return self.tip

    def fetch_commit(self, digits: str) -> Commit:
        oid = digits if len(digits) == _FULL else self._full(digits)
        self._here.update(self._ask("fetch", "git fetch", lambda: self.server.fetch(oid, self._depth)))
        self.tip = self._here.commits[oid].commit
        return self.tip

    def _full(self, digits: str) -> str:
        commits = self._ask("fetch", "git fetch history", lambda: self.server.history(self.server.tip(self.name)))
        found = [commit.oid for commit in commits if commit.oid.startswith(digits)]
        if not found:
            raise SynclineError("NOT_FOUND", f"no commit of {self.name} begins with {digits}")
        if len(found) > 1:
            raise SynclineError("USAGE", f"{digits} fits several commits of {self.name}: {', '.join(found)}")
        return found[0]

    def ask(self) -> str | None:
        return self._ask("ls-remote", "git ls-remote", lambda: self.server.tip(self.name))

    def _heads(self, *patterns: str) -> list[str]:
        heads = self._ask("ls-remote", "git ls-remote heads", self.server.heads)
        fits = re.compile("|".join(f"(?:.*/refs/heads/)?{re.escape(p).replace(chr(92) + '*', '.*')}" for p in patterns))
        return [name for name in heads if fits.fullmatch(name)]

    def _commit(self, name: str) -> Commit:
        self._begin("cat-file")
        self._need(name)
        return self._here.commits[name].commit

    def folders(self, paths: Iterable[bytes]) -> dict[bytes, Tree]:
        # The real one answers in the order of a set.
        return dict(sorted(super().folders(paths).items()))

    def _load(self, oids: Iterable[str], level: int) -> None:
        new = [oid for oid in dict.fromkeys(oids) if oid not in self._trees]
        if level >= self._depth:
            self._fetch_objects((oid for oid in new if oid not in self._whole), "tree:0")
        for oid in new:
            self._trees[oid] = dict(self._tree(oid))
            if oid in self._whole:
                self._whole.update(e.oid for e in self._trees[oid].values() if e.is_folder)

    def _fetch_objects(self, oids: Iterable[str], filter_: str) -> None:
        self._fetch_absent("git fetch trees", list(dict.fromkeys(oids)), 1 if filter_ == "tree:0" else None)

    def _fetch_absent(self, name: str, oids: Sequence[str], levels: int | None) -> None:
        """Fetch objects in one call, unless all of them are here."""
        if not all(oid in self._here for oid in oids):
            self._here.update(self._ask("fetch", name, lambda: self.server.fetch_objects(oids, levels)))

    def files(self, path: bytes, oid: str) -> Iterator[tuple[bytes, Entry]]:
        self.fetch_below([oid])
        stack = [(path, Entry(FOLDER, oid))]
        while stack:
            path, entry = stack.pop()
            if not entry.is_folder:
                yield path, entry
                continue
            inner = [(path + b"/" + name if path else name, each) for name, each in self._tree(entry.oid).items()]
            stack += reversed(inner)

    @contextlib.contextmanager
    def blobs(self, oids: Sequence[str]) -> Iterator[Iterator[Blob]]:
        self._fetch_absent("git fetch blobs", list(dict.fromkeys(oid for oid in oids if oid not in self._blobs)), None)
        self._blobs.update(oids)

        def pieces(data: bytes, read: list[int]) -> Iterator[bytes]:
            for at in range(0, len(data), _PIECE):
                assert not self.closed, "the branch was closed"
                read[0] += len(data[at : at + _PIECE])
                yield data[at : at + _PIECE]

        def each() -> Iterator[Blob]:
            for oid in oids:
                data, read = self._here.blobs[oid], [0]
                yield Blob(len(data), pieces(data, read))
                assert read[0] == len(data), "each blob is to be read before the next"

        yield each()

    def blobs_put(self, since: str | None, trailer: str, folder: bytes) -> dict[bytes, str | None]:
        if self.tip is None:
            return {}
        tip = self.tip.oid
        for most in (_FIRST_COMMITS, None):
            every = self._ask("fetch", "git fetch history", lambda: self.server.history(tip))
            new = list(itertools.takewhile(lambda commit: commit.oid != since, every))
            if most is None or len(every) <= most or len(new) < most:
                break
        ours = [commit for commit in new if trailer in commit.message.split("\n")]
        found: dict[bytes, str | None] = {}
        if ours:
            for path, blob in self._ask("fetch", "git fetch changes", lambda: self.server.put_by(ours, folder)):
                found.setdefault(path, blob)
        return found

    # -- writing ---------------------------------------------------------------------------------------------------

    def store(self, blobs: Iterable[bytes]) -> None:
        self._begin("fast-import")
        for data in blobs:
            self._here.blob(bytes(data))

    def store_stream(self, blob: Blob) -> str:
        self._begin("fast-import")
        digest, data = blob_hash(blob.size), bytearray()
        for chunk in blob.chunks:
            data += chunk
            if len(data) > blob.size:
                break
            digest.update(chunk)
        if len(data) != blob.size:
            raise SynclineError("SOURCE_CHANGED", "the object's bytes are not as many as were announced")
        return self._here.blob(bytes(data))

    def commit(self, new: NewCommit, changes: Mapping[bytes, str | None]) -> str:
        self._begin("fast-import")
        for oid in changes.values():
            if oid is not None:
                self._need(oid)
                if oid not in self._here.blobs:
                    raise SynclineError("GIT_FAILED", f"git fast-import: not a blob: {oid}")
        tree = changed(self.tip.tree if self.tip else None, changes, self._tree, self._here)
        return self._here.commit(tree, self.tip.oid if self.tip else None, new).oid

    def _push(self, commit: str) -> SynclineError | None:
        old, by = self.tip.oid if self.tip else None, self.network.calls.process.name
        push = lambda: self.server.push(self.name, old, commit, self._here, by)  # noqa: E731
        try:
            self._once("push", "git push", push, writes=True)
        except SynclineError as error:
            if error.code.name in ("TIME_SHORT", "RUN_CANCELLED"):
                raise
            return error
        return None


Open = Callable[..., contextlib.AbstractContextManager[Branch]]


def sim_open_branch(servers: Mapping[str, GitServer], network: Callable[[], Network]) -> Open:
    """Return what :func:`open_branch` is in a simulation. ``network`` gives the network of the process at work.

    ``servers`` has the repositories by their addresses; any other address is that of a repository that is not there.
    """

    @contextlib.contextmanager
    def open_branch(
        place: Place, branch: str, *, depth: int, left: Callable[[], float], halted: Callable[[], bool] = never
    ) -> Iterator[SimBranch]:
        server = servers.get(place.remote.url)
        if server is None:
            server = GitServer(place.remote.url, lambda: 0.0)
            server.vanishes = True
        host, patience = place.remote.host or "localhost", place.patience
        made = SimBranch(server, network(), branch, depth=depth, host=host, patience=patience, left=left, halted=halted)
        try:
            yield made
        finally:
            made.closed = True

    return open_branch
