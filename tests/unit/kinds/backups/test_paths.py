"""Keys as paths of a git tree: invalid keys are refused one by one, others have a path and a branch."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline.kinds.backups.paths import (
    LONGEST,
    LONGEST_NAME,
    Layout,
    TakenPaths,
    folded,
    path_error,
    path_problem,
    shown,
)

BAD = [
    "",
    "../x",
    "c/../x",
    "c/./x",
    "/x",
    "c//x",
    "c/x/",
    "c/.git/config",
    "c/.GIT/config",
    "c/.Git",
    "c/git~1/x",
    "c/GIT~2",
    "c/.git /x",
    "c/.git./x",
    "c/.git::$INDEX_ALLOCATION/x",
    "c/.git:stream",
    "c/.g\u200cit/x",
    "c/\ufeff.git",
    "c/.gitmodules",
    "c/.GITMODULES",
    "c/gi7eba~1",
    "c/.gitattributes",
    "c/x.",
    "c/x ",
    "c/x./y",
    "c/...",
    "c/x\ny",
    "c/x\ry",
    "c/x\0y",
    "c/x\x7fy",
    "c/x\u2028y",
    "c/x\\y",
    "/".join(["d"] * 301),
    "c/" + "n" * 256,
    "c/" + "ü" * 128,
    "/".join(["n" * 200] * 21),
]
GOOD = [
    "c/n/x.yaml",
    "c/n/system:controller:node.yaml",
    "c/n/.gitignore",
    "c/n/a b.yaml",
    "c/n/git/config",
    "c/n/gitmodules",
    "c/n/日本.yaml",
    'c/n/"quoted".yaml',
    "c/-x",
    "c/n/" + "n" * 255,
    "/".join(["d"] * 101),
]


@pytest.mark.parametrize("key", BAD, ids=ascii)
def test_a_key_that_cannot_be_a_path_is_refused_with_a_reason(key: str) -> None:
    assert path_problem(key)
    names = TakenPaths()
    error = path_error(key, names)
    assert error is not None
    assert error.code.name == "PATH_REFUSED"
    assert "\n" not in error.what
    assert path_error("c/n/good.yaml", names) is None, "others are accepted"


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("c/\ud83d", "control character"),
        ("c/x\u2029y", "control character"),
        ("c/./x", "another folder"),
        ("c/../x", "another folder"),
        ("c/" + "n" * (LONGEST_NAME + 1), "name longer"),
        ("/".join(["n" * LONGEST_NAME] * 15 + ["n" * 79, "n" * 81]), f"longer than {LONGEST}"),
    ],
    ids=ascii,
)
def test_the_reason_names_the_problem(key: str, reason: str) -> None:
    assert reason in (path_problem(key) or "")


def test_a_key_may_be_as_long_as_the_longest() -> None:
    key = "/".join(["n" * LONGEST_NAME] * 15 + ["n" * 79, "n" * 80])
    assert len(key) == LONGEST
    assert path_problem(key) is None


@pytest.mark.parametrize(
    ("taken", "key", "reason"),
    [
        ("c/a", "c/a/b", "cannot be a file and a folder"),
        ("a", "a/b/c", "cannot be a file and a folder"),
        ("a/b", "a/b/c/d/e", "cannot be a file and a folder"),
        ("c/a/b", "c/a", "cannot be a file and a folder"),
        ("c/a", "c/A", "on some file systems"),
        ("c/A/b", "c/a/c", "on some file systems"),
    ],
)
def test_the_error_names_the_kind_of_collision(taken: str, key: str, reason: str) -> None:
    names = TakenPaths()
    names.add(taken)
    error = path_error(key, names)
    assert error is not None
    assert reason in error.what


@pytest.mark.parametrize(
    ("key", "text"),
    [("日本", "'日本'"), ("日\n", "'\\u65e5\\n'"), ("n" * 198, f"'{'n' * 198}'"), ("n" * 199, f"'{'n' * 199}…")],
)
def test_a_key_is_shown_in_one_short_line(key: str, text: str) -> None:
    assert shown(key) == text


@pytest.mark.parametrize("key", GOOD, ids=ascii)
def test_a_key_that_can_be_a_path_is_accepted(key: str) -> None:
    assert path_problem(key) is None


@pytest.mark.parametrize(
    ("taken", "key"),
    [
        ("c/a", "c/a/b"),
        ("c/a/b", "c/a"),
        ("c/readme", "c/README"),
        ("c/Straße", "c/STRASSE"),
        ("c/\u00e9", "c/e\u0301"),
        ("c/N/x", "c/n/y"),
        ("C/x", "c/y"),
        ("c/A/b", "c/a"),
        ("c/a", "c/A/b"),
        ("c/x", "c/x\u200d"),
    ],
    ids=ascii,
)
def test_a_key_that_equals_another_on_some_system_is_refused(taken: str, key: str) -> None:
    names = TakenPaths()
    names.add(taken)
    error = path_error(key, names)
    assert error is not None
    assert error.code.name == "PATH_COLLIDES"
    assert shown(taken) in error.what or shown(taken.rpartition("/")[0] + "/") in error.what
    assert path_error("else/other", names) is None


def test_a_released_path_can_be_taken_again() -> None:
    names = TakenPaths()
    names.add("c/a")
    assert names.take("c/A") == "c/a"
    names.release("c/a")
    assert names.take("c/A") is None
    assert names.take("c/A") is None, "the same path twice is no collision"


parts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12) | st.sampled_from(
    [".git", ".GIT", "git~1", ".", "..", "a", "A", "b", "é", "e\u0301", ".gitmodules", "x.", "CON"]
)
keys = st.lists(parts, min_size=1, max_size=5).map("/".join)


@given(st.lists(keys, max_size=8))
def test_accepted_paths_never_escape_hide_or_collide(given_keys: list[str]) -> None:
    taken = TakenPaths()
    good = [key for key in sorted(given_keys, key=str.encode) if path_error(key, taken) is None]
    seen: dict[str, tuple[str, bool]] = {}
    for path in set(good):
        names = path.split("/")
        assert not {"", ".", ".."} & set(names)
        for name in names:
            normal = unicodedata.normalize("NFKC", name).casefold()
            assert normal.strip("\u200b\u200c\u200d\ufeff").rstrip(". ") != ".git"
            assert "\n" not in name
            assert "\\" not in name
        for at in range(1, len(names) + 1):
            part = "/".join(names[:at])
            is_file = at == len(names)
            assert seen.setdefault(folded(part), (part, is_file)) == (part, is_file)


# -- layout ------------------------------------------------------------------------------------------------------------


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
def test_keys_outside_any_cluster_are_not_selected(key: str) -> None:
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
    assert not only.takes("c/cluster.yaml"), "a file without a namespace is in no selected namespace"
