"""Artifacts that take several functions, each of which continues where the previous one stopped."""

from __future__ import annotations

import base64
import gzip
import io
import json
import random
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import partial
from itertools import cycle, pairwise, repeat
from pathlib import Path
from typing import Final

import pytest
import yaml
import zstandard
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from syncline.clients.github import client as github
from syncline.clients.github.client import GitHub, RemoteFile
from syncline.clients.http.addresses import Endpoint
from syncline.clients.http.client import Http
from syncline.clients.http.retry import RetryPolicy
from syncline.clients.registry.client import Registry
from syncline.errors import CodeName, SynclineError
from syncline.kinds.artifacts import checkpoints, layers, transfer, upload
from syncline.kinds.artifacts.archive.streams import Mark, MarkedStream, ranged
from syncline.kinds.artifacts.archive.zip import ZipArchive
from syncline.kinds.artifacts.checkpoints import Checkpoints
from syncline.kinds.artifacts.config import ArtifactsSync
from syncline.kinds.artifacts.discover import ProjectTarget
from syncline.kinds.artifacts.kind import Artifacts
from syncline.kinds.artifacts.layers import KnownLayers
from syncline.kinds.artifacts.manifests import UploadedImage
from syncline.kinds.artifacts.read_archive import ImageProgress, WantedImage
from syncline.kinds.artifacts.transfer import ImagePusher
from syncline.kinds.artifacts.verify import check_parts
from syncline.kinds.facts import ProcessFacts
from syncline.kinds.kind import Completed, Failure, StepContext, Unfinished
from syncline.model import Item
from syncline.steps.engine import MAX_ATTEMPTS
from tests.standins import saved
from tests.standins.github import TOKEN, GitHubServer, Run, Stored, zipped
from tests.standins.oci import OciRegistry
from tests.unit.kinds.artifacts.conftest import InMemorySource, Pushing

EXAMPLE: Final = Path(__file__).parents[4] / "examples/artifacts-presto.yaml"
KIB: Final = 1 << 10
MIB: Final = 1 << 20
REPOSITORY: Final = "group/project/x86/presto-coordinator"
TAG: Final = "presto-1-linux-amd64"


@dataclass
class Functions:
    """Functions that transfer one image, each with limited time. ``read`` counts the bytes read of the artifact."""

    github: GitHubServer
    registry: OciRegistry
    memory: ProcessFacts = field(default_factory=ProcessFacts)
    lossy: bool = False
    fails: CodeName | None = None
    """The code of the error that ends each function."""
    share: float = 0.0
    begun: int = 0
    read: int = 0
    number: int = 0

    def artifact(self, archive: bytes, name: str = f"presto-coordinator-{TAG}.tar.gz") -> int:
        """Publish an artifact with an archive and return its size in bytes."""
        content = zipped({name: archive})
        self.github.runs = [Run(1, {}, [Stored(10, "images", content)], "presto-build-images.yml")]
        return len(content)

    def transfer(self, item: Item, share: float) -> Completed | Unfinished | Failure:
        """Run a function that has time to read `share` bytes of the artifact; return its answer."""
        http = Http(RetryPolicy(attempts=1))
        values = yaml.safe_load(EXAMPLE.read_text())["syncs"]["presto-images"]
        values["source"]["repository"] = self.github.repository
        sync = ArtifactsSync.model_validate({"name": "s", **values, "aliases": []})
        client = GitHub(Endpoint.parse(self.github.url), lambda: TOKEN, http)
        target = ProjectTarget(Registry(Endpoint.parse(self.registry.url), lambda: None, http), None)
        kind = Artifacts(sync, client, target, http, memory=self.memory, now=lambda: 1_700_000_000.0)
        self.begun, self.share = self.read, share
        self.number += 1
        context = StepContext(lambda: 1.0 if self.fails or self.read - self.begun < share else -1.0)
        (answer,) = kind.transfer([Item.from_json(json.loads(json.dumps(item.to_json())))], context)
        assert isinstance(answer, (Completed, Unfinished, Failure))
        return answer

    @property
    def item(self) -> Item:
        """The item of the image, as found by a scan."""
        return Item(REPOSITORY, "presto-1", "run:1", detail={"run": "1.1", "image": "presto-coordinator", "tag": TAG})

    def image(self, share: float, between: Callable[[], None] = lambda: None) -> Completed:
        """Transfer the image with as many functions as needed."""
        item = self.item
        while True:
            answer = self.transfer(item, share)
            if isinstance(answer, Completed):
                return answer
            assert self.number < 100
            if self.fails:
                assert isinstance(answer, Failure), answer
                assert answer.further, "it counts as a failed attempt"
                item = answer.item
                continue
            assert isinstance(answer, Unfinished), answer
            assert not answer.stuck
            assert answer.item.detail["read"] > item.detail.get("read", 0) or self.lossy, "a function made no progress"
            item = answer.item
            between()


@pytest.fixture
def functions(monkeypatch: pytest.MonkeyPatch) -> Iterator[Functions]:
    with ExitStack() as stack:
        made = Functions(stack.enter_context(GitHubServer("team/builds")), stack.enter_context(OciRegistry()))
        chunks = RemoteFile._chunks

        def counted(*arguments: object) -> Iterator[bytes]:
            for chunk in chunks(*arguments):  # type: ignore[arg-type]
                made.read += len(chunk)
                yield chunk
                if made.fails and made.read - made.begun > made.share:
                    raise SynclineError(made.fails, "the source was interrupted")

        monkeypatch.setattr(RemoteFile, "_chunks", counted)
        monkeypatch.setattr(layers, "_LONGEST_WAIT", 0.0)
        for module, name in ((github, "CHUNK"), (upload, "SEGMENT"), (upload, "PIECE")):
            monkeypatch.setattr(module, name, 64 * KIB)
        yield made


def image_of(megabytes: int, seed: int = 1, layers: int = 2) -> saved.Image:
    """Return an image with incompressible layers, so that a share of the artifact is a share of the layers."""
    random_bytes = random.Random(seed).randbytes
    contents = [saved.layer({f"{number}": random_bytes(megabytes * MIB // layers)}) for number in range(layers)]
    return saved.Image(contents, "presto-coordinator:presto-1-linux-amd64")


ARCHIVES: Final[dict[str, Callable[[saved.Image], bytes]]] = {
    "before 25": lambda image: gzip.compress(saved.until_24(image), 1),
    "since 25": lambda image: gzip.compress(saved.since_25(image), 1),
    "containerd": lambda image: gzip.compress(saved.containerd([image]), 1),
    "one archive for all": lambda image: gzip.compress(
        saved.tar(
            [
                ("other.tar.gz", gzip.compress(saved.until_24(saved.Image([saved.layer({"o": b"other"})], "o:v1")))),
                (f"presto-coordinator-{TAG}.tar.gz", gzip.compress(saved.until_24(image), 1)),
            ]
        ),
        1,
    ),
}


@pytest.mark.parametrize("form", ARCHIVES)
def test_several_functions_read_an_artifact_about_once(functions: Functions, form: str) -> None:
    image = image_of(16)
    name = "all.tar.gz" if form == "one archive for all" else f"presto-coordinator-{TAG}.tar.gz"
    size = functions.artifact(ARCHIVES[form](image), name)
    completed = functions.image(share=3 * MIB)
    assert form == "containerd" or completed.item.source == f"sha256:{image.id}"
    assert functions.number >= 5
    assert functions.read < 1.6 * size, f"{functions.number} functions read {functions.read / size:.1f} times the size"


def test_known_layers_are_read_about_once(functions: Functions) -> None:
    image = image_of(16)
    size = functions.artifact(ARCHIVES["since 25"](image))
    functions.image(share=10**9)
    functions.registry.store.repositories[REPOSITORY].tags.clear()
    functions.number = functions.read = 0
    functions.registry.requests.clear()
    functions.memory.forget(f"pushed@{functions.registry.host}/{REPOSITORY}:presto-1")
    functions.image(share=3 * MIB)
    assert functions.number >= 5
    assert functions.read < 1.6 * size, f"{functions.number} functions read {functions.read / size:.1f} times the size"
    assert not functions.registry.asked("PATCH")


@pytest.mark.parametrize("code", ["UNREACHABLE", "TIME_SHORT"])
def test_interruptions_of_the_source_cost_no_repeated_reads(functions: Functions, code: CodeName) -> None:
    """A function that makes progress does not count as a failed attempt."""
    functions.fails = code
    image = image_of(16)
    size = functions.artifact(ARCHIVES["before 25"](image))
    completed = functions.image(share=3 * MIB)
    assert completed.item.source == f"sha256:{image.id}"
    assert functions.number > MAX_ATTEMPTS
    assert functions.read < 1.6 * size, f"{functions.number} functions read {functions.read / size:.1f} times the size"


def test_failure_without_progress_counts(functions: Functions) -> None:
    functions.artifact(ARCHIVES["before 25"](image_of(1)))
    functions.fails = "TIME_SHORT"
    answer = functions.transfer(functions.item, share=0)
    assert isinstance(answer, Failure)
    assert not answer.further


def test_functions_without_progress_are_stuck(functions: Functions) -> None:
    functions.artifact(ARCHIVES["before 25"](image_of(1)))
    item = functions.item
    while functions.number < 200:  # until all bytes are hashed, each function makes progress
        answer = functions.transfer(item, share=1)
        assert isinstance(answer, Unfinished)
        if answer.stuck:
            break
        item = answer.item
    assert 5 < functions.number < 200


def test_other_artifact_is_read_from_its_start(functions: Functions) -> None:
    functions.lossy = True
    functions.artifact(ARCHIVES["before 25"](image_of(4, seed=1)))
    second = image_of(4, seed=2)
    replaced: list[int] = []

    def replace() -> None:
        if not replaced:
            replaced.append(functions.artifact(ARCHIVES["before 25"](second)))

    completed = functions.image(MIB, between=replace)
    assert replaced
    assert completed.item.source == f"sha256:{second.id}"


@pytest.mark.parametrize("damage", ["no base64", "wrong bytes", "a mark of another place"])
def test_wrong_checkpoint_costs_only_time(functions: Functions, damage: str) -> None:
    functions.lossy = True
    image = image_of(4)
    functions.artifact(ARCHIVES["since 25"](image))
    key = f"checkpoint@{functions.registry.host}/{REPOSITORY}:presto-1"
    damaged: list[str] = []

    def damage_checkpoint() -> None:
        stored = functions.memory.recall(key)
        if damaged or stored is None:
            return
        damaged.append(stored)
        value = json.loads(zlib.decompress(base64.b64decode(stored)))
        value["checkpoint"]["start"]["skip"] += 512
        value["checkpoint"]["inside"] = None
        wrong = base64.b64encode(zlib.compress(json.dumps(value).encode())).decode()
        functions.memory.remember(
            key, {"no base64": "?", "wrong bytes": stored[:5000] + "AAAA" + stored[5004:]}.get(damage, wrong)
        )

    completed = functions.image(MIB, between=damage_checkpoint)
    assert damaged
    assert completed.item.source == f"sha256:{image.id}"
    assert functions.memory.recall(key) is None, "a checkpoint is removed when the image is there"


def test_image_read_by_one_function_stores_no_checkpoint(functions: Functions, monkeypatch: pytest.MonkeyPatch) -> None:
    """Removing a missing fact would leave an empty item in the table forever."""
    written: list[str] = []
    functions.artifact(ARCHIVES["before 25"](image_of(1)))
    monkeypatch.setattr(functions.memory, "forget", written.append)
    monkeypatch.setattr(functions.memory, "remember", lambda key, *_: written.append(key))
    functions.image(share=10**9)
    assert functions.number == 1
    assert not [key for key in written if key.startswith("checkpoint@")]


def test_checkpoint_fits_into_an_item_of_the_table(functions: Functions, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    image = image_of(4)
    functions.artifact(ARCHIVES["one archive for all"](image), "all.tar.gz")
    remember = functions.memory.remember

    def stored(key: str, value: str, seconds: float = 0.0) -> None:
        if key.startswith("checkpoint@"):
            sizes.append(len(value))
            assert 0 < seconds <= 7 * 24 * 3600
        remember(key, value, seconds)

    monkeypatch.setattr(functions.memory, "remember", stored)
    functions.image(MIB)
    assert sizes
    assert max(sizes) < 400 * 1000


def test_too_large_checkpoint_keeps_the_start_of_the_layer(
    functions: Functions, monkeypatch: pytest.MonkeyPatch
) -> None:
    functions.lossy = True
    image = image_of(8, layers=16)
    size = functions.artifact(ARCHIVES["before 25"](image))
    monkeypatch.setattr(checkpoints, "LARGEST", 130_000)
    completed = functions.image(2 * MIB)
    assert functions.read < 3 * size
    assert completed.item.source == f"sha256:{image.id}"


class Loss(Enum):
    """A loss between two functions."""

    NOTHING = auto()
    CHECKPOINT = auto()
    UPLOADS = auto()
    PROGRESS = auto()


KINDS: Final[dict[str, Callable[[random.Random, int], bytes]]] = {
    "random": random.Random.randbytes,
    "zeros": lambda _, size: bytes(size),
    "text": lambda rng, size: b"".join(rng.choices([b"usr/", b"lib/", b"python", b"\n", b"\0" * 9], k=size // 4)),
}
FORMS: Final[dict[str, Callable[[saved.Image], bytes]]] = {
    "before 25": saved.until_24,
    "since 25": saved.since_25,
    "containerd": lambda image: saved.containerd([image]),
    "nested": lambda image: saved.tar(
        [
            ("out/other-v1.tar.gz", gzip.compress(saved.until_24(saved.Image(image.layers[:1], "other:v1")))),
            ("out/app-v1.tar.gz", gzip.compress(saved.until_24(image))),
        ]
    ),
}


def members(archive: bytes, rng: random.Random) -> bytes:
    """Return the archive as a gzip file of several members, followed by zeros."""
    cuts = sorted(rng.choices(range(len(archive) + 1), k=3))
    parts = [archive[start:end] for start, end in pairwise([0, *cuts, len(archive)])]
    return b"".join(gzip.compress(part, rng.choice([0, 1, 6, 9])) for part in parts) + bytes(512)


PACKINGS: Final[dict[str, Callable[[bytes, random.Random], bytes]]] = {
    "plain": lambda archive, _: archive,
    "gzip": lambda archive, _: gzip.compress(archive),
    "gzip of several members": members,
    "zstd": lambda archive, _: zstandard.compress(archive),
}


def zip_of(archive: bytes, method: int, *, wide: bool) -> bytes:
    """Return a zip with the archive and another file; `wide` adds the fields of zip64."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        file.writestr("readme.txt", b"not an archive")
        with file.open("app-v1.tar.gz", "w", force_zip64=wide) as member:
            member.write(archive)
    return buffer.getvalue()


def opener(content: bytes, chunk: int, *, is_zip: bool) -> Callable[[Mark | None], MarkedStream[bytes]]:
    source = InMemorySource(content, chunk=chunk)
    if not is_zip:
        return partial(ranged, source, 0, source.size)
    archive = ZipArchive(source)
    return partial(archive.open, archive.entries[1])


WANTED: Final = WantedImage("app", "v1", lambda name: name.endswith("app-v1.tar.gz"))


def in_parts(
    pushing: Pushing,
    archive: Callable[[Mark | None], MarkedStream[bytes]],
    clock_reads: Iterator[int],
    losses: Iterator[Loss],
    repository: str,
    version: str = "1",
) -> tuple[UploadedImage, int]:
    """Push an image by functions that may each read the clock a limited number of times.

    Returns the image and the number of functions.
    """
    stored = ImageProgress().to_json()
    for number in range(1, 400):
        progress = ImageProgress.of(json.loads(json.dumps(stored)))
        left = iter([1.0] * (next(clock_reads) + number // 2))
        context = StepContext(partial(next, left, -1.0))
        kept = Checkpoints(pushing.memory, repository, version)
        known = KnownLayers(pushing.memory, pushing.registry, lambda _: None)
        push = ImagePusher(pushing.registry, repository, known, context, processors=2)
        written = push.push(archive, "archive", WANTED, progress, kept)
        if written is not None:
            return written, number
        match next(losses):
            case Loss.CHECKPOINT:
                kept.forget()
            case Loss.UPLOADS:
                pushing.server.store.sessions.clear()
            case Loss.PROGRESS:
                continue
        stored = progress.to_json()
    raise AssertionError("the push did not end")


class TestAnyInterruption:
    @settings(
        max_examples=60,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    @given(
        seed=st.integers(0, 2**32),
        kinds=st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=4),
        form=st.sampled_from(sorted(FORMS)),
        packing=st.sampled_from(sorted(PACKINGS)),
        method=st.sampled_from([None, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]),
        wide=st.booleans(),
        chunk=st.sampled_from([777, 4096, 30_000]),
        clock_reads=st.lists(st.integers(3, 25), min_size=1, max_size=10),
        losses=st.lists(st.sampled_from(Loss), min_size=1, max_size=10),
    )
    def test_any_cut_gives_the_same_image(
        self,
        seed: int,
        kinds: list[str],
        form: str,
        packing: str,
        method: int | None,
        wide: bool,
        chunk: int,
        clock_reads: list[int],
        losses: list[Loss],
    ) -> None:
        rng = random.Random(seed)
        contents = [KINDS[kind](rng, rng.randint(100, 40_000)) for kind in kinds]
        image = saved.Image([saved.layer({"file": content}) for content in contents])
        archive = PACKINGS[packing](FORMS[form](image), rng)
        content = archive if method is None else zip_of(archive, method, wide=wide)
        opened = opener(content, chunk, is_zip=method is not None)
        with OciRegistry() as server, pytest.MonkeyPatch.context() as patch:
            patch.setattr(transfer, "_ARCHIVE_ERRORS", frozenset())  # a wrong checkpoint must raise
            patch.setattr(upload, "SEGMENT", 3000)
            patch.setattr(upload, "PIECE", 2000)
            patch.setattr(layers, "_LONGEST_WAIT", 0.0)
            pushing = Pushing(server)
            expected, number = in_parts(pushing, opened, repeat(10**6), repeat(Loss.NOTHING), "some/whole")
            assert number == 1
            written, _ = in_parts(Pushing(server), opened, cycle(clock_reads), cycle(losses), "some/parts")
            assert written == expected
            check_parts(pushing.registry, "some/parts", written.manifest)
            assert form == "containerd" or written.fingerprint == f"sha256:{image.id}"
