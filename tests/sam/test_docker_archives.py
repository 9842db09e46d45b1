"""Archives that a real Docker engine writes, pushed to a real registry: what comes back is what was saved."""

from __future__ import annotations

import gzip
import io
import tarfile
import uuid
from collections.abc import Callable, Iterator

import pytest

from tests.sam.docker_engine import Engine
from tests.standins import saved
from tests.standins.pairs import USERS
from tests.standins.programs import needs
from tests.standins.pushed_archives import Place
from tests.standins.registry import Htpasswd, Registry

BASE = "FROM scratch\nCOPY base /base\nCOPY large /large\n"
APP = 'FROM syncline.test/base:v1\nCOPY app /app\nENV GREETING=\'<hello> & "world"\'\nCOPY app /app\nCMD ["/app"]\n'


@pytest.fixture(scope="module")
def engine(bare_engine: Engine) -> Iterator[Engine]:
    build(bare_engine)
    yield bare_engine
    for name in [tag for image in bare_engine.client.images.list() for tag in image.tags]:
        if name.startswith("syncline.test/"):
            bare_engine.client.images.remove(name, force=True)


def build(engine: Engine) -> None:
    for name, file in (("base", BASE), ("app", APP)):
        engine.client.images.build(fileobj=context(file), custom_context=True, tag=f"syncline.test/{name}:v1")


def context(dockerfile: str) -> io.BytesIO:
    """A build's context; the files have the same times every time."""
    files = {
        "Dockerfile": dockerfile.encode(),
        "base": b"a base\n" * 1000,
        "large": bytes(range(256)) * 40_000,
        "app": b"app",
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    buffer.seek(0)
    return buffer


def identity_of(engine: Engine, name: str) -> str:
    return str(engine.client.images.get(name).id)


def load(engine: Engine, archive: bytes) -> None:
    """`docker load`; the SDK stumbles over what the engine says of old archives."""
    api = engine.client.api
    answer = api.post(f"{api.base_url}/v{api.api_version}/images/load", data=archive)
    assert answer.status_code == 200, answer.text
    assert b"errorDetail" not in answer.content, answer.text


def saved_by(engine: Engine, *names: str) -> bytes:
    """What `docker save` of these names writes."""
    api = engine.client.api
    return bytes(
        api.get(f"{api.base_url}/v{api.api_version}/images/get", params=[("names", name) for name in names]).content
    )


@pytest.fixture(scope="module")
def registry() -> Iterator[Registry]:
    needs("docker-registry")
    with Registry(auth=Htpasswd(USERS)) as running:
        yield running


@pytest.fixture
def place(registry: Registry) -> Place:
    return Place(registry, f"t{uuid.uuid4().hex[:12]}/app")


@pytest.mark.parametrize("also", [(), ("syncline.test/base:v1",)])
def test_what_docker_saves_is_what_docker_pulls(engine: Engine, place: Place, also: tuple[str, ...]) -> None:
    identity = identity_of(engine, "syncline.test/app:v1")
    archive = saved_by(engine, "syncline.test/app:v1", *also)
    assert place.push(gzip.compress(archive, 1)) == identity
    name = f"{place.registry.host}/{place.repository}"
    for each in ("app", "base"):
        engine.client.images.remove(f"syncline.test/{each}:v1", force=True)
    try:
        engine.client.images.pull(name, "v1", auth_config={"username": "ann", "password": USERS["ann"]})
        assert identity_of(engine, f"{name}:v1") == identity
        assert place.push(saved_by(engine, f"{name}:v1")) == identity, (
            "and what was pulled can be saved and pushed again"
        )
    finally:
        build(engine)


def test_an_archive_from_before_1_10_becomes_what_docker_load_makes_of_it(engine: Engine, place: Place) -> None:
    image = saved.Image([saved.layer({"a": b"one"}), saved.layer({"b": b"two"})], "syncline.test/legacy:v1")
    archive = saved.before_1_10(image)
    load(engine, archive)
    identity = identity_of(engine, image.name)
    assert place.push(archive) == identity


@pytest.mark.parametrize("form", [saved.until_24, saved.since_25])
def test_docker_loads_the_archives_made_up_here_as_the_same_image(
    engine: Engine, place: Place, form: Callable[..., bytes]
) -> None:
    """They stand for versions that cannot be had: this one at least takes them for what they are."""
    image = saved.Image([saved.layer({"a": b"one"}), saved.layer({"b": b"two"})], "syncline.test/made-up:v1")
    load(engine, form(image))
    identity = identity_of(engine, image.name)
    assert place.push(form(image)) == identity == f"sha256:{image.id}"
