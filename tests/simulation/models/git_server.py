"""A git server in memory. Its objects have the IDs that git gives them.

A push is a compare-and-swap: it sets the branch to the new commit if the branch still has the expected one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from syncline.clients.git.objects import EMPTY_TREE, FILE, FOLDER, Commit, TreeEntry, blob_id
from syncline.clients.git.repository import NewCommit, Person
from syncline.errors import SynclineError

Tree = dict[bytes, TreeEntry]
ReadTree = Callable[[str], Mapping[bytes, TreeEntry]]
"""A function that returns the entries of a tree by its ID."""
OUTSIDE: Final = "outside"
"""The name of foreign writers."""
_FOREIGN: Final = Person("else", "else@example.com")
_TRAILER: Final = re.compile(r"([A-Za-z0-9-]+): (.+)")


@dataclass(frozen=True, slots=True)
class StoredCommit:
    """A commit. ``author`` is a name and an address, ``time`` is in Unix seconds."""

    oid: str
    tree: str
    parent: str | None
    message: str
    author: str
    time: int

    @property
    def trailers(self) -> dict[str, str]:
        """The trailers of the message, lines like ``Syncline-Batch: 1``. The last one of a name counts."""
        return {found[1]: found[2] for line in self.message.split("\n") if (found := _TRAILER.fullmatch(line))}

    @property
    def commit(self) -> Commit:
        return Commit(self.oid, self.tree, self.message, self.parent, self.time)


class Objects:
    """Blobs, trees and commits by their IDs."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.trees: dict[str, Tree] = {EMPTY_TREE: {}}
        self.commits: dict[str, StoredCommit] = {}

    def __contains__(self, oid: str) -> bool:
        return oid in self.blobs or oid in self.trees or oid in self.commits

    def update(self, other: Objects) -> None:
        self.blobs.update(other.blobs)
        self.trees.update(other.trees)
        self.commits.update(other.commits)

    def blob(self, data: bytes) -> str:
        """Add a blob and return its ID."""
        oid = blob_id(data)
        self.blobs[oid] = data
        return oid

    def tree(self, tree: Tree) -> str:
        """Add a tree and return its ID."""
        ordered = dict(sorted(tree.items(), key=lambda row: row[0] + b"/" if row[1].is_folder else row[0]))
        oid = _id("tree", b"".join(e.mode + b" " + name + b"\0" + bytes.fromhex(e.oid) for name, e in ordered.items()))
        self.trees[oid] = ordered
        return oid

    def commit(self, tree: str, parent: str | None, new: NewCommit) -> StoredCommit:
        """Add a commit."""
        lines = [b"tree " + tree.encode()] + ([b"parent " + parent.encode()] if parent else [])
        lines += [b"author " + new.author.at(new.time), b"committer " + new.committer.at(new.time)]
        # In place of a signature: it only has to change the ID, always in the same way.
        lines += [b"gpgsig " + hashlib.sha1(new.signing_key.encode()).hexdigest().encode()] if new.signing_key else []
        oid = _id("commit", b"\n".join([*lines, b"", new.message.encode()]))
        author = f"{new.author.name} <{new.author.email}>"
        made = self.commits[oid] = StoredCommit(oid, tree, parent, new.message, author, new.time)
        return made

    def walk(self, tree: str, path: bytes = b"") -> Iterator[tuple[bytes, TreeEntry]]:
        """Yield all files below a tree with their full paths, in the order of git."""
        for name, entry in self.trees[tree].items():
            full = path + b"/" + name if path else name
            if entry.is_folder:
                yield from self.walk(entry.oid, full)
            else:
                yield full, entry

    def trees_below(self, tree: str, levels: int | None = None) -> Objects:
        """Return a tree and the trees below it, down to ``levels`` levels in all."""
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


class _Folder(dict[bytes, "TreeEntry | _Folder"]):
    """A folder that a commit changes. Entries that the commit does not change remain entries of the old tree."""

    def inner(self, name: bytes, read: ReadTree) -> _Folder | None:
        """Return a folder in this one, None if there is none of this name."""
        each = self.get(name)
        if isinstance(each, TreeEntry):
            if not each.is_folder:
                return None
            each = self[name] = _Folder(read(each.oid))
        return each

    def remove(self, parts: Sequence[bytes], read: ReadTree) -> None:
        if len(parts) == 1:
            self.pop(parts[0], None)
        elif (below := self.inner(parts[0], read)) is not None:
            below.remove(parts[1:], read)
            if not below:
                del self[parts[0]]

    def put(self, parts: Sequence[bytes], entry: TreeEntry, read: ReadTree) -> None:
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
            {name: e if isinstance(e, TreeEntry) else TreeEntry(FOLDER, e.write(objects)) for name, e in self.items()}
        )


def apply_changes(tree: str | None, changes: Mapping[bytes, str | None], read: ReadTree, objects: Objects) -> str:
    """Apply changes to a tree, add the new trees to ``objects``, and return the ID of the root.

    Removals come first. A folder without files disappears. A file replaces a folder of its name, and the reverse.
    """
    root = _Folder(read(tree)) if tree else _Folder()
    for path, oid in changes.items():
        if oid is None:
            root.remove(path.split(b"/"), read)
    for path, oid in changes.items():
        if oid is not None:
            root.put(path.split(b"/"), TreeEntry(FILE, oid), read)
    return root.write(objects)


def raw_path(path: str) -> bytes:
    return path.encode("utf-8", "surrogateescape")


class BranchUpdate(NamedTuple):
    """A change of a branch by the process ``by``. A commit is None if the branch was or is absent."""

    branch: str
    old: str | None
    new: str | None
    by: str


class GitServer:
    """A repository at ``url``. ``clock`` returns the time of foreign commits.

    It serves filtered fetches and any object by its ID, as GitHub and GitLab do. Histories are linear.
    """

    def __init__(self, url: str, clock: Callable[[], float]) -> None:
        self.url = url
        self.clock = clock
        self.objects = Objects()
        self.branches: dict[str, str] = {}
        self.writes: list[BranchUpdate] = []
        self.on_update: Callable[[BranchUpdate], None] | None = None
        self.refuses_pushes = False  # the branches are protected
        self.push_and_forget = False  # pushes succeed and are discarded
        self.vanishes = False  # the repository is not found

    # -- foreign writers

    def commit_outside(self, branch: str, changes: Mapping[str, bytes | None], message: str = "theirs\n") -> str:
        """Put and remove files as a foreign writer, and return the ID of the commit."""
        old = self.branches.get(branch)
        return self._commit_outside(branch, old, self.objects.commits[old].tree if old else None, changes, message)

    def rewrite(
        self, branch: str, changes: Mapping[str, bytes | None] | None = None, message: str = "rewritten\n"
    ) -> str:
        """Force-push a new history as a foreign writer: one commit without a parent, with the changed files."""
        tree = self.objects.commits[self.branches[branch]].tree
        return self._commit_outside(branch, None, tree, changes or {}, message)

    def rewind(self, branch: str, count: int = 1) -> str:
        """Force-push the commit that is ``count`` commits older, as a foreign writer."""
        commit = self.log(branch)[count].oid
        self._update(branch, commit, OUTSIDE)
        return commit

    def delete(self, branch: str) -> None:
        """Delete a branch as a foreign writer."""
        self._update(branch, None, OUTSIDE)

    def files(self, branch: str) -> dict[str, bytes]:
        """Return the content of each file of a branch, nothing for an absent branch."""
        tip = self.branches.get(branch)
        found = self.objects.walk(self.objects.commits[tip].tree) if tip else ()
        return {path.decode("utf-8", "surrogateescape"): self.objects.blobs[entry.oid] for path, entry in found}

    def log(self, branch: str) -> list[StoredCommit]:
        """Return the commits of a branch, newest first."""
        return list(self._before(self.branches.get(branch)))

    def _before(self, oid: str | None) -> Iterator[StoredCommit]:
        """Yield a commit and its ancestors, newest first."""
        while oid is not None:
            commit = self.objects.commits[oid]
            yield commit
            oid = commit.parent

    def _commit_outside(
        self, branch: str, parent: str | None, tree: str | None, changes: Mapping[str, bytes | None], message: str
    ) -> str:
        objects = self.objects
        blobs = {raw_path(path): None if data is None else objects.blob(data) for path, data in changes.items()}
        made = apply_changes(tree, blobs, objects.trees.__getitem__, objects)
        commit = objects.commit(made, parent, NewCommit(message, _FOREIGN, _FOREIGN, int(self.clock()))).oid
        self._update(branch, commit, OUTSIDE)
        return commit

    def _update(self, branch: str, new: str | None, by: str) -> None:
        update = BranchUpdate(branch, self.branches.get(branch), new, by)
        self.writes.append(update)
        if new is None:
            del self.branches[branch]
        else:
            self.branches[branch] = new
        if self.on_update is not None:
            self.on_update(update)

    # -- requests of clients

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
        found = self.objects.trees_below(commit.tree, levels)
        found.commits[oid] = commit
        return found

    def fetch_objects(self, oids: Iterable[str], levels: int | None) -> Objects:
        """Return blobs, and trees with those below them down to ``levels``. Raises NOT_FOUND."""
        self._check()
        found = Objects()
        for oid in oids:
            if oid in self.objects.blobs:
                found.blobs[oid] = self.objects.blobs[oid]
            elif oid in self.objects.trees:
                found.update(self.objects.trees_below(oid, levels))
            elif oid in self.objects.commits:
                found.update(self.fetch(oid, 0))
            else:
                raise SynclineError("NOT_FOUND", f"git fetch: fatal: remote error: upload-pack: not our ref {oid}")
        return found

    def history(self, oid: str | None) -> list[StoredCommit]:
        """Return a commit and its ancestors, newest first."""
        self._check()
        return list(self._before(oid))

    def changes_of(self, commits: Iterable[StoredCommit], folder: bytes) -> list[tuple[bytes, str | None]]:
        """Return the files below a folder that commits changed, with their blobs, None for a removal."""
        self._check()
        objects, found = self.objects, list[tuple[bytes, str | None]]()
        for commit in commits:
            before = dict(objects.walk(objects.commits[commit.parent].tree)) if commit.parent else {}
            after = dict(objects.walk(commit.tree))
            found += [
                (path, after[path].oid if path in after else None)
                for path in sorted({*before, *after})
                if before.get(path) != after.get(path) and (not folder or (path + b"/").startswith(folder + b"/"))
            ]
        return found

    def push(self, branch: str, old: str | None, new: str, sent: Objects, by: str) -> None:
        """Set a branch to ``new`` if it is ``old``. Do nothing if it is ``new`` already."""
        self._check()
        now = self.branches.get(branch)
        if now == new:
            return
        if now != old:
            raise SynclineError("BRANCH_MOVED", f"git push: {branch} (stale info)")
        blocking = [other for other in self.heads() if other.startswith(f"{branch}/") or branch.startswith(f"{other}/")]
        if blocking:
            raise SynclineError("BRANCH_BLOCKED", f"git push: refs/heads/{blocking[0]} exists; cannot create {branch}")
        if self.refuses_pushes:
            raise SynclineError("BRANCH_PROTECTED", f"git push: GH006: Protected branch update failed for {branch}")
        if not self.push_and_forget:
            self._store(new, sent)
            self._update(branch, new, by)

    def _store(self, oid: str, sent: Objects) -> None:
        """Store an object that was sent, and all objects that it refers to, unless they are stored."""
        if oid in self.objects:
            return
        if oid in sent.blobs:
            self.objects.blobs[oid] = sent.blobs[oid]
        elif oid in sent.trees:
            for entry in sent.trees[oid].values():
                self._store(entry.oid, sent)
            self.objects.trees[oid] = sent.trees[oid]
        else:
            commit = sent.commits[oid]
            for each in (commit.tree, commit.parent):
                if each is not None:
                    self._store(each, sent)
            self.objects.commits[oid] = commit

    def _check(self) -> None:
        if self.vanishes:
            raise SynclineError("REPOSITORY_ABSENT", f"git: fatal: repository '{self.url}' not found")
