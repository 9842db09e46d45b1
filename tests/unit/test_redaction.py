"""Redaction: a fetched secret is removed from texts in every encoding."""

from __future__ import annotations

import base64
import json
import urllib.parse
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline import secrets
from syncline.secrets import Reference, Secrets, redact, register


@pytest.fixture(autouse=True)
def own_redaction(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each test its own redaction, so that values registered by another test are not redacted."""
    monkeypatch.setattr(secrets, "_redaction", secrets._Redaction())


def test_a_resolved_value_is_removed_from_texts() -> None:
    assert redact("password hunter2!") == "password hunter2!"
    Secrets(cast("Any", None), cast("Any", None), {"P": "hunter2!"}).resolve(Reference.parse("env:P"))
    assert redact("password hunter2! and hunter2!") == "password *** and ***"


words = st.text(min_size=4, max_size=30).filter(lambda text: text.isprintable() and "*" not in text)
latin = st.text(alphabet=st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="*"), max_size=30)


@given(words.map(lambda text: "§" + text), st.text(alphabet="abc =&?", max_size=10))
def test_every_encoding_of_a_value_is_removed(value: str, around: str) -> None:
    secrets._redaction = secrets._Redaction()
    register(value)
    for form in (
        value,
        urllib.parse.quote(value),
        urllib.parse.quote_plus(value),
        json.dumps(value)[1:-1],
        repr(value)[1:-1],
    ):
        assert redact(f"{around}{form}{around}") == f"{around}***{around}"


@given(st.text(alphabet="abcdefghijXYZ:._-+", max_size=12), latin.filter(lambda text: len(text) >= 8))
def test_a_basic_header_is_removed_completely_for_every_user_name(user: str, password: str) -> None:
    secrets._redaction = secrets._Redaction()
    register(password)
    header = base64.b64encode(f"{user}:{password}".encode()).decode()
    assert redact(f"Authorization: Basic {header}, next") == "Authorization: Basic ***, next"
    alone = base64.urlsafe_b64encode(password.encode()).decode()
    assert redact(f"Authorization: Bearer {alone}, next") == "Authorization: Bearer ***, next"


def test_short_values_are_not_redacted() -> None:
    register("abc")
    register("")
    assert redact("abcabc") == "abcabc"


def test_a_value_that_begins_with_another_is_removed_completely() -> None:
    register("hunter")
    register("hunter2000")
    assert redact("hunter2000 hunter") == "*** ***"


def test_each_line_of_a_key_is_redacted() -> None:
    register("-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG9w0\nend\n-----END KEY-----\n")
    assert redact("x MIIEvQIBADANBgkqhkiG9w0 x end") == "x *** x end"


def test_the_oldest_values_are_dropped_at_the_limit() -> None:
    for number in range(300):
        register(f"token number {number}!")
    assert redact("token number 299!") == "***"
    assert redact("token number 0!") == "token number 0!"


def test_redacting_a_log_line_is_quick_and_keeps_other_text() -> None:
    register("hunter2hunter2")
    line = json.dumps({"message": "x" * 10_000, "secret": "hunter2hunter2"})
    assert redact(line) == line.replace("hunter2hunter2", "***")
