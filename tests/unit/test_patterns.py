"""Patterns: globs match as a naive matcher does, no pattern is slow, and invalid ones are refused."""

from __future__ import annotations

import fnmatch
import re
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from syncline.patterns import allows, compile_pattern, is_signature_tag, literal_start, signature_subject


def matches(pattern: str, name: str) -> bool:
    return compile_pattern(pattern).fullmatch(name) is not None


def by_definition(pattern: str, name: str, *, part_begins: bool = True) -> bool:
    """Match a glob by its definition, by trying every way to divide the name."""
    if not pattern:
        return not name
    if part_begins and pattern.startswith("**/"):
        rest = [name] + [name[i + 1 :] for i, character in enumerate(name) if character == "/"]
        return any(by_definition(pattern[3:], piece) for piece in rest)
    if pattern.startswith("**"):
        return any(by_definition(pattern[2:], name[i:], part_begins=False) for i in range(len(name) + 1))
    if pattern[0] == "*":
        end = name.find("/") if "/" in name else len(name)
        return any(by_definition(pattern[1:], name[i:], part_begins=False) for i in range(end + 1))
    if not name:
        return False
    one = name[0] == pattern[0] if pattern[0] != "?" else name[0] != "/"
    return one and by_definition(pattern[1:], name[1:], part_begins=pattern[0] == "/")


names = st.text(alphabet="ab/-", max_size=9)
globs = st.lists(st.sampled_from(["a", "b", "/", "*", "?", "**", "**/", "a*", "*b"]), max_size=7).map("".join)
usable_globs = globs.filter(lambda text: text and "***" not in text and text.count("**") <= 2)


@given(usable_globs, names)
@example("**/a", "a")
@example("**/a", "b/b/a")
@example("a/**/b", "a/b")
@example("a**/b", "ab/a/b")
@example("*a*b", "aab/b")
@example("*a**b", "aa/b")
@example("*a/*b", "aaa/ab")
def test_a_glob_matches_by_its_definition(pattern: str, name: str) -> None:
    assert matches(pattern, name) == by_definition(pattern, name)


@given(
    st.text(alphabet="ab.-*?", min_size=1, max_size=8).filter(lambda text: "**" not in text),
    st.text(alphabet="ab.-", max_size=10),
)
def test_without_slashes_a_glob_matches_as_fnmatch_does(pattern: str, name: str) -> None:
    assert matches(pattern, name) == fnmatch.fnmatchcase(name, pattern)


@given(
    st.lists(st.sampled_from(["a", "b-d", "0-9", ".", "_", "-", "^", "\\"]), min_size=1, max_size=4).map("".join),
    st.booleans(),
    st.sampled_from("abcde059._-^\\/"),
)
def test_a_set_matches_as_fnmatch_does_except_for_slashes(body: str, negated: bool, name: str) -> None:
    pattern = f"[{'!' if negated else ''}{body}]"
    try:
        found = matches(pattern, name)
    except ValueError as error:
        assert "descending" in str(error)  # noqa: PT017 - such as [.-_-^], which fnmatch accepts
    else:
        assert found == (name != "/" and fnmatch.fnmatchcase(name, pattern))


@given(names)
def test_two_stars_match_everything_and_one_star_one_part(name: str) -> None:
    assert matches("**", name)
    assert matches("*", name) == ("/" not in name)


@given(st.text(alphabet="abc/._-", min_size=1, max_size=20))
def test_a_name_as_a_pattern_matches_only_itself(name: str) -> None:
    assert matches(name, name)
    assert not matches(name, name + "a")
    assert not matches(name, "a" + name)


@given(usable_globs, names)
def test_matching_names_begin_with_the_literal_start_of_a_glob(pattern: str, name: str) -> None:
    if matches(pattern, name):
        assert name.startswith(literal_start(pattern))
    assert literal_start("re:" + pattern) == ""


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("payments/*", ["payments/app"], ["payments", "payments/a/b", "web/payments/app"]),
        ("payments/**", ["payments/app", "payments/a/b"], ["payments", "payments2/app"]),
        ("**/app", ["app", "team/app", "a/b/app"], ["myapp", "app/x"]),
        ("a/**/z", ["a/z", "a/b/z", "a/b/c/z"], ["az", "a/bz"]),
        ("v[0-9].*", ["v1.2", "v9."], ["v10.2", "V1.2"]),
        ("[!a-c]*", ["d", "zebra"], ["a", "/x", ""]),
        ("v1.?", ["v1.2"], ["v1x2", "v1.", "v1./"]),
        ("re:^web/.*-prod$", ["web/a-prod"], ["web/a-prod-2", "xweb/a-prod"]),
        ("re:v[0-9]+", ["v12"], ["v12-rc", "av12", "v12\n"]),
        ("re:a|b", ["a", "b"], ["ab", "aXb"]),
        ("re:(?i)latest", ["LATEST"], ["latest1"]),
    ],
)
def test_a_pattern_matches_these_names_only(pattern: str, matching: list[str], others: list[str]) -> None:
    assert [name for name in matching if not matches(pattern, name)] == []
    assert [name for name in others if matches(pattern, name)] == []


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("", "is empty"),
        ("a" * 201, "longer than 200 characters"),
        ("a[b", "has a [ without a ]"),
        ("a[]", "an invalid set"),
        ("a[!]", "an invalid set"),
        ("a[[b]", "an invalid set"),
        ("[z-a]", "the descending range z-a"),
        ("a***b", "three stars in a row"),
        ("**/a/**/b/**", "more than 2 times **"),
        ("re:(", "is not a regular expression of Python"),
        ("re:*", "is not a regular expression of Python"),
        ("re:a{99999999999}", "is not a regular expression of Python"),
        ("re:(a+)+", "repetition inside a repetition"),
        ("re:(a*)*b", "repetition inside a repetition"),
        ("re:(?:a{1,5}){2,}", "repetition inside a repetition"),
        ("re:(a?){30}a{30}", "repetition inside a repetition"),
        ("re:((ab)+c)*", "repetition inside a repetition"),
        ("re:(?:(?=a+)b)*", "repetition inside a repetition"),
        ("re:(?>a+)+", "repetition inside a repetition"),
        ("re:(ab|a|b)*", "choice inside a repetition"),
        ("re:(?:x-|y-)+", "choice inside a repetition"),
        ("re:(.*)-\\1", "refers back to a group"),
        ("re:(a)?(?(1)b|c)", "refers back to a group"),
        ("re:.*a.*b.*c.*", "too many ways"),
        ("re:" + "[^/]+-" * 3, "too many ways"),
        ("re:" + "\\w*" * 8 + "!", "too many ways"),
        ("re:" + "a?" * 40 + "a" * 40, "too many ways"),
        ("re:" + "(a|aa)" * 20 + "b", "too many ways"),
        ("re:(?i)" + "a*A*" * 8 + "b", "too many ways"),
        ("re:" + "(" * 190, "is not a regular expression of Python"),
    ],
)
def test_an_invalid_pattern_is_refused_with_its_reason(pattern: str, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        compile_pattern(pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        "re:v[0-9]+\\.[0-9]+\\.[0-9]+(-rc[0-9]+)?",
        "re:(release|hotfix)/.*",
        "re:[a-z]+(a|b)*",  # Python reads the choice as a set
        "re:(?!.*-dev).*",
        "re:(ab){3}",
        "re:(?P<major>\\d+)\\.\\d+",
        "re:.+/.+",
        "re:.*-prod-.*-eu-.*",
        "re:[a-z]+-[a-z]+-[a-z]+/[a-z]+-[a-z]+-[a-z]+",
        "re:v\\d+(\\.\\d+)?(\\.\\d+)?(-rc\\d+)?",
        "re:([^/]+/)?[^/]+/[^/]+-[0-9]+",
        "re:(dev|test|prod)-(eu|us|ap)-(web|app|db)-.*",
    ],
)
def test_ordinary_expressions_are_accepted(pattern: str) -> None:
    assert compile_pattern(pattern)


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("*a*a*a*a*a*a*a*a*a*a*b", "a" * 255),
        ("**a*a*a*a*a*a**b", "a" * 255),
        ("*/*/*/*/*/**/b", "a/" * 127),
        ("re:.*a.*a.*", "a" * 254 + "\n"),
        ("re:.*a.*ab", "a" * 255),
        ("re:a?a?a{3}b", "a" * 255),
        ("re:(a+)b?(a+)c", "a" * 255),
    ],
)
def test_matching_is_fast_for_every_name(pattern: str, name: str) -> None:
    compiled = compile_pattern(pattern)
    began = time.process_time()
    assert compiled.fullmatch(name) is None
    assert time.process_time() - began < 1


pieces = st.recursive(
    st.sampled_from(["a", "b", "-", ".", "[ab]", "[^a]", "\\w", "\\d", "(?=a)", "$"]),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{0,9}", "*?"])).map(
            lambda two: f"(?:{two[0]}){two[1]}"
        ),
        st.lists(inner, min_size=2, max_size=3).map("|".join).map("(?:{})".format),
        st.lists(inner, min_size=2, max_size=6).map("".join),
    ),
    max_leaves=12,
)


@given(pieces, st.sampled_from(["a" * 128, "ab" * 64, "a1" * 64, "a-" * 64]), st.sampled_from(["", "!", "b", "\n"]))
def test_every_accepted_expression_is_fast(expression: str, name: str, end: str) -> None:
    try:
        compiled = compile_pattern(f"re:{expression}")
    except ValueError:
        return
    began = time.process_time()
    compiled.fullmatch(name + end)
    assert time.process_time() - began < 1


def test_exclude_takes_precedence_over_include() -> None:
    assert allows("a", (), ())
    assert allows("a", ("b", "a"), ())
    assert not allows("c", ("b", "a"), ())
    assert not allows("a", ("*",), ("a",))
    assert not allows("a", (), ("re:a",))
    assert allows("b", (), ("re:a",))


HEX = "0123456789abcdef" * 4


@pytest.mark.parametrize("end", ["", ".sig", ".att", ".sbom"])
def test_tags_of_signatures_are_recognized(end: str) -> None:
    assert is_signature_tag(f"sha256-{HEX}{end}")
    assert signature_subject(f"sha256-{HEX}{end}") == f"sha256:{HEX}"
    assert signature_subject(f"sha512-{HEX}{end}") == f"sha512:{HEX}"


@pytest.mark.parametrize(
    "tag",
    [
        "latest",
        f"sha256-{HEX[:-1]}",
        f"sha256-{HEX}0",
        f"sha256-{HEX.upper()}",
        f"sha256-{HEX}.sig2",
        f"sha256:{HEX}",
        f"sha1-{HEX}",
        f"x-sha256-{HEX}",
        f"sha256-{HEX}\n",
    ],
)
def test_other_tags_are_not_taken_for_signatures(tag: str) -> None:
    assert not is_signature_tag(tag)
    assert signature_subject(tag) is None


@pytest.mark.parametrize(
    ("pattern", "name", "matched"),
    [
        ("[ab]x[cd]", "axc", True),
        ("[ab]x[cd]", "axb", False),
        ("[a-a]", "a", True),
        ("[a-c]-[!a-c]", "b-d", True),
        ("[a-c]-[!a-c]", "b-b", False),
    ],
)
def test_a_pattern_may_have_several_sets(pattern: str, name: str, matched: bool) -> None:
    assert matches(pattern, name) is matched
