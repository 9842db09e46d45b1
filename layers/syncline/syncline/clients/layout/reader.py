"""Images in an OCI layout or a Docker archive, with the interface of a registry."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final, NoReturn, Self

from syncline.clients.http.listings import LISTING_START, ListingPage, ListingPosition, OnInvalid, refuse
from syncline.clients.layout.contents import (
    INDEX,
    MARKER,
    Contents,
    IndexEntry,
    LayoutFiles,
    Name,
    StoredBlob,
    blob_path,
    files_at,
    read_file,
)
from syncline.clients.layout.tar import damaged
from syncline.clients.registry.manifest import Descriptor, Manifest, detect_media_type, referrers_tag
from syncline.clients.registry.reference import digest_matches, hash_matches, hasher, is_digest
from syncline.clients.registry.store import BlobWriter, ImageStore
from syncline.errors import SynclineError

CHUNK: Final = 1024 * 1024
_DOCKER_HUB: Final = "docker.io/"
MOST_BREAKS: Final = 5
"""Broken connections that reading one blob tolerates."""
LARGEST_MANIFEST: Final = 4 * 1024 * 1024
"""Bytes of a manifest at most, as registries have it."""


class BlobFile:
    """The content of a blob as a stream, for use in a ``with`` block. The reader verifies the bytes."""

    def __init__(self, file: BinaryIO, offset: int, size: int, where: str) -> None:
        file.seek(offset)
        self._file = file
        self._where = where
        self.offset = offset
        self._size = size

    @property
    def size(self) -> int | None:
        return self._size

    def read(self, size: int = CHUNK) -> bytes:
        try:
            data = self._file.read(size)
        except OSError as error:
            raise SynclineError("FILE_REFUSED", f"{self._where}: {error.strerror or error}") from None
        self.offset += len(data)
        return data

    def __iter__(self) -> Iterator[bytes]:
        while data := self.read(CHUNK):
            yield data

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


class LayoutReader(ABC):
    """A layout or an archive as a registry that is read. A subclass writes.

    Its repositories are the parts of the images' names before the tags; blobs and manifests belong to all of them.
    """

    def __init__(self, name: str, contents: Contents) -> None:
        self._name = name
        self._contents = contents
        self._tags: dict[Name, IndexEntry] = {}
        self._subjects: dict[str, dict[str, Descriptor]] | None = None
        for entry in contents.entries:
            for each in entry.names[:1]:
                self._note(each, entry)

    @abstractmethod
    def find(self, digest: str) -> StoredBlob | None:
        """Return a blob, None if there is none."""

    @property
    def host(self) -> str:
        return self._name

    @property
    def entries(self) -> Sequence[IndexEntry]:
        """The entries of the index, also those of images without a name."""
        return self._contents.entries

    def resolve(self, name: str | None) -> Name | None:
        """Return the image of a name that a person gave; without a name, the only image. None for a single nameless image.

        Raises USAGE without a name if there are several images, and SOURCE_ABSENT.
        """
        names = sorted(map(str, self._tags))
        if name is None:
            if len(self._tags) > 1:
                what = f"{self.host} has {len(names)} images; name one of {', '.join(names[:5])}, or use --all-tags"
                raise SynclineError("USAGE", what)
            if not self.entries:
                raise SynclineError("SOURCE_ABSENT", f"{self.host} has no images")
            return next(iter(self._tags), None)
        exact = Name.parse(name)
        if exact in self._tags:
            return exact
        # Docker leaves out its public registry, and containerd's full name has the short one beside it.
        short = _short(name)
        matches = {e.names[0] for e in self.entries if any(name == n.tag or short == _short(str(n)) for n in e.names)}
        if len(matches) == 1:
            return matches.pop()
        known = f"it has {', '.join(names[:5])}" if names else "its images have no names"
        several = "has several images" if matches else "has no image"
        raise SynclineError("SOURCE_ABSENT", f"{self.host} {several} {name[:200]!r}; {known}")

    def catalog_pages(
        self,
        on_invalid: OnInvalid = refuse,  # noqa: ARG002 - an index with an invalid entry is refused as a whole
        start: ListingPosition = LISTING_START,  # noqa: ARG002
    ) -> Iterator[ListingPage[list[str]]]:
        yield ListingPage(sorted({name.repository for name in self._tags}), None)

    def tags(self, repository: str, on_invalid: OnInvalid = refuse) -> Iterator[str]:
        return (tag for page in self.tag_pages(repository, on_invalid) for tag in page.entries)

    def tag_pages(
        self,
        repository: str,
        on_invalid: OnInvalid = refuse,  # noqa: ARG002
        start: ListingPosition = LISTING_START,  # noqa: ARG002
    ) -> Iterator[ListingPage[list[str]]]:
        yield ListingPage(sorted(name.tag for name in self._tags if name.repository == repository), None)

    def has_repository(self, repository: str) -> bool:
        return any(name.repository == repository for name in self._tags)

    def manifest_digest(self, repository: str, reference: str) -> str | None:
        if is_digest(reference):
            return reference if self.find(reference) is not None else None
        entry = self._tags.get(Name(repository, reference))
        return None if entry is None else entry.descriptor.digest

    def manifest(self, repository: str, reference: str, media_type: str = "") -> Manifest:
        digest = self.manifest_digest(repository, reference)
        where = f"{self.host}: {Name(repository, reference)}"
        found = None if digest is None else self.find(digest)
        if digest is None or found is None:
            missing = f"the manifest {digest} of {where} is missing" if digest else f"{where} is not there"
            raise SynclineError("NOT_FOUND", missing)
        if found.size > LARGEST_MANIFEST:
            raise SynclineError("MANIFEST_INVALID", f"{where} has {found.size} bytes, too many for a manifest")
        with found.open() as file:
            body = file.read(found.size)
        if not digest_matches(digest, body):
            raise SynclineError("DIGEST_MISMATCH", f"{where} has other bytes than those of {digest}")
        stated = media_type or next(
            (e.descriptor.media_type for e in self.entries if e.descriptor.digest == digest), ""
        )
        return Manifest(digest, detect_media_type(stated, body, where), body)

    def has_blob(self, repository: str, digest: str) -> bool:  # noqa: ARG002 - blobs belong to all repositories
        return self.find(digest) is not None

    def blob_size(self, repository: str, blob: Descriptor) -> int | None:  # noqa: ARG002
        found = self.find(blob.digest)
        return None if found is None else found.size

    def open_blob(self, repository: str, digest: str, offset: int = 0) -> BlobFile:  # noqa: ARG002
        found = self.find(digest)
        if found is None:
            raise SynclineError("NOT_FOUND", f"{self.host} does not have the blob {digest}")
        return BlobFile(found.open(), offset, found.size, f"{self.host}: {digest}")

    def mount_blob(self, repository: str, digest: str, from_repository: str) -> bool:  # noqa: ARG002
        return self.find(digest) is not None

    @property
    def lists_referrers_by_tag(self) -> bool:
        return False

    def referrers(self, repository: str, digest: str, on_invalid: OnInvalid = refuse) -> tuple[Descriptor, ...]:
        del on_invalid  # the list of a tag is refused as a whole
        found = dict(self._by_subject().get(digest, {}))
        listed = self.manifest_digest(repository, referrers_tag(digest))
        if listed is not None:
            found |= {each.digest: each for each in self.manifest(repository, listed).children()}
        return tuple(found.values())

    def begin_upload(self, repository: str) -> BlobWriter:  # noqa: ARG002
        self._refuse_writing()

    def resume_upload(self, repository: str, state: Mapping[str, Any]) -> BlobWriter:  # noqa: ARG002
        self._refuse_writing()

    def put_manifest(self, repository: str, reference: str, manifest: Manifest) -> bool:  # noqa: ARG002
        self._refuse_writing()

    def put_tag(
        self,
        repository: str,  # noqa: ARG002
        tag: str,  # noqa: ARG002
        manifest: Manifest,  # noqa: ARG002
        expected: str | Manifest | None,  # noqa: ARG002
        *,
        overwrite: bool = False,  # noqa: ARG002
    ) -> str | None:
        self._refuse_writing()

    def delete(self, repository: str, reference: str) -> bool:  # noqa: ARG002
        """Return False: a layout keeps its images."""
        return False

    def _refuse_writing(self) -> NoReturn:
        raise SynclineError("READ_ONLY", f"{self.host} is only read")

    def _note(self, name: Name, entry: IndexEntry) -> None:
        other = self._tags.setdefault(name, entry)
        if other.descriptor.digest != entry.descriptor.digest:
            raise damaged(f"{self.host} has two images of the name {name}")

    def _by_subject(self) -> dict[str, dict[str, Descriptor]]:
        """Return the manifests of the index that name a subject, by its digest."""
        if self._subjects is None:
            self._subjects = {}
            for digest in {each.descriptor.digest: None for each in self.entries}:
                if self.find(digest) is not None:
                    self._note_subject(self.manifest("", digest))
        return self._subjects

    def _note_subject(self, manifest: Manifest) -> None:
        subject = manifest.subject
        if subject is not None and self._subjects is not None:
            listed = Descriptor(manifest.digest, len(manifest.body), manifest.media_type)
            self._subjects.setdefault(subject.digest, {})[manifest.digest] = listed


class Layout(LayoutReader):
    """An OCI layout, a folder or a tar file, that is read."""

    def __init__(self, name: str, files: LayoutFiles) -> None:
        """Raises ARCHIVE_INVALID if it is no layout."""
        self.files = files
        marker, index = (read_file(files, path, name) for path in (MARKER, INDEX))
        super().__init__(name, Contents.parse(marker, index, name))

    @classmethod
    def at(cls, path: Path, name: str) -> Layout:
        """Read the index of a folder or file. Raises SOURCE_ABSENT, and ARCHIVE_INVALID if it is no layout."""
        return cls(name, files_at(path))

    def find(self, digest: str) -> StoredBlob | None:
        return self.files.find(blob_path(digest))


def _short(name: str) -> str:
    return name.removeprefix(_DOCKER_HUB).removeprefix("library/")


def digest_of_blob(blob: StoredBlob, digest: str) -> str:
    """Return the digest of a blob's bytes, by the algorithm of ``digest``."""
    hash_ = hasher(digest)
    with blob.open() as file:
        while data := file.read(CHUNK):
            hash_.update(data)
    return f"{hash_.name}:{hash_.hexdigest()}"


def blob_chunks(store: ImageStore, repository: str, blob: Descriptor) -> Iterator[bytes]:
    """Yield the bytes of a blob, through broken connections, hashed as they pass.

    Raises SIZE_DIFFERS or DIGEST_MISMATCH at the end if they are not the blob's, and the errors of the store.
    """
    hash_, at, breaks = hasher(blob.digest), 0, 0
    while at < blob.size or not at:
        begun = at
        try:
            with store.open_blob(repository, blob.digest, at) as stream:
                while data := stream.read(CHUNK):
                    hash_.update(data)
                    at += len(data)
                    if at > blob.size:
                        break
                    yield data
            break
        except SynclineError as error:
            breaks += 1
            if not error.retried_here or breaks > MOST_BREAKS or at == begun:
                raise
    named = f"{Name(repository, blob.digest)} at {store.host}"
    if at != blob.size:
        raise SynclineError(
            "SIZE_DIFFERS",
            f"{named} has {'more than ' * (at > blob.size)}{min(at, blob.size)} bytes, its manifest states {blob.size}",
        )
    if not hash_matches(blob.digest, hash_):
        raise SynclineError("DIGEST_MISMATCH", f"the {blob.size} bytes of {named} have another digest")
