"""Images described by an archive, in every form that Docker and similar tools have written.

- before 1.10: ``repositories`` and a folder for each layer with ``json``, ``VERSION`` and ``layer.tar``; no configs;
- 1.10 to 24: ``manifest.json`` names the configs and, by folder, the layers; equal layers are symlinks;
- 25 and later, and with containerd: an OCI layout (``index.json``, ``blobs/sha256/``) with ``manifest.json`` beside it;
- OCI layouts by others, also of several platforms; ``manifest.json`` with other file names, by skopeo and others.

This module reads the descriptions only; layers are referred to by the names of the archive's members. An archive with two
descriptions of one image may contradict itself: Docker 25.0.0 omits repeated layers from its OCI manifests
(https://github.com/moby/moby/issues/47150). Then the description that agrees with the config counts, see `SavedImage`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from syncline.clients.registry.manifest import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    Manifest,
)
from syncline.clients.registry.reference import digest_of, is_digest
from syncline.errors import SynclineError
from syncline.kinds.artifacts.archive.streams import invalid

DOCKER_CONFIG: Final = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER: Final = "application/vnd.docker.image.rootfs.diff.tar.gzip"
_CONFIGS: Final = (DOCKER_CONFIG, "application/vnd.oci.image.config.v1+json")
_ATTESTATION: Final = "vnd.docker.reference.type"  # annotation of an attestation
_INDEXES: Final = frozenset({OCI_INDEX, DOCKER_LIST})
_MANIFESTS: Final = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
_NAME_KEYS: Final = ("io.containerd.image.name", "org.opencontainers.image.ref.name")
_DEEPEST: Final = 4
_MOST_LAYERS: Final = 1000
_LEGACY_DROPPED: Final = ("id", "parent", "Size", "parent_id", "layer_id", "throwaway")
_GO_ESCAPES: Final = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


@dataclass(frozen=True, slots=True)
class ArchiveContents:
    """The contents of an archive after one pass: its JSON files by name, its links, and the names of all files."""

    name: str
    texts: Mapping[str, bytes]
    links: Mapping[str, str]
    files: frozenset[str]

    def resolve(self, path: str) -> str:
        """Return the file that a path leads to. Raises ARCHIVE_INVALID if there is none."""
        seen: set[str] = set()
        while path in self.links and path not in seen:
            seen.add(path)
            path = self.links[path]
        if path not in self.files:
            raise invalid(f"{self.name} names {path[:120]!r} but does not have it")
        return path

    def text(self, path: str) -> bytes:
        found = self.texts.get(self.resolve(path))
        if found is None:
            raise invalid(f"{self.name}: {path[:120]!r} is not JSON")
        return found

    def json(self, path: str, kind: type[dict[str, Any] | list[Any]]) -> Any:
        """Return the content of a JSON file, a dictionary or a list."""
        return self.parsed(self.text(path), path, kind)

    def parsed(self, text: bytes, path: str, kind: type[dict[str, Any] | list[Any]]) -> Any:
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, kind):
            raise invalid(f"{self.name}: {path[:120]!r} does not have the expected JSON type")
        return value

    def blob(self, digest: str) -> str:
        """Return the path of a blob in an OCI layout."""
        if not is_digest(digest):
            raise invalid(f"{self.name} names a blob with the invalid digest {digest[:80]!r}")
        return f"blobs/{digest.replace(':', '/')}"

    def has_blob(self, digest: str) -> bool:
        return self.blob(digest) in self.files


@dataclass(frozen=True, slots=True)
class SavedImage:
    """An image, or index of images, in an archive; ``names`` are those it was saved under, as written there.

    An image has its ``config`` and the members of its ``layers``, bottom first; ``diff_ids`` are the digests of their
    content by the config. ``others`` are further lists of layers, from other descriptions in the archive: the layers'
    content decides which one is right. The config of a ``legacy`` image has no diff_ids yet. An image from an OCI layout
    has a ``manifest``; an index has ``children`` instead of layers.

    ``lacks`` is the part that the archive lacks of the image, or the reason why it is invalid. ``saved`` is False if the
    archive has no part of its own of the image, as of platforms that nobody asked for.
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


def list_images(contents: ArchiveContents) -> list[SavedImage]:
    """Return all images of an archive. Raises ARCHIVE_INVALID if its descriptions are invalid or contradict themselves."""
    try:
        if "index.json" in contents.files:
            return list(_layout(contents))
        if "manifest.json" in contents.files:
            return list(_saved(contents))
        if "repositories" in contents.files:
            return list(_legacy_images(contents))
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError):
        raise invalid(f"{contents.name}: a description of its images is invalid") from None
    raise invalid(f"{contents.name} is not an archive of images: it has no manifest.json, index.json or repositories")


def _saved(contents: ArchiveContents) -> Iterator[SavedImage]:
    """Yield the images of a ``manifest.json``. One that is wrong or incomplete does not affect the others."""
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


def _saved_config(contents: ArchiveContents, path: str) -> bytes:
    config = contents.text(path)
    hexadecimal = path.removesuffix(".json").rpartition("/")[2]
    if len(hexadecimal) == 64 and digest_of(config) != f"sha256:{hexadecimal}":
        raise invalid(f"{contents.name}: the config {path[:120]} does not have the digest in its name")
    return config


def _read_as(contents: ArchiveContents, image: SavedImage, readings: list[tuple[str, ...]]) -> SavedImage:
    """Return the image with the lists of layers that may be right: those with as many layers as the config has."""
    count = len(image.diff_ids)
    right = [layers for layers in dict.fromkeys(readings) if len(layers) == count or not count]
    if right:
        return replace(image, layers=right[0], others=tuple(right[1:]))
    counts = ", ".join(str(len(layers)) for layers in readings)
    return replace(image, lacks=f"{contents.name}: a config lists {count} layers, but the archive {counts}")


def _layout(contents: ArchiveContents) -> Iterator[SavedImage]:
    """Yield the images of an OCI layout, each once with all its names, then those that only its ``manifest.json`` has."""
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
        raise invalid(f"{contents.name}: its index.json names no image that the archive has")
    yield from images


def _config_digest(image: SavedImage) -> str:
    """Return the digest of an image's config from its manifest; empty if there is none."""
    if image.manifest is None or image.manifest.is_index:
        return ""
    config, *_ = image.manifest.blobs()
    return config.digest


def _image(
    contents: ArchiveContents, saved: Mapping[str, list[SavedImage]], entry: Mapping[str, Any], depth: int
) -> SavedImage:
    """Return the image of a descriptor. ``saved`` are the images of `manifest.json` by their configs' digests."""
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
        raise invalid(f"{contents.name}: {digest} has the unsupported media type {media_type[:100]!r}")
    manifest = Manifest(digest, media_type, text)
    config, *_ = manifest.blobs()
    layers = [str(layer["digest"]) for layer in value["layers"]]
    missing = [layer for layer in layers if not contents.has_blob(layer)]
    paths = tuple(contents.resolve(contents.blob(layer)) for layer in layers if layer not in missing)
    if not contents.has_blob(config.digest):
        what = f"{contents.name} does not have the config {config.digest}{_platform(entry)}"
        return SavedImage((), b"", paths, manifest=manifest, descriptor=entry, lacks=what, saved=False)
    body = contents.text(contents.blob(config.digest))
    diff_ids = _diff_ids(contents, body) if config.media_type in _CONFIGS else ()
    image = SavedImage((), body, diff_ids=diff_ids, manifest=manifest, descriptor=entry)
    readings = [each.layers for each in saved.get(config.digest, ()) if not each.lacks]
    if missing and not readings:
        return replace(image, lacks=f"{contents.name} does not have the layer {missing[0]}{_platform(entry)}")
    return _read_as(contents, image, readings if missing else [paths, *readings])


def _platform(entry: Mapping[str, Any]) -> str:
    """Return the platform of a descriptor, as part of a message."""
    platform = entry.get("platform") or {}
    return f" of {platform['os']}/{platform['architecture']}" if {"os", "architecture"} <= set(platform) else ""


def _with_saved(images: Iterable[SavedImage]) -> list[SavedImage]:
    """Return the images, marking one of which only layers exist as saved if no other image has these layers."""
    images = list(images)
    shared = {path for image in images if not image.lacks for leaf in image.leaves() for path in leaf.layers}
    return [replace(image, saved=image.saved or not shared.issuperset(image.layers)) for image in images]


def _index(index: SavedImage, found: list[SavedImage]) -> SavedImage:
    """Return an index with those of its images that were saved; if only one of several was, that image."""
    children = _with_saved(found)
    broken = [child for child in children if child.lacks and child.saved]
    complete = tuple(child for child in children if not child.lacks)
    absent = [child for child in children if not child.saved]
    images = [child for child in complete if _ATTESTATION not in (child.descriptor.get("annotations") or {})]
    if broken or not complete or (absent and not images):
        first = (broken or absent)[0].lacks if children else "an index names no image"
        return replace(index, lacks=first, saved=bool(broken or complete), children=tuple(children))
    if absent and len(images) == 1:
        return images[0]
    return replace(index, children=complete)


def _diff_ids(contents: ArchiveContents, config: bytes) -> tuple[str, ...]:
    rootfs = contents.parsed(config, "a config", dict).get("rootfs") or {}
    diff_ids = tuple(map(str, rootfs.get("diff_ids") or ()))
    if len(diff_ids) > _MOST_LAYERS or not all(map(is_digest, diff_ids)):
        raise invalid(f"{contents.name}: a config has invalid diff_ids")
    return diff_ids


def _legacy_images(contents: ArchiveContents) -> Iterator[SavedImage]:
    """Yield the images of a ``repositories`` file, with configs as `docker load` makes them.

    Each layer has a folder with its ``json``, which names its ``parent``; ``repositories`` names the topmost layer of
    each tag. The config is the ``json`` of the topmost layer without the keys about layers, and with ``history``, and
    ``rootfs`` once the layers' content is known; see :func:`with_layers`.
    https://github.com/moby/moby/blob/v20.10.24/image/tarexport/load.go (legacyLoadImage) and image/v1/imagev1.go
    """
    names: dict[str, list[str]] = {}
    for repository, tags in json.loads(contents.texts["repositories"]).items():
        for tag, top in tags.items():
            names.setdefault(str(top), []).append(f"{repository}:{tag}")
    for top, tagged in names.items():
        yield _legacy_image(contents, top, tuple(sorted(tagged)))


def _legacy_image(contents: ArchiveContents, top: str, names: tuple[str, ...]) -> SavedImage:
    chain: dict[str, dict[str, Any]] = {}
    layer: str | None = top
    while layer:
        if layer in chain or len(chain) > _MOST_LAYERS:
            raise invalid(f"{contents.name}: a layer is its own parent")
        if f"{layer}/json" not in contents.texts or f"{layer}/layer.tar" not in contents.files:
            raise invalid(f"{contents.name} names the layer {layer[:80]!r} but does not have it")
        chain[layer] = json.loads(contents.texts[f"{layer}/json"])
        layer = chain[layer].get("parent")
    config = {key: value for key, value in chain[top].items() if key not in _LEGACY_DROPPED}
    config["history"] = [_history(about) for about in reversed(chain.values())]
    return SavedImage(names, _go_json(config), tuple(f"{layer}/layer.tar" for layer in reversed(chain)), legacy=True)


def _history(about: Mapping[str, Any]) -> dict[str, Any]:
    """Return Docker's history entry of a legacy layer, in Docker's order of fields and without empty ones."""
    fields = {
        "created": about.get("created", "0001-01-01T00:00:00Z"),
        "author": about.get("author"),
        "created_by": " ".join((about.get("container_config") or {}).get("Cmd") or []),
        "comment": about.get("comment"),
    }
    return {key: value for key, value in fields.items() if value}


def with_layers(config: bytes, diff_ids: Sequence[str]) -> bytes:
    """Return the complete config of a legacy image, given the digests of its layers' content."""
    return _go_json({**json.loads(config), "rootfs": {"type": "layers", "diff_ids": list(diff_ids)}})


def _go_json(value: Mapping[str, Any]) -> bytes:
    """Return JSON as Go writes it: sorted keys, no spaces, and ``<``, ``>`` and ``&`` escaped."""
    text = json.dumps(dict(sorted(value.items())), separators=(",", ":"), ensure_ascii=False)
    return "".join(_GO_ESCAPES.get(character, character) for character in text).encode("utf-8", "surrogatepass")


def choose_image(images: list[SavedImage], name: str, tag: str, where: str) -> SavedImage:
    """Return the image called ``name:tag``, with any registry and path before it. A single image may have any name.

    Raises IMAGE_ABSENT, and ARCHIVE_INVALID if that image is incomplete.
    """
    fitting = [image for image in images if any(_fits(each, name, tag) for each in image.names)]
    present = [image for image in images if image.saved or image.names]
    if len(present) == 1 or (not fitting and all(image.lacks for image in present)):
        fitting = present
    # An image that was not saved may be listed beside the one that was, for another platform.
    fitting = [image for image in fitting if image.saved] or fitting
    broken = [image for image in fitting if image.lacks]
    if broken:
        raise invalid(broken[0].lacks)
    if len(fitting) == 1:
        return fitting[0]
    names = ", ".join(sorted(n for image in images for n in image.names))[:300] or "no names"
    what = "more than one image" if fitting else "no image"
    raise SynclineError("IMAGE_ABSENT", f"{where} has {what} {name}:{tag}; it has {names}")


def _fits(saved_as: str, name: str, tag: str) -> bool:
    return f"/{saved_as}".endswith(f"/{name}:{tag}")
