"""Which keys can be paths of a git tree: bad ones are refused one by one, good ones are paths that git itself takes."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline.kinds.backups.paths import LONGEST, LONGEST_NAME, Names, folded, problem_of, refusal, shown

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
    assert problem_of(key)
    names = Names()
    error = refusal(key, names)
    assert error is not None
    assert error.code.name == "PATH_REFUSED"
    assert "\n" not in error.what
    assert refusal("c/n/good.yaml", names) is None, "the rest is taken"


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
    assert reason in (problem_of(key) or "")


def test_a_key_may_be_as_long_as_the_longest() -> None:
    key = "/".join(["n" * LONGEST_NAME] * 15 + ["n" * 79, "n" * 80])
    assert len(key) == LONGEST
    assert problem_of(key) is None


@pytest.mark.parametrize(
    ("there", "key", "reason"),
    [
        ("c/a", "c/a/b", "cannot be a file and a folder"),
        ("a", "a/b/c", "cannot be a file and a folder"),
        ("a/b", "a/b/c/d/e", "cannot be a file and a folder"),
        ("c/a/b", "c/a", "cannot be a file and a folder"),
        ("c/a", "c/A", "on some systems"),
        ("c/A/b", "c/a/c", "on some systems"),
    ],
)
def test_a_collision_says_which_it_is(there: str, key: str, reason: str) -> None:
    names = Names()
    names.add(there)
    error = refusal(key, names)
    assert error is not None
    assert reason in error.what


@pytest.mark.parametrize(
    ("key", "text"),
    [("日本", "'日本'"), ("日\n", "'\\u65e5\\n'"), ("n" * 198, f"'{'n' * 198}'"), ("n" * 199, f"'{'n' * 199}…")],
)
def test_a_key_is_shown_in_one_short_line(key: str, text: str) -> None:
    assert shown(key) == text


@pytest.mark.parametrize("key", GOOD, ids=ascii)
def test_a_key_that_can_be_a_path_is_taken(key: str) -> None:
    assert problem_of(key) is None


@pytest.mark.parametrize(
    ("there", "key"),
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
def test_of_two_keys_that_are_one_somewhere_the_second_is_refused(there: str, key: str) -> None:
    names = Names()
    names.add(there)
    error = refusal(key, names)
    assert error is not None
    assert error.code.name == "PATH_COLLIDES"
    assert shown(there) in error.what or shown(there.rpartition("/")[0] + "/") in error.what
    assert refusal("else/other", names) is None


def test_a_path_that_was_given_free_can_be_taken_again() -> None:
    names = Names()
    names.add("c/a")
    assert names.take("c/A") == "c/a"
    names.drop("c/a")
    assert names.take("c/A") is None
    assert names.take("c/A") is None, "the same path twice is no collision"


parts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12) | st.sampled_from(
    [".git", ".GIT", "git~1", ".", "..", "a", "A", "b", "é", "e\u0301", ".gitmodules", "x.", "CON"]
)
keys = st.lists(parts, min_size=1, max_size=5).map("/".join)


@given(st.lists(keys, max_size=8))
def test_what_is_taken_never_escapes_hides_or_collides(given_keys: list[str]) -> None:
    there = Names()
    good = [key for key in sorted(given_keys, key=str.encode) if refusal(key, there) is None]
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
