from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncline.clients.http.read_ahead import read_ahead
from syncline.errors import SynclineError


def reader_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "read-ahead"]


@settings(max_examples=50)
@given(st.lists(st.binary(max_size=10), max_size=20), st.integers(1, 5), st.integers(0, 25))
def test_chunks_are_yielded_in_order(chunks: list[bytes], depth: int, taken: int) -> None:
    with read_ahead(chunks, depth) as ahead:
        assert [chunk for _, chunk in zip(range(taken), ahead, strict=False)] == chunks[:taken]
    assert reader_threads() == []


def test_an_error_of_the_source_is_raised_after_its_chunks() -> None:
    def broken() -> Iterator[bytes]:
        yield b"a"
        yield b"b"
        raise SynclineError("UNREACHABLE", "the source broke off")

    got = []
    with pytest.raises(SynclineError, match="broke off"), read_ahead(broken()) as ahead:  # noqa: PT012 - the time of the error matters
        for chunk in ahead:
            got.append(chunk)  # noqa: PERF402 - keeps the chunks before the error
    assert got == [b"a", b"b"]
    assert reader_threads() == []


def test_the_buffer_has_a_limit() -> None:
    taken = []
    full = threading.Event()

    def source() -> Iterator[bytes]:
        for number in range(100):
            taken.append(number)
            if len(taken) == 4:
                full.set()
            yield bytes([number])

    with read_ahead(source(), depth=3) as ahead:
        assert full.wait(10)  # three are buffered, and the reader holds one
        assert len(taken) == 4
        assert next(ahead) == b"\0"
    assert len(taken) <= 7, "the reader stops after its current chunk"
    assert reader_threads() == []


@pytest.mark.parametrize("depth", [1, 4])
def test_the_end_of_the_context_stops_a_waiting_reader(depth: int) -> None:
    endless = iter(lambda: b"x", b"")
    for _ in range(200):
        with pytest.raises(ValueError, match="the sender failed"), read_ahead(endless, depth) as ahead:  # noqa: PT012
            next(ahead)
            raise ValueError("the sender failed")
    assert reader_threads() == []


def test_the_next_chunk_is_read_while_one_is_sent() -> None:
    """The second chunk is fetched before the first one is consumed."""
    fetched = threading.Event()

    def source() -> Iterator[bytes]:
        yield b"first"
        fetched.set()
        yield b"second"

    with read_ahead(source()) as ahead:
        assert next(ahead) == b"first"
        assert fetched.wait(10)
        assert list(ahead) == [b"second"]
