"""Keys of the bucket, paths of the tree, and branches.

:class:`Layout` maps keys to paths and branches, and selects keys. The other functions decide which keys can be paths of
a git tree on every file system and for every git. A key that could escape, hide something from git, or not be checked
out on some system fails on its own; the others are committed. Git does not check this: ``fast-import`` accepts
``.git/config`` and ``../x``.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from syncline.clients.s3.events import events_in
from syncline.errors import SynclineError
from syncline.patterns import allows

CLUSTER: Final = "{cluster}"
DEEPEST: Final = 100  # levels of folders; git and file systems fail somewhere beyond
LONGEST: Final = 4000  # bytes of a path; Linux allows 4,096
LONGEST_NAME: Final = 255  # bytes of one name; every file system allows this

# Characters that HFS+ ignores in a name: git's own list (utf8.c, next_hfs_char).
_IGNORED: Final = re.compile("[\u200c-\u200f\u202a-\u202e\u206a-\u206f\ufeff]")
# Windows calls `.git` `git~1` in names of eight letters; `~2` and so on for further files.
_SHORT: Final = re.compile(r"(?:git|gitmod|gi7eba|gitatt|gi7d29)~\d+")
_GIT_NAMES: Final = frozenset({".git", ".gitmodules", ".gitattributes"})

Selection = tuple[tuple[str, ...], tuple[str, ...]]  # patterns to include, patterns to exclude
_ALL: Final[Selection] = ((), ())


@dataclass(frozen=True, slots=True)
class Layout:
    """The mapping of ``<prefix><cluster>/<namespace>/…`` in the bucket to ``<folder>/<cluster>/<namespace>/…`` in the tree.

    `prefix` ends with a slash or is empty; `folder` has none at its ends. `branch` may contain ``{cluster}``.
    """

    prefix: str = ""
    folder: str = ""
    branch: str = "main"
    clusters: Selection = _ALL
    namespaces: Selection = _ALL
    objects: Selection = _ALL

    @property
    def branch_per_cluster(self) -> bool:
        return CLUSTER in self.branch

    def cluster_of(self, key: str) -> str | None:
        """Return the cluster of a key, or None if it is in no cluster or outside the prefix."""
        if not key.startswith(self.prefix):
            return None
        cluster, slash, rest = key[len(self.prefix) :].partition("/")
        return cluster if slash and rest and cluster else None

    def keys_in(self, event: object, bucket: str) -> tuple[str, ...]:
        """Return the keys of the sync that a bucket notification names. Raises MESSAGE_INVALID."""
        return tuple(sorted({e.key for e in events_in(event) if e.bucket == bucket and self.takes(e.key)}))

    def takes(self, key: str) -> bool:
        """Return True if the sync selects a key. A key that ends with a slash marks a folder and is never selected."""
        cluster = self.cluster_of(key)
        if cluster is None or key.endswith("/"):
            return False
        rest = key[len(self.prefix) + len(cluster) + 1 :]
        namespace, slash, _ = rest.partition("/")
        inner = allows(namespace, *self.namespaces) if slash else not self.namespaces[0]
        return inner and allows(cluster, *self.clusters) and allows(f"{cluster}/{rest}", *self.objects)

    def takes_cluster(self, cluster: str) -> bool:
        return allows(cluster, *self.clusters)

    def path_of(self, key: str) -> str:
        """Return the path of a key in the tree."""
        inner = key[len(self.prefix) :]
        return f"{self.folder}/{inner}" if self.folder else inner

    def key_of(self, path: str) -> str:
        """Return the key of a path below the folder."""
        return self.prefix + (path[len(self.folder) + 1 :] if self.folder else path)

    def branch_of(self, cluster: str) -> str:
        return self.branch.replace(CLUSTER, cluster)

    def cluster_of_branch(self, name: str) -> str | None:
        """Return the cluster of a branch, where each cluster has its own; None if the name does not match."""
        first, *others = map(re.escape, self.branch.split(CLUSTER))
        found = re.fullmatch(first + "([^/]+)" + r"\1".join(others), name)
        return found[1] if found else None

    def cluster_path(self, cluster: str) -> str:
        return self.path_of(f"{self.prefix}{cluster}")

    @property
    def depth(self) -> int:
        """Levels of the tree from the root to the folder of the clusters, both included."""
        return 1 + (self.folder.count("/") + 1 if self.folder else 0)


class TakenPaths:
    """Paths in use. Finds a further path that would be the same as one of them on some file system."""

    def __init__(self) -> None:
        self._files: dict[str, str] = {}
        self._folders: dict[str, str] = {}

    def add(self, path: str) -> None:
        """Add a file that exists, whether it collides or not."""
        self._files.setdefault(folded(path), path)
        for folder in folders_above(path):
            self._folders.setdefault(folded(folder), folder)

    def add_entry(self, path: str, *, is_folder: bool) -> None:
        """Add an existing entry of a folder, without the folders above it."""
        (self._folders if is_folder else self._files).setdefault(folded(path), path)

    def release(self, path: str) -> None:
        """Release the path of a file."""
        if self._files.get(folded(path)) == path:
            del self._files[folded(path)]

    def take(self, path: str) -> str | None:
        """Add a path and return None; or return the file or folder it collides with, and add nothing."""
        other = self._collision(path)
        if other is None:
            self.add(path)
        return other

    def _collision(self, path: str) -> str | None:
        mine = folded(path)
        if self._files.get(mine, path) != path:
            return self._files[mine]
        if mine in self._folders:
            return f"{self._folders[mine]}/"
        for folder in folders_above(path):
            theirs = folded(folder)
            if theirs in self._files:
                return self._files[theirs]
            if self._folders.get(theirs, folder) != folder:
                return f"{self._folders[theirs]}/"
        return None


def path_error(key: str, taken: TakenPaths) -> SynclineError | None:
    """Add a key to the taken paths, or return an error if it is invalid or collides with one."""
    return invalid_path(key) or collision(key, taken)


def invalid_path(key: str) -> SynclineError | None:
    """Return PATH_REFUSED if a key cannot be a path, else None."""
    problem = path_problem(key)
    return None if problem is None else SynclineError("PATH_REFUSED", f"{shown(key)} {problem}")


def collision(key: str, taken: TakenPaths) -> SynclineError | None:
    """Add a key to the taken paths, or return PATH_COLLIDES if it collides with one."""
    other = taken.take(key)
    if other is None:
        return None
    if key.startswith(f"{other}/") or other == f"{key}/":
        what = f"{shown(other)} exists, and one path cannot be a file and a folder"
        return SynclineError("PATH_COLLIDES", f"{shown(key)} collides: {what}")
    return SynclineError("PATH_COLLIDES", f"{shown(key)} is the same as {shown(other)} on some file systems")


def path_problem(key: str) -> str | None:
    """Return the reason why a key cannot be a path, or None if it can."""
    if not key.isprintable() and any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in key):
        return "contains a control character or a line break"
    if "\\" in key:
        return "contains a backslash, which separates folders on Windows"
    if len(key.encode()) > LONGEST:
        return f"is longer than {LONGEST} bytes"
    names = key.split("/")
    if len(names) - 1 > DEEPEST:
        return f"is deeper than {DEEPEST} folders"
    return next((why for name in names if (why := _name_problem(name)) is not None), None)


def _name_problem(name: str) -> str | None:
    if not name:
        return "contains an empty name: two slashes in a row, or one at an end"
    if name in (".", ".."):
        return "leads to another folder (. or ..)"
    if len(name.encode()) > LONGEST_NAME:
        return f"contains a name longer than {LONGEST_NAME} bytes"
    if name[-1] in ". ":
        return "contains a name that ends with a dot or a space, which Windows drops"
    bare = folded(name).partition(":")[0].rstrip(". ")
    if bare in _GIT_NAMES or _SHORT.fullmatch(bare):
        return "contains a name that git reserves, in some spelling"
    return None


def folded(path: str) -> str:
    """Return a form that is equal for two paths if some file system treats them as one.

    It ignores Unicode form, case and invisible characters.
    """
    if path.isascii():
        return path.lower()
    visible = _IGNORED.sub("", path)
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", visible).casefold())


def shown(key: str) -> str:
    """Return a key for use in a message: quoted, with invisible characters escaped, and cut after 200 characters."""
    text = repr(key) if key.isprintable() else ascii(key)
    return text if len(text) <= 200 else f"{text[:200]}…"


def folders_above(path: str, start: int = 0) -> Iterator[str]:
    """Yield the folders above a path, from the top; without those that end before the character `start`."""
    while (at := path.find("/", start)) >= 0:
        yield path[:at]
        start = at + 1
