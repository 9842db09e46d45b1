"""Images at a registry that are signed in several ways, and a chain that verifies them."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from syncline.model import Run
from tests.rig.chain import Chain
from tests.standins.registry import Registry
from tests.standins.sigstore import (
    PROVENANCE,
    SIGN,
    Fulcio,
    Json,
    Layer,
    Leaf,
    Rekor,
    attestation_layer,
    bundle_layer,
    dsse_entry,
    envelope,
    hashedrekord,
    intoto_entry,
    key_layer,
    keyless_notes,
    manifest_of,
    message_signature,
    new_key,
    pem,
    public_pem,
    push_referrers,
    push_tag,
    simple_payload,
    statement,
)

SUBJECT: Final = "https://github.com/acme/app/.github/workflows/release.yml@refs/heads/main"
ISSUER: Final = "https://token.actions.githubusercontent.com"
NOW: Final = 1_790_000_000.0  # when the clock of a chain begins
SIGNED_AT: Final = NOW - 30 * 86_400
KEY: Final = new_key()
KEYS: Final = {kind: new_key(kind) for kind in ("p384", "rsa", "ed25519")}
OTHER_KEY: Final = new_key()
FULCIO: Final = Fulcio()
OTHER_FULCIO: Final = Fulcio()
REKOR: Final = Rekor()
OTHER_REKOR: Final = Rekor()
SIGNER: Final = Leaf()
BY_KEY: Final[Json] = {"public_key": public_pem(KEY)}
IDENTITY: Final[Json] = {"issuer": ISSUER, "subject": SUBJECT, "ca": FULCIO.ca, "log_key": REKOR.pem}
KEYLESS: Final[Json] = {"identity": IDENTITY}
PROVEN: Final[Json] = {"attestation": PROVENANCE}


@dataclass
class Place:
    """A repository of the source with one image; the methods sign it."""

    registry: Registry
    repository: str
    image: str

    def tag(self, *layers: Layer, ending: str = ".sig") -> None:
        push_tag(self.registry, self.repository, self.image, ending, layers)

    def refer(self, *layers: Layer) -> None:
        push_referrers(self.registry, self.repository, self.image, *layers)

    @property
    def payload(self) -> bytes:
        return simple_payload(self.image)

    @property
    def manifest(self) -> bytes:
        return manifest_of(self.registry, self.repository, self.image)


Signing = Callable[[Place], object]


def signed(place: Place) -> None:
    place.tag(key_layer(place.payload, KEY))


def keyless(
    place: Place,
    *,
    subject: str = SUBJECT,
    issuer: str = ISSUER,
    fulcio: Fulcio = FULCIO,
    rekor: Rekor = REKOR,
    at: float = SIGNED_AT,
    leaf: Leaf = SIGNER,
    logged_after: float = 60,
    change: Callable[[Layer], Layer] = lambda layer: layer,
) -> None:
    """Sign without a key, in cosign's form. `change` alters the layer."""
    key, chain = fulcio.issue(subject, issuer, at, leaf)
    kind, payload, notes = key_layer(place.payload, key)
    made = base64.b64decode(notes["dev.cosignproject.cosign/signature"])
    entry = rekor.add(hashedrekord(payload, made, pem(chain[0])), at + logged_after)
    place.tag(change((kind, payload, notes | keyless_notes(chain, entry))))


def keyless_bundle(
    place: Place, predicate: str = SIGN, rekor: Rekor = REKOR, change: Callable[[Json], object] = lambda _entry: None
) -> None:
    """Sign without a key, as a bundle that refers to the image. `change` alters the entry of the log."""
    key, chain = FULCIO.issue(SUBJECT, ISSUER, SIGNED_AT)
    made = envelope(statement(place.image, predicate), key)
    entry = rekor.add(dsse_entry(made, pem(chain[0])), SIGNED_AT + 60)
    change(entry)
    place.refer(bundle_layer({"dsseEnvelope": made}, chain, entry))


def keyless_message(place: Place) -> None:
    key, chain = FULCIO.issue(SUBJECT, ISSUER, SIGNED_AT)
    content = message_signature(place.manifest, key)
    made = base64.b64decode(content["messageSignature"]["signature"])
    entry = REKOR.add(hashedrekord(place.manifest, made, pem(chain[0])), SIGNED_AT + 60)
    place.refer(bundle_layer(content, chain, entry))


def attested(place: Place, predicate: str = PROVENANCE, key: Any = KEY) -> None:
    place.tag(attestation_layer(envelope(statement(place.image, predicate), key)), ending=".att")


def keyless_attested(place: Place, *, with_payload_hash: bool = True) -> None:
    key, chain = FULCIO.issue(SUBJECT, ISSUER, SIGNED_AT)
    made = envelope(statement(place.image), key)
    body = intoto_entry(made, pem(chain[0]), with_payload_hash=with_payload_hash)
    place.tag(attestation_layer(made, chain, REKOR.add(body, SIGNED_AT + 60)), ending=".att")


def of_another(place: Place) -> Place:
    """Return another image, in a repository of its own."""
    return image(place.registry, f"{place.repository}-other")


class VerifiedChain(Chain):
    """A chain between two registries that verifies the images of one repository."""

    def __init__(self, pair: tuple[Registry, Registry], repository: str, *rules: Json, **more: Any) -> None:
        super().__init__("prod-to-dr", {"KEY": public_pem(KEY)})
        self.source, self.target = pair
        self.repository = repository
        ends = {
            "source": {"registry": self.source.host, "plain_http": True, "repositories": [repository]},
            "target": {"registry": self.target.host, "plain_http": True},
        }
        self.apply({"kind": "images", **ends, "verify": list(rules), **more})

    def at_target(self) -> list[str]:
        answer = self.target.request("GET", f"/v2/{self.repository}/tags/list")
        return [] if answer.status == 404 else sorted(json.loads(answer.body)["tags"])

    def plan(self) -> Run:
        self.clock.sleep(1)
        self.start(plan=True)
        self.pump.run()
        return self.latest()


def image(registry: Registry, repository: str) -> Place:
    return Place(registry, repository, registry.push_image(repository, "v1", (f"the layer of {repository}".encode(),)))
