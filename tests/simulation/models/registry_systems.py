"""A registry with a client, the model or a real one, for the tests that compare them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from syncline.clients.http.addresses import Endpoint
from syncline.clients.http.client import Http
from syncline.clients.http.retry import RetryPolicy
from syncline.clients.registry.client import Registry
from syncline.clients.registry.manifest import OCI_INDEX, OCI_MANIFEST, Descriptor, Manifest
from syncline.clients.registry.reference import digest_of
from syncline.errors import SynclineError
from tests.simulation.machine import Machine, Process
from tests.simulation.models.registry import RegistryServer, SimRegistry
from tests.simulation.network import Calls, Faults, Network
from tests.standins.oci import OciRegistry

BLOB = b"hello, registry"
DIGEST = digest_of(BLOB)
OTHER = digest_of(b"something else")
CONFIG = "application/vnd.oci.image.config.v1+json"
_NAMESPACES = itertools.count(1)


class System:
    """A registry with a client. ``namespace`` is unique. ``server`` is that of the model or the stand-in, if it is one."""

    def __init__(self, kind: str, client: Registry, server: RegistryServer | OciRegistry | None = None) -> None:
        self.kind = kind
        self.client = client
        self.server = server
        self.namespace = f"namespace{next(_NAMESPACES)}"
        self.app = f"{self.namespace}/app"

    def put_blob(self, data: bytes = BLOB, repository: str = "") -> Descriptor:
        digest = digest_of(data)
        self.client.begin_upload(repository or self.app).put(digest, data, len(data))
        return Descriptor(digest, len(data), CONFIG)

    def put_image(self, tag: str, layer: bytes = BLOB, **more: Any) -> Manifest:
        image = manifest(config=entry(self.put_blob(b"{}")), layers=[entry(self.put_blob(layer))], **more)
        self.client.put_manifest(self.app, tag or image.digest, image)
        return image


def model() -> tuple[RegistryServer, SimRegistry]:
    """Return a registry in memory and a client of it, without faults."""
    machine = Machine(1)
    server = RegistryServer("registry.example", machine)
    calls = Calls(machine, Process(machine, "test"), Faults(off=True))
    return server, SimRegistry(server, Network(calls, Http()))


def real(url: str) -> Registry:
    """Return the real client, without retries and with 3 entries a page."""
    return Registry(Endpoint.parse(url), lambda: None, Http(RetryPolicy(attempts=1, base=0.01)), 3)


def entry(blob: Descriptor) -> dict[str, Any]:
    """Return the entry of a blob in a manifest."""
    return {"mediaType": blob.media_type, "digest": blob.digest, "size": blob.size}


def manifest(**more: Any) -> Manifest:
    """Return a manifest with these fields, an index if ``manifests`` is one of them."""
    media_type = OCI_INDEX if "manifests" in more else OCI_MANIFEST
    body = json.dumps({"schemaVersion": 2, "mediaType": media_type, **more}).encode()
    return Manifest(digest_of(body), media_type, body)


def subject_of(image: Manifest) -> dict[str, Any]:
    """Return the entry of an image in an index, or as a subject."""
    return {"mediaType": image.media_type, "digest": image.digest, "size": len(image.body)}


def code_of(function: Callable[[], object]) -> str:
    """Return the code of the error that a call raises."""
    with pytest.raises(SynclineError) as error:
        function()
    return error.value.code.name


def failing_source(*chunks: bytes) -> Iterator[bytes]:
    """Yield chunks and then fail."""
    yield from chunks
    raise SynclineError("UNREACHABLE", "the source failed")
