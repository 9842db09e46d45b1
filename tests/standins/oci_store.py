"""The content of the in-memory registry, and its rules for accepting content. Digests are sha256 throughout.

https://github.com/opencontainers/distribution-spec/blob/v1.1.0/spec.md
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
OCI_LAYER: Final = "application/vnd.oci.image.layer.v1.tar+gzip"
TYPES: Final = frozenset(
    {
        OCI_INDEX,
        OCI_MANIFEST,
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    }
)
NAME: Final = re.compile(r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*")
TAG: Final = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")

_RANGE: Final = re.compile(r"(\d+)-(\d+)")


class RefusalError(Exception):
    """A refusal of the registry: a status, one of the specification's codes, and headers for the response."""

    def __init__(self, status: int, code: str, message: str = "", headers: Mapping[str, str] | None = None) -> None:
        super().__init__(f"{status} {code} {message}")
        self.status = status
        self.code = code
        self.message = message or code.lower().replace("_", " ")
        self.headers = dict(headers or {})


@dataclass(frozen=True, slots=True)
class Stored:
    """A manifest as pushed."""

    media_type: str
    body: bytes


@dataclass(slots=True)
class Repository:
    manifests: dict[str, Stored] = field(default_factory=dict)  # by digest
    tags: dict[str, str] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)


@dataclass(slots=True)
class Session:
    """An upload in progress. ``states`` are the tokens issued in its locations; a request must include one of them."""

    repository: str
    data: bytearray = field(default_factory=bytearray)
    states: set[str] = field(default_factory=set)


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def descriptor(media_type: str, data: bytes, **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest_of(data), "size": len(data), **more}


class Store:
    """The content of a registry; every method may be called from any thread.

    `takes_all` makes it accept manifests of any type and indexes with absent children. With `keeps_blobs` it does not
    replace an existing blob, as docker-registry does not. `algorithm` is that of the digests it reports for tags.
    """

    def __init__(self) -> None:
        self.takes_all = False
        self.keeps_blobs = False
        self.algorithm = "sha256"
        self.repositories: dict[str, Repository] = {}
        self.sessions: dict[str, Session] = {}
        self.lock = threading.RLock()
        self._tickets = itertools.count(1)

    # -- for tests: direct access to the content --------------------------------------------------------------------

    def add_image(self, name: str, tag: str | None, *layers: bytes, **more: Any) -> str:
        """Add an image with these layers; return its digest. ``more`` adds fields to its manifest."""
        repository = self.repositories.setdefault(name, Repository())
        config = json.dumps({"architecture": "amd64", "os": "linux", "of": [digest_of(layer) for layer in layers]})
        for blob in (config.encode(), *layers):
            repository.blobs[digest_of(blob)] = blob
        manifest = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": descriptor(OCI_CONFIG, config.encode()),
            "layers": [descriptor(OCI_LAYER, layer) for layer in layers],
            **more,
        }
        return self._add(name, tag, OCI_MANIFEST, manifest)

    def add_index(self, name: str, tag: str | None, *children: str) -> str:
        """Add an index of existing manifests; return its digest."""
        found = [self.repositories[name].manifests[child] for child in children]
        entries = [descriptor(each.media_type, each.body) for each in found]
        return self._add(name, tag, OCI_INDEX, {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries})

    def digest(self, name: str, tag: str) -> str | None:
        """Return the digest that a tag points to; None if it does not exist."""
        repository = self.repositories.get(name)
        return repository.tags.get(tag) if repository else None

    def tags(self) -> dict[tuple[str, str], str]:
        """Return every tag of every repository with its digest."""
        return {(n, tag): digest for n, r in self.repositories.items() for tag, digest in r.tags.items()}

    def broken(self) -> list[str]:
        """Return incomplete content: tags without a manifest, and parts that are absent or have other bytes."""
        return [
            f"{name}:{tag} lacks {part}"
            for (name, tag), digest in self.tags().items()
            for part in self._missing(self.repositories[name], digest)
        ]

    def _add(self, name: str, tag: str | None, media_type: str, manifest: Any) -> str:
        body = json.dumps(manifest, indent=3).encode()
        digest = digest_of(body)
        repository = self.repositories.setdefault(name, Repository())
        repository.manifests[digest] = Stored(media_type, body)
        if tag is not None:
            repository.tags[tag] = digest
        return digest

    def _missing(self, repository: Repository, digest: str) -> Iterator[str]:
        stored = repository.manifests.get(digest)
        if stored is None or digest_of(stored.body) != digest:
            yield digest
            return
        manifest = json.loads(stored.body)
        for child in manifest.get("manifests", ()):
            yield from self._missing(repository, child["digest"])
        for blob in _blobs(manifest):
            if digest_of(repository.blobs.get(blob["digest"], b"")) != blob["digest"]:
                yield blob["digest"]

    # -- for requests -----------------------------------------------------------------------------------------------

    def repository(self, name: str) -> Repository:
        found = self.repositories.get(name)
        if found is None:
            raise RefusalError(404, "NAME_UNKNOWN")
        return found

    def manifest(self, name: str, reference: str) -> tuple[str, Stored]:
        repository = self.repository(name)
        digest = reference if ":" in reference else repository.tags.get(reference, "")
        if digest not in repository.manifests:
            raise RefusalError(404, "MANIFEST_UNKNOWN")
        return digest, repository.manifests[digest]

    def referrers(self, name: str, digest: str) -> list[dict[str, Any]]:
        """Return descriptors of the manifests with that subject, as the referrers API lists them."""
        _valid(digest)
        repository = self.repositories.get(name, Repository())
        return [_listing(each) for each in repository.manifests.values() if subject_of(each.body) == digest]

    def blob(self, name: str, digest: str) -> bytes:
        data = self.repository(name).blobs.get(_valid(digest))
        if data is None:
            raise RefusalError(404, "BLOB_UNKNOWN")
        return data

    def begin(self, name: str) -> str:
        """Start an upload session; return its ID."""
        if NAME.fullmatch(name) is None:
            raise RefusalError(400, "NAME_INVALID")
        session = f"session-{next(self._tickets)}"
        self.sessions[session] = Session(name)
        return session

    def mount(self, name: str, digest: str, from_name: str) -> bool:
        """Mount a blob; return True if it existed and is now in the repository."""
        data = self.repositories.get(from_name, Repository()).blobs.get(_valid(digest))
        if data is None:
            return False
        self.repositories.setdefault(name, Repository()).blobs[digest] = data
        return True

    def location(self, session: str) -> str:
        """Return the location of the next request of an upload, including its query."""
        state = f"ticket-{next(self._tickets)}"
        self.sessions[session].states.add(state)
        return f"/v2/{self.sessions[session].repository}/blobs/uploads/{session}?_state={state}"

    def session(self, name: str, session: str, state: str) -> Session:
        found = self.sessions.get(session)
        if found is None or found.repository != name:
            raise RefusalError(404, "BLOB_UPLOAD_UNKNOWN")
        if state not in found.states:
            raise RefusalError(400, "BLOB_UPLOAD_INVALID", "the location's query did not come along")
        return found

    def append(self, session: Session, content_range: str, length: int | None, data: bytes) -> None:
        """Append a chunk; 416 if it does not begin at the end of the content, or does not state a range."""
        if content_range:
            match = _RANGE.fullmatch(content_range)
            if match is None:
                raise RefusalError(400, "BLOB_UPLOAD_INVALID", f"Content-Range: {content_range}")
            first, last = int(match[1]), int(match[2])
            if first != len(session.data) or last < first or len(data) > last - first + 1:
                raise RefusalError(416, "BLOB_UPLOAD_INVALID", f"{content_range} at {len(session.data)}")
            if length is not None and length != last - first + 1:
                raise RefusalError(400, "SIZE_INVALID", f"Content-Range: {content_range} for {length} bytes")
        elif session.data:
            raise RefusalError(416, "BLOB_UPLOAD_INVALID", "a chunk that goes on must say where")
        session.data += data

    def finish(self, name: str, session: str, digest: str, data: bytes) -> None:
        """End an upload, with its last bytes. As in docker-registry, a wrong digest does not end it."""
        under_way = self.sessions[session]
        under_way.data += data
        content = bytes(under_way.data)
        if digest_of(content) != _valid(digest):
            raise RefusalError(400, "DIGEST_INVALID", f"the bytes have {digest_of(content)}")
        del self.sessions[session]
        blobs = self.repositories.setdefault(name, Repository()).blobs
        if digest not in blobs or not self.keeps_blobs:
            blobs[digest] = content

    def put_manifest(self, name: str, reference: str, media_type: str, body: bytes) -> str:
        """Store a manifest if all its parts exist; return its digest."""
        if NAME.fullmatch(name) is None:
            raise RefusalError(400, "NAME_INVALID")
        digest = digest_of(body)
        if ":" in reference:
            if _valid(reference) != digest:
                raise RefusalError(400, "DIGEST_INVALID", f"the manifest has {digest}")
        elif TAG.fullmatch(reference) is None:
            raise RefusalError(400, "TAG_INVALID")
        repository = self.repositories.get(name, Repository())
        manifest = _manifest(media_type, body, any_type=self.takes_all)
        children = () if self.takes_all else manifest.get("manifests", ())
        unknown = _unknown(children, lambda d: d in repository.manifests)
        unknown += _unknown(_blobs(manifest), lambda d: d in repository.blobs)
        if unknown:
            raise RefusalError(400, "MANIFEST_BLOB_UNKNOWN", " ".join(unknown))
        if "subject" in manifest and DIGEST.fullmatch(str(manifest["subject"].get("digest"))) is None:
            raise RefusalError(400, "MANIFEST_INVALID", "the subject is no descriptor")
        for blob in _blobs(manifest):
            if len(repository.blobs[blob["digest"]]) != blob["size"]:
                raise RefusalError(400, "SIZE_INVALID", str(blob["digest"]))
        self.repositories.setdefault(name, repository).manifests[digest] = Stored(media_type, body)
        if ":" not in reference:
            repository.tags[reference] = digest
        return digest


def subject_of(body: bytes) -> str:
    """Return the digest of the manifest that this one refers to, empty if there is none; it need not exist."""
    return str((json.loads(body).get("subject") or {}).get("digest", ""))


def _listing(stored: Stored) -> dict[str, Any]:
    manifest = json.loads(stored.body)
    kind = manifest.get("artifactType") or manifest.get("config", {}).get("mediaType")
    more = {"artifactType": kind, "annotations": manifest.get("annotations")}
    return descriptor(stored.media_type, stored.body, **{name: value for name, value in more.items() if value})


def named_by(algorithm: str, body: bytes) -> str:
    return f"{algorithm}:{hashlib.new(algorithm, body).hexdigest()}"


def _valid(digest: str) -> str:
    if DIGEST.fullmatch(digest) is None:
        raise RefusalError(400, "DIGEST_INVALID", f"{digest!r} is no digest")
    return digest


def _manifest(media_type: str, body: bytes, *, any_type: bool) -> dict[str, Any]:
    try:
        manifest = json.loads(body)
    except ValueError:
        raise RefusalError(400, "MANIFEST_INVALID", "not JSON") from None
    if any_type and media_type not in TYPES and isinstance(manifest, dict):
        return manifest
    if media_type not in TYPES or not isinstance(manifest, dict) or manifest.get("schemaVersion") != 2:
        raise RefusalError(400, "MANIFEST_INVALID", f"of type {media_type!r}")
    if manifest.get("mediaType", media_type) != media_type:
        raise RefusalError(400, "MANIFEST_INVALID", "Content-Type and mediaType differ")
    return manifest


def _blobs(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [manifest["config"], *manifest.get("layers", ())] if "config" in manifest else []


def _unknown(entries: Iterable[Mapping[str, Any]], known: Callable[[str], bool]) -> list[str]:
    return [str(entry["digest"]) for entry in entries if not known(str(entry["digest"]))]
