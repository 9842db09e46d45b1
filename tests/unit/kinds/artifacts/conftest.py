"""A registry in memory, and pushes to it without a time limit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from syncline.clients.http.addresses import Endpoint
from syncline.clients.http.client import Http
from syncline.clients.http.retry import RetryPolicy
from syncline.clients.registry.client import Registry
from syncline.clients.registry.manifest import Manifest
from syncline.kinds.artifacts.archive.streams import LIMITS, ArchiveLimits
from syncline.kinds.artifacts.layers import KnownLayers
from syncline.kinds.artifacts.manifests import UploadedImage
from syncline.kinds.artifacts.read_archive import ImageProgress, WantedImage
from syncline.kinds.artifacts.transfer import ImagePusher
from syncline.kinds.facts import ProcessFacts
from syncline.kinds.kind import StepContext
from tests.standins.oci import OciRegistry

REPOSITORY = "group/project/x86/app"


@dataclass(frozen=True)
class InMemorySource:
    """A source with bytes in memory, read in chunks of `chunk` bytes."""

    data: bytes
    name: str = "artifact"
    chunk: int = 1 << 30

    @property
    def size(self) -> int:
        return len(self.data)

    @contextmanager
    def open(self, start: int, end: int) -> Iterator[Iterator[bytes]]:
        assert 0 <= start <= end <= len(self.data)
        yield (self.data[at : min(at + self.chunk, end)] for at in range(start, end, self.chunk))


@dataclass
class Pushing:
    """Pushes archives to one registry; facts are kept between pushes."""

    server: OciRegistry
    memory: ProcessFacts = field(default_factory=ProcessFacts)
    left: Callable[[], float] = field(default=lambda: 60.0)

    @property
    def registry(self) -> Registry:
        return Registry(Endpoint.parse(self.server.url), lambda: None, Http(RetryPolicy(attempts=1)))

    def attempt(
        self,
        archive: bytes,
        wanted: WantedImage | None = None,
        *,
        progress: ImageProgress | None = None,
        repository: str = REPOSITORY,
        limits: ArchiveLimits = LIMITS,
        chunk: int = 1 << 16,
        naps: Callable[[float], None] = lambda _: None,
    ) -> UploadedImage | None:
        registry = self.registry
        known = KnownLayers(self.memory, registry, naps)
        push = ImagePusher(registry, repository, known, StepContext(self.left), processors=2, limits=limits)
        chunks = [archive[at : at + chunk] for at in range(0, len(archive), chunk)]
        return push.push(
            lambda _: iter(chunks), "archive", wanted or WantedImage("app", "v1"), progress or ImageProgress()
        )

    def image(
        self, archive: bytes, wanted: WantedImage | None = None, *, repository: str = REPOSITORY
    ) -> UploadedImage:
        """Push an archive and tag it, as the kind does."""
        written = self.attempt(archive, wanted, repository=repository)
        assert written is not None
        self.registry.put_manifest(repository, "v1", written.manifest)
        return written

    def manifest(self, reference: str = "v1", repository: str = REPOSITORY) -> Manifest:
        return self.registry.manifest(repository, reference)

    def blob(self, digest: str, repository: str = REPOSITORY) -> bytes:
        with self.registry.open_blob(repository, digest) as stream:
            return b"".join(stream)


@pytest.fixture
def pushing() -> Iterator[Pushing]:
    with OciRegistry() as server:
        yield Pushing(server)
