"""The XML of S3: what is read, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline.clients import s3_xml
from syncline.clients.s3_xml import Grants, Listed, ListPage, NotXmlError
from syncline.errors import SynclineError

NS = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'


def listing(inner: str) -> bytes:
    return f"<?xml version='1.0'?><ListBucketResult {NS}>{inner}</ListBucketResult>".encode()


def test_a_page() -> None:
    page = s3_xml.list_page(
        listing(
            "<EncodingType>url</EncodingType><IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>"
            "<Contents><Key>a+b%2Bc/%C3%BC</Key><ETag>&quot;e&quot;</ETag><Size>7</Size>"
            "<LastModified>1970-01-01T00:01:40.500Z</LastModified></Contents>"
            "<CommonPrefixes><Prefix>x%2F</Prefix></CommonPrefixes>"
        )
    )
    assert page == ListPage((Listed("a b+c/ü", "e", 7, 100.5),), ("x/",), "t")


def test_a_page_that_is_not_url_encoded() -> None:
    page = s3_xml.list_page(
        listing("<IsTruncated>false</IsTruncated><Contents><Key>a+b%20</Key><Size>0</Size></Contents>")
    )
    assert page.objects == (Listed("a+b%20", "", 0, 0.0),)


def test_a_page_that_breaks_off_is_no_end() -> None:
    with pytest.raises(SynclineError) as error:
        s3_xml.list_page(listing("<IsTruncated>true</IsTruncated>"))
    assert error.value.code.name == "LISTING_INCOMPLETE"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"<html>", "not XML"),
        (b"<html></html>", "'html'"),
        (listing("")[:-5], "not XML"),
        (listing(""), "complete"),
        (listing("<IsTruncated>false</IsTruncated><Contents><Key>a</Key></Contents>"), "no size"),
        (listing("<IsTruncated>false</IsTruncated><Contents><Size>1</Size></Contents>"), "no key"),
        (listing("<IsTruncated>false</IsTruncated><Contents><Key>a</Key><Size>x</Size></Contents>"), "not one"),
        (
            listing(
                "<IsTruncated>false</IsTruncated>"
                "<Contents><Key>a</Key><Size>1</Size><LastModified>never</LastModified></Contents>"
            ),
            "not one",
        ),
    ],
)
def test_what_is_no_page(body: bytes, words: str) -> None:
    with pytest.raises(NotXmlError, match=words):
        s3_xml.list_page(body)


def test_entities_that_swell_are_refused() -> None:
    laughs = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 12))
    body = f'<!DOCTYPE l [<!ENTITY l0 "{"ha" * 50}">{laughs}]><Error>&l11;</Error>'.encode()
    with pytest.raises(NotXmlError):
        s3_xml.parse(body)


@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1).filter(s3_xml.writable), min_size=1))
def test_a_deletion_names_every_key(keys: list[str]) -> None:
    named = [each.text for each in s3_xml.parse(s3_xml.deletion(keys), "Delete").iterfind("Object/Key")]
    assert named == keys


@given(st.text(st.characters(codec="utf-8"), min_size=1))
def test_what_cannot_be_written_is_known(key: str) -> None:
    if not s3_xml.writable(key):
        with pytest.raises(NotXmlError):
            s3_xml.parse(s3_xml.deletion([key]))


def test_grants() -> None:
    def grant(who: str, what: str) -> str:
        return f"<Grant><Grantee>{who}</Grantee><Permission>{what}</Permission></Grant>"

    everybody = "<URI>http://acs.amazonaws.com/groups/global/AllUsers</URI>"
    body = (
        f"<AccessControlPolicy {NS}><Owner><ID>me</ID></Owner><AccessControlList>"
        + grant("<ID>me</ID>", "FULL_CONTROL")
        + grant("<ID>you</ID>", "READ")
        + grant(everybody, "READ")
        + "</AccessControlList></AccessControlPolicy>"
    )
    found = s3_xml.grants(body.encode())
    assert found == Grants("me", frozenset({"FULL_CONTROL"}), frozenset({"READ"}), frozenset({"READ"}))
    with pytest.raises(NotXmlError, match="without"):
        s3_xml.grants(body.replace("<ID>you</ID>", "").encode())
