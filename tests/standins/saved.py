"""Archives of images in the formats of all Docker versions and of other programs, with given layers.

Other tests use archives that this machine's Docker and skopeo write. This module has the formats of versions that are
no longer available, member by member as those versions wrote them (moby's image/tarexport/save.go of 1.9, 20.10 and
25.0, containerd's images/archive/exporter.go).
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"

Entry = tuple[str, bytes | tarfile.TarInfo]


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def layer(files: Mapping[str, bytes]) -> bytes:
    """Return a layer's tar."""
    return tar([(name, content) for name, content in files.items()])


def tar(entries: Iterable[Entry]) -> bytes:
    """Return a tar archive; a TarInfo is added unchanged, without content."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in entries:
            if isinstance(content, tarfile.TarInfo):
                content.name = name
                archive.addfile(content)
                continue
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def link(target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo()
    info.type, info.linkname = kind, target
    return info


def folder() -> tarfile.TarInfo:
    info = tarfile.TarInfo()
    info.type = tarfile.DIRTYPE
    return info


@dataclass(frozen=True, slots=True)
class Image:
    """An image to save: its layers' tars, bottom first, and its name."""

    layers: Sequence[bytes]
    name: str = "app:v1"
    architecture: str = "amd64"

    @property
    def diff_ids(self) -> list[str]:
        return [f"sha256:{sha(each)}" for each in self.layers]

    @property
    def config(self) -> bytes:
        rootfs = {"type": "layers", "diff_ids": self.diff_ids}
        return json.dumps({"architecture": self.architecture, "os": "linux", "config": {}, "rootfs": rootfs}).encode()

    @property
    def id(self) -> str:
        return sha(self.config)


def before_1_10(image: Image, created: str = "2015-11-10T10:00:00Z") -> bytes:
    """Return the format of Docker 1.9: no manifest.json, no config."""
    entries: list[Entry] = []
    parent = ""
    for number, content in enumerate(image.layers):
        about: dict[str, Any] = {"id": sha(f"{number}{image.name}".encode())}
        about |= {"parent": parent} if parent else {}
        about |= {
            "created": created,
            "container_config": {"Cmd": ["/bin/sh", "-c", f"#(nop) ADD <layer {number}> & /"]},
        }
        about |= {"docker_version": "1.9.1", "architecture": image.architecture, "os": "linux"}
        about |= {"config": {"Env": ["PATH=/bin"]}, "Size": len(content)}
        parent = about["id"]
        entries.append((f"{parent}/", folder()))
        entries += [
            (f"{parent}/VERSION", b"1.0"),
            (f"{parent}/json", json.dumps(about, separators=(",", ":")).encode()),
        ]
        entries.append((f"{parent}/layer.tar", content))
    repository, _, tag = image.name.rpartition(":")
    return tar([*entries, ("repositories", json.dumps({repository: {tag: parent}}).encode() + b"\n")])


def until_24(*images: Image) -> bytes:
    """Return the format of Docker 1.10 to 24: configs and manifest.json after the layers, equal layers as symlinks."""
    entries: list[Entry] = []
    manifest: list[dict[str, Any]] = []
    repositories: dict[str, dict[str, str]] = {}
    first: dict[str, str] = {}
    written: set[str] = set()
    for image in images:
        paths = []
        top = ""
        for number, content in enumerate(image.layers):
            # Named by the layer and all below it; the uppermost by the image's config, too.
            is_top = number == len(image.layers) - 1
            top = sha(f"{top} {sha(content)} {image.id + image.name if is_top else ''}".encode())
            paths.append(f"{top}/layer.tar")
            if top in written:
                continue
            written.add(top)
            entries += [(f"{top}/", folder()), (f"{top}/VERSION", b"1.0")]
            entries.append((f"{top}/json", json.dumps({"id": top, "created": "1970-01-01T00:00:00Z"}).encode()))
            same = first.setdefault(sha(content), top)
            entries.append((f"{top}/layer.tar", content if same == top else link(f"../{same}/layer.tar")))
        entries.append((f"{image.id}.json", image.config))
        manifest.append({"Config": f"{image.id}.json", "RepoTags": [image.name], "Layers": paths})
        repository, _, tag = image.name.rpartition(":")
        repositories.setdefault(repository, {})[tag] = top
    entries.append(("manifest.json", json.dumps(manifest).encode() + b"\n"))
    return tar([*entries, ("repositories", json.dumps(repositories).encode() + b"\n")])


def since_25(*images: Image) -> bytes:
    """Return the format since Docker 25: an OCI layout of the unchanged layers, and manifest.json beside it."""
    blobs: dict[str, bytes] = {}
    saved: list[dict[str, Any]] = []
    index: list[dict[str, Any]] = []
    for image in images:
        for content in (*image.layers, image.config):
            blobs[sha(content)] = content
        layers = [_descriptor(OCI_LAYER, content) for content in image.layers]
        manifest = _json(
            {
                "schemaVersion": 2,
                "mediaType": OCI_MANIFEST,
                "config": _descriptor(OCI_CONFIG, image.config),
                "layers": layers,
            }
        )
        blobs[sha(manifest)] = manifest
        names = {
            "io.containerd.image.name": f"docker.io/library/{image.name}",
            "org.opencontainers.image.ref.name": image.name.rpartition(":")[2],
        }
        index.append({**_descriptor(OCI_MANIFEST, manifest), "annotations": names})
        paths = [f"blobs/sha256/{sha(content)}" for content in image.layers]
        sources = {f"sha256:{sha(c)}": _descriptor(OCI_LAYER, c) for c in image.layers}
        saved.append(
            {
                "Config": f"blobs/sha256/{image.id}",
                "RepoTags": [image.name],
                "Layers": paths,
                "LayerSources": sources,
            }
        )
    return layout(blobs, index, {"manifest.json": _json(saved)})


def layout_of(image: Image, backwards: bool) -> bytes:
    """Return the format of :func:`since_25` with its members in the order of the layers, or the reverse."""
    whole = since_25(image)
    names = [f"blobs/sha256/{sha(content)}" for content in image.layers]
    with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
        files: dict[str, bytes] = {}
        for member in archive:
            content = archive.extractfile(member) if member.isfile() else None
            if content is not None:
                files[member.name] = content.read()
    first = [(name, files.pop(name)) for name in (reversed(names) if backwards else names)]
    return tar([*first, *files.items()])


def containerd(images: Sequence[Image], *, absent: Sequence[str] = ()) -> bytes:
    """Return containerd's format of an image of several platforms, those in ``absent`` without content."""
    blobs: dict[str, bytes] = {}
    children: list[dict[str, Any]] = []
    saved: list[dict[str, Any]] = []
    for image in images:
        packed = [gzip.compress(content, 6, mtime=0) for content in image.layers]
        manifest = _json(
            {
                "schemaVersion": 2,
                "mediaType": OCI_MANIFEST,
                "config": _descriptor(OCI_CONFIG, image.config),
                "layers": [_descriptor(f"{OCI_LAYER}+gzip", content) for content in packed],
            }
        )
        platform = {"architecture": image.architecture, "os": "linux"}
        children.append({**_descriptor(OCI_MANIFEST, manifest), "platform": platform})
        statement = b'{"_type":"https://in-toto.io/Statement/v0.1","subject":"%s"}' % image.architecture.encode()
        about = Image([statement], image.name, "unknown")
        note = _json(
            {
                "schemaVersion": 2,
                "mediaType": OCI_MANIFEST,
                "config": _descriptor(OCI_CONFIG, about.config),
                "layers": [_descriptor("application/vnd.in-toto+json", statement)],
            }
        )
        annotations = {
            "vnd.docker.reference.digest": f"sha256:{sha(manifest)}",
            "vnd.docker.reference.type": "attestation-manifest",
        }
        children.append({**_descriptor(OCI_MANIFEST, note), "annotations": annotations})
        if image.architecture in absent:
            continue
        for content in (*packed, image.config, manifest, statement, about.config, note):
            blobs[sha(content)] = content
        paths = [f"blobs/sha256/{sha(content)}" for content in packed]
        saved.append({"Config": f"blobs/sha256/{image.id}", "RepoTags": [image.name], "Layers": paths})
    index = _json({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": children})
    blobs[sha(index)] = index
    names = {"io.containerd.image.name": f"docker.io/library/{images[0].name}"}
    top = [{**_descriptor(OCI_INDEX, index), "annotations": names}]
    return layout(blobs, top, {"manifest.json": _json(saved[:1])})


def layout(blobs: Mapping[str, bytes], index: Sequence[Any], more: Mapping[str, bytes] | None = None) -> bytes:
    """Return an OCI layout in a tar, with blobs by name before the descriptions."""
    entries: list[Entry] = [("blobs/", folder()), ("blobs/sha256/", folder())]
    entries += [(f"blobs/sha256/{digest}", blobs[digest]) for digest in sorted(blobs)]
    entries.append(("index.json", _json({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list(index)})))
    entries += (more or {}).items()
    return tar([*entries, ("oci-layout", b'{"imageLayoutVersion": "1.0.0"}')])


def _descriptor(media_type: str, content: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": f"sha256:{sha(content)}", "size": len(content)}


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()
