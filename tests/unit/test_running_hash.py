from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline import running_hash
from syncline.running_hash import RunningHash

ALGORITHMS = st.sampled_from(["sha256", "sha512"])


@pytest.fixture
def without_openssl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running_hash, "_openssl", lambda: None)


@given(algorithm=ALGORITHMS, pieces=st.lists(st.binary(max_size=300), max_size=8))
def test_a_running_hash_is_the_hash_of_all_bytes_so_far(algorithm: str, pieces: list[bytes]) -> None:
    running, text = RunningHash(algorithm), b""
    for piece in pieces:
        running.update(piece)
        text += piece
        assert running.hexdigest() == hashlib.new(algorithm, text).hexdigest()
        assert running.offset == len(text)


@given(algorithm=ALGORITHMS, before=st.binary(max_size=500), after=st.binary(max_size=500))
def test_a_running_hash_can_be_stored_and_resumed(algorithm: str, before: bytes, after: bytes) -> None:
    running = RunningHash(algorithm)
    running.update(before)
    stored = json.loads(json.dumps(running.state()))
    assert stored is not None, "this Python's OpenSSL can be reached"
    resumed = RunningHash.resume(algorithm, stored)
    assert resumed.offset == len(before)
    resumed.update(after)
    assert resumed.hexdigest() == hashlib.new(algorithm, before + after).hexdigest()
    running.update(b"what the first one goes on with is its own")
    assert RunningHash.resume(algorithm, stored).hexdigest() == hashlib.new(algorithm, before).hexdigest()


def test_large_pieces_are_hashed() -> None:
    piece = bytes(range(256)) * 4096
    running = RunningHash("sha256")
    for _ in range(5):
        running = RunningHash.resume("sha256", running.state())
        running.update(piece)
    assert running.hexdigest() == hashlib.sha256(piece * 5).hexdigest()


@pytest.mark.usefixtures("without_openssl")
@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_without_openssl_no_state_is_stored_and_hashing_restarts(algorithm: str) -> None:
    running = RunningHash(algorithm)
    running.update(b"some bytes")
    assert running.state() is None
    assert running.hexdigest() == hashlib.new(algorithm, b"some bytes").hexdigest()
    resumed = RunningHash.resume(algorithm, None)
    assert resumed.offset == 0


@pytest.mark.usefixtures("without_openssl")
def test_an_incompatible_state_of_another_machine_is_not_resumed() -> None:
    resumed = RunningHash.resume("sha256", [10, "AAAA"])
    assert resumed.offset == 0
    resumed.update(b"all of it")
    assert resumed.hexdigest() == hashlib.sha256(b"all of it").hexdigest()


def test_a_state_of_another_size_is_not_resumed() -> None:
    running = RunningHash("sha512")
    running.update(b"some bytes")
    assert RunningHash.resume("sha256", running.state()).offset == 0
