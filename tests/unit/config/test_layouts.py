"""Syncs of images with a layout on disk in place of a registry."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from syncline.kinds.images.config import ImagesSync


def sync(source: dict[str, Any] | None = None, target: dict[str, Any] | None = None) -> ImagesSync:
    ends = {
        "source": {"registry": "prod.example", "catalog": True} | (source or {}),
        "target": {"registry": "dr.example"} | (target or {}),
    }
    return ImagesSync.model_validate({"name": "a", "kind": "images", **ends})


@pytest.mark.parametrize("place", ["oci:/srv/images", "oci-archive:/srv/images.tar", "docker-archive:/srv/images.tar"])
def test_a_layout_is_a_source(place: str) -> None:
    made = sync(source={"registry": place})
    assert made.local_paths() == [("source", "registry")]
    assert [each.url for each in made.addresses()] == ["https://dr.example/v2/"]
    assert made.problems() == []
    assert made.source.layout == tuple(place.split(":"))


def test_a_folder_is_a_target_and_a_file_is_not() -> None:
    assert sync(target={"registry": "oci:/srv/images"}).problems() == []
    problems = sync(target={"registry": "oci-archive:/srv/images.tar"}).problems()
    assert [each.path for each in problems] == [("target", "registry")]


@pytest.mark.parametrize("place", ["oci:images", "oci:", "oci:/srv/../etc", "oci:/srv/", "oci:5000/x", "docker:/srv"])
def test_a_path_that_is_not_absolute_is_refused(place: str) -> None:
    with pytest.raises(ValidationError):
        sync(source={"registry": place})


def test_a_registry_may_have_the_name_of_a_transport() -> None:
    with pytest.raises(ValidationError, match="absolute path"):
        sync(source={"registry": "oci:5000"})
    assert sync(source={"registry": "oci.example:5000"}).source.layout is None


def test_an_api_is_for_registries() -> None:
    problems = sync(source={"registry": "oci:/srv/images", "api": {"kind": "quay"}}).problems()
    assert ("source", "api") in [each.path for each in problems]


def test_a_layout_that_is_its_own_target_is_refused() -> None:
    made = sync(source={"registry": "oci:/srv/images"}, target={"registry": "oci:/srv/images"})
    assert [each.path for each in made.problems()] == [("target", "registry")]


def test_two_syncs_that_write_one_layout_are_found() -> None:
    one, two = (sync(target={"registry": "oci:/srv/images"}) for _ in range(2))
    assert one.reaches()[0].location == two.reaches()[0].location == ("layout", "/srv/images")
