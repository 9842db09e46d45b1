"""Attestations of builds: the bundles that GitHub has, attached to the pushed images as referrers.

A workflow attests the digest of an artifact's zip, or the digest of an image. Each bundle about one of the two becomes a
manifest (OCI 1.1) whose subject is the pushed image and whose only layer is the bundle. The bundles are not verified here,
only that they name the digest: whoever uses the image verifies them, with the trust root and the identity of their choice.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from syncline.clients.github.client import GitHub
from syncline.clients.registry.client import Registry
from syncline.clients.registry.manifest import OCI_MANIFEST, Manifest
from syncline.clients.registry.reference import digest_of
from syncline.clients.sigstore.evidence import SIGN_PREDICATE, evidence_in_layer
from syncline.clients.sigstore.keys import RejectedError
from syncline.errors import SynclineError
from syncline.kinds.artifacts.layers import has_blob
from syncline.kinds.images.referrers import AttachedTags

MOST: Final = 20
"""Attestations of one digest."""
LONGEST: Final = 2 * 1024 * 1024
"""Bytes of one bundle. A provenance has some 10 KB, a list of packages up to a few hundred."""
SUBJECT: Final = "syncline.attestation.subject"
"""The annotation with the digest that the bundle is about."""
PREDICATE: Final = "dev.sigstore.bundle.predicateType"
_CONTENT: Final = "dev.sigstore.bundle.content"
_BUNDLE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"
_EMPTY: Final = b"{}"
_EMPTY_TYPE: Final = "application/vnd.oci.empty.v1+json"


@dataclass(frozen=True, slots=True)
class Attestation:
    """A bundle, the digest that it is about, and the type of its predicate."""

    subject: str
    predicate: str
    bundle: bytes

    @classmethod
    def of(cls, value: dict[str, Any], subject: str) -> Attestation:
        """Return a bundle of GitHub's about ``subject``. Raises BAD_ANSWER if it is malformed, too long, or not about it."""
        bundle = json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
        where = f"an attestation that GitHub lists for {subject}"
        if len(bundle) > LONGEST:
            raise SynclineError("BAD_ANSWER", f"{where} has {len(bundle)} bytes, more than {LONGEST}")
        try:
            claim = evidence_in_layer(_BUNDLE, {}, bundle, b"").claim(subject, b"")
        except RejectedError as error:
            raise SynclineError("BAD_ANSWER", f"{where} cannot be attached: {error}") from None
        return cls(subject, claim.predicate or SIGN_PREDICATE, bundle)

    def manifest(self, image: Manifest) -> Manifest:
        """Return the manifest that refers to an image. The same bundle gives the same bytes."""
        value: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": _BUNDLE,
            "config": _descriptor(_EMPTY_TYPE, _EMPTY),
            "layers": [_descriptor(_BUNDLE, self.bundle)],
            "subject": _descriptor(image.media_type, image.body),
            "annotations": {_CONTENT: "dsse-envelope", PREDICATE: self.predicate, SUBJECT: self.subject},
        }
        body = json.dumps(value, separators=(",", ":")).encode()
        return Manifest(digest_of(body), OCI_MANIFEST, body)


def read_attestations(github: GitHub, repository: str, subjects: Iterable[str]) -> list[Attestation]:
    """Return the attestations of the subjects, digests, in a repository at GitHub. Raises BAD_ANSWER, LISTING_TOO_LONG."""
    return [
        Attestation.of(bundle, subject)
        for subject in dict.fromkeys(subjects)
        for bundle in github.attestations(repository, subject, MOST)
    ]


def attach_attestations(
    registry: Registry, repository: str, image: Manifest, attestations: Iterable[Attestation]
) -> list[str]:
    """Attach attestations to an image, and return the digests of the referrers. Blobs that are present are not sent."""
    referrers = {(made := each.manifest(image)).digest: (made, each.bundle) for each in attestations}
    if referrers:
        registry.put_manifest(repository, image.digest, image)  # a subject should exist before what refers to it
    for digest, (referrer, bundle) in referrers.items():
        for blob in (_EMPTY, bundle):
            if not has_blob(registry, repository, digest_of(blob), len(blob)):
                registry.begin_upload(repository).put(digest_of(blob), blob, len(blob))
        if not registry.put_manifest(repository, digest, referrer):
            AttachedTags(registry, repository).add(image.digest, referrer)
    return list(referrers)


def _descriptor(media_type: str, content: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest_of(content), "size": len(content)}
