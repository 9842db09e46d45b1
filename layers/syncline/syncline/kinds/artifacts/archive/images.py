"""What an archive of images says it holds, in every form that Docker and its kin have written.

- before 1.10: ``repositories`` and a folder for each layer with ``json``, ``VERSION`` and ``layer.tar``; no configs;
- 1.10 to 24: ``manifest.json`` names the configs and, by folder, the layers; layers that are equal are symlinks;
- 25 and later, and with containerd: an OCI layout (``index.json``, ``blobs/sha256/``) with ``manifest.json`` beside it;
- OCI layouts by others, also of several platforms; skopeo's and others' ``manifest.json`` with files as they like.

All that is decided by the descriptions alone; layers are named by the archive's members. What an archive says twice
must be the same: readers differ in which of two they believe.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from syncline.clients.oci_manifest import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, Descriptor, Manifest
from syncline.clients.reference import digest_of, is_digest
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

    An image has its ``config`` and the members of its ``layers`` with their ``diff_ids``, bottom first; a ``legacy``
    one's config lacks them still. One from an OCI layout has its own ``manifest``, an index its ``children`` instead.
    """

    names: tuple[str, ...]
    config: bytes = b""
    layers: tuple[str, ...] = ()
    diff_ids: tuple[str, ...] = ()
    manifest: Manifest | None = None
    children: tuple[SavedImage, ...] = ()
    descriptor: Mapping[str, Any] = field(default_factory=dict)
    legacy: bool = False

    @property
    def is_index(self) -> bool:
        return self.manifest is not None and self.manifest.is_index

    def promises(self) -> dict[str, set[str]]:
        """By member, what its content is said to be, of this image and those below it."""
        said: dict[str, set[str]] = {}
        for path, diff_id in zip(self.layers, self.diff_ids, strict=False):
            said.setdefault(path, set()).add(diff_id)
        for child in self.children:
            for path, diff_ids in child.promises().items():
                said.setdefault(path, set()).update(diff_ids)
        return said


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
    except (KeyError, TypeError, AttributeError):
        raise invalid(f"{contents.name}: a description of its images is not of its form") from None
    raise invalid(f"{contents.name} is not an archive of images: it has no manifest.json, index.json or repositories")


def _saved(contents: Contents) -> Iterator[SavedImage]:
    """The images of a ``manifest.json``."""
    for entry in contents.json("manifest.json", list):
        path = str(entry["Config"])
        config = contents.text(path)
        hexadecimal = path.removesuffix(".json").rpartition("/")[2]
        if len(hexadecimal) == 64 and digest_of(config) != f"sha256:{hexadecimal}":
            raise invalid(f"{contents.name}: the config {path[:120]} has another digest than its name")
        layers = tuple(contents.resolve(str(layer)) for layer in entry["Layers"] or ())
        diff_ids = _diff_ids(contents, config)
        if len(layers) != len(diff_ids):
            raise invalid(f"{contents.name}: a config speaks of {len(diff_ids)} layers, the archive of {len(layers)}")
        yield SavedImage(tuple(map(str, entry.get("RepoTags") or ())), config, layers, diff_ids)


def _layout(contents: Contents) -> Iterator[SavedImage]:
    """The images of an OCI layout; one that is named twice comes once, with both names."""
    found: dict[str, SavedImage] = {}
    more = _names_by_config(contents)
    for entry in contents.json("index.json", dict)["manifests"]:
        image = _image(contents, entry, 0)
        if image is None:
            continue
        digest = str(entry["digest"])
        annotations = entry.get("annotations") or {}
        names = tuple(str(annotations[key]) for key in _NAME_KEYS if annotations.get(key))
        names += more.get(digest_of(image.config), ())
        before = found.get(digest)
        found[digest] = SavedImage(
            tuple(dict.fromkeys((*(before.names if before else ()), *names))),
            image.config,
            image.layers,
            image.diff_ids,
            image.manifest,
            image.children,
        )
    if not found:
        raise invalid(f"{contents.name}: its index.json names no image that it has")
    yield from found.values()


def _names_by_config(contents: Contents) -> dict[str, tuple[str, ...]]:
    """The names that a ``manifest.json`` beside the layout gives, by the digest of the config."""
    if "manifest.json" not in contents.files:
        return {}
    return {
        digest_of(contents.text(str(entry["Config"]))): tuple(map(str, entry.get("RepoTags") or ()))
        for entry in contents.json("manifest.json", list)
    }


def _image(contents: Contents, entry: Mapping[str, Any], depth: int) -> SavedImage | None:
    """What a descriptor leads to; None where the archive does not have it, as those of other platforms often."""
    digest = str(entry["digest"])
    if not contents.has_blob(digest):
        return None
    text = contents.text(contents.blob(digest))
    value = contents.parsed(text, digest, dict)
    media_type = str(value.get("mediaType") or entry.get("mediaType") or "")
    if "manifests" in value and media_type in _INDEXES:
        if depth >= _DEEPEST:
            raise invalid(f"{contents.name}: indexes are nested deeper than {_DEEPEST}")
        return _index(contents, Manifest(digest, media_type, text), value, depth)
    if media_type not in _MANIFESTS or "layers" not in value:
        raise invalid(f"{contents.name}: {digest} is of the type {media_type[:100]!r}")
    manifest = Manifest(digest, media_type, text)
    config, *_ = manifest.blobs()
    layers = tuple(str(layer["digest"]) for layer in value["layers"])
    if not contents.has_blob(config.digest) or not all(map(contents.has_blob, layers)):
        return None
    body = contents.text(contents.blob(config.digest))
    diff_ids = _diff_ids(contents, body) if _is_config(config) else ()
    if diff_ids and len(diff_ids) != len(layers):
        raise invalid(f"{contents.name}: a config speaks of {len(diff_ids)} layers, its manifest of {len(layers)}")
    paths = tuple(contents.resolve(contents.blob(layer)) for layer in layers)
    return SavedImage((), body, paths, diff_ids, manifest, (), entry)


def _index(contents: Contents, manifest: Manifest, value: Mapping[str, Any], depth: int) -> SavedImage | None:
    """An index with those of its images that the archive has; if that is a single one, it alone."""
    children = [child for entry in value["manifests"] if (child := _image(contents, entry, depth + 1)) is not None]
    if not children:
        return None
    images = [child for child in children if not _is_attestation(child.descriptor)]
    if len(children) < len(value["manifests"]) and len(images) == 1:
        return images[0]
    return SavedImage((), b"", (), (), manifest, tuple(children))


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
    """The image called ``name:tag``, whatever registry and path are before it; a single one whatever it is called.

    Raises IMAGE_ABSENT.
    """
    if len(images) == 1:
        return images[0]
    fitting = [image for image in images if any(_fits(known, name, tag) for known in image.names)]
    if len(fitting) == 1:
        return fitting[0]
    names = ", ".join(sorted(n for image in images for n in image.names))[:300] or "no names"
    what = "more than one image" if fitting else "no image"
    raise SynclineError("IMAGE_ABSENT", f"{where} has {what} {name}:{tag}; it has {names}")


def _fits(known: str, name: str, tag: str) -> bool:
    return known == f"{name}:{tag}" or known.endswith(f"/{name}:{tag}")
