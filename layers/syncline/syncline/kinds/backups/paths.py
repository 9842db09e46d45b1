"""Where things lie: keys of the bucket, paths in the tree, and the branch each belongs to. Pure."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from syncline.clients.s3.events import events_in
from syncline.errors import SynclineError
from syncline.patterns import allows

# Which keys of a bucket can be paths of a git tree, anywhere: on every file system, for every git.
#
# A key that could escape, hide something from git, or not be checked out on some system is refused by itself; the rest
# is committed. Git itself is of no help: ``fast-import`` takes ``.git/config`` and ``../x``. Pure: nothing here asks
# anybody.

DEEPEST: Final = 100
"""Folders within one another; git itself gives up somewhere beyond, and so do file systems."""
LONGEST: Final = 4000
"""Bytes of a path; Linux takes 4,096."""
LONGEST_NAME: Final = 255
"""Bytes of one name, which is what every file system takes."""

# What HFS+ does not see in a name: git's own list (utf8.c, next_hfs_char).
_UNSEEN: Final = re.compile("[\u200c-\u200f\u202a-\u202e\u206a-\u206f\ufeff]")
# `git~1` is what Windows calls `.git` in names of eight letters, for the first few of the kind.
_SHORT: Final = re.compile(r"(?:git|gitmod|gi7eba|gitatt|gi7d29)~\d+")
_OWN: Final = frozenset({".git", ".gitmodules", ".gitattributes"})


def problem_of(key: str) -> str | None:
    """Why a key cannot be a path, None if it can."""
    if not key.isprintable() and any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in key):
        return "has a control character or a line break in it"
    if "\\" in key:
        return "has a backslash in it, which separates folders on Windows"
    if len(key.encode()) > LONGEST:
        return f"is longer than {LONGEST} bytes"
    names = key.split("/")
    if len(names) - 1 > DEEPEST:
        return f"lies deeper than {DEEPEST} folders"
    return next((why for name in names if (why := _problem_of_name(name)) is not None), None)


def _problem_of_name(name: str) -> str | None:
    if not name:
        return "has an empty name between two slashes, at its beginning or at its end"
    if name in (".", ".."):
        return "leads to another folder (. or ..)"
    if len(name.encode()) > LONGEST_NAME:
        return f"has a name longer than {LONGEST_NAME} bytes"
    if name[-1] in ". ":
        return "has a name that ends with a dot or a space, which Windows drops"
    bare = folded(name).partition(":")[0].rstrip(". ")
    if bare in _OWN or _SHORT.fullmatch(bare):
        return "has a name that is git's own, in some spelling"
    return None


def folded(path: str) -> str:
    """What is the same for two paths that are one on some file system: Unicode form, case and unseen characters."""
    if path.isascii():
        return path.lower()
    seen = _UNSEEN.sub("", path)
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", seen).casefold())


class Names:
    """The paths that are taken already, for telling whether a further one would be the same as one of them somewhere."""

    def __init__(self) -> None:
        self._files: dict[str, str] = {}
        self._folders: dict[str, str] = {}

    def add(self, path: str) -> None:
        """Take a path that may not be refused: it is there already."""
        self._files.setdefault(folded(path), path)
        for folder in _folders(path):
            self._folders.setdefault(folded(folder), folder)

    def add_entry(self, path: str, *, is_folder: bool) -> None:
        """Take one entry of a folder that is there already; its own folders are not looked at."""
        (self._folders if is_folder else self._files).setdefault(folded(path), path)

    def drop(self, path: str) -> None:
        """Give a file's path free."""
        if self._files.get(folded(path)) == path:
            del self._files[folded(path)]

    def take(self, path: str) -> str | None:
        """Take a path, and None; or, where it collides, the path or folder it collides with, and nothing is taken."""
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
        for folder in _folders(path):
            theirs = folded(folder)
            if theirs in self._files:
                return self._files[theirs]
            if self._folders.get(theirs, folder) != folder:
                return f"{self._folders[theirs]}/"
        return None


def _folders(path: str) -> Iterator[str]:
    at = path.find("/")
    while at >= 0:
        yield path[:at]
        at = path.find("/", at + 1)


def refusal(key: str, there: Names) -> SynclineError | None:
    """Take a key beside those that are `there`, or return why it cannot be taken."""
    return unfit(key) or collision(key, there)


def unfit(key: str) -> SynclineError | None:
    """Return why a key cannot be a path, or None if it can."""
    problem = problem_of(key)
    return None if problem is None else SynclineError("PATH_REFUSED", f"{shown(key)} {problem}")


def collision(key: str, there: Names) -> SynclineError | None:
    """Take a key beside those that are `there`, or return what it collides with."""
    other = there.take(key)
    if other is None:
        return None
    if key.startswith(f"{other}/") or other == f"{key}/":
        what = f"{shown(other)} is there, and one path cannot be a file and a folder"
        return SynclineError("PATH_COLLIDES", f"{shown(key)} cannot be beside it: {what}")
    return SynclineError("PATH_COLLIDES", f"{shown(key)} is the same as {shown(other)} on some systems")


def shown(key: str) -> str:
    """A key in a sentence: quoted, with what cannot be seen made visible, and not longer than a line or two."""
    text = ascii(key) if not key.isprintable() else repr(key)
    return text if len(text) <= 200 else f"{text[:200]}…"


CLUSTER: Final = "{cluster}"

Choice = tuple[tuple[str, ...], tuple[str, ...]]  # patterns to include, patterns to exclude
_ALL: Final[Choice] = ((), ())


@dataclass(frozen=True, slots=True)
class Layout:
    """``<prefix><cluster>/<namespace>/…`` in the bucket is ``<folder>/<cluster>/<namespace>/…`` in the tree.

    ``prefix`` ends with a slash or is empty; ``folder`` has none at its ends. ``branch`` may hold ``{cluster}``.
    """

    prefix: str = ""
    folder: str = ""
    branch: str = "main"
    clusters: Choice = _ALL
    namespaces: Choice = _ALL
    objects: Choice = _ALL

    @property
    def branch_per_cluster(self) -> bool:
        return CLUSTER in self.branch

    def cluster_of(self, key: str) -> str | None:
        """The cluster a key lies in; None if it lies in none or outside the prefix."""
        if not key.startswith(self.prefix):
            return None
        cluster, slash, rest = key[len(self.prefix) :].partition("/")
        return cluster if slash and rest and cluster else None

    def keys_in(self, event: object, bucket: str) -> tuple[str, ...]:
        """Return the keys of the sync that a notification of the bucket names; raises MESSAGE_INVALID if it is none."""
        return tuple(sorted({e.key for e in events_in(event) if e.bucket == bucket and self.takes(e.key)}))

    def takes(self, key: str) -> bool:
        """Whether a key belongs to the sync. What ends with a slash is a folder's mark and nothing to back up."""
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
        """Where a key lies in the tree."""
        inner = key[len(self.prefix) :]
        return f"{self.folder}/{inner}" if self.folder else inner

    def key_of(self, path: str) -> str:
        """The key of a path below the folder."""
        return self.prefix + (path[len(self.folder) + 1 :] if self.folder else path)

    def branch_of(self, cluster: str) -> str:
        return self.branch.replace(CLUSTER, cluster)

    def cluster_of_branch(self, name: str) -> str | None:
        """The cluster whose branch has this name, where each has one of its own."""
        first, *others = map(re.escape, self.branch.split(CLUSTER))
        found = re.fullmatch(first + "([^/]+)" + r"\1".join(others), name)
        return found[1] if found else None

    def cluster_path(self, cluster: str) -> str:
        return self.path_of(f"{self.prefix}{cluster}")

    @property
    def depth(self) -> int:
        """Levels of the tree down to the folder that has the clusters, the root counted."""
        return 1 + (self.folder.count("/") + 1 if self.folder else 0)
