"""What could be started as a container needs a signature of its own, under whatever name and types it is stored."""

from __future__ import annotations

import json

import pytest

from syncline.clients.registry.manifest import DOCKER_MANIFEST, OCI_MANIFEST, Manifest
from syncline.clients.registry.reference import digest_of
from syncline.kinds.images.signatures import can_run

IMAGE = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


def manifest(config: str, *layers: str, media_type: str = OCI_MANIFEST) -> Manifest:
    parts = [
        {"mediaType": text, "digest": digest_of(str(n).encode()), "size": 1} for n, text in enumerate([config, *layers])
    ]
    value = {"schemaVersion": 2, "mediaType": media_type, "config": parts[0], "layers": parts[1:]}
    body = json.dumps(value).encode()
    return Manifest(digest_of(body), media_type, body)


@pytest.mark.parametrize("config", [IMAGE, "application/octet-stream", "application/json", "text/html"])
@pytest.mark.parametrize(
    "layer", [LAYER, LAYER.title(), "application/octet-stream", "application/vnd.oci.image.other", "application/x-tar"]
)
def test_an_image_with_unusual_types_can_be_run(config: str, layer: str) -> None:
    assert can_run(manifest(config, "application/vnd.dev.cosign.simplesigning.v1+json", layer))


def test_an_image_of_docker_can_be_run_whatever_the_type_of_its_config() -> None:
    layer = "application/vnd.docker.image.rootfs.diff.tar.gzip"
    assert can_run(manifest("application/vnd.example.config.v1+json", layer, media_type=DOCKER_MANIFEST))


@pytest.mark.parametrize(
    ("config", "layer"),
    [
        (IMAGE, "application/vnd.dev.cosign.simplesigning.v1+json"),
        (IMAGE, "application/vnd.dsse.envelope.v1+json"),
        (IMAGE, "application/vnd.in-toto+json"),
        (IMAGE, "application/vnd.cyclonedx+xml"),
        (IMAGE, "application/vnd.cyclonedx"),
        (IMAGE, "text/spdx"),
        (IMAGE, "spdx+json"),
        ("application/vnd.oci.empty.v1+json", "application/vnd.dev.sigstore.bundle.v0.3+json"),
        ("application/vnd.unknown.config.v1+json", LAYER),
        ("application/vnd.cncf.helm.config.v1+json", "application/vnd.cncf.helm.chart.content.v1.tar+gzip"),
    ],
)
def test_signatures_attestations_and_other_artifacts_cannot_be_run(config: str, layer: str) -> None:
    assert not can_run(manifest(config, layer))
