from __future__ import annotations

import pytest

from syncline.model import LARGEST_SCOPE, compact_json, json_bytes, portions

HALF = LARGEST_SCOPE // 2
FITS = "a" * (HALF - 3)
"""A name that takes half of a scope: with its quotes and a comma."""


def test_compact_json_escapes_only_what_utf8_or_sqs_refuses() -> None:
    assert compact_json({"b": ["é", "\ud800", "\ufffe"], "a": 1}) == '{"b":["é","\\ud800","\\ufffe"],"a":1}'


@pytest.mark.parametrize(("value", "size"), [("a", 4), ("é", 5), ("\uffff", 9), (12, 3)])
def test_json_bytes_counts_the_comma_after_a_value(value: object, size: int) -> None:
    assert json_bytes(value) == size
    assert json_bytes(FITS) == HALF


def test_portions_are_filled_to_the_largest_scope() -> None:
    assert list(portions([])) == []
    assert list(portions([FITS, FITS])) == [(FITS, FITS)]
    assert list(portions([FITS] * 5)) == [(FITS, FITS), (FITS, FITS), (FITS,)]
    assert list(portions([FITS, FITS + "b"])) == [(FITS,), (FITS + "b",)]
    third = "a" * (LARGEST_SCOPE // 3 - 3)
    assert list(portions([third] * 4)) == [(third,) * 3, (third,)]
