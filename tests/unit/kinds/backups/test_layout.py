"""Keys, paths, branches and messages: what follows from names alone."""

from __future__ import annotations

import pytest

from syncline.kinds.backups.message import Change, Tally, message_of
from syncline.kinds.backups.paths import Layout


@pytest.mark.parametrize(
    ("layout", "key", "path", "branch"),
    [
        (Layout(), "east/default/x.yaml", "east/default/x.yaml", "main"),
        (Layout(prefix="b/"), "b/east/x", "east/x", "main"),
        (Layout(folder="clusterbackup"), "east/n/x", "clusterbackup/east/n/x", "main"),
        (Layout("b/", "x/y", "backups/{cluster}"), "b/east/n/x", "x/y/east/n/x", "backups/east"),
    ],
)
def test_a_key_has_a_path_and_a_branch(layout: Layout, key: str, path: str, branch: str) -> None:
    cluster = layout.cluster_of(key)
    assert cluster == "east"
    assert layout.takes(key)
    assert layout.path_of(key) == path
    assert layout.key_of(path) == key
    assert layout.branch_of(cluster) == branch
    assert path.startswith(layout.cluster_path(cluster) + "/")
    assert layout.depth == layout.cluster_path(cluster).count("/") + 1


@pytest.mark.parametrize("key", ["loose", "b/", "b/east", "b/east/", "b//x", "other/east/n/x", "b/east/n/"])
def test_what_lies_in_no_cluster_is_not_taken(key: str) -> None:
    assert not Layout(prefix="b/").takes(key)


@pytest.mark.parametrize(
    ("branch", "name", "cluster"),
    [
        ("backups/{cluster}", "backups/east.1", "east.1"),
        ("backups/{cluster}", "backups/east/1", None),
        ("backups/{cluster}", "backups.east", None),
        ("{cluster}/of-{cluster}", "east/of-east", "east"),
        ("{cluster}/of-{cluster}", "east/of-west", None),
    ],
)
def test_a_branch_has_a_cluster(branch: str, name: str, cluster: str | None) -> None:
    assert Layout(branch=branch).cluster_of_branch(name) == cluster


def test_clusters_namespaces_and_objects_are_selected() -> None:
    layout = Layout(
        clusters=(("prod-*",), ("prod-old",)), namespaces=((), ("kube-*",)), objects=((), ("*/*/*.log", "prod-a/x/**"))
    )
    assert layout.takes("prod-a/default/x.yaml")
    assert layout.takes("prod-a/cluster.yaml")
    wrong = ["prod-old/default/x", "dev/default/x", "prod-a/kube-system/x", "prod-a/n/x.log", "prod-a/x/y/z"]
    assert not [key for key in wrong if layout.takes(key)]
    only = Layout(namespaces=(("default",), ()))
    assert only.takes("c/default/x")
    assert not only.takes("c/cluster.yaml"), "a file of no namespace is in none of the chosen ones"


def test_the_message_says_what_changed() -> None:
    changes = {
        "production-west": Tally.of([Change("a", None, "1"), Change("b", "1", "2"), Change("c", "1", None)]),
        "production-east": Tally.of([Change("d", None, "1")]),
    }
    files = {"production-east": 245, "production-west": 189, "staging": 67}
    assert message_of("backups", "b1", 1752358018.9, files, changes) == (
        "Automated backup sync - 2025-07-12 22:06:58 UTC\n\n"
        "Clusters processed: 2\n- production-east: 245 files\n- production-west: 189 files\n\n"
        "Total files: 501\nChanges: 2 new, 1 modified, 1 deleted\n\n"
        "Syncline-Sync: backups\nSyncline-Batch: b1\n"
    )
