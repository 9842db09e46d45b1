"""Pushes of archives in all formats to a registry: the pushed image equals the saved one."""

from __future__ import annotations

import gzip
import json
import random
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
import zstandard

from syncline.clients.registry.reference import digest_of
from syncline.errors import SynclineError
from syncline.kinds.artifacts import layers
from syncline.kinds.artifacts import transfer as module
from syncline.kinds.artifacts.layers import SEGMENT
from syncline.kinds.artifacts.read_archive import ImageProgress, WantedImage
from syncline.kinds.artifacts.upload import PIECE, LayerUploader
from syncline.kinds.kind import StepContext
from tests.standins import saved
from tests.standins.oci import Fault
from tests.unit.kinds.artifacts.conftest import REPOSITORY, Pushing

BASE = saved.layer({"etc/os-release": b"NAME=made up\n", "bin/sh": b"\x7fELF" * 300})
TOP = saved.layer({"app": b"the app"})
IMAGE = saved.Image([BASE, TOP])
LARGE = random.Random(7).randbytes(SEGMENT * 5 + 12345)


def layers_of(pushing: Pushing, manifest: dict[str, Any], repository: str = REPOSITORY) -> list[bytes]:
    return [gzip.decompress(pushing.blob(layer["digest"], repository)) for layer in manifest["layers"]]


ARCHIVES = {
    "1.10 to 24": saved.until_24(IMAGE),
    "25": saved.since_25(IMAGE),
    "25 with another image": saved.since_25(saved.Image([BASE], "other:v1"), IMAGE),
    "24 with another image": saved.until_24(saved.Image([BASE], "other:v1"), IMAGE),
    "24 by another path": saved.until_24(
        saved.Image([TOP], "app:v2"), saved.Image(IMAGE.layers, "registry.example:5000/team/app:v1")
    ),
    "the same layer twice": saved.until_24(saved.Image([BASE, TOP, BASE])),
}


@pytest.mark.parametrize("form", ["as it is", "gzip", "gzip in parts", "zstd"])
@pytest.mark.parametrize("age", ARCHIVES)
def test_config_and_layers_are_pushed_as_saved(pushing: Pushing, age: str, form: str) -> None:
    archive = ARCHIVES[age]
    half = len(archive) // 2
    packed = {
        "as it is": archive,
        "gzip": gzip.compress(archive),
        "gzip in parts": gzip.compress(archive[:half]) + gzip.compress(archive[half:]) + bytes(100),
        "zstd": zstandard.compress(archive),
    }[form]
    image = saved.Image([BASE, TOP, BASE]) if age == "the same layer twice" else IMAGE
    written = pushing.image(packed)
    manifest = json.loads(pushing.manifest().body)
    assert written.fingerprint == manifest["config"]["digest"] == f"sha256:{image.id}"
    assert pushing.blob(manifest["config"]["digest"]) == image.config
    assert layers_of(pushing, manifest) == list(image.layers)


def test_layers_have_the_same_digests_every_time(pushing: Pushing) -> None:
    image = saved.Image([saved.layer({"large": LARGE}), TOP])
    first = pushing.image(saved.since_25(image)).manifest
    again = Pushing(pushing.server)  # without facts of the first push
    assert again.image(saved.until_24(image), repository="other/one").manifest.body != first.body
    layers = [json.loads(m.body)["layers"] for m in (first, again.manifest(repository="other/one"))]
    assert [x["digest"] for x in layers[0]] == [x["digest"] for x in layers[1]]


def test_known_layer_costs_one_request(pushing: Pushing) -> None:
    pushing.image(saved.since_25(IMAGE))
    pushing.server.requests.clear()
    pushing.image(saved.since_25(IMAGE))
    asked = [(a.method, a.target.partition("/blobs/")[2]) for a in pushing.server.requests if "/blobs/" in a.target]
    layers = [layer["digest"] for layer in json.loads(pushing.manifest().body)["layers"]]
    assert sorted(asked) == sorted(("HEAD", digest) for digest in [*layers, f"sha256:{IMAGE.id}"])


def test_layer_of_another_repository_is_mounted(pushing: Pushing) -> None:
    pushing.image(saved.since_25(IMAGE))
    pushing.server.requests.clear()
    pushing.image(saved.since_25(IMAGE), repository="group/project/arm/app")
    sent = [a for a in pushing.server.requests if a.method in ("PATCH", "PUT") and "/blobs/" in a.target]
    assert len(sent) == 1, "only the config"


def test_removed_layer_is_sent_again(pushing: Pushing) -> None:
    written = pushing.image(saved.since_25(IMAGE))
    layer = json.loads(written.manifest.body)["layers"][0]["digest"]
    del pushing.server.store.repositories[REPOSITORY].blobs[layer]
    pushing.image(saved.since_25(IMAGE))
    assert layers_of(pushing, json.loads(pushing.manifest().body)) == [BASE, TOP]


def test_layers_of_an_older_archive_are_not_compressed_again(pushing: Pushing) -> None:
    """Its layers have no names by content; they are recognized by the name and size of their members."""
    pushing.image(saved.until_24(IMAGE))
    pushing.server.requests.clear()
    pushing.image(saved.until_24(IMAGE))
    assert not [a for a in pushing.server.requests if a.method in ("PATCH", "POST")]


def test_changed_content_under_a_known_name_is_detected(pushing: Pushing) -> None:
    """Names and sizes are the same, but the bytes differ: the guess is checked."""
    pushing.image(saved.until_24(IMAGE))
    other = saved.Image([BASE, saved.layer({"app": b"an app!"})])
    assert len(other.layers[1]) == len(TOP)
    written = pushing.image(saved.until_24(other))
    assert layers_of(pushing, json.loads(written.manifest.body)) == list(other.layers)


@pytest.mark.parametrize("age", ["1.10 to 24", "25", "containerd"])
def test_damaged_layer_is_detected_though_the_registry_has_it(pushing: Pushing, age: str) -> None:
    write = {"1.10 to 24": saved.until_24, "25": saved.since_25, "containerd": lambda image: saved.containerd([image])}
    archive = write[age](IMAGE)
    pushing.image(archive)
    stored = gzip.compress(BASE, 6, mtime=0) if age == "containerd" else BASE
    at = archive.index(stored) + len(stored) // 2
    damaged = archive[:at] + bytes([archive[at] ^ 1]) + archive[at + 1 :]
    pushing.server.requests.clear()
    with pytest.raises(SynclineError) as error:
        pushing.attempt(damaged)
    assert error.value.code.name == "ARCHIVE_INVALID"
    assert not pushing.server.asked("PUT", "/manifests/")
    pushing.server.requests.clear()
    pushing.image(archive)
    sent = pushing.server.asked("PATCH") + pushing.server.asked("POST")
    assert not sent or age == "1.10 to 24", "the good layer is still known"


def test_time_ends_while_a_known_layer_is_read(pushing: Pushing) -> None:
    archive = saved.since_25(IMAGE)
    pushing.image(archive)
    for calls in range(1, 200):
        clock_reads = iter([1.0] * calls)
        pushing.left = partial(next, clock_reads, -1.0)
        progress = ImageProgress()
        written = pushing.attempt(archive, progress=progress, chunk=512)
        if written is not None:
            break
        pushing.left = lambda: 60.0
        rest = pushing.attempt(archive, progress=progress)
        assert rest is not None
        assert rest.fingerprint == f"sha256:{IMAGE.id}"
    assert written is not None
    assert calls > 3


def test_two_pushes_that_wait_for_each_other_make_progress(pushing: Pushing, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each sends the layer that the other needs next; neither waits for the end of the other."""
    monkeypatch.setattr(layers, "_WORTH_CLAIMING", 0)
    monkeypatch.setattr(layers, "_LONGEST_WAIT", 2000.0)
    monkeypatch.setattr(layers, "_SLOWEST", 1)
    both = [saved.layer({name: name.encode() * 1000}) for name in ("one", "two")]
    waited: list[float] = []

    def nap(seconds: float) -> None:
        waited.append(seconds)
        time.sleep(seconds / 100)

    with ThreadPoolExecutor(2) as pool:
        orders = (saved.layout_of(saved.Image(both), reverse) for reverse in (False, True))
        running = [pool.submit(pushing.attempt, archive, naps=nap) for archive in orders]
        assert all(each.result() is not None for each in running)
    assert sum(waited) < 2000, "no push waited as long as for a dead function"
    assert len(pushing.server.asked("PUT", "/blobs/")) <= 4, "each layer once, and the config"


def test_nested_archive(pushing: Pushing) -> None:
    inner = gzip.compress(saved.since_25(IMAGE))
    outer = saved.tar([("readme.txt", b"hello"), ("out/other-v1.tar.gz", b"no archive"), ("out/app-v1.tar.gz", inner)])
    written = pushing.image(outer, WantedImage("app", "v1", lambda name: name.endswith("app-v1.tar.gz")))
    assert written.fingerprint == f"sha256:{IMAGE.id}"


class TestSeveralPlatforms:
    BOTH = (IMAGE, saved.Image([saved.layer({"app": b"for arm"})], architecture="arm64"))

    def test_index_is_pushed_unchanged(self, pushing: Pushing) -> None:
        written = pushing.image(saved.containerd(self.BOTH))
        assert written.fingerprint == written.manifest.digest == pushing.manifest().digest
        for child in pushing.manifest().children():
            manifest = pushing.manifest(child.digest)
            assert manifest.digest == child.digest
            for blob in manifest.blobs():
                assert digest_of(pushing.blob(blob.digest)) == blob.digest

    def test_index_with_one_saved_image(self, pushing: Pushing) -> None:
        written = pushing.image(saved.containerd(self.BOTH, absent=["arm64"]))
        assert written.fingerprint == f"sha256:{IMAGE.id}"

    def test_index_with_two_of_three_saved_images(self, pushing: Pushing) -> None:
        images = (*self.BOTH, saved.Image([TOP], architecture="riscv64"))
        written = pushing.image(saved.containerd(images, absent=["riscv64"]))
        assert written.manifest.is_index
        assert len(written.manifest.children()) == 4

    def test_content_of_compressed_layers_is_checked(self, pushing: Pushing) -> None:
        lying = saved.Image([TOP])
        archive = saved.containerd([lying]).replace(saved.sha(TOP).encode(), saved.sha(BASE).encode())
        with pytest.raises(SynclineError) as error:
            pushing.attempt(archive)
        assert error.value.code.name == "ARCHIVE_INVALID"


def test_before_1_10(pushing: Pushing) -> None:
    written = pushing.image(saved.before_1_10(IMAGE))
    config = json.loads(pushing.blob(written.fingerprint))
    assert config["rootfs"] == {"type": "layers", "diff_ids": IMAGE.diff_ids}
    assert [entry["created_by"] for entry in config["history"]] == [
        f"/bin/sh -c #(nop) ADD <layer {n}> & /" for n in (0, 1)
    ]
    assert layers_of(pushing, json.loads(pushing.manifest().body)) == [BASE, TOP]


def test_freed_memory_is_returned_to_the_system(pushing: Pushing, monkeypatch: pytest.MonkeyPatch) -> None:
    trimmed: list[None] = []
    monkeypatch.setattr(module, "TRIMMED_AFTER", 2)
    monkeypatch.setattr(module, "trim", lambda: trimmed.append(None))
    archive = saved.since_25(IMAGE)
    pushing.attempt(archive, chunk=len(archive) // 5 + 1)
    assert len(trimmed) == 3, "before every second of five chunks"


class TestInterruptions:
    IMAGE = saved.Image([saved.layer({"large": LARGE, "more": LARGE[::-1]}), TOP])

    @pytest.mark.parametrize("packed", [False, True])
    def test_time_runs_out_at_any_point(self, pushing: Pushing, packed: bool) -> None:
        """Sent parts are read again but not sent, every attempt makes progress, and the image is the same."""
        other = saved.Image([TOP], architecture="arm64")
        archive = saved.containerd([self.IMAGE, other], absent=["arm64"]) if packed else saved.until_24(self.IMAGE)
        progress, rounds = ImageProgress(), 0
        while True:
            rounds += 1
            clock_reads = iter([1.0] * (4 + rounds))
            pushing.left = partial(next, clock_reads, -1.0)
            stored = json.loads(json.dumps(progress.to_json()))
            progress = ImageProgress.of(stored)
            written = pushing.attempt(archive, progress=progress)
            if written is not None:
                break
            assert rounds < 60
        assert rounds > 3
        assert written.fingerprint == f"sha256:{self.IMAGE.id}"
        layers = json.loads(written.manifest.body)["layers"]
        pushing.left = lambda: 60.0
        expected = Pushing(pushing.server).image(archive, repository="other/one")
        assert layers == json.loads(expected.manifest.body)["layers"]
        assert layers_of(pushing, json.loads(written.manifest.body)) == list(self.IMAGE.layers)
        began = [a for a in pushing.server.requests if a.method == "POST" and REPOSITORY in a.target]
        assert len(began) <= 4, "an upload is resumed, not begun again"
        sent = sum(len(a.body) for a in pushing.server.requests if a.method == "PATCH" and REPOSITORY in a.target)
        assert sent <= sum(layer["size"] for layer in layers), "no piece is sent twice"

    @pytest.mark.parametrize("forgets", [False, True])
    def test_broken_connection(self, pushing: Pushing, forgets: bool) -> None:
        pushing.server.forgets_broken = forgets
        pushing.server.fault("PATCH", "/uploads/", Fault(take=PIECE // 3), first=2)
        archive = saved.since_25(self.IMAGE)
        progress = ImageProgress()
        if forgets:
            with pytest.raises(SynclineError) as error:
                pushing.attempt(archive, progress=progress)
            assert error.value.code.name == "UPLOAD_LOST"
            assert error.value.retried
        written = pushing.attempt(archive, progress=progress)
        assert written is not None
        assert written.fingerprint == f"sha256:{self.IMAGE.id}"


def test_asking_for_an_upload_does_not_end_it(pushing: Pushing) -> None:
    """A checkpoint stored elsewhere may still need the upload, so only a new start may cancel it."""
    upload = pushing.registry.begin_upload(REPOSITORY)
    stored = {"upload": upload.state(), "size": 5}
    with LayerUploader(pushing.registry, REPOSITORY, StepContext(lambda: 60.0)) as uploader:
        assert not uploader.holds(stored)
        assert pushing.server.asked("DELETE") == []
        assert uploader.holds({**stored, "size": 0})
        assert uploader.resumed(stored) is None
        assert len(pushing.server.asked("DELETE")) == 1
