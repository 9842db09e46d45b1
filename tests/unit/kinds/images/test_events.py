"""Notifications of Quay and Docker distribution as scopes of repositories."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline.errors import SynclineError
from syncline.kinds.images.events import repositories_in

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=10,
)


def event(repository: Any = "team/app", action: str = "push", media_type: str = MANIFEST) -> dict[str, Any]:
    return {"action": action, "target": {"repository": repository, "mediaType": media_type, "tag": "1.0"}}


@pytest.mark.parametrize("tags", [["1.0"], {"1.0": "sha256:0"}, []])
def test_a_notification_of_quay_names_the_repository(tags: Any) -> None:
    body = {
        "repository": "team/app",
        "namespace": "team",
        "name": "app",
        "docker_url": "quay.example/team/app",
        "homepage": "https://quay.example/repository/team/app",
        "updated_tags": tags,
    }
    assert repositories_in(body) == ("team/app",)


def test_a_notification_of_docker_distribution_names_each_repository_once() -> None:
    body = {"events": [event("b"), event("a"), event("b"), event("c/d")]}
    assert repositories_in(body) == ("a", "b", "c/d")


def test_pulls_and_blobs_are_no_pushes_of_images() -> None:
    blob = event("b", media_type="application/octet-stream")
    assert repositories_in({"events": [event("a", action="pull"), blob, event("c", action="delete")]}) == ()


@pytest.mark.parametrize(
    "media_type",
    [
        MANIFEST,
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
    ],
)
def test_every_kind_of_manifest_counts(media_type: str) -> None:
    assert repositories_in({"events": [event("a", media_type=media_type)]}) == ("a",)


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        "events",
        {},
        {"repository": None},
        {"repository": ""},
        {"repository": ["team/app"]},
        {"repository": "../../etc"},
        {"repository": "Team/App"},
        {"events": None},
        {"events": ["push"]},
        {"events": [{"action": "push"}]},
        {"events": [{"action": "push", "target": {"mediaType": MANIFEST}}]},
        {"events": [event(repository=7)]},
        {"events": [event("not ok"), event("Not/OK")]},
    ],
    ids=json.dumps,
)
def test_a_body_that_is_no_notification_is_refused(body: Any) -> None:
    with pytest.raises(SynclineError, match="MESSAGE_INVALID"):
        repositories_in(body)


@pytest.mark.parametrize(
    "invalid", [event("not ok"), event(repository=7), "push", None, {"action": "push"}], ids=json.dumps
)
def test_an_invalid_event_does_not_affect_others(invalid: Any) -> None:
    assert repositories_in({"events": [event("b"), invalid, event("a")]}) == ("a", "b")


@given(JSON | st.fixed_dictionaries({"events": JSON}) | st.fixed_dictionaries({"repository": JSON}))
def test_any_body_names_repositories_or_is_refused(body: Any) -> None:
    try:
        names = repositories_in(body)
    except SynclineError as error:
        assert error.code.name == "MESSAGE_INVALID"  # noqa: PT017 - a body may also be valid
    else:
        assert list(names) == sorted(set(names))
