"""Secrets in backups are left out or encrypted, and removed from branches that contain them."""

from __future__ import annotations

import base64
import gzip
import logging
import os
import random

import pytest

from syncline.kinds.backups.secrets_filter import SecretsFilter, SecretsPolicy, decrypt
from syncline.model import Outcome
from tests.rig.backups import World
from tests.rig.backups_memory import InMemoryIndex
from tests.rig.secret_documents import HARMLESS, PLANTED, WAYS

FILES = {f"{c}/n{n}/f{f}.yaml": f"{c} {n} {f}\n".encode() for c in ("east", "west") for n in range(3) for f in range(4)}
SECRET = b"kind: Secret\ndata: {password: aHVudGVyMg==}\n"


def test_secrets_are_left_out_and_a_committed_one_is_removed(world: World) -> None:
    world.put(FILES | {"east/n0/secret.yaml": SECRET})
    kept = world.but(secrets_filter=SecretsFilter(SecretsPolicy.KEEP))
    kept.run()
    assert world.bare.files()["east/n0/secret.yaml"] == SECRET
    assert world.codes(world.run())["east/n0/secret.yaml"] == "removed"
    assert world.bare.files() == FILES
    assert world.run() == {}
    assert world.skipped() == len(FILES)
    assert sum(page.left_out for page in world.scan()) == 1, "a left out item was counted as equal"


def test_left_out_items_are_counted_and_those_with_a_code_named_in_every_run(world: World) -> None:
    suspect = b"{{ if on }}\n" + SECRET
    world.put(FILES | {"east/n0/secret": SECRET, "east/n0/template.txt": suspect})
    expected = {"east/n0/secret": "left_out", "east/n0/template.txt": "SECRET_SUSPECTED"}
    assert world.codes(world.run()) == dict.fromkeys(FILES, "moved") | expected
    assert world.bare.files() == FILES
    for _ in range(2):
        again = world.run()
        assert world.codes(again) == {"east/n0/template.txt": "SECRET_SUSPECTED"}
        assert again["east/n0/template.txt"].outcome is Outcome.LEFT_OUT
        assert "'east/n0/template.txt' cannot be parsed" in str(again["east/n0/template.txt"].reason)
    assert world.skipped() == len(FILES)
    assert sum(page.left_out for page in world.scan()) == 1
    world.put({"east/n0/f0.yaml": b"changed", "east/n0/template.txt": b"no more"})
    assert world.codes(world.run()) == {"east/n0/f0.yaml": "moved", "east/n0/template.txt": "moved"}


def test_an_archive_that_contains_secrets_is_left_out(world: World) -> None:
    world.put({"east/backup.tar.gz": WAYS["velero's archive"][1], "east/n/x.tgz": HARMLESS["tar of harmless files"][1]})
    assert world.codes(world.run()) == {"east/backup.tar.gz": "left_out", "east/n/x.tgz": "moved"}


def test_no_value_of_a_secret_reaches_the_branch_the_report_or_the_log(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    written = {f"east/n/{number}-{path}": data for number, (path, data) in enumerate(WAYS.values())}
    written |= {f"west/n/{number}-{path}": data for number, (path, data) in enumerate(HARMLESS.values())}
    world.put(written)
    results = world.run()
    committed = world.bare.files()
    assert {key for key in committed if key.startswith("west/")} == {key for key in written if key.startswith("west/")}
    output = "".join([str(list(results.values())), caplog.text, world.bare.git("log", "--format=%B")])
    for text in (output.encode(), *committed.values()):
        assert PLANTED.encode() not in text
        assert base64.b64encode(PLANTED.encode()) not in text


def test_a_secret_committed_under_another_policy_is_removed(world: World) -> None:
    world.put(FILES | {"east/n0/s.bak": SECRET})
    before = world.but(secrets_filter=SecretsFilter(SecretsPolicy.KEEP))
    before.run()
    assert world.bare.files()["east/n0/s.bak"] == SECRET
    assert world.codes(world.run())["east/n0/s.bak"] == "removed"


def test_secrets_are_encrypted_before_they_are_hashed(world: World) -> None:
    key = base64.b64encode(os.urandom(64)).decode()
    sealing = world.but(secrets_filter=SecretsFilter(SecretsPolicy.ENCRYPT, key))
    sealing.put(FILES | {"east/n0/secret.yaml": SECRET})
    sealing.run()
    sealed = sealing.bare.files()["east/n0/secret.yaml"]
    assert b"password" not in sealed
    assert decrypt(key, "east/n0/secret.yaml", sealed) == SECRET
    commits = sealing.bare.commits()
    forgetful = sealing.but(index=InMemoryIndex())
    forgetful.run()
    assert sealing.bare.commits() == commits, "the same Secret became another blob"


def test_objects_too_large_for_the_search_for_secrets(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("source", "secrets_detection"):
        monkeypatch.setattr(f"syncline.kinds.backups.{module}.LARGEST", 3_000_000)
    noise = random.Random(0).randbytes(3_000_001)
    objects = {
        "east/n/dump": b"a: b\n" * 600_001 + SECRET,
        "east/n/dump.bin": noise,
        "east/n/dump.yaml": b"a: b\n" * 600_001,
        "east/n/dump.gz": gzip.compress(noise + b"\n" + SECRET),
        "east/n/list.json": b" " * 2_500_000,
        "east/n/middle": b"a: b\n" * 500_001 + SECRET,
    }
    world.put(objects)
    left_out = {"east/n/dump": "SECRETS_UNSEEN", "east/n/dump.gz": "SECRETS_UNSEEN", "east/n/middle": "left_out"}
    assert world.codes(world.run()) == dict.fromkeys(objects, "moved") | left_out
    assert world.bare.files() == {key: data for key, data in objects.items() if key not in left_out}
    left_out.pop("east/n/middle")
    assert world.codes(world.run()) == left_out
