"""Multipart uploads: large objects written in parts, over several requests and processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from syncline.clients.s3 import xml
from syncline.clients.s3.head import WriteCondition, etag_of
from syncline.clients.s3.requests import BucketRequests
from syncline.clients.s3.xml import NotXmlError
from syncline.errors import SynclineError

PART_SIZE: Final = 8 * 1024 * 1024
"""Bytes in a part of a large object. Parts are larger only if 10,000 of this size cannot hold the object."""

_MOST_PARTS: Final = 10_000
COPY_PART: Final = 512 * 1024 * 1024
"""The same for parts that the service copies."""


@dataclass(frozen=True, slots=True)
class MultipartUpload:
    """A multipart upload in progress.

    Another process can continue it: it calls :meth:`Bucket.resume_upload` with the key and ``upload_id``, lists the stored
    parts with :meth:`parts`, sends the missing ones with :meth:`put` or :meth:`copy`, and calls :meth:`complete`.
    """

    _requests: BucketRequests
    key: str
    upload_id: str

    def put(self, part: int, content: bytes) -> str:
        """Put part number ``part``, counted from 1, and return its ETag. A part put before is replaced."""
        return etag_of(self._requests.request("PUT", self.key, self._query(part), None, content))

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
        found: dict[int, tuple[str, int]] = {}
        marker = "0"
        while True:
            query = {"uploadId": self.upload_id, "part-number-marker": marker}
            response = self._requests.request("GET", self.key, query)
            try:
                top = xml.parse(response.body, "ListPartsResult")
                for each in top.iterfind("Part"):
                    etag = (each.findtext("ETag") or "").strip('"')
                    found[int(each.findtext("PartNumber") or "")] = (etag, int(each.findtext("Size") or ""))
            except (NotXmlError, ValueError) as error:
                raise response.protocol_error(f"invalid list of parts: {error}") from None
            next_marker = top.findtext("NextPartNumberMarker") or ""
            if top.findtext("IsTruncated") != "true":
                return found
            # Part numbers end at 10,000, so a list whose markers go forward has an end.
            if not next_marker.isdecimal() or not int(marker) < int(next_marker) <= _MOST_PARTS:
                what = f"the list of the parts of {self.key!r} in {self._requests} continues at {next_marker!r}"
                raise SynclineError("LISTING_INCOMPLETE", f"{what} after part {marker}")
            marker = next_marker

    def complete(self, etags: Mapping[int, str] | None = None, *, condition: WriteCondition | None = None) -> str:
        """Make the object of the parts in ``etags`` and return its ETag; list the stored parts if ``etags`` is None.

        Raises TARGET_CHANGED if ``condition`` does not hold; the upload still exists then. UPLOAD_LOST can also mean
        that an earlier request completed the upload and its answer was lost.
        """
        if etags is None:
            etags = {number: etag for number, (etag, _) in self.parts().items()}
        body = xml.completion((number, f'"{etags[number]}"') for number in sorted(etags))
        query = {"uploadId": self.upload_id}
        response = self._requests.request("POST", self.key, query, None, body, condition=condition, is_long=True)
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
