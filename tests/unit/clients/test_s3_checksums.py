"""Full-object checksums: values of the protocol, combination, and what is not one."""

from __future__ import annotations

import base64
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline.clients.s3.checksums import check_content, combined, crc64nvme, equal, is_valid
from syncline.clients.s3.head import ObjectHead
from syncline.errors import SynclineError

SHA256 = base64.b64encode(hashlib.sha256(b"content").digest()).decode()


def test_a_crc_is_that_of_the_catalogue() -> None:
    """The check value of CRC-64/NVME is ae8b14860a799888."""
    assert base64.b64decode(crc64nvme(b"123456789")).hex() == "ae8b14860a799888"


@given(st.lists(st.binary(max_size=300), max_size=6))
def test_the_checksum_of_the_whole_is_computed_from_its_parts(parts: list[bytes]) -> None:
    assert combined((crc64nvme(part), len(part)) for part in parts) == crc64nvme(b"".join(parts))


def test_objects_without_a_common_algorithm_are_not_compared() -> None:
    assert equal({"crc64nvme": "a"}, {"sha256": "a"}) is None
    assert equal({"crc64nvme": "a", "sha256": "b"}, {"sha256": "b"}) is True
    assert equal({"crc64nvme": "a", "sha256": "b"}, {"crc64nvme": "x", "sha256": "b"}) is False


@pytest.mark.parametrize("value", ["", "AAAA", "AAAAAAAAAAA=-3", "?", "AAAAAAAAAAAAAAAA"])
def test_a_composite_or_damaged_value_is_no_checksum(value: str) -> None:
    assert not is_valid("crc64nvme", value)


@pytest.mark.parametrize("sums", [{"crc64nvme": crc64nvme(b"content")}, {"sha256": SHA256}])
def test_content_is_checked_by_each_algorithm(sums: dict[str, str]) -> None:
    head = ObjectHead("e", 7, checksums=sums)
    check_content(b"content", head, "a in b")
    with pytest.raises(SynclineError, match="the bytes received of a in b have the") as error:
        check_content(b"Content", head, "a in b")
    assert error.value.code.name == "DIGEST_MISMATCH"
