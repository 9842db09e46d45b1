"""Verification of signatures at the source, before an image is copied.

Each rule of ``verify`` that applies to a repository must be satisfied by a signature or attestation of the manifest that
is copied; the children of an index and all layers are covered by its digest. Nothing is asked but the source registry.

Signatures, attestations and other referrers are copied without a signature of their own, but only if no container can be
started from them: otherwise an unsigned image under the name of a signature would get to the target.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from syncline.clients.http.listings import ignore
from syncline.clients.registry.manifest import DOCKER_MANIFEST, Descriptor, Manifest, referrers_tag
from syncline.clients.registry.reference import digest_matches, digest_of
from syncline.clients.registry.store import ImageStore
from syncline.clients.sigstore.certificates import load_authorities
from syncline.clients.sigstore.evidence import BUNDLE, DSSE, SIMPLE_SIGNING, Evidence, Identity, evidence_in_layer
from syncline.clients.sigstore.keys import RejectedError, load_public_keys, parse_json
from syncline.errors import SynclineError
from syncline.kinds.images.config_rules import SignatureRule
from syncline.kinds.images.referrers import manifest_or_none
from syncline.model import Item, Outcome, Result
from syncline.patterns import compile_pattern
from syncline.text import plural

MOST: Final = 50
"""Signatures of one image that are checked, and its referrers that are read (CVE-2023-46737)."""
LARGEST: Final = 8 * 1024 * 1024
"""Bytes of one payload, envelope or bundle."""
LARGEST_TOGETHER: Final = 64 * 1024 * 1024
"""Bytes of the payloads, envelopes and bundles of one image."""
_NAMED: Final = 3
"""Reasons that a message names."""
_LONGEST: Final = 300
"""Characters of these reasons: the results of a chunk fit an item of the table, whatever a signature contains."""
_CONFIGS: Final = ("application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json")
_DOCUMENT: Final = re.compile(
    r"text/.*|.*[+/](json|xml)|application/vnd\.(?!oci\.image\.|docker\.)(?!.*(tar|gzip|zstd)).*"
)
"""Types of layers that are no file systems, whatever the config says: signatures, attestations and SBOMs."""
_SKIPPED: Final = ("MANIFEST_INVALID", "MANIFEST_UNSUPPORTED", "NOT_FOUND", "BAD_ANSWER")
"""Codes of entries that cannot be read and are passed over."""


class UntrustedError(SynclineError):
    """IMAGE_UNTRUSTED for the manifest with the digest `digest`."""

    def __init__(self, digest: str, what: str) -> None:
        super().__init__("IMAGE_UNTRUSTED", what)
        self.digest = digest

    def __reduce__(self) -> tuple[type[SynclineError], tuple[Any, ...]]:
        return (UntrustedError, (self.digest, self.what))


def untrusted(item: Item, error: UntrustedError) -> Result:
    """Return the result for an image that does not satisfy a rule of ``verify``."""
    what = (item.group, item.name, Outcome.UNTRUSTED, error.digest, item.target)
    return Result(*what, code=error.code.name, reason=error.what)


@dataclass(frozen=True, slots=True)
class Trust:
    """The rules of a sync. `text` returns the value of a reference, `clock` Unix seconds."""

    rules: Sequence[SignatureRule]
    text: Callable[[Any], str]
    clock: Callable[[], float] = time.time

    def of(self, registry: ImageStore, repository: str) -> RepositoryTrust:
        """Return the rules for one repository of the source."""
        rules = [(n, each) for n, each in enumerate(self.rules, 1) if each.repositories.allows(repository)]
        return RepositoryTrust(rules, registry, repository, self)


NO_RULES: Final = Trust((), str)
"""The trust of a copy without rules: every image may be copied."""


class RepositoryTrust:
    """The rules that apply to one repository of the source. Safe for concurrent use by threads."""

    def __init__(
        self, rules: Sequence[tuple[int, SignatureRule]], registry: ImageStore, repository: str, trust: Trust
    ) -> None:
        self._rules = rules
        self._registry = registry
        self._repository = repository
        self._trust = trust

    def check(self, manifest: Manifest) -> None:
        """Check that an image satisfies all rules. Raises UntrustedError, and CONFIG_INVALID for an invalid key."""
        found = _Signatures(self._registry, self._repository, manifest)
        for number, rule in self._rules:
            self._check_rule(number, rule, found)

    def check_attached(self, manifest: Manifest) -> None:
        """Check a signature, or another manifest that refers to an image: it needs no signature if it cannot be run.

        Raises UntrustedError.
        """
        if self._rules and self._can_run(manifest):
            self.check(manifest)

    def _can_run(self, manifest: Manifest) -> bool:
        """Return True if a container could be started from a manifest, or from an entry of a list of referrers."""
        if not manifest.is_index:
            return can_run(manifest)
        children = manifest.children()
        if len(children) > MOST or not all(each.names_manifest for each in children):
            return True
        read = (manifest_or_none(self._registry, self._repository, each.digest, each.media_type) for each in children)
        return any(each.is_index or can_run(each) for each in read if each is not None)

    def _check_rule(self, number: int, rule: SignatureRule, found: _Signatures) -> None:
        check = self._signer_check(number, rule)
        accepts = None if rule.reference is None else compile_pattern(rule.reference).fullmatch
        reasons: list[str] = []
        for each in found.of(attestations=rule.attestation is not None):
            if isinstance(each, str):
                reasons.append(each)
                continue
            try:
                check(each)
                claim = each.claim(found.digest, found.manifest.body)
            except RejectedError as error:
                reasons.append(str(error))
                continue
            if claim.predicate != rule.attestation:
                reasons.append("it is a signature" if claim.predicate is None else f"it is {claim.predicate[:200]!a}")
            elif accepts is not None and not any(map(accepts, claim.names)):
                reasons.append(f"it names the image {', '.join(claim.names)[:200]!a}")
            else:
                return
        why = _summary(reasons) if reasons else "the source has none"
        raise UntrustedError(
            found.manifest.digest,
            f"it needs {_kind(rule.attestation)} by {rule.signer} (rule {number} of `verify`), but {why}",
        )

    def _signer_check(self, number: int, rule: SignatureRule) -> Callable[[Evidence], None]:
        """Return the check of a rule's signer. Raises CONFIG_INVALID, and the errors of a reference."""
        where, text = f"rule {number} of `verify`", self._trust.text
        if rule.identity is None:
            keys = load_public_keys(text(rule.public_key), f"public_key in {where}")
            return lambda evidence: evidence.check_key(keys)
        wanted = rule.identity
        identity = Identity(
            wanted.issuer,
            lambda subject: compile_pattern(wanted.subject).fullmatch(subject) is not None,
            load_authorities(text(wanted.ca), f"ca in {where}"),
            load_public_keys(text(wanted.log_key), f"log_key in {where}"),
        )
        return lambda evidence: evidence.check_identity(identity, self._trust.clock())


class _Signatures:
    """The signatures and attestations of one image at the source, each read once, when a rule needs it."""

    def __init__(self, registry: ImageStore, repository: str, manifest: Manifest) -> None:
        self.manifest = manifest
        self.digest = digest_of(manifest.body)
        self._registry = registry
        self._repository = repository
        self._left = LARGEST_TOGETHER
        self._read: dict[str, list[Evidence | str]] = {}
        self._more = {
            ".sig": self._by_tag(".sig"),
            ".att": self._by_tag(".att"),
            "referrers": self._referring(),
        }

    def of(self, *, attestations: bool) -> Iterator[Evidence | str]:
        """Yield the signatures or attestations, and for those that cannot be read the reason."""
        for place in (".att" if attestations else ".sig", "referrers"):
            read = self._read.setdefault(place, [])
            yield from read
            for each in self._more[place]:
                read.append(each)
                yield each

    def _by_tag(self, ending: str) -> Iterator[Evidence | str]:
        tag = f"{referrers_tag(self.digest)}{ending}"
        yield from self._in_manifest(lambda: manifest_or_none(self._registry, self._repository, tag), tag)

    def _referring(self) -> Iterator[Evidence | str]:
        referrers = self._registry.referrers(self._repository, self.digest, ignore)
        for each in referrers[:MOST]:
            if each.names_manifest:
                read = partial(manifest_or_none, self._registry, self._repository, each.digest, each.media_type)
                yield from self._in_manifest(read, each.digest)
        if len(referrers) > MOST:
            yield f"only the first {MOST} of its {len(referrers)} referrers are checked"

    def _in_manifest(self, read: Callable[[], Manifest | None], name: str) -> Iterator[Evidence | str]:
        """Yield the signatures in the layers of a manifest."""
        try:
            manifest = read()
            layers = [] if manifest is None else _signature_layers(manifest)
        except SynclineError as error:
            if not error.is_any(*_SKIPPED):
                raise
            yield f"{name} cannot be read ({error.what})"
            return
        except RejectedError as error:
            yield f"{name} cannot be read ({error})"
            return
        for layer, notes in layers[:MOST]:
            try:
                yield evidence_in_layer(layer.media_type, notes, self._content(layer), self.manifest.body)
            except RejectedError as error:
                yield str(error)
        if len(layers) > MOST:
            yield f"only the first {MOST} of the {len(layers)} signatures in {name} are checked"

    def _content(self, layer: Descriptor) -> bytes:
        """Return the bytes of a layer. Raises RejectedError if it is absent, damaged or too large."""
        if layer.size > min(LARGEST, self._left):
            raise RejectedError(f"{layer.digest} has {layer.size} bytes, which is too large for a signature")
        self._left -= layer.size
        content = bytearray()
        try:
            with self._registry.open_blob(self._repository, layer.digest) as stream:
                while len(content) <= layer.size and (data := stream.read(layer.size + 1 - len(content))):
                    content += data
        except SynclineError as error:
            if error.code.name != "NOT_FOUND":
                raise
            raise RejectedError(f"the source lacks {layer.digest}") from None
        if not digest_matches(layer.digest, bytes(content)):
            raise RejectedError(f"the bytes of {layer.digest} are damaged")
        return bytes(content)


def _signature_layers(manifest: Manifest) -> list[tuple[Descriptor, dict[str, Any]]]:
    """Return the layers that hold signatures, with their annotations. Raises RejectedError and MANIFEST_INVALID."""
    if manifest.is_index:
        return []
    listed = parse_json(manifest.body, "the manifest").get("layers") or []
    layers = manifest.layers()
    found = []
    for layer, value in zip(layers, listed, strict=True):
        annotations = value.get("annotations")
        if layer.media_type in (SIMPLE_SIGNING, DSSE) or layer.media_type.startswith(BUNDLE):
            found.append((layer, annotations if isinstance(annotations, dict) else {}))
    return found


def can_run(manifest: Manifest) -> bool:
    """Return True if a container could be started from an image: its layers may be file systems, with an image's config.

    Docker takes a config of a type that says nothing for an image's, and does not distinguish capitals in the types of
    layers; Podman does not read these types at all.
    """
    blobs = manifest.blobs()
    config = blobs[0].media_type.lower() if blobs else "application/vnd."
    if config.startswith("application/vnd.") and config not in _CONFIGS and manifest.media_type != DOCKER_MANIFEST:
        return False
    return not all(_DOCUMENT.fullmatch(each.media_type.lower()) for each in manifest.layers())


def _summary(reasons: Sequence[str]) -> str:
    """Return the reasons why signatures were refused, the frequent ones first."""
    counted = Counter(reasons).most_common()
    named = [f"{reason} ({count} times)" if count > 1 else reason for reason, count in counted[:_NAMED]]
    more = len(counted) - _NAMED
    text = "; ".join(named)
    text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
    return text + (f"; and for {plural(more, 'other reason')}" if more > 0 else "")


def _kind(predicate: str | None) -> str:
    return "a signature" if predicate is None else f"an attestation {predicate}"
