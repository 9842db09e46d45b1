"""Attestations of builds as a workflow makes them, and the trust root that verifies them."""

from __future__ import annotations

import json
import time
from typing import Any, Final

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import load_pem_x509_certificates

from syncline.clients.sigstore.certificates import load_authorities
from syncline.clients.sigstore.evidence import Evidence, Identity
from syncline.clients.sigstore.keys import load_public_keys
from tests.standins.sigstore import PROVENANCE, Fulcio, Rekor, b64, bundle_layer, dsse_entry, envelope, pem, statement

TRUST_ROOT: Final = "application/vnd.dev.sigstore.trustedroot+json;version=0.1"
ISSUER: Final = "https://token.actions.githubusercontent.com"
SIGNER: Final = "https://github.com/rapidsai/velox-testing/.github/workflows/presto-build-images.yml@refs/heads/main"


class TrustRoot:
    """An authority and a log, which sign bundles as a workflow does and are trusted by whoever verifies them."""

    def __init__(self) -> None:
        self._fulcio, self._rekor = Fulcio(), Rekor()

    def bundle(self, digest: str, predicate: str = PROVENANCE) -> dict[str, Any]:
        """Return a bundle about a digest, as GitHub's API has it."""
        key, chain = self._fulcio.issue(SIGNER, ISSUER, time.time() - 100)
        made = envelope(statement(digest, predicate, "images.zip"), key)
        entry = self._rekor.add(dsse_entry(made, pem(chain[0])), time.time() - 90)
        return dict(json.loads(bundle_layer({"dsseEnvelope": made}, chain, entry)[1]))

    def check(self, evidence: Evidence, digest: str) -> str | None:
        """Check a bundle without any network, and return its predicate. Raises RejectedError."""
        authorities = load_authorities(self._fulcio.ca, "ca")
        keys = load_public_keys(self._rekor.pem, "log_key")
        evidence.check_identity(Identity(ISSUER, SIGNER.__eq__, authorities, keys), time.time())
        return evidence.claim(digest, b"").predicate

    def document(self) -> str:
        """Return the trust root as Sigstore's clients read it."""
        root, authority = load_pem_x509_certificates(self._fulcio.ca.encode())
        der = self._rekor.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        since = {"start": "2020-01-01T00:00:00Z"}
        chain = [{"rawBytes": b64(each.public_bytes(Encoding.DER))} for each in (authority, root)]
        log = {
            "baseUrl": "https://rekor.example",
            "hashAlgorithm": "SHA2_256",
            "publicKey": {"rawBytes": b64(der), "keyDetails": "PKIX_ECDSA_P256_SHA_256", "validFor": since},
            "logId": {"keyId": b64(self._rekor.id)},
        }
        authorities = [{"uri": "https://fulcio.example", "certChain": {"certificates": chain}, "validFor": since}]
        value = {"mediaType": TRUST_ROOT, "tlogs": [log], "certificateAuthorities": authorities}
        return json.dumps(value)
