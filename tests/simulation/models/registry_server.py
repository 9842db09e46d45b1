"""A registry of container images in memory, as the OCI distribution specification describes it.

It knows only SHA-256 digests. Where registries differ, it follows docker-registry 2.8: a repository appears in the catalog
with its first blob or manifest, and its list of tags is 404 before the first tag.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from syncline.clients.registry.manifest import MANIFEST_TYPES, OCI_INDEX, OCI_MANIFEST, referrers_tag
from syncline.clients.registry.reference import digest_of
from syncline.errors import SynclineError
from tests.simulation import machine as machine_of
from tests.simulation.machine import EPOCH, Machine

T = TypeVar("T")
Write = tuple[str, str, str, str | None, str | None]
_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
_SIGNATURE: Final = "application/vnd.dev.cosign.artifact.sig.v1+json"
_PLATFORMS: Final = ("amd64", "arm64", "s390x", "ppc64le")


class RefusalError(SynclineError):
    """An answer 4xx. ``word`` is its error code in the specification."""

    def __init__(self, host: str, status: int, word: str, what: str = "") -> None:
        super().__init__(
            "NOT_FOUND" if status == 404 else "REFUSED", f"{host} answered {status}: {word} {what}".strip()
        )
        self.status = status
        self.word = word


@dataclass(frozen=True, slots=True)
class Stored:
    """A manifest as it was pushed, and the digests in it. ``size`` is that of its layers, None for an index."""

    media_type: str
    body: bytes
    blobs: tuple[tuple[str, int], ...]
    children: tuple[str, ...]
    subject: str | None
    size: int | None

    @property
    def is_index(self) -> bool:
        return self.size is None

    @classmethod
    def of(cls, media_type: str, body: bytes) -> Stored:
        value = json.loads(body)
        layers = [each for each in value.get("layers", ()) if not each.get("urls")]
        blobs = [value["config"], *layers] if "config" in value else []
        children = tuple(str(each["digest"]) for each in value.get("manifests", ()))
        subject = (value.get("subject") or {}).get("digest")
        size = None if "manifests" in value else sum(each["size"] for each in layers)
        return cls(media_type, body, tuple((each["digest"], each["size"]) for each in blobs), children, subject, size)


@dataclass(slots=True)
class Repository:
    """A repository. ``order`` has for each tag the number of the push that set its digest."""

    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, Stored] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    order: dict[str, int] = field(default_factory=dict)
    tagged: bool = False  # at any time


class RegistryServer:
    """The registry that all processes share. ``repositories`` is in the order of creation.

    ``writes`` has every change of a tag: ``("tag", repository, tag, old digest, new digest)``, None for no tag.
    ``on_tag`` is called for each when it happens: repository, tag, old digest, new digest. ``received`` has every blob
    that was uploaded: repository and digest. ``on_head`` is called for each answer to the HEAD of a tag: repository, tag,
    digest. The time is that of ``machine``, or of the installed machine if it is None.
    """

    def __init__(self, host: str, machine: Machine | None = None) -> None:
        self.host = host
        self._machine = machine
        self.repositories: dict[str, Repository] = {}
        self.uploads: dict[str, tuple[str, bytes]] = {}  # by session: repository, bytes so far
        self.writes: list[Write] = []
        self.received: list[tuple[str, str]] = []
        self.read_only: set[str] = set()  # repositories that refuse every write of a client
        self.page_size = 3  # names or referrers in a page
        self.chunk_size = 24  # bytes of a blob in one read
        self.on_tag: Callable[[str, str, str | None, str | None], None] = lambda _repository, _tag, _old, _new: None
        self.on_head: Callable[[str, str, str | None], None] = lambda _repository, _tag, _digest: None
        self.behave()
        self._numbers = 0
        self._before: dict[tuple[str, str], list[tuple[float, str | None]]] = {}
        self._uploaded: dict[tuple[str, str], float] = {}

    def behave(self) -> None:
        """Turn all faults off."""
        self.accepts_sparse = False  # accepts an index whose children are missing
        self.referrers_api = True
        self.answers_201_and_forgets = False  # acknowledges manifests and discards them
        self.listing_cut: int | None = None  # the list of tags ends after so many names, as if these were all
        self.empty_listing = False  # lists of repositories and of tags are empty
        self.endless = False  # these lists never end
        self.mount_refused = False  # starts an upload instead of a mount
        self.loses_uploads = 0.0  # the chance that a request finds its upload lost
        self.forgets_broken = False  # loses an upload whose connection broke, as docker-registry 2.8
        self.stale_tags = 0.0  # seconds for which HEAD returns the previous digest of a tag
        self.settling = 0.0  # seconds after the upload of a blob in which a manifest with it is refused

    @property
    def machine(self) -> Machine:
        return self._machine or machine_of.machine()

    # -- changes by other writers, which always succeed

    def push_image(self, repository: str, tag: str | None, seed: int, layers: int = 2) -> str:
        """Push an image made from a seed, and return its digest. Images of many seeds share their first layer."""
        contents = [f"base layer of images, number {seed % 3}".encode()]
        contents += [f"layer {number} of image {seed}; ".encode() * (1 + seed % 3) for number in range(1, layers)]
        config = json.dumps({"architecture": "amd64", "os": "linux", "seed": seed}).encode()
        return self._push(repository, tag, _CONFIG, config, contents[:layers])

    def push_config(self, repository: str, tag: str, config: bytes, layers: list[bytes]) -> str:
        """Push an image with this config, which need not fit its layers, and return its digest."""
        return self._push(repository, tag, _CONFIG, config, layers)

    def push_index(self, repository: str, tag: str | None, seeds: Sequence[int]) -> str:
        """Push the images of the seeds without tags, and an index of them. Return the digest of the index."""
        entries = []
        for number, seed in enumerate(seeds):
            digest = self.push_image(repository, None, seed)
            platform = {"os": "linux", "architecture": _PLATFORMS[number % len(_PLATFORMS)]}
            size = len(self.repositories[repository].manifests[digest].body)
            entries.append({"mediaType": OCI_MANIFEST, "digest": digest, "size": size, "platform": platform})
        return self._put_index(repository, tag, entries)

    def push_signature(self, repository: str, digest: str, seed: int) -> str:
        """Push a manifest with ``digest`` as its subject, and return its digest. Without the referrers API, list it by tag."""
        stored = self.repositories[repository].manifests[digest]
        subject = {"mediaType": stored.media_type, "digest": digest, "size": len(stored.body)}
        layers = [f"signature {seed} of {digest}".encode()]
        signature = self._push(repository, None, _SIGNATURE, b"{}", layers, artifactType=_SIGNATURE, subject=subject)
        if not self.referrers_api:
            tag = referrers_tag(digest)
            old = self.repositories[repository].tags.get(tag)
            entries = json.loads(self.repositories[repository].manifests[old].body)["manifests"] if old else []
            if signature not in [each["digest"] for each in entries]:
                self._put_index(repository, tag, [*entries, self._entry(repository, signature)])
        return signature

    def move_tag(self, repository: str, tag: str, digest: str) -> None:
        """Set a tag to a manifest of the repository."""
        assert digest in self.repositories[repository].manifests, digest
        self._set_tag(repository, tag, digest)

    def delete_tag(self, repository: str, tag: str) -> None:
        """Remove a tag, but not its manifest."""
        found = self.repositories[repository]
        self._before.pop((repository, tag), None)
        del found.order[tag]
        self._written(repository, tag, found.tags.pop(tag), None)

    def delete_blob(self, repository: str, digest: str) -> None:
        """Remove a blob, even if manifests refer to it."""
        del self.repositories[repository].blobs[digest]

    def delete_manifest(self, repository: str, digest: str) -> None:
        """Remove a manifest, even if tags or indexes refer to it."""
        del self.repositories[repository].manifests[digest]

    def forget_uploads(self) -> None:
        """Forget all uploads in progress."""
        self.uploads.clear()

    def tags(self) -> dict[tuple[str, str], str]:
        """Return the digest of every tag by repository and tag."""
        return {(name, tag): found.tags[tag] for name, found in self.repositories.items() for tag in sorted(found.tags)}

    def broken(self) -> list[str]:
        """Return a line for every manifest or part of it that a tag needs and that is missing."""
        return [
            f"{name}:{tag} lacks {part}"
            for (name, tag), digest in self.tags().items()
            for part in self.absent(name, digest)
        ]

    def absent(self, repository: str, digest: str) -> list[str]:
        """Return the digests of the missing parts of a manifest, or its own if it is missing."""
        return list(self._absent(self.repositories[repository], digest))

    def _push(
        self, repository: str, tag: str | None, config_type: str, config: bytes, layers: list[bytes], **more: Any
    ) -> str:
        found = self.repositories.setdefault(repository, Repository())
        for data in (config, *layers):
            found.blobs.setdefault(digest_of(data), data)
        parts = [_descriptor(config_type, config), *(_descriptor(_LAYER, data) for data in layers)]
        value = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": parts[0], "layers": parts[1:], **more}
        return self._keep(repository, tag, OCI_MANIFEST, json.dumps(value).encode())

    def _put_index(self, repository: str, tag: str | None, entries: list[dict[str, Any]]) -> str:
        value = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
        return self._keep(repository, tag, OCI_INDEX, json.dumps(value).encode())

    def _keep(self, repository: str, tag: str | None, media_type: str, body: bytes) -> str:
        digest = digest_of(body)
        self.repositories.setdefault(repository, Repository()).manifests[digest] = Stored.of(media_type, body)
        if tag is not None:
            self._set_tag(repository, tag, digest)
        return digest

    def _set_tag(self, repository: str, tag: str, digest: str) -> None:
        found = self.repositories[repository]
        old = found.tags.get(tag)
        if old != digest:
            self._numbers += 1
            found.tags[tag], found.order[tag], found.tagged = digest, self._numbers, True
            self._before.setdefault((repository, tag), []).append((self._now(), old))
            self._written(repository, tag, old, digest)

    def _written(self, repository: str, tag: str, old: str | None, new: str | None) -> None:
        self.writes.append(("tag", repository, tag, old, new))
        self.on_tag(repository, tag, old, new)

    def _now(self) -> float:
        """Return the time; that of the first moment before a machine is installed."""
        machine = self._machine or machine_of._machine
        return EPOCH if machine is None else machine.now

    def _absent(self, found: Repository, digest: str) -> Iterator[str]:
        stored = found.manifests.get(digest)
        if stored is None:
            yield digest
            return
        yield from (blob for blob, _ in stored.blobs if blob not in found.blobs)
        for child in stored.children:
            yield from self._absent(found, child)

    def _entry(self, repository: str, digest: str) -> dict[str, Any]:
        stored = self.repositories[repository].manifests[digest]
        value = json.loads(stored.body)
        kind = value.get("artifactType") or value.get("config", {}).get("mediaType")
        more = {"artifactType": kind, "annotations": value.get("annotations")}
        return _descriptor(stored.media_type, stored.body) | {name: said for name, said in more.items() if said}

    # -- requests: reading

    def catalog_page(self, last: str) -> tuple[list[str], bool]:
        """Return a page of the names after ``last``, in order, and True if there are more."""
        return self._page(sorted(self.repositories), last, "zz/endless")

    def tags_page(self, repository: str, last: str) -> tuple[list[str], bool]:
        found = self._repository(repository)
        if not found.tagged:
            raise self._refusal(404, "NAME_UNKNOWN", repository)
        return self._page(sorted(found.tags)[: self.listing_cut], last, "zz-endless")

    def _page(self, names: list[str], last: str, made_up: str) -> tuple[list[str], bool]:
        if self.empty_listing:
            return [], False
        rest = [name for name in names if name > last]
        if not self.endless:
            return rest[: self.page_size], len(rest) > self.page_size
        number = int(last.removeprefix(made_up)) + 1 if last.startswith(made_up) else 0
        return (rest + [f"{made_up}{number + each:09d}" for each in range(self.page_size)])[: self.page_size], True

    def tag_digest(self, repository: str, reference: str) -> str | None:
        """Return the digest of a tag or digest as HEAD does, None if there is none."""
        found = self.repositories.get(repository, Repository())
        digest = found.tags.get(reference) if ":" not in reference else reference
        for when, old in self._before.get((repository, reference), ()) if self.stale_tags else ():
            if when > self._now() - self.stale_tags:
                digest = old
                break
        answer = digest if digest in found.manifests else None
        if ":" not in reference:
            self.on_head(repository, reference, answer)
        return answer

    def manifest(self, repository: str, reference: str) -> tuple[str, Stored]:
        found = self._repository(repository)
        digest = reference if ":" in reference else found.tags.get(reference, "")
        if digest not in found.manifests:
            raise self._refusal(404, "MANIFEST_UNKNOWN", reference)
        return digest, found.manifests[digest]

    def blob(self, repository: str, digest: str) -> bytes:
        data = self._repository(repository).blobs.get(self._valid(digest))
        if data is None:
            raise self._refusal(404, "BLOB_UNKNOWN", digest)
        return data

    def referrers_page(self, repository: str, digest: str, at: int) -> tuple[bytes, int | None]:
        """Return an index of the referrers from number ``at`` on, one page, and the number at which the next page begins."""
        if not self.referrers_api:
            raise self._refusal(404, "", "page not found")
        self._valid(digest)
        found = self.repositories.get(repository, Repository()).manifests
        names = [each for each, stored in found.items() if stored.subject == digest]
        entries = [self._entry(repository, each) for each in names[at : at + self.page_size]]
        body = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()
        return body, at + self.page_size if len(names) > at + self.page_size else None

    # -- requests: writing

    def put_manifest(self, repository: str, reference: str, media_type: str, body: bytes) -> str | None:
        """Store a manifest if all its parts are present. Return its subject if the referrers API lists it."""
        self._check_writable(repository)
        if ":" in reference and self._valid(reference) != digest_of(body):
            raise self._refusal(400, "DIGEST_INVALID", f"the manifest has {digest_of(body)}")
        stored = self._read(media_type, body)
        found = self.repositories.get(repository, Repository())
        now = self._now()
        settled = [d for d in found.blobs if now - self._uploaded.get((repository, d), 0.0) >= self.settling]
        present = frozenset(settled) if self.settling else found.blobs.keys()
        unknown = [] if self.accepts_sparse else [each for each in stored.children if each not in found.manifests]
        unknown += [blob for blob, _ in stored.blobs if blob not in present]
        if unknown:
            raise self._refusal(400, "MANIFEST_BLOB_UNKNOWN", " ".join(unknown))
        for blob, size in stored.blobs:
            if len(found.blobs[blob]) != size:
                raise self._refusal(400, "SIZE_INVALID", blob)
        if not self.answers_201_and_forgets:
            self._keep(repository, None if ":" in reference else reference, media_type, body)
        return stored.subject if self.referrers_api else None

    def mount(self, repository: str, digest: str, source: str) -> str | None:
        """Mount a blob of another repository. Return the session of an upload if that is impossible."""
        self._check_writable(repository)
        data = self.repositories.get(source, Repository()).blobs.get(self._valid(digest))
        if data is None or self.mount_refused:
            return self.begin(repository)
        self._store_blob(repository, data)
        return None

    def begin(self, repository: str) -> str:
        """Begin an upload and return its session."""
        self._check_writable(repository)
        self._numbers += 1
        session = f"upload-{self._numbers}"
        self.uploads[session] = (repository, b"")
        return session

    def upload(self, repository: str, session: str) -> bytes:
        """Return the bytes that an upload has so far."""
        if self.loses_uploads and self.machine.rng.random() < self.loses_uploads:
            self.uploads.pop(session, None)
        name, data = self.uploads.get(session, ("", b""))
        if name != repository:
            raise self._refusal(404, "BLOB_UPLOAD_UNKNOWN", session)
        return data

    def append(self, repository: str, session: str, at: int, data: bytes) -> None:
        """Append bytes to an upload. ``at`` must be its present size."""
        before = self.upload(repository, session)
        if at != len(before):
            raise self._refusal(416, "BLOB_UPLOAD_INVALID", f"the offset is {at}, the size {len(before)}")
        self.uploads[session] = (repository, before + data)

    def finish(self, repository: str, session: str, digest: str, data: bytes = b"") -> None:
        """Append the last bytes, and store the blob. If the digest differs, the upload stays in progress."""
        data = self.upload(repository, session) + data
        if digest_of(data) != self._valid(digest):
            self.uploads[session] = (repository, data)
            raise self._refusal(400, "DIGEST_INVALID", f"the bytes have {digest_of(data)}")
        del self.uploads[session]
        self.received.append((repository, digest))
        self._store_blob(repository, data)

    def cancel(self, repository: str, session: str) -> None:
        self.upload(repository, session)
        del self.uploads[session]

    def connection_broke(self, session: str) -> None:
        """Handle a broken connection of an upload."""
        if self.forgets_broken:
            self.uploads.pop(session, None)

    def _store_blob(self, repository: str, data: bytes) -> None:
        digest = digest_of(data)
        self._uploaded[repository, digest] = self._now()
        self.repositories.setdefault(repository, Repository()).blobs[digest] = data

    def _repository(self, name: str) -> Repository:
        found = self.repositories.get(name)
        if found is None:
            raise self._refusal(404, "NAME_UNKNOWN", name)
        return found

    def _read(self, media_type: str, body: bytes) -> Stored:
        try:
            value = json.loads(body)
            if media_type in MANIFEST_TYPES and value.get("mediaType", media_type) == media_type:
                return Stored.of(media_type, body)
        except (ValueError, KeyError, TypeError, AttributeError):
            pass
        raise self._refusal(400, "MANIFEST_INVALID", f"of type {media_type}")

    def _check_writable(self, repository: str) -> None:
        if repository in self.read_only:
            raise self._refusal(405, "UNSUPPORTED", f"{repository} does not accept pushes")

    def _valid(self, digest: str) -> str:
        if not digest.startswith("sha256:"):
            raise self._refusal(400, "DIGEST_INVALID", digest)
        return digest

    def _refusal(self, status: int, word: str, what: str) -> RefusalError:
        return RefusalError(self.host, status, word, what)


def _descriptor(media_type: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest_of(data), "size": len(data)}
