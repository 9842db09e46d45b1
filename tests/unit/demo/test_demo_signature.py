from __future__ import annotations

import json
from pathlib import Path

import pytest

from demo.catalog import REPOSITORIES
from demo.images import Image
from demo.signature import ANNOTATION, is_valid, key_pair, sign, tag_for
from syncline.patterns import signature_subject


@pytest.fixture
def image(small_layers: None) -> Image:
    del small_layers
    return next(REPOSITORIES[0].images())[0]


def parts(signature: Image) -> tuple[dict[str, object], bytes]:
    manifest = json.loads(signature.manifest.body)
    return manifest, signature.blobs[manifest["layers"][0]["digest"]]


def test_a_signature_is_valid_only_for_its_image(image: Image, tmp_path: Path) -> None:
    key, public = key_pair(tmp_path)
    manifest, payload = parts(sign(image, "prod.example/app", key))
    assert is_valid(manifest, payload, image.digest, public)
    assert not is_valid(manifest, payload, "sha256:" + "0" * 64, public)


def test_a_changed_payload_is_refused(image: Image, tmp_path: Path) -> None:
    key, public = key_pair(tmp_path)
    manifest, payload = parts(sign(image, "prod.example/app", key))
    assert not is_valid(manifest, payload.replace(b"prod.example", b"prod.evil123"), image.digest, public)


def test_another_key_is_refused(image: Image, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    manifest, payload = parts(sign(image, "prod.example/app", key_pair(tmp_path)[0]))
    assert not is_valid(manifest, payload, image.digest, key_pair(tmp_path / "other")[1])


def test_signing_again_with_the_same_key_gives_the_same_signature(image: Image, tmp_path: Path) -> None:
    first = sign(image, "prod.example/app", key_pair(tmp_path)[0])
    assert sign(image, "prod.example/app", key_pair(tmp_path)[0]) == first


def test_the_key_is_readable_only_by_its_owner(tmp_path: Path) -> None:
    key_pair(tmp_path)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes["sample-signing.key"] == 0o600


def test_a_signature_has_the_format_of_cosign(image: Image, tmp_path: Path) -> None:
    signature = sign(image, "prod.example/app", key_pair(tmp_path)[0])
    manifest, payload = parts(signature)
    layer = json.loads(signature.manifest.body)["layers"][0]
    assert manifest["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    assert layer["mediaType"] == "application/vnd.dev.cosign.simplesigning.v1+json"
    assert ANNOTATION in layer["annotations"]
    assert json.loads(payload)["critical"]["type"] == "cosign container image signature"
    assert signature_subject(tag_for(image.digest)) == image.digest
