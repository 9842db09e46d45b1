from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline.clients.registry import manifest as kinds
from syncline.clients.registry.manifest import Manifest, detect_media_type
from syncline.clients.registry.reference import digest_of
from syncline.errors import SynclineError

CONFIG = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest_of(b"config"), "size": 6}
LAYER = {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest_of(b"layer"), "size": 5}
IMAGE: dict[str, Any] = {"schemaVersion": 2, "config": CONFIG, "layers": [LAYER]}
INDEX: dict[str, Any] = {"schemaVersion": 2, "manifests": [{**LAYER, "mediaType": kinds.OCI_MANIFEST}]}


def manifest(value: Any, media_type: str = kinds.OCI_MANIFEST) -> Manifest:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return Manifest(digest_of(body), media_type, body)


def test_an_image_references_each_blob_once() -> None:
    image = manifest({**IMAGE, "layers": [LAYER, LAYER]})
    assert [b.digest for b in image.blobs()] == [CONFIG["digest"], LAYER["digest"]]
    assert [b.size for b in image.blobs()] == [6, 5]
    assert image.children() == ()
    assert not image.is_index


def test_an_index_references_manifests() -> None:
    index = manifest(INDEX, kinds.DOCKER_LIST)
    assert [c.media_type for c in index.children()] == [kinds.OCI_MANIFEST]
    assert index.blobs() == ()
    assert index.is_index


def test_the_subject_is_read() -> None:
    assert manifest(IMAGE).subject is None
    subject = manifest({**IMAGE, "subject": LAYER}).subject
    assert subject is not None
    assert subject.digest == LAYER["digest"]


@pytest.mark.parametrize(
    "layer",
    [
        {**LAYER, "urls": ["https://example.com/layer"]},
        {**LAYER, "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"},
        {**LAYER, "mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"},
    ],
)
def test_foreign_layers_are_marked(layer: dict[str, Any]) -> None:
    config, foreign = manifest({**IMAGE, "layers": [layer]}).blobs()
    assert (config.foreign, foreign.foreign) == (False, True)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        {},
        {"config": CONFIG},
        {"config": CONFIG, "layers": {}},
        {"config": CONFIG, "layers": ["x"]},
        {"config": None, "layers": []},
        {"config": {**CONFIG, "digest": "sha256:../../x"}, "layers": []},
        {"config": {**CONFIG, "digest": 1}, "layers": []},
        {"config": {**CONFIG, "size": -1}, "layers": []},
        {"config": {**CONFIG, "size": "6"}, "layers": []},
        {"config": {**CONFIG, "size": True}, "layers": []},
    ],
)
def test_a_malformed_manifest_is_refused(value: Any) -> None:
    with pytest.raises(SynclineError) as caught:
        manifest(value).blobs()
    assert caught.value.code.name == "MANIFEST_INVALID"


@pytest.mark.parametrize("size", [-1, "6", None])
def test_an_invalid_size_is_quoted(size: Any) -> None:
    with pytest.raises(SynclineError) as caught:
        manifest({"config": {**CONFIG, "size": size}, "layers": []}).blobs()
    assert f"{CONFIG['digest']} has an invalid size: {json.dumps(size)}" in caught.value.what


@pytest.mark.parametrize("media_type", kinds.MANIFEST_TYPES)
def test_the_four_media_types_are_detected(media_type: str) -> None:
    value = INDEX if "index" in media_type or "list" in media_type else IMAGE
    body = json.dumps({**value, "mediaType": media_type}).encode()
    for declared in (media_type, f"{media_type.upper()}; charset=utf-8", "application/json", ""):
        assert detect_media_type(declared, body, "here") == media_type
    assert detect_media_type(media_type, json.dumps(value).encode(), "here") == media_type


@pytest.mark.parametrize(
    ("declared", "value", "code"),
    [
        ("application/vnd.docker.distribution.manifest.v1+prettyjws", {"schemaVersion": 1}, "MANIFEST_UNSUPPORTED"),
        ("application/vnd.docker.distribution.manifest.v1+json", {"schemaVersion": 1}, "MANIFEST_UNSUPPORTED"),
        ("application/json", {"schemaVersion": 1, "fsLayers": []}, "MANIFEST_UNSUPPORTED"),
        ("application/json", IMAGE, "MANIFEST_UNSUPPORTED"),
        ("text/html", {**IMAGE, "mediaType": "text/html"}, "MANIFEST_UNSUPPORTED"),
        (kinds.OCI_MANIFEST, [], "MANIFEST_INVALID"),
        (kinds.OCI_MANIFEST, INDEX, "MANIFEST_INVALID"),
        (kinds.OCI_INDEX, IMAGE, "MANIFEST_INVALID"),
        (kinds.OCI_MANIFEST, {**IMAGE, **INDEX}, "MANIFEST_INVALID"),
        (kinds.OCI_INDEX, {**IMAGE, **INDEX}, "MANIFEST_INVALID"),
        (kinds.OCI_MANIFEST, {**IMAGE, "mediaType": kinds.DOCKER_MANIFEST}, "MANIFEST_INVALID"),
    ],
)
def test_a_manifest_that_cannot_be_copied_unchanged_is_refused(declared: str, value: Any, code: str) -> None:
    with pytest.raises(SynclineError) as caught:
        detect_media_type(declared, json.dumps(value).encode(), "here")
    assert caught.value.code.name == code


ARTIFACT = "application/vnd.example.artifact+json"


@pytest.mark.parametrize(
    ("declared", "media_type"),
    [(ARTIFACT, None), (f"{ARTIFACT}; charset=utf-8", ARTIFACT), ("application/json", ARTIFACT), ("", ARTIFACT)],
)
def test_an_unknown_type_is_kept(declared: str, media_type: str | None) -> None:
    assert detect_media_type(declared, json.dumps({"mediaType": media_type}).encode(), "here") == ARTIFACT


@pytest.mark.parametrize("media_type", ["text/html", "application/x\r\nX-Evil: 1", "application/" + "x" * 200, 7, ""])
def test_an_invalid_type_is_not_sent(media_type: Any) -> None:
    with pytest.raises(SynclineError, match="MANIFEST_UNSUPPORTED"):
        detect_media_type("text/plain", json.dumps({"mediaType": media_type}).encode(), "here")


def test_a_manifest_of_unknown_type_needs_all_that_it_references() -> None:
    blob = {"digest": digest_of(b"blob"), "size": 4}
    child = {**LAYER, "mediaType": kinds.OCI_MANIFEST}
    value = {"config": CONFIG, "layers": [LAYER], "blobs": [blob], "manifests": [child], "subject": child}
    unusual = manifest(value, ARTIFACT)
    assert [each.digest for each in unusual.blobs()] == [CONFIG["digest"], LAYER["digest"], blob["digest"]]
    assert [each.digest for each in unusual.children()] == [child["digest"]]
    assert [each.digest for each in unusual.needed()] == [child["digest"]] * 2
    nothing = manifest({}, ARTIFACT)
    assert (nothing.blobs(), nothing.needed()) == ((), ())
    assert manifest({**IMAGE, "subject": child}).needed() == (), "a signature may come before its image"


@pytest.mark.parametrize(
    ("platform", "named"),
    [
        ({"os": "linux", "architecture": "arm", "variant": "v7"}, "linux/arm/v7"),
        ({"os": "linux", "architecture": "amd64"}, "linux/amd64"),
        ({"os": 1}, ""),
        ("linux", ""),
        (None, ""),
    ],
)
def test_the_platform_of_a_child_is_read(platform: Any, named: str) -> None:
    entry = {**LAYER, "mediaType": kinds.OCI_MANIFEST, "platform": platform}
    (child,) = manifest({"manifests": [entry]}, kinds.OCI_INDEX).children()
    assert child.platform == named


def test_digests_of_both_algorithms_are_read() -> None:
    image = manifest(IMAGE)
    assert image.has_digest(image.digest)
    assert image.has_digest(f"sha512:{hashlib.sha512(image.body).hexdigest()}")
    assert not image.has_digest(digest_of(b"other"))
    assert not image.has_digest("sha512:" + "0" * 128)
    assert not image.has_digest("md5:0")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["config", "layers", "manifests", "digest", "size", "mediaType", "urls"]), inner
        )
    ),
    max_leaves=12,
)


@given(JSON)
def test_any_json_is_a_manifest_or_refused(value: Any) -> None:
    for media_type in (kinds.OCI_MANIFEST, kinds.OCI_INDEX):
        try:
            manifest(value, media_type).blobs()
            manifest(value, media_type).children()
        except SynclineError as error:
            refused = error.code.name
        else:
            refused = "MANIFEST_INVALID"
        assert refused == "MANIFEST_INVALID"
