"""The model of a registry against the strict stand-in and docker-registry behind the real client: the same answers."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import pytest

from syncline.clients.http.addresses import Endpoint
from syncline.clients.http.client import Http
from syncline.clients.http.listings import ListingPosition
from syncline.clients.http.retry import RetryPolicy
from syncline.clients.registry.client import Registry
from syncline.clients.registry.manifest import OCI_INDEX, OCI_MANIFEST, Descriptor, Manifest
from syncline.clients.registry.reference import digest_of
from syncline.errors import SynclineError
from tests.simulation.machine import Machine, Process
from tests.simulation.models.registry import RegistryServer, SimRegistry
from tests.simulation.network import Calls, Faults, Network
from tests.standins.oci import Fault, OciRegistry
from tests.standins.programs import needs
from tests.standins.registry import Registry as DockerRegistry

BLOB = b"hello, registry"
DIGEST = digest_of(BLOB)
OTHER = digest_of(b"something else")
CONFIG = "application/vnd.oci.image.config.v1+json"
_NAMESPACES = itertools.count(1)


class World:
    """A registry with a client. ``space`` is a namespace that nobody else has; ``server`` is the model's, if it is one."""

    def __init__(self, kind: str, client: Registry, server: RegistryServer | OciRegistry | None = None) -> None:
        self.kind = kind
        self.client = client
        self.server = server
        self.space = f"space{next(_NAMESPACES)}"
        self.app = f"{self.space}/app"

    def put_blob(self, data: bytes = BLOB, repository: str = "") -> Descriptor:
        digest = digest_of(data)
        self.client.begin_upload(repository or self.app).put(digest, data, len(data))
        return Descriptor(digest, len(data), CONFIG)

    def put_image(self, tag: str, layer: bytes = BLOB, **more: Any) -> Manifest:
        image = manifest(config=entry(self.put_blob(b"{}")), layers=[entry(self.put_blob(layer))], **more)
        self.client.put_manifest(self.app, tag or image.digest, image)
        return image


def model() -> tuple[RegistryServer, SimRegistry]:
    machine = Machine(1)
    server = RegistryServer("registry.example", machine)
    calls = Calls(machine, Process(machine, "test"), Faults(off=True))
    return server, SimRegistry(server, Network(calls, Http()))


def real(url: str) -> Registry:
    return Registry(Endpoint.parse(url), lambda: None, Http(RetryPolicy(attempts=1, base=0.01)), 3)


@pytest.fixture(scope="module")
def docker() -> Iterator[DockerRegistry]:
    needs("docker-registry")
    with DockerRegistry() as registry:
        yield registry


@pytest.fixture(params=["model", "standin", "docker-registry"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    if request.param == "model":
        server, client = model()
        yield World("model", client, server)
    elif request.param == "standin":
        with OciRegistry() as standin:
            yield World("standin", real(standin.url), standin)
    else:
        yield World("docker-registry", real(request.getfixturevalue("docker").url))


def entry(blob: Descriptor) -> dict[str, Any]:
    return {"mediaType": blob.media_type, "digest": blob.digest, "size": blob.size}


def manifest(**more: Any) -> Manifest:
    media_type = OCI_INDEX if "manifests" in more else OCI_MANIFEST
    body = json.dumps({"schemaVersion": 2, "mediaType": media_type, **more}).encode()
    return Manifest(digest_of(body), media_type, body)


def subject_of(image: Manifest) -> dict[str, Any]:
    return {"mediaType": image.media_type, "digest": image.digest, "size": len(image.body)}


def code_of(function: Callable[[], object]) -> str:
    with pytest.raises(SynclineError) as error:
        function()
    return error.value.code.name


def broken_off(*chunks: bytes) -> Iterator[bytes]:
    yield from chunks
    raise SynclineError("UNREACHABLE", "the source broke off")


class TestConformance:
    def test_nothing_is_there(self, world: World) -> None:
        client, nowhere = world.client, f"{world.space}/nowhere"
        assert not client.has_repository(nowhere)
        assert list(client.tags(nowhere)) == []
        assert client.manifest_digest(nowhere, "v1") is None
        assert client.manifest_digest(nowhere, DIGEST) is None
        assert not client.has_blob(nowhere, DIGEST)
        assert client.blob_size(nowhere, Descriptor(DIGEST, 3, CONFIG)) is None
        assert client.referrers(nowhere, DIGEST) == ()
        assert code_of(lambda: client.manifest(nowhere, "v1")) == "NOT_FOUND"
        assert code_of(lambda: client.open_blob(nowhere, DIGEST)) == "NOT_FOUND"

    def test_names_that_are_none(self, world: World) -> None:
        client = world.client
        calls: list[Callable[[], object]] = [
            lambda: client.tag_pages("Upper"),
            lambda: client.has_repository(""),
            lambda: client.manifest_digest("a", "-tag"),
            lambda: client.manifest("a", "sha256:12"),
            lambda: client.has_blob("a", "md5:12"),
            lambda: client.open_blob("a//b", DIGEST),
            lambda: client.begin_upload("A"),
            lambda: client.mount_blob("a", "no digest", "b"),
            lambda: client.referrers("a", "tag"),
            lambda: client.put_manifest("a", "no tag", manifest(manifests=[])),
        ]
        assert {code_of(call) for call in calls} == {"REFERENCE_INVALID"}

    def test_an_image_comes_back_as_it_was_put(self, world: World) -> None:
        image = world.put_image("v1")
        assert world.client.has_repository(world.app)
        assert world.client.manifest_digest(world.app, "v1") == image.digest
        assert world.client.manifest_digest(world.app, image.digest) == image.digest
        assert world.client.manifest(world.app, "v1") == image
        assert world.client.manifest(world.app, image.digest) == image
        assert world.client.put_tag(world.app, "v2", image, None) is None
        assert set(world.client.tags(world.app)) == {"v1", "v2"}

    def test_a_repository_appears_with_its_first_blob(self, world: World) -> None:
        upload = world.client.begin_upload(world.app)
        if world.kind != "standin":  # it knows a repository from the first session on
            assert world.app not in world.client.catalog()
        upload.put(DIGEST, BLOB, len(BLOB))
        assert world.app in world.client.catalog()
        if world.kind != "standin":
            assert not world.client.has_repository(world.app)

    def test_listings_in_pages(self, world: World) -> None:
        names = [f"v{number}" for number in range(8)]
        image = world.put_image(names[0])
        for name in names[1:]:
            world.client.put_manifest(world.app, name, image)
        assert sorted(world.client.tags(world.app)) == names
        if world.kind == "docker-registry":  # 2.8 lists all tags at once, in no order
            return
        pages = list(world.client.tag_pages(world.app))
        assert [page.entries for page in pages] == [names[:3], names[3:6], names[6:]]
        second = pages[0].next_position
        assert second is not None
        assert pages[-1].next_position is None
        again = ListingPosition.of_json(json.loads(json.dumps(second.to_json())))
        assert [page.entries for page in world.client.tag_pages(world.app, start=again)] == [names[3:6], names[6:]]

    def test_the_catalog_in_pages(self, world: World) -> None:
        names = [f"{world.space}/app{number}" for number in range(7)]
        for name in names:
            world.put_blob(repository=name)
        pages = list(world.client.catalog_pages())
        assert [name for page in pages for name in page.entries if name in names] == names
        assert max(len(page.entries) for page in pages) <= 3
        start = pages[0].next_position
        assert start is not None
        rest = [name for page in world.client.catalog_pages(start=start) for name in page.entries]
        assert rest == [name for page in pages[1:] for name in page.entries]

    def test_a_manifest_before_its_parts(self, world: World) -> None:
        blob = world.put_blob()
        missing = entry(Descriptor(OTHER, 14, CONFIG))
        put = world.client.put_manifest
        assert code_of(lambda: put(world.app, "v1", manifest(config=entry(blob), layers=[missing]))) == "REFUSED"
        child = {**missing, "mediaType": OCI_MANIFEST}
        assert code_of(lambda: put(world.app, "v1", manifest(manifests=[child]))) == "REFUSED"
        assert code_of(lambda: put(world.app, OTHER, manifest(config=entry(blob), layers=[]))) == "REFUSED"
        assert world.client.manifest_digest(world.app, "v1") is None

    def test_an_index_and_its_children(self, world: World) -> None:
        children = [world.put_image("", layer) for layer in (b"one", b"two")]
        index = manifest(manifests=[subject_of(child) for child in children])
        assert world.client.put_manifest(world.app, "v1", index)
        assert world.client.manifest(world.app, "v1").is_index
        assert [each.digest for each in index.children()] == [child.digest for child in children]
        assert list(world.client.tags(world.app)) == ["v1"]

    def test_a_tag_moves_if_it_is_as_seen(self, world: World) -> None:
        old, new, third = (world.put_image(tag, tag.encode()) for tag in ("old", "new", "third"))
        assert world.client.put_tag(world.app, "v1", old, None) is None
        assert world.client.put_tag(world.app, "v1", new, old) == old.digest
        assert world.client.put_tag(world.app, "v1", new, old) is None
        assert code_of(lambda: world.client.put_tag(world.app, "v1", third, old)) == "TAG_DIFFERS"
        assert world.client.put_tag(world.app, "v1", third, None, overwrite=True) == new.digest
        assert world.client.manifest_digest(world.app, "v1") == third.digest

    def test_blobs_are_read_from_anywhere(self, world: World) -> None:
        blob = world.put_blob()
        with world.client.open_blob(world.app, DIGEST) as stream:
            assert (stream.offset, stream.size) == (0, len(BLOB))
            assert stream.read(4) == BLOB[:4]
            stream.skip(2)
            assert b"".join(stream) == BLOB[6:]
            assert (stream.offset, stream.read()) == (len(BLOB), b"")
        with world.client.open_blob(world.app, DIGEST, 5) as stream:
            assert (stream.offset, stream.size) == (5, len(BLOB))
            assert code_of(lambda: stream.skip(100)) == "BAD_ANSWER"
        assert code_of(lambda: world.client.open_blob(world.app, DIGEST, len(BLOB) + 1)) == "REFUSED"
        assert world.client.blob_size(world.app, blob) == len(BLOB)
        assert world.client.blob_size(world.app, Descriptor(DIGEST, 3, CONFIG)) == len(BLOB)
        assert world.client.open_blob(world.app, DIGEST, len(BLOB)).read() == b""

    def test_a_blob_is_mounted(self, world: World) -> None:
        world.put_blob()
        twin = f"{world.space}/twin"
        assert world.client.mount_blob(twin, DIGEST, world.app)
        assert world.client.has_blob(twin, DIGEST)
        assert not world.client.mount_blob(twin, OTHER, world.app)
        assert not world.client.mount_blob(twin, DIGEST, f"{world.space}/nowhere") or world.kind == "docker-registry"
        assert not world.client.has_blob(twin, OTHER)

    @pytest.mark.parametrize("iterable", [False, True])
    def test_a_blob_in_one_request(self, world: World, iterable: bool) -> None:
        content: bytes | Iterable[bytes] = iter([BLOB[:4], BLOB[4:]]) if iterable else BLOB
        world.client.begin_upload(world.app).put(DIGEST, content, len(BLOB))
        assert world.client.blob_size(world.app, Descriptor(DIGEST, len(BLOB), CONFIG)) == len(BLOB)
        wrong = iter([BLOB]) if iterable else BLOB
        assert code_of(lambda: world.client.begin_upload(world.app).put(OTHER, wrong, len(BLOB))) == "DIGEST_MISMATCH"
        for size in (3, 99):
            other = iter([BLOB]) if iterable else BLOB
            put = world.client.begin_upload(world.app).put
            assert code_of(partial(put, DIGEST, other, size)) == "BAD_ANSWER"

    def test_a_blob_in_many_requests(self, world: World) -> None:
        upload, size = world.client.begin_upload(world.app), len(BLOB)
        assert upload.write([BLOB[:3], BLOB[3:5]], size) == 5
        assert upload.status() == 5
        state = json.loads(json.dumps(upload.state()))
        resumed = world.client.resume_upload(world.app, state)
        assert resumed.offset == 5
        assert resumed.write([BLOB[5:]], size, size - 5) == size
        resumed.finish(DIGEST)
        assert world.client.has_blob(world.app, DIGEST)
        assert code_of(lambda: world.client.resume_upload(world.app, state).write([b"more"], 99)) == "UPLOAD_LOST"

    def test_bytes_with_another_digest(self, world: World) -> None:
        upload = world.client.begin_upload(world.app)
        upload.write([BLOB])
        assert code_of(lambda: upload.finish(OTHER)) == "DIGEST_MISMATCH"
        assert not world.client.has_blob(world.app, OTHER)

    def test_a_session_after_a_wrong_digest(self, world: World) -> None:
        upload = world.client.begin_upload(world.app)
        upload.write([BLOB])
        for _ in range(2):
            assert code_of(lambda: upload.finish(OTHER)) == "DIGEST_MISMATCH"
        assert upload.status() == len(BLOB)
        upload.finish(DIGEST)
        assert world.client.has_blob(world.app, DIGEST)

    def test_a_repository_is_there_with_its_first_blob(self, world: World) -> None:
        upload = world.client.begin_upload(world.app)
        upload.write([BLOB])
        assert world.app not in list(world.client.catalog())
        assert not world.client.has_repository(world.app)
        upload.finish(DIGEST)
        assert world.app in list(world.client.catalog())

    def test_a_finish_that_had_arrived(self, world: World) -> None:
        upload = world.client.begin_upload(world.app)
        upload.write([BLOB])
        upload.finish(DIGEST)
        upload.finish(DIGEST)
        assert code_of(lambda: upload.finish(OTHER)) == "UPLOAD_LOST"

    def test_a_cancelled_upload(self, world: World) -> None:
        upload = world.client.begin_upload(world.app)
        upload.cancel()
        upload.cancel()
        assert code_of(upload.status) == "UPLOAD_LOST"
        assert code_of(lambda: upload.write([BLOB])) == "UPLOAD_LOST"
        assert code_of(lambda: upload.finish(DIGEST)) == "UPLOAD_LOST"
        upload.put(DIGEST, BLOB, len(BLOB))  # in a session of its own
        assert world.client.has_blob(world.app, DIGEST)

    def test_a_state_that_is_none(self, world: World) -> None:
        for state in ({}, {"target": "elsewhere", "offset": 3}, {"target": "/v2/", "offset": "3"}):
            assert code_of(partial(world.client.resume_upload, world.app, state)) == "UPLOAD_LOST"

    def test_one_byte_is_told_as_none(self, world: World) -> None:
        upload = world.client.begin_upload(world.app)
        assert upload.status() == 0
        assert upload.write([b"h"]) == 1
        assert upload.status() == 0

    @pytest.mark.parametrize("forgets", [False, True])
    def test_a_source_that_breaks_off(self, world: World, forgets: bool) -> None:
        if world.server is not None:
            world.server.forgets_broken = forgets
        else:
            pytest.skip("docker-registry forgets it in its own time")
        upload = world.client.begin_upload(world.app)
        state = upload.state()
        assert code_of(lambda: upload.write(broken_off(b"hello"), len(BLOB))) == "UNREACHABLE"
        if isinstance(world.server, OciRegistry):
            assert world.server.broken.acquire(timeout=30), "the server has not met the end of the connection"
        resumed = world.client.resume_upload(world.app, state)
        if forgets:
            assert code_of(resumed.status) == "UPLOAD_LOST"
        else:
            assert resumed.status() == 5

    def test_bytes_that_do_not_go_on_at_the_end(self, world: World) -> None:
        if world.kind == "docker-registry":
            pytest.skip("it looks at the state in the address only")
        upload = world.client.begin_upload(world.app)
        state = upload.state()
        upload.write([BLOB[:5]])
        assert code_of(lambda: upload.write([BLOB[5:]])) == "UPLOAD_LOST"  # it does not say where
        late = world.client.resume_upload(world.app, {**state, "offset": 3})
        assert code_of(lambda: late.write([BLOB[3:]], len(BLOB))) == "UPLOAD_LOST"
        assert upload.write([BLOB[5:]], len(BLOB)) == len(BLOB)

    def test_a_part_of_known_size_in_the_middle(self, world: World) -> None:
        for total in (len(BLOB), None):
            upload = world.client.begin_upload(world.app)
            upload.write([BLOB[:5]], total, 5)
            assert upload.write([BLOB[5:8]], total, 3) == 8
            assert upload.write([BLOB[8:]], total, len(BLOB) - 8) == len(BLOB)
            upload.finish(DIGEST)
        assert world.client.has_blob(world.app, DIGEST)

    @pytest.mark.parametrize("api", [True, False])
    def test_referrers(self, world: World, api: bool) -> None:
        if isinstance(world.server, RegistryServer):
            world.server.referrers_api, world.server.page_size = api, 1
        elif isinstance(world.server, OciRegistry):
            world.server.lists_referrers, world.server.referrers_page = api, 1
        elif api:
            pytest.skip("docker-registry 2.8 has no API for them")
        image = world.put_image("v1")
        parts: dict[str, Any] = {"config": entry(world.put_blob(b"{}")), "layers": [], "subject": subject_of(image)}
        signed = [manifest(**parts, artifactType=kind) for kind in ("a/b", "c/d")]
        for each in signed:
            assert world.client.put_manifest(world.app, each.digest, each) is api
        found = world.client.referrers(world.app, image.digest)
        assert [each.digest for each in found] == ([each.digest for each in signed] if api else [])
        listing = manifest(manifests=[each.as_entry() for each in signed])
        assert world.client.put_manifest(world.app, image.digest.replace(":", "-"), listing)
        assert {each.digest for each in world.client.referrers(world.app, image.digest)} == {s.digest for s in signed}

    def test_a_repository_that_takes_no_pushes(self, world: World) -> None:
        if world.kind == "docker-registry":
            pytest.skip("it has no such repositories")
        image = world.put_image("v1")
        if isinstance(world.server, RegistryServer):
            world.server.read_only.add(world.app)
        elif isinstance(world.server, OciRegistry):
            refusal = Fault(405, body=b'{"errors": [{"code": "UNSUPPORTED"}]}')
            for method in ("PUT", "POST"):
                world.server.fault(method, "/v2/", refusal, times=None)
        assert code_of(lambda: world.client.put_manifest(world.app, "v2", image)) == "READ_ONLY"
        assert code_of(lambda: world.client.begin_upload(world.app)) == "READ_ONLY"
        # Some registries refuse each mount, so the upload that follows says why.
        assert not world.client.mount_blob(world.app, OTHER, "elsewhere")
        assert world.client.manifest_digest(world.app, "v1") == image.digest


class TestSwitches:
    def test_worlds_are_made_from_seeds(self) -> None:
        (server, client), (twin, _) = model(), model()
        digest = server.push_image("team/app", "v1", 7, layers=3)
        assert twin.push_image("other", None, 7, layers=3) == digest != server.push_image("team/app", "v2", 8)
        index = server.push_index("team/app", "all", [1, 2])
        assert [each.platform for each in client.manifest("team/app", "all").children()] == [
            "linux/amd64",
            "linux/arm64",
        ]
        signature = server.push_signature("team/app", index, 1)
        assert [each.digest for each in client.referrers("team/app", index)] == [signature]
        assert server.tags()["team/app", "all"] == index
        assert server.broken() == []
        lost = client.manifest("team/app", "v1").layers()[-1].digest
        server.delete_blob("team/app", lost)
        server.delete_manifest("team/app", client.manifest("team/app", "all").children()[0].digest)
        assert [line.partition(" ")[0] for line in server.broken()] == ["team/app:all", "team/app:v1"]

    def test_signatures_without_an_api(self) -> None:
        server, client = model()
        server.referrers_api = False
        digest = server.push_image("app", "v1", 1)
        signed = [server.push_signature("app", digest, seed) for seed in (1, 2, 2)]
        assert [each.digest for each in client.referrers("app", digest)] == signed[:2]

    def test_changes_of_tags_are_recorded(self) -> None:
        server, client = model()
        heard: list[object] = []
        server.on_tag = lambda *change: heard.append(change)
        one, two = server.push_image("app", "v1", 1), server.push_image("app", None, 2)
        server.move_tag("app", "v1", two)
        client.put_manifest("app", "v1", client.manifest("app", two))  # changes nothing
        client.put_manifest("app", "v1", client.manifest("app", one))
        server.delete_tag("app", "v1")
        changes = [(None, one), (one, two), (two, one), (one, None)]
        assert server.writes == [("tag", "app", "v1", old, new) for old, new in changes]
        assert heard == [("app", "v1", old, new) for old, new in changes]
        assert client.has_repository("app")
        assert list(client.tags("app")) == []

    def test_a_manifest_that_is_forgotten(self) -> None:
        server, client = model()
        image = client.manifest("app", server.push_image("app", "v1", 1))
        server.answers_201_and_forgets = True
        assert client.put_manifest("app", "v2", image)
        assert client.manifest_digest("app", "v2") is None
        server.behave()
        assert client.put_tag("app", "v2", image, None) is None
        assert client.manifest_digest("app", "v2") == image.digest

    def test_odd_listings(self) -> None:
        server, client = model()
        for number in range(5):
            server.push_image("app", f"v{number}", number)
        server.listing_cut = 4
        assert list(client.tags("app")) == ["v0", "v1", "v2", "v3"]
        server.empty_listing = True
        assert list(client.tags("app")) == list(client.catalog()) == []
        server.behave()
        server.endless, server.page_size = True, 1
        assert code_of(lambda: list(client.tags("app"))) == "LISTING_TOO_LONG"
        assert len(set(itertools.islice(client.catalog(), 50))) == 50

    def test_sparse_indexes(self) -> None:
        server, client = model()
        server.accepts_sparse = True
        missing = {"mediaType": OCI_MANIFEST, "digest": OTHER, "size": 3}
        assert client.put_manifest("app", "v1", manifest(manifests=[missing]))
        assert server.broken() == [f"app:v1 lacks {OTHER}"]

    def test_mounts_that_are_refused(self) -> None:
        server, client = model()
        server.push_image("app", "v1", 1)
        digest = client.manifest("app", "v1").layers()[0].digest
        server.mount_refused = True
        assert not client.mount_blob("twin", digest, "app")
        assert server.uploads == {}

    def test_uploads_that_are_lost(self) -> None:
        server, client = model()
        upload = client.begin_upload("app")
        server.loses_uploads = True
        assert code_of(lambda: upload.write([BLOB])) == "UPLOAD_LOST"
        assert code_of(lambda: client.begin_upload("app").put(DIGEST, BLOB, len(BLOB))) == "UPLOAD_LOST"
        assert server.received == []

    def test_tags_that_are_shown_late(self) -> None:
        server, client = model()
        machine = server.machine
        one, two = server.push_image("app", "v1", 1), server.push_image("app", None, 2)
        machine.run(machine.now + 60)
        server.stale_tags = 5.0
        server.move_tag("app", "v1", two)
        assert client.manifest_digest("app", "v1") == one
        assert client.manifest("app", "v1").digest == two
        machine.run(machine.now + 5)
        assert client.manifest_digest("app", "v1") == two

    def test_a_blob_settles(self) -> None:
        server, client = model()
        server.settling = 0.3
        world = World("model", client, server)
        image = world.put_image("v1")
        assert server.tags() == {(world.app, "v1"): image.digest}
        assert client.network.calls.faults.points["PUT manifest"] > 1
        server.settling = 60
        assert code_of(lambda: world.put_image("v2", b"another")) == "REFUSED"

    def test_each_chunk_and_page_is_a_call(self) -> None:
        server, client = model()
        points = client.network.calls.faults.points
        data = b"x" * 60
        upload = client.begin_upload("app")
        upload.write([data[:20], data[20:40], data[40:]])
        upload.finish(digest_of(data))
        with client.open_blob("app", digest_of(data)) as stream:
            assert b"".join(stream) == data
        for number in range(4):
            server.push_image("app", f"v{number}", number)
        list(client.tags("app"))
        assert points == {
            "POST upload": 1,
            "PATCH upload": 3,
            "PUT upload": 1,
            "GET blob": 1,
            "GET blob bytes": 3,
            "GET tags": 2,
        }
