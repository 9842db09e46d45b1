"""Kubernetes Secrets stay out of git: left out or encrypted, and nothing else changes by a byte."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline.errors import SynclineError
from syncline.kinds.backups.sealing import MAGIC, Rule, Sealer, seal, unseal

KEY = base64.b64encode(bytes(range(64))).decode()
OTHER = base64.b64encode(bytes(64)).decode()
SECRET = b"apiVersion: v1\nkind: Secret\nmetadata: {name: db}\ndata: {password: aHVudGVyMg==}\n"
CONFIG = b"apiVersion: v1\nkind: ConfigMap\ndata: {secretName: Secret}\n"
PATH = "c/n/x.yaml"


@pytest.mark.parametrize(
    "data",
    [
        SECRET,
        b"---\n" + SECRET,
        b'{"kind": "Secret", "data": {}}',
        b"kind: SecretList\nitems: []\n",
        b"kind: List\nitems:\n- kind: ConfigMap\n- kind: Secret\n",
        json.dumps({"kind": "List", "items": [{"kind": "Secret"}]}).encode(),
        b'"kind": "Secret"\n',
        b"kind: Secret\ndata: [unbalanced\n",
        b'{"kind": "Secret", "cut',
        b"# Secret\n- kind: Secret\n",
        b"kind: Secret\ndata: !vault x\n",
    ],
)
def test_a_secret_is_left_out_or_encrypted(data: bytes) -> None:
    assert Sealer(Rule.LEAVE_OUT).sealed(PATH, data) is None
    sealed = Sealer(Rule.ENCRYPT, KEY).sealed(PATH, data)
    assert sealed is not None
    assert sealed.startswith(MAGIC)
    assert b"Secret" not in sealed.removeprefix(MAGIC)
    assert unseal(KEY, PATH, sealed) == data
    assert Sealer(Rule.KEEP).sealed(PATH, data) == data


@pytest.mark.parametrize(
    "data", [CONFIG, b"", b"kind: SealedSecret\n", b"just a Secret", b"kind: ExternalSecret\nspec: {kind: Secret}\n"]
)
def test_what_only_names_secrets_is_left_as_it_is(data: bytes) -> None:
    assert Sealer(Rule.LEAVE_OUT).sealed(PATH, data) == data
    assert Sealer(Rule.ENCRYPT, KEY).sealed(PATH, data) == data


def test_of_several_documents_only_the_secrets_go() -> None:
    data = CONFIG + b"---\n" + SECRET + b"--- # last\n" + CONFIG
    assert Sealer(Rule.LEAVE_OUT).sealed(PATH, data) == CONFIG + b"--- # last\n" + CONFIG


def test_other_files_are_not_looked_into() -> None:
    sealer = Sealer(Rule.LEAVE_OUT)
    assert sealer.sealed("c/n/dump.tar", SECRET) == SECRET
    assert not sealer.looks_into("c/n/dump.tar")
    assert sealer.looks_into("c/n/X.YML")


@given(st.binary(max_size=300))
def test_the_same_content_is_encrypted_to_the_same_bytes(data: bytes) -> None:
    key = base64.b64decode(KEY)
    sealed = seal(key, PATH, data)
    assert sealed == seal(key, PATH, data)
    assert unseal(KEY, PATH, sealed) == data
    assert all(len(line) <= 76 for line in sealed.splitlines())


@pytest.mark.parametrize(
    ("key", "path", "change"),
    [(OTHER, PATH, b""), (KEY, "c/n/other.yaml", b""), (KEY, PATH, b"AAAA"), (KEY, PATH, b"*")],
)
def test_another_key_path_or_content_is_refused(key: str, path: str, change: bytes) -> None:
    sealed = seal(base64.b64decode(KEY), PATH, SECRET) + change
    with pytest.raises(SynclineError) as caught:
        unseal(key, path, sealed)
    assert caught.value.code.name == "UNAUTHORIZED"
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("key", [None, "", "short", base64.b64encode(bytes(31)).decode()])
def test_a_key_that_is_none_is_a_configuration_error(key: str | None) -> None:
    with pytest.raises(SynclineError) as caught:
        Sealer(Rule.ENCRYPT, key).sealed(PATH, SECRET)
    assert caught.value.code.name == "CONFIG_INVALID"


def test_what_was_made_by_one_rule_is_told_from_what_another_makes() -> None:
    names = {Sealer(rule, KEY).name for rule in Rule} | {Sealer(Rule.ENCRYPT, OTHER).name}
    assert len(names) == 4
    assert all(KEY not in name for name in names)
