"""Archives that a real Docker engine writes, pushed to a real registry: what comes back is what was saved."""

from __future__ import annotations

import gzip
import io
import subprocess
import tarfile
import uuid
from collections.abc import Callable, Iterator

import pytest

from tests.sam.docker_engine import Engine
from tests.standins import saved
from tests.standins.pairs import USERS
from tests.standins.programs import needs, program
from tests.standins.pushed_archives import Place
from tests.standins.registry import Htpasswd, Registry

BASE = "FROM scratch\nCOPY base /base\nCOPY large /large\n"
APP = 'FROM syncline.test/base:v1\nCOPY app /app\nENV GREETING=\'<hello> & "world"\'\nCOPY app /app\nCMD ["/app"]\n'


@pytest.fixture(scope="module")
def engine(bare_engine: Engine) -> Engine:
    needs("docker")
    build(bare_engine)
    return bare_engine


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


def docker(engine: Engine, *arguments: str, given: bytes | None = None) -> bytes:
    command = [program("docker"), *arguments]
    done = subprocess.run(command, env=engine.environment, input=given, capture_output=True, check=True, timeout=120)
    return done.stdout


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
    identity = docker(engine, "image", "inspect", "--format={{.Id}}", "syncline.test/app:v1").decode().strip()
    archive = docker(engine, "save", "syncline.test/app:v1", *also)
    assert place.push(gzip.compress(archive, 1)) == identity
    name = f"{place.registry.host}/{place.repository}:v1"
    docker(engine, "login", "--username=ann", f"--password={USERS['ann']}", place.registry.host)
    docker(engine, "rmi", "--force", "syncline.test/app:v1", "syncline.test/base:v1")
    try:
        docker(engine, "pull", name)
        assert docker(engine, "image", "inspect", "--format={{.Id}}", name).decode().strip() == identity
        copied = docker(engine, "save", name)
        assert place.push(copied) == identity, "and what was pulled can be saved and pushed again"
    finally:
        build(engine)


def test_an_archive_from_before_1_10_becomes_what_docker_load_makes_of_it(engine: Engine, place: Place) -> None:
    image = saved.Image([saved.layer({"a": b"one"}), saved.layer({"b": b"two"})], "syncline.test/legacy:v1")
    archive = saved.before_1_10(image)
    docker(engine, "load", given=archive)
    identity = docker(engine, "image", "inspect", "--format={{.Id}}", image.name).decode().strip()
    assert place.push(archive) == identity


@pytest.mark.parametrize("form", [saved.until_24, saved.since_25])
def test_docker_loads_the_archives_made_up_here_as_the_same_image(
    engine: Engine, place: Place, form: Callable[..., bytes]
) -> None:
    """They stand for versions that cannot be had: this one at least takes them for what they are."""
    image = saved.Image([saved.layer({"a": b"one"}), saved.layer({"b": b"two"})], "syncline.test/made-up:v1")
    docker(engine, "load", given=form(image))
    identity = docker(engine, "image", "inspect", "--format={{.Id}}", image.name).decode().strip()
    assert place.push(form(image)) == identity == f"sha256:{image.id}"
