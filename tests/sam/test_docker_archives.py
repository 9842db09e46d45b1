"""Archives of a real Docker engine, pushed to a real registry: pulling them gives the saved image."""

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
from tests.standins.pushed_archives import PushTarget
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
    """Return a build context whose files have constant times."""
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


def image_id(engine: Engine, name: str) -> str:
    return str(engine.client.images.get(name).id)


def load(engine: Engine, archive: bytes) -> None:
    """Load an archive. The SDK cannot parse the engine's response for old archives."""
    api = engine.client.api
    answer = api.post(f"{api.base_url}/v{api.api_version}/images/load", data=archive)
    assert answer.status_code == 200, answer.text
    assert b"errorDetail" not in answer.content, answer.text


def docker_save(engine: Engine, *names: str) -> bytes:
    """Return the output of `docker save` for these names."""
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
def place(registry: Registry) -> PushTarget:
    return PushTarget(registry, f"t{uuid.uuid4().hex[:12]}/app")


@pytest.mark.parametrize("also", [(), ("syncline.test/base:v1",)])
def test_docker_pulls_the_image_that_docker_saved(engine: Engine, place: PushTarget, also: tuple[str, ...]) -> None:
    expected = image_id(engine, "syncline.test/app:v1")
    archive = docker_save(engine, "syncline.test/app:v1", *also)
    assert place.push(gzip.compress(archive, 1)) == expected
    name = f"{place.registry.host}/{place.repository}"
    for each in ("app", "base"):
        engine.client.images.remove(f"syncline.test/{each}:v1", force=True)
    try:
        engine.client.images.pull(name, "v1", auth_config={"username": "ann", "password": USERS["ann"]})
        assert image_id(engine, f"{name}:v1") == expected
        assert place.push(docker_save(engine, f"{name}:v1")) == expected, (
            "the pulled image cannot be saved and pushed again"
        )
    finally:
        build(engine)


def test_an_archive_from_before_1_10_becomes_the_image_of_docker_load(engine: Engine, place: PushTarget) -> None:
    image = saved.Image([saved.layer({"a": b"one"}), saved.layer({"b": b"two"})], "syncline.test/legacy:v1")
    archive = saved.before_1_10(image)
    load(engine, archive)
    expected = image_id(engine, image.name)
    assert place.push(archive) == expected


@pytest.mark.parametrize("form", [saved.until_24, saved.since_25])
def test_docker_load_accepts_the_archives_of_the_tests_as_the_same_image(
    engine: Engine, place: PushTarget, form: Callable[..., bytes]
) -> None:
    """The archives imitate Docker versions that are not available; at least this version must accept them."""
    image = saved.Image([saved.layer({"a": b"one"}), saved.layer({"b": b"two"})], "syncline.test/made-up:v1")
    load(engine, form(image))
    expected = image_id(engine, image.name)
    assert place.push(form(image)) == expected == f"sha256:{image.id}"
