"""Multipart uploads: large objects written in parts, over several requests and processes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from syncline.clients.s3 import checksums, xml
from syncline.clients.s3.head import WriteCondition, etag_of
from syncline.clients.s3.requests import BucketRequests
from syncline.clients.s3.xml import NotXmlError
from syncline.errors import SynclineError

PART_SIZE: Final = 8 * 1024 * 1024
"""Bytes in a part of a large object. Parts are larger only if 10,000 of this size cannot hold the object."""

_MOST_PARTS: Final = 10_000
_LISTS: Final = ("ListPartsResult", "ListPartsResponse")
"""Names of a list of parts; moto sends the second."""
COPY_PART: Final = 512 * 1024 * 1024
"""The same for parts that the service copies."""


class _StoredPart(NamedTuple):
    """A part as the service lists it: ``size`` in bytes, ``checksum`` its CRC64NVME, "" if it states none."""

    number: int
    etag: str
    size: int
    checksum: str


@dataclass(frozen=True, slots=True)
class MultipartUpload:
    """A multipart upload in progress. With ``checksum``, the object gets the CRC64NVME of all its bytes.

    Another process can continue it: it calls :meth:`Bucket.resume_upload` with the key and ``upload_id``, lists the stored
    parts with :meth:`parts`, sends the missing ones with :meth:`put` or :meth:`copy`, and calls :meth:`complete`.
    """

    _requests: BucketRequests
    key: str
    upload_id: str
    checksum: bool = False

    def put(self, part: int, content: bytes) -> str:
        """Put part number ``part``, counted from 1, and return its ETag. A part put before is replaced."""
        headers = None
        if self.checksum:
            headers = {f"x-amz-checksum-{checksums.CRC64NVME}": checksums.crc64nvme(content)}
        return etag_of(self._requests.request("PUT", self.key, self._query(part), headers, content))

    def copy(self, part: int, source: Mapping[str, str], start: int, end: int) -> str:
        """Copy the bytes of ``source`` from ``start`` to before ``end`` as a part, and return the part's ETag.

        ``source`` is as :meth:`Bucket.copy_source` returns it.
        """
        headers = {**source, "x-amz-copy-source-range": f"bytes={start}-{end - 1}"}
        response = self._requests.request("PUT", self.key, self._query(part), headers, is_long=True)
        return self._requests.etag_within(response, "CopyPartResult")

    def parts(self) -> dict[int, tuple[str, int]]:
        """Return the ETag and the size in bytes of each stored part, by part number.

        Raises UPLOAD_LOST if the service no longer knows the upload, and LISTING_INCOMPLETE if the list is truncated
        and does not continue.
        """
        return {each.number: (each.etag, each.size) for each in self._stored()}

    def _stored(self) -> Iterator[_StoredPart]:
        """Yield the stored parts, in order."""
        marker = "0"
        while True:
            query = {"uploadId": self.upload_id, "part-number-marker": marker}
            response = self._requests.request("GET", self.key, query)
            try:
                top = xml.parse(response.body, *_LISTS)
                for each in top.iterfind("Part"):
                    etag = (each.findtext("ETag") or "").strip('"')
                    number, size = (int(each.findtext(name) or "") for name in ("PartNumber", "Size"))
                    checksum = each.findtext("ChecksumCRC64NVME") or ""
                    valid = checksums.is_valid(checksums.CRC64NVME, checksum)
                    yield _StoredPart(number, etag, size, checksum if valid else "")
            except (NotXmlError, ValueError) as error:
                raise response.protocol_error(f"invalid list of parts: {error}") from None
            next_marker = top.findtext("NextPartNumberMarker") or ""
            if top.findtext("IsTruncated") != "true":
                return
            # Part numbers end at 10,000, so a list whose markers go forward has an end.
            if not next_marker.isdecimal() or not int(marker) < int(next_marker) <= _MOST_PARTS:
                what = f"the list of the parts of {self.key!r} in {self._requests} continues at {next_marker!r}"
                raise SynclineError("LISTING_INCOMPLETE", f"{what} after part {marker}")
            marker = next_marker

    def complete(
        self,
        etags: Mapping[int, str] | None = None,
        *,
        condition: WriteCondition | None = None,
        expected: str | None = None,
    ) -> str:
        """Make the object of the parts in ``etags`` and return its ETag; list the stored parts if ``etags`` is None.

        ``expected`` is the CRC64NVME that the object must have, None if it is unknown. It is checked if the service
        stores checksums of parts; raises DIGEST_MISMATCH, before the object exists. Raises TARGET_CHANGED if
        ``condition`` does not hold; the upload still exists then. UPLOAD_LOST can also mean that an earlier request
        completed the upload and its answer was lost.
        """
        sums: dict[int, str] = {}
        headers: dict[str, str] = {}
        if etags is None or self.checksum:
            stored = [each for each in self._stored() if etags is None or etags.get(each.number) == each.etag]
            etags = {each.number: each.etag for each in stored} if etags is None else etags
            if self.checksum and len(stored) == len(etags) and all(each.checksum for each in stored):
                total = checksums.combined((each.checksum, each.size) for each in stored)
                if expected not in (None, total):
                    what = f"the parts of {self.key!r} in {self._requests} have the CRC64NVME {total}, the object {expected}"
                    raise SynclineError("DIGEST_MISMATCH", what)
                sums = {each.number: each.checksum for each in stored}
                # The service computes the same from the parts. The total is not sent: ministack compares it with another.
                headers = dict(checksums.FULL_OBJECT)
        body = xml.completion((number, f'"{etags[number]}"', sums.get(number, "")) for number in sorted(etags))
        query = {"uploadId": self.upload_id}
        response = self._requests.request("POST", self.key, query, headers, body, condition=condition, is_long=True)
        return self._requests.etag_within(response, "CompleteMultipartUploadResult", condition)

    def abort(self) -> None:
        """Delete the upload and its parts. Ignore failures: lifecycle rules of the bucket delete what is left."""
        try:
            self._requests.send("DELETE", self.key, {"uploadId": self.upload_id})
        except SynclineError:
            return

    def _query(self, part: int) -> dict[str, str]:
        return {"partNumber": str(part), "uploadId": self.upload_id}


def part_size(size: int, least: int = PART_SIZE) -> int:
    """Return the size of each part but the last for an object of ``size`` bytes, so that 10,000 parts hold it.

    It depends on the parameters alone, so another process continues an upload at the same offsets.
    """
    return max(least, -(-size // _MOST_PARTS))
