"""Git's objects as bytes: ids of blobs and trees, entries of trees, commits. Pure: nothing here runs a program."""

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
_PARENT_LINE: Final = re.compile(rb"^parent ([0-9a-f]{40,64})$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Entry:
    """What a tree says of one name: ``mode`` as git writes it, ``oid`` in hex."""

    mode: bytes
    oid: str

    @property
    def is_folder(self) -> bool:
        return self.mode == FOLDER

    @property
    def fingerprint(self) -> str | None:
        """The blob's ID if this is an ordinary file; with the mode before it if it is not; None for a folder.

        So an executable file, a symbolic link and a submodule are never equal to a file, whatever is in them.
        """
        if self.is_folder:
            return None
        return self.oid if self.mode == FILE else f"{self.mode.decode('ascii', 'replace')}:{self.oid}"


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit: its id, its tree's, its message, and the id of its first parent, None if it has none."""

    oid: str
    tree: str
    message: str
    parent: str | None = None

    def trailer(self, name: str) -> str | None:
        """The last value of a trailer such as ``Syncline-Batch``."""
        found = re.findall(rf"(?m)^{re.escape(name)}: (.+)$", self.message)
        return str(found[-1]) if found else None


def unfit_branch(name: str) -> SynclineError | None:
    """Return BRANCH_INVALID if git does not take a name for a branch (``git check-ref-format``), else None."""
    if name.isprintable() and _BRANCH.fullmatch(name) and len(name.encode()) <= 200 and name != "HEAD":
        return None
    return SynclineError("BRANCH_INVALID", f"{name!r} cannot be the name of a branch")


def branch_ref(name: str) -> str:
    """Return the full name of a branch. Raises BRANCH_INVALID."""
    error = unfit_branch(name)
    if error is not None:
        raise error
    return f"refs/heads/{name}"


def blob_hash(size: int) -> hashlib._Hash:
    """A hash that becomes the id of a blob once its ``size`` bytes have been added."""
    return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)


def blob_id(data: bytes) -> str:
    digest = blob_hash(len(data))
    digest.update(data)
    return digest.hexdigest()


def tree_entries(raw: bytes) -> Iterator[tuple[bytes, Entry]]:
    """Names and entries of a tree object, in git's order. Raises BAD_ANSWER for a damaged one: git passes them on."""
    at, end = 0, len(raw)
    while at < end:
        space = raw.find(b" ", at)
        zero = raw.find(b"\0", space)
        if space < 0 or zero < 0 or zero + 21 > end:
            raise SynclineError("BAD_ANSWER", "the git server gave a tree that is damaged")
        yield raw[space + 1 : zero], Entry(raw[at:space], raw[zero + 1 : zero + 21].hex())
        at = zero + 21


def tree_id(files: Iterable[tuple[bytes, str]]) -> str:
    """The id of the tree that has exactly these files: paths and the ids of their blobs. Their order does not matter.

    Paths are not checked: one that is a file and a folder at once gives the id of no tree that git would make.
    """
    root: dict[bytes, object] = {}
    for path, oid in files:
        *folders, name = path.split(b"/")
        here = root
        for folder in folders:
            inner = here.setdefault(folder, {})
            if not isinstance(inner, dict):
                inner = here[folder] = {}
            here = inner
        here[name] = oid
    return _hash_tree(root)


def _hash_tree(folder: Mapping[bytes, object]) -> str:
    rows = []
    for name, what in folder.items():
        if isinstance(what, dict):
            rows.append((name + b"/", FOLDER + b" " + name + b"\0" + bytes.fromhex(_hash_tree(what))))
        else:
            rows.append((name, FILE + b" " + name + b"\0" + bytes.fromhex(str(what))))
    rows.sort()
    body = b"".join(row for _, row in rows)
    return hashlib.sha1(b"tree %d\0" % len(body) + body, usedforsecurity=False).hexdigest()


def read_commit(oid: str, raw: bytes) -> Commit:
    """A commit from its bytes. Raises BAD_ANSWER for one that does not begin with its tree: git passes it on."""
    head, _, message = raw.partition(b"\n\n")
    found = _TREE_LINE.fullmatch(head.partition(b"\n")[0])
    if found is None:
        raise SynclineError("BAD_ANSWER", f"the git server gave the commit {oid}, which is damaged")
    parent = _PARENT_LINE.search(head)
    before = None if parent is None else parent[1].decode()
    return Commit(oid, found[1].decode(), message.decode("utf-8", "replace"), before)


def text_of(name: bytes) -> str | None:
    """Return a name or path as text, or None if it is not UTF-8. Only somebody else can have made such a name."""
    try:
        return name.decode()
    except UnicodeDecodeError:
        return None


def quoted(path: bytes) -> bytes:
    """A path as fast-import reads it whatever bytes are in it."""
    out = bytearray(b'"')
    for byte in path:
        if byte < 0x20 or byte == 0x7F:
            out += b"\\%03o" % byte
        else:
            out += b"\\" + bytes([byte]) if byte in b'"\\' else bytes([byte])
    return bytes(out + b'"')
