"""A registry in memory, and pushes to it that have all the time there is."""

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
from syncline.kinds.artifacts.archive.feed import LIMITS, Limits
from syncline.kinds.artifacts.layers import KnownLayers, OwnMemory
from syncline.kinds.artifacts.manifests import Written
from syncline.kinds.artifacts.reading import Progress, Wanted
from syncline.kinds.artifacts.transfer import Push
from syncline.kinds.kind import StepContext
from tests.standins.oci import OciRegistry

REPOSITORY = "group/project/x86/app"


@dataclass(frozen=True)
class Held:
    """Bytes in memory as a source, read in chunks of `chunk` bytes."""

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
    """Pushes archives to one registry, with what was learnt from one push to the next."""

    server: OciRegistry
    memory: OwnMemory = field(default_factory=OwnMemory)
    left: Callable[[], float] = field(default=lambda: 60.0)

    @property
    def registry(self) -> Registry:
        return Registry(Endpoint.parse(self.server.url), lambda: None, Http(RetryPolicy(attempts=1)))

    def attempt(
        self,
        archive: bytes,
        wanted: Wanted | None = None,
        *,
        progress: Progress | None = None,
        repository: str = REPOSITORY,
        limits: Limits = LIMITS,
        chunk: int = 1 << 16,
        naps: Callable[[float], None] = lambda _: None,
    ) -> Written | None:
        registry = self.registry
        known = KnownLayers(self.memory, registry, naps)
        push = Push(registry, repository, known, StepContext(self.left), processors=2, limits=limits)
        chunks = [archive[at : at + chunk] for at in range(0, len(archive), chunk)]
        return push.image(lambda _: iter(chunks), "archive", wanted or Wanted("app", "v1"), progress or Progress())

    def image(self, archive: bytes, wanted: Wanted | None = None, *, repository: str = REPOSITORY) -> Written:
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
