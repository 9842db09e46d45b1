from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from demo import fill as filling
from demo.catalog import REPOSITORIES, SIGNED
from demo.fill import Filled, fill
from demo.settings import Settings, folder
from syncline.clients.registry.manifest import Manifest
from syncline.clients.registry.reference import digest_of

pytestmark = pytest.mark.usefixtures("small_layers", "home")


class StrictRegistry:
    """A registry in memory that refuses a manifest whose blobs or children are missing."""

    def __init__(self) -> None:
        self.blobs: set[tuple[str, str]] = set()
        self.manifests: dict[tuple[str, str], str] = {}
        self.sent: list[str] = []

    def tags(self, repository: str) -> list[str]:
        return [name for where, name in self.manifests if where == repository and ":" not in name]

    def has_blob(self, repository: str, digest: str) -> bool:
        return (repository, digest) in self.blobs

    def mount_blob(self, repository: str, digest: str, from_repository: str) -> bool:
        if (from_repository, digest) not in self.blobs:
            return False
        self.blobs.add((repository, digest))
        return True

    def begin_upload(self, repository: str) -> Any:
        registry = self

        class Upload:
            def put(self, digest: str, data: bytes, size: int) -> None:
                assert digest_of(data) == digest
                assert len(data) == size
                registry.blobs.add((repository, digest))
                registry.sent.append(digest)

        return Upload()

    def put_manifest(self, repository: str, reference: str, manifest: Manifest) -> None:
        assert all((repository, blob.digest) in self.blobs for blob in manifest.blobs())
        assert all((repository, child.digest) in self.manifests for child in manifest.children())
        self.manifests[repository, reference] = manifest.digest
        self.manifests[repository, manifest.digest] = manifest.digest


@pytest.fixture
def prod(monkeypatch: pytest.MonkeyPatch, home: Path) -> StrictRegistry:
    del home
    made = StrictRegistry()
    monkeypatch.setattr(filling, "registry", lambda *_: made)
    folder().mkdir(parents=True)
    return made


def filled() -> tuple[Filled, list[str]]:
    messages: list[str] = []
    return fill(Settings({}), messages.append), messages


def test_everything_is_pushed_and_each_blob_is_sent_once(prod: StrictRegistry) -> None:
    done, messages = filled()
    assert {each.name: set(prod.tags(each.name)) for each in REPOSITORIES if each.name != SIGNED[0]} == {
        each.name: set(each.tags) for each in REPOSITORIES if each.name != SIGNED[0]
    }
    assert sorted(prod.sent) == sorted(done.blobs)
    assert done.tags == sum(len(each.tags) for each in REPOSITORIES) + 1
    assert messages


def test_the_signed_image_has_a_signature(prod: StrictRegistry) -> None:
    filled()
    repository, tag = SIGNED
    digest = prod.manifests[repository, tag]
    assert f"sha256-{digest.removeprefix('sha256:')}.sig" in prod.tags(repository)


def test_a_second_fill_pushes_nothing(prod: StrictRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    filled()
    monkeypatch.setattr(filling, "shared_layer", None)
    prod.sent.clear()
    assert filled() == (Filled(), [])
    assert not prod.sent


def test_lost_tags_are_restored_and_others_are_unchanged(prod: StrictRegistry) -> None:
    filled()
    before = dict(prod.manifests)
    repository, _ = SIGNED
    lost = next(name for name in prod.tags(repository) if name.endswith(".sig"))
    del prod.manifests[repository, lost]
    del prod.manifests["web/docs", "latest"]
    prod.manifests["web/docs", "2026.10"] = "sha256:somebody's own"
    before["web/docs", "2026.10"] = "sha256:somebody's own"
    done, _ = filled()
    assert prod.manifests == before
    assert done.tags == 3  # the signature is pushed with its image
    assert not done.blobs
