"""The interface of a place that holds images: a registry, or an OCI layout on disk.

:class:`syncline.clients.registry.client.Registry` documents each method and its errors. A repository of a layout is the
part of a reference before its tag, and may be empty.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol, Self

from syncline.clients.http.listings import LISTING_START, ListingPage, ListingPosition, OnInvalid, refuse
from syncline.clients.registry.manifest import Descriptor, Manifest


class BlobReader(Protocol):
    """The content of a blob; see :class:`syncline.clients.registry.blob_stream.BlobStream`."""

    offset: int

    @property
    def size(self) -> int | None: ...

    def read(self, size: int = ...) -> bytes: ...

    def __iter__(self) -> Iterator[bytes]: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


class BlobWriter(Protocol):
    """The upload of a blob; see :class:`syncline.clients.registry.upload.BlobUpload`."""

    offset: int

    def write(self, chunks: Iterable[bytes], total: int | None = None) -> int: ...

    def status(self) -> int: ...

    def finish(self, digest: str) -> None: ...

    def put(self, digest: str, content: bytes | Iterable[bytes], size: int) -> None: ...

    def cancel(self) -> None: ...

    def state(self) -> dict[str, Any]: ...


class ImageStore(Protocol):
    """Repositories of images, read and written by scans, copies and verifications."""

    @property
    def host(self) -> str: ...

    @property
    def lists_referrers_by_tag(self) -> bool:
        """True if the registry is known to have no API for referrers, so that only tags list them."""

    def catalog_pages(
        self, on_invalid: OnInvalid = refuse, start: ListingPosition = LISTING_START
    ) -> Iterator[ListingPage[list[str]]]: ...

    def tags(self, repository: str, on_invalid: OnInvalid = refuse) -> Iterator[str]: ...

    def tag_pages(
        self, repository: str, on_invalid: OnInvalid = refuse, start: ListingPosition = LISTING_START
    ) -> Iterator[ListingPage[list[str]]]: ...

    def has_repository(self, repository: str) -> bool: ...

    def manifest_digest(self, repository: str, reference: str) -> str | None: ...

    def manifest(self, repository: str, reference: str, media_type: str = "") -> Manifest: ...

    def has_blob(self, repository: str, digest: str) -> bool: ...

    def blob_size(self, repository: str, blob: Descriptor) -> int | None: ...

    def open_blob(self, repository: str, digest: str, offset: int = 0) -> BlobReader: ...

    def mount_blob(self, repository: str, digest: str, from_repository: str) -> bool: ...

    def begin_upload(self, repository: str) -> BlobWriter: ...

    def resume_upload(self, repository: str, state: Mapping[str, Any]) -> BlobWriter: ...

    def referrers(self, repository: str, digest: str, on_invalid: OnInvalid = refuse) -> tuple[Descriptor, ...]: ...

    def put_manifest(self, repository: str, reference: str, manifest: Manifest) -> bool: ...

    def put_tag(
        self, repository: str, tag: str, manifest: Manifest, expected: str | Manifest | None, *, overwrite: bool = False
    ) -> str | None: ...

    def delete(self, repository: str, reference: str) -> bool: ...
