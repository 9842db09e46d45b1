"""The configuration file: its encoding, YAML, aliases, and the files that it names."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from syncline.config.file import LARGEST, ConfigInvalid, parse_syncs, read_syncs
from syncline.config.sync import Sync, load_sync
from syncline.errors import SynclineError
from syncline.kinds.images.config import ImagesSync

ONE = """syncs:
  a:
    kind: images
    source: {registry: prod.example, %s}
    target: {registry: dr.example}
"""


def images(sync: Sync) -> ImagesSync:
    assert isinstance(sync, ImagesSync)
    return sync


def source(inside: str) -> str:
    return ONE % inside


def test_invalid_utf8_is_reported_with_its_position() -> None:
    with pytest.raises(ConfigInvalid) as raised:
        parse_syncs(b"syncs:\n  caf\xe9: 1\n")
    (problem,) = raised.value.problems
    assert (problem.line, problem.column) == (2, 6)
    assert "UTF-8" in problem.message


def test_a_byte_order_mark_and_windows_line_ends_are_accepted() -> None:
    text = "\ufeff" + source("repositories: [a]").replace("\n", "\r\n")
    assert list(parse_syncs(text.encode()).syncs) == ["a"]


def test_a_file_that_is_too_large_is_refused() -> None:
    with pytest.raises(ConfigInvalid, match="larger than 1048576 bytes"):
        parse_syncs(b"#" * (LARGEST + 1))


def test_an_alias_bomb_is_refused() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    with pytest.raises(ConfigInvalid, match="more than 100000 values"):
        parse_syncs("\n".join(lines).encode())


def test_a_merge_bomb_is_refused() -> None:
    lines = ["a0: &a0 {x: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]}"]
    lines += [f"a{n}: &a{n} {{{', '.join(f'k{i}: *a{n - 1}' for i in range(10))}}}" for n in range(1, 9)]
    with pytest.raises(ConfigInvalid, match="more than 100000 values"):
        parse_syncs("\n".join(lines).encode())


def test_excessive_nesting_is_refused() -> None:
    with pytest.raises(ConfigInvalid, match="deeper than 20"):
        parse_syncs(b"[" * 500_000)


def test_anchors_and_merges_share_parts_between_syncs() -> None:
    text = """syncs:
  a:
    kind: images
    source: {registry: prod.example, repositories: [team/app]}
    target: &dr {registry: dr.example, prefix: a, auth: {token: env:T}}
  b:
    kind: images
    source: {registry: prod.example, repositories: [team/app]}
    target: {<<: *dr, prefix: b}
"""
    syncs = parse_syncs(text.encode()).syncs
    one, other = (images(syncs[name]) for name in "ab")
    assert other.target.auth == one.target.auth
    assert other.target.prefix == "b"


def test_a_problem_in_a_shared_part_is_reported_at_its_anchor() -> None:
    text = """syncs:
  a:
    kind: images
    source: {registry: prod.example, repositories: [team/app]}
    target: &dr {registry: dr.example/x}
  b:
    kind: images
    source: {registry: prod.example, repositories: [team/app]}
    target: {<<: *dr, prefix: b}
"""
    with pytest.raises(ConfigInvalid) as raised:
        parse_syncs(text.encode())
    assert [(p.line, p.path) for p in raised.value.problems] == [
        (5, "syncs.a.target.registry"),
        (5, "syncs.b.target.registry"),
    ]


def test_booleans_of_yaml_1_1_are_text() -> None:
    text = source("repositories: [no, 'on', 2020-01-01, y]")
    assert images(parse_syncs(text.encode()).syncs["a"]).source.repositories == ("no", "on", "2020-01-01", "y")


def certificate() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "authority")])
    day = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, day, day + dt.timedelta(days=1))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def test_the_authority_is_read_relative_to_the_file(tmp_path: Path) -> None:
    pem = certificate()
    (tmp_path / "ca.pem").write_bytes(pem)
    file = tmp_path / "syncs.yaml"
    file.write_text(source("repositories: [a], ca: file:ca.pem"))
    assert images(read_syncs(file).syncs["a"]).source.ca == pem.decode()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "contains no certificate"),
        (b"-----BEGIN PRIVATE KEY-----\nhunter2", "contains no certificate"),
        (b"-----BEGIN CERTIFICATE-----\n-----BEGIN PRIVATE KEY-----", "contains a private key"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "is not a valid certificate"),
        (b"x" * 200_000, "larger than 131072 bytes"),
    ],
)
def test_an_invalid_authority_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "ca.pem").write_bytes(content)
    with pytest.raises(ConfigInvalid) as raised:
        parse_syncs(source("repositories: [a], ca: file:ca.pem").encode(), folder=tmp_path)
    (problem,) = raised.value.problems
    assert words in problem.message
    assert "hunter2" not in problem.message


def test_public_keys_in_a_list_of_rules_are_read_relative_to_the_file(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    pem = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "key.pub").write_bytes(pem * 2)
    (tmp_path / "ca.pem").write_bytes(certificate())
    identity = "{issuer: i, subject: s, ca: file:ca.pem, log_key: file:key.pub}"
    rules = f"    verify: [{{public_key: file:key.pub}}, {{identity: {identity}}}]\n"
    sync = images(parse_syncs((source("repositories: [a]") + rules).encode(), folder=tmp_path).syncs["a"])
    by_key, keyless = sync.verify
    assert by_key.public_key == (pem * 2).decode()
    assert keyless.identity is not None
    assert (keyless.identity.ca, keyless.identity.log_key) == ((tmp_path / "ca.pem").read_text(), pem.decode() * 2)
    assert load_sync(sync.model_dump_json()) == sync


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "contains no public key"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "is not a valid public key"),
        (b"-----BEGIN PUBLIC KEY-----\n-----BEGIN PRIVATE KEY-----\nhunter2", "contains a private key"),
        (b"x" * 20_000, "larger than 16384 bytes"),
    ],
)
def test_an_invalid_public_key_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "key.pub").write_bytes(content)
    text = source("repositories: [a]") + "    verify: [{public_key: file:key.pub}]\n"
    with pytest.raises(ConfigInvalid) as raised:
        parse_syncs(text.encode(), folder=tmp_path)
    (problem,) = raised.value.problems
    assert words in problem.message
    assert problem.path == "syncs.a.verify[0].public_key"
    assert "hunter2" not in problem.message


def test_a_missing_file_is_reported() -> None:
    with pytest.raises(SynclineError, match=r"USAGE: cannot read .*nowhere.yaml"):
        read_syncs(Path("/nowhere.yaml"))


def test_a_file_may_have_no_syncs() -> None:
    assert parse_syncs(b"syncs: {}").syncs == {}
