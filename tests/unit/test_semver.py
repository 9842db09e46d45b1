"""Versions order as the specification says, and ranges contain what npm's ranges contain."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline.semver import LONGEST_RANGE, Version, parse_range, version_of

numbers = st.integers(0, 4)
releases = st.tuples(numbers, numbers, numbers).map(lambda n: ".".join(map(str, n)))
words = st.sampled_from(["alpha", "beta", "rc", "0", "1", "2", "10", "x-y"])
prereleases = st.lists(words, min_size=1, max_size=3).map(".".join)
versions = st.one_of(releases, st.tuples(releases, prereleases).map("-".join))


def version(text: str) -> Version:
    found = version_of(text)
    assert found is not None
    return found


def contains(text: str, tag: str, *, prereleases: bool = False) -> bool:
    return parse_range(text).contains(version(tag), prereleases=prereleases)


def test_the_specification_s_own_order() -> None:
    order = "1.0.0-alpha 1.0.0-alpha.1 1.0.0-alpha.beta 1.0.0-beta 1.0.0-beta.2 1.0.0-beta.11 1.0.0-rc.1 1.0.0 2.0.0 2.1.0 2.1.1"
    found = [version(text) for text in order.split()]
    assert all(one < other for one, other in itertools.pairwise(found))


@given(versions, versions, versions)
def test_versions_have_one_order(one: str, two: str, three: str) -> None:
    first, second, third = version(one), version(two), version(three)
    assert (first < second) + (first == second) + (second < first) == 1
    assert not (first < second < third) or first < third
    assert first != second or hash(first) == hash(second)


@pytest.mark.parametrize(
    ("tag", "same"),
    [("v1.2.3", "1.2.3"), ("1", "1.0.0"), ("1.2", "1.2.0"), ("1.2.3+build", "1.2.3"), ("1.2.3_build", "1.2.3")],
)
def test_spellings_of_one_version(tag: str, same: str) -> None:
    assert version(tag) == version(same)


@pytest.mark.parametrize(
    "tag", ["latest", "", "v", "1.2.3.4", "01.2.3", "1.2.3-", "release-1.2.3", "1.2.x", "2024.01.05", "9" * 30, "V1.2"]
)
def test_other_tags_are_no_versions(tag: str) -> None:
    assert version_of(tag) is None


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        # From the examples of https://github.com/npm/node-semver#ranges.
        (">=1.2.7", "1.2.7 1.2.8 2.5.3 1.3.9", "1.2.6 1.1.0"),
        (">=1.2.7 <1.3.0", "1.2.7 1.2.8 1.2.99", "1.2.6 1.3.0 1.1.0"),
        ("1.2.7 || >=1.2.9 <2.0.0", "1.2.7 1.2.9 1.4.6", "1.2.8 2.0.0"),
        (">1.2.3-alpha.3", "1.2.3-alpha.7 3.4.5 1.2.3", "3.4.5-alpha.9 1.2.3-alpha.3 1.2.3-alpha"),
        ("1.2.3 - 2.3.4", "1.2.3 2.3.4", "1.2.2 2.3.5"),
        ("1.2 - 2.3.4", "1.2.0", "1.1.9 2.3.5"),
        ("1.2.3 - 2.3", "2.3.99", "2.4.0 2.4.0-0"),
        ("1.2.3 - 2", "2.99.99", "3.0.0"),
        ("*", "0.0.0 99.1.2", "1.0.0-rc.1"),
        ("1.x", "1.0.0 1.99.0", "2.0.0 0.9.0"),
        ("1.2.x", "1.2.0 1.2.9", "1.3.0"),
        ("1", "1.0.0 1.9.9", "2.0.0"),
        ("~1.2.3", "1.2.3 1.2.99", "1.3.0 1.2.2"),
        ("~1.2", "1.2.0 1.2.9", "1.3.0"),
        ("~1", "1.0.0 1.9.0", "2.0.0"),
        ("~0.2.3", "0.2.3 0.2.9", "0.3.0"),
        ("~1.2.3-beta.2", "1.2.3-beta.4 1.2.3 1.2.5", "1.2.4-beta.2 1.2.3-beta.1"),
        ("^1.2.3", "1.2.3 1.9.0", "2.0.0 1.2.2"),
        ("^0.2.3", "0.2.3 0.2.9", "0.3.0"),
        ("^0.0.3", "0.0.3", "0.0.4"),
        ("^1.2.3-beta.2", "1.2.3-beta.4 1.2.3 1.9.9", "1.2.4-beta.2 2.0.0"),
        ("^0.0.3-beta", "0.0.3-pr.2 0.0.3", "0.0.4 0.0.3-alpha"),
        ("^1.2.x", "1.2.0 1.5.0", "2.0.0"),
        ("^0.0.x", "0.0.0 0.0.9", "0.1.0"),
        ("^0.0", "0.0.9", "0.1.0"),
        ("^1.x", "1.0.0 1.9.0", "2.0.0"),
        ("^0.x", "0.0.0 0.9.0", "1.0.0"),
        ("<2", "1.9.9", "2.0.0 2.0.0-rc.1"),
        ("<=2.1", "2.1.9", "2.2.0"),
        (">2", "3.0.0", "2.9.9"),
        (">=2.0.0-alpha <2.0.0", "2.0.0-rc.1 2.0.0-alpha", "2.0.0 1.9.9"),
        (">= 1.2, < 3", "1.2.0 2.9.9", "3.0.0"),
        ("v1.2.3", "1.2.3 v1.2.3", "1.2.4"),
        ("=1.2.3-rc.1", "1.2.3-rc.1", "1.2.3 1.2.3-rc.1.0 1.2.3-rc.2"),
        (">* || <*", "", "0.0.0 1.0.0"),
        (">=2 <1", "", "0.0.0 1.0.0 2.0.0"),
    ],
)
def test_ranges_of_npm(text: str, inside: str, outside: str) -> None:
    assert [tag for tag in inside.split() if not contains(text, tag)] == []
    assert [tag for tag in outside.split() if contains(text, tag)] == []


def test_prereleases_only_when_asked() -> None:
    assert not contains("^1.2", "1.3.0-rc.1")
    assert contains("^1.2", "1.3.0-rc.1", prereleases=True)
    assert contains("1.3", "1.3.0-rc.1", prereleases=True)
    assert not contains("<2", "2.0.0-rc.1", prereleases=True)


@given(releases, releases)
def test_comparisons_agree_with_the_order(limit: str, tag: str) -> None:
    one, two = version(tag), version(limit)
    expected = {">=": one >= two, ">": one > two, "<": one < two, "<=": one <= two, "=": one == two, "": one == two}
    assert {operator: contains(f"{operator}{limit}", tag) for operator in expected} == expected


@given(releases, releases, releases)
def test_alternatives_and_lists_are_or_and_and(one: str, two: str, tag: str) -> None:
    assert contains(f">={one} || <{two}", tag) == (contains(f">={one}", tag) or contains(f"<{two}", tag))
    assert contains(f">={one} <{two}", tag) == (contains(f">={one}", tag) and contains(f"<{two}", tag))
    assert contains(f"{one} - {two}", tag) == contains(f">={one} <={two}", tag)


@given(releases, releases)
def test_caret_keeps_the_first_number_that_is_not_0_and_tilde_the_minor_one(start: str, tag: str) -> None:
    first, other = version(start), version(tag)
    kept = next((at + 1 for at, number in enumerate(first.numbers) if number), len(first.numbers))
    assert contains(f"^{start}", tag) == (other >= first and other.numbers[:kept] == first.numbers[:kept])
    assert contains(f"~{start}", tag) == (other >= first and other.numbers[:2] == first.numbers[:2])


@given(st.text(alphabet="0123.xv*^~<>=|- ab", max_size=30))
def test_any_text_is_a_range_or_refused_with_a_reason(text: str) -> None:
    refused = False
    try:
        parse_range(text).contains(version("1.2.3"))
    except ValueError as error:
        refused = True
        reason = str(error)
    assert not refused or reason.startswith(("is ", "has "))


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "is empty"),
        ("  ", "is empty"),
        ("latest", "no comparison"),
        ("1.2 ||", "empty alternative"),
        ("1.2-rc.1", "three numbers"),
        ("=>1", "no comparison"),
        (">1 - 2", "two versions around the dash"),
        ("1" * (LONGEST_RANGE + 1), "longer than"),
    ],
)
def test_an_invalid_range_is_refused(text: str, part: str) -> None:
    with pytest.raises(ValueError, match=part):
        parse_range(text)


def test_no_range_is_slow() -> None:
    for character, count in itertools.product("1.x-*a", (50, LONGEST_RANGE)):
        with pytest.raises(ValueError, match=r"has|is"):
            parse_range(character * count + "!")
