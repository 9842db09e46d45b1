"""The registry model against the real client with the strict stand-in and with docker-registry."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import pytest

from syncline.clients.http.listings import ListingPosition
from syncline.clients.registry.manifest import OCI_MANIFEST, Descriptor
from tests.simulation.models.registry import RegistryServer
from tests.simulation.models.registry_systems import (
    BLOB,
    CONFIG,
    DIGEST,
    OTHER,
    System,
    code_of,
    entry,
    failing_source,
    manifest,
    model,
    real,
    subject_of,
)
from tests.standins.oci import Fault, OciRegistry
from tests.standins.programs import needs
from tests.standins.registry import Registry as DockerRegistry


@pytest.fixture(scope="module")
def docker() -> Iterator[DockerRegistry]:
    needs("docker-registry")
    with DockerRegistry() as registry:
        yield registry


@pytest.fixture(params=["model", "standin", "docker-registry"])
def system(request: pytest.FixtureRequest) -> Iterator[System]:
    if request.param == "model":
        server, client = model()
        yield System("model", client, server)
    elif request.param == "standin":
        with OciRegistry() as standin:
            yield System("standin", real(standin.url), standin)
    else:
        yield System("docker-registry", real(request.getfixturevalue("docker").url))


class TestConformance:
    def test_an_absent_repository_is_empty(self, system: System) -> None:
        client, absent = system.client, f"{system.namespace}/absent"
        assert not client.has_repository(absent)
        assert list(client.tags(absent)) == []
        assert client.manifest_digest(absent, "v1") is None
        assert client.manifest_digest(absent, DIGEST) is None
        assert not client.has_blob(absent, DIGEST)
        assert client.blob_size(absent, Descriptor(DIGEST, 3, CONFIG)) is None
        assert client.referrers(absent, DIGEST) == ()
        assert code_of(lambda: client.manifest(absent, "v1")) == "NOT_FOUND"
        assert code_of(lambda: client.open_blob(absent, DIGEST)) == "NOT_FOUND"

    def test_invalid_names_are_refused(self, system: System) -> None:
        client = system.client
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

    def test_an_image_is_read_as_it_was_put(self, system: System) -> None:
        image = system.put_image("v1")
        assert system.client.has_repository(system.app)
        assert system.client.manifest_digest(system.app, "v1") == image.digest
        assert system.client.manifest_digest(system.app, image.digest) == image.digest
        assert system.client.manifest(system.app, "v1") == image
        assert system.client.manifest(system.app, image.digest) == image
        assert system.client.put_tag(system.app, "v2", image, None) is None
        assert set(system.client.tags(system.app)) == {"v1", "v2"}

    def test_the_catalog_lists_a_repository_from_its_first_blob_on(self, system: System) -> None:
        upload = system.client.begin_upload(system.app)
        if system.kind != "standin":  # which lists a repository from its first upload session on
            assert system.app not in system.client.catalog()
        upload.put(DIGEST, BLOB, len(BLOB))
        assert system.app in system.client.catalog()
        if system.kind != "standin":
            assert not system.client.has_repository(system.app)

    def test_tags_are_listed_in_pages(self, system: System) -> None:
        names = [f"v{number}" for number in range(8)]
        image = system.put_image(names[0])
        for name in names[1:]:
            system.client.put_manifest(system.app, name, image)
        assert sorted(system.client.tags(system.app)) == names
        if system.kind == "docker-registry":  # 2.8 lists all tags at once, in any order
            return
        pages = list(system.client.tag_pages(system.app))
        assert [page.entries for page in pages] == [names[:3], names[3:6], names[6:]]
        second = pages[0].next_position
        assert second is not None
        assert pages[-1].next_position is None
        again = ListingPosition.of_json(json.loads(json.dumps(second.to_json())))
        assert [page.entries for page in system.client.tag_pages(system.app, start=again)] == [names[3:6], names[6:]]

    def test_the_catalog_is_listed_in_pages(self, system: System) -> None:
        names = [f"{system.namespace}/app{number}" for number in range(7)]
        for name in names:
            system.put_blob(repository=name)
        pages = list(system.client.catalog_pages())
        assert [name for page in pages for name in page.entries if name in names] == names
        assert max(len(page.entries) for page in pages) <= 3
        start = pages[0].next_position
        assert start is not None
        rest = [name for page in system.client.catalog_pages(start=start) for name in page.entries]
        assert rest == [name for page in pages[1:] for name in page.entries]

    def test_a_manifest_is_refused_before_its_parts(self, system: System) -> None:
        blob = system.put_blob()
        missing = entry(Descriptor(OTHER, 14, CONFIG))
        put = system.client.put_manifest
        assert code_of(lambda: put(system.app, "v1", manifest(config=entry(blob), layers=[missing]))) == "REFUSED"
        child = {**missing, "mediaType": OCI_MANIFEST}
        assert code_of(lambda: put(system.app, "v1", manifest(manifests=[child]))) == "REFUSED"
        assert code_of(lambda: put(system.app, OTHER, manifest(config=entry(blob), layers=[]))) == "REFUSED"
        assert system.client.manifest_digest(system.app, "v1") is None

    def test_an_index_is_accepted_after_its_children(self, system: System) -> None:
        children = [system.put_image("", layer) for layer in (b"one", b"two")]
        index = manifest(manifests=[subject_of(child) for child in children])
        assert system.client.put_manifest(system.app, "v1", index)
        assert system.client.manifest(system.app, "v1").is_index
        assert [each.digest for each in index.children()] == [child.digest for child in children]
        assert list(system.client.tags(system.app)) == ["v1"]

    def test_a_tag_is_replaced_if_it_has_the_expected_digest(self, system: System) -> None:
        old, new, third = (system.put_image(tag, tag.encode()) for tag in ("old", "new", "third"))
        assert system.client.put_tag(system.app, "v1", old, None) is None
        assert system.client.put_tag(system.app, "v1", new, old) == old.digest
        assert system.client.put_tag(system.app, "v1", new, old) is None
        assert code_of(lambda: system.client.put_tag(system.app, "v1", third, old)) == "TAG_DIFFERS"
        assert system.client.put_tag(system.app, "v1", third, None, overwrite=True) == new.digest
        assert system.client.manifest_digest(system.app, "v1") == third.digest

    def test_blobs_are_read_from_any_offset(self, system: System) -> None:
        blob = system.put_blob()
        with system.client.open_blob(system.app, DIGEST) as stream:
            assert (stream.offset, stream.size) == (0, len(BLOB))
            assert stream.read(4) == BLOB[:4]
            stream.skip(2)
            assert b"".join(stream) == BLOB[6:]
            assert (stream.offset, stream.read()) == (len(BLOB), b"")
        with system.client.open_blob(system.app, DIGEST, 5) as stream:
            assert (stream.offset, stream.size) == (5, len(BLOB))
            assert code_of(lambda: stream.skip(100)) == "BAD_ANSWER"
        assert code_of(lambda: system.client.open_blob(system.app, DIGEST, len(BLOB) + 1)) == "REFUSED"
        assert system.client.blob_size(system.app, blob) == len(BLOB)
        assert system.client.blob_size(system.app, Descriptor(DIGEST, 3, CONFIG)) == len(BLOB)
        assert system.client.open_blob(system.app, DIGEST, len(BLOB)).read() == b""

    def test_a_blob_is_mounted(self, system: System) -> None:
        system.put_blob()
        twin = f"{system.namespace}/twin"
        assert system.client.mount_blob(twin, DIGEST, system.app)
        assert system.client.has_blob(twin, DIGEST)
        assert not system.client.mount_blob(twin, OTHER, system.app)
        assert (
            not system.client.mount_blob(twin, DIGEST, f"{system.namespace}/absent") or system.kind == "docker-registry"
        )
        assert not system.client.has_blob(twin, OTHER)

    @pytest.mark.parametrize("iterable", [False, True])
    def test_a_blob_is_uploaded_in_one_request(self, system: System, iterable: bool) -> None:
        content: bytes | Iterable[bytes] = iter([BLOB[:4], BLOB[4:]]) if iterable else BLOB
        system.client.begin_upload(system.app).put(DIGEST, content, len(BLOB))
        assert system.client.blob_size(system.app, Descriptor(DIGEST, len(BLOB), CONFIG)) == len(BLOB)
        wrong = iter([BLOB]) if iterable else BLOB
        assert code_of(lambda: system.client.begin_upload(system.app).put(OTHER, wrong, len(BLOB))) == "DIGEST_MISMATCH"
        for size in (3, 99):
            other = iter([BLOB]) if iterable else BLOB
            put = system.client.begin_upload(system.app).put
            assert code_of(partial(put, DIGEST, other, size)) == "BAD_ANSWER"

    def test_a_blob_is_uploaded_in_many_requests(self, system: System) -> None:
        upload, size = system.client.begin_upload(system.app), len(BLOB)
        assert upload.write([BLOB[:3], BLOB[3:5]], size) == 5
        assert upload.status() == 5
        state = json.loads(json.dumps(upload.state()))
        resumed = system.client.resume_upload(system.app, state)
        assert resumed.offset == 5
        assert resumed.write([BLOB[5:]], size, size - 5) == size
        resumed.finish(DIGEST)
        assert system.client.has_blob(system.app, DIGEST)
        assert code_of(lambda: system.client.resume_upload(system.app, state).write([b"more"], 99)) == "UPLOAD_LOST"

    def test_bytes_with_another_digest_are_refused(self, system: System) -> None:
        upload = system.client.begin_upload(system.app)
        upload.write([BLOB])
        assert code_of(lambda: upload.finish(OTHER)) == "DIGEST_MISMATCH"
        assert not system.client.has_blob(system.app, OTHER)

    def test_an_upload_continues_after_a_wrong_digest(self, system: System) -> None:
        upload = system.client.begin_upload(system.app)
        upload.write([BLOB])
        for _ in range(2):
            assert code_of(lambda: upload.finish(OTHER)) == "DIGEST_MISMATCH"
        assert upload.status() == len(BLOB)
        upload.finish(DIGEST)
        assert system.client.has_blob(system.app, DIGEST)

    def test_an_unfinished_upload_creates_no_repository(self, system: System) -> None:
        upload = system.client.begin_upload(system.app)
        upload.write([BLOB])
        assert system.app not in list(system.client.catalog())
        assert not system.client.has_repository(system.app)
        upload.finish(DIGEST)
        assert system.app in list(system.client.catalog())

    def test_an_upload_can_be_finished_twice(self, system: System) -> None:
        upload = system.client.begin_upload(system.app)
        upload.write([BLOB])
        upload.finish(DIGEST)
        upload.finish(DIGEST)
        assert code_of(lambda: upload.finish(OTHER)) == "UPLOAD_LOST"

    def test_a_cancelled_upload_is_lost(self, system: System) -> None:
        upload = system.client.begin_upload(system.app)
        upload.cancel()
        upload.cancel()
        assert code_of(upload.status) == "UPLOAD_LOST"
        assert code_of(lambda: upload.write([BLOB])) == "UPLOAD_LOST"
        assert code_of(lambda: upload.finish(DIGEST)) == "UPLOAD_LOST"
        upload.put(DIGEST, BLOB, len(BLOB))  # in a session of its own
        assert system.client.has_blob(system.app, DIGEST)

    def test_an_invalid_upload_state_is_refused(self, system: System) -> None:
        for state in ({}, {"target": "elsewhere", "offset": 3}, {"target": "/v2/", "offset": "3"}):
            assert code_of(partial(system.client.resume_upload, system.app, state)) == "UPLOAD_LOST"

    def test_the_status_of_one_byte_is_that_of_none(self, system: System) -> None:
        upload = system.client.begin_upload(system.app)
        assert upload.status() == 0
        assert upload.write([b"h"]) == 1
        assert upload.status() == 0

    @pytest.mark.parametrize("forgets", [False, True])
    def test_an_upload_survives_a_failed_source_unless_the_registry_forgets_it(
        self, system: System, forgets: bool
    ) -> None:
        if system.server is not None:
            system.server.forgets_broken = forgets
        else:
            pytest.skip("docker-registry forgets a broken upload at any time")
        upload = system.client.begin_upload(system.app)
        state = upload.state()
        assert code_of(lambda: upload.write(failing_source(b"hello"), len(BLOB))) == "UNREACHABLE"
        if isinstance(system.server, OciRegistry):
            assert system.server.broken.acquire(timeout=30), "the server did not see the end of the connection"
        resumed = system.client.resume_upload(system.app, state)
        if forgets:
            assert code_of(resumed.status) == "UPLOAD_LOST"
        else:
            assert resumed.status() == 5

    def test_bytes_at_another_offset_are_refused(self, system: System) -> None:
        if system.kind == "docker-registry":
            pytest.skip("docker-registry reads only the state in the URL")
        upload = system.client.begin_upload(system.app)
        state = upload.state()
        upload.write([BLOB[:5]])
        assert code_of(lambda: upload.write([BLOB[5:]])) == "UPLOAD_LOST"  # without an offset
        late = system.client.resume_upload(system.app, {**state, "offset": 3})
        assert code_of(lambda: late.write([BLOB[3:]], len(BLOB))) == "UPLOAD_LOST"
        assert upload.write([BLOB[5:]], len(BLOB)) == len(BLOB)

    def test_a_chunk_of_known_size_is_appended(self, system: System) -> None:
        for total in (len(BLOB), None):
            upload = system.client.begin_upload(system.app)
            upload.write([BLOB[:5]], total, 5)
            assert upload.write([BLOB[5:8]], total, 3) == 8
            assert upload.write([BLOB[8:]], total, len(BLOB) - 8) == len(BLOB)
            upload.finish(DIGEST)
        assert system.client.has_blob(system.app, DIGEST)

    @pytest.mark.parametrize("api", [True, False])
    def test_referrers_are_listed_by_the_api_or_a_tag(self, system: System, api: bool) -> None:
        if isinstance(system.server, RegistryServer):
            system.server.referrers_api, system.server.page_size = api, 1
        elif isinstance(system.server, OciRegistry):
            system.server.lists_referrers, system.server.referrers_page = api, 1
        elif api:
            pytest.skip("docker-registry 2.8 has no referrers API")
        image = system.put_image("v1")
        parts: dict[str, Any] = {"config": entry(system.put_blob(b"{}")), "layers": [], "subject": subject_of(image)}
        signed = [manifest(**parts, artifactType=kind) for kind in ("a/b", "c/d")]
        for each in signed:
            assert system.client.put_manifest(system.app, each.digest, each) is api
        found = system.client.referrers(system.app, image.digest)
        assert [each.digest for each in found] == ([each.digest for each in signed] if api else [])
        listing = manifest(manifests=[each.as_entry() for each in signed])
        assert system.client.put_manifest(system.app, image.digest.replace(":", "-"), listing)
        assert {each.digest for each in system.client.referrers(system.app, image.digest)} == {s.digest for s in signed}

    def test_a_read_only_repository_refuses_pushes(self, system: System) -> None:
        if system.kind == "docker-registry":
            pytest.skip("docker-registry has no read-only repositories")
        image = system.put_image("v1")
        if isinstance(system.server, RegistryServer):
            system.server.read_only.add(system.app)
        elif isinstance(system.server, OciRegistry):
            refusal = Fault(405, body=b'{"errors": [{"code": "UNSUPPORTED"}]}')
            for method in ("PUT", "POST"):
                system.server.fault(method, "/v2/", refusal, times=None)
        assert code_of(lambda: system.client.put_manifest(system.app, "v2", image)) == "READ_ONLY"
        assert code_of(lambda: system.client.begin_upload(system.app)) == "READ_ONLY"
        # Some registries refuse all mounts, so only the upload that follows fails with the reason.
        assert not system.client.mount_blob(system.app, OTHER, "elsewhere")
        assert system.client.manifest_digest(system.app, "v1") == image.digest
