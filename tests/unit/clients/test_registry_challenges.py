from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline.clients.registry.auth import parse_challenges

TOKEN = st.from_regex(r"[a-z][a-z0-9_-]{0,8}", fullmatch=True)
VALUE = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20)


def parsed(*values: str) -> list[tuple[str, dict[str, str]]]:
    return [(c.scheme, dict(c.parameters)) for c in parse_challenges(values)]


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (
            'Bearer realm="https://auth.example.com/token",service="registry.example.com",scope="repository:a/b:pull,push"',
            [
                (
                    "bearer",
                    {
                        "realm": "https://auth.example.com/token",
                        "service": "registry.example.com",
                        "scope": "repository:a/b:pull,push",
                    },
                )
            ],
        ),
        ('bearer REALM = "r" , Service=s', [("bearer", {"realm": "r", "service": "s"})]),
        ('Basic realm="a \\"quoted\\" realm, with a comma"', [("basic", {"realm": 'a "quoted" realm, with a comma'})]),
        ("Basic", [("basic", {})]),
        ('Negotiate, Basic realm="x"', [("negotiate", {}), ("basic", {"realm": "x"})]),
        ('Negotiate YII=, Basic realm="x"', [("negotiate", {}), ("basic", {"realm": "x"})]),
        (
            'Basic realm="x", Bearer realm="y",service="z"',
            [("basic", {"realm": "x"}), ("bearer", {"realm": "y", "service": "z"})],
        ),
        (
            'Bearer realm=https://h/token?a=b,service="s"',
            [("bearer", {"realm": "https://h/token?a=b", "service": "s"})],
        ),
        (', ,Bearer  realm="r",,', [("bearer", {"realm": "r"})]),
        ('Bearer realm="first",realm="second"', [("bearer", {"realm": "first"})]),
        ('Bearer realm="never closed', [("bearer", {})]),
        ("", []),
        ('realm="no scheme"', []),
        ("\x00\x01", []),
    ],
)
def test_unusual_headers_are_parsed(header: str, expected: list[tuple[str, dict[str, str]]]) -> None:
    assert parsed(header) == expected


def test_several_headers_are_read_in_order() -> None:
    assert parsed('Basic realm="a"', 'Bearer realm="b"') == [("basic", {"realm": "a"}), ("bearer", {"realm": "b"})]


@given(st.lists(st.tuples(TOKEN, st.dictionaries(TOKEN, VALUE, min_size=1, max_size=4)), max_size=3))
def test_valid_challenges_are_parsed(challenges: list[tuple[str, dict[str, str]]]) -> None:
    def quoted(text: str) -> str:
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

    header = ", ".join(
        f"{scheme} " + ", ".join(f"{name}={quoted(value)}" for name, value in parameters.items())
        for scheme, parameters in challenges
    )
    assert parsed(header) == challenges


@given(st.text(max_size=200))
def test_any_header_is_parsed_without_an_error(header: str) -> None:
    parse_challenges([header])


def test_a_hostile_header_is_parsed_quickly() -> None:
    for header in (
        "Bearer " + "a=" * 100_000,
        "Bearer " + 'a="' * 100_000,
        "," * 200_000,
        "a " * 100_000,
        '"\\' * 90_000,
    ):
        parse_challenges([header])
