"""``syncline copy``: images from one place to another, in this process, with the code of the functions."""

from __future__ import annotations

import json
import platform as machine
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final

from syncline.cli import error_output
from syncline.cli.context import CommandResult, Context
from syncline.clients.folder.directory import Directory
from syncline.clients.layout.contents import Name
from syncline.clients.layout.daemon import DockerDaemon
from syncline.clients.layout.docker import DockerArchive, NamedImage, write_docker_archive
from syncline.clients.layout.folder import LayoutFolder, pack, write_sums
from syncline.clients.layout.reader import Layout, LayoutReader
from syncline.clients.registry.client import Registry
from syncline.clients.registry.manifest import Manifest
from syncline.clients.registry.reference import parse_tag
from syncline.clients.registry.store import ImageStore
from syncline.config.sync import Patterns
from syncline.errors import SynclineError
from syncline.kinds.facts import ProcessFacts
from syncline.kinds.images.cli.places import DOCKER_TARGETS, PinnedImages, Place, Process, check_platform, rules
from syncline.kinds.images.cli.settle import Report, settle
from syncline.kinds.images.details import ASK
from syncline.kinds.images.facts import BlobLocations, TargetNotes
from syncline.kinds.images.parts import check_parts
from syncline.kinds.images.pieces import CopyRoute
from syncline.kinds.images.referrers import manifest_or_none
from syncline.kinds.images.signatures import NO_RULES
from syncline.kinds.images.transfer import RepositoryCopy
from syncline.kinds.images.verify import ImageVerification, Origin
from syncline.model import Item, Outcome, Result
from syncline.patterns import is_signature_tag

_AT_ONCE: Final = 8
_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm/v7"}


def copy(  # noqa: PLR0913 - each is an option
    context: Context,
    source: str,
    target: str,
    *,
    all_tags: bool,
    select: Sequence[str],
    overwrite: bool,
    platform: str | None,
    ca: Path | None,
) -> CommandResult:
    """Copy one image or, with ``all_tags`` or ``select``, those of a repository.

    Raises USAGE, SOURCE_ABSENT, WOULD_OVERWRITE for a file that exists, and the errors of reading an archive.
    """
    with error_output.exit_on_error(context, kind="images"), ExitStack() as stack:
        check_platform(platform)
        process = Process(ca)
        stack.enter_context(process.interruptible())
        return _Copy(context, process, stack, overwrite=overwrite, platform=platform).run(
            Place.parse(source), Place.parse(target), Patterns(include=tuple(select)), several=all_tags or bool(select)
        )


@dataclass(frozen=True, slots=True)
class _Source:
    """The images to copy: their tags at the target, by the repository that has them in the store."""

    store: ImageStore
    repository: str
    tags: tuple[str, ...]


class _Copy:
    def __init__(
        self, context: Context, process: Process, stack: ExitStack, *, overwrite: bool, platform: str | None
    ) -> None:
        self._process = process
        self._stack = stack
        self._overwrite = overwrite
        self._platform = platform
        self._report = Report(context)

    def run(self, source: Place, target: Place, selected: Patterns, *, several: bool) -> CommandResult:
        target = _checked(source, target, several=several)
        store = self._source_store(source)
        if self._platform is None and target.transport in DOCKER_TARGETS:
            architecture = machine.machine()
            self._platform = f"linux/{_ARCHITECTURES.get(architecture, architecture)}"
        chosen = self._several(source, store, selected) if several else self._one(source, store, target)
        if not several and target.reference is None:
            target = replace(target, reference=chosen.tags[0])
        if self._platform is not None:
            chosen = self._of_platform(chosen)
        self._write(chosen, target)
        return self._report.end(f"{source} → {target}")

    # -- the source ----------------------------------------------------------------------------------------------

    def _source_store(self, source: Place) -> ImageStore:
        match source.transport:
            case "docker":
                return self._process.registry(source.location)
            case "docker-archive":
                return DockerArchive(source.path, source.host)
            case "docker-daemon":
                path = self._temporary() / "image.tar"
                with path.open("w+b") as file:
                    DockerDaemon().save(str(Name(source.repository, source.reference or "latest")), file)
                return DockerArchive(path, source.host)
            case _:
                return Layout.at(source.path, source.host)

    def _one(self, source: Place, store: ImageStore, target: Place) -> _Source:
        """Return one image, pinned to the digest that it has now, under the tag that it gets."""
        if isinstance(store, LayoutReader):
            name = store.resolve(None if source.transport == "docker-daemon" else source.name)
            digest = store.entries[0].descriptor.digest if name is None else store.manifest_digest(*name)
            repository, reference = ("", None) if name is None else name
        else:
            repository, reference = source.repository, source.reference or "latest"
            digest = store.manifest_digest(repository, reference)
            if digest is None:
                raise SynclineError("SOURCE_ABSENT", f"{store.host} has no {repository}:{reference}")
        tag = target.reference or (reference if reference and ":" not in reference else "latest")
        return _Source(PinnedImages.of(store, {tag: str(digest)}), repository, (tag,))

    def _several(self, source: Place, store: ImageStore, selected: Patterns) -> _Source:
        repository = source.repository
        if isinstance(store, LayoutReader):
            repositories = [name for page in store.catalog_pages() for name in page.entries]
            if source.reference is not None:  # the name of a repository in the layout
                repository = str(source.name)
            elif len(repositories) == 1:
                repository = repositories[0]
            if repository not in repositories:
                what = f"{store.host} has the repositories {', '.join(map(repr, repositories[:5])) or 'none'}; name one of them"
                raise SynclineError("SOURCE_ABSENT", what)
        tags = tuple(tag for tag in store.tags(repository) if is_signature_tag(tag) or selected.allows(tag))
        if not tags:
            raise SynclineError("SOURCE_ABSENT", f"{store.host} has no tags of {repository!r} that are selected")
        return _Source(store, repository, tags)

    def _of_platform(self, chosen: _Source) -> _Source:
        """Return the images with each index replaced by its manifest of the platform."""
        digests: dict[str, str] = {}
        for tag in chosen.tags:
            manifest = chosen.store.manifest(chosen.repository, tag)
            if manifest.is_index:
                found = {child.platform: child.digest for child in reversed(manifest.children())}
                wanted = str(self._platform)
                digest = found.get(wanted) or next((d for p, d in found.items() if p.startswith(f"{wanted}/")), None)
                if digest is None:
                    what = f"{tag} has no image of {wanted}, only of {', '.join(filter(None, found)) or 'no platform'}"
                    raise SynclineError("SOURCE_ABSENT", f"{what}; name one of them with --platform")
                digests[tag] = digest
            else:
                digests[tag] = manifest.digest
        return replace(chosen, store=PinnedImages.of(chosen.store, digests))

    # -- the targets ---------------------------------------------------------------------------------------------

    def _copied(self, chosen: _Source, target: ImageStore, place: Place) -> Iterator[Result]:
        """Copy to a registry or a layout, and verify."""
        facts = ProcessFacts()
        notes, locations = TargetNotes(facts, target.host), BlobLocations(facts)
        sync = rules(overwrite=self._overwrite)
        context, route = self._process.context, CopyRoute(chosen.store, chosen.repository, target, place.repository)
        signed: dict[str, str | bool] = {"signed": ASK} if isinstance(chosen.store, Registry | PinnedImages) else {}
        if len(chosen.tags) > 1:
            signed = {"signed": True} if any(map(is_signature_tag, chosen.tags)) else {}
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="digest") as pool:
            present = pool.map(partial(target.manifest_digest, place.repository), chosen.tags)
            items = [
                Item(place.repository, t, None, p, detail=signed) for t, p in zip(chosen.tags, present, strict=True)
            ]
        origin = Origin(chosen.store, lambda _: chosen.repository, notes=notes)
        yield from settle(
            items,
            lambda some: RepositoryCopy(route, locations, context, sync, notes, trust=NO_RULES).images(some),
            lambda some: ImageVerification(target, origin).verify(some, context),
        )

    def _write(self, chosen: _Source, target: Place) -> None:
        match target.transport:
            case "docker-daemon":
                self._to_daemon(chosen, target)
            case "docker-archive":
                self._to_docker_archive(chosen, target)
            case "oci-archive":
                self._to_oci_archive(chosen, target)
            case "oci":
                self._to_layout(chosen, LayoutFolder(target.path, target.host), target)
            case "docker":
                self._report.add(self._copied(chosen, self._process.registry(target.location), target))

    def _to_layout(self, chosen: _Source, layout: LayoutFolder, place: Place) -> None:
        try:
            results = self._copied(chosen, layout, place)
            self._report.add(replace(each, group=each.group or place.host) for each in results)
        finally:
            layout.flush()
        write_sums(layout.directory)

    def _to_oci_archive(self, chosen: _Source, target: Place) -> None:
        """Write a layout beside the file, which an interrupted copy leaves for the next one, and pack it."""
        path = target.path
        if path.exists() and self._has_equal(chosen, Layout.at(path, target.host), target):
            return
        parts = path.with_name(f"{path.name}.syncline")
        layout = LayoutFolder(parts, target.host)
        self._to_layout(chosen, layout, target)
        if self._report.is_bad:
            return
        with _replaced(path) as file:
            pack(layout.directory, file)
        shutil.rmtree(parts)

    def _to_docker_archive(self, chosen: _Source, target: Place) -> None:
        path = target.path
        if path.exists() and self._has_equal(chosen, DockerArchive(path, target.host), target):
            return
        with _replaced(path) as file:
            images = self._write_archive(chosen, target, file)
        written = DockerArchive(path, target.host)
        for image in images:
            name = Name.parse(image.name)
            if not _is_same(image.manifest, manifest_or_none(written, *name)):
                raise SynclineError("NOT_ARRIVED", f"{target.location} does not have {name} as it was written")
            check_parts(written, name.repository, image.manifest)
            self._report.add([_moved(name, image.manifest)])

    def _to_daemon(self, chosen: _Source, target: Place) -> None:
        daemon = DockerDaemon()
        names = [Name(target.repository, tag) for tag in chosen.tags if not is_signature_tag(tag)]
        wanted = [chosen.store.manifest(chosen.repository, name.tag) for name in names]
        todo: list[str] = []
        for name, manifest in zip(names, wanted, strict=True):
            present = daemon.image_id(str(name))
            if present in _ids(manifest):
                self._report.add([Result(name.repository, name.tag, Outcome.EQUAL, manifest.digest, manifest.digest)])
            elif present is not None and not self._overwrite:
                what = f"the Docker daemon has {present} under this name; nothing is overwritten"
                self._report.add(
                    [
                        Result(
                            name.repository,
                            name.tag,
                            Outcome.CONFLICT,
                            manifest.digest,
                            present,
                            0,
                            "TAG_DIFFERS",
                            what,
                        )
                    ]
                )
            else:
                todo.append(name.tag)
        if not todo:
            return
        path = self._temporary() / "images.tar"
        with path.open("w+b") as file:
            images = self._write_archive(replace(chosen, tags=tuple(todo)), target, file)
            file.seek(0)
            daemon.load(file)
        for image in images:
            config, *_ = image.manifest.blobs()
            with chosen.store.open_blob(chosen.repository, config.digest) as stream:
                layers = json.loads(b"".join(stream)).get("rootfs", {}).get("diff_ids")
            # A daemon with the store of containerd makes another manifest, whose digest is the ID.
            if daemon.image_id(image.name) not in _ids(image.manifest) and daemon.layers(image.name) != layers:
                raise SynclineError("NOT_ARRIVED", f"the Docker daemon does not have {image.name} as it was loaded")
            self._report.add([_moved(Name.parse(image.name), image.manifest)])

    def _write_archive(self, chosen: _Source, target: Place, file: BinaryIO) -> list[NamedImage]:
        """Write an archive for Docker. Signatures have no place in it."""
        repository = target.repository or chosen.repository
        if not repository:
            raise SynclineError("USAGE", f"write the name of the image at the target: {target.transport}:FILE:NAME:TAG")
        images = [
            NamedImage(f"{repository}:{tag}", chosen.store.manifest(chosen.repository, tag))
            for tag in chosen.tags
            if not is_signature_tag(tag)
        ]
        write_docker_archive(file, chosen.store, chosen.repository, images)
        return images

    def _has_equal(self, chosen: _Source, archive: LayoutReader, target: Place) -> bool:
        """Return True if an existing file has all images, complete; raise WOULD_OVERWRITE if it may not be replaced."""
        repository = target.repository or (chosen.repository if target.transport == "docker-archive" else "")
        tags = [tag for tag in chosen.tags if target.transport == "oci-archive" or not is_signature_tag(tag)]
        wanted = {tag: chosen.store.manifest(chosen.repository, tag) for tag in tags}
        found = {tag: manifest_or_none(archive, repository, tag) for tag in tags}
        if all(_is_same(wanted[tag], found[tag]) for tag in tags):
            for tag, manifest in wanted.items():
                check_parts(archive, repository, manifest)
                self._report.add([Result(repository, tag, Outcome.EQUAL, manifest.digest, manifest.digest)])
            return True
        if not self._overwrite:
            raise SynclineError("WOULD_OVERWRITE", f"{target.location} exists and has other images")
        return False

    def _temporary(self) -> Path:
        return Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="syncline-")))


def _replaced(path: Path) -> AbstractContextManager[BinaryIO]:
    """Yield a temporary file that replaces a file when the block ends."""
    return Directory(path.parent).replace(path.name)


def _is_same(wanted: Manifest, found: Manifest | None) -> bool:
    """Return True if two manifests describe the same image: an archive for Docker has no manifest of its own."""
    if found is None or wanted.digest == found.digest:
        return found is not None
    if wanted.is_index or found.is_index:
        return False
    return [blob.digest for blob in wanted.blobs()] == [blob.digest for blob in found.blobs()]


def _ids(manifest: Manifest) -> set[str]:
    """Return the IDs that a Docker daemon may give to an image."""
    return {manifest.digest, *(blob.digest for blob in manifest.blobs()[:1])}


def _moved(name: Name, manifest: Manifest) -> Result:
    sent = sum(blob.size for blob in manifest.blobs())
    return Result(name.repository, name.tag, Outcome.MOVED, manifest.digest, manifest.digest, sent)


def _checked(source: Place, target: Place, *, several: bool) -> Place:
    """Return the target of a copy. Raises USAGE if a reference does not suit the options."""
    if several and source.transport == "docker-daemon":
        raise SynclineError("USAGE", "an image of the Docker daemon has one name; leave out --all-tags and --select")
    if several and target.is_file and target.reference is not None and not target.repository:
        target = replace(target, repository=target.reference, reference=None)
    if several and (target.reference is not None or (source.reference is not None and not source.is_file)):
        raise SynclineError("USAGE", "with --all-tags or --select, write the repositories without a tag")
    if target.reference is not None and target.transport in ("docker", "docker-daemon", "docker-archive"):
        parse_tag(target.reference)
    return target
