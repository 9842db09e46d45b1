"""Bundles: OCI layouts that carry what changed in a sync's images to a place without a network.

A bundle has all manifests of its images, and those blobs that no earlier bundle has. ``bundle.json`` names the images, the
bundle before, and the blobs that were left out, each with the bundle that has it. ``sha256sums`` covers every file. The
place that exports keeps a record of all bundles of a sync; the target of an import is asked itself, since it is the truth.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any, Final, cast

from syncline.clients.folder.directory import Directory
from syncline.clients.http.listings import LISTING_START, ListingPage, ListingPosition, OnInvalid, refuse
from syncline.clients.layout.contents import INDEX, LayoutFiles, blob_path, read_file
from syncline.clients.layout.folder import SUMS, LayoutFolder
from syncline.clients.layout.reader import Layout, digest_of_blob
from syncline.clients.layout.tar import damaged
from syncline.clients.registry.manifest import Descriptor, Manifest
from syncline.clients.registry.reference import digest_of, is_digest
from syncline.clients.registry.store import BlobReader, ImageStore
from syncline.errors import SynclineError
from syncline.kinds.images.facts import BlobLocations
from syncline.kinds.images.parts import blobs_of

BUNDLE: Final = "bundle.json"
UNFINISHED: Final = "unfinished.json"
"""File of a bundle in the making: its sync and the bundle before, so that the same command continues it."""
VERSION: Final = 1
_AT_ONCE: Final = 4
_REQUESTS: Final = 16
_SUM: Final = re.compile(r"([0-9a-f]{64})  (\S.*)")
_LARGEST_SUMS: Final = 512 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class BundledImage:
    """An image of a bundle: its target repository below the prefix, its tag and its digest."""

    repository: str
    tag: str
    digest: str


@dataclass(frozen=True, slots=True)
class NeededBlob:
    """A blob that an earlier bundle has: ``repositories`` of the target may have it."""

    digest: str
    size: int
    bundle: str
    repositories: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BundleManifest:
    """The content of ``bundle.json``. ``before`` are images of the predecessor, without tags, to recognize it by."""

    id: str
    sync: str
    created: float
    images: tuple[BundledImage, ...]
    predecessor: str | None = None
    before: tuple[tuple[str, str], ...] = ()
    needs: tuple[NeededBlob, ...] = ()

    def to_json(self) -> bytes:
        return json.dumps({"version": VERSION, **asdict(self)}, indent=1).encode()

    @classmethod
    def parse(cls, text: bytes, where: str) -> BundleManifest:
        """Return the content of a file. Raises ARCHIVE_INVALID."""
        try:
            value = json.loads(text)
            if value.pop("version") != VERSION:
                raise ValueError  # noqa: TRY301 - reported below
            images = tuple(BundledImage(*_texts(each, "repository", "tag", "digest")) for each in value["images"])
            before = tuple((str(repository), str(digest)) for repository, digest in value["before"])
            needs = tuple(
                NeededBlob(
                    str(each["digest"]), int(each["size"]), str(each["bundle"]), tuple(map(str, each["repositories"]))
                )
                for each in value["needs"]
            )
            predecessor = None if value["predecessor"] is None else str(value["predecessor"])
            found = cls(
                str(value["id"]), str(value["sync"]), float(value["created"]), images, predecessor, before, needs
            )
            digests = [*(i.digest for i in images), *(digest for _, digest in before), *(n.digest for n in needs)]
            if not all(map(is_digest, digests)):
                raise ValueError  # noqa: TRY301
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise damaged(f"{where}: {BUNDLE} is invalid, or of another version of Syncline") from None
        return found


def _texts(value: Mapping[str, Any], *keys: str) -> Iterator[str]:
    return (str(value[key]) for key in keys)


@dataclass(slots=True)
class ExportRecord:
    """Everything that the bundles of a sync have so far, as the place that exports them remembers it.

    ``tags`` has digests by repository and tag, ``blobs`` size, bundle and repository by digest, ``referrers`` the digests
    of referrers by subject, and ``last`` the images of the last bundle.
    """

    bundles: list[str] = field(default_factory=list)
    tags: dict[str, dict[str, str]] = field(default_factory=dict)
    blobs: dict[str, tuple[int, str, str]] = field(default_factory=dict)
    referrers: dict[str, list[str]] = field(default_factory=dict)
    last: list[tuple[str, str]] = field(default_factory=list)

    @classmethod
    def load(cls, directory: Directory, path: str) -> ExportRecord:
        """Read the record, an empty one if there is none. Raises ARCHIVE_INVALID if it is damaged."""
        try:
            with directory.open(path) as file:
                value = json.load(file)
            blobs = {digest: (int(size), str(b), str(r)) for digest, (size, b, r) in value.pop("blobs").items()}
            last = [(str(repository), str(digest)) for repository, digest in value.pop("last")]
            return cls(**value, blobs=blobs, last=last)
        except FileNotFoundError:
            return cls()
        except (ValueError, KeyError, TypeError, AttributeError):
            what = f"the record {directory.root}/{path} of earlier exports is damaged; export with --full"
            raise damaged(what) from None

    def save(self, directory: Directory, path: str) -> None:
        with directory.replace(path) as file:
            file.write(json.dumps(asdict(self)).encode())

    def without_content(self) -> ExportRecord:
        """Return the record for a bundle that is to have everything."""
        return ExportRecord(self.bundles)


class BundleFolder(LayoutFolder):
    """The layout of a bundle in the making. Blobs of earlier bundles count as present."""

    own_files = frozenset({*LayoutFolder.own_files, UNFINISHED})

    def __init__(self, directory: Directory, name: str, record: ExportRecord) -> None:
        super().__init__(directory.root, name)
        self.record = record

    def has_blob(self, repository: str, digest: str) -> bool:
        return digest in self.record.blobs or super().has_blob(repository, digest)

    def blob_size(self, repository: str, blob: Descriptor) -> int | None:
        known = self.record.blobs.get(blob.digest)
        return super().blob_size(repository, blob) if known is None else known[0]

    def close(self, sync: str, now: float) -> BundleManifest | None:
        """Remove what no image needs, write ``bundle.json`` and return it with the updated record; None if it is empty."""
        images = tuple(
            BundledImage(name.repository, name.tag, entry.descriptor.digest)
            for entry in self.entries
            for name in entry.names
        )
        if not images:
            return None
        self.flush()
        owners: dict[str, str] = {}
        blobs: dict[str, tuple[Descriptor, set[str]]] = {}
        for image in images:
            self._walk(image.repository, self.manifest(image.repository, image.digest), owners, blobs)
        for entry in self.entries:
            if entry.descriptor.digest not in owners:
                manifest = self.manifest("", entry.descriptor.digest)
                subject = manifest.subject
                self._walk(owners.get(subject.digest if subject else "", images[0].repository), manifest, owners, blobs)
        self._remove_others({*owners, *blobs})
        with self.directory.open(INDEX) as file:
            mark = digest_of(file.read())[7:15]
        number = len(self.record.bundles) + 1
        bundle = BundleManifest(
            f"{sync}-{number:04}-{mark}",
            sync,
            now,
            images,
            self.record.bundles[-1] if self.record.tags else None,
            tuple(self.record.last),
            tuple(self._needs(blobs)),
        )
        with self.directory.replace(BUNDLE) as file:
            file.write(bundle.to_json())
        self._remember(bundle, blobs)
        return bundle

    def _walk(
        self,
        repository: str,
        manifest: Manifest,
        owners: dict[str, str],
        blobs: dict[str, tuple[Descriptor, set[str]]],
    ) -> None:
        owners.setdefault(manifest.digest, repository)
        for child in manifest.children():
            if child.digest not in owners and self.find(child.digest) is not None and child.names_manifest:
                self._walk(repository, self.manifest(repository, child.digest, child.media_type), owners, blobs)
        for blob in blobs_of(self, repository, manifest):
            blobs.setdefault(blob.digest, (blob, set()))[1].add(repository)

    def _needs(self, blobs: Mapping[str, tuple[Descriptor, set[str]]]) -> Iterator[NeededBlob]:
        for digest, (blob, repositories) in blobs.items():
            if self.find(digest) is None:
                known = self.record.blobs.get(digest)
                if known is None:
                    raise SynclineError("NOT_ARRIVED", f"{self.host} lacks the blob {digest} of {min(repositories)}")
                _, bundle, first = known
                yield NeededBlob(digest, blob.size, bundle, tuple(sorted({first, *repositories})))

    def _remove_others(self, needed: set[str]) -> None:
        """Remove the files of images that were replaced while the bundle was made, and those of killed exports."""
        self.directory.remove_temporary()
        paths = {blob_path(digest) for digest in needed}
        for path, _ in list(self.directory.walk("blobs")):
            if path not in paths:
                self.directory.remove(path)

    def _remember(self, bundle: BundleManifest, blobs: Mapping[str, tuple[Descriptor, set[str]]]) -> None:
        record = self.record
        for image in bundle.images:
            record.tags.setdefault(image.repository, {})[image.tag] = image.digest
        for digest, (blob, repositories) in blobs.items():
            record.blobs.setdefault(digest, (blob.size, bundle.id, min(repositories)))
        for subject, listed in self._by_subject().items():
            record.referrers[subject] = sorted({*record.referrers.get(subject, ()), *listed})
        record.bundles.append(bundle.id)
        record.last = sorted({(image.repository, image.digest) for image in bundle.images})


class ExportedImages:
    """The images of all bundles of a sync, as a scan sees them: those of the record, and of the bundle in the making."""

    def __init__(self, bundle: BundleFolder) -> None:
        self._bundle = bundle
        self._record = bundle.record

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bundle, name)

    @classmethod
    def of(cls, bundle: BundleFolder) -> ImageStore:
        return cast("ImageStore", cls(bundle))

    def manifest_digest(self, repository: str, reference: str) -> str | None:
        found = self._bundle.manifest_digest(repository, reference)
        return self._record.tags.get(repository, {}).get(reference) if found is None else found

    def tag_pages(
        self, repository: str, on_invalid: OnInvalid = refuse, start: ListingPosition = LISTING_START
    ) -> Iterator[ListingPage[list[str]]]:
        own = {tag for page in self._bundle.tag_pages(repository, on_invalid, start) for tag in page.entries}
        yield ListingPage(sorted(own | self._record.tags.get(repository, {}).keys()), None)

    def referrers(self, repository: str, digest: str, on_invalid: OnInvalid = refuse) -> tuple[Descriptor, ...]:
        own = self._bundle.referrers(repository, digest, on_invalid)
        known = self._record.referrers.get(digest, ())
        return (*own, *(Descriptor(each, 0, "") for each in known))


class BundleReader(Layout):
    """A bundle that is imported. Blobs that it left out are read from where the target has them."""

    def __init__(self, name: str, files: LayoutFiles, target: ImageStore) -> None:
        """Raises ARCHIVE_INVALID."""
        super().__init__(name, files)
        self.bundle = BundleManifest.parse(read_file(files, BUNDLE, name), name)
        self._target = target
        self._elsewhere: dict[str, str] = {}

    def open_blob(self, repository: str, digest: str, offset: int = 0) -> BlobReader:  # type: ignore[override]
        if digest in self._elsewhere and self.find(digest) is None:
            return self._target.open_blob(self._elsewhere[digest], digest, offset)
        return super().open_blob(repository, digest, offset)

    def check(self) -> int:
        """Read every file and return the number of bytes.

        Raises ARCHIVE_INVALID if one is missing, is not in ``sha256sums``, or does not have its sum, if a blob does not
        have the digest in its name, or if the images are not those that ``bundle.json`` names.
        """
        sums = self._sums()
        names = set(self.files.names()) - {SUMS}
        if missing := sorted(sums.keys() - names):
            raise damaged(f"{self.host} lacks {missing[0]} and {len(missing) - 1} other files of its {SUMS}")
        if foreign := sorted(names - sums.keys()):
            raise damaged(f"{self.host} has {foreign[0][:200]!a}, which is not in its {SUMS}")
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="check") as pool:
            total = sum(pool.map(lambda item: self._check_file(*item), sums.items()))
        self._check_images()
        return total

    def blobs(self, prefix: str) -> dict[str, tuple[str, Descriptor]]:
        """Return the blobs that the bundle has, each with a repository of the target that is to have it."""
        found: dict[str, tuple[str, Descriptor]] = {}
        for image in self.bundle.images:
            manifest = self.manifest(image.repository, image.tag)
            for blob in blobs_of(self, image.repository, manifest):
                if self.find(blob.digest) is not None:
                    found.setdefault(blob.digest, (f"{prefix}{image.repository}", blob))
        return found

    def check_predecessor(self, prefix: str, locations: BlobLocations) -> None:
        """Raise BUNDLE_MISSING if the target lacks what earlier bundles have."""
        target, bundle = self._target, self.bundle

        def absent_image(image: tuple[str, str]) -> bool:
            repository, digest = image
            return target.manifest_digest(f"{prefix}{repository}", digest) is None

        def absent_blob(need: NeededBlob) -> bool:
            blob = Descriptor(need.digest, need.size, "")
            for each in need.repositories:
                if target.blob_size(f"{prefix}{each}", blob) == need.size:
                    self._elsewhere[need.digest] = f"{prefix}{each}"
                    locations.note(target.host, blob, f"{prefix}{each}", sent=False)
                    return False
            return True

        with ThreadPoolExecutor(_REQUESTS, thread_name_prefix="request") as pool:
            for image, absent in zip(bundle.before, pool.map(absent_image, bundle.before), strict=True):
                if absent:
                    what = f"{prefix}{image[0]}@{image[1]} of the bundle {bundle.predecessor} is not at {target.host}"
                    raise SynclineError("BUNDLE_MISSING", f"{what}; import {bundle.predecessor} before {bundle.id}")
            for need, absent in zip(bundle.needs, pool.map(absent_blob, bundle.needs), strict=True):
                if absent:
                    what = f"the blob {need.digest} of the bundle {need.bundle} is not at {target.host}"
                    raise SynclineError("BUNDLE_MISSING", f"{what}; import {need.bundle} before {bundle.id}")

    def _sums(self) -> dict[str, str]:
        found: dict[str, str] = {}
        text = read_file(self.files, SUMS, self.host, _LARGEST_SUMS).decode(errors="replace")
        for line in text.removesuffix("\n").split("\n"):
            match = _SUM.fullmatch(line)
            if match is None or match[2] in found:
                raise damaged(f"{self.host}: {SUMS} has the invalid or repeated line {line[:200]!a}")
            found[match[2]] = match[1]
        return found

    def _check_file(self, path: str, digest: str) -> int:
        file = self.files.find(path)
        if file is None:
            raise damaged(f"{self.host} lacks {path}")
        if digest_of_blob(file, f"sha256:{digest}") != f"sha256:{digest}":
            raise damaged(f"{self.host}: {path} does not have its sum in {SUMS}; bring it here again")
        folder, _, name = path.rpartition("/")
        if folder == "blobs/sha256" and name != digest:
            raise damaged(f"{self.host}: {path} does not have the digest in its name")
        return file.size

    def _check_images(self) -> None:
        stated = sorted((each.repository, each.tag, each.digest) for each in self.bundle.images)
        found = sorted((*name, entry.descriptor.digest) for entry in self.entries for name in entry.names)
        if stated != found:
            raise damaged(f"{self.host}: {INDEX} and {BUNDLE} name different images")
        needs = {need.digest: need.size for need in self.bundle.needs}
        for image in self.bundle.images:
            self._check_blobs(image.repository, self._part(image.digest), needs)

    def _check_blobs(self, repository: str, manifest: Manifest, needs: Mapping[str, int]) -> None:
        for blob in manifest.blobs():
            found = self.find(blob.digest)
            size = needs.get(blob.digest) if found is None else found.size
            if size is None and not blob.foreign:
                raise damaged(f"{self.host} lacks the blob {blob.digest} of {repository}")
            if size not in (None, blob.size):
                raise damaged(f"{self.host}: {blob.digest} has {size} bytes, its manifest states {blob.size}")

    def _part(self, digest: str) -> Manifest:
        try:
            return self.manifest("", digest)
        except SynclineError as error:
            if error.code.name != "NOT_FOUND":
                raise
            raise damaged(f"{self.host} lacks the manifest {digest}") from None
