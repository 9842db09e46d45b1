"""The registry in memory: content made from seeds, faults, and the calls of its client."""

from __future__ import annotations

import itertools

from syncline.clients.registry.manifest import OCI_MANIFEST
from syncline.clients.registry.reference import digest_of
from tests.simulation.models.registry_systems import (
    BLOB,
    DIGEST,
    OTHER,
    System,
    code_of,
    manifest,
    model,
)


class TestRegistryServer:
    def test_images_are_made_from_seeds(self) -> None:
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

    def test_signatures_are_listed_by_tag_without_the_api(self) -> None:
        server, client = model()
        server.referrers_api = False
        digest = server.push_image("app", "v1", 1)
        signed = [server.push_signature("app", digest, seed) for seed in (1, 2, 2)]
        assert [each.digest for each in client.referrers("app", digest)] == signed[:2]

    def test_changes_of_tags_are_recorded(self) -> None:
        server, client = model()
        reported: list[object] = []
        server.on_tag = lambda *change: reported.append(change)
        one, two = server.push_image("app", "v1", 1), server.push_image("app", None, 2)
        server.move_tag("app", "v1", two)
        client.put_manifest("app", "v1", client.manifest("app", two))  # changes nothing
        client.put_manifest("app", "v1", client.manifest("app", one))
        server.delete_tag("app", "v1")
        changes = [(None, one), (one, two), (two, one), (one, None)]
        assert server.writes == [("tag", "app", "v1", old, new) for old, new in changes]
        assert reported == [("app", "v1", old, new) for old, new in changes]
        assert client.has_repository("app")
        assert list(client.tags("app")) == []

    def test_a_manifest_may_be_discarded(self) -> None:
        server, client = model()
        image = client.manifest("app", server.push_image("app", "v1", 1))
        server.answers_201_and_forgets = True
        assert client.put_manifest("app", "v2", image)
        assert client.manifest_digest("app", "v2") is None
        server.behave()
        assert client.put_tag("app", "v2", image, None) is None
        assert client.manifest_digest("app", "v2") == image.digest

    def test_listings_may_be_cut_empty_or_endless(self) -> None:
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

    def test_sparse_indexes_may_be_accepted(self) -> None:
        server, client = model()
        server.accepts_sparse = True
        missing = {"mediaType": OCI_MANIFEST, "digest": OTHER, "size": 3}
        assert client.put_manifest("app", "v1", manifest(manifests=[missing]))
        assert server.broken() == [f"app:v1 lacks {OTHER}"]

    def test_mounts_may_be_refused(self) -> None:
        server, client = model()
        server.push_image("app", "v1", 1)
        digest = client.manifest("app", "v1").layers()[0].digest
        server.mount_refused = True
        assert not client.mount_blob("twin", digest, "app")
        assert server.uploads == {}

    def test_uploads_may_be_lost(self) -> None:
        server, client = model()
        upload = client.begin_upload("app")
        server.loses_uploads = True
        assert code_of(lambda: upload.write([BLOB])) == "UPLOAD_LOST"
        assert code_of(lambda: client.begin_upload("app").put(DIGEST, BLOB, len(BLOB))) == "UPLOAD_LOST"
        assert server.received == []

    def test_tags_may_be_stale(self) -> None:
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

    def test_a_manifest_is_retried_until_its_blobs_settle(self) -> None:
        server, client = model()
        server.settling = 0.3
        system = System("model", client, server)
        image = system.put_image("v1")
        assert server.tags() == {(system.app, "v1"): image.digest}
        assert client.network.calls.faults.points["PUT manifest"] > 1
        server.settling = 60
        assert code_of(lambda: system.put_image("v2", b"another")) == "REFUSED"

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
