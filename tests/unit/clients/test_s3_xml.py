"""The XML of S3: valid and invalid documents."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline.clients.s3 import xml as s3_xml
from syncline.clients.s3.xml import AccessGrants, ListedObject, ListPage, NotXmlError
from syncline.errors import SynclineError

NS = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'


def listing(inner: str) -> bytes:
    return f"<?xml version='1.0'?><ListBucketResult {NS}>{inner}</ListBucketResult>".encode()


def test_a_page_is_read() -> None:
    page = s3_xml.list_page(
        listing(
            "<EncodingType>url</EncodingType><IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>"
            "<Contents><Key>a+b%2Bc/%C3%BC</Key><ETag>&quot;e&quot;</ETag><Size>7</Size>"
            "<LastModified>1970-01-01T00:01:40.500Z</LastModified></Contents>"
            "<CommonPrefixes><Prefix>x%2F</Prefix></CommonPrefixes>"
        )
    )
    assert page == ListPage((ListedObject("a b+c/ü", "e", 7, 100.5),), ("x/",), "t")


def test_a_page_without_url_encoding_is_read() -> None:
    page = s3_xml.list_page(
        listing("<IsTruncated>false</IsTruncated><Contents><Key>a+b%20</Key><Size>0</Size></Contents>")
    )
    assert page.objects == (ListedObject("a+b%20", "", 0, 0.0),)


def test_a_truncated_page_is_refused() -> None:
    with pytest.raises(SynclineError) as error:
        s3_xml.list_page(listing("<IsTruncated>true</IsTruncated>"))
    assert error.value.code.name == "LISTING_INCOMPLETE"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"<html>", "not XML"),
        (b"<html></html>", "'html'"),
        (listing("")[:-5], "not XML"),
        (listing(""), "IsTruncated"),
    ],
)
def test_an_invalid_page_is_refused(body: bytes, words: str) -> None:
    with pytest.raises(NotXmlError, match=words):
        s3_xml.list_page(body)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("<Contents><Key>a</Key></Contents>", "(a): it has no size"),
        ("<Contents><Size>1</Size></Contents>", "it has no key"),
        ("<Contents><Key>a</Key><Size>x</Size></Contents>", "its size is 'x', not a number"),
        (
            "<Contents><Key>a</Key><Size>1</Size><LastModified>never</LastModified></Contents>",
            "its time is 'never', not a time",
        ),
        ("<CommonPrefixes/>", "it has no UTF-8 name"),
        ("<CommonPrefixes><Prefix>%FF/</Prefix></CommonPrefixes>", "UTF-8"),
    ],
)
def test_an_invalid_entry_is_refused_by_default(entry: str, words: str) -> None:
    body = listing(f"<EncodingType>url</EncodingType><IsTruncated>false</IsTruncated>{entry}")
    with pytest.raises(SynclineError) as error:
        s3_xml.list_page(body)
    assert error.value.code.name == "ENTRY_INVALID"
    assert words in error.value.what


def test_a_page_of_invalid_entries_is_refused() -> None:
    with pytest.raises(NotXmlError, match="more than 300 entries"):
        s3_xml.list_page(listing("<IsTruncated>false</IsTruncated>" + "<Contents/>" * 301), lambda _: None)


ROWS = (
    (
        "<Contents><Key>a+b%2Bc/%C3%BC</Key><LastModified>2024-05-01T10:00:00.000Z</LastModified>"
        "<ETag>&quot;0123-4&quot;</ETag><ChecksumAlgorithm>CRC64NVME</ChecksumAlgorithm>"
        "<ChecksumType>FULL_OBJECT</ChecksumType><Size>7</Size><Owner><ID>me</ID><DisplayName>Me</DisplayName></Owner>"
        "<StorageClass>STANDARD</StorageClass></Contents>"
    ),
    (
        "\n <Contents>\n  <Key>b</Key>\n <LastModified>2024-05-01T10:00:00Z</LastModified>\n <ETag>ab</ETag>\n"
        "<Size>0</Size>\n <StorageClass>STANDARD</StorageClass>\n </Contents>\n"
    ),
    "<Contents><Key>c</Key><LastModified></LastModified><ETag></ETag><Size>12345678901</Size></Contents>",
)
PAGE = listing(
    f"<Name>b</Name><IsTruncated>false</IsTruncated>{''.join(ROWS)}<EncodingType>url</EncodingType>"
    "<CommonPrefixes><Prefix>x%2F</Prefix></CommonPrefixes>"
)


def test_a_usual_page_is_read_without_a_tree_of_its_objects() -> None:
    plain = s3_xml._plain_page(PAGE)
    assert plain is not None
    assert plain[1] == s3_xml._page(PAGE)[1]
    assert plain[1][0] == ListedObject("a b+c/ü", "0123-4", 7, 1714557600.0)
    assert [each.size for each in plain[1]] == [7, 0, 12345678901]
    assert s3_xml.list_page(PAGE).prefixes == ("x/",)


@pytest.mark.parametrize(
    ("old", "new", "keys"),
    [
        (b"<Key>b", b"<Key><![CDATA[b]]>", ["a b+c/ü", "b", "c"]),
        (b"<Key>b</Key>", b"<Key>b&amp;</Key>", ["a b+c/ü", "b&", "c"]),
        (b"<Key>b</Key>", "<Key>ü</Key>".encode(), ["a b+c/ü", "ü", "c"]),
        (b"<Contents><Key>c", b"<!--<Contents>--><Contents><Key>c", ["a b+c/ü", "b", "c"]),
        (b"<Contents><Key>c", b'<Contents a=""><Key>c', ["a b+c/ü", "b", "c"]),
        (
            b"<Contents><Key>c",
            b"<CommonPrefixes><Prefix>y</Prefix></CommonPrefixes><Contents><Key>c",
            ["a b+c/ü", "b", "c"],
        ),
        (b"<Contents><Key>c</Key>", b"<Contents><Size>1</Size><Key>c</Key>", ["a b+c/ü", "b", "c"]),
        (b"<Name>b</Name>", b"<?name <Contents> ?>", ["a b+c/ü", "b", "c"]),
        (b"<Name>b</Name><", b"<Name>b</Name><Wrapped><", None),
        (b"<Size>0</Size>", b"<Size>-1</Size>", None),
        (b"<Size>0</Size>", "<Size>٣</Size>".encode(), None),
        (b"<Key>b</Key>", b"<Key></Key>", None),
        (b"<Key>b</Key>", b"<Key>&b;</Key>", None),
        (b"<Key>b</Key>", b"<Key>b\x01</Key>", None),
        (b"<StorageClass>STANDARD</StorageClass></Contents>", b"<StorageClass>STANDARD</Contents>", None),
        (b"<LastModified></LastModified>", b"<LastModified>never</LastModified>", None),
    ],
)
def test_an_unusual_page_is_parsed_or_refused(old: bytes, new: bytes, keys: list[str] | None) -> None:
    body = PAGE.replace(old, new)
    assert body != PAGE
    assert s3_xml._plain_page(body) is None
    if keys is None:
        with pytest.raises((NotXmlError, SynclineError)):
            s3_xml.list_page(body)
    else:
        assert [each.key for each in s3_xml.list_page(body).objects] == keys


def test_nested_objects_are_ignored() -> None:
    assert s3_xml.list_page(listing(f"<IsTruncated>false</IsTruncated><W>{ROWS[2]}</W>")).objects == ()


def test_a_page_in_another_encoding_is_read() -> None:
    body = PAGE.decode().replace("version='1.0'", "version='1.0' encoding='iso-8859-1'").replace("<Key>b<", "<Key>ü<")
    assert [each.key for each in s3_xml.list_page(body.encode("latin-1")).objects] == ["a b+c/ü", "ü", "c"]


@given(
    st.integers(0, len(PAGE)),
    st.integers(0, 60),
    st.sampled_from([b"", b"<", b"&", b"</Contents>", b"<Contents>", ROWS[2].encode()]),
)
def test_a_damaged_page_is_never_read_in_two_ways(at: int, cut: int, put: bytes) -> None:
    body = PAGE[:at] + put + PAGE[at + cut :]
    plain = s3_xml._plain_page(body)
    if plain is not None:
        top, objects = s3_xml._page(body)
        assert objects == plain[1]
        assert [each.tag for each in top if each.tag != "Contents"] == [
            each.tag for each in plain[0] if each.tag != "Contents"
        ]


def test_expanding_entities_are_refused() -> None:
    laughs = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 12))
    body = f'<!DOCTYPE l [<!ENTITY l0 "{"ha" * 50}">{laughs}]><Error>&l11;</Error>'.encode()
    with pytest.raises(NotXmlError):
        s3_xml.parse(body)


def test_grants_are_read() -> None:
    def grant(grantee: str, permission: str) -> str:
        return f"<Grant><Grantee>{grantee}</Grantee><Permission>{permission}</Permission></Grant>"

    everybody = "<URI>http://acs.amazonaws.com/groups/global/AllUsers</URI>"
    body = (
        f"<AccessControlPolicy {NS}><Owner><ID>me</ID></Owner><AccessControlList>"
        + grant("<ID>me</ID>", "FULL_CONTROL")
        + grant("<ID>you</ID>", "READ")
        + grant(everybody, "READ")
        + "</AccessControlList></AccessControlPolicy>"
    )
    found = s3_xml.grants(body.encode())
    assert found == AccessGrants("me", frozenset({"FULL_CONTROL"}), frozenset({"READ"}), frozenset({"READ"}))
    with pytest.raises(NotXmlError, match="without"):
        s3_xml.grants(body.replace("<ID>you</ID>", "").encode())


@pytest.mark.parametrize("encoding", ["UTF-n8", "shift_jis", "utf-7", "idna", "rot13"])
def test_an_unsupported_encoding_is_refused(encoding: str) -> None:
    body = f'<?xml version="1.0" encoding="{encoding}"?><ListBucketResult/>'.encode()
    with pytest.raises(NotXmlError):
        s3_xml.list_page(body)
    assert s3_xml.error_code(body) == ""
