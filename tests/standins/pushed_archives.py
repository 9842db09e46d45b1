"""Pushes of archives to a repository of a real registry with the code of the kind."""

from __future__ import annotations

from syncline.clients.http.addresses import Endpoint
from syncline.clients.http.client import Http
from syncline.clients.registry.auth import RegistryCredentials
from syncline.clients.registry.client import Registry as Client
from syncline.kinds.artifacts.examine import examine
from syncline.kinds.artifacts.layers import KnownLayers
from syncline.kinds.artifacts.read_archive import ImageProgress, WantedImage
from syncline.kinds.artifacts.transfer import ImagePusher
from syncline.kinds.facts import ProcessFacts
from syncline.kinds.kind import StepContext
from tests.standins.pairs import USERS
from tests.standins.registry import Registry

PACE = StepContext(lambda: 60.0)


class PushTarget:
    """A repository at a real registry, and pushes to it."""

    def __init__(self, registry: Registry, repository: str) -> None:
        self.registry = registry
        self.repository = repository
        endpoint = Endpoint.parse(registry.url)
        self.client = Client(endpoint, lambda: RegistryCredentials("ann", USERS["ann"]), Http())
        self.memory = ProcessFacts()

    def push(self, archive: bytes, image: str = "app") -> str:
        """Push and tag an image of an archive; return its fingerprint, and check that it equals that of the archive."""
        push = ImagePusher(self.client, self.repository, KnownLayers(self.memory, self.client), PACE)
        written = push.push(lambda _: [archive], "archive", WantedImage(image, "v1"), ImageProgress())
        assert written is not None
        self.client.put_manifest(self.repository, "v1", written.manifest)
        assert examine([archive], "archive", WantedImage(image, "v1")).fingerprint == written.fingerprint
        return written.fingerprint
