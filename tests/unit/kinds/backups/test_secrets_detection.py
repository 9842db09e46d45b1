"""The detection of Kubernetes Secrets in every form and at every depth, and its limits."""

from __future__ import annotations

import base64
import bz2
import gzip
import io
import json
import zipfile
from collections.abc import Callable
from typing import Any, Final

import pytest

from syncline.kinds.backups import secrets_detection
from syncline.kinds.backups.secrets_detection import Verdict, inspect, without_secrets
from tests.rig.secret_documents import CONFIG, WAYS, YAML, packed


def zipped(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("x", data)
    return buffer.getvalue()


def after_other_data(data: bytes) -> bytes:
    """Return data preceded by data of another compression format."""
    return (bz2.compress if data.startswith(b"\x1f\x8b") else gzip.compress)(b"x") + data


SECRET: Final = b'{"kind": "Secret", "data": {"x": "eA=="}}'
WRAPPINGS: Final[dict[str, Callable[[bytes], bytes]]] = {
    "gzip": gzip.compress,
    "tar": lambda data: packed({"x": data}),
    "zip": zipped,
    "base64": base64.b64encode,
    "behind": after_other_data,
    "text": lambda data: json.dumps({"kind": "ConfigMap", "data": {"x": data.decode("latin-1")}}).encode(),
}


@pytest.mark.parametrize("name", WRAPPINGS)
def test_each_form_counts_as_one_layer(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets_detection, "_DEEPEST", 3)
    data, verdicts = SECRET, [inspect([SECRET])]
    for _ in range(4):
        data = WRAPPINGS[name](data)
        verdicts.append(inspect([data]))
    assert verdicts == [*[Verdict.SECRET] * 4, Verdict.UNSEEN]


def test_a_zip_is_held_completely_or_not_inspected(monkeypatch: pytest.MonkeyPatch) -> None:
    data = zipped(YAML)
    monkeypatch.setattr(secrets_detection, "LARGEST", len(data))
    assert inspect([data]) is Verdict.SECRET
    monkeypatch.setattr(secrets_detection, "LARGEST", len(data) - 1)
    assert inspect([data]) is Verdict.UNSEEN


def test_the_unpacked_bytes_of_an_object_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    text = b"a: nothing\n" * 500
    packed_ = gzip.compress(text, mtime=0)
    monkeypatch.setattr(secrets_detection, "_UNPACKED", len(text))
    assert inspect([packed_]) is Verdict.CLEAN
    assert inspect([gzip.compress(text + b"\n")]) is Verdict.UNSEEN
    monkeypatch.setattr(secrets_detection, "_RATIO", 2)
    monkeypatch.setattr(secrets_detection, "_FREE", len(text) - 2 * len(packed_))
    assert inspect([packed_]) is Verdict.CLEAN
    monkeypatch.setattr(secrets_detection, "_FREE", len(text) - 2 * len(packed_) - 1)
    assert inspect([packed_]) is Verdict.UNSEEN


def test_a_large_text_that_names_a_secret_is_not_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its documents are too large to be parsed."""
    monkeypatch.setattr(secrets_detection, "LARGEST", 5_000)
    filler = b"a: nothing\n" * 600
    assert inspect([filler + b"the Secret data\n" + filler]) is Verdict.UNSEEN
    assert inspect([filler + WAYS["etcd's protobuf"][1] + filler]) is Verdict.UNSEEN
    assert inspect([filler]) is Verdict.CLEAN


@pytest.mark.parametrize(
    "data",
    [
        YAML.replace(b"Secret", b"Sec\0ret"),
        CONFIG + b"---\n\xef\xbb\xbfkind: Secret\ndata: {x: y}\n",
        b"a: b\n#kind: Secret\n# data: {x: y}\n",
        b'level=info object={{"kind":"Secret","data":{"x":"eA=="}} "',
        b'{"apiVersion": " v1 ", "kind": "Secret", "metadata": {"name": "x"}}',
        b'{"kind": "SecretList", "items": [{"data": {}}]}',
        b'{"v1/secrets": {"data": {"x": "eA=="}}}',
        b'{"v1/secret": [{"data": {"x": "eA=="}}]}',
        b"x: &x {kind: Secret}\ny: {<<: *x, stringData: {a: b}}\n",
        b"x: &x {kind: Secret}\ny: {<<: [*x], data: {a: b}}\n",
    ],
    ids=["zeros", "mark", "comment", "log", "no data", "list", "velero", "velero's list", "merged", "merged list"],
)
def test_secrets_are_found(data: bytes) -> None:
    assert inspect([data]) is Verdict.SECRET


@pytest.mark.parametrize(
    "value",
    [
        {"kind": "SecretList", "apiVersion": "v1", "items": []},
        {"kind": "SecretList", "items": [], "data": {"x": "y"}},
        {"kind": "SecretList", "items": {"data": "x"}},
        {"kind": "Secret", "metadata": {"name": "x"}},
        {"kind": "Secret", "apiVersion": "v2", "metadata": {"name": "x"}},
        {"kind": "Secret", "apiVersion": "v1", "metadata": "x"},
        {"kind": "Secret", "data": None},
        {"kind": "Secret", "data": 1},
        {"kind": "Secret", "data": 1.5},
        {"kind": "Secret", "data": float("nan")},
        {"kind": ["Secret"], "data": {"x": "y"}},
        {"kind": "Other", "data": {"kind": "Secret"}},
        {"<<": [], "data": {"x": "Secret"}},
        {"<<": ["x"], "data": {"x": "Secret"}},
        {"v1/secrets": {"name": "data"}},
        {"items": [{}], "data": {"kind": "SecretList"}},
    ],
    ids=str,
)
def test_documents_that_are_not_secrets_are_clean(value: dict[str, Any]) -> None:
    assert inspect([json.dumps(value).encode()]) is Verdict.CLEAN


ADJACENT: Final = {
    "objects": b'{"a": 1}{"kind": "Secret",\n"data": {"x": "y"}}',
    "lists": b'\t[1]\n[{"kind": "Secret",\n"data": {"x": "y"}}]',
    "a long number": b'{"a": ' + b"9" * 5_000 + b'}{"kind": "Secret", "data": {"x": "y"}}',
    "text in lists": b'{"a": 1}' + json.dumps([[["x", [SECRET.decode()]]]]).encode(),
    "a tab in a text": b'{"a": 1}{"kind": "Secret", "note": "b\tc", "data": {"x": "y"}}',
    "a text": b'{"a": 1}' + json.dumps(SECRET.decode()).encode(),
}


@pytest.mark.parametrize("name", ADJACENT)
def test_json_documents_may_follow_each_other_without_a_separator(name: str) -> None:
    """YAML parsers reject them."""
    assert inspect([ADJACENT[name]]) is Verdict.SECRET


def test_adjacent_documents_that_are_not_secrets_are_clean() -> None:
    assert inspect([b'{"a": {"kind": "Secret"}}{"data": {"x": "y"}}\n']) is Verdict.CLEAN


@pytest.mark.parametrize("value", ["//4=", "no base64 at all"])
def test_binary_values_need_not_be_text(value: str) -> None:
    assert (
        inspect([f"kind: ConfigMap\nbinaryData: {{x: !!binary '{value}'}}\ndata: Secret\n".encode()]) is Verdict.CLEAN
    )


def test_text_with_zeros_is_left_out_completely() -> None:
    """It is unknown which encoding a parser would assume."""
    assert without_secrets(CONFIG + b"---\n" + YAML) == CONFIG
    assert without_secrets(CONFIG + b"...\n" + YAML) == CONFIG + b"...\n"
    assert without_secrets(CONFIG + b"\0\n---\n" + YAML) is None


def test_the_time_is_checked_regularly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets_detection, "_CLOCK_INTERVAL", 5_000)
    checks = 0

    def over() -> bool:
        nonlocal checks
        checks += 1
        return False

    documents = (CONFIG + b"of: the Secret\n---\n") * 200
    assert inspect([documents], over) is Verdict.CLEAN
    assert 5 < checks <= 50
