"""Where things lie: keys of the bucket, paths in the tree, and the branch each belongs to. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from syncline.clients.s3.events import events_in
from syncline.patterns import allows

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
