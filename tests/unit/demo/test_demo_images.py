from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from demo.catalog import ORGANIZATIONS, REPOSITORIES, SIGNED, Repository
from demo.images import DOCKER, OCI, Image
from syncline.clients.registry.manifest import OCI_INDEX, detect_media_type
from syncline.clients.registry.reference import digest_of, parse_repository, parse_tag

pytestmark = pytest.mark.usefixtures("small_layers")


def images(repository: Repository) -> Iterator[Image]:
    for image, _ in repository.images():
        yield from image.children or (image,)


def config_of(image: Image) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(image.blobs[image.manifest.blobs()[0].digest])
    return value


def named(name: str) -> Repository:
    (repository,) = (each for each in REPOSITORIES if each.name == name)
    return repository


def test_the_catalog_is_large_enough() -> None:
    assert len(REPOSITORIES) >= 12
    assert sum(len(each.tags) for each in REPOSITORIES) >= 40
    assert len({each.name for each in REPOSITORIES}) == len(REPOSITORIES)
    assert ORGANIZATIONS == ("payments", "platform", "web")


@pytest.mark.parametrize("repository", REPOSITORIES, ids=lambda each: each.name)
def test_images_are_complete_and_match_their_digests(repository: Repository) -> None:
    parse_repository(repository.name)
    assert all(map(parse_tag, repository.tags))
    for image in images(repository):
        assert detect_media_type(image.manifest.media_type, image.manifest.body, "") == image.manifest.media_type
        assert {blob.digest: blob.size for blob in image.manifest.blobs()} == {
            digest_of(data): len(data) for data in image.blobs.values()
        }
        assert len(config_of(image)["rootfs"]["diff_ids"]) == len(image.manifest.blobs()) - 1


@pytest.mark.parametrize("repository", REPOSITORIES, ids=lambda each: each.name)
def test_images_are_reproducible(repository: Repository) -> None:
    assert list(repository.images()) == list(repository.images())


@pytest.mark.parametrize("repository", REPOSITORIES, ids=lambda each: each.name)
def test_each_tag_occurs_once_and_the_last_version_has_the_additional_tags(repository: Repository) -> None:
    given = [tags for _, tags in repository.images()]
    assert sorted(tag for tags in given for tag in tags) == sorted(repository.tags)
    assert given[-1] == (repository.versions[-1], *repository.aliases)


def test_versions_differ_and_share_their_layers() -> None:
    first, second, third = images(named("payments/api"))
    assert len({first.digest, second.digest, third.digest}) == 3
    assert len(first.blobs.keys() & second.blobs.keys() & third.blobs.keys()) == 4


def test_layers_are_shared_by_repositories() -> None:
    having = Counter(digest for each in REPOSITORIES for digest in {d for image in images(each) for d in image.blobs})
    (_, in_most), (_, in_as_many) = having.most_common(2)
    assert in_most == in_as_many == len([each for each in REPOSITORIES if each.program]) >= 10


def test_one_image_is_for_two_architectures() -> None:
    index, _ = next(named("platform/licences").images())
    assert index.manifest.media_type == OCI_INDEX
    assert [child.digest for child in index.manifest.children()] == [child.digest for child in index.children]
    assert [config_of(child)["architecture"] for child in index.children] == ["amd64", "arm64"]


def test_one_repository_has_docker_and_oci_images() -> None:
    types = [image.manifest.media_type for image in images(named("web/legacy"))]
    assert types == [DOCKER.manifest, DOCKER.manifest, OCI.manifest]


def test_the_signed_image_is_in_the_catalog() -> None:
    repository, tag = SIGNED
    assert tag in named(repository).tags
