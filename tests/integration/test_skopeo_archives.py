"""Archives of skopeo, pushed to a real registry: pulling them gives the saved image."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.standins import saved
from tests.standins.pairs import USERS, RegistryPair
from tests.standins.pushed_archives import PushTarget


@pytest.fixture
def place(registry_pair: RegistryPair, namespace: str) -> PushTarget:
    return PushTarget(registry_pair.dr, f"{namespace}/app")


@pytest.mark.parametrize("form", ["docker-archive", "oci-archive"])
def test_an_archive_of_skopeo_is_pushed_unchanged(
    place: PushTarget,
    skopeo: Callable[..., bytes],
    tmp_path: Path,
    form: str,
) -> None:
    layers = [saved.layer({"a": b"one" * 5000}), saved.layer({"b": b"two"})]
    place.registry.push_image(f"{place.repository}-source", "v1", layers)
    name = f"docker://{place.registry.host}/{place.repository}-source:v1"
    path = tmp_path / "image.tar"
    skopeo("copy", "--src-tls-verify=false", f"--src-creds=ann:{USERS['ann']}", name, f"{form}:{path}:app:v1")
    config = json.loads(skopeo("inspect", "--raw", "--config", f"{form}:{path}"))
    fingerprint = place.push(path.read_bytes())
    pushed = f"docker://{place.registry.host}/{place.repository}:v1"
    seen = json.loads(skopeo("inspect", "--raw", "--tls-verify=false", f"--creds=ann:{USERS['ann']}", pushed))
    assert seen["config"]["digest"] == fingerprint
    stored = json.loads(place.registry.authorized("GET", f"/v2/{place.repository}/blobs/{fingerprint}").body)
    assert (
        stored["rootfs"]
        == config["rootfs"]
        == {"type": "layers", "diff_ids": [f"sha256:{saved.sha(x)}" for x in layers]}
    )
    back = tmp_path / "back.tar"
    skopeo("copy", "--src-tls-verify=false", f"--src-creds=ann:{USERS['ann']}", pushed, f"docker-archive:{back}:app:v1")
    assert place.push(back.read_bytes()) == fingerprint
