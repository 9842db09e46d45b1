"""The independent comparison of the demo, with real registries: it must fail if anything differs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from demo import verification
from demo.catalog import REPOSITORIES, SIGNED
from demo.fill import Pusher
from demo.images import Image
from demo.servers import registry
from demo.settings import USER, Settings, folder
from demo.signature import key_pair, sign, tag_for
from tests.standins.programs import ProgramAbsentError, needs
from tests.standins.registry import Htpasswd, Registry

pytestmark = pytest.mark.usefixtures("small_layers")


@pytest.fixture
def settings(home: Path) -> Iterator[Settings]:
    del home
    needs("docker-registry")
    auth = Htpasswd({USER: "word"})
    with Registry(auth=auth) as prod, Registry(auth=auth) as dr:
        made = Settings({"prod": prod.port, "dr": dr.port, "quay": 0}, password="word")
        made.save()
        yield made


@pytest.fixture(params=["skopeo", "plain requests"])
def witness(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the name of the reader: skopeo, or plain requests if it is not installed."""
    if request.param == "skopeo":
        needs("skopeo")
        return "skopeo inspect --raw"

    def absent(name: str) -> str:
        raise ProgramAbsentError(name)

    monkeypatch.setattr(verification, "program", absent)
    return "plain requests"


def images(name: str = SIGNED[0]) -> list[Image]:
    (repository,) = (each for each in REPOSITORIES if each.name == name)
    return [image for image, _ in repository.images()]


def push(settings: Settings, server: str, tags: dict[str, Image]) -> None:
    pusher = Pusher(registry(server, settings))
    for tag, image in tags.items():
        pusher.push(SIGNED[0], tag, image)


def test_equal_registries_pass(settings: Settings, witness: str) -> None:
    (index, _), (first, *_) = images("platform/licences"), images()
    for server in ("prod", "dr"):
        push(settings, server, {"index": index, "one": first})
    assert verification.compare(settings) == verification.Comparison(witness, 2, 1, ())


def test_absent_and_different_images_are_reported(settings: Settings, witness: str) -> None:
    first, second, third = images()
    push(settings, "prod", {"one": first, "two": second, "three": third})
    push(settings, "dr", {"one": first, "two": third, "more": first})
    found = verification.compare(settings)
    assert (found.reader, found.tags) == (witness, 3)
    assert sorted(found.differing) == [f"{SIGNED[0]}:three", f"{SIGNED[0]}:two"]


def test_a_signature_is_valid_only_for_its_image(settings: Settings) -> None:
    first, second, third = images()
    key, _ = key_pair(folder())
    assert not verification.signature_is_valid(settings)
    push(settings, "dr", {SIGNED[1]: third})
    assert not verification.signature_is_valid(settings)
    push(settings, "dr", {tag_for(third.digest): sign(third, "prod.example/app", key)})
    assert verification.signature_is_valid(settings)
    push(settings, "dr", {SIGNED[1]: second, tag_for(second.digest): sign(first, "prod.example/app", key)})
    assert not verification.signature_is_valid(settings)


def test_a_failure_of_skopeo_is_reported_with_its_reason(settings: Settings) -> None:
    needs("skopeo")
    push(settings, "prod", {"one": images()[0]})
    replace(settings, password="another").save()
    with pytest.raises(RuntimeError, match=r"skopeo cannot read docker://.*:one: .*(unauthorized|authentication)"):
        verification.compare(settings)
