"""The head of an object: read from a response, sent with a request, and compared by its fingerprint."""

from __future__ import annotations

from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline.clients.http.client import Response
from syncline.clients.http.transfer import Headers, Transfer
from syncline.clients.s3.head import IF_ABSENT, ObjectHead, WriteCondition, attributes_of, fingerprint, head_of
from syncline.errors import SynclineError

OWN = {
    "cache-control": "no-store",
    "content-disposition": 'attachment; filename="a.txt"',
    "content-encoding": "gzip",
    "content-language": "de, en",
    "expires": "Thu, 01 Dec 2033 16:00:00 GMT",
    "x-amz-website-redirect-location": "/elsewhere",
}


class _Raw:
    def close(self) -> None:
        """Do nothing, as there is no connection."""


def answer(fields: dict[str, str], length: str = "7") -> Response:
    """Return a response with the header ``fields`` as received: bytes decoded as Latin-1."""
    listed = [(name.lower(), value.encode().decode("latin-1")) for name, value in fields.items()]
    headers = Headers([("content-length", length), *listed])
    return Response("HEAD", "http://h/b/k", 200, headers, b"", cast("Transfer", _Raw()))


def sent(head: ObjectHead) -> ObjectHead:
    """Return the head of an object written with the attributes of ``head`` to a server that keeps bytes."""
    return head_of(answer({name.lower(): value for name, value in attributes_of(head).items()}))


def test_attributes_of_the_object_are_read_and_sent() -> None:
    named = {name.title(): value for name, value in OWN.items()}
    head = head_of(answer({**named, "Content-Type": "text/plain", "Accept-Ranges": "bytes", "Server": "s"}))
    assert head.headers == OWN
    assert attributes_of(head) == {"Content-Type": "text/plain", **OWN}
    assert attributes_of(None) == {}


def test_absent_headers_are_not_sent() -> None:
    head = head_of(answer({"Cache-Control": ""}))
    assert (head.headers, head.content_type) == ({}, "application/octet-stream")


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("aws-chunked", {}),
        ("aws-chunked,gzip", {"content-encoding": "gzip"}),
        ("gzip, AWS-Chunked", {"content-encoding": "gzip"}),
        ("br, gzip", {"content-encoding": "br, gzip"}),
    ],
)
def test_the_encoding_of_the_transfer_is_not_kept(value: str, kept: dict[str, str]) -> None:
    assert head_of(answer({"Content-Encoding": value})).headers == kept


@pytest.mark.parametrize("length", ["", "-1", "x", "٣"])
def test_an_object_without_a_valid_length_is_refused(length: str) -> None:
    with pytest.raises(SynclineError) as error:
        head_of(answer({}, length))
    assert error.value.code.name == "BAD_ANSWER"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("plain", "plain"),
        ("=?UTF-8?Q?f=C3=BCr?=", "=?UTF-8?Q?f=C3=BCr?="),
        ("a =?UTF-8?B?w7w=?= b", "a =?UTF-8?B?w7w=?= b"),
        ("für", "=?UTF-8?B?ZsO8cg==?="),
        ("日本", "=?UTF-8?B?5pel5pys?="),
        ("=?not a word?=", "=?not a word?="),
    ],
)
def test_metadata_is_unchanged(value: str, expected: str) -> None:
    head = head_of(answer({"x-amz-meta-note": value}))
    assert attributes_of(head)["x-amz-meta-note"] == expected
    copy = sent(head)
    assert attributes_of(copy)["x-amz-meta-note"] == expected
    assert fingerprint(copy) == fingerprint(head)


def test_metadata_in_latin_1_is_read() -> None:
    head = ObjectHead("e", 7, metadata={"note": b"f\xfcr".decode("latin-1")})
    assert attributes_of(head)["x-amz-meta-note"] == "=?UTF-8?B?ZsO8cg==?="
    assert fingerprint(sent(head)) == fingerprint(head)


def test_all_encodings_of_a_text_have_one_fingerprint() -> None:
    forms = [
        "für",
        "=?UTF-8?Q?f=C3=BCr?=",
        "=?utf-8?b?ZsO8cg==?=",
        "=?ISO-8859-1?Q?f=FCr?=",
        "=?UTF-8?Q?f?= =?UTF-8?Q?=C3=BCr?=",
    ]
    assert len({fingerprint(head_of(answer({"x-amz-meta-note": form}))) for form in forms}) == 1


def test_a_fingerprint_covers_only_attributes_of_the_object() -> None:
    head = ObjectHead("e", 7, "text/plain", 5.0, None, {"a": "1", "b": "2"}, OWN)
    same = ObjectHead("other", 9, "text/plain", 6.0, "v", {"B": "2", "A": "1"}, dict(reversed(OWN.items())))
    assert fingerprint(head) == fingerprint(same)
    assert len(fingerprint(head)) == 12
    others = [
        ObjectHead("e", 7, "text/html", 5.0, None, head.metadata, OWN),
        ObjectHead("e", 7, "text/plain", 5.0, None, {"a": "12", "b": ""}, OWN),
        ObjectHead("e", 7, "text/plain", 5.0, None, {"a": "1"}, OWN),
        ObjectHead("e", 7, "text/plain", 5.0, None, {**head.metadata, "cache-control": "no-store"}, OWN),
        *(
            ObjectHead("e", 7, "text/plain", 5.0, None, head.metadata, {n: v for n, v in OWN.items() if n != left_out})
            for left_out in OWN
        ),
    ]
    assert len({fingerprint(each) for each in (head, *others)}) == 1 + len(others)


def test_the_default_type_of_servers_counts_as_none() -> None:
    types = ["application/octet-stream", "binary/octet-stream", ""]
    assert len({fingerprint(ObjectHead("e", 7, each)) for each in types}) == 1


@given(
    st.dictionaries(
        st.from_regex(r"[a-z0-9-]{1,8}", fullmatch=True),
        st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Zl", "Zp", "Zs"]), min_size=1)
        | st.from_regex(r"=\?(utf-8|latin-1|x)\?[bq]\?[ -~]{0,9}\?=", fullmatch=True).map(lambda text: text.strip()),
    )
)
def test_a_copy_has_the_fingerprint_of_its_source(metadata: dict[str, str]) -> None:
    source = head_of(answer({f"x-amz-meta-{name}": value for name, value in metadata.items()}))
    assert fingerprint(sent(source)) == fingerprint(source)


def test_conditions_are_sent_as_headers() -> None:
    assert IF_ABSENT.headers == {"If-None-Match": "*"}
    assert WriteCondition("e").headers == {"If-Match": '"e"'}
