from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline.clients.registry import reference
from syncline.errors import SynclineError

COMPONENT = st.from_regex(r"[a-z0-9]+((\.|_|__|-{1,3})[a-z0-9]+){0,2}", fullmatch=True)


@given(st.lists(COMPONENT, min_size=1, max_size=4).map("/".join).filter(lambda name: len(name) <= 255))
def test_every_repository_of_the_specification_is_valid(name: str) -> None:
    assert reference.parse_repository(name) == name


@given(st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", fullmatch=True))
def test_every_tag_of_the_specification_is_valid(tag: str) -> None:
    assert reference.parse_tag(tag) == reference.parse_reference(tag) == tag


@given(st.binary())
def test_the_digest_of_bytes_is_valid(data: bytes) -> None:
    digest = reference.digest_of(data)
    assert reference.parse_digest(digest) == reference.parse_reference(digest) == digest
    assert reference.digest_matches(digest, data)
    assert not reference.digest_matches(digest, data + b"x")


@given(st.text())
def test_any_text_is_a_name_or_refused_with_a_reason(text: str) -> None:
    for parse in (reference.parse_repository, reference.parse_tag, reference.parse_digest, reference.parse_reference):
        try:
            parsed = parse(text)
        except SynclineError as error:
            message = (error.code.name, "\n" in error.what)
        else:
            message = ("REFERENCE_INVALID", parsed != text)
        assert message == ("REFERENCE_INVALID", False)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "is empty"),
        ("Org/app", "upper case"),
        ("org//app", "empty"),
        ("/app", "empty"),
        ("app/", "empty"),
        ("org/-app", "single"),
        ("org/a..b", "single"),
        ("org/a___b", "single"),
        ("org/app:v1", "single"),
        ("org/app\n", "single"),
        ("../up", "single"),
        ("o" * 256, "longer than 255"),
    ],
)
def test_an_invalid_repository_is_refused_with_the_reason(name: str, reason: str) -> None:
    with pytest.raises(SynclineError, match=reason):
        reference.parse_repository(name)


@pytest.mark.parametrize(
    ("tag", "reason"),
    [
        ("", "is empty"),
        (".v1", "begins with"),
        ("-v1", "begins with"),
        ("a/b", "characters other"),
        ("v1\n", "characters other"),
        ("ü", "characters other"),
        ("t" * 129, "longer than 128"),
    ],
)
def test_an_invalid_tag_is_refused_with_the_reason(tag: str, reason: str) -> None:
    with pytest.raises(SynclineError, match=reason):
        reference.parse_tag(tag)


@pytest.mark.parametrize(
    ("digest", "reason"),
    [
        ("v1", "no algorithm"),
        ("md5:" + "0" * 32, "neither sha256 nor sha512"),
        ("SHA256:" + "0" * 64, "neither sha256 nor sha512"),
        ("sha256:" + "0" * 63, "64 digits, not 63"),
        ("sha512:" + "0" * 64, "128 digits, not 64"),
        ("sha256:" + "A" * 64, "not 0-9 and a-f"),
        ("sha256:" + "0" * 63 + "\n", "not 0-9 and a-f"),
        ("sha256:" + "0" * 64 + "\n", "64 digits, not 65"),
    ],
)
def test_an_invalid_digest_is_refused_with_the_reason(digest: str, reason: str) -> None:
    with pytest.raises(SynclineError, match=reason):
        reference.parse_digest(digest)


def test_a_sha512_digest_is_computed_with_sha512() -> None:
    digest = f"sha512:{hashlib.sha512(b'x').hexdigest()}"
    assert reference.parse_digest(digest) == digest
    assert reference.digest_matches(digest, b"x")
    assert reference.hasher(digest).name == "sha512"
