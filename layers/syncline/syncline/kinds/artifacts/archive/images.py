"""The images that an archive describes, in every form that Docker and its kin have written.

- before 1.10: ``repositories`` and a folder for each layer with ``json``, ``VERSION`` and ``layer.tar``; no configs;
- 1.10 to 24: ``manifest.json`` names the configs and, by folder, the layers; layers that are equal are symlinks;
- 25 and later, and with containerd: an OCI layout (``index.json``, ``blobs/sha256/``) with ``manifest.json`` beside it;
- OCI layouts by others, also of several platforms; skopeo's and others' ``manifest.json`` with files as they like.

All that is decided by the descriptions alone; layers are named by the archive's members. An archive with two descriptions
of one image may contradict itself: Docker 25.0.0 leaves doubled layers out of its OCI manifests
(https://github.com/moby/moby/issues/47150). Then the description counts that agrees with the config, see `SavedImage`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from syncline.clients.registry.manifest import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    Manifest,
)
from syncline.clients.registry.reference import digest_of, is_digest
from syncline.errors import SynclineError
from syncline.kinds.artifacts.archive.feed import invalid
from syncline.kinds.artifacts.archive.legacy import legacy_images

DOCKER_CONFIG: Final = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER: Final = "application/vnd.docker.image.rootfs.diff.tar.gzip"
_INDEXES: Final = frozenset({OCI_INDEX, DOCKER_LIST})
_MANIFESTS: Final = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
_NAME_KEYS: Final = ("io.containerd.image.name", "org.opencontainers.image.ref.name")
_DEEPEST: Final = 4
_MOST_LAYERS: Final = 1000


@dataclass(frozen=True, slots=True)
class Contents:
    """What one pass over an archive has seen: its JSON files by name, its links, and the names of all files."""

    name: str
    texts: Mapping[str, bytes]
    links: Mapping[str, str]
    files: frozenset[str]

    def resolve(self, path: str) -> str:
        """The file a path leads to. Raises ARCHIVE_INVALID where it leads to none."""
        seen: set[str] = set()
        while path in self.links and path not in seen:
            seen.add(path)
            path = self.links[path]
        if path not in self.files:
            raise invalid(f"{self.name} names {path[:120]!r} and does not have it")
        return path

    def text(self, path: str) -> bytes:
        found = self.texts.get(self.resolve(path))
        if found is None:
            raise invalid(f"{self.name}: {path[:120]!r} is no JSON")
        return found

    def json(self, path: str, kind: type[dict[str, Any] | list[Any]]) -> Any:
        """A JSON file, a dictionary or a list."""
        return self.parsed(self.text(path), path, kind)

    def parsed(self, text: bytes, path: str, kind: type[dict[str, Any] | list[Any]]) -> Any:
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, kind):
            raise invalid(f"{self.name}: {path[:120]!r} is not JSON of its form")
        return value

    def blob(self, digest: str) -> str:
        """Where an OCI layout has a blob."""
        if not is_digest(digest):
            raise invalid(f"{self.name} names the blob {digest[:80]!r}")
        return f"blobs/{digest.replace(':', '/')}"

    def has_blob(self, digest: str) -> bool:
        return self.blob(digest) in self.files


@dataclass(frozen=True, slots=True)
class SavedImage:
    """One image, or index of images, in an archive; ``names`` are those it was saved under, as they are written there.

    An image has its ``config`` and the members of its ``layers``, bottom first; ``diff_ids`` are what the config says of
    their content. ``others`` are further lists of layers, by other descriptions in the archive: only the layers' content
    tells which one is right. The config of a ``legacy`` image lacks the diff_ids still. An image from an OCI layout has
    its own ``manifest``; an index has ``children`` instead of layers.

    ``lacks`` says what the archive lacks of the image, or why it is none. It was not ``saved`` if the archive has nothing
    of its own of it, as of platforms that nobody asked for.
    """

    names: tuple[str, ...]
    config: bytes = b""
    layers: tuple[str, ...] = ()
    diff_ids: tuple[str, ...] = ()
    manifest: Manifest | None = None
    children: tuple[SavedImage, ...] = ()
    descriptor: Mapping[str, Any] = field(default_factory=dict)
    legacy: bool = False
    others: tuple[tuple[str, ...], ...] = ()
    lacks: str = ""
    saved: bool = True

    @property
    def is_index(self) -> bool:
        return self.manifest is not None and self.manifest.is_index

    def leaves(self) -> Iterator[SavedImage]:
        """Yield the image, or those of an index."""
        if not self.children:
            yield self
        for child in self.children:
            yield from child.leaves()


def images_in(contents: Contents) -> list[SavedImage]:
    """All images of an archive. Raises ARCHIVE_INVALID where its descriptions are none, or contradict themselves."""
    try:
        if "index.json" in contents.files:
            return list(_layout(contents))
        if "manifest.json" in contents.files:
            return list(_saved(contents))
        if "repositories" in contents.files:
            found = legacy_images(contents.name, contents.texts, contents.files)
            return [SavedImage(image.names, image.config, image.layers, legacy=True) for image in found]
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError):
        raise invalid(f"{contents.name}: a description of its images is not of its form") from None
    raise invalid(f"{contents.name} is not an archive of images: it has no manifest.json, index.json or repositories")


def _saved(contents: Contents) -> Iterator[SavedImage]:
    """Yield the images of a ``manifest.json``; one that is wrong or incomplete does not spoil the others."""
    for entry in contents.json("manifest.json", list):
        names, config = tuple(map(str, entry.get("RepoTags") or ())), b""
        try:
            config = _saved_config(contents, str(entry["Config"]))
            diff_ids = _diff_ids(contents, config)
            layers = tuple(contents.resolve(str(layer)) for layer in entry["Layers"] or ())
        except SynclineError as error:
            yield SavedImage(names, config, lacks=error.what)
        else:
            yield _read_as(contents, SavedImage(names, config, diff_ids=diff_ids), [layers])


def _saved_config(contents: Contents, path: str) -> bytes:
    config = contents.text(path)
    hexadecimal = path.removesuffix(".json").rpartition("/")[2]
    if len(hexadecimal) == 64 and digest_of(config) != f"sha256:{hexadecimal}":
        raise invalid(f"{contents.name}: the config {path[:120]} has another digest than its name")
    return config


def _read_as(contents: Contents, image: SavedImage, readings: list[tuple[str, ...]]) -> SavedImage:
    """Return the image with the lists of layers that may be right: of those that an archive gives, by their number."""
    wanted = len(image.diff_ids)
    right = [layers for layers in dict.fromkeys(readings) if len(layers) == wanted or not wanted]
    if right:
        return replace(image, layers=right[0], others=tuple(right[1:]))
    told = ", ".join(str(len(layers)) for layers in readings)
    return replace(image, lacks=f"{contents.name}: a config speaks of {wanted} layers, the archive of {told}")


def _layout(contents: Contents) -> Iterator[SavedImage]:
    """Yield the images of an OCI layout; one that is named twice comes once, with both names.

    Those of a ``manifest.json`` beside it follow, as far as the layout does not know them.
    """
    saved: dict[str, list[SavedImage]] = {}
    for image in _saved(contents) if "manifest.json" in contents.files else ():
        saved.setdefault(digest_of(image.config) if image.config else "", []).append(image)
    found: dict[str, SavedImage] = {}
    for entry in contents.json("index.json", dict)["manifests"]:
        annotations = entry.get("annotations") or {}
        names = [str(annotations[key]) for key in _NAME_KEYS if annotations.get(key)]
        digest = str(entry["digest"])
        image = found.get(digest) or _image(contents, saved, entry, 0)
        if config := _config_digest(image):
            names += [name for each in saved.get(config, ()) for name in each.names]
        found[digest] = replace(image, names=tuple(dict.fromkeys((*image.names, *names))))
    known = {_config_digest(leaf) for image in found.values() for leaf in image.leaves()} - {""}
    rest = [image for digest, images in saved.items() if digest not in known for image in images]
    images = [*_with_saved(found.values()), *rest]
    if not any(image.names or image.saved for image in images):
        raise invalid(f"{contents.name}: its index.json names no image that it has")
    yield from images


def _config_digest(image: SavedImage) -> str:
    """Return the digest of an image's config as its manifest has it; empty where that is not known."""
    if image.manifest is None or image.manifest.is_index:
        return ""
    config, *_ = image.manifest.blobs()
    return config.digest


def _image(
    contents: Contents, saved: Mapping[str, list[SavedImage]], entry: Mapping[str, Any], depth: int
) -> SavedImage:
    """Return what a descriptor leads to. ``saved`` are the images of `manifest.json` by their configs' digests."""
    digest = str(entry["digest"])
    if not contents.has_blob(digest):
        what = f"{contents.name} does not have the manifest {digest}{_platform(entry)}"
        return SavedImage((), descriptor=entry, lacks=what, saved=False)
    text = contents.text(contents.blob(digest))
    value = contents.parsed(text, digest, dict)
    media_type = str(value.get("mediaType") or entry.get("mediaType") or "")
    if "manifests" in value and media_type in _INDEXES:
        if depth >= _DEEPEST:
            raise invalid(f"{contents.name}: indexes are nested deeper than {_DEEPEST}")
        children = [_image(contents, saved, child, depth + 1) for child in value["manifests"]]
        return _index(SavedImage((), manifest=Manifest(digest, media_type, text), descriptor=entry), children)
    if media_type not in _MANIFESTS or "layers" not in value:
        raise invalid(f"{contents.name}: {digest} is of the type {media_type[:100]!r}")
    manifest = Manifest(digest, media_type, text)
    config, *_ = manifest.blobs()
    layers = [str(layer["digest"]) for layer in value["layers"]]
    missing = [layer for layer in layers if not contents.has_blob(layer)]
    paths = tuple(contents.resolve(contents.blob(layer)) for layer in layers if layer not in missing)
    if not contents.has_blob(config.digest):
        what = f"{contents.name} does not have the config {config.digest}{_platform(entry)}"
        return SavedImage((), b"", paths, manifest=manifest, descriptor=entry, lacks=what, saved=False)
    body = contents.text(contents.blob(config.digest))
    diff_ids = _diff_ids(contents, body) if _is_config(config) else ()
    image = SavedImage((), body, diff_ids=diff_ids, manifest=manifest, descriptor=entry)
    readings = [each.layers for each in saved.get(config.digest, ()) if not each.lacks]
    if missing and not readings:
        return replace(image, lacks=f"{contents.name} does not have the layer {missing[0]}{_platform(entry)}")
    return _read_as(contents, image, readings if missing else [paths, *readings])


def _platform(entry: Mapping[str, Any]) -> str:
    """Return the platform that a descriptor names, as a part of a sentence."""
    platform = entry.get("platform") or {}
    return f" of {platform['os']}/{platform['architecture']}" if {"os", "architecture"} <= set(platform) else ""


def _with_saved(images: Iterable[SavedImage]) -> list[SavedImage]:
    """Return the images, those of which only layers are there as saved ones where nobody else has these layers."""
    images = list(images)
    shared = {path for image in images if not image.lacks for leaf in image.leaves() for path in leaf.layers}
    return [replace(image, saved=image.saved or not shared.issuperset(image.layers)) for image in images]


def _index(index: SavedImage, found: list[SavedImage]) -> SavedImage:
    """Return an index with those of its images that were saved; if that is a single one of several, it alone."""
    children = _with_saved(found)
    broken = [child for child in children if child.lacks and child.saved]
    whole = tuple(child for child in children if not child.lacks)
    absent = [child for child in children if not child.saved]
    images = [child for child in whole if not _is_attestation(child.descriptor)]
    if broken or not whole or (absent and not images):
        first = (broken or absent)[0].lacks if children else "an index names no image"
        return replace(index, lacks=first, saved=bool(broken or whole), children=tuple(children))
    if absent and len(images) == 1:
        return images[0]
    return replace(index, children=whole)


def _is_attestation(descriptor: Mapping[str, Any]) -> bool:
    return "vnd.docker.reference.type" in (descriptor.get("annotations") or {})


def _is_config(config: Descriptor) -> bool:
    return config.media_type in (DOCKER_CONFIG, "application/vnd.oci.image.config.v1+json")


def _diff_ids(contents: Contents, config: bytes) -> tuple[str, ...]:
    rootfs = contents.parsed(config, "a config", dict).get("rootfs") or {}
    diff_ids = tuple(map(str, rootfs.get("diff_ids") or ()))
    if len(diff_ids) > _MOST_LAYERS or not all(map(is_digest, diff_ids)):
        raise invalid(f"{contents.name}: a config's diff_ids are none")
    return diff_ids


def chosen(images: list[SavedImage], name: str, tag: str, where: str) -> SavedImage:
    """Return the image called ``name:tag``, whatever registry and path are before it; a single one by any name.

    Raises IMAGE_ABSENT, and ARCHIVE_INVALID where the archive has that image in part only.
    """
    fitting = [image for image in images if any(_fits(known, name, tag) for known in image.names)]
    there = [image for image in images if image.saved or image.names]
    if len(there) == 1 or (not fitting and all(image.lacks for image in there)):
        fitting = there
    # One that was not saved may stand beside the one that was, for another platform.
    fitting = [image for image in fitting if image.saved] or fitting
    broken = [image for image in fitting if image.lacks]
    if broken:
        raise invalid(broken[0].lacks)
    if len(fitting) == 1:
        return fitting[0]
    names = ", ".join(sorted(n for image in images for n in image.names))[:300] or "no names"
    what = "more than one image" if fitting else "no image"
    raise SynclineError("IMAGE_ABSENT", f"{where} has {what} {name}:{tag}; it has {names}")


def _fits(known: str, name: str, tag: str) -> bool:
    return known == f"{name}:{tag}" or known.endswith(f"/{name}:{tag}")
