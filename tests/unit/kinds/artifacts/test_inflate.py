"""Deflate streams that are interrupted at any byte and resumed from their state."""

from __future__ import annotations

import random
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline.kinds.artifacts.archive.inflate import DEFLATE, GZIP, DamagedError, Inflater
from syncline.kinds.artifacts.archive.streams import CHUNK

TRAILING = b"bytes after the end"
LARGEST_STATE = 8 + 21544 + 2 * 32768 + 288


def content_of(kind: str, size: int, seed: int) -> bytes:
    rng = random.Random(seed)
    words = [rng.randbytes(rng.randint(2, 9)) for _ in range(500)]
    text = b"".join(rng.choices(words, k=size // 2))[:size]
    return {"random": rng.randbytes(size), "text": text, "zeros": bytes(size)}[kind]


def packed(content: bytes, level: int, kind: int) -> bytes:
    packer = zlib.compressobj(level, zlib.DEFLATED, 31 if kind == GZIP else -15)
    return packer.compress(content) + packer.flush()


@given(
    content=st.sampled_from(["random", "text", "zeros"]),
    size=st.sampled_from([0, 1, 300, 70_000, CHUNK, CHUNK + 1]),
    level=st.sampled_from([0, 1, 6, 9]),
    kind=st.sampled_from([DEFLATE, GZIP]),
    seed=st.integers(0, 2**32),
    steps=st.lists(st.integers(1, 40_000), min_size=1, max_size=20),
)
def test_any_interruption_gives_the_same_bytes(
    content: str, size: int, level: int, kind: int, seed: int, steps: list[int]
) -> None:
    raw = content_of(content, size, seed)
    stream = packed(raw, level, kind) + TRAILING
    inflater = Inflater(kind)
    out: list[bytes] = []
    at = number = 0
    while not inflater.is_finished:
        chunk = b""
        if not inflater.waiting:
            chunk = stream[at : at + max(steps[number % len(steps)], size // 100)]
            number += 1
            at += len(chunk)
        out.append(inflater.inflate(chunk))
        if number % 3 and not inflater.is_finished:
            at -= inflater.waiting
            state = inflater.state()
            assert len(state) <= LARGEST_STATE
            inflater = Inflater(kind, state)
    assert b"".join(out) == raw
    assert inflater.rest + stream[at:] == TRAILING


def test_damaged_stream() -> None:
    stream = bytearray(packed(b"some text " * 100, 6, GZIP))
    stream[-6] ^= 1
    with pytest.raises(DamagedError):
        Inflater(GZIP).inflate(bytes(stream))


def test_invalid_state() -> None:
    with pytest.raises(ValueError, match="cannot be the state"):
        Inflater(GZIP, b"too short")
