"""Referrers of images, to and from Debian's docker-registry, which has no referrers API; checked by skopeo."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest

from syncline.clients.http.addresses import Endpoint
from syncline.clients.http.client import Http
from syncline.clients.http.retry import RetryPolicy
from syncline.clients.registry.auth import RegistryCredentials
from syncline.clients.registry.client import Registry
from syncline.config.sync import load_sync
from syncline.kinds.facts import ProcessFacts
from syncline.kinds.images.config import ImagesSync
from syncline.kinds.images.facts import BlobLocations, TargetNotes
from syncline.kinds.images.kind import Images
from syncline.kinds.images.listing import RegistryClients
from syncline.kinds.images.signatures import Trust
from syncline.kinds.kind import Completed, StepContext
from syncline.model import EVERYTHING, Scope
from tests.standins.oci import OciRegistry
from tests.standins.oci_store import OCI_CONFIG, OCI_INDEX, OCI_MANIFEST, descriptor, digest_of
from tests.standins.pairs import USERS, RegistryPair
from tests.standins.registry import Registry as Server

Skopeo = Callable[..., bytes]
TIME: Final = StepContext(lambda: 60.0)
CREDS: Final = f"ann:{USERS['ann']}"


class NoMemory(ProcessFacts):
    """A shared memory that remembers nothing."""

    def recall(self, key: str) -> None:  # noqa: ARG002 - nothing is known
        return None

    def remember(self, key: str, value: str, seconds: float = 0.0) -> None: ...

    def forget(self, key: str) -> None: ...

    def claim(self, key: str, seconds: float) -> bool:  # noqa: ARG002 - nothing is claimed
        return True


@pytest.fixture
def modern() -> Iterator[OciRegistry]:
    """Yield a registry with the referrers API."""
    with OciRegistry() as registry:
        yield registry


def side(server: Server | OciRegistry, http: Http) -> RegistryClients:
    ann = RegistryCredentials("ann", USERS["ann"]) if isinstance(server, Server) else None
    return RegistryClients(Registry(Endpoint("http", server.host), lambda: ann, http), None)


def copy(
    source: Server | OciRegistry,
    target: Server | OciRegistry,
    *repositories: str,
    named: bool = False,
    conflicts: tuple[str, ...] = (),
) -> list[str]:
    """Discover, transfer and verify; return the moved tags."""
    ends = {
        "source": {"registry": source.host, "plain_http": True, "repositories": list(repositories)},
        "target": {"registry": target.host, "plain_http": True},
    }
    sync = load_sync(json.dumps({"name": "s", "kind": "images", **ends}))
    assert isinstance(sync, ImagesSync)
    http = Http(RetryPolicy(attempts=3, base=0.02))
    there, here, memory = side(source, http), side(target, http), NoMemory()
    notes = TargetNotes(memory, target.host)
    kind = Images(sync, there, here, http, locations=BlobLocations(memory), notes=notes, trust=Trust((), str))
    scope = Scope.of(repositories) if named else EVERYTHING
    pages = list(kind.discover(scope, None, TIME))
    assert not [each for page in pages for each in page.failures]
    assert tuple(result.name for page in pages for result in page.results) == conflicts
    items = [item for page in pages for item in page.items]
    if not items:
        return []
    arrived = [answer.item for answer in kind.transfer(items, TIME) if isinstance(answer, Completed)]
    assert len(arrived) == len(items)
    proved = [answer for answer in kind.verify(arrived, TIME) if isinstance(answer, Completed)]
    assert len(proved) == len(items)
    return sorted(item.name for item in items)


def signature(server: Server, repository: str, subject: str, what: bytes) -> tuple[str, dict[str, Any]]:
    """Push a signature of an image by digest; return the digest and the entry for a list."""
    image = raw(server, repository, subject)
    config = b"{}"
    server.push_blob(repository, config)
    server.push_blob(repository, what)
    body = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": "application/vnd.example.signature",
            "config": descriptor(OCI_CONFIG, config),
            "layers": [descriptor("application/vnd.example.signature", what)],
            "subject": descriptor(OCI_MANIFEST, image),
        },
        indent=2,
    ).encode()
    entry = descriptor(OCI_MANIFEST, body, artifactType="application/vnd.example.signature")
    return server.push_manifest(repository, digest_of(body), body), entry


def raw(server: Server, repository: str, reference: str) -> bytes:
    accept = {"Accept": f"{OCI_MANIFEST}, {OCI_INDEX}"}
    return server.authorized("GET", f"/v2/{repository}/manifests/{reference}", headers=accept).body


def push_list(server: Server, repository: str, subject: str, *entries: dict[str, Any]) -> str:
    body = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}, indent=1).encode()
    return server.push_manifest(repository, subject.replace(":", "-"), body, OCI_INDEX)


def seen(skopeo: Skopeo, server: Server, reference: str) -> bytes:
    return skopeo("inspect", "--raw", "--tls-verify=false", "--creds", CREDS, f"docker://{server.host}/{reference}")


def test_between_two_that_list_under_tags(registry_pair: RegistryPair, namespace: str, skopeo: Skopeo) -> None:
    name, prod, dr = f"{namespace}/app", registry_pair.prod, registry_pair.dr
    image = prod.push_image(name, "1.0")
    (first, one), (second, two) = (signature(prod, name, image, what) for what in (b"first", b"second"))
    tag = image.replace(":", "-")
    listed = push_list(prod, name, image, one)
    assert copy(prod, dr, name) == ["1.0", tag]
    assert digest_of(seen(skopeo, dr, f"{name}:{tag}")) == listed
    assert digest_of(seen(skopeo, dr, f"{name}@{first}")) == first
    assert copy(prod, dr, name) == []

    listed = push_list(prod, name, image, one, two)  # the list has grown; nothing else is overwritten
    assert copy(prod, dr, name) == [tag]
    assert digest_of(seen(skopeo, dr, f"{name}:{tag}")) == listed
    assert digest_of(seen(skopeo, dr, f"{name}@{second}")) == second

    _, mine = signature(dr, name, image, b"of the target")
    listed = push_list(dr, name, image, two, mine)  # one entry was removed, and a foreign one was added
    assert copy(prod, dr, name, conflicts=(tag,)) == []
    assert digest_of(seen(skopeo, dr, f"{name}:{tag}")) == listed


def test_from_one_with_the_api(
    modern: OciRegistry, registry_pair: RegistryPair, namespace: str, skopeo: Skopeo
) -> None:
    name, dr, store = f"{namespace}/app", registry_pair.dr, modern.store
    image = store.add_image(name, "1.0", b"a layer")
    subject = descriptor(OCI_MANIFEST, store.repositories[name].manifests[image].body)
    made = [store.add_image(name, None, what, subject=subject, artifactType="application/x") for what in (b"1", b"2")]
    inner = descriptor(OCI_MANIFEST, store.repositories[name].manifests[made[0]].body)
    witness = store.add_image(name, None, b"3", subject=inner, annotations={"by": "a notary"})
    assert copy(modern, dr, name) == ["1.0"]
    entries = json.loads(seen(skopeo, dr, f"{name}:{image.replace(':', '-')}"))["manifests"]
    assert {entry["digest"] for entry in entries} == set(made)
    (entry,) = json.loads(seen(skopeo, dr, f"{name}:{made[0].replace(':', '-')}"))["manifests"]
    assert entry == store.referrers(name, made[0])[0]
    assert digest_of(seen(skopeo, dr, f"{name}@{witness}")) == witness

    late = store.add_image(name, None, b"4", subject=subject)
    assert copy(modern, dr, name) == []
    assert copy(modern, dr, name, named=True) == ["1.0"]
    entries = json.loads(seen(skopeo, dr, f"{name}:{image.replace(':', '-')}"))["manifests"]
    assert {entry["digest"] for entry in entries} == {*made, late}
    assert copy(modern, dr, name, named=True) == []


def test_to_one_with_the_api(modern: OciRegistry, registry_pair: RegistryPair, namespace: str) -> None:
    name, prod = f"{namespace}/app", registry_pair.prod
    image = prod.push_image(name, "1.0")
    made, entry = signature(prod, name, image, b"a signature")
    push_list(prod, name, image, entry)
    assert copy(prod, modern, name) == ["1.0", image.replace(":", "-")]
    assert modern.store.referrers(name, image) == [entry]
    assert modern.store.repositories[name].manifests[made].body == raw(prod, name, made)
    assert copy(prod, modern, name, named=True) == []
