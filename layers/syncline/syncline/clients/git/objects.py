"""Git objects as bytes: IDs of blobs and trees, tree entries, commits. Nothing here runs the git program."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from syncline.errors import SynclineError

FILE: Final = b"100644"
FOLDER: Final = b"40000"
EMPTY_TREE: Final = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"

_BRANCH: Final = re.compile(
    r"(?![/.]|.*(?:[/.]\.|//|@\{|\\|\.lock(?:/|$)))[^\x00-\x20\x7f~^:?*\[\\-][^\x00-\x20\x7f~^:?*\[\\]*(?<![/.])"
)
_TREE_LINE: Final = re.compile(rb"tree ([0-9a-f]{40})")
_COMMITTER_LINE: Final = re.compile(rb"^committer .*> ([0-9]{1,12}) [+-][0-9]{4}$", re.MULTILINE)
_PARENT_LINE: Final = re.compile(rb"^parent ([0-9a-f]{40,64})$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class TreeEntry:
    """An entry of a tree: ``mode`` as git writes it, ``oid`` in hex."""

    mode: bytes
    oid: str

    @property
    def is_folder(self) -> bool:
        return self.mode == FOLDER

    @property
    def fingerprint(self) -> str | None:
        """The blob's ID for a regular file, prefixed by the mode for any other entry; None for a folder.

        So an executable file, a symbolic link or a submodule never equals a file, whatever its content.
        """
        if self.is_folder:
            return None
        return self.oid if self.mode == FILE else f"{self.mode.decode('ascii', 'replace')}:{self.oid}"


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit: its ID, its tree's ID, its message, and the ID of its first parent, None if it has none.

    `time` is that of the committer in Unix seconds, 0 if it cannot be read.
    """

    oid: str
    tree: str
    message: str
    parent: str | None = None
    time: int = 0

    def trailer(self, name: str) -> str | None:
        """Return the last value of a trailer such as ``Syncline-Batch``, None if it is missing."""
        found = re.findall(rf"(?m)^{re.escape(name)}: (.+)$", self.message)
        return str(found[-1]) if found else None


def branch_name_error(name: str) -> SynclineError | None:
    """Return BRANCH_INVALID if a name is not valid for a branch (``git check-ref-format``), else None."""
    if name.isprintable() and _BRANCH.fullmatch(name) and len(name.encode()) <= 200 and name != "HEAD":
        return None
    return SynclineError("BRANCH_INVALID", f"{name!r} is not a valid branch name; see `git help check-ref-format`")


def branch_ref(name: str) -> str:
    """Return the full ref name of a branch. Raises BRANCH_INVALID."""
    error = branch_name_error(name)
    if error is not None:
        raise error
    return f"refs/heads/{name}"


def blob_hash(size: int) -> hashlib._Hash:
    """Return a hash object for the ID of a blob; its ``size`` bytes are still to be added."""
    return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)


def blob_id(data: bytes) -> str:
    return stream_id(len(data), (data,))


def stream_id(size: int, chunks: Iterable[bytes]) -> str:
    """Return the ID of a blob of ``size`` bytes."""
    digest = blob_hash(size)
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()


def tree_entries(raw: bytes) -> Iterator[tuple[bytes, TreeEntry]]:
    """Yield names and entries of a tree object, in git's order. Raises BAD_ANSWER for a damaged one: git checks none."""
    at, end = 0, len(raw)
    while at < end:
        space = raw.find(b" ", at)
        zero = raw.find(b"\0", space)
        if space < 0 or zero < 0 or zero + 21 > end:
            raise SynclineError("BAD_ANSWER", "the git server sent a damaged tree")
        yield raw[space + 1 : zero], TreeEntry(raw[at:space], raw[zero + 1 : zero + 21].hex())
        at = zero + 21


def tree_id(files: Iterable[tuple[bytes, str]]) -> str:
    """Return the ID of the tree that has exactly these files, given by path and blob ID in any order.

    Paths are not checked: a path that is both a file and a folder gives an ID that no valid tree has.
    """
    root: dict[bytes, object] = {}
    for path, oid in files:
        *folders, name = path.split(b"/")
        current = root
        for folder in folders:
            inner = current.setdefault(folder, {})
            if not isinstance(inner, dict):
                inner = current[folder] = {}
            current = inner
        current[name] = oid
    return _hash_tree(root)


def _hash_tree(folder: Mapping[bytes, object]) -> str:
    rows = []
    for name, entry in folder.items():
        if isinstance(entry, dict):
            rows.append((name + b"/", FOLDER + b" " + name + b"\0" + bytes.fromhex(_hash_tree(entry))))
        else:
            rows.append((name, FILE + b" " + name + b"\0" + bytes.fromhex(str(entry))))
    rows.sort()
    body = b"".join(row for _, row in rows)
    return hashlib.sha1(b"tree %d\0" % len(body) + body, usedforsecurity=False).hexdigest()


def read_commit(oid: str, raw: bytes) -> Commit:
    """Parse a commit. Raises BAD_ANSWER for one that does not begin with its tree: git does not check that."""
    head, _, message = raw.partition(b"\n\n")
    found = _TREE_LINE.fullmatch(head.partition(b"\n")[0])
    if found is None:
        raise SynclineError("BAD_ANSWER", f"the git server sent a damaged commit {oid}")
    parent = _PARENT_LINE.search(head)
    before = None if parent is None else parent[1].decode()
    at = _COMMITTER_LINE.search(head)
    time = 0 if at is None else int(at[1])
    return Commit(oid, found[1].decode(), message.decode("utf-8", "replace"), before, time)


def decode_name(name: bytes) -> str | None:
    """Return a name or path as text, None if it is not UTF-8. Syncline writes no such name."""
    try:
        return name.decode()
    except UnicodeDecodeError:
        return None


def quoted(path: bytes) -> bytes:
    """Return a path quoted for fast-import, of any bytes."""
    return b'"' + re.sub(rb'[\x00-\x1f\x7f"\\]', lambda match: b"\\%03o" % match[0][0], path) + b'"'
