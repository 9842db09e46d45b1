"""Answers taken apart as they come in, whole or byte by byte, right or wrong."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline.clients.http_answer import LARGEST_BODY, LARGEST_HEAD, AnswerReader, GarbageError

OK = b"HTTP/1.1 200 OK\r\nServer: nginx\r\nContent-Length: 3\r\n\r\nok\n"
CHUNKED = b"HTTP/1.1 401 Unauthorized\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\n"


def read(data: bytes, cuts: list[int] | None = None) -> AnswerReader:
    reader = AnswerReader()
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts or []), len(data)]
    for start, end in itertools.pairwise(places):
        if end > start:
            reader.feed(data[start:end])
    return reader


@pytest.mark.parametrize(
    ("data", "status", "reusable"),
    [
        (OK, 200, True),
        (CHUNKED, 401, True),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, True),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", 304, True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", 200, False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\nConnection: keep-alive\r\n\r\n", 200, False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", 200, False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n", 200, True),
        (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK, 200, True),
        (b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", 200, True),
        (b"HTTP/1.1 200 OK\nContent-Length: 0\n\n", 200, True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok", 200, True),
    ],
)
@given(cuts=st.lists(st.integers(0, 10_000), max_size=6))
def test_an_answer_is_read_however_it_is_cut(data: bytes, status: int, reusable: bool, cuts: list[int]) -> None:
    reader = read(data, cuts)
    assert (reader.status, reader.complete, reader.reusable) == (status, True, reusable)


def test_the_status_is_known_with_the_head_and_not_before() -> None:
    reader = AnswerReader()
    reader.feed(OK[:-4])
    assert (reader.status, reader.begun) == (None, True)
    reader.feed(OK[-4:-3])
    assert (reader.status, reader.complete) == (200, False)
    assert not reader.ended()


def test_a_body_without_a_length_lasts_until_the_end() -> None:
    reader = read(b"HTTP/1.1 200 OK\r\n\r\nsome")
    assert not reader.complete
    assert reader.ended()
    assert not reader.reusable


@pytest.mark.parametrize(
    "data",
    [
        b"\x15\x03\x01\x00\x02",
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno field\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 9,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\rb\r\n\r\n",
        OK + b"more",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * LARGEST_HEAD,
        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (LARGEST_BODY + 1),
        b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (LARGEST_BODY + LARGEST_HEAD),
    ],
)
def test_garbage_is_told(data: bytes) -> None:
    with pytest.raises(GarbageError):
        read(data)


@given(st.binary(max_size=400), st.lists(st.integers(0, 400), max_size=4))
def test_whatever_comes_it_is_an_answer_or_garbage(data: bytes, cuts: list[int]) -> None:
    try:
        reader = read(data, cuts)
    except GarbageError:
        return
    assert reader.status is None or 200 <= reader.status < 600


def test_the_first_empty_line_ends_the_head_however_lines_end() -> None:
    data = b"HTTP/1.1 200 OK\nContent-Length: 25\n\nHTTP/1.1 404 no\r\nA: b\r\n\r\n"
    whole, dripped = AnswerReader(), AnswerReader()
    whole.feed(data)
    for byte in data:
        dripped.feed(bytes([byte]))
    assert (whole.status, whole.complete) == (dripped.status, dripped.complete) == (200, True)
